"""A disk of its own for a VM: a copy-on-write overlay of a stored image."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from manor.base.errors import ConfigError, HostError
from manor.base.units import format_size
from manor.images.store import Store, StoredImage

SECTOR: Final = 512


def clone(store: Store, image: StoredImage, disk: Path, size: int | None = None, final: Path | None = None) -> None:
    """Make `disk`, a qcow2 overlay of `image`. Takes as long as writing a few KiB.

    size: bytes the guest sees, at least the image's; None for the image's. final: where `disk` will be moved, if it
    will; it is what the store notes as the image's user.
    """
    if size is not None and size < image.metadata.virtual_size:
        raise ConfigError(
            "size",
            f"{format_size(size)} is less than the image {image} has; give at least "
            f"{format_size(image.metadata.virtual_size)}",
        )
    size = size or image.metadata.virtual_size
    if size % SECTOR:
        raise ConfigError("size", f"{size} bytes is not a multiple of {SECTOR}")
    with store.use(image, final or disk) as base:
        _write_overlay(disk, size, base, image.metadata.format)


def _write_overlay(disk: Path, size: int, base: Path, base_format: str) -> None:
    # Here, as what only looks at images needs none of it.
    from manor.backends.block.file import HostFile
    from manor.backends.block.qcow2.create import create_qcow2

    try:
        descriptor = os.open(disk, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise HostError.from_os_error(f"making the disk {disk}", error) from error
    file = HostFile(descriptor, os.fspath(disk), read_only=False)
    try:
        create_qcow2(file, size, backing_file=os.fspath(base), backing_format=base_format)
    except BaseException:
        disk.unlink()
        raise
    finally:
        file.close()
