"""Reference counts of host clusters, and the allocator that reads them. Source: qcow2 specification, "Host cluster
management".

All methods are called with the image's lock held. Counts change in memory only; `capture` hands out what has to be
written, in the two steps between which a crash does no harm: first blocks, then the table that points to them. What
is decremented here must no longer be referred to by anything on the medium (`commit.py` sees to that).
"""

from __future__ import annotations

import sys
from array import array
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from manor.backends.block.api import BlockError
from manor.backends.block.file import File
from manor.backends.block.qcow2.layout import MAX_REFCOUNT_TABLE_SIZE, REFCOUNT_OFFSET_MASK, Geometry
from manor.base.errors import ProtocolError

CHUNK: Final = 4096
"""Bytes written for one changed entry: a block of most media; whole tables where clusters are smaller."""

_SWAP: Final = sys.byteorder == "little"
_TYPECODES: Final = {16: "H", 32: "I", 64: "Q"}


def decode_words(data: bytes | bytearray | memoryview) -> array[int]:
    """Big-endian 64-bit words as integers."""
    words = array("Q")
    words.frombytes(data)
    if _SWAP:
        words.byteswap()
    return words


def encode_words(words: array[int]) -> bytes:
    """The reverse; `words` is left alone."""
    copy = words[:]
    if _SWAP:
        copy.byteswap()
    return copy.tobytes()


class Counts:
    """One refcount block in memory: an entry an item, whatever its width in the file.

    dirty: numbers of the chunks that differ from the file.
    """

    __slots__ = ("bits", "chunk", "counts", "dirty", "offset", "used", "writing")

    def __init__(self, offset: int, counts: array[int], bits: int, chunk: int) -> None:
        self.offset = offset
        self.counts = counts
        self.bits = bits
        self.chunk = chunk
        """Entries in a chunk."""
        self.dirty: set[int] = set()
        self.used = True
        self.writing = False
        """Its bytes are on their way to the file, which still has old ones: it must stay in memory."""

    def pieces(self, chunks: Iterable[int]) -> list[tuple[int, bytes]]:
        """(offset in the file, bytes) of the chunks."""
        found = []
        for number in sorted(chunks):
            start = number * self.chunk
            data = encode_counts(self.counts[start : start + self.chunk], self.bits)
            found.append((self.offset + start * self.bits // 8, data))
        return found


def encode_counts(counts: array[int], bits: int) -> bytes:
    """Entries as they are in a refcount block; sub-byte ones fill each byte from its least significant bit."""
    if bits == 8:
        return counts.tobytes()
    if bits > 8:
        copy = counts[:]
        if _SWAP:
            copy.byteswap()
        return copy.tobytes()
    step = 8 // bits
    packed = bytearray(len(counts) // step)
    for position in range(step):
        for index, count in enumerate(counts[position::step]):
            if count:
                packed[index] |= count << (position * bits)
    return bytes(packed)


def decode_counts(data: bytes | bytearray, bits: int) -> array[int]:
    """The reverse of `encode_counts`."""
    counts = array(_TYPECODES.get(bits, "B"))
    if bits >= 8:
        counts.frombytes(data)
        if bits > 8 and _SWAP:
            counts.byteswap()
        return counts
    step = 8 // bits
    ones = (1 << bits) - 1
    spread = [bytes((value >> (position * bits)) & ones for position in range(step)) for value in range(256)]
    counts.frombytes(b"".join(map(spread.__getitem__, data)))
    return counts


class Refcounts:
    """The refcount table, and a cache of its blocks.

    metadata: host clusters that hold the image's own tables; the allocator refuses to hand one out, which can only
    happen if the counts in the file are wrong. max_blocks: cached ones; more while they wait to be written.
    """

    def __init__(
        self, file: File, geometry: Geometry, offset: int, table: array[int], metadata: set[int], max_blocks: int
    ) -> None:
        self._file = file
        self._geometry = geometry
        self.offset = offset
        self.table = table
        self.metadata = metadata
        self._max_blocks = max(4, max_blocks)
        self.blocks: OrderedDict[int, Counts] = OrderedDict()
        self._changed: dict[int, Counts] = {}
        """Blocks that differ from the file, by their offsets."""
        self._dirty_entries: set[int] = set()
        self.is_moved = False
        """The table was moved to make room; the header has to say so."""
        self.hint = 0
        """No cluster below is free."""
        self._chunk = min(CHUNK, geometry.cluster_size) * 8 // geometry.refcount_bits
        self.max_count = (1 << geometry.refcount_bits) - 1
        self.retired: list[int] = []
        """Clusters of a table that was moved: used until the header says where the new one is."""

    # Blocks

    def block(self, number: int) -> Counts | None:
        """The block of table entry `number`; None if there is none, so that it counts zeros. Raises BlockError."""
        cached = self.blocks.get(number)
        if cached is not None:
            cached.used = True
            return cached
        if number >= len(self.table) or not self.table[number]:
            return None
        entry = self.table[number]
        offset = entry & REFCOUNT_OFFSET_MASK
        if offset & self._geometry.cluster_mask or offset >= self._file.size():
            raise BlockError(
                f"{self._file.name}: entry {number} of the refcount table, {entry:#x}, is not a cluster of the file;"
                " check the image"
            )
        data = bytearray(self._geometry.cluster_size)
        self._file.read(offset, [memoryview(data)])
        self._evict()
        counts = decode_counts(data, self._geometry.refcount_bits)
        block = Counts(offset, counts, self._geometry.refcount_bits, self._chunk)
        self.blocks[number] = block
        return block

    def _evict(self, steps: int = 64) -> None:
        """Make room for one more: of the oldest, one that is clean and was not used since it was passed over."""
        while len(self.blocks) >= self._max_blocks and steps:
            steps -= 1
            number, block = next(iter(self.blocks.items()))
            if block.dirty or block.writing or block.used:
                block.used = False
                self.blocks.move_to_end(number)
            else:
                del self.blocks[number]

    @property
    def is_full(self) -> bool:
        """Whether more blocks wait to be written than should be in memory."""
        return len(self.blocks) > self._max_blocks

    @property
    def is_dirty(self) -> bool:
        return bool(self._dirty_entries or self._changed or self.is_moved)

    # Counts

    def get(self, cluster: int) -> int:
        """The count of host cluster `cluster`."""
        number, index = divmod(cluster, self._geometry.refcount_entries)
        block = self.block(number)
        return block.counts[index] if block is not None else 0

    def add(self, cluster: int, delta: int) -> int:
        """Change one count; returns the new one. Raises BlockError if it would not fit."""
        number, index = divmod(cluster, self._geometry.refcount_entries)
        block = self._block_to_change(number)
        count = block.counts[index] + delta
        if count < 0:
            raise BlockError(
                f"{self._file.name}: the cluster at {cluster << self._geometry.cluster_bits:#x} is used"
                " but not counted;"
                " check and repair the image"
            )
        if count > self.max_count:
            raise BlockError(
                f"{self._file.name}: the cluster at {cluster << self._geometry.cluster_bits:#x} would be"
                f" used {count} times;"
                f" reference counts of {self._geometry.refcount_bits} bits end at {self.max_count}",
                "unsupported",
            )
        block.counts[index] = count
        self._touch(block, index)
        if count == 0 and cluster < self.hint:
            self.hint = cluster
        return count

    def _block_to_change(self, number: int) -> Counts:
        block = self.block(number)
        return block if block is not None else self._new_block(number)

    def _new_block(self, number: int) -> Counts:
        """Make the block of entry `number`, in the first cluster that it counts itself: that is free, since nothing
        there is counted, and no other block need change."""
        if number >= len(self.table):
            self._grow_table(number + 1)
        existing = self.blocks.get(number)
        if existing is not None:
            return existing
        first = number * self._geometry.refcount_entries
        if first in self.metadata:
            raise self._lie(first)
        return self._place_block(number, first)

    def _place_block(self, number: int, cluster: int) -> Counts:
        """Put an empty block into `cluster`, which it counts if it is of its area."""
        self._evict()
        entries = self._geometry.refcount_entries
        counts = decode_counts(bytes(self._geometry.cluster_size), self._geometry.refcount_bits)
        block = Counts(cluster << self._geometry.cluster_bits, counts, self._geometry.refcount_bits, self._chunk)
        block.dirty.update(range(max(1, entries // self._chunk)))
        self._changed[block.offset] = block
        if number * entries <= cluster < (number + 1) * entries:
            block.counts[cluster - number * entries] = 1
        self.blocks[number] = block
        self.table[number] = block.offset
        self._dirty_entries.add(number)
        self.metadata.add(cluster)
        return block

    def _grow_table(self, needed: int) -> None:
        """Move the table to where nothing is counted yet, half as large again or more. Blocks first, then the
        table: all in the area that the new blocks count."""
        geometry = self._geometry
        per_cluster = geometry.cluster_size // 8
        entries = geometry.refcount_entries
        old_length = len(self.table)
        old_clusters = old_length // per_cluster
        start = old_length * entries
        clusters = max(old_clusters + old_clusters // 2 + 1, -(-needed // per_cluster))
        while True:
            blocks = 1
            while blocks * entries < blocks + clusters:
                blocks += 1
            if clusters * per_cluster >= max(needed, old_length + blocks):
                break
            clusters += 1
        if clusters * geometry.cluster_size > max(MAX_REFCOUNT_TABLE_SIZE, geometry.cluster_size):
            raise BlockError(f"{self._file.name}: the image is full: its refcount table cannot grow", "no-space")
        area = range(start, start + blocks + clusters)
        if not self.metadata.isdisjoint(area):
            raise self._lie(min(self.metadata.intersection(area)))
        self.retired += range(
            self.offset >> geometry.cluster_bits, (self.offset >> geometry.cluster_bits) + old_clusters
        )
        self.table.extend([0] * (clusters * per_cluster - old_length))
        for index in range(blocks):
            self._place_block(old_length + index, start + index)
        for cluster in area:
            number, position = divmod(cluster, entries)
            self.blocks[number].counts[position] = 1
        self.metadata.update(area)
        self.offset = (start + blocks) << geometry.cluster_bits
        self.is_moved = True

    # Allocation

    def allocate(self, wanted: int) -> tuple[int, int]:
        """Take the first free clusters: (first, count), 1 <= count <= wanted. Their counts are 1. Raises BlockError."""
        cluster, count = self._find(self.hint, wanted, at_least=1)
        self.hint = cluster + count
        return cluster, count

    def allocate_exactly(self, wanted: int) -> int:
        """`wanted` clusters in a row, for a table that must be in one piece."""
        cluster, _ = self._find(self.hint, wanted, at_least=wanted)
        if cluster == self.hint:
            self.hint += wanted
        return cluster

    def take(self, cluster: int) -> bool:
        """Take this very cluster if it is free."""
        number, index = divmod(cluster, self._geometry.refcount_entries)
        block = self._block_to_change(number)  # which may itself take the cluster
        if block.counts[index] or cluster in self.metadata:
            return False
        self._set_one(cluster)
        return True

    def _find(self, start: int, wanted: int, at_least: int) -> tuple[int, int]:
        entries = self._geometry.refcount_entries
        cluster = start
        while True:
            number, index = divmod(cluster, entries)
            block = self._block_to_change(number)
            try:
                found = block.counts.index(0, index)
            except ValueError:
                cluster = (number + 1) * entries
                continue
            first = number * entries + found
            count = self._run(first, wanted)
            if count < at_least:
                cluster = first + count
                continue
            if (first + count) << self._geometry.cluster_bits > 1 << 56:
                raise BlockError(f"{self._file.name}: the image is full: host offsets end at 64 PiB", "no-space")
            taken = range(first, first + count)
            if not self.metadata.isdisjoint(taken):
                raise self._lie(min(self.metadata.intersection(taken)))
            for taken_cluster in taken:
                self._set_one(taken_cluster)
            return first, count

    def _run(self, first: int, wanted: int) -> int:
        """Free clusters from `first` on, up to `wanted`; blocks that are needed for it are made on the way."""
        entries = self._geometry.refcount_entries
        count = 0
        while count < wanted:
            number, index = divmod(first + count, entries)
            block = self._block_to_change(number)
            stop = min(entries, index + wanted - count)
            counts = block.counts
            while index < stop and counts[index] == 0:
                index += 1
                count += 1
            if index < stop:
                break
        return count

    def _set_one(self, cluster: int) -> None:
        number, index = divmod(cluster, self._geometry.refcount_entries)
        block = self._block_to_change(number)
        block.counts[index] = 1
        self._touch(block, index)

    def _touch(self, block: Counts, index: int) -> None:
        block.dirty.add(index // self._chunk)
        self._changed[block.offset] = block

    def _lie(self, cluster: int) -> BlockError:
        return BlockError(
            f"{self._file.name}: the reference counts call the cluster at"
            f" {cluster << self._geometry.cluster_bits:#x} free, but it"
            " holds a table of the image; nothing was written; check and repair the image"
        )

    # What has to be written

    def capture(self) -> Captured:
        """All that differs from the file. It stays in memory until `done` or `undo`."""
        captured = Captured(self.is_moved, self._dirty_entries)
        for block in self._changed.values():
            captured.blocks.append((block, block.dirty))
            captured.first += block.pieces(block.dirty)
            block.writing = True
            block.dirty = set()
        self._changed = {}
        if self.is_moved:
            captured.first.append((self.offset, encode_words(self.table)))
        else:
            captured.entries = [
                (self.offset + 8 * number, self.table[number].to_bytes(8, "big"))
                for number in sorted(self._dirty_entries)
            ]
        self._dirty_entries = set()
        self.is_moved = False
        return captured

    def done(self, captured: Captured) -> None:
        """What was captured is in the file."""
        for block, _ in captured.blocks:
            block.writing = False
        self._evict(2 * len(self.blocks))

    def undo(self, captured: Captured) -> None:
        """Writing failed: all of it still differs."""
        for block, chunks in captured.blocks:
            block.writing = False
            block.dirty |= chunks
            self._changed[block.offset] = block
        self._dirty_entries |= captured.numbers
        self.is_moved |= captured.is_moved


@dataclass(slots=True)
class Captured:
    """Changes of reference counts, to be written in two steps.

    first: (offset, bytes) of blocks, and of a table that was moved. entries: of table entries, once the blocks are on
    the medium. is_moved: then the header's pointer takes the place of entries.
    """

    is_moved: bool
    numbers: set[int]
    first: list[tuple[int, bytes]] = field(default_factory=list)
    entries: list[tuple[int, bytes]] = field(default_factory=list)
    blocks: list[tuple[Counts, set[int]]] = field(default_factory=list)


def read_table(file: File, geometry: Geometry, offset: int, clusters: int) -> array[int]:
    """The refcount table. Its place was checked by `read_header`."""
    data = bytearray(clusters << geometry.cluster_bits)
    file.read(offset, [memoryview(data)])
    return decode_words(data)


def check_table(file: File, geometry: Geometry, offset: int, table: array[int]) -> set[int]:
    """Host clusters of the refcount blocks. Raises ProtocolError for an entry that cannot be one, or that is there
    twice."""
    found: set[int] = set()
    end = file.size()
    for number, entry in enumerate(table):
        if not entry:
            continue
        block = entry & REFCOUNT_OFFSET_MASK
        if entry != block or block & geometry.cluster_mask or block >= end:
            raise ProtocolError(
                f"{file.name}: entry {number} of the refcount table, {entry:#x}, is not a cluster of the"
                " file; repair it",
                offset + 8 * number,
            )
        cluster = block >> geometry.cluster_bits
        if cluster in found:
            raise ProtocolError(
                f"{file.name}: two entries of the refcount table are {entry:#x}; repair the image", offset + 8 * number
            )
        found.add(cluster)
    return found
