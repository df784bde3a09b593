"""Where interrupts go: controllers in the accelerator if it brings them, else the machine's own.

Devices see an IrqSink and an MsiSink and do not know which. See docs/decisions/0010.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from manor.accel.api import InterruptControllers, VmHandle
from manor.base.clock import Clock
from manor.base.errors import SavedStateError
from manor.base.timers import Timers
from manor.bus.bus import Bus
from manor.bus.irq import IrqSink
from manor.bus.msi import MsiSink
from manor.devices.device import Device
from manor.devices.intc.apic_bus import ApicBus
from manor.devices.intc.ioapic import IOAPICID, IOREGSEL, IoApic, IoApicState
from manor.devices.intc.lapic import LocalApic
from manor.machine.cpu_lines import VcpuLines
from manor.machine.interval_timer import IntervalTimer
from manor.mem import layout
from manor.spec.interrupt_state import InterruptState, VmState, give_back
from manor.spec.machine import TSC_FREQUENCY_HZ

NAME: Final = "irqchip"


@dataclass(frozen=True, slots=True)
class Interrupts:
    """The interrupt controllers of a machine. lines: the pins of the I/O APIC. lapics: the machine's own, empty if the
    accelerator has them."""

    lines: IrqSink
    messages: MsiSink
    devices: list[Device]
    lapics: list[LocalApic] = field(default_factory=list)
    io_apic: IoApic | None = None
    in_accelerator: InterruptControllers | None = None

    def save(self) -> InterruptState:
        """The same record wherever the controllers are. No vCPU may be running."""
        if self.in_accelerator is not None:
            return self.in_accelerator.save()
        assert self.io_apic is not None
        saved = self.io_apic.save()
        index, chip_id = saved.registers[IOREGSEL.name], saved.indirect[IOAPICID.name]
        return InterruptState(
            tuple(lapic.save() for lapic in self.lapics), int(index), int(chip_id), saved.entries, saved.levels
        )

    def load(self, state: InterruptState) -> None:
        """Take over what `save` gave, here or in another machine. Raises SavedStateError."""
        if self.in_accelerator is not None:
            self.in_accelerator.load(state)
            return
        assert self.io_apic is not None
        if len(state.lapics) != len(self.lapics):
            raise SavedStateError(NAME, f"{len(state.lapics)} local APICs, {len(self.lapics)} vCPUs")
        old = self.io_apic.save()
        registers = {**old.registers, IOREGSEL.name: state.ioapic_index}
        indirect = {**old.indirect, IOAPICID.name: state.ioapic_id}
        self.io_apic.load(IoApicState(registers, indirect, state.entries, state.levels))
        for lapic, saved in zip(self.lapics, state.lapics, strict=True):
            lapic.load(saved)


def save_vm(vm: VmHandle, interrupts: Interrupts, timer: IntervalTimer) -> VmState:
    """Processors and what interrupts them, of a machine that does not run; it may continue on another accelerator."""
    controllers = interrupts.save()
    pairs = [
        give_back(vcpu.get_state(), lapic) for vcpu, lapic in zip(vm.vcpus, controllers.lapics, strict=True)
    ]
    lapics = tuple(lapic for _, lapic in pairs)
    vcpus = tuple(vcpu for vcpu, _ in pairs)
    return VmState(vcpus, replace(controllers, lapics=lapics), timer.save(), vm.get_clock())


def load_vm(vm: VmHandle, interrupts: Interrupts, timer: IntervalTimer, state: VmState) -> None:
    """Take over what `save_vm` gave; the machine is not running."""
    for vcpu, saved in zip(vm.vcpus, state.vcpus, strict=True):
        vcpu.set_state(saved)
    interrupts.load(state.interrupts)
    timer.load(state.timer)
    if state.clock_ns is not None:
        vm.set_clock(state.clock_ns)


class AcceleratorChips(Device):
    """Controllers in the accelerator, as a device of the machine: for reset, save and load. Thread: any."""

    def __init__(self, name: str, controllers: InterruptControllers) -> None:
        self.name = name
        self._controllers = controllers

    def reset(self) -> None:
        self._controllers.reset()

    def save(self) -> object:
        return self._controllers.save()

    def load(self, state: object) -> None:
        self._controllers.load(state)


def connect_interrupts(
    vm: VmHandle, mmio: Bus, clock: Clock, timers: Timers, wake: Callable[[int], None]
) -> Interrupts:
    """Connect the vCPUs of `vm` to interrupt controllers, and map what the machine brings itself.

    wake: the vCPU of that index may have work; any thread, with locks held.
    """
    if vm.interrupts is not None:
        chips = AcceleratorChips(NAME, vm.interrupts)
        return Interrupts(vm.interrupts, vm.interrupts, [chips], in_accelerator=vm.interrupts)
    bus = ApicBus()
    lapics = []
    for vcpu in vm.vcpus:
        lapic = LocalApic(vcpu.index, clock, timers, TSC_FREQUENCY_HZ, VcpuLines(vcpu, wake), bus)
        vcpu.set_interrupt_controller(lapic)
        lapics.append(lapic)
    io_apic = IoApic("ioapic", bus)
    mmio.map(layout.IO_APIC, layout.IO_APIC_SIZE, io_apic, io_apic.name)
    return Interrupts(io_apic, bus, [*lapics, io_apic], lapics, io_apic)
