"""The 8254 of a machine: in the accelerator if that brings interrupt controllers, else a device of the machine."""

from __future__ import annotations

from manor.accel.api import InterruptControllers, VmHandle
from manor.base.clock import Clock
from manor.base.errors import SavedStateError
from manor.base.timers import Timers
from manor.bus.bus import Bus
from manor.bus.irq import IrqLine, IrqSink
from manor.devices.device import Device
from manor.devices.timer.i8254 import I8254
from manor.mem import layout
from manor.spec.timer_state import CounterState, TimerState

NAME = "pit"
POWER_ON = TimerState((CounterState(), CounterState(), CounterState(gate=False)))


class AcceleratorTimer(Device):
    """The 8254 in the accelerator, as a device of the machine. Thread: any."""

    def __init__(self, name: str, controllers: InterruptControllers) -> None:
        self.name = name
        self._controllers = controllers

    def reset(self) -> None:
        self._controllers.load_timer(POWER_ON)

    def save(self) -> TimerState:
        return self._controllers.save_timer()

    def load(self, state: object) -> None:
        if not isinstance(state, TimerState):
            raise SavedStateError(self.name, f"not the state of an interval timer: {type(state).__name__}")
        self._controllers.load_timer(state)


IntervalTimer = AcceleratorTimer | I8254


def connect_timer(
    vm: VmHandle, pio: Bus, lines: IrqSink, clock: Clock, timers: Timers
) -> IntervalTimer:
    """The timer, at its ports, its counter 0 on pin 0 of `lines`."""
    if vm.interrupts is not None:
        vm.interrupts.add_timer()
        return AcceleratorTimer(NAME, vm.interrupts)
    timer = I8254(NAME, IrqLine(lines, layout.PIT_IRQ), clock, timers)
    pio.map(layout.PIT, layout.PIT_SIZE, timer.ports, timer.name)
    pio.map(layout.PORT_B, 1, timer.port_b, timer.name)
    return timer
