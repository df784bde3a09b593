"""Walks over everything that an L1 table reaches: for snapshots and resizing, with the image alone."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from typing import Final

from manor.backends.block.api import BlockError
from manor.backends.block.qcow2.core import Core, runs
from manor.backends.block.qcow2.layout import COMPRESSED, COPIED, OFFSET_MASK
from manor.backends.block.qcow2.refcounts import encode_words

_MAX_UNUSED: Final = 1 << 16


def table_clusters(core: Core, words: array[int]) -> Iterator[int]:
    """Host clusters that an L2 table's entries refer to; one once for each."""
    geometry = core.geometry
    if core.has_data_file:
        return  # clusters of a data file are not counted
    for entry in words[:: geometry.words]:
        if entry & COMPRESSED:
            yield from geometry.compressed_clusters(entry)
        elif entry & OFFSET_MASK:
            yield (entry & OFFSET_MASK) >> geometry.cluster_bits


def tree_clusters(core: Core, l1: array[int]) -> Iterator[int]:
    """Host clusters of all L2 tables of `l1`, and those that they refer to. Reads the file: nothing may be dirty."""
    for entry in l1:
        offset = entry & OFFSET_MASK
        if offset:
            yield offset >> core.geometry.cluster_bits
            yield from table_clusters(core, core.tables.read(offset))


def use_more(core: Core, l1: array[int]) -> None:
    """Count everything once more. Raises BlockError, and has changed nothing, if a count has no room."""
    refcounts = core.refcounts
    for cluster in tree_clusters(core, l1):
        if not 0 < refcounts.get(cluster) < refcounts.max_count:
            refcounts.add(cluster, 1 if refcounts.get(cluster) else -1)  # says what is wrong
    for cluster in tree_clusters(core, l1):
        refcounts.add(cluster, 1)
        if refcounts.is_full:
            core.write_counts()


def use_less(core: Core, clusters: Iterator[int]) -> None:
    """Count these once less; the space of those that nobody uses any more goes back to the host.

    Nothing on the medium may refer to them by the path that is given up.
    """
    unused: list[int] = []
    for cluster in clusters:
        if core.refcounts.add(cluster, -1) == 0:
            unused.append(cluster)
        if len(unused) >= _MAX_UNUSED:
            _punch(core, unused)
            unused = []
        if core.refcounts.is_full:
            core.write_counts()
    _punch(core, unused)
    core.append_at = None


def _punch(core: Core, unused: list[int]) -> None:
    bits = core.geometry.cluster_bits
    for first, count in runs(sorted(unused)):
        try:
            core.file.punch(first << bits, count << bits)
        except BlockError:
            return  # space that stays taken until it is used again


def clear_copied(core: Core) -> None:
    """No active entry claims to be the only user; on the medium when it returns. Always safe: it only costs copies."""
    tables = core.tables
    for index, entry in enumerate(tables.l1):
        offset = entry & OFFSET_MASK
        if not offset:
            continue
        words = tables.read(offset)
        if _set_flags(core, words, lambda _cluster: False):
            core.file.write(offset, [memoryview(encode_words(words))])
        tables.l1[index] = entry & ~COPIED
    _write_l1(core)
    core.file.flush()


def restore_copied(core: Core) -> None:
    """Active entries claim to be the only user exactly where the count is 1. The counts are on the medium already."""
    tables = core.tables
    refcounts = core.refcounts
    bits = core.geometry.cluster_bits
    for index, entry in enumerate(tables.l1):
        offset = entry & OFFSET_MASK
        if not offset:
            continue
        words = tables.read(offset)
        if _set_flags(core, words, lambda cluster: refcounts.get(cluster) == 1):
            core.file.write(offset, [memoryview(encode_words(words))])
        is_only = refcounts.get(offset >> bits) == 1
        tables.l1[index] = entry & ~COPIED | (COPIED if is_only else 0)
    _write_l1(core)
    core.file.flush()


def _set_flags(core: Core, words: array[int], is_only: Callable[[int], bool]) -> bool:
    """Set or clear bit 63 of all standard entries; whether one changed."""
    changed = False
    for position in range(0, len(words), core.geometry.words):
        entry = words[position]
        if entry & COMPRESSED or not entry & OFFSET_MASK:
            continue
        wanted = entry & ~COPIED
        if is_only((entry & OFFSET_MASK) >> core.geometry.cluster_bits):
            wanted |= COPIED
        if wanted != entry:
            words[position] = wanted
            changed = True
    return changed


def _write_l1(core: Core) -> None:
    core.file.write(core.tables.l1_offset, [memoryview(encode_words(core.tables.l1))])


def place_table(core: Core, data: bytes) -> int:
    """Write a table into clusters in a row, counted; returns its offset. Nothing refers to it yet."""
    geometry = core.geometry
    clusters = max(1, geometry.clusters(len(data)))
    first = core.refcounts.allocate_exactly(clusters)
    core.blank_from = max(core.blank_from, (first + clusters) << geometry.cluster_bits)
    core.metadata.update(range(first, first + clusters))
    padded = data + bytes((clusters << geometry.cluster_bits) - len(data))
    core.file.write(first << geometry.cluster_bits, [memoryview(padded)])
    return first << geometry.cluster_bits


def drop_table(core: Core, offset: int, size: int) -> None:
    """Free the clusters of a table that nothing on the medium refers to any more."""
    bits = core.geometry.cluster_bits
    clusters = range(offset >> bits, (offset >> bits) + core.geometry.clusters(size))
    core.metadata.difference_update(clusters)
    use_less(core, iter(clusters))
