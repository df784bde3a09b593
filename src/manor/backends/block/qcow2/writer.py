"""Writing: allocation, copy-on-write, zeros, discards.

A request is cut where the way of writing changes. What is allocated already is written in place, without a lock. For
the rest, host clusters are taken under the lock and the guest clusters are noted in `allocating`; the data is written
without the lock; then, under the lock again, the table points to it. Who wants to change a cluster that is noted waits.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Final

from manor.backends.block.api import BlockError, Buffers
from manor.backends.block.buffers import Cursor, zeros
from manor.backends.block.qcow2 import layout
from manor.backends.block.qcow2.compression import compress
from manor.backends.block.qcow2.core import Core
from manor.backends.block.qcow2.layout import ALL_ALLOCATED, COMPRESSED, COPIED, OFFSET_MASK, ZERO
from manor.backends.block.qcow2.reader import DATA, Reader
from manor.backends.block.qcow2.tables import Table

_MAX_RUN: Final = 4096
"""Clusters allocated at once: bounds how long the lock is held."""


@dataclass(slots=True)
class Allocation:
    """New contents for guest clusters [cluster, cluster + count), at `host` in the data file.

    unit: bytes in which partly written ones are filled up from what was there: a cluster or a subcluster.
    is_new: the host clusters were just taken. is_blank: they read as zeros. fills_head, fills_tail: whether the first
    and last unit have contents of before that are to be copied.
    """

    cluster: int
    count: int
    host: int
    unit: int
    is_new: bool
    is_blank: bool
    fills_head: bool = True
    fills_tail: bool = True


class Writer:
    """Changes guest data. Callers are inside the gate."""

    def __init__(self, core: Core, reader: Reader) -> None:
        self._core = core
        self._reader = reader
        self._geometry = core.geometry
        self._protected: set[int] = set() if core.has_data_file else core.metadata

    def write(self, offset: int, buffers: Buffers, size: int) -> None:
        """Write `size` bytes."""
        cursor = Cursor(buffers)
        end = offset + size
        while offset < end:
            found = self._prepare(offset, end - offset)
            if isinstance(found, tuple):
                host, count = found
                self._core.data.write(host, cursor.take(count))
            else:
                count = min(end, (found.cluster + found.count) << self._geometry.cluster_bits) - offset
                self._write_new(found, offset, cursor.take(count), count)
            offset += count
        if self._core.wants_commit:
            self._core.commit()

    def _prepare(self, offset: int, size: int) -> tuple[int, int] | Allocation:
        """Where the next bytes go: (host offset, bytes) in place, or clusters to fill."""
        core = self._core
        cluster = offset >> self._geometry.cluster_bits
        index = offset >> self._geometry.l2_shift
        size = min(size, ((index + 1) << self._geometry.l2_shift) - offset)
        with core.lock:
            while cluster in core.allocating:
                core.changed.wait()
            table = core.tables.load_to_change(index)
            if self._geometry.is_extended:
                return self._prepare_extended(table, offset, size)
            entry = table.words[cluster & self._geometry.l2_mask]
            kind, host, count = self._reader.run_in(table, offset, size)
            if kind == DATA and (entry & COPIED or core.has_data_file):
                self._check_target(host, count)
                return host, count
            is_kept = bool(entry & COPIED and entry & OFFSET_MASK) and not entry & COMPRESSED
            if is_kept and not core.has_data_file:
                # A zero cluster that kept its place: zeros are filled in around the data.
                host = entry & OFFSET_MASK
                self._check_target(host, self._geometry.cluster_size)
                return self._note(Allocation(cluster, 1, host, self._geometry.cluster_size, False, False))
            wanted = self._fresh_clusters(table, offset, size)
            return self._note(self._allocate(cluster, wanted, self._geometry.cluster_size))

    def _fresh_clusters(self, table: Table, offset: int, size: int) -> int:
        """How many clusters from `offset` on need new host clusters; the first does."""
        geometry = self._geometry
        first = offset >> geometry.cluster_bits
        last = (offset + size - 1) >> geometry.cluster_bits
        cluster = first + 1
        allocating = self._core.allocating
        while cluster <= last and cluster - first < _MAX_RUN and cluster not in allocating:
            entry = table.words[(cluster & geometry.l2_mask) * geometry.words]
            if not entry & COMPRESSED and entry & COPIED:
                break
            cluster += 1
        return cluster - first

    def _allocate(self, cluster: int, wanted: int, unit: int) -> Allocation:
        """Take host clusters. Lock held."""
        core = self._core
        bits = self._geometry.cluster_bits
        if core.has_data_file:
            return Allocation(cluster, wanted, cluster << bits, unit, True, False)
        first, count = core.refcounts.allocate(wanted)
        is_blank = first << bits >= core.blank_from
        core.blank_from = max(core.blank_from, (first + count) << bits)
        return Allocation(cluster, count, first << bits, unit, True, is_blank)

    def _note(self, new: Allocation) -> Allocation:
        self._core.allocating.update(range(new.cluster, new.cluster + new.count))
        return new

    def _check_target(self, host: int, size: int) -> None:
        """Refuse to write guest data over the image's own tables: an entry says so only if the image is damaged."""
        bits = self._geometry.cluster_bits
        if not self._protected.isdisjoint(range(host >> bits, (host + size - 1 >> bits) + 1)):
            raise BlockError(
                f"{self._core.file.name}: an L2 entry puts guest data at {host:#x}, over the image's own"
                " tables; nothing"
                " was written; check and repair the image"
            )
        if host + size > self._core.blank_from + self._geometry.cluster_size and not self._core.has_data_file:
            raise BlockError(
                f"{self._core.file.name}: an L2 entry puts guest data at {host:#x}, past the end of the"
                " file; nothing was"
                " written; check and repair the image"
            )

    # Extended entries

    def _prepare_extended(self, table: Table, offset: int, size: int) -> tuple[int, int] | Allocation:
        core = self._core
        geometry = self._geometry
        cluster = offset >> geometry.cluster_bits
        position = (cluster & geometry.l2_mask) * 2
        entry, bitmap = table.words[position], table.words[position + 1]
        kind, host, count = self._reader.run_in(table, offset, size)
        has_host = bool(entry & OFFSET_MASK or (core.has_data_file and entry & COPIED)) and not entry & COMPRESSED
        is_own = bool(entry & COPIED) or core.has_data_file
        if kind == DATA and is_own:
            if count > (room := geometry.cluster_size - (offset & geometry.cluster_mask)):
                count = self._own_run(table, offset, count, room)
            self._check_target(host, count)
            return host, count
        if entry & COMPRESSED or (has_host and not is_own):
            return self._note(self._allocate(cluster, 1, geometry.cluster_size))
        subcluster = 1 << geometry.subcluster_bits
        if not has_host:
            wanted = self._fresh_extended(table, offset, size)
            return self._note(self._allocate(cluster, wanted, subcluster))
        host = entry & OFFSET_MASK
        self._check_target(host, geometry.cluster_size)
        new = Allocation(cluster, 1, host, subcluster, False, False)
        inside = offset & geometry.cluster_mask
        last = min(inside + size, geometry.cluster_size) - 1
        new.fills_head = not bitmap >> (inside >> geometry.subcluster_bits) & 1
        new.fills_tail = not bitmap >> (last >> geometry.subcluster_bits) & 1
        return self._note(new)

    def _own_run(self, table: Table, offset: int, count: int, room: int) -> int:
        """Bytes of a run of data that are in clusters of our own."""
        geometry = self._geometry
        cluster = (offset >> geometry.cluster_bits) + 1
        while room < count and table.words[(cluster & geometry.l2_mask) * 2] & COPIED:
            room += geometry.cluster_size
            cluster += 1
        return min(room, count)

    def _fresh_extended(self, table: Table, offset: int, size: int) -> int:
        geometry = self._geometry
        first = offset >> geometry.cluster_bits
        last = (offset + size - 1) >> geometry.cluster_bits
        cluster = first + 1
        while cluster <= last and cluster - first < _MAX_RUN and cluster not in self._core.allocating:
            if table.words[(cluster & geometry.l2_mask) * 2] & (OFFSET_MASK | COPIED | COMPRESSED):
                break
            cluster += 1
        return cluster - first

    # Filling new clusters

    def _write_new(self, new: Allocation, offset: int, pieces: Buffers, size: int) -> None:
        """Write the data with what surrounds it in its units, then let the table point to it."""
        start = offset - (offset & (new.unit - 1)) if new.fills_head else offset
        end = offset + size
        stop = (end + new.unit - 1) & -new.unit if new.fills_tail else end
        host = new.host + (start - (new.cluster << self._geometry.cluster_bits))
        try:
            head = self._surrounding(start, offset - start, new)
            tail = self._surrounding(end, stop - end, new)
            if head is None:
                host += offset - start
            self._core.data.write(host, [*(head or ()), *pieces, *(tail or ())] if head or tail else pieces)
        except BaseException:
            self._give_up(new)
            raise
        self._link(new, start, stop)

    def _surrounding(self, offset: int, size: int, new: Allocation) -> list[memoryview] | None:
        """What the guest has there before; None if nothing need be written because the new cluster reads so already."""
        if not size:
            return None
        if self._reader.is_blank(offset, size):
            return None if new.is_blank else zeros(size)
        data = memoryview(bytearray(size))
        self._reader.read(offset, [data], size)
        return [data]

    def _link(self, new: Allocation, start: int, stop: int) -> None:
        core = self._core
        geometry = self._geometry
        with core.lock:
            try:
                table = core.tables.load_to_change(new.cluster >> geometry.l2_bits)
                position = new.cluster & geometry.l2_mask
                if geometry.is_extended:
                    self._link_extended(table, position, new, start, stop)
                else:
                    for entry in table.words[position : position + new.count]:
                        if entry & (OFFSET_MASK | COMPRESSED) and new.is_new:
                            core.free_entry(entry)
                    first = new.host | COPIED
                    linked = range(first, first + (new.count << geometry.cluster_bits), geometry.cluster_size)
                    table.words[position : position + new.count] = array("Q", linked)
                core.tables.touch(table, position, new.count)
            finally:
                self._forget(new)

    def _link_extended(self, table: Table, position: int, new: Allocation, start: int, stop: int) -> None:
        geometry = self._geometry
        base = new.cluster << geometry.cluster_bits
        for index in range(new.count):
            place = (position + index) * 2
            if new.is_new:
                self._core.free_entry(table.words[place])
            table.words[place] = (new.host + (index << geometry.cluster_bits)) | COPIED
            first = max(start - base, 0) >> geometry.subcluster_bits
            last = (min(stop - base, geometry.cluster_size) - 1) >> geometry.subcluster_bits
            ones = ((2 << last) - 1) & ~((1 << first) - 1)
            table.words[place + 1] = (table.words[place + 1] | ones) & ~(ones << 32)
            base += geometry.cluster_size

    def _give_up(self, new: Allocation) -> None:
        """Writing failed: nothing points to the clusters, on the medium or in memory."""
        core = self._core
        with core.lock:
            if new.is_new and not core.has_data_file:
                first = new.host >> self._geometry.cluster_bits
                for cluster in range(first, first + new.count):
                    core.refcounts.add(cluster, -1)
            self._forget(new)

    def _forget(self, new: Allocation) -> None:
        self._core.allocating.difference_update(range(new.cluster, new.cluster + new.count))
        self._core.changed.notify_all()

    # Compressed clusters

    def write_compressed(self, offset: int, data: bytes | memoryview) -> None:
        """Write one whole guest cluster, compressed if that makes it smaller. Any thread; they compress side by
        side."""
        core = self._core
        geometry = self._geometry
        packed = compress(data, core.header.compression_type)
        if packed is None:
            self.write(offset, [memoryview(data)], geometry.cluster_size)
            return
        cluster = offset >> geometry.cluster_bits
        new = Allocation(cluster, 1, 0, geometry.cluster_size, True, False)
        with core.lock:
            while cluster in core.allocating:
                core.changed.wait()
            core.tables.load_to_change(offset >> geometry.l2_shift)
            host = self._place_packed(len(packed))
            self._note(new)
        sectors = ((host + len(packed) - 1) >> 9) - (host >> 9)
        entry = COMPRESSED | host | sectors << geometry.compressed_shift
        try:
            core.file.write(host, [memoryview(packed)])
        except BaseException:
            with core.lock:
                for touched in geometry.compressed_clusters(entry):
                    core.refcounts.add(touched, -1)
                self._forget(new)
            raise
        with core.lock:
            table = core.tables.load_to_change(offset >> geometry.l2_shift)
            position = (cluster & geometry.l2_mask) * geometry.words
            core.free_entry(table.words[position])
            table.words[position] = entry
            if geometry.is_extended:
                table.words[position + 1] = 0
            core.tables.touch(table, cluster & geometry.l2_mask, 1)
            self._reader.forget_plain()
            self._forget(new)
        if core.wants_commit:
            core.commit()

    def _place_packed(self, size: int) -> int:
        """A place for `size` bytes, less than a cluster, behind the last one if that cluster can be counted once more.
        Its clusters are counted. Lock held."""
        core = self._core
        geometry = self._geometry
        refcounts = core.refcounts
        at = core.append_at
        if at is not None:
            cluster = at >> geometry.cluster_bits
            room = geometry.cluster_size - (at & geometry.cluster_mask)
            can_share = refcounts.get(cluster) < refcounts.max_count
            if can_share and (size <= room or refcounts.take(cluster + 1)):
                refcounts.add(cluster, 1)
                if size > room:
                    core.blank_from = max(core.blank_from, (cluster + 2) << geometry.cluster_bits)
                return self._placed(at, size)
        cluster, _ = refcounts.allocate(1)
        core.blank_from = max(core.blank_from, (cluster + 1) << geometry.cluster_bits)
        return self._placed(cluster << geometry.cluster_bits, size)

    def _placed(self, at: int, size: int) -> int:
        if at + size - 1 > self._geometry.compressed_offset_mask:
            raise BlockError(f"{self._core.file.name}: compressed clusters cannot lie beyond {at:#x}", "no-space")
        end = at + size
        self._core.append_at = end if end & self._geometry.cluster_mask else None
        return at

    # Zeros and discards

    def zero(self, offset: int, size: int, *, may_unmap: bool, is_discard: bool) -> None:
        """Make whole clusters (or subclusters) read as zeros by the tables; write the rest as zeros.

        is_discard: the edges, and what version 2 cannot mark, are left as they are.
        """
        geometry = self._geometry
        unit = 1 << geometry.subcluster_bits
        end = offset + size
        if end == self._core.header.size and not is_discard:
            end = (end + unit - 1) & -unit  # nobody sees what is past the disk's end
        elif end == self._core.header.size:
            end = (end + geometry.cluster_mask) & ~geometry.cluster_mask
        first = (offset + unit - 1) & -unit
        last = end & -unit
        if first >= last:
            if not is_discard:
                self.write_zeros(offset, size)
            return
        if not is_discard:
            self.write_zeros(offset, first - offset)
            self.write_zeros(last, end - last)
        l1 = self._core.tables.l1
        while first < last:
            index = first >> geometry.l2_shift
            count = min(last - first, ((index + 1) << geometry.l2_shift) - first)
            if not l1[index] and (is_discard or not self._core.is_backed(first)):
                first += count
                continue
            self._zero_units(first, first + count, may_unmap, is_discard)
            first += count
        if self._core.wants_commit:
            self._core.commit()

    def write_zeros(self, offset: int, size: int) -> None:
        """Write zeros where something else may be."""
        while size > 0:
            count = min(size, 1 << 24)
            if not self._reader.is_blank(offset, count):
                self.write(offset, zeros(count), count)
            offset += count
            size -= count

    def _zero_units(self, start: int, stop: int, may_unmap: bool, is_discard: bool) -> None:
        """Whole units inside one L2 table."""
        core = self._core
        geometry = self._geometry
        index = start >> geometry.l2_shift
        while start < stop:
            cluster = start >> geometry.cluster_bits
            cluster_end = (cluster + 1) << geometry.cluster_bits
            is_whole = start == cluster << geometry.cluster_bits and stop >= cluster_end
            if not is_whole:
                self._zero_part(index, start, min(stop, cluster_end), is_discard)
                start = min(stop, cluster_end)
                continue
            with core.lock:
                if core.tables.load(index) is None and (is_discard or not core.is_backed(start)):
                    return  # nothing there, or what is below may go on showing
                clusters = min((stop - start) >> geometry.cluster_bits, _MAX_RUN)
                if not core.allocating.isdisjoint(range(cluster, cluster + clusters)):
                    clusters = 1
                    while cluster in core.allocating:
                        core.changed.wait()
                unmarked = self._zero_clusters(index, cluster, clusters, may_unmap, is_discard)
            if not is_discard:
                for number in unmarked:
                    self.write_zeros(number << geometry.cluster_bits, geometry.cluster_size)
            start += clusters << geometry.cluster_bits

    def _zero_part(self, index: int, start: int, stop: int, is_discard: bool) -> None:
        """Whole subclusters of one cluster."""
        core = self._core
        cluster = start >> self._geometry.cluster_bits
        with core.lock:
            while cluster in core.allocating:
                core.changed.wait()
            if core.tables.load(index) is None and (is_discard or not core.is_backed(start)):
                return
            is_marked = self._zero_subclusters(core.tables.load_to_change(index), start, stop)
        if not is_marked and not is_discard:
            self.write_zeros(start, stop - start)

    def _zero_clusters(self, index: int, cluster: int, count: int, may_unmap: bool, is_discard: bool) -> list[int]:
        """Change entries; returns the clusters that cannot be marked and have to be written. Lock held."""
        core = self._core
        geometry = self._geometry
        words = geometry.words
        table = core.tables.load_to_change(index)
        unmarked = []
        for number in range(cluster, cluster + count):
            position = number & geometry.l2_mask
            entry = table.words[position * words]
            if is_discard and not entry:
                continue
            if core.has_data_file and self._zero_in_data_file(number, entry, may_unmap):
                continue
            wanted, bitmap = self._zero_entry(number, entry, may_unmap)
            if wanted is None:
                unmarked.append(number)
                continue
            if entry == wanted and (words == 1 or table.words[position * 2 + 1] == bitmap):
                continue
            if (entry ^ wanted) & (OFFSET_MASK | COMPRESSED):
                core.free_entry(entry)
            table.words[position * words] = wanted
            if words == 2:
                table.words[position * 2 + 1] = bitmap
            core.tables.touch(table, position, 1)
        return unmarked

    def _zero_entry(self, cluster: int, entry: int, may_unmap: bool) -> tuple[int | None, int]:
        """(entry, bitmap) that reads as zeros; None for the entry if there is no such mark in version 2."""
        is_backed = self._core.is_backed(cluster << self._geometry.cluster_bits)
        keeps = not may_unmap and bool(entry & COPIED) and not entry & COMPRESSED and bool(entry & OFFSET_MASK)
        if self._core.header.version < 3:
            return (None if is_backed or keeps else 0), 0
        if self._geometry.is_extended:
            return (entry if keeps else 0), (layout.ALL_ZERO if is_backed or keeps else 0)
        if keeps:
            return entry | ZERO, 0
        return (ZERO if is_backed else 0), 0

    def _zero_in_data_file(self, cluster: int, entry: int, may_unmap: bool) -> bool:
        """Zeros in the data file itself, whose place for a cluster is fixed; True if the entry may stay as it is.

        Not later, after a commit, because the guest could write there again before.
        """
        core = self._core
        size = self._geometry.cluster_size
        offset = cluster << self._geometry.cluster_bits
        is_allocated = bool(entry & (COPIED | OFFSET_MASK))
        if core.header.autoclear & layout.DATA_FILE_RAW:
            end = min(offset + size, core.header.size)
            core.data.write_zeroes(offset, end - offset, may_unmap)
            return is_allocated and not entry & ZERO
        if is_allocated and may_unmap:
            core.data.punch(offset, size)
        return False

    def _zero_subclusters(self, table: Table, start: int, stop: int) -> bool:
        """Mark part of a cluster with extended entries; False for a compressed one, which has no parts. Lock held."""
        geometry = self._geometry
        position = (start >> geometry.cluster_bits) & geometry.l2_mask
        entry = table.words[position * 2]
        if entry & COMPRESSED:
            return False
        if self._core.has_data_file:
            self._core.data.write_zeroes(start, stop - start, True)
        first = (start & geometry.cluster_mask) >> geometry.subcluster_bits
        count = (stop - start) >> geometry.subcluster_bits
        ones = ((1 << count) - 1) << first
        bitmap = (table.words[position * 2 + 1] & ~ones) | (ones << 32)
        table.words[position * 2 + 1] = bitmap
        if not bitmap & ALL_ALLOCATED and entry & OFFSET_MASK:
            self._core.free_entry(entry)
            table.words[position * 2] = 0
        self._core.tables.touch(table, position, 1)
        return True
