"""What all parts of an open qcow2 image share: its files, tables, counts, locks, and the order in which changes
reach the medium.

Order of a commit, with a flush of the medium between the steps:

1. guest data (written when its request came), counts that grew, new tables that nothing on the medium points to yet;
2. if counts needed new blocks: the refcount table's entries, or the header's pointer to a moved table;
3. what makes it all visible: entries of L2 and L1 tables;
4. in memory only: counts of clusters that step 3 made unused go down, their space is given back. The next commit writes
   these counts.

A crash between steps leaves clusters that are counted but not used, which a check finds as leaks; never one that is
used but not counted, and never a table entry whose cluster was not written. A cluster is handed out again only
after step 4, once no request is left that could have found it in the tables before.

With lazy refcounts the counts are left out of step 1; the header's dirty bit says so from the first change on.

Locks, in this order: gate (alone), `commit_lock`, `lock`. Files are written and flushed with `lock` free.
"""

from __future__ import annotations

import threading
from array import array
from collections import deque
from threading import get_ident
from typing import Final

from manor.backends.block.api import BlockBackend, BlockError
from manor.backends.block.file import File
from manor.backends.block.qcow2 import layout
from manor.backends.block.qcow2.gate import Gate
from manor.backends.block.qcow2.header import Header
from manor.backends.block.qcow2.refcounts import Captured, Refcounts
from manor.backends.block.qcow2.tables import CapturedTables, Tables

CACHE_SIZE: Final = 32 << 20
"""Bytes of L2 tables in memory: with clusters of 64K they map 256 GiB. Refcount blocks have a quarter of it."""

_OVERHEAD: Final = 1024
"""Bytes that Python needs for a table beside its contents, which counts where clusters are small."""

_MAX_WAITING: Final = 4096
"""Freed clusters that wait for a commit before one is begun for their sake."""


class Core:
    """State of an open image. data: where guest data is; the same as `file` unless the image has a data file."""

    def __init__(
        self,
        file: File,
        data: File,
        backing: BlockBackend | None,
        header: Header,
        refcount_table: array[int],
        l1: array[int],
        metadata: set[int],
        *,
        is_read_only: bool,
        cache_size: int = CACHE_SIZE,
    ) -> None:
        self.file = file
        self.data = data
        self.backing = backing
        self.header = header
        self.geometry = header.geometry
        self.is_backing_unknown = backing is None and header.backing_file is not None
        """What backs the image is not open, or is about to be another: nothing in it may be taken for zeros because it
        is allocated nowhere."""
        self.has_data_file = data is not file
        self.is_read_only = is_read_only
        self.gate = Gate()
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)
        """Notified when a cluster leaves `allocating`."""
        self.allocating: set[int] = set()
        """Guest clusters whose new contents are being written: others that change them wait."""
        self.metadata = metadata
        size = self.geometry.cluster_size + _OVERHEAD
        self.refcounts = Refcounts(
            file, self.geometry, header.refcount_table_offset, refcount_table, metadata, cache_size // 4 // size
        )
        self.tables = Tables(file, self.geometry, self.refcounts, header.l1_offset, l1, cache_size // size)
        self.blank_from = 1 << 62 if self.has_data_file else file.size()
        """From here on the file reads as zeros, and no table entry may point there."""
        self.append_at: int | None = None
        """Where the next compressed cluster may begin, in a host cluster that others begin in."""
        self._commit_lock = threading.Lock()
        self._tickets = 0
        self._committed = 0
        self._releasable: deque[tuple[int, list[int]]] = deque()

    def attach(self, backing: BlockBackend) -> None:
        """Let `backing`, which then belongs to the image, show where the image itself has nothing."""
        self.backing = backing
        self.is_backing_unknown = False

    def is_backed(self, offset: int) -> bool:
        """Whether something below may show at `offset`."""
        return self.is_backing_unknown or (self.backing is not None and offset < self.backing.size)

    @property
    def is_lazy(self) -> bool:
        return bool(self.header.compatible & layout.LAZY_REFCOUNTS)

    # Freeing

    def free_entry(self, entry: int) -> None:
        """An L2 entry is gone from its table in memory: what it referred to is freed in due course. Lock held."""
        if entry & layout.COMPRESSED:
            self.tables.freed += self.geometry.compressed_clusters(entry)
        elif entry & layout.OFFSET_MASK and not self.has_data_file:
            self.tables.freed.append((entry & layout.OFFSET_MASK) >> self.geometry.cluster_bits)

    @property
    def wants_commit(self) -> bool:
        """Whether so much waits that memory or space would run away. Any thread, no lock needed."""
        return self.tables.is_full or self.refcounts.is_full or len(self.tables.freed) > _MAX_WAITING

    # Commit

    def flush(self) -> None:
        """Everything that returned before is on the medium. Flushes that wait for the same commit share it."""
        with self.lock:
            self._tickets += 1
            ticket = self._tickets
        with self._commit_lock:
            if self._committed >= ticket:
                return
            upto = self._tickets
            self._commit()
            self._committed = upto
        self.release()

    def commit(self) -> None:
        """The same for a maintenance operation, or to make room. The caller holds no host offset and no lock."""
        with self._commit_lock:
            self._commit()
        self.release()

    def _commit(self) -> None:
        counts: Captured | None = None
        with self.lock:
            tables = self.tables.capture()
            freed, self.tables.freed = self.tables.freed, []
            is_postponed = self.is_lazy and not self.refcounts.is_moved and not self.refcounts.is_full
            if not is_postponed:
                counts = self.refcounts.capture()
            retired, self.refcounts.retired = self.refcounts.retired, []
            marks_dirty = is_postponed and bool(tables.links) and not self.header.incompatible & layout.DIRTY
        try:
            if marks_dirty:
                self._change_dirty()
            self._write_in_order(tables, counts)
        except BaseException:
            with self.lock:
                self.tables.undo(tables)
                self.tables.freed += freed
                if counts is not None:
                    self.refcounts.undo(counts)
                self.refcounts.retired += retired
            raise
        with self.lock:
            self.tables.done(tables)
            if counts is not None:
                self.refcounts.done(counts)
            for cluster in retired:
                self.metadata.discard(cluster)
            if freed or retired:
                self._releasable.append((self.gate.next_epoch(), freed + retired))

    def _write_in_order(self, tables: CapturedTables, counts: Captured | None) -> None:
        write_all(self.file, tables.first + (counts.first if counts else []))
        if self.has_data_file:
            self.data.flush()
        self.file.flush()
        if counts is not None and (counts.entries or counts.is_moved):
            if counts.is_moved:
                self._write_refcount_pointer()
            write_all(self.file, counts.entries)
            self.file.flush()
        if tables.links:
            tables.is_linking = True
            write_all(self.file, tables.links)
            self.file.flush()

    def _write_refcount_pointer(self) -> None:
        """Both fields of the header with one write inside one sector."""
        self.header.refcount_table_offset = self.refcounts.offset
        self.header.refcount_table_clusters = len(self.refcounts.table) * 8 >> self.geometry.cluster_bits
        pointer = self.header.refcount_table_offset.to_bytes(8, "big")
        pointer += self.header.refcount_table_clusters.to_bytes(4, "big")
        self.file.write(layout.AT_REFCOUNT_TABLE, [memoryview(pointer)])

    def release(self) -> None:
        """Step 4, for those freed clusters that no request inside can still be using. The caller uses none itself."""
        inside = self.gate.inside
        if get_ident() in inside:
            inside[get_ident()] = self.gate.epoch
        with self.lock:
            oldest = self.gate.oldest()
            ready: list[int] = []
            while self._releasable and self._releasable[0][0] < oldest:
                ready += self._releasable.popleft()[1]
            unused = []
            for cluster in ready:
                count = self.refcounts.get(cluster)
                if count == 1:
                    unused.append(cluster)
                    if self.append_at is not None and self.append_at >> self.geometry.cluster_bits == cluster:
                        self.append_at = None
                elif count:
                    self.refcounts.add(cluster, -1)
        if not unused:
            return
        # Still counted, so nobody is given one of these before its old contents are gone.
        bits = self.geometry.cluster_bits
        for first, count in runs(sorted(unused)):
            try:
                self.file.punch(first << bits, count << bits)
            except BlockError:
                break  # the space stays taken until it is used again; nothing else is wrong
        with self.lock:
            for cluster in unused:
                self.refcounts.add(cluster, -1)

    # Header

    def _change_dirty(self) -> None:
        self.header.incompatible ^= layout.DIRTY
        try:
            self._write_features()
        except BaseException:
            self.header.incompatible ^= layout.DIRTY
            raise

    def _write_features(self) -> None:
        self.file.write(layout.AT_FEATURES, [memoryview(self.header.encode_features())])

    def set_features(self) -> None:
        """Write the three feature fields as the header has them in memory, and flush."""
        self._write_features()
        self.file.flush()

    def set_dirty(self, dirty: bool) -> None:
        """Set or clear the dirty bit on the medium, with all that was written before it."""
        if self.header.version < 3 or bool(self.header.incompatible & layout.DIRTY) == dirty:
            return
        self.file.flush()
        self._change_dirty()
        self.file.flush()

    def rewrite_header(self) -> None:
        """Write the whole header with its extensions and names, and flush."""
        data = self.header.encode()
        self.file.write(0, [memoryview(data + bytes(self.geometry.cluster_size - len(data)))])
        self.file.flush()

    def close(self) -> None:
        """Write all that waits, so that nothing leaks, and close the files."""
        try:
            if not self.is_read_only:
                self._finish()
        finally:
            try:
                self.file.close()
            finally:
                try:
                    if self.has_data_file:
                        self.data.close()
                finally:
                    if self.backing is not None:
                        self.backing.close()

    def _finish(self) -> None:
        self.commit()
        for _ in range(3):  # giving space back changes counts, and so once more at most
            if not (self.refcounts.is_dirty or self.tables.is_dirty or self._releasable):
                break
            self.write_counts() if self.is_lazy else self.commit()
        if self.is_lazy:
            self.write_counts()
            self.set_dirty(False)

    def write_counts(self) -> None:
        """Write all counts now, whatever order they would be in: for images that are marked dirty."""
        with self._commit_lock:
            with self.lock:
                counts = self.refcounts.capture()
            try:
                self._write_in_order(CapturedTables(), counts)
            except BaseException:
                with self.lock:
                    self.refcounts.undo(counts)
                raise
            with self.lock:
                self.refcounts.done(counts)
        self.release()


def runs(numbers: list[int]) -> list[tuple[int, int]]:
    """(first, count) of consecutive ones in a sorted list."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and sum(found[-1]) == number:
            found[-1] = (found[-1][0], found[-1][1] + 1)
        elif not found or number >= sum(found[-1]):
            found.append((number, 1))
    return found


def write_all(file: File, pieces: list[tuple[int, bytes]]) -> None:
    """Write (offset, bytes) pairs; neighbours with one call."""
    pieces = sorted(pieces)
    index = 0
    while index < len(pieces):
        start, data = pieces[index]
        group = [memoryview(data)]
        end = start + len(data)
        index += 1
        while index < len(pieces) and pieces[index][0] == end:
            group.append(memoryview(pieces[index][1]))
            end += len(pieces[index][1])
            index += 1
        file.write(start, group)
