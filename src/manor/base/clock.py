"""Time sources. All times are integer nanoseconds."""

from __future__ import annotations

import time
from typing import Final, Protocol

SECOND: Final = 1_000_000_000
MILLISECOND: Final = 1_000_000
MICROSECOND: Final = 1_000


class Clock(Protocol):
    """What a device may ask about time."""

    def now_ns(self) -> int:
        """Monotonic time since an arbitrary start. Never goes back."""

    def wall_ns(self) -> int:
        """Civil time: nanoseconds since 1970-01-01T00:00:00Z. May be stepped."""


class HostClock:
    """The host's clocks. Thread: any."""

    def now_ns(self) -> int:
        return time.monotonic_ns()

    def wall_ns(self) -> int:
        return time.time_ns()


class FakeClock:
    """A clock that moves only when told to. For tests and deterministic runs."""

    def __init__(self, now_ns: int = 0, wall_ns: int = 1_600_000_000 * SECOND) -> None:
        self._now = now_ns
        self._wall_offset = wall_ns - now_ns

    def now_ns(self) -> int:
        return self._now

    def wall_ns(self) -> int:
        return self._now + self._wall_offset

    def advance(self, duration_ns: int) -> None:
        """Move both times forward. Raises ValueError for a negative duration: time is monotonic."""
        if duration_ns < 0:
            raise ValueError(f"cannot advance a monotonic clock by {duration_ns} ns")
        self._now += duration_ns

    def set_wall(self, wall_ns: int) -> None:
        """Step the civil time, as an administrator of the host may do."""
        self._wall_offset = wall_ns - self._now
