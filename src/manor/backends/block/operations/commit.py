"""Write what an overlay holds into an image below it."""

from __future__ import annotations

from collections.abc import Iterator

from manor.backends.block.api import BlockBackend, Extent
from manor.backends.block.open import OpenOptions, is_uri, open_image, resolve
from manor.backends.block.operations.copying import Counter, in_parallel, pieces
from manor.backends.block.operations.info import ImageInfo, chain_info
from manor.backends.block.operations.progress import Progress, silent
from manor.backends.block.qcow2.image import Qcow2Image
from manor.backends.block.qcow2.reshape import empty
from manor.base.errors import ConfigError

_THREADS = 4


def commit(
    path: str,
    *,
    format: str | None = None,
    base: str | None = None,
    keep: bool = False,
    progress: Progress = silent,
) -> int:
    """Copy the data of `path` (and of images between) into its backing image, or into `base` further down.

    The base grows if it is smaller. Returns the bytes copied. Afterwards `path` is emptied if the base is directly
    below it, so that it reads the same as before; keep: it stays as it is. The base is flushed before the overlay
    is emptied, so a crash in between loses nothing. Images between the two are invalid afterwards, as they were
    made over the old base; so is any other overlay of the base.
    """
    chain = chain_info(path, format=format)
    below = _find_base(chain, path, base)
    top = _open_over_base(chain, below)
    try:
        target = _lowest(top, below)
        copied = _copy(top, target, below, progress)
        target.flush()
        if below == 1 and not keep:
            empty(top)
        return copied
    finally:
        top.close()


def _find_base(chain: list[ImageInfo], path: str, base: str | None) -> int:
    if len(chain) < 2:
        raise ConfigError(path, "it has no backing image to commit to")
    if base is None:
        return 1
    for index, info in enumerate(chain[1:], 1):
        if base in (info.path, chain[index - 1].backing_file) or _is_same(resolve(path, base), info.path):
            return index
    raise ConfigError(path, f"{base} is not in its backing chain: {', '.join(info.path for info in chain[1:])}")


def _is_same(first: str, second: str) -> bool:
    from os.path import exists, samefile

    return not is_uri(first) and not is_uri(second) and exists(first) and exists(second) and samefile(first, second)


def _open_over_base(chain: list[ImageInfo], below: int) -> Qcow2Image:
    """The top image over the images between over the base, which is open for writing."""
    lower: BlockBackend = open_image(chain[below].path, OpenOptions(format=chain[below].format))
    try:
        for index in range(below - 1, -1, -1):
            info = chain[index]
            options = OpenOptions(format=info.format, read_only=index > 0, backing=False)
            image = open_image(info.path, options)
            if not isinstance(image, Qcow2Image):
                image.close()
                raise ConfigError(info.path, f"only from qcow2 images can be committed; this is {info.format}")
            image.core.attach(lower)
            lower = image
    except BaseException:
        lower.close()
        raise
    assert isinstance(lower, Qcow2Image)
    return lower


def _lowest(top: Qcow2Image, below: int) -> BlockBackend:
    image: BlockBackend = top
    for _ in range(below):
        assert isinstance(image, Qcow2Image)
        assert image.core.backing is not None
        image = image.core.backing
    return image


def _copy(top: Qcow2Image, target: BlockBackend, below: int, progress: Progress) -> int:
    old_size = target.size
    if target.size < top.size:
        target.resize(top.size)
    counter = Counter(top.size, progress)

    def copy(offset: int, size: int) -> None:
        data = memoryview(bytearray(size))
        top.read(offset, [data])
        target.write(offset, [data])
        counter.add(size)

    shortest = min(_sizes_between(top, below), default=top.size)
    copied = 0

    def wanted() -> Iterator[Extent]:
        nonlocal copied
        # As a list: what is written into the base changes what an iterator over it would say.
        for extent in list(top.extents(0, top.size)) if top.size else []:
            is_above = extent.kind != "hole" and extent.depth < below
            is_cut = extent.kind == "hole" and extent.offset + extent.size > shortest and extent.offset < old_size
            if is_above and extent.kind == "data":
                copied += extent.size
                yield extent
                continue
            if is_above or is_cut:
                target.write_zeroes(extent.offset, extent.size, True)
            counter.add(extent.size)

    in_parallel(copy, pieces(wanted(), top.size), _THREADS)
    return copied


def _sizes_between(top: Qcow2Image, below: int) -> Iterator[int]:
    """Sizes of the images between: one that is shorter than the base cuts the base's data off."""
    image: BlockBackend = top
    for _ in range(below - 1):
        assert isinstance(image, Qcow2Image)
        assert image.core.backing is not None
        image = image.core.backing
        yield image.size
