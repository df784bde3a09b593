"""Check a qcow2 image: count what its tables refer to, compare with its reference counts, repair those.

It works on the file alone, trusting nothing: tables that cannot be where they are said to be are reported and not
followed. Only files that nobody else writes to are checked with a result that means something.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from manor.backends.block.api import BlockError
from manor.backends.block.check_result import CheckResult, Repair
from manor.backends.block.file import File
from manor.backends.block.qcow2 import layout
from manor.backends.block.qcow2.bitmaps import read_bitmaps
from manor.backends.block.qcow2.header import Header
from manor.backends.block.qcow2.layout import COMPRESSED, COPIED, OFFSET_MASK, REFCOUNT_OFFSET_MASK, ZERO
from manor.backends.block.qcow2.rebuild import rebuild_counts
from manor.backends.block.qcow2.refcounts import Refcounts, decode_counts, decode_words, encode_words, read_table
from manor.backends.block.qcow2.snapshot_table import read_snapshots
from manor.backends.block.qcow2.usage import Usage
from manor.base.errors import ProtocolError

_MAX_MESSAGES: Final = 100
_MAX_MISCOUNTED: Final = 1 << 18


class Checker:
    """One check of one image."""

    def __init__(self, file: File, header: Header, progress: Callable[[int, int], None] | None = None) -> None:
        self._file = file
        self._header = header
        self._geometry = header.geometry
        self._progress = progress or (lambda _done, _total: None)
        mask = self._geometry.cluster_mask
        self._end = (file.size() + mask) & ~mask
        self.usage = Usage()
        self.corruptions = 0
        """Findings that no repair of counts removes."""
        self.errors = 0
        self.miscounted: list[tuple[int, int, int]] = []
        """(cluster, count, references) of the first that differ."""
        self.under = 0
        self.leaks = 0
        self.flags: list[tuple[int, int]] = []
        """(offset of a table entry, what it should be)."""
        self.are_blocks_damaged = False
        """Counts are to be written anew: changing these could overwrite what they call free, or is too much."""
        self.messages: list[str] = []
        self._allocated = 0
        self._compressed = 0
        self._fragmented = 0
        self._next_offset = 0

    def run(self) -> CheckResult:
        """Look everywhere, change nothing."""
        self._count_all()
        table = self._count_blocks()
        self._compare(table)
        self._check_flags()
        return self.result()

    def result(self) -> CheckResult:
        header = self._header
        return CheckResult(
            "qcow2",
            corruptions=self.corruptions + self.under + len(self.flags),
            leaks=self.leaks,
            errors=self.errors,
            total_clusters=self._geometry.clusters(header.size),
            allocated_clusters=self._allocated,
            compressed_clusters=self._compressed,
            fragmented_clusters=self._fragmented,
            image_end=(self.usage.last + 1) << self._geometry.cluster_bits,
            messages=tuple(self.messages),
        )

    def _tell(self, message: str) -> None:
        if len(self.messages) < _MAX_MESSAGES:
            self.messages.append(message)
        elif len(self.messages) == _MAX_MESSAGES:
            self.messages.append("more of the same kind follow")

    def _corrupt(self, message: str) -> None:
        self.corruptions += 1
        self._tell(message)

    # Counting references

    def _count_all(self) -> None:
        header = self._header
        self.usage.add(0)
        self._claim(
            "refcount table", header.refcount_table_offset, header.refcount_table_clusters << header.cluster_bits
        )
        self._claim("L1 table", header.l1_offset, 8 * header.l1_size)
        self._count_tree("L1 table", header.l1_offset, header.l1_size, is_active=True)
        self._count_snapshots()
        self._count_bitmaps()

    def _claim(self, what: str, offset: int, size: int) -> bool:
        """Count the clusters of a table; False, and a corruption, if it is not inside the file."""
        if not size:
            return True
        if offset & self._geometry.cluster_mask or not 0 <= offset <= self._end - size:
            self._corrupt(f"the {what} ({size} bytes at {offset:#x}) is not at a cluster inside the file")
            return False
        bits = self._geometry.cluster_bits
        for cluster in range(offset >> bits, (offset + size + self._geometry.cluster_mask) >> bits):
            self.usage.add(cluster)
        return True

    def _count_snapshots(self) -> None:
        header = self._header
        if not header.snapshot_count:
            return
        try:
            snapshots, size = read_snapshots(self._file, header)
        except ProtocolError as error:
            self._corrupt(str(error))
            return
        self._claim("snapshot table", header.snapshots_offset, size)
        for snapshot in snapshots:
            if header.version >= 3 and snapshot.disk_size is None:
                self._corrupt(f"snapshot {snapshot.id} does not say how large the disk was, as version 3 wants")
            what = f"L1 table of snapshot {snapshot.id}"
            if self._claim(what, snapshot.l1_offset, 8 * snapshot.l1_size):
                self._count_tree(what, snapshot.l1_offset, snapshot.l1_size, is_active=False)

    def _count_bitmaps(self) -> None:
        try:
            directory = read_bitmaps(self._file, self._header)
        except ProtocolError as error:
            self._corrupt(str(error))
            return
        if directory is None:
            return
        self._claim("directory of bitmaps", directory.offset, directory.size)
        for bitmap in directory.bitmaps:
            if not self._claim(f"table of bitmap {bitmap.name}", bitmap.table_offset, 8 * bitmap.table_size):
                continue
            for entry in self._words(bitmap.table_offset, bitmap.table_size):
                if entry & OFFSET_MASK:
                    self._claim(f"bitmap {bitmap.name}", entry & OFFSET_MASK, self._geometry.cluster_size)

    def _words(self, offset: int, count: int) -> array[int]:
        data = bytearray(8 * count)
        try:
            self._file.read(offset, [memoryview(data)])
        except BlockError as error:
            self.errors += 1
            self._tell(str(error))
            return array("Q", bytes(8 * count))
        return decode_words(data)

    def _count_tree(self, what: str, offset: int, size: int, *, is_active: bool) -> None:
        l1 = self._words(offset, size)
        for index, entry in enumerate(l1):
            if is_active:
                self._progress(index, size)
            if not entry:
                continue
            at = f"entry {index} of the {what}"
            if entry & ~(OFFSET_MASK | COPIED):
                self._corrupt(f"{at}, {entry:#x}, has reserved bits")
            if entry & OFFSET_MASK and self._claim(
                f"L2 table of {at}", entry & OFFSET_MASK, self._geometry.cluster_size
            ):
                self._count_table(index, entry & OFFSET_MASK, is_active)

    def _count_table(self, index: int, offset: int, is_active: bool) -> None:
        geometry = self._geometry
        words = self._words(offset, geometry.cluster_size // 8)
        usage_add = self.usage.add
        bits = geometry.cluster_bits
        if geometry.is_extended:
            self._check_bitmaps(index, words)
        entries = words[:: geometry.words]
        if not any(entries):
            return
        has_data_file = bool(self._header.incompatible & layout.DATA_FILE)
        used_bits = OFFSET_MASK | COMPRESSED | (COPIED if has_data_file else 0)
        reserved = layout.RESERVED | (ZERO if geometry.is_extended else 0)
        end = self._end
        self._next_offset = 0
        bad_bits = OFFSET_MASK & geometry.cluster_mask
        for position, entry in enumerate(entries):
            host = entry & OFFSET_MASK
            if entry & reserved and not entry & COMPRESSED:
                self._corrupt(f"{self._where(index, position)}, {entry:#x}, has reserved bits")
            if not entry & used_bits:
                continue
            if entry & COMPRESSED:
                self._count_compressed(index, position, entry, is_active)
                continue
            if host & bad_bits or (host >= end and not has_data_file):
                self._corrupt(f"{self._where(index, position)}, {entry:#x}, is not a cluster of the file")
                continue
            if entry & ZERO and self._header.version < 3:
                self._corrupt(f"{self._where(index, position)}, {entry:#x}, is a zero cluster in a version 2 image")
            if has_data_file:
                if host != ((index << geometry.l2_bits) + position) << bits:
                    self._corrupt(f"{self._where(index, position)}, {entry:#x}, is not where a data file has it")
            else:
                usage_add(host >> bits)
            if is_active:
                self._allocated += 1
                if self._next_offset and host != self._next_offset:
                    self._fragmented += 1
                self._next_offset = host + geometry.cluster_size

    def _where(self, index: int, position: int) -> str:
        guest = ((index << self._geometry.l2_bits) + position) << self._geometry.cluster_bits
        return f"the L2 entry of guest offset {guest:#x}"

    def _count_compressed(self, index: int, position: int, entry: int, is_active: bool) -> None:
        if entry & COPIED:
            self._corrupt(f"{self._where(index, position)}, {entry:#x}, is compressed and claims to be the only user")
        clusters = self._geometry.compressed_clusters(entry)
        if (clusters.stop - 1) << self._geometry.cluster_bits >= self._end:
            self._corrupt(f"{self._where(index, position)}, {entry:#x}, is not inside the file")
            return
        for cluster in clusters:
            self.usage.add(cluster)
        if is_active:
            self._allocated += 1
            self._compressed += 1
            self._fragmented += 1

    def _check_bitmaps(self, index: int, words: array[int]) -> None:
        for position in range(0, len(words), 2):
            bitmap = words[position + 1]
            if not bitmap:
                continue
            entry = words[position]
            if entry & COMPRESSED:
                if bitmap:
                    self._corrupt(f"{self._where(index, position // 2)}, {entry:#x}, is compressed and has subclusters")
            elif bitmap & (bitmap >> 32) & layout.ALL_ALLOCATED:
                self._corrupt(
                    f"{self._where(index, position // 2)} has subclusters both allocated and zero: {bitmap:#x}"
                )
            elif bitmap & layout.ALL_ALLOCATED and not entry & (OFFSET_MASK | COPIED):
                self._corrupt(f"{self._where(index, position // 2)} has subclusters without a cluster: {bitmap:#x}")

    # Comparing

    def _count_blocks(self) -> array[int]:
        """The refcount table, with 0 for entries that cannot be; its blocks count as used."""
        header = self._header
        geometry = self._geometry
        table = read_table(self._file, geometry, header.refcount_table_offset, header.refcount_table_clusters)
        for number, entry in enumerate(table):
            if not entry:
                continue
            offset = entry & REFCOUNT_OFFSET_MASK
            if entry != offset or offset & geometry.cluster_mask or offset >= self._end:
                self._tell(f"entry {number} of the refcount table, {entry:#x}, is not a cluster of the file")
                self.are_blocks_damaged = True
                self.under += 1
                table[number] = 0
            elif self.usage.add(offset >> geometry.cluster_bits) > 1:
                self._tell(f"the refcount block at {offset:#x} is used by something else, too")
                self.are_blocks_damaged = True
                self.under += 1
        return table

    def counts(self, table: array[int], number: int) -> array[int]:
        """Counts of block `number`."""
        geometry = self._geometry
        if number >= len(table) or not table[number]:
            return decode_counts(bytes(geometry.cluster_size), geometry.refcount_bits)
        data = bytearray(geometry.cluster_size)
        try:
            self._file.read(table[number], [memoryview(data)])
        except BlockError as error:
            self.errors += 1
            self._tell(str(error))
        return decode_counts(data, geometry.refcount_bits)

    def _compare(self, table: array[int]) -> None:
        entries = self._geometry.refcount_entries
        last = max(self.usage.last, (self._end >> self._geometry.cluster_bits) - 1)
        for number in range(max(last // entries + 1, _length(table))):
            first = number * entries
            if first > last and not (number < len(table) and table[number]):
                continue
            for cluster, count, used in self.usage.differences(first, self.counts(table, number)):
                offset = cluster << self._geometry.cluster_bits
                if count < used:
                    self.under += 1
                    self._tell(f"the cluster at {offset:#x} is used {used} times and counted {count}")
                else:
                    self.leaks += 1
                    self._tell(f"leaked: the cluster at {offset:#x} is used {used} times and counted {count}")
                if len(self.miscounted) < _MAX_MISCOUNTED:
                    self.miscounted.append((cluster, count, used))
                else:
                    self.are_blocks_damaged = True
                if used and (number >= len(table) or not table[number]):
                    self.are_blocks_damaged = True

    def _check_flags(self) -> None:
        """Bit 63 of active entries says exactly that the count is 1."""
        header = self._header
        own_counts = self._final_counts()
        counts = _one if header.incompatible & layout.DATA_FILE else own_counts
        l1 = self._words(header.l1_offset, header.l1_size)
        for index, entry in enumerate(l1):
            offset = entry & OFFSET_MASK
            if not offset or offset & self._geometry.cluster_mask or offset >= self._end:
                continue
            self._check_flag(header.l1_offset + 8 * index, entry, own_counts(offset >> header.cluster_bits))
            self._check_table_flags(offset, counts)

    def _check_table_flags(self, offset: int, counts: Callable[[int], int]) -> None:
        geometry = self._geometry
        words = self._words(offset, geometry.cluster_size // 8)
        for position in range(0, len(words), geometry.words):
            entry = words[position]
            host = entry & OFFSET_MASK
            if entry & COMPRESSED or not entry & (OFFSET_MASK | COPIED):
                continue
            if host & geometry.cluster_mask or (host >= self._end and not self._header.incompatible & layout.DATA_FILE):
                continue
            self._check_flag(offset + 8 * position, entry, counts(host >> geometry.cluster_bits))

    def _check_flag(self, at: int, entry: int, count: int) -> None:
        if bool(entry & COPIED) != (count == 1):
            self.flags.append((at, entry & ~COPIED | (COPIED if count == 1 else 0)))
            self._tell(
                f"the table entry at {at:#x}, {entry:#x}, is wrong about being the only user: the count is {count}"
            )

    def _final_counts(self) -> Callable[[int], int]:
        """Counts as they will be: those that are right in the file are what is used."""
        wrong = {cluster: count for cluster, count, _ in self.miscounted}
        return lambda cluster: wrong.get(cluster, self.usage.get(cluster))

    # Repairing

    def repair(self, what: Repair) -> CheckResult:
        """Write what was found wrong, in an order in which a crash leaves no more wrong than there was: first no entry
        claims to be the only user of what has several, then the counts, then the other flags."""
        if what == "none":
            return self.result()
        wanted = [item for item in self.miscounted if what == "all" or item[1] > item[2]]
        if what == "all":
            self._recompute_flags()
            self._write_flags([item for item in self.flags if not item[1] & COPIED])
        if what == "all" and self.are_blocks_damaged:
            rebuild_counts(self._file, self._header, self.usage)
        else:
            self._write_counts(wanted)
        if what == "all":
            self._write_flags([item for item in self.flags if item[1] & COPIED])
            if not self.corruptions and not self.errors:
                self._clear_marks()
        return self.result()

    def _recompute_flags(self) -> None:
        """Flags as they should be once all counts are what is used."""
        self.miscounted, miscounted = [], self.miscounted
        messages = self.messages[:]
        self.flags = []
        self._check_flags()
        self.messages = messages
        self.miscounted = miscounted

    def _write_flags(self, flags: list[tuple[int, int]]) -> None:
        for at, entry in flags:
            self._file.write(at, [memoryview(encode_words(array("Q", [entry])))])
        self._file.flush()

    def _write_counts(self, wanted: list[tuple[int, int, int]]) -> None:
        header = self._header
        geometry = self._geometry
        table = read_table(self._file, geometry, header.refcount_table_offset, header.refcount_table_clusters)
        refcounts = Refcounts(self._file, geometry, header.refcount_table_offset, table, set(), 1 << 20)
        for cluster, count, used in sorted(wanted, key=lambda item: item[1] > item[2]):
            have = refcounts.get(cluster)
            if have == count or have < used:
                refcounts.add(cluster, used - have)
        captured = refcounts.capture()
        for offset, data in captured.first:
            self._file.write(offset, [memoryview(data)])
        self._file.flush()
        if captured.is_moved:
            header.refcount_table_offset = refcounts.offset
            header.refcount_table_clusters = len(refcounts.table) * 8 >> geometry.cluster_bits
            pointer = header.refcount_table_offset.to_bytes(8, "big") + header.refcount_table_clusters.to_bytes(
                4, "big"
            )
            self._file.write(layout.AT_REFCOUNT_TABLE, [memoryview(pointer)])
        for offset, data in captured.entries:
            self._file.write(offset, [memoryview(data)])
        self._file.flush()

    def _clear_marks(self) -> None:
        marks = layout.DIRTY | layout.CORRUPT
        if self._header.version >= 3 and self._header.incompatible & marks:
            self._header.incompatible &= ~marks
            self._file.write(layout.AT_FEATURES, [memoryview(self._header.encode_features())])
            self._file.flush()


def _one(_cluster: int) -> int:
    """The count of a cluster in a data file, where each has its one user."""
    return 1


def _length(table: array[int]) -> int:
    """Entries up to the last that is not zero."""
    length = len(table)
    while length and not table[length - 1]:
        length -= 1
    return length


def check_file(
    file: File, header: Header, repair: Repair = "none", progress: Callable[[int, int], None] | None = None
) -> CheckResult:
    """Check and repair an open image that nobody else uses. After a repair it is checked again, and the result says
    what is left and what was fixed."""
    checker = Checker(file, header, progress)
    before = checker.run()
    if repair == "none" or (before.is_clean and not header.incompatible & (layout.DIRTY | layout.CORRUPT)):
        return before
    checker.repair(repair)
    after = Checker(file, header, progress).run()
    return replace(
        after,
        corruptions_fixed=max(0, before.corruptions - after.corruptions),
        leaks_fixed=max(0, before.leaks - after.leaks),
        messages=before.messages,
    )
