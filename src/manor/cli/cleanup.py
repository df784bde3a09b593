"""Signals that end a command cleanly."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

import click

from manor.cli.status import EXIT_SIGNAL

ENDING_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def cleaning_up() -> Iterator[None]:
    """End by an exception where signals would end the process, for a `with` block: so that nothing is left behind."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise click.exceptions.Exit(EXIT_SIGNAL + number)

    old = {number: signal.signal(number, leave) for number in ENDING_SIGNALS}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
