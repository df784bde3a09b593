"""Internal snapshots of qcow2 images."""

from __future__ import annotations

from manor.backends.block.operations.info import SnapshotInfo


def list_snapshots(path: str, *, format: str | None = None, force_share: bool = False) -> list[SnapshotInfo]:
    """The snapshots in the image, in its own order; empty for formats without."""
    raise NotImplementedError


def create_snapshot(path: str, name: str, *, format: str | None = None) -> SnapshotInfo:
    """Keep the image's present contents under `name`."""
    raise NotImplementedError


def apply_snapshot(path: str, snapshot: str, *, format: str | None = None) -> None:
    """Make the contents of `snapshot` (id or name) the present ones, which are lost unless they have a snapshot."""
    raise NotImplementedError


def delete_snapshot(path: str, snapshot: str, *, format: str | None = None) -> None:
    """Forget `snapshot` (id or name) and free what only it used."""
    raise NotImplementedError
