"""PCI host bridge: configuration accesses, the bus with its functions, windows, interrupt routing.

Sources: PCI Local Bus Specification 3.0, 3.2.2.3.2 "Configuration mechanism #1" (ports 0xCF8 and 0xCFC);
PCI Express Base 3.0, 7.2.2 "Enhanced Configuration Access Mechanism"; PCI-to-PCI Bridge Architecture 1.2, 9.1
(INTx routing by slot).

The machine maps `ecam` into the memory bus and `ports` at 0xCF8, 8 bytes, into the port bus; the bridge maps
BARs by itself, only inside its windows. One bus, number 0. Functions that are not there read as all ones.
INTx of pin p (1 to 4) of slot s goes to input (s + p - 1) mod 4 of the four given lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from manor.base.errors import SavedStateError
from manor.bus.bus import Bus
from manor.bus.irq import IrqSink, SharedIrq
from manor.bus.msi import MsiSink
from manor.devices.device import Device
from manor.devices.pci.bar import Bar, BarKind
from manor.devices.pci.config import Identity, PciFunction
from manor.trace.event import declare, guest_error

SLOT_COUNT = 32
FUNCTION_COUNT = 8
ECAM_FUNCTION_SIZE = 4096
ECAM_BUS_SIZE = 1 << 20
PORTS_SIZE = 8
INTX_GSIS = (16, 17, 18, 19)

# "Host bridge" of the vendor ID registered for paravirtual devices (Red Hat, 0x1B36), device "generic PCIe
# host bridge".
HOST_BRIDGE = Identity(vendor_id=0x1B36, device_id=0x0008, class_code=0x06_00_00)

pci_bar_map = declare("pci_bar_map", bar=str, address=int, size=int)
pci_bar_unmap = declare("pci_bar_unmap", bar=str, address=int)


@dataclass(frozen=True, slots=True)
class Window:
    """A range of addresses that the bridge forwards. The 32-bit memory window comes before the 64-bit one."""

    kind: Literal["io", "memory"]
    start: int
    size: int

    @property
    def end(self) -> int:
        return self.start + self.size


@dataclass(frozen=True, slots=True)
class PciHostState:
    """address: CONFIG_ADDRESS. places: slot, number and name of every function."""

    address: int
    places: tuple[tuple[int, int, str], ...]


class PciHost(Device):
    """Host bridge and root bus.

    mmio, pio: the buses BARs are mapped into. gsis: inputs of `irq_sink` for INTA..INTD of slot 0.
    """

    def __init__(
        self,
        mmio: Bus,
        pio: Bus,
        irq_sink: IrqSink,
        msi: MsiSink,
        windows: Sequence[Window],
        gsis: Sequence[int] = INTX_GSIS,
        name: str = "pci",
    ) -> None:
        if len(gsis) != 4:
            raise ValueError(f"{name}: {len(gsis)} lines for INTA to INTD")
        self.name = name
        self.windows = tuple(windows)
        self.gsis = tuple(gsis)
        self.functions: dict[tuple[int, int], PciFunction] = {}
        self.ecam = EcamTarget(self)
        self.ports = PortTarget(self)
        self._buses = {BarKind.IO: pio, BarKind.MEMORY32: mmio, BarKind.MEMORY64: mmio}
        self._msi = msi
        self._lines = [SharedIrq(irq_sink, gsi) for gsi in gsis]
        self.add(0, PciFunction(f"{name}-host-bridge", HOST_BRIDGE))

    # -- the bus --

    def add(self, slot: int, function: PciFunction, number: int = 0) -> None:
        """Plug `function` in. ValueError if the place is taken or no place.

        While the guest runs, it chooses the addresses: BARs are nowhere until then.
        """
        if not (0 <= slot < SLOT_COUNT and 0 <= number < FUNCTION_COUNT) or (slot, number) in self.functions:
            raise ValueError(f"{function.name}: no free place {slot:02x}.{number}")
        if number and (slot, 0) not in self.functions:
            raise ValueError(f"{function.name}: slot {slot:02x} has no function 0, nobody would find {number}")
        self.functions[slot, number] = function
        pin = function.interrupt_pin
        line = self._lines[self._input(slot, pin)].line() if pin else None
        function.attach(self, line, self._msi)
        function.is_multifunction = any((slot, other) in self.functions for other in range(1, FUNCTION_COUNT))
        if number:
            self.functions[slot, 0].is_multifunction = True
        if pin:
            function.power_on_interrupt_line = self.gsi(slot, pin)
        for other in range(FUNCTION_COUNT):
            if (slot, other) in self.functions:
                self.functions[slot, other].reset()

    def remove(self, slot: int) -> PciFunction:
        """Take out the one function of a slot: its addresses answer no more, it interrupts nobody. KeyError if there is
        none. What it still does on guest memory goes on."""
        function = self.functions.pop((slot, 0))
        function.reset()
        function.detach()
        return function

    def gsi(self, slot: int, pin: int) -> int:
        """Global interrupt of pin 1 to 4 of `slot`: what the ACPI _PRT must say."""
        return self.gsis[self._input(slot, pin)]

    @staticmethod
    def _input(slot: int, pin: int) -> int:
        return (slot + pin - 1) % 4

    def reset(self) -> None:
        self.assign_addresses()
        self.ports.reset()
        for function in self.functions.values():
            function.reset()

    def assign_addresses(self) -> None:
        """Choose the power-on address of every BAR and line number of every pin, as firmware would.

        Large ones first, so that natural alignment wastes nothing; ties by place, so the result is always the
        same. Holds from the next reset of each function on; `reset` calls it, so the machine resets the bridge
        once all functions are added. Raises ValueError if a BAR fits no window.
        """
        free = [window.start for window in self.windows]
        bars = [
            (-bar.size, place, bar.index, bar) for place, function in self.functions.items() for bar in function.bars
        ]
        for _, _, _, bar in sorted(bars, key=lambda entry: entry[:3]):
            for index, window in enumerate(self.windows):
                start = (free[index] + bar.size - 1) & ~(bar.size - 1)
                if start and start + bar.size <= window.end and _fits(bar, window):
                    free[index] = start + bar.size
                    bar.power_on_address = start
                    break
            else:
                raise ValueError(f"{bar.name}: {bar.size:#x} bytes fit no window of {self.name}")
        for (slot, _), function in self.functions.items():
            if function.interrupt_pin:
                function.power_on_interrupt_line = self.gsi(slot, function.interrupt_pin)

    # -- configuration accesses --

    def config_read(self, slot: int, number: int, offset: int, size: int) -> int:
        """Read 1, 2 or 4 naturally aligned bytes of a function on bus 0."""
        function = self.functions.get((slot, number))
        return (1 << 8 * size) - 1 if function is None else function.config_read(offset, size)

    def config_write(self, slot: int, number: int, offset: int, size: int, value: int) -> None:
        function = self.functions.get((slot, number))
        if function is not None:
            function.config_write(offset, size, value)

    # -- BarRouter --

    def map_bar(self, bar: Bar, address: int) -> bool:
        fits = any(
            window.start <= address and address + bar.size <= window.end and _fits(bar, window)
            for window in self.windows
        )
        if not fits:
            self._report(f"{bar.name} at {address:#x}, size {bar.size:#x}: outside the windows")
            return False
        bus = self._buses[bar.kind]
        for start, size, other in bus.ranges():
            if start < address + bar.size and address < start + size:
                self._report(f"{bar.name} at {address:#x} overlaps {other}")
                return False
        bus.map(address, bar.size, bar.target, bar.name)
        if pci_bar_map.on:
            pci_bar_map(bar.name, address, bar.size)
        return True

    def unmap_bar(self, bar: Bar, address: int) -> None:
        self._buses[bar.kind].unmap(address)
        if pci_bar_unmap.on:
            pci_bar_unmap(bar.name, address)

    def _report(self, message: str) -> None:
        if guest_error.on:
            guest_error(self.name, message)

    # -- save and load --

    def save(self) -> PciHostState:
        places = tuple((slot, number, function.name) for (slot, number), function in sorted(self.functions.items()))
        return PciHostState(self.ports.address, places)

    def load(self, state: object) -> None:
        """Functions save and load themselves, 00.0 too; they have to be where they were."""
        if not isinstance(state, PciHostState) or not 0 <= state.address < 1 << 32:
            raise SavedStateError(self.name, "not a PCI host bridge")
        own = self.save().places
        if state.places != own:
            raise SavedStateError(self.name, f"functions {_show(state.places)}; here are {_show(own)}")
        self.ports.address = state.address & ADDRESS_MASK


def _show(places: Sequence[tuple[int, int, str]]) -> str:
    return ", ".join(f"{slot:02x}.{number} {name}" for slot, number, name in places)


def _fits(bar: Bar, window: Window) -> bool:
    """Whether a window forwards the kind of BAR, to addresses it can hold."""
    if bar.kind is BarKind.IO:
        return window.kind == "io"
    return window.kind == "memory" and (bar.kind is BarKind.MEMORY64 or window.end <= 1 << 32)


class EcamTarget:
    """The ECAM window: bus, slot, function and register are the offset."""

    def __init__(self, host: PciHost) -> None:
        self._host = host

    def read(self, offset: int, size: int) -> int:
        if size not in (1, 2, 4, 8) or offset % size:
            return sum(self.read(offset + index, 1) << 8 * index for index in range(size))
        if size == 8:
            return self.read(offset, 4) | self.read(offset + 4, 4) << 32
        if offset >= ECAM_BUS_SIZE:
            return (1 << 8 * size) - 1
        return self._host.config_read(offset >> 15, offset >> 12 & 7, offset & 0xFFF, size)

    def write(self, offset: int, size: int, value: int) -> None:
        if size not in (1, 2, 4, 8) or offset % size:
            for index in range(size):
                self.write(offset + index, 1, value >> 8 * index & 0xFF)
        elif size == 8:
            self.write(offset, 4, value & 0xFFFF_FFFF)
            self.write(offset + 4, 4, value >> 32)
        elif offset < ECAM_BUS_SIZE:
            self._host.config_write(offset >> 15, offset >> 12 & 7, offset & 0xFFF, size, value)


ADDRESS_ENABLE = 1 << 31
ADDRESS_MASK = 0x80FF_FFFC
"""Bits of CONFIG_ADDRESS that are kept: enable, bus, device, function, register."""


class PortTarget:
    """CONFIG_ADDRESS and CONFIG_DATA: configuration mechanism #1, 8 ports."""

    def __init__(self, host: PciHost) -> None:
        self._host = host
        self.address = 0

    def reset(self) -> None:
        self.address = 0

    def read(self, offset: int, size: int) -> int:
        if offset == 0 and size == 4:
            return self.address
        if offset < 4 or size not in (1, 2, 4) or offset % size:
            return (1 << 8 * size) - 1  # narrow accesses of CONFIG_ADDRESS go to the I/O bus, where nothing is
        place = self._place()
        if place is None:
            return (1 << 8 * size) - 1
        slot, number, register = place
        return self._host.config_read(slot, number, register + offset - 4, size)

    def write(self, offset: int, size: int, value: int) -> None:
        if offset == 0 and size == 4:
            self.address = value & ADDRESS_MASK
            return
        if offset < 4 or size not in (1, 2, 4) or offset % size:
            if guest_error.on:
                guest_error(self._host.name, f"write of {size} bytes at configuration port {offset}")
            return
        place = self._place()
        if place is not None:
            slot, number, register = place
            self._host.config_write(slot, number, register + offset - 4, size, value)

    def _place(self) -> tuple[int, int, int] | None:
        """Slot, function and register that CONFIG_ADDRESS selects; None if disabled or on another bus."""
        if not self.address & ADDRESS_ENABLE or self.address >> 16 & 0xFF:
            return None
        return self.address >> 11 & 0x1F, self.address >> 8 & 7, self.address & 0xFC
