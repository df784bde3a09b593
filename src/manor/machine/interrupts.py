"""Where interrupts go: controllers in the accelerator if it brings them, else the machine's own.

Devices see an IrqSink and an MsiSink and do not know which. See docs/decisions/0010.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from manor.accel.api import InterruptControllers, VmHandle
from manor.base.clock import Clock
from manor.base.timers import Timers
from manor.bus.bus import Bus
from manor.bus.irq import IrqSink
from manor.bus.msi import MsiSink
from manor.devices.device import Device
from manor.devices.intc.apic_bus import ApicBus
from manor.devices.intc.ioapic import IoApic
from manor.devices.intc.lapic import LocalApic
from manor.machine.cpu_lines import VcpuLines
from manor.mem import layout
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
        return Interrupts(vm.interrupts, vm.interrupts, [AcceleratorChips(NAME, vm.interrupts)])
    bus = ApicBus()
    lapics = []
    for vcpu in vm.vcpus:
        lapic = LocalApic(vcpu.index, clock, timers, TSC_FREQUENCY_HZ, VcpuLines(vcpu, wake), bus)
        vcpu.set_interrupt_controller(lapic)
        lapics.append(lapic)
    io_apic = IoApic("ioapic", bus)
    mmio.map(layout.IO_APIC, layout.IO_APIC_SIZE, io_apic, io_apic.name)
    return Interrupts(io_apic, bus, [*lapics, io_apic], lapics)
