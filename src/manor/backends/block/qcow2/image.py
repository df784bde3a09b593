"""An open qcow2 image as a `BlockBackend`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from threading import get_ident

from manor.backends.block.api import BlockError, Buffers, Extent
from manor.backends.block.buffers import total
from manor.backends.block.qcow2.core import Core
from manor.backends.block.qcow2.layout import COMPRESSED, COPIED, OFFSET_MASK, ZERO
from manor.backends.block.qcow2.reader import Reader
from manor.backends.block.qcow2.tables import Table
from manor.backends.block.qcow2.writer import Writer


class Qcow2Image:
    """One open image with all that backs it.

    The commonest request, one inside one allocated cluster whose L2 table is in memory, is answered here without a
    lock; everything else goes to `Reader` and `Writer`. The steps at the beginning and end of each method are those of
    `Gate.operation`, by hand because a context manager would cost as much as the look-up.
    """

    def __init__(self, core: Core) -> None:
        geometry = core.geometry
        self.core = core
        self._gate = core.gate
        self._inside = core.gate.inside
        self._cached = core.tables.cached
        self._data = core.data
        self.reader = Reader(core)
        self.writer = Writer(core, self.reader)
        self._cluster_bits = geometry.cluster_bits
        self._cluster_mask = geometry.cluster_mask
        self._cluster_size = geometry.cluster_size
        self._l2_shift = geometry.l2_shift
        self._l2_mask = geometry.l2_mask
        self._is_extended = geometry.is_extended
        self._subcluster_bits = geometry.subcluster_bits
        self._protected: set[int] = set() if core.has_data_file else core.metadata
        self._not_data = COMPRESSED | ZERO | (OFFSET_MASK & geometry.cluster_mask)
        self._not_plain = self._not_data | COPIED
        self._closing = threading.Lock()
        self._is_closed = False

    @property
    def size(self) -> int:
        return self.core.header.size

    @property
    def is_read_only(self) -> bool:
        return self.core.is_read_only

    @property
    def name(self) -> str:
        return self.core.file.name

    def _find_extended(self, table: Table, offset: int, size: int, mask: int, wanted: int) -> int:
        """Where the range lies in the data file, if it lies in subclusters of one cluster that are plainly data;
        else 0.

        mask, wanted: bits of the entry that are looked at, and what they must be.
        """
        inside = offset & self._cluster_mask
        position = ((offset >> self._cluster_bits) & self._l2_mask) * 2
        entry = table.words[position]
        bitmap = table.words[position + 1]
        ones = (2 << ((inside + size - 1) >> self._subcluster_bits)) - (1 << (inside >> self._subcluster_bits))
        host = entry & OFFSET_MASK
        if not host or entry & mask != wanted or bitmap & ones != ones or (bitmap >> 32) & ones:
            return 0
        return host + inside

    def read(self, offset: int, buffers: Buffers) -> None:
        size = total(buffers)
        gate = self._gate
        ident = get_ident()
        try:
            self._inside[ident] = gate.epoch
            if gate.owner is not None:
                gate.wait(ident)
            table = self._cached.get(offset >> self._l2_shift)
            inside = offset & self._cluster_mask
            if table is not None and inside + size <= self._cluster_size and size:
                table.used = True
                if self._is_extended:
                    host = self._find_extended(table, offset, size, self._not_data, 0)
                    if host:
                        self._data.read(host, buffers)
                        return
                else:
                    entry = table.words[(offset >> self._cluster_bits) & self._l2_mask]
                    host = entry & OFFSET_MASK
                    if host and not entry & self._not_data:
                        self._data.read(host + inside, buffers)
                        return
            self.reader.read(offset, buffers, size)
        finally:
            self._inside.pop(ident, None)
            if gate.owner is not None:
                gate.leave(ident)

    def read_nowait(self, offset: int, buffers: Buffers) -> bool:
        size = total(buffers)
        gate = self._gate
        ident = get_ident()
        try:
            self._inside[ident] = gate.epoch
            if gate.owner is not None:
                return False
            table = self._cached.get(offset >> self._l2_shift)
            inside = offset & self._cluster_mask
            if table is not None and inside + size <= self._cluster_size and size:
                table.used = True
                if self._is_extended:
                    host = self._find_extended(table, offset, size, self._not_data, 0)
                    if host:
                        return self._data.read_nowait(host, buffers)
                else:
                    entry = table.words[(offset >> self._cluster_bits) & self._l2_mask]
                    host = entry & OFFSET_MASK
                    if host and not entry & self._not_data:
                        return self._data.read_nowait(host + inside, buffers)
            return self.reader.read_nowait(offset, buffers, size)
        finally:
            self._inside.pop(ident, None)
            if gate.owner is not None:
                gate.leave(ident)

    def write(self, offset: int, buffers: Buffers) -> None:
        size = total(buffers)
        if self.core.is_read_only:
            self._refuse_read_only()
        gate = self._gate
        ident = get_ident()
        try:
            self._inside[ident] = gate.epoch
            if gate.owner is not None:
                gate.wait(ident)
            table = self._cached.get(offset >> self._l2_shift)
            inside = offset & self._cluster_mask
            if table is not None and inside + size <= self._cluster_size and size:
                table.used = True
                if self._is_extended:
                    host = self._find_extended(table, offset, size, self._not_plain, COPIED)
                else:
                    entry = table.words[(offset >> self._cluster_bits) & self._l2_mask]
                    host = entry & OFFSET_MASK
                    host = host + inside if host and entry & self._not_plain == COPIED else 0
                # A cluster past the end of the file is looked at more closely by the writer, as is one with a table.
                if host and host < self.core.blank_from and host >> self._cluster_bits not in self._protected:
                    self._data.write(host, buffers)
                    return
            self.writer.write(offset, buffers, size)
        finally:
            self._inside.pop(ident, None)
            if gate.owner is not None:
                gate.leave(ident)

    def write_zeroes(self, offset: int, size: int, may_unmap: bool) -> None:
        self._refuse_read_only()
        if size:
            with self._gate.operation():
                self.writer.zero(offset, size, may_unmap=may_unmap, is_discard=False)

    def discard(self, offset: int, size: int) -> None:
        self._refuse_read_only()
        if size:
            with self._gate.operation():
                self.writer.zero(offset, size, may_unmap=True, is_discard=True)

    def write_compressed(self, offset: int, data: bytes | memoryview) -> None:
        """Write one whole cluster compressed. For copies into new images; any thread."""
        self._refuse_read_only()
        with self._gate.operation():
            self.writer.write_compressed(offset, data)

    def flush(self) -> None:
        if self.core.is_read_only:
            return
        with self._gate.operation():
            self.core.flush()

    def resize(self, size: int) -> None:
        from manor.backends.block.qcow2.resize import resize

        self._refuse_read_only()
        resize(self, size)

    def extents(self, offset: int, size: int) -> Iterator[Extent]:
        return self.reader.extents(offset, size)

    def close(self) -> None:
        with self._closing:
            if self._is_closed:
                return
            self._is_closed = True
        with self._gate.alone():
            self.core.close()

    def _refuse_read_only(self) -> None:
        if self.core.is_read_only:
            raise BlockError(f"{self.name} is open for reading only", "read-only")
