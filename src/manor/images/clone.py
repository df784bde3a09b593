"""A disk of its own for a VM: a copy-on-write overlay of a stored image."""

from __future__ import annotations

import os
from pathlib import Path

from manor.base.errors import ConfigError
from manor.base.units import format_size
from manor.images.store import Store, StoredImage


def clone(store: Store, image: StoredImage, disk: Path, size: int | None = None, final: Path | None = None) -> None:
    """Make `disk`, a qcow2 overlay of `image`. Takes as long as writing a few KiB.

    size: bytes the guest sees, at least the image's; None for the image's. final: where `disk` will be moved, if it
    will; it is what the store notes as the image's user.
    """
    from manor.backends.block.operations.create import create

    if size is not None and size < image.metadata.virtual_size:
        raise ConfigError(
            "size",
            f"{format_size(size)} is less than the image {image} has; give at least "
            f"{format_size(image.metadata.virtual_size)}",
        )
    with store.use(image, final or disk) as base:
        create(
            os.fspath(disk), size, format="qcow2", backing_file=os.fspath(base), backing_format=image.metadata.format
        )
