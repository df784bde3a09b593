"""The state of the interval timer (8254) as an accelerator-neutral record."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CounterState:
    """One counter. Source: Intel 8254 datasheet; KVM API, 4.72, has the same fields.

    count: the initial count, 1 to 0x10000. mode: 0 to 5, None before a control word. access: 1 low byte, 2 high byte,
    3 both, low first. reading, writing: which byte is next: 1 low, 2 high, 3 low of both, 4 high of both. loaded_ns:
    monotonic time of the host when counting began, None if it has not. latched_count, latched_status: None without one.
    """

    count: int = 0x10000
    mode: int | None = None
    access: int = 3
    is_bcd: bool = False
    gate: bool = True
    loaded_ns: int | None = None
    reading: int = 1
    writing: int = 1
    written_low: int = 0
    latched_count: int | None = None
    latched_status: int | None = None


@dataclass(frozen=True, slots=True)
class TimerState:
    """The three counters, and bit 1 of port 0x61.

    is_raised: counter 0's line, as the interrupt controller saw it last.
    """

    counters: tuple[CounterState, CounterState, CounterState]
    is_speaker_on: bool = False
    is_raised: bool = False
