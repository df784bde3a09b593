"""Internal snapshots of qcow2 images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from manor.backends.block.open import OpenOptions, open_image
from manor.backends.block.operations.info import SnapshotInfo, image_info
from manor.backends.block.qcow2 import snapshots
from manor.backends.block.qcow2.image import Qcow2Image
from manor.base.errors import ConfigError


def list_snapshots(path: str, *, format: str | None = None, force_share: bool = False) -> list[SnapshotInfo]:
    """The snapshots in the image, in its own order; empty for formats without."""
    return list(image_info(path, format=format, force_share=force_share).snapshots)


def create_snapshot(path: str, name: str, *, format: str | None = None) -> SnapshotInfo:
    """Keep the image's present contents under `name`."""
    with _opened(path, format) as image:
        made = snapshots.create(image, name)
        date = made.date + made.date_ns / 1e9
        return SnapshotInfo(made.id, made.name, 0, date, 0, made.disk_size or 0)


def apply_snapshot(path: str, snapshot: str, *, format: str | None = None) -> None:
    """Make the contents of `snapshot` (id or name) the present ones, which are lost unless they have a snapshot."""
    with _opened(path, format) as image:
        snapshots.apply(image, snapshot)


def delete_snapshot(path: str, snapshot: str, *, format: str | None = None) -> None:
    """Forget `snapshot` (id or name) and free what only it used."""
    with _opened(path, format) as image:
        snapshots.delete(image, snapshot)


@contextmanager
def _opened(path: str, format: str | None) -> Iterator[Qcow2Image]:
    image = open_image(path, OpenOptions(format=format, backing=False))
    try:
        if not isinstance(image, Qcow2Image):
            raise ConfigError(path, "only qcow2 images have snapshots inside; convert it, or make an overlay")
        yield image
    finally:
        image.close()
