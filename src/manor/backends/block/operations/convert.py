"""Copy an image into another format, and compare two."""

from __future__ import annotations

from collections.abc import Mapping

from manor.backends.block.operations.progress import Progress, silent


def convert(
    source: str,
    target: str,
    *,
    source_format: str | None = None,
    target_format: str = "raw",
    options: Mapping[str, str] | None = None,
    compressed: bool = False,
    backing_file: str | None = None,
    backing_format: str | None = None,
    sparse_size: int = 4096,
    threads: int = 4,
    snapshot: str | None = None,
    overwrite: bool = True,
    force_share: bool = False,
    into_existing: bool = False,
    cache: str = "writeback",
    progress: Progress = silent,
) -> None:
    """Copy what the guest sees of `source` into a new image `target`.

    compressed: qcow2 only. backing_file: the target holds only what differs from it. sparse_size: runs of zeros of at
    least as many bytes are left out; 0 writes everything. snapshot: copy that internal snapshot (id or name).
    into_existing: write into a target that exists (a device) instead of making one. force_share: read a source that
    somebody is writing. What was begun is removed again if it fails.
    """
    raise NotImplementedError


def compare(
    first: str,
    second: str,
    *,
    first_format: str | None = None,
    second_format: str | None = None,
    force_share: bool = False,
    progress: Progress = silent,
) -> int | None:
    """The offset of the first byte in which the guest's views differ; None if in none.

    Of different sizes, the longer may have only zeros past the end of the shorter.
    """
    raise NotImplementedError
