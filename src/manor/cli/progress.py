"""Progress of preparing the default guest: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

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
    """A bar for each step, drawn by rich, which is loaded when the first step begins."""

    def __init__(self) -> None:
        self._bar: RichProgress | None = None
        self._task = 0

    def step(self, message: str) -> None:
        from rich.progress import TaskID

        bar = self._bar_started()
        if bar.tasks:
            self._finish(bar)
        self._task = bar.add_task(message, total=None)
        bar.refresh()
        assert isinstance(TaskID(self._task), int)

    def advance(self, done: int, total: int) -> None:
        from rich.progress import TaskID

        self._bar_started().update(TaskID(self._task), completed=done, total=total)

    def warn(self, message: str) -> None:
        self._bar_started().console.print(f"manor: {message}.", highlight=False)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._finish(self._bar)
            self._bar.stop()
            self._bar = None

    def _bar_started(self) -> RichProgress:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                DownloadColumn(binary_units=True),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.start()
        return self._bar

    def _finish(self, bar: RichProgress) -> None:
        from rich.progress import TaskID

        task = TaskID(self._task)
        if bar.tasks:
            total = bar.tasks[-1].total or 1
            bar.update(task, total=total, completed=total)


@contextmanager
def shown_progress() -> Iterator[Progress]:
    """Progress for a `with` block, in the form that suits standard error."""
    if not sys.stderr.isatty():
        yield Lines()
        return
    bar = Bar()
    try:
        yield bar
    finally:
        bar.close()
