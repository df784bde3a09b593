"""One counter of an 8254: what it shows and drives at any time, from when it was loaded with what.

Source: Intel 8254 Programmable Interval Timer datasheet (order number 231164), "Mode Definitions".

Nothing ticks: count and output are computed from the time since the load. Seen from a guest this differs from the
chip as follows: a new count takes effect at once in every mode (modes 2 and 3 would finish the present period, modes 1
and 5 wait for the next trigger), the first clock after a load is not lost, and a closed gate does not halt modes 0
and 4.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from manor.base.clock import SECOND
from manor.spec.timer_state import CounterState

FREQUENCY_HZ: Final = 1_193_182
"""The colour subcarrier of NTSC, 315/88 MHz, divided by 3: the input of every PC's timer."""
LOW, HIGH, LOW_OF_BOTH, HIGH_OF_BOTH = 1, 2, 3, 4
MAX_COUNT: Final = 0x10000
MAX_BCD_COUNT: Final = 10_000
PERIODIC: Final = (2, 3)
TRIGGERED: Final = (1, 5)
"""Modes that begin with an edge of the gate."""


def ticks(duration_ns: int) -> int:
    """Whole input clocks in a time."""
    return duration_ns * FREQUENCY_HZ // SECOND


def nanoseconds(count: int) -> int:
    """The first nanosecond at which `count` input clocks have passed."""
    return -(-count * SECOND // FREQUENCY_HZ)


class Counter:
    """One counter. Times are ns of the device's clock."""

    def __init__(self) -> None:
        self.state = CounterState()

    # -- programming --

    def control(self, word: int) -> None:
        """A control word for this counter, which is no latch command: mode, access and number format."""
        mode = word >> 1 & 7
        access = word >> 4 & 3
        self.state = CounterState(
            mode=mode if mode < 6 else mode - 4,  # bit 2 is ignored for modes 2 and 3
            access=access,
            is_bcd=bool(word & 1),
            gate=self.state.gate,
            reading=LOW_OF_BOTH if access == 3 else access,
            writing=LOW_OF_BOTH if access == 3 else access,
        )

    def write(self, value: int, now: int) -> bool:
        """A byte of a new count; whether the count is complete and counting begins anew."""
        state = self.state
        if state.mode is None:
            return False
        if state.writing == LOW_OF_BOTH:
            self.state = replace(state, writing=HIGH_OF_BOTH, written_low=value)
            return False
        written = value if state.writing == LOW else value << 8
        if state.writing == HIGH_OF_BOTH:
            written |= state.written_low
        count = _from_bcd(written) or MAX_BCD_COUNT if state.is_bcd else written or MAX_COUNT
        writing = LOW_OF_BOTH if state.writing == HIGH_OF_BOTH else state.writing
        waits = state.mode in TRIGGERED or (state.mode in PERIODIC and not state.gate)
        self.state = replace(state, count=count, loaded_ns=state.loaded_ns if waits else now, writing=writing)
        return True

    def set_gate(self, is_open: bool, now: int) -> None:
        """Drive the gate: opening starts modes 1, 2, 3 and 5, closing stops modes 2 and 3."""
        state = self.state
        loaded = state.loaded_ns
        if is_open and not state.gate and state.mode in (*TRIGGERED, *PERIODIC):
            loaded = now
        elif not is_open and state.mode in PERIODIC:
            loaded = None
        self.state = replace(state, gate=is_open, loaded_ns=loaded)

    # -- reading --

    def latch_count(self, now: int) -> None:
        if self.state.latched_count is None:
            self.state = replace(self.state, latched_count=self.shown(now))

    def latch_status(self, now: int) -> None:
        """Output, null count (always clear: a count takes effect at once), access, mode and number format."""
        state = self.state
        if state.latched_status is None:
            status = self.output(now) << 7 | state.access << 4 | (state.mode or 0) << 1 | state.is_bcd
            self.state = replace(state, latched_status=status)

    def read(self, now: int) -> int:
        """The next byte: a latched status, of a latched count, else of the count as it is now."""
        state = self.state
        if state.latched_status is not None:
            self.state = replace(state, latched_status=None)
            return state.latched_status
        count = self.shown(now) if state.latched_count is None else state.latched_count
        if state.reading == LOW_OF_BOTH:
            self.state = replace(state, reading=HIGH_OF_BOTH, latched_count=state.latched_count)
            return count & 0xFF
        following = LOW_OF_BOTH if state.reading == HIGH_OF_BOTH else state.reading
        self.state = replace(state, reading=following, latched_count=None)
        return count & 0xFF if state.reading == LOW else count >> 8

    def shown(self, now: int) -> int:
        """The 16 bits of the counting element."""
        state = self.state
        passed = 0 if state.loaded_ns is None else ticks(now - state.loaded_ns)
        if state.mode == 2:
            value = state.count - passed % state.count
        elif state.mode == 3:
            value = state.count - 2 * passed % state.count
        else:
            value = (state.count - passed) % (MAX_BCD_COUNT if state.is_bcd else MAX_COUNT)
        return _to_bcd(value % MAX_BCD_COUNT) if state.is_bcd else value & 0xFFFF

    # -- output --

    def output(self, now: int) -> bool:
        """The level of OUT."""
        state = self.state
        if state.loaded_ns is None:
            return state.mode not in (None, 0)
        passed = ticks(now - state.loaded_ns)
        match state.mode:
            case 0 | 1:
                return passed >= state.count
            case 2:
                return passed % state.count != state.count - 1
            case 3:
                return passed % state.count < (state.count + 1) // 2
            case _:
                return passed != state.count

    def next_rise(self, now: int) -> int | None:
        """When OUT next goes from low to high after `now`; None if it does not by itself."""
        state = self.state
        if state.loaded_ns is None:
            return None
        if state.mode in PERIODIC:
            periods = ticks(now - state.loaded_ns) // state.count + 1
            return state.loaded_ns + nanoseconds(periods * state.count)
        at = state.loaded_ns + nanoseconds(state.count + (state.mode in (4, 5)))
        return at if at > now else None


def _from_bcd(value: int) -> int:
    """Four decimal digits; a digit above 9 counts as it stands."""
    return sum((value >> 4 * place & 15) * (1, 10, 100, 1000)[place] for place in range(4)) % MAX_BCD_COUNT


def _to_bcd(value: int) -> int:
    return sum(value // (1, 10, 100, 1000)[place] % 10 << 4 * place for place in range(4))
