"""The 8254's state between KVM's structure and our record. Source: Linux, Documentation/virt/kvm/api.rst, 4.72.

KVM has a moment of loading for every counter, and mode 0xFF for one that was never programmed.
"""

from __future__ import annotations

from typing import Final

from manor.accel.kvm import abi
from manor.spec.timer_state import CounterState, TimerState

NO_MODE: Final = 0xFF
_BOTH: Final = 3
_HIGH_OF_BOTH: Final = 4
_LATCHED_HIGH: Final = 2
_SPEAKER_ON: Final = 2
"""KVM_PIT_FLAGS_SPEAKER_DATA_ON."""


def read(pit: abi.PitState) -> TimerState:
    first, second, third = (_read_counter(channel) for channel in pit.channels)
    return TimerState((first, second, third), bool(pit.flags & _SPEAKER_ON))


def build(state: TimerState) -> abi.PitState:
    pit = abi.PitState()
    for channel, counter in zip(pit.channels, state.counters, strict=True):
        _write_counter(channel, counter)
    pit.flags = _SPEAKER_ON if state.is_speaker_on else 0
    return pit


def _read_counter(channel: abi.PitChannel) -> CounterState:
    has_mode = channel.mode != NO_MODE
    return CounterState(
        count=channel.count or 0x10000,
        mode=channel.mode if has_mode else None,
        access=channel.rw_mode or 3,
        is_bcd=bool(channel.bcd),
        gate=bool(channel.gate),
        loaded_ns=channel.count_load_time if has_mode else None,
        reading=_reading(channel),
        writing=channel.write_state or 1,
        written_low=channel.write_latch,
        latched_count=channel.latched_count if channel.count_latched else None,
        latched_status=channel.status if channel.status_latched else None,
    )


def _reading(channel: abi.PitChannel) -> int:
    """Which byte is next; for a latched count KVM has it beside the latch: 1 low, 2 high, 3 low of both."""
    if not channel.count_latched:
        return channel.read_state or 1
    if channel.count_latched == _LATCHED_HIGH and channel.rw_mode == _BOTH:
        return _HIGH_OF_BOTH
    return int(channel.count_latched)


def _write_counter(channel: abi.PitChannel, counter: CounterState) -> None:
    channel.count = counter.count
    channel.mode = NO_MODE if counter.mode is None else counter.mode
    channel.rw_mode = counter.access
    channel.bcd = counter.is_bcd
    channel.gate = counter.gate
    channel.count_load_time = counter.loaded_ns or 0
    channel.read_state = counter.reading
    channel.write_state = counter.writing
    channel.write_latch = counter.written_low
    if counter.latched_count is not None:
        channel.count_latched = _LATCHED_HIGH if counter.reading == _HIGH_OF_BOTH else counter.reading
        channel.latched_count = counter.latched_count
    if counter.latched_status is not None:
        channel.status_latched = 1
        channel.status = counter.latched_status
