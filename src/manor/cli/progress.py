"""Progress of preparing the default guest: a bar on a terminal that can move its cursor, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from manor.base.units import MiB
from manor.guests.progress import Progress

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress


class Lines:
    """One line on standard error for each step."""

    def step(self, message: str) -> None:
        print(f"manor: {message} ...", file=sys.stderr)

    def advance(self, done: int, total: int) -> None:
        """Nothing: a log has no use for it."""

    def warn(self, message: str) -> None:
        print(f"manor: {message}.", file=sys.stderr)


class Bar:
    """One bar, of the current step, drawn by rich, which is loaded when the first step begins.

    Bytes are shown only for a step that reports them.
    """

    def __init__(self) -> None:
        self._bar: RichProgress | None = None

    def step(self, message: str) -> None:
        bar = self._bar_started()
        for task in bar.task_ids:
            bar.remove_task(task)
        bar.add_task(message, total=None, amount="")
        bar.refresh()

    def advance(self, done: int, total: int) -> None:
        bar = self._bar_started()
        for task in bar.task_ids:
            bar.update(task, completed=done, total=total, amount=f"{done / MiB:.1f} of {total / MiB:.1f} MiB")

    def warn(self, message: str) -> None:
        self._bar_started().console.print(f"manor: {message}.", highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _bar_started(self) -> RichProgress:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[amount]}"),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.start()
        return self._bar


def shows_bars() -> bool:
    """Whether standard error is a terminal that can move its cursor."""
    return sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"


@contextmanager
def shown_progress() -> Iterator[Progress]:
    """Progress for a `with` block, in the form that suits standard error."""
    if not shows_bars():
        yield Lines()
        return
    bar = Bar()
    try:
        yield bar
    finally:
        bar.close()
