"""Reading: from a guest's range to runs that one call can read."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final, Literal

from manor.backends.block.api import BlockError, Buffers, Extent
from manor.backends.block.buffers import Cursor, zero_fill
from manor.backends.block.qcow2 import layout
from manor.backends.block.qcow2.compression import decompress
from manor.backends.block.qcow2.core import Core
from manor.backends.block.qcow2.layout import COMPRESSED, COPIED, OFFSET_MASK, ZERO
from manor.backends.block.qcow2.tables import Table

DATA: Final = "data"
ZEROES: Final = "zero"
HOLE: Final = "hole"
PACKED: Final = "packed"
Kind = Literal["data", "zero", "hole", "packed"]

_PLAIN_CACHE: Final = 4 << 20
"""Bytes of decompressed clusters kept: a guest reads a cluster piece by piece."""


class Reader:
    """Looks up and reads. Callers are inside the gate, so that what a table said stays true until they leave."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._geometry = core.geometry
        self._misaligned = OFFSET_MASK & core.geometry.cluster_mask
        self._plain: OrderedDict[int, bytes] = OrderedDict()
        self._max_plain = max(1, _PLAIN_CACHE // core.geometry.cluster_size)

    def next_run(self, offset: int, size: int) -> tuple[Kind, int, int]:
        """What is at `offset`: (kind, where, bytes) of the longest run that one L2 table shows, at most `size` bytes.

        where: for "data" the offset in the data file, for "packed" the L2 entry of the one cluster. "hole" is allocated
        nowhere in this image. Raises BlockError for an entry that cannot be right.
        """
        core = self._core
        index = offset >> self._geometry.l2_shift
        size = min(size, ((index + 1) << self._geometry.l2_shift) - offset)
        table = core.tables.cached.get(index)
        if table is None:
            with core.lock:
                table = core.tables.load(index)
        if table is None:
            return HOLE, 0, size
        return self.run_in(table, offset, size)

    def run_in(self, table: Table, offset: int, size: int) -> tuple[Kind, int, int]:
        """The same in `table`, which maps the whole range."""
        if self._geometry.is_extended:
            return self._extended_run(table, offset, size)
        bits = self._geometry.cluster_bits
        words = table.words
        position = (offset >> bits) & self._geometry.l2_mask
        inside = offset & self._geometry.cluster_mask
        last = (offset + size - 1 >> bits) & self._geometry.l2_mask
        entry = words[position]
        kind, host = self._standard(entry, offset)
        if kind == PACKED:
            return kind, entry, min(size, self._geometry.cluster_size - inside)
        stop = position + 1
        if kind == DATA:
            step = self._geometry.cluster_size
            expected = entry + step
            while stop <= last and words[stop] == expected:
                expected += step
                stop += 1
        else:
            while stop <= last and words[stop] == entry:
                stop += 1
        return kind, host + inside, min(size, ((stop - position) << bits) - inside)

    def _standard(self, entry: int, offset: int) -> tuple[Kind, int]:
        if entry & COMPRESSED:
            return PACKED, 0
        host = entry & OFFSET_MASK
        if host & self._misaligned:
            raise self.malformed(entry, offset, "its cluster is not aligned")
        if entry & ZERO:
            if self._core.header.version < 3:
                raise self.malformed(entry, offset, "version 2 has no zero clusters")
            return ZEROES, 0
        if host or (self._core.has_data_file and entry & COPIED):
            return DATA, host
        return HOLE, 0

    def _extended_run(self, table: Table, offset: int, size: int) -> tuple[Kind, int, int]:
        kind, host, count = self._subclusters(table, offset)
        while count < size and kind != PACKED:
            next_kind, next_host, next_count = self._subclusters(table, offset + count)
            if next_kind != kind or (kind == DATA and next_host != host + count):
                break
            count += next_count
        return kind, host, min(count, size)

    def _subclusters(self, table: Table, offset: int) -> tuple[Kind, int, int]:
        """The run of like subclusters at `offset` inside its cluster."""
        geometry = self._geometry
        position = ((offset >> geometry.cluster_bits) & geometry.l2_mask) * 2
        entry, bitmap = table.words[position], table.words[position + 1]
        inside = offset & geometry.cluster_mask
        if entry & COMPRESSED:
            return PACKED, entry, geometry.cluster_size - inside
        host = entry & OFFSET_MASK
        if host & self._misaligned or entry & ZERO:
            raise self.malformed(entry, offset, "it is not aligned")
        if bitmap & (bitmap >> 32) & layout.ALL_ALLOCATED:
            raise self.malformed(entry, offset, f"its bitmap {bitmap:#018x} has subclusters both allocated and zero")
        first = inside >> geometry.subcluster_bits
        allocated = (bitmap & layout.ALL_ALLOCATED) >> first
        zero = bitmap >> (32 + first)
        if allocated & 1:
            if not host and not (self._core.has_data_file and entry & COPIED):
                raise self.malformed(entry, offset, "it has subclusters but no cluster")
            kind: Kind = DATA
            ones = allocated
        elif zero & 1:
            kind, ones = ZEROES, zero
        else:
            kind, ones = HOLE, ~(allocated | zero) & (layout.ALL_ALLOCATED >> first)
        count = (~ones & (ones + 1)).bit_length() - 1
        return kind, host + inside, ((first + count) << geometry.subcluster_bits) - inside

    def malformed(self, entry: int, offset: int, what: str) -> BlockError:
        return BlockError(
            f"{self._core.file.name}: the L2 entry {entry:#018x} of the guest's offset {offset:#x} is wrong: {what};"
            " check the image"
        )

    # Reading

    def read(self, offset: int, buffers: Buffers, size: int) -> None:
        """Fill `buffers` with the guest's bytes at `offset`, which may reach past the disk's end inside its last
        cluster."""
        cursor = Cursor(buffers)
        while size:
            kind, where, count = self.next_run(offset, size)
            pieces = cursor.take(count)
            if kind == DATA:
                self._core.data.read(where, pieces)
            elif kind == ZEROES:
                zero_fill(pieces)
            elif kind == HOLE:
                self._read_backing(offset, pieces, count)
            else:
                plain = memoryview(self._plain_cluster(where))
                start = offset & self._geometry.cluster_mask
                for piece in pieces:
                    piece[:] = plain[start : start + piece.nbytes]
                    start += piece.nbytes
            offset += count
            size -= count

    def read_nowait(self, offset: int, buffers: Buffers, size: int) -> bool:
        """The same if no table and no byte has to be waited for."""
        cursor = Cursor(buffers)
        cached = self._core.tables.cached
        backing = self._core.backing
        while size:
            index = offset >> self._geometry.l2_shift
            count = min(size, ((index + 1) << self._geometry.l2_shift) - offset)
            table = cached.get(index)
            if table is None:
                if self._core.tables.l1[index] & OFFSET_MASK:
                    return False
                kind: Kind = HOLE
                where = 0
            else:
                try:
                    kind, where, count = self.run_in(table, offset, count)
                except BlockError:
                    return False  # reported to the caller when it reads again
            pieces = cursor.take(count)
            if kind == DATA:
                if not self._core.data.read_nowait(where, pieces):
                    return False
            elif kind == ZEROES or (kind == HOLE and (backing is None or offset >= backing.size)):
                zero_fill(pieces)
            elif (
                kind == PACKED
                or backing is None
                or offset + count > backing.size
                or not backing.read_nowait(offset, pieces)
            ):
                return False
            offset += count
            size -= count
        return True

    def _read_backing(self, offset: int, pieces: Buffers, size: int) -> None:
        backing = self._core.backing
        inside = max(0, min(size, backing.size - offset)) if backing is not None else 0
        if backing is not None and inside:
            if inside == size:
                backing.read(offset, pieces)
                return
            cursor = Cursor(pieces)
            backing.read(offset, cursor.take(inside))
            pieces = cursor.take(size - inside)
        zero_fill(pieces)

    def _plain_cluster(self, entry: int) -> bytes:
        """The contents of a compressed cluster."""
        key = entry & ~COPIED
        cached = self._plain.get(key)
        if cached is not None:
            return cached
        offset, size = self._geometry.compressed_range(entry)
        data = bytearray(size)
        self._core.file.read(offset, [memoryview(data)])
        header = self._core.header
        plain = decompress(data, self._geometry.cluster_size, header.compression_type, self._core.file.name, offset)
        with self._core.lock:
            self._plain[key] = plain
            while len(self._plain) > self._max_plain:
                self._plain.popitem(last=False)
        return plain

    def forget_plain(self) -> None:
        """Host clusters were freed, and compressed ones may take their place. Lock held."""
        self._plain.clear()

    def is_blank(self, offset: int, size: int) -> bool:
        """Whether the range is known to read as zeros without reading it: marked, or allocated nowhere and not
        backed."""
        while size:
            kind, _, count = self.next_run(offset, size)
            if kind in (DATA, PACKED) or (kind == HOLE and self._core.is_backed(offset)):
                return False
            offset += count
            size -= count
        return True

    def extents(self, offset: int, size: int) -> Iterator[Extent]:
        """As `BlockBackend.extents`. Inside the gate only while it looks, not while its caller thinks."""
        core = self._core
        end = offset + size
        while offset < end:
            with core.gate.operation():
                kind, where, count = self.next_run(offset, end - offset)
            if kind == DATA:
                # Allocated clusters of which nothing was written, as preallocation makes them, are holes of the file.
                for start, size, is_data in core.data.extents(where, count):
                    yield Extent(offset + start - where, size, "data" if is_data else "zero", 0, start)
            elif kind == PACKED:
                yield Extent(offset, count, "data")
            elif kind == ZEROES:
                yield Extent(offset, count, "zero")
            else:
                yield from self._backing_extents(offset, count)
            offset += count

    def _backing_extents(self, offset: int, size: int) -> Iterator[Extent]:
        backing = self._core.backing
        inside = max(0, min(size, backing.size - offset)) if backing is not None else 0
        if backing is not None and inside:
            for extent in backing.extents(offset, inside):
                depth = 0 if extent.kind == "hole" else extent.depth + 1
                yield Extent(extent.offset, extent.size, extent.kind, depth, extent.file_offset)
        if size > inside:
            yield Extent(offset + inside, size - inside, "hole")
