"""The time of a machine: the host's, without the time for which the machine was paused."""

from __future__ import annotations

from manor.base.clock import Clock


class PausableClock:
    """A base.clock.Clock whose monotonic time can stand still. Civil time is the host's, always: a clock chip with a
    battery goes on while the processors are stopped.

    Thread: `stop` and `start` belong to one at a time, while no vCPU runs; reading is for any.
    """

    def __init__(self, host: Clock, stopped_at: int | None = None) -> None:
        """stopped_at: stand still at this time from the beginning, as one that went on in another process."""
        self._host = host
        self._skipped = 0
        self._stopped_at = stopped_at

    def now_ns(self) -> int:
        stopped_at = self._stopped_at
        return (self._host.now_ns() if stopped_at is None else stopped_at) - self._skipped

    def wall_ns(self) -> int:
        return self._host.wall_ns()

    def host_ns(self, time_ns: int) -> int:
        """When the host's clock shows what ours shows at `time_ns`, if it is not stopped (again) before."""
        return time_ns + self._skipped

    def stop(self) -> None:
        """Stand still. Nothing happens if it does already."""
        if self._stopped_at is None:
            self._stopped_at = self._host.now_ns()

    def catch_up(self) -> int:
        """Stand still as before, but reckon the time since it stopped, or was caught up, as skipped; that time, in ns.
        It is negative where another host's clock was ahead."""
        if self._stopped_at is None:
            return 0
        now = self._host.now_ns()
        stood = now - self._stopped_at
        self._skipped += stood
        self._stopped_at = now
        return stood

    def start(self) -> int:
        """Go on from where it stopped; how long it stood still, in ns."""
        if self._stopped_at is None:
            return 0
        stood = self._host.now_ns() - self._stopped_at
        self._skipped += stood
        self._stopped_at = None
        return stood
