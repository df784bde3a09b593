"""Give an image another backing image."""

from __future__ import annotations

from manor.backends.block.api import BlockBackend
from manor.backends.block.buffers import is_zero
from manor.backends.block.open import OpenOptions, open_image, resolve
from manor.backends.block.operations.copying import Counter, pieces
from manor.backends.block.operations.progress import Progress, silent
from manor.backends.block.qcow2 import layout
from manor.backends.block.qcow2.image import Qcow2Image
from manor.backends.block.qcow2.reshape import set_backing
from manor.base.errors import ConfigError


def rebase(
    path: str,
    backing_file: str | None,
    *,
    format: str | None = None,
    backing_format: str | None = None,
    unsafe: bool = False,
    progress: Progress = silent,
) -> None:
    """Back `path` by `backing_file` (None: by nothing), whose format must be given.

    The guest sees the same as before: what differs between the old and the new backing image is copied into `path`
    first. unsafe: only the name is changed, for a backing image that was moved; the caller answers for its contents.
    """
    if backing_file is not None and not backing_format:
        raise ConfigError("backing file", f"say what format {backing_file} has (-F FORMAT); guessing it is not safe")
    image = open_image(path, OpenOptions(format=format, backing=not unsafe))
    try:
        if not isinstance(image, Qcow2Image):
            raise ConfigError(path, "only qcow2 images have backing images that can be changed")
        if image.core.header.autoclear & layout.DATA_FILE_RAW and backing_file is not None:
            raise ConfigError(path, "its data file is a raw image of its own, which excludes a backing image")
        if not unsafe:
            _keep_contents(image, path, backing_file, backing_format, progress)
        set_backing(image, backing_file, backing_format)
    finally:
        image.close()


def _keep_contents(
    image: Qcow2Image, path: str, backing_file: str | None, backing_format: str | None, progress: Progress
) -> None:
    new: BlockBackend | None = None
    if backing_file is not None:
        new = open_image(resolve(path, backing_file), OpenOptions(format=backing_format, read_only=True))
    try:
        _copy_differences(image, new, progress)
        image.flush()
    finally:
        if new is not None:
            new.close()


def _copy_differences(image: Qcow2Image, new: BlockBackend | None, progress: Progress) -> None:
    """Write into `image` what the guest sees through it and would not see through `new`, cluster by cluster."""
    image.core.is_backing_unknown = True  # zeros have to be marked where the new image has something
    counter = Counter(image.size, progress)
    unit = image.core.geometry.cluster_size
    below = [extent for extent in image.extents(0, image.size) if extent.depth or extent.kind == "hole"]
    new_size = new.size if new is not None else 0
    for offset, size in pieces(iter(below), image.size, unit):
        data = memoryview(bytearray(size))
        image.read(offset, [data])
        other = memoryview(bytearray(size))
        inside = max(0, min(size, new_size - offset))
        if new is not None and inside:
            new.read(offset, [other[:inside]])
        for start in range(0, size, unit):
            piece = data[start : start + unit]
            if piece == other[start : start + unit]:
                continue
            if is_zero(piece):
                image.write_zeroes(offset + start, len(piece), True)
            else:
                image.write(offset + start, [piece])
        counter.add(size)
