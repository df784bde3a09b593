"""Stand-ins for the parts around a device."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from manor.base.clock import FakeClock
from manor.bus.irq import IrqLine

__all__ = ["FakeClock", "FakeIrq", "FakeMsi", "FakeTimers", "FakeWork"]


class FakeIrq:
    """An interrupt controller that remembers: levels by number, and every change. Use `line(n)` as an
    IrqLine."""

    def __init__(self) -> None:
        self.levels: dict[int, bool] = {}
        self.changes: list[tuple[int, bool]] = []

    def set_level(self, number: int, level: bool) -> None:
        self.levels[number] = level
        self.changes.append((number, level))

    def line(self, number: int = 0) -> IrqLine:
        """A wire into this controller."""
        return IrqLine(self, number)

    def is_raised(self, number: int = 0) -> bool:
        return self.levels.get(number, False)

    def edges(self, number: int = 0) -> int:
        """How often the line went from low to high."""
        return sum(1 for line, level in self.changes if line == number and level)


class FakeMsi:
    """Remembers the interrupt messages sent."""

    def __init__(self) -> None:
        self.messages: list[tuple[int, int]] = []

    def send(self, address: int, data: int) -> None:
        self.messages.append((address, data))


class FakeTimerHandle:
    """A pending call of FakeTimers."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class FakeTimers:
    """Timers driven by a FakeClock: `advance` moves time and runs what is due, in order of deadline."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self._queue: list[tuple[int, int, FakeTimerHandle]] = []
        self._sequence = 0

    def at(self, deadline_ns: int, callback: Callable[[], None]) -> FakeTimerHandle:
        handle = FakeTimerHandle(callback)
        self._sequence += 1
        heapq.heappush(self._queue, (deadline_ns, self._sequence, handle))
        return handle

    def pending(self) -> list[int]:
        """Deadlines of the calls not cancelled, ascending."""
        return sorted(deadline for deadline, _, handle in self._queue if handle.callback is not None)

    def advance(self, duration_ns: int) -> None:
        """Move the clock by `duration_ns`; each callback sees the clock at its own deadline, never
        earlier."""
        end = self.clock.now_ns() + duration_ns
        while self._queue and self._queue[0][0] <= end:
            deadline, _, handle = heapq.heappop(self._queue)
            if handle.callback is None:
                continue
            self.clock.advance(max(0, deadline - self.clock.now_ns()))
            callback, handle.callback = handle.callback, None
            callback()
        self.clock.advance(end - self.clock.now_ns())


class FakeWork:
    """base.work.Work that collects jobs until `run`. is_vcpu: whether short jobs are taken as such."""

    def __init__(self, is_vcpu: bool = False) -> None:
        self.is_vcpu = is_vcpu
        self.jobs: list[Callable[[], None]] = []
        self.short_jobs: list[Callable[[], None]] = []

    def submit(self, job: Callable[[], None]) -> None:
        self.jobs.append(job)

    def submit_short(self, job: Callable[[], None]) -> bool:
        if self.is_vcpu:
            self.short_jobs.append(job)
        return self.is_vcpu

    def run_short(self) -> None:
        """What a vCPU does when it has left the device."""
        while self.short_jobs:
            self.short_jobs.pop(0)()

    def run(self) -> int:
        """Run all jobs and those they add; how many."""
        count = 0
        while self.short_jobs or self.jobs:
            (self.short_jobs or self.jobs).pop(0)()
            count += 1
        return count
