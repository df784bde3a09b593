"""What an image is, and where each part of it is."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from manor.backends.block.api import BlockBackend, Described, DetailValue, Extent
from manor.backends.block.file import File, open_file
from manor.backends.block.open import MAX_DEPTH, OpenOptions, is_uri, open_image, probe_file, resolve
from manor.base.errors import ConfigError


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """An internal snapshot. vm_state_size: bytes of machine state saved with it. date: seconds since the Epoch.
    vm_clock: nanoseconds that the guest had run. disk_size: bytes the guest saw then."""

    id: str
    name: str
    vm_state_size: int = 0
    date: float = 0.0
    vm_clock: int = 0
    disk_size: int = 0


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """One image, not its chain.

    virtual_size: bytes the guest sees. file_size: length of the file; disk_size: bytes it takes on the host.
    cluster_size: None for formats without. backing_file: as the image has it; backing_path: as it is found from here.
    is_dirty: it was not closed properly, and will be repaired when opened. details: what is particular to the format,
    named as `qemu-img info` names it ("compat", "lazy refcounts", "refcount bits", "corrupt", "extended l2",
    "compression type", "data file", "data file raw", "bitmaps").
    """

    path: str
    format: str
    virtual_size: int
    file_size: int
    disk_size: int
    cluster_size: int | None = None
    backing_file: str | None = None
    backing_format: str | None = None
    backing_path: str | None = None
    is_dirty: bool = False
    is_encrypted: bool = False
    snapshots: tuple[SnapshotInfo, ...] = ()
    details: Mapping[str, DetailValue] = field(default_factory=dict)


def image_info(path: str, *, format: str | None = None, force_share: bool = False) -> ImageInfo:
    """Look at one image; its backing image need not be there."""
    if not is_uri(path):
        file = open_file(path, read_only=True, force_share=force_share)
        try:
            found = format or probe_file(file)
            if found == "qcow2":
                return _qcow2_info(file, path)
        finally:
            file.close()
        format = found
    options = OpenOptions(format=format, read_only=True, force_share=force_share, backing=False)
    image = open_image(path, options)
    try:
        return _other_info(path, format or "raw", image)
    finally:
        image.close()


def _sizes(path: str) -> tuple[int, int]:
    """(length, bytes on the host) of a file; zeros for what is no file here."""
    if is_uri(path):
        return 0, 0
    status = os.stat(path)
    return status.st_size, status.st_blocks * 512


def _other_info(path: str, format: str, image: BlockBackend) -> ImageInfo:
    file_size, disk_size = _sizes(path)
    cluster_size, details = (image.cluster_size, image.details) if isinstance(image, Described) else (None, {})
    return ImageInfo(path, format, image.size, file_size, disk_size, cluster_size, details=details)


def _qcow2_info(file: File, path: str) -> ImageInfo:
    from manor.backends.block.qcow2 import layout
    from manor.backends.block.qcow2.bitmaps import read_bitmaps
    from manor.backends.block.qcow2.header import COMPRESSION_TYPES, read_header
    from manor.backends.block.qcow2.snapshot_table import read_snapshots

    header = read_header(file)
    details: dict[str, DetailValue] = {"compat": "1.1" if header.version >= 3 else "0.10"}
    details["compression type"] = COMPRESSION_TYPES[header.compression_type]
    if header.version >= 3:
        details["lazy refcounts"] = bool(header.compatible & layout.LAZY_REFCOUNTS)
        details["refcount bits"] = 1 << header.refcount_order
        details["corrupt"] = bool(header.incompatible & layout.CORRUPT)
        details["extended l2"] = bool(header.incompatible & layout.EXTENDED_L2)
    if header.incompatible & layout.DATA_FILE:
        details["data file"] = header.data_file or ""
        details["data file raw"] = bool(header.autoclear & layout.DATA_FILE_RAW)
    bitmaps = read_bitmaps(file, header)
    if bitmaps is not None:
        details["bitmaps"] = tuple(bitmap.name for bitmap in bitmaps.bitmaps)
    snapshots = read_snapshots(file, header)[0] if header.snapshot_count else []
    file_size, disk_size = _sizes(path)
    if header.incompatible & layout.DATA_FILE and header.data_file and os.path.exists(resolve(path, header.data_file)):
        disk_size += _sizes(resolve(path, header.data_file))[1]
    return ImageInfo(
        path,
        "qcow2",
        header.size,
        file_size,
        disk_size,
        1 << header.cluster_bits,
        header.backing_file,
        header.backing_format,
        resolve(path, header.backing_file) if header.backing_file is not None else None,
        is_dirty=bool(header.incompatible & layout.DIRTY),
        snapshots=tuple(
            SnapshotInfo(
                snapshot.id,
                snapshot.name,
                snapshot.vm_state_size,
                snapshot.date + snapshot.date_ns / 1e9,
                snapshot.vm_clock,
                header.size if snapshot.disk_size is None else snapshot.disk_size,
            )
            for snapshot in snapshots
        ),
        details=details,
    )


def chain_info(path: str, *, format: str | None = None, force_share: bool = False) -> list[ImageInfo]:
    """The image and all that backs it, from the top. Raises ConfigError if the chain is a loop."""
    found: list[ImageInfo] = []
    seen: set[tuple[int, int]] = set()
    following: str | None = path
    while following is not None:
        if not is_uri(following):
            status = os.stat(following) if os.path.exists(following) else None
            if status is not None and (status.st_dev, status.st_ino) in seen:
                raise ConfigError(following, "the backing chain is a loop: this image is backed by itself")
            if status is not None:
                seen.add((status.st_dev, status.st_ino))
        if len(found) >= MAX_DEPTH:
            raise ConfigError(path, f"the backing chain has more than {MAX_DEPTH} images")
        found.append(image_info(following, format=format, force_share=force_share))
        following, format = found[-1].backing_path, found[-1].backing_format
    return found


def map_image(
    path: str,
    *,
    format: str | None = None,
    offset: int = 0,
    size: int | None = None,
    force_share: bool = False,
) -> Iterator[Extent]:
    """Extents of the guest's view, neighbours that are alike merged. The image is open until the iterator ends."""
    image = open_image(path, OpenOptions(format=format, read_only=True, force_share=force_share))
    try:
        end = image.size if size is None else min(image.size, offset + size)
        if offset < end:
            yield from merged(image.extents(offset, end - offset))
    finally:
        image.close()


def merged(extents: Iterator[Extent]) -> Iterator[Extent]:
    """Join neighbours of one kind and depth whose bytes, if they are in a file, follow each other there."""
    last: Extent | None = None
    for extent in extents:
        if last is not None and _continues(last, extent):
            last = Extent(last.offset, last.size + extent.size, last.kind, last.depth, last.file_offset)
            continue
        if last is not None:
            yield last
        last = extent
    if last is not None:
        yield last


def _continues(first: Extent, second: Extent) -> bool:
    if (first.kind, first.depth) != (second.kind, second.depth):
        return False
    if first.file_offset is None or second.file_offset is None:
        return first.file_offset is second.file_offset
    return first.file_offset + first.size == second.file_offset
