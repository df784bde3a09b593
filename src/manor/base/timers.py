"""Deferred calls, as devices see them. The I/O loop implements this; tests use `testing.fakes.FakeTimers`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class TimerHandle(Protocol):
    """One pending call."""

    def cancel(self) -> None:
        """Forget the call; nothing happens if it ran already or was cancelled before. Thread: any."""


class Timers(Protocol):
    """Runs callbacks at points of `Clock.now_ns` time.

    `at` may be called from any thread, with any device lock held: an implementation takes only its own
    lock, never calls back from inside `at`, and holds no lock of its own while a callback runs.
    A callback that is being started while `cancel` runs on another thread may still be called once:
    callers check their own state. Callbacks run with the machine lock held.
    """

    def at(self, deadline_ns: int, callback: Callable[[], None]) -> TimerHandle:
        """Call `callback` once when `Clock.now_ns() >= deadline_ns`; a deadline in the past means soon."""
