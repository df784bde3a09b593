"""Copy ranges of one image into another, several at a time, in pieces of one size."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Final

from manor.backends.block.api import BlockBackend, Extent
from manor.backends.block.operations.progress import Progress

PIECE: Final = 2 << 20
"""Bytes read and written at once: the largest cluster, and enough for a medium's full speed."""


class Counter:
    """Adds up what several threads have done, and tells the caller, one call at a time."""

    def __init__(self, total: int, progress: Progress) -> None:
        self._total = total
        self._progress = progress
        self._done = 0
        self._lock = threading.Lock()
        progress(0, total)

    def add(self, size: int) -> None:
        with self._lock:
            self._done += size
            self._progress(min(self._done, self._total), self._total)


def pieces(extents: Iterable[Extent], limit: int, align: int = 1, size: int = PIECE) -> Iterator[tuple[int, int]]:
    """(offset, size) of ranges that cover `extents`, cut at multiples of `size`. No two overlap.

    limit: where the last one ends at most. align: their ends are multiples of it but for the limit; like `size` a power
    of two.
    """
    start = end = 0
    for extent in extents:
        if not extent.size:
            continue
        first = max(extent.offset & -align, end)
        if first > end:
            yield from _cut(start, end, size)
            start = first
        end = max(end, min(limit, (extent.offset + extent.size + align - 1) & -align))
    yield from _cut(start, end, size)


def _cut(start: int, end: int, size: int) -> Iterator[tuple[int, int]]:
    while start < end:
        stop = min(end, (start + size) & -size)
        yield start, stop - start
        start = stop


def in_parallel(work: Callable[[int, int], None], ranges: Iterable[tuple[int, int]], threads: int) -> None:
    """Call work(offset, size) for each range, `threads` at once. The first error ends it and is raised once all
    stopped."""
    if threads <= 1:
        for offset, size in ranges:
            work(offset, size)
        return
    with ThreadPoolExecutor(threads, "image-copy") as pool:
        running: set[Future[None]] = set()
        try:
            for offset, size in ranges:
                if len(running) >= 2 * threads:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        future.result()
                running.add(pool.submit(work, offset, size))
            for future in running:
                future.result()
        finally:
            for future in running:
                future.cancel()


def data_extents(image: BlockBackend, offset: int, size: int) -> Iterator[Extent]:
    """The extents that may hold anything but zeros."""
    return (extent for extent in image.extents(offset, size) if extent.kind == "data")


def total_data(image: BlockBackend) -> int:
    """Bytes of `data_extents` of the whole image."""
    return sum(extent.size for extent in data_extents(image, 0, image.size)) if image.size else 0
