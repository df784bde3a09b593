"""Change the size of a qcow2 disk."""

from __future__ import annotations

from array import array

from manor.backends.block.api import BlockError
from manor.backends.block.qcow2 import layout
from manor.backends.block.qcow2.bitmaps import read_bitmaps
from manor.backends.block.qcow2.image import Qcow2Image
from manor.backends.block.qcow2.layout import OFFSET_MASK
from manor.backends.block.qcow2.maintenance import maintenance, write_l1_pointer
from manor.backends.block.qcow2.refcounts import encode_words
from manor.backends.block.qcow2.snapshots import snapshots_of
from manor.backends.block.qcow2.tree import drop_table, place_table, table_clusters, use_less
from manor.base.units import format_size


def resize(image: Qcow2Image, size: int) -> None:
    """Grow or shrink to `size` bytes. Raises BlockError if the format cannot; nothing has changed then."""
    core = image.core
    geometry = core.geometry
    if size == core.header.size:
        return
    if geometry.l1_entries(size) * 8 > layout.MAX_L1_SIZE:
        limit = (layout.MAX_L1_SIZE // 8) << geometry.l2_shift
        raise BlockError(f"{image.name}: with its cluster size the disk can have {format_size(limit)}", "unsupported")
    if any(snapshot.disk_size is None for snapshot in snapshots_of(image)) or (
        core.header.version < 3 and core.header.snapshot_count
    ):
        raise BlockError(
            f"{image.name}: its snapshots do not say how large the disk was; delete them first", "unsupported"
        )
    if read_bitmaps(core.file, core.header) is not None:
        raise BlockError(
            f"{image.name}: it has bitmaps, which are of the disk's size; remove them first", "unsupported"
        )
    with maintenance(image):
        if size > core.header.size:
            _grow(image, size)
        else:
            _shrink(image, size)


def _grow(image: Qcow2Image, size: int) -> None:
    core = image.core
    header = core.header
    old = header.size
    if core.has_data_file:
        core.data.truncate(size)
    entries = core.geometry.l1_entries(size)
    if entries > len(core.tables.l1):
        _move_l1(image, entries)
    header.size = size
    try:
        # What lies past the old end in its last cluster, or in a longer backing image, was never the guest's.
        edge = min(size, (old + core.geometry.cluster_mask) & ~core.geometry.cluster_mask)
        if edge > old:
            image.writer.zero(old, edge - old, may_unmap=True, is_discard=False)
        backed = min(size, core.backing.size) if core.backing is not None else 0
        if backed > edge:
            image.writer.zero(edge, backed - edge, may_unmap=True, is_discard=False)
        core.commit()
    except BaseException:
        header.size = old
        raise
    write_l1_pointer(image)


def _move_l1(image: Qcow2Image, entries: int) -> None:
    core = image.core
    header = core.header
    longer = core.tables.l1[:]
    longer.extend([0] * (entries - len(longer)))
    offset = place_table(core, encode_words(longer))
    core.write_counts()
    old_offset, old_size = header.l1_offset, 8 * header.l1_size
    header.l1_offset, header.l1_size = offset, entries
    write_l1_pointer(image)
    core.tables.l1, core.tables.l1_offset = longer, offset
    if old_size:
        drop_table(core, old_offset, old_size)


def _shrink(image: Qcow2Image, size: int) -> None:
    core = image.core
    geometry = core.geometry
    core.header.size = size
    write_l1_pointer(image)
    first_cluster = geometry.clusters(size)
    # Whoever lets the disk grow again may take what is behind its end for zeros.
    image.writer.write_zeros(size, (first_cluster << geometry.cluster_bits) - size)
    first_whole = geometry.l1_entries(size)
    index = first_cluster >> geometry.l2_bits
    gone: list[int] = []
    if index < first_whole and index < len(core.tables.l1):
        gone += _cut_table(image, index, first_cluster & geometry.l2_mask)
    tables = core.tables
    for index in range(first_whole, len(tables.l1)):
        offset = tables.l1[index] & OFFSET_MASK
        if offset:
            gone += table_clusters(core, tables.read(offset))
            gone.append(offset >> geometry.cluster_bits)
            core.metadata.discard(offset >> geometry.cluster_bits)
            tables.set_l1(index, 0)
    core.commit()
    if core.has_data_file:
        core.data.truncate(size)
    use_less(core, iter(gone))


def _cut_table(image: Qcow2Image, index: int, position: int) -> list[int]:
    """Clear the entries of a table from `position` on; returns the clusters that they referred to."""
    core = image.core
    geometry = core.geometry
    if core.tables.load(index) is None:
        return []
    table = core.tables.load_to_change(index)
    start = position * geometry.words
    gone = list(table_clusters(core, table.words[start:]))
    table.words[start:] = array("Q", bytes(8 * (len(table.words) - start)))
    core.tables.touch(table, position, geometry.l2_size - position)
    return gone
