"""The active L1 table and a cache of its L2 tables. Source: qcow2 specification, "Cluster mapping".

`cached` may be read by any thread without a lock; everything else is called with the image's lock held.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from dataclasses import dataclass, field

from manor.backends.block.api import BlockError
from manor.backends.block.file import File
from manor.backends.block.qcow2.layout import COPIED, OFFSET_MASK, Geometry
from manor.backends.block.qcow2.refcounts import CHUNK, Refcounts, decode_words, encode_words

_L1_CHUNK = 64
"""Entries of the L1 table that are written together: one sector of 512 bytes."""


class Table:
    """One L2 table in memory. words: its entries, two words each if they are extended.

    is_new: the L1 entry on the medium does not point to it yet, so it may be written at any time; all of it must be.
    dirty: numbers of chunks that differ from the file. writing: as for `refcounts.Counts`.
    """

    __slots__ = ("dirty", "is_new", "offset", "used", "words", "writing")

    def __init__(self, offset: int, words: array[int], *, is_new: bool) -> None:
        self.offset = offset
        self.words = words
        self.is_new = is_new
        self.dirty: set[int] = set()
        self.used = True
        self.writing = False


@dataclass(slots=True)
class CapturedTables:
    """Changes of the mapping.

    first: (offset, bytes) of new tables. links: of what makes changes visible. is_linking: writing those has begun,
    so that new tables are on the medium and may be pointed to.
    """

    first: list[tuple[int, bytes]] = field(default_factory=list)
    links: list[tuple[int, bytes]] = field(default_factory=list)
    tables: list[tuple[Table, set[int], bool]] = field(default_factory=list)
    l1_chunks: set[int] = field(default_factory=set)
    is_linking: bool = False


class Tables:
    """L1 and L2 tables of the active state.

    max_tables: cached L2 tables; more while they wait to be written. freed: host clusters that nothing in memory
    refers to any more, while the medium may; for `commit.py`.
    """

    def __init__(
        self, file: File, geometry: Geometry, refcounts: Refcounts, l1_offset: int, l1: array[int], max_tables: int
    ) -> None:
        self._file = file
        self._geometry = geometry
        self._refcounts = refcounts
        self.l1_offset = l1_offset
        self.l1 = l1
        self._max_tables = max(4, max_tables)
        self.cached: OrderedDict[int, Table] = OrderedDict()
        self._changed: dict[int, Table] = {}
        """Tables that differ from the file, by their offsets."""
        self._dirty_l1: set[int] = set()
        self.freed: list[int] = []
        self._chunk = min(CHUNK, geometry.cluster_size) // 8
        self._chunks = range(geometry.cluster_size // 8 // self._chunk)

    def load(self, index: int) -> Table | None:
        """The L2 table of L1 entry `index`; None if there is none. Raises BlockError if the entry is wrong."""
        table = self.cached.get(index)
        if table is not None:
            table.used = True
            return table
        if not self.l1[index] & OFFSET_MASK:
            return None
        table = Table(self._offset(index), self.read(self._offset(index)), is_new=False)
        self._evict()
        self.cached[index] = table
        return table

    def _offset(self, index: int) -> int:
        entry = self.l1[index]
        offset = entry & OFFSET_MASK
        if offset & self._geometry.cluster_mask or offset >= self._file.size():
            raise BlockError(
                f"{self._file.name}: entry {index} of the L1 table at {self.l1_offset + 8 * index:#x}, {entry:#x},"
                " is not a cluster of the file; check the image"
            )
        return offset

    def read(self, offset: int) -> array[int]:
        """The words of a table in the file."""
        data = bytearray(self._geometry.cluster_size)
        self._file.read(offset, [memoryview(data)])
        return decode_words(data)

    def load_to_change(self, index: int) -> Table:
        """The same, made if there is none, and copied if a snapshot shares it. Mark what changes with `touch`."""
        entry = self.l1[index]
        if entry & COPIED:
            table = self.load(index)
            if table is not None:
                return table
        old = self.load(index)
        # Before anything changes: a full medium must leave the table as it was.
        cluster, _ = self._refcounts.allocate(1)
        if old is not None:
            self.freed.append(old.offset >> self._geometry.cluster_bits)
            self._refcounts.metadata.discard(old.offset >> self._geometry.cluster_bits)
            words = old.words[:]
        else:
            words = array("Q", bytes(self._geometry.cluster_size))
            self._evict()
        table = Table(cluster << self._geometry.cluster_bits, words, is_new=True)
        table.dirty.update(self._chunks)
        self._changed[table.offset] = table
        self._refcounts.metadata.add(cluster)
        self.cached[index] = table
        self.set_l1(index, table.offset | COPIED)
        return table

    def set_l1(self, index: int, entry: int) -> None:
        self.l1[index] = entry
        self._dirty_l1.add(index // _L1_CHUNK)

    def touch(self, table: Table, first: int, count: int) -> None:
        """Entries [first, first + count) of `table` were changed."""
        words = self._geometry.words
        table.dirty.update(range(first * words // self._chunk, ((first + count) * words - 1) // self._chunk + 1))
        self._changed[table.offset] = table

    def _evict(self, steps: int = 64) -> None:
        """Make room for one more: of the oldest, one that is clean and was not used since it was passed over."""
        while len(self.cached) >= self._max_tables and steps:
            steps -= 1
            index, table = next(iter(self.cached.items()))
            if table.dirty or table.writing or table.used:
                table.used = False
                self.cached.move_to_end(index)
            else:
                del self.cached[index]

    def drop(self) -> None:
        """Forget all cached tables. Nothing may be dirty."""
        self.cached.clear()

    @property
    def is_full(self) -> bool:
        """Whether more tables wait to be written than should be in memory."""
        return len(self.cached) > self._max_tables

    @property
    def is_dirty(self) -> bool:
        return bool(self._dirty_l1 or self._changed)

    def capture(self) -> CapturedTables:
        """All that differs from the file. It stays in memory until `done` or `undo`."""
        captured = CapturedTables(l1_chunks=self._dirty_l1)
        for table in self._changed.values():
            captured.tables.append((table, table.dirty, table.is_new))
            target = captured.first if table.is_new else captured.links
            for number in sorted(table.dirty):
                start = number * self._chunk
                target.append((table.offset + 8 * start, encode_words(table.words[start : start + self._chunk])))
            table.dirty = set()
            table.writing = True
        self._changed = {}
        for number in sorted(self._dirty_l1):
            start = number * _L1_CHUNK
            captured.links.append((self.l1_offset + 8 * start, encode_words(self.l1[start : start + _L1_CHUNK])))
        self._dirty_l1 = set()
        return captured

    def done(self, captured: CapturedTables) -> None:
        """What was captured is on the medium."""
        for table, _, _ in captured.tables:
            table.writing = False
            table.is_new = False
        self._evict(2 * len(self.cached))

    def undo(self, captured: CapturedTables) -> None:
        """Writing failed: all of it still differs."""
        for table, chunks, is_new in captured.tables:
            table.writing = False
            table.dirty |= chunks
            self._changed[table.offset] = table
            table.is_new = is_new and not captured.is_linking
        self._dirty_l1 |= captured.l1_chunks
