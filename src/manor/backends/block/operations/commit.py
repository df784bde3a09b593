"""Write what an overlay holds into an image below it."""

from __future__ import annotations

from manor.backends.block.operations.progress import Progress, silent


def commit(
    path: str,
    *,
    format: str | None = None,
    base: str | None = None,
    keep: bool = False,
    progress: Progress = silent,
) -> int:
    """Copy the data of `path` (and of images between) into its backing image, or into `base` further down.

    The base grows if it is smaller. Returns the bytes copied. Afterwards `path` is emptied, so that it reads the same as
    before through its chain; keep: it stays as it is. The base is flushed before the overlay is emptied, so a crash in
    between loses nothing. Images between the two are invalid afterwards, as they were made over the old base.
    """
    raise NotImplementedError
