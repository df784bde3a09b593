"""Change the size of the disk that a guest sees."""

from __future__ import annotations

from manor.backends.block.buffers import zeros
from manor.backends.block.open import OpenOptions, open_image
from manor.base.errors import ConfigError
from manor.base.units import format_size


def resize(
    path: str,
    size: int,
    *,
    format: str | None = None,
    allow_shrink: bool = False,
    preallocation: str = "off",
) -> tuple[int, int]:
    """Set the size to `size` bytes (rounded up to 512); returns (old, new). New space reads as zeros.

    Without allow_shrink a smaller size is a ConfigError, because it throws data away. preallocation: "full" writes the
    new part.
    """
    if preallocation not in ("off", "full"):
        raise ConfigError("preallocation", f"{preallocation!r} is neither off nor full")
    size = (size + 511) & -512
    image = open_image(path, OpenOptions(format=format))
    try:
        old = image.size
        if size < old and not allow_shrink:
            raise ConfigError(
                path,
                f"it has {format_size(old)}, and {format_size(size)} would cut off what is behind; shrink"
                " the file systems"
                " in it first, then say --shrink",
            )
        image.resize(size)
        if preallocation == "full":
            for start in range(old, size, 1 << 24):
                count = min(1 << 24, size - start)
                image.write(start, zeros(count))
        return old, size
    finally:
        image.close()
