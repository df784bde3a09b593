"""Interrupt controllers and timer in the kernel: local APICs, I/O APIC, PIT; messages, routes and eventfds into them.

Source: Linux KVM API, sections 4.24 (create), 4.25 (lines), 4.26 and 4.57 (state), 4.52 (routing), 4.70 (messages),
4.71 (PIT), 4.75 (irqfd). GSIs below 24 are the pins of the I/O APIC, as in the ACPI tables; from there on they are
messages of irqfds. The chips include the two 8259 of a PC: no GSI leads to them, and the ACPI tables say that there
are none.
"""

from __future__ import annotations

import threading
from typing import Final

from manor.accel.kvm import abi, ioctl, lapic_page, pit_state
from manor.accel.kvm.handle import Handle
from manor.base.errors import SavedStateError
from manor.spec.interrupt_state import InterruptState
from manor.spec.timer_state import TimerState
from manor.trace.event import declare

interrupt_line = declare("interrupt_line", pin=int, level=bool)
interrupt_message = declare("interrupt_message", address=int, data=int)

PINS: Final = abi.IOAPIC_PINS
MASKED: Final = 1 << 16
"""An entry of the I/O APIC after power-on. Source: 82093AA, 3.2.4."""
IOAPIC_BASE: Final = 0xFEC0_0000
Message = tuple[int, int]


class IrqChip:
    """accel.api.InterruptControllers. Thread: any."""

    def __init__(self, vm: Handle) -> None:
        """Create the controllers; before the first vCPU. Raises KvmError."""
        self._vm = vm
        self._vcpus: list[Handle] = []
        self._lock = threading.Lock()
        self._messages: dict[int, Message] = {}
        vm.call(ioctl.CREATE_IRQCHIP, 0, "cannot create interrupt controllers in the kernel")
        self._write_routes()

    def attach(self, vcpu: Handle) -> None:
        """A vCPU was created; its local APIC belongs to the state."""
        self._vcpus.append(vcpu)

    # --- inputs -----------------------------------------------------------------------------------------------

    def set_level(self, number: int, level: bool) -> None:
        """IrqSink: drive pin `number` of the I/O APIC."""
        if interrupt_line.on:
            interrupt_line(number, level)
        self._vm.call(ioctl.IRQ_LINE, abi.IrqLevel(number, level), f"cannot drive interrupt line {number}")

    def send(self, address: int, data: int) -> None:
        """MsiSink: deliver a message. One to nobody is lost, as on the bus."""
        if interrupt_message.on:
            interrupt_message(address, data)
        message = abi.Msi(address & 0xFFFF_FFFF, address >> 32, data)
        self._vm.call(ioctl.SIGNAL_MSI, message, "cannot deliver an interrupt message")

    # --- eventfds ---------------------------------------------------------------------------------------------

    def attach_line(self, fd: int, pin: int) -> None:
        """Each count of the eventfd `fd` is an edge on a pin."""
        self._irqfd(abi.IrqFd(fd, pin))

    def detach_line(self, fd: int, pin: int) -> None:
        self._irqfd(abi.IrqFd(fd, pin, abi.IRQFD_DEASSIGN))

    def attach_message(self, fd: int, address: int, data: int) -> int:
        """Each count of the eventfd `fd` sends the message. Returns its GSI, for `detach_message`."""
        with self._lock:
            gsi = next(number for number in range(PINS, PINS + 4096) if number not in self._messages)
            self._messages[gsi] = (address, data)
            self._write_routes()
        self._irqfd(abi.IrqFd(fd, gsi))
        return gsi

    def detach_message(self, fd: int, gsi: int) -> None:
        self._irqfd(abi.IrqFd(fd, gsi, abi.IRQFD_DEASSIGN))
        with self._lock:
            del self._messages[gsi]
            self._write_routes()

    def _irqfd(self, request: abi.IrqFd) -> None:
        self._vm.call(ioctl.IRQFD, request, "cannot connect an eventfd to an interrupt")

    def _write_routes(self) -> None:
        count = PINS + len(self._messages)
        table = abi.with_entries(abi.RoutingEntry, count)(count)
        for pin in range(PINS):
            entry = table.entries[pin]
            entry.gsi, entry.type = pin, abi.ROUTING_IRQCHIP
            entry.u.irqchip.irqchip, entry.u.irqchip.pin = abi.IRQCHIP_IOAPIC, pin
        for entry, (gsi, (address, data)) in zip(table.entries[PINS:], self._messages.items(), strict=True):
            entry.gsi, entry.type = gsi, abi.ROUTING_MSI
            entry.u.msi.address_lo, entry.u.msi.address_hi = address & 0xFFFF_FFFF, address >> 32
            entry.u.msi.data = data
        self._vm.call(ioctl.SET_GSI_ROUTING, table, "cannot route interrupts")

    # --- PIT --------------------------------------------------------------------------------------------------

    def add_timer(self) -> None:
        """An 8254 at ports 0x40 to 0x43 and 0x61, whose counter 0 drives pin 0. Raises KvmError."""
        config = abi.PitConfig(abi.PIT_SPEAKER_DUMMY)
        self._vm.call(ioctl.CREATE_PIT2, config, "cannot create an interval timer in the kernel")

    # --- state ------------------------------------------------------------------------------------------------

    def reset(self) -> None:
        ioapic = self._read_ioapic()
        ioapic.ioregsel = ioapic.id = 0
        ioapic.base_address = IOAPIC_BASE
        for pin in range(PINS):
            ioapic.redirtbl[pin] = MASKED
        self._write_ioapic(ioapic)

    def save(self) -> InterruptState:
        ioapic = self._read_ioapic()
        return InterruptState(
            tuple(lapic_page.read(vcpu, index) for index, vcpu in enumerate(self._vcpus)),
            ioapic.ioregsel,
            ioapic.id,
            tuple(ioapic.redirtbl),
            tuple(bool(ioapic.irr >> pin & 1) for pin in range(PINS)),
        )

    def load(self, state: object) -> None:
        if not isinstance(state, InterruptState):
            raise SavedStateError("irqchip", f"not the state of interrupt controllers: {type(state).__name__}")
        if len(state.lapics) != len(self._vcpus):
            raise SavedStateError("irqchip", f"{len(state.lapics)} local APICs, {len(self._vcpus)} vCPUs")
        if len(state.entries) != PINS or len(state.levels) != PINS:
            raise SavedStateError("irqchip", f"{len(state.entries)} pins, not {PINS}")
        levels = sum(level << pin for pin, level in enumerate(state.levels))
        ioapic = abi.IoApicState(IOAPIC_BASE, state.ioapic_index, state.ioapic_id, levels)
        for pin, entry in enumerate(state.entries):
            ioapic.redirtbl[pin] = entry
        self._write_ioapic(ioapic)
        for vcpu, lapic in zip(self._vcpus, state.lapics, strict=True):
            lapic_page.write(vcpu, lapic)

    def save_timer(self) -> TimerState:
        pit = abi.PitState()
        self._vm.call(ioctl.GET_PIT2, pit, "cannot read the interval timer")
        return pit_state.read(pit)

    def load_timer(self, state: TimerState) -> None:
        self._vm.call(ioctl.SET_PIT2, pit_state.build(state), "cannot set the interval timer")

    def _read_ioapic(self) -> abi.IoApicState:
        chip = abi.IrqChip(abi.IRQCHIP_IOAPIC)
        self._vm.call(ioctl.GET_IRQCHIP, chip, "cannot read the I/O APIC")
        ioapic: abi.IoApicState = chip.chip.ioapic
        return ioapic

    def _write_ioapic(self, ioapic: abi.IoApicState) -> None:
        chip = abi.IrqChip(abi.IRQCHIP_IOAPIC)
        chip.chip.ioapic = ioapic
        self._vm.call(ioctl.SET_IRQCHIP, chip, "cannot set the I/O APIC")


class IoEventFds:
    """accel.api.Doorbells by KVM_IOEVENTFD. Source: section 4.59. Thread: any."""

    def __init__(self, vm: Handle) -> None:
        self._vm = vm

    def attach(self, fd: int, address: int, is_port: bool) -> None:
        self._call(fd, address, abi.IOEVENTFD_PIO if is_port else 0)

    def detach(self, fd: int, address: int, is_port: bool) -> None:
        self._call(fd, address, (abi.IOEVENTFD_PIO if is_port else 0) | abi.IOEVENTFD_DEASSIGN)

    def _call(self, fd: int, address: int, flags: int) -> None:
        # A length of 0 takes any; memory only, a port needs one: drivers of virtio write 2 bytes.
        length = 2 if flags & abi.IOEVENTFD_PIO else 0
        request = abi.IoEventFd(0, address, length, fd, flags)
        self._vm.call(ioctl.IOEVENTFD, request, f"cannot connect an eventfd to address {address:#x}")

