"""Open a qcow2 image: check what its tables say before anything relies on them, open what it names, repair it if it
was not closed."""

from __future__ import annotations

from array import array

from manor.backends.block.api import BlockBackend
from manor.backends.block.file import File
from manor.backends.block.open import Context
from manor.backends.block.qcow2 import layout
from manor.backends.block.qcow2.bitmaps import mark_in_use, read_bitmaps
from manor.backends.block.qcow2.check import Checker
from manor.backends.block.qcow2.core import Core
from manor.backends.block.qcow2.create import Qcow2Options, create_qcow2
from manor.backends.block.qcow2.header import Header, read_header
from manor.backends.block.qcow2.image import Qcow2Image
from manor.backends.block.qcow2.layout import COPIED, OFFSET_MASK
from manor.backends.block.qcow2.refcounts import check_table, decode_words, read_table
from manor.backends.block.qcow2.snapshot_table import read_snapshots
from manor.base.errors import ConfigError, ProtocolError


def open_qcow2(file: File, context: Context) -> Qcow2Image:
    """The opener of format "qcow2". Raises ProtocolError for a malformed image, ConfigError for one that Manor cannot
    use; the file is then as it was."""
    header = read_header(file)
    options = context.options
    is_read_only = options.read_only
    if header.incompatible & layout.CORRUPT and not is_read_only:
        raise ConfigError(
            file.name,
            "the image is marked corrupt and can only be read; repair it first: manor image check --repair all",
        )
    if header.incompatible & layout.DIRTY and not is_read_only:
        _repair(file, header)
    backing: BlockBackend | None = None
    data = file
    try:
        if header.incompatible & layout.DATA_FILE:
            data = _open_data_file(file, header, context)
        if header.backing_file is not None and options.backing:
            backing = context.open_backing(file.name, header.backing_file, header.backing_format)
        return assemble(file, data, backing, header, is_read_only=is_read_only)
    except BaseException:
        if backing is not None:
            backing.close()
        if data is not file:
            data.close()
        raise


def _open_data_file(file: File, header: Header, context: Context) -> File:
    name = header.data_file
    if name is None:
        raise ConfigError(file.name, "its data is in another file, but it does not say in which; it cannot be opened")
    return context.open_file(file.name, name)


def assemble(file: File, data: File, backing: BlockBackend | None, header: Header, *, is_read_only: bool) -> Qcow2Image:
    """The image over files that are open. Raises ProtocolError; nothing is written before all tables were checked."""
    geometry = header.geometry
    table = read_table(file, geometry, header.refcount_table_offset, header.refcount_table_clusters)
    l1 = read_l1(file, header.l1_offset, header.l1_size)
    metadata: set[int] = set()
    if not is_read_only:
        metadata = find_metadata(file, header, table, l1)
    core = Core(file, data, backing, header, table, l1, metadata, is_read_only=is_read_only)
    if not is_read_only:
        _before_writing(core)
    return Qcow2Image(core)


def read_l1(file: File, offset: int, size: int) -> array[int]:
    """An L1 table of `size` entries."""
    data = bytearray(8 * size)
    file.read(offset, [memoryview(data)])
    return decode_words(data)


def find_metadata(file: File, header: Header, table: array[int], l1: array[int]) -> set[int]:
    """Host clusters of the image's own tables. Raises ProtocolError if two of them overlap, or one cannot be where
    it is said to be: whoever writes such an image destroys it."""
    geometry = header.geometry
    bits = geometry.cluster_bits
    metadata = {0}

    def claim(what: str, offset: int, size: int) -> None:
        clusters = range(offset >> bits, (offset + size + geometry.cluster_mask) >> bits)
        if not metadata.isdisjoint(clusters):
            raise ProtocolError(f"{file.name}: the {what} overlaps another table of the image; repair it", offset)
        metadata.update(clusters)

    claim("refcount table", header.refcount_table_offset, header.refcount_table_clusters << bits)
    blocks = check_table(file, geometry, header.refcount_table_offset, table)
    if not metadata.isdisjoint(blocks):
        at = min(metadata & blocks) << bits
        raise ProtocolError(f"{file.name}: a refcount block overlaps another table of the image; repair it", at)
    metadata |= blocks
    claim("L1 table", header.l1_offset, 8 * header.l1_size)
    _claim_l2_tables(file, header, l1, metadata)
    if header.snapshot_count:
        snapshots, size = read_snapshots(file, header)
        claim("snapshot table", header.snapshots_offset, size)
        for snapshot in snapshots:
            claim(f"L1 table of snapshot {snapshot.id}", snapshot.l1_offset, 8 * snapshot.l1_size)
    return metadata


def _claim_l2_tables(file: File, header: Header, l1: array[int], metadata: set[int]) -> None:
    geometry = header.geometry
    end = file.size()
    for index, entry in enumerate(l1):
        if not entry:
            continue
        offset = entry & OFFSET_MASK
        at = header.l1_offset + 8 * index
        if entry & ~(OFFSET_MASK | COPIED) or offset & geometry.cluster_mask or offset >= end:
            raise ProtocolError(
                f"{file.name}: entry {index} of the L1 table, {entry:#x}, is not a cluster of the file; repair it", at
            )
        cluster = offset >> geometry.cluster_bits
        if offset and cluster in metadata:
            raise ProtocolError(
                f"{file.name}: the L2 table of entry {index} of the L1 table overlaps another table; repair it", at
            )
        if offset:
            metadata.add(cluster)


def _before_writing(core: Core) -> None:
    """What an image must not claim any more once a program that does not keep it up writes to it."""
    header = core.header
    bitmaps = read_bitmaps(core.file, header)
    if bitmaps is not None:
        mark_in_use(core.file, bitmaps)
    if header.autoclear & ~layout.KNOWN_AUTOCLEAR:
        header.autoclear &= layout.KNOWN_AUTOCLEAR
        core.set_features()


def _repair(file: File, header: Header) -> None:
    """Count anew what an image refers to that was not closed: with lazy refcounts only the tables are up to date.

    Raises ConfigError, and has written nothing, if more than counts is wrong.
    """
    checker = Checker(file, header)
    checker.run()
    if checker.corruptions or checker.errors:
        raise ConfigError(
            file.name,
            f"the image was not closed properly and is damaged ({checker.messages[0]}); it can be opened"
            " for reading only;"
            " manor image check tells more",
        )
    checker.repair("all")


def create_overlay(file: File, base: BlockBackend) -> Qcow2Image:
    """An empty image in the empty `file` over `base`, which belongs to it from then on. The file is closed on
    failure."""
    try:
        create_qcow2(file, base.size, Qcow2Options())
        return assemble(file, file, base, read_header(file), is_read_only=False)
    except BaseException:
        file.close()
        raise
