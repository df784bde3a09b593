"""What an image is, and where each part of it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from manor.backends.block.api import Extent

DetailValue = str | int | bool | tuple[str, ...]


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
    raise NotImplementedError


def chain_info(path: str, *, format: str | None = None, force_share: bool = False) -> list[ImageInfo]:
    """The image and all that backs it, from the top."""
    raise NotImplementedError


def map_image(
    path: str,
    *,
    format: str | None = None,
    offset: int = 0,
    size: int | None = None,
    force_share: bool = False,
) -> Iterator[Extent]:
    """Extents of the guest's view, neighbours that are alike merged. The image is open until the iterator ends."""
    raise NotImplementedError
