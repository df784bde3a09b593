"""How preparing a guest reports what it does; the caller draws it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives the steps of a long preparation. Called on the caller's own thread."""

    def step(self, message: str) -> None:
        """A new step begins, for example `downloading busybox-static`."""

    def advance(self, done: int, total: int) -> None:
        """The step is at `done` of `total` bytes. Only steps of known size report it."""

    def warn(self, message: str) -> None:
        """Something needed repair, for example a damaged file in the cache; one sentence."""


class Silent:
    """Progress nobody looks at."""

    def step(self, message: str) -> None:
        pass

    def advance(self, done: int, total: int) -> None:
        pass

    def warn(self, message: str) -> None:
        pass
