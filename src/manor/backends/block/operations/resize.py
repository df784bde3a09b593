"""Change the size of the disk that a guest sees."""

from __future__ import annotations


def resize(
    path: str,
    size: int,
    *,
    format: str | None = None,
    allow_shrink: bool = False,
    preallocation: str = "off",
) -> tuple[int, int]:
    """Set the size to `size` bytes; returns (old, new). New space reads as zeros.

    Without allow_shrink a smaller size is a ConfigError, because it throws data away. preallocation: of the new part.
    """
    raise NotImplementedError
