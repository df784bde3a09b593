"""Intel 8254 interval timer as on a PC: counter 0 interrupts, counter 2 is the speaker's and is read by port 0x61.

Source: Intel 8254 datasheet (order number 231164), "Programming the 8254"; IBM PC AT Technical Reference, port 0x61.
No sound is made.
"""

from __future__ import annotations

from typing import Final

from manor.base.clock import MICROSECOND, Clock
from manor.base.errors import SavedStateError
from manor.base.timers import TimerHandle, Timers
from manor.bus.irq import IrqLine
from manor.devices.device import Device
from manor.devices.timer.counter import MAX_COUNT, Counter
from manor.regs.access import RO, WO
from manor.regs.block import RegisterBlock
from manor.regs.field import Field, Reg, RegisterTable
from manor.spec.timer_state import CounterState, TimerState
from manor.trace.event import guest_error

COUNTER_0: Final = Reg("COUNTER_0", 0, stored=False, doc="next byte of the count; counter 0 drives the interrupt")
COUNTER_1: Final = Reg("COUNTER_1", 1, stored=False, doc="once refreshed memory")
COUNTER_2: Final = Reg("COUNTER_2", 2, stored=False, doc="the speaker's")
CONTROL: Final = Reg(
    "CONTROL", 3, access=WO, stored=False, source="8254, control word format",
    fields=(
        Field("bcd", 0),
        Field("mode", 1, 3),
        Field("access", 4, 2, doc="0 latches the count; 1 low byte, 2 high byte, 3 both"),
        Field("select", 6, 2, doc="the counter; 3 is the read-back command"),
    ),
)  # fmt: skip
PIT_TABLE: Final = RegisterTable(
    "i8254", 4, (COUNTER_0, COUNTER_1, COUNTER_2, CONTROL), split=True, unmapped=0xFF, source="IBM PC AT"
)

PORT_B: Final = Reg(
    "PORT_B", 0, stored=False, source="IBM PC AT, system control port B",
    fields=(
        Field("gate2", 0, doc="gate of counter 2"),
        Field("speaker", 1),
        Field("unused", 2, 2, access=RO),
        Field("refresh", 4, access=RO, doc="toggles about every 15 us"),
        Field("out2", 5, access=RO, doc="output of counter 2"),
        Field("errors", 6, 2, access=RO, doc="parity and channel check: never"),
    ),
)  # fmt: skip
PORT_B_TABLE: Final = RegisterTable("port_b", 1, (PORT_B,), source="IBM PC AT")

_READ_BACK: Final = 3
_REFRESH_NS: Final = 15 * MICROSECOND


class I8254(Device):
    """Two bus targets: `ports` (0x40 to 0x43) and `port_b` (0x61). irq: what counter 0 drives."""

    def __init__(self, name: str, irq: IrqLine, clock: Clock, timers: Timers) -> None:
        self.name = name
        self.ports = RegisterBlock(PIT_TABLE, self, name)
        self.port_b = RegisterBlock(PORT_B_TABLE, self, name)
        self._irq = irq
        self._clock = clock
        self._timers = timers
        self._timer: TimerHandle | None = None
        self._counters = tuple(Counter() for _ in range(3))
        self._is_speaker_on = False
        self.reset()

    def reset(self) -> None:
        for counter in self._counters:
            counter.state = CounterState()
        self._counters[2].state = CounterState(gate=False)
        self._is_speaker_on = False
        self._schedule()

    def save(self) -> TimerState:
        first, second, third = (counter.state for counter in self._counters)
        return TimerState((first, second, third), self._is_speaker_on, self._irq.level)

    def load(self, state: object) -> None:
        if not isinstance(state, TimerState):
            raise SavedStateError(self.name, f"not the state of an interval timer: {type(state).__name__}")
        for saved in state.counters:
            _check(self.name, saved)
        for counter, saved in zip(self._counters, state.counters, strict=True):
            counter.state = saved
        self._is_speaker_on = state.is_speaker_on
        # The line is where it was, or the next rise would be none for who watches it.
        self._irq.set(state.is_raised)
        self._schedule()

    # -- register hooks --

    def on_read_counter_0(self) -> int:
        return self._counters[0].read(self._clock.now_ns())

    def on_read_counter_1(self) -> int:
        return self._counters[1].read(self._clock.now_ns())

    def on_read_counter_2(self) -> int:
        return self._counters[2].read(self._clock.now_ns())

    def on_write_counter_0(self, value: int) -> None:
        self._write(0, value)

    def on_write_counter_1(self, value: int) -> None:
        self._write(1, value)

    def on_write_counter_2(self, value: int) -> None:
        self._write(2, value)

    def on_write_control(self, value: int) -> None:
        now = self._clock.now_ns()
        select = CONTROL.field("select").get(value)
        if select == _READ_BACK:
            for index, counter in enumerate(self._counters):
                if value >> 1 + index & 1:
                    if not value & 0x20:
                        counter.latch_count(now)
                    if not value & 0x10:
                        counter.latch_status(now)
        elif CONTROL.field("access").get(value) == 0:
            self._counters[select].latch_count(now)
        else:
            self._counters[select].control(value)
            if select == 0:
                self._irq.set(self._counters[0].output(now))
                self._schedule()

    def on_read_port_b(self) -> int:
        now = self._clock.now_ns()
        counter = self._counters[2]
        refresh = now // _REFRESH_NS & 1
        return counter.state.gate | self._is_speaker_on << 1 | refresh << 4 | counter.output(now) << 5

    def on_write_port_b(self, value: int) -> None:
        self._counters[2].set_gate(bool(value & 1), self._clock.now_ns())
        self._is_speaker_on = bool(value & 2)

    # -- inside --

    def _write(self, index: int, value: int) -> None:
        counter = self._counters[index]
        if counter.state.mode is None:
            if guest_error.on:
                guest_error(self.name, f"count {value:#x} for counter {index} before its control word")
            return
        if counter.write(value, self._clock.now_ns()) and index == 0:
            self._irq.set(counter.output(self._clock.now_ns()))
            self._schedule()

    def _schedule(self) -> None:
        """Be called when counter 0's output rises next, if it does."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        at = self._counters[0].next_rise(self._clock.now_ns())
        if at is not None:
            self._timer = self._timers.at(at, self._on_rise)

    def _on_rise(self) -> None:
        """An edge; periods that the host missed are one edge, as for a guest that held interrupts off."""
        self._timer = None
        self._irq.lower()
        self._irq.set(self._counters[0].output(self._clock.now_ns()))
        self._schedule()


def _check(name: str, state: object) -> None:
    """Raise SavedStateError if a counter cannot be in this state."""
    if not isinstance(state, CounterState):
        raise SavedStateError(name, "not the state of a counter")
    numbers = (state.count, state.access, state.reading, state.writing, state.written_low, state.loaded_ns or 0)
    if any(type(number) is not int for number in numbers):
        raise SavedStateError(name, "not made of integers")
    if not 1 <= state.count <= MAX_COUNT or state.mode not in (None, 0, 1, 2, 3, 4, 5):
        raise SavedStateError(name, f"count {state.count} in mode {state.mode}")
    if state.mode is None and state.loaded_ns is not None:
        raise SavedStateError(name, "a counter without a mode counts")
    if not 1 <= state.access <= 3 or not 1 <= state.reading <= 4 or not 1 <= state.writing <= 4:
        raise SavedStateError(name, f"access {state.access}, reading {state.reading}, writing {state.writing}")
    latches = ((state.written_low, 0xFF), (state.latched_count or 0, 0xFFFF), (state.latched_status or 0, 0xFF))
    if any(type(value) is not int or not 0 <= value <= most for value, most in latches):
        raise SavedStateError(name, "a latch holds more than its bits")
