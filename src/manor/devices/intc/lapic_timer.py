"""The timer of a local APIC: one-shot, periodic and TSC-deadline.

Source: Intel SDM volume 3, 11.5.4 "APIC Timer" and 11.5.4.1 "TSC-Deadline Mode".

The count-down clock is 1 GHz before the divider (APIC_TIMER_HZ): one tick is one nanosecond.
Thread: APIC bus lock held; the owner's callback takes it before it calls `expire`.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Final

from manor.base.clock import SECOND, Clock
from manor.base.timers import TimerHandle, Timers

APIC_TIMER_HZ: Final = SECOND
_U64: Final = (1 << 64) - 1
_FOREVER_NS: Final = 1 << 62
"""Deadlines this far away (146 years) are never armed."""
MIN_PERIOD_NS: Final = 20_000
"""Shortest period of a periodic timer: keeps a guest from making the host's I/O loop spin."""


class TimerMode(IntEnum):
    ONE_SHOT = 0
    PERIODIC = 1
    TSC_DEADLINE = 2
    RESERVED = 3


class LapicTimer:
    """Counts, and says through `expire` when it is due. `on_due` is called by the timer queue."""

    def __init__(
        self, clock: Clock, timers: Timers, tsc_frequency_hz: int, on_due: Callable[[], None]
    ) -> None:
        self._clock = clock
        self._timers = timers
        self._tsc_hz = tsc_frequency_hz
        self._on_due = on_due
        self._handle: TimerHandle | None = None
        self._expiry: int | None = None
        self.tsc_offset = 0
        self.mode = TimerMode.ONE_SHOT
        self.initial_count = 0
        self.divider = 2
        self.tsc_deadline = 0

    def reset(self) -> None:
        """Stopped, one-shot, divide by 2. The TSC offset belongs to the vCPU and stays."""
        self._disarm()
        self.mode = TimerMode.ONE_SHOT
        self.initial_count = 0
        self.divider = 2
        self.tsc_deadline = 0

    # --- what software sees ---------------------------------------------------------------------------------

    def tsc(self) -> int:
        """The vCPU's time-stamp counter, modulo 2**64."""
        return (self._clock.now_ns() * self._tsc_hz // SECOND + self.tsc_offset) & _U64

    def current_count(self) -> int:
        """Ticks until expiry; 0 when stopped or in TSC-deadline mode."""
        if self._expiry is None or self.mode is TimerMode.TSC_DEADLINE:
            return 0
        left = max(0, self._expiry - self._clock.now_ns())
        return min(-(-left // self.divider), self.initial_count)

    def set_initial_count(self, count: int) -> None:
        """Start counting from `count`; 0 stops. Ignored in TSC-deadline mode."""
        if self.mode is TimerMode.TSC_DEADLINE:
            return
        self.initial_count = count
        self._disarm()
        if count:
            self._arm(self._clock.now_ns() + count * self.divider)

    def set_divider(self, divider: int) -> None:
        """1 to 128; a running count goes on at the new rate."""
        left = self.current_count()
        self.divider = divider
        if self._expiry is not None and self.mode is not TimerMode.TSC_DEADLINE:
            self._disarm()
            self._arm(self._clock.now_ns() + left * divider)

    def set_mode(self, mode: TimerMode) -> None:
        """Change the mode. Entering or leaving TSC-deadline mode stops the timer."""
        if mode is self.mode:
            return
        if TimerMode.TSC_DEADLINE in (mode, self.mode):
            self._disarm()
            self.tsc_deadline = 0
            self.initial_count = 0
        self.mode = mode

    def set_deadline(self, deadline: int) -> None:
        """Write of the TSC_DEADLINE register: 0 stops. Ignored in the other modes."""
        if self.mode is not TimerMode.TSC_DEADLINE:
            return
        self.tsc_deadline = deadline
        self.rearm()

    def rearm(self) -> None:
        """Compute a TSC deadline's time again, after the TSC offset changed."""
        if self.mode is not TimerMode.TSC_DEADLINE:
            return
        self._disarm()
        if self.tsc_deadline:
            # The first nanosecond at which tsc() has reached the deadline.
            ticks = self.tsc_deadline - self.tsc()
            now = self._clock.now_ns()
            self._arm(now if ticks <= 0 else now + -(-ticks * SECOND // self._tsc_hz))

    # --- expiry ---------------------------------------------------------------------------------------------

    def expire(self) -> bool:
        """Whether the timer is due; then also go on as the mode says. Missed periods count once."""
        expiry = self._expiry
        if expiry is None:
            return False
        now = self._clock.now_ns()
        if now < expiry:
            return False
        self._disarm()
        if self.mode is TimerMode.PERIODIC:
            period = max(MIN_PERIOD_NS, self.initial_count * self.divider)
            self._arm(expiry + ((now - expiry) // period + 1) * period)
        else:
            self.tsc_deadline = 0
        return True

    def due(self) -> None:
        """The timer queue called; if it was early, or for a count since replaced, wait again."""
        if self._expiry is not None and self._clock.now_ns() < self._expiry:
            if self._handle is not None:
                self._handle.cancel()
            self._handle = self._timers.at(self._expiry, self._on_due)

    def remaining_ns(self) -> int | None:
        """Time until expiry, for saving; None when stopped."""
        return None if self._expiry is None else max(0, self._expiry - self._clock.now_ns())

    def restore(self, remaining_ns: int | None) -> None:
        """Continue a saved count."""
        self._disarm()
        if remaining_ns is not None:
            self._arm(self._clock.now_ns() + remaining_ns)

    def _arm(self, expiry: int) -> None:
        if expiry < _FOREVER_NS:
            self._expiry = expiry
            self._handle = self._timers.at(expiry, self._on_due)

    def _disarm(self) -> None:
        self._expiry = None
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
