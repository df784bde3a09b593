"""Give the host space back that an image does not need."""

from __future__ import annotations

from manor.backends.block.operations.progress import Progress, silent


def compact(
    path: str,
    *,
    format: str | None = None,
    rewrite: bool = False,
    progress: Progress = silent,
) -> tuple[int, int]:
    """Release clusters that hold zeros or that nothing uses; returns the bytes on the host (before, after).

    In place: works on any image, with snapshots too; the file may keep its length and get holes. rewrite: make a new file beside
    it, without gaps, and put it in the old one's place when it is complete (refused with internal snapshots).
    """
    raise NotImplementedError
