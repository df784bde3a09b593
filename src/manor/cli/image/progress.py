"""Progress of long operations on images: a bar on a terminal after a second, percentages where they are asked for."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from manor.cli.progress import Bar, shows_bars

DELAY_SECONDS: Final = 1.0
"""What is over sooner needs no bar."""
_STEP_SECONDS: Final = 0.1

Progress = Callable[[int, int], None]


@contextmanager
def progress(message: str, *, percent: bool, quiet: bool) -> Iterator[Progress]:
    """A callback (done, total) for a `with` block. percent: as qemu-img's -p prints it."""
    if quiet:
        yield lambda _done, _total: None
    elif percent:
        yield from _percentages()
    elif shows_bars():
        yield from _bar(message)
    else:
        yield lambda _done, _total: None


def _percentages() -> Iterator[Progress]:
    last = -1.0

    def show(done: int, total: int) -> None:
        nonlocal last
        share = 100 * done / total if total else 100.0
        if share - last >= 1 or share == 100 != last:
            last = share
            sys.stdout.write(f"    ({share:.2f}/100%)\r")
            sys.stdout.flush()

    show(0, 1)
    try:
        yield show
        show(1, 1)
    finally:
        sys.stdout.write("\n")


def _bar(message: str) -> Iterator[Progress]:
    bar = Bar()
    start = time.monotonic()
    last = 0.0

    def show(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - start < DELAY_SECONDS or now - last < _STEP_SECONDS:
            return
        if not last:
            bar.step(message)
        last = now
        bar.advance(done, total)

    try:
        yield show
    finally:
        bar.close()
