"""Give an image another backing image."""

from __future__ import annotations

from manor.backends.block.operations.progress import Progress, silent


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
    raise NotImplementedError
