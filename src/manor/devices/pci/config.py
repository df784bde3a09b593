"""A PCI function: type 0 configuration space, BARs, capabilities, interrupt pin.

Source: PCI Local Bus Specification 3.0, sections 6.1 and 6.2.

The function does not know its bus, slot or addresses. The host bridge attaches it: BAR router, interrupt
line, message sink. Guest-visible differences from hardware: the bus master bit is stored but does not hold
back memory accesses or messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from manor.base.errors import SavedStateError
from manor.bus.irq import IrqLine
from manor.bus.msi import MsiSink
from manor.devices.device import Device
from manor.devices.pci.bar import Bar, BarKind, BarRouter
from manor.devices.pci.capability import CONFIG_SIZE, HEADER_SIZE, Capability, CapabilityList
from manor.devices.pci.msix import Msix, MsixCapability, MsixState
from manor.regs.access import RO, RW, W1C
from manor.regs.block import RegisterBlock
from manor.regs.field import Field, Reg, RegisterTable, reserved
from manor.trace.event import declare, guest_error

_SOURCE = "PCI 3.0, 6.2"

VENDOR_ID = Reg("vendor_id", 0x00, 16, RO, source=_SOURCE)
DEVICE_ID = Reg("device_id", 0x02, 16, RO, source=_SOURCE)
COMMAND = Reg(
    "command",
    0x04,
    16,
    fields=(
        Field("io_space", 0),
        Field("memory_space", 1),
        Field("bus_master", 2),
        Field("special_cycles", 3, access=RO),
        Field("memory_write_invalidate", 4, access=RO),
        Field("vga_palette_snoop", 5, access=RO),
        Field("parity_error_response", 6),
        reserved(7),
        Field("serr_enable", 8),
        Field("fast_back_to_back_enable", 9, access=RO),
        Field("interrupt_disable", 10),
        reserved(11, 5),
    ),
    source="PCI 3.0, 6.2.2",
)
STATUS = Reg(
    "status",
    0x06,
    16,
    RO,
    fields=(
        reserved(0, 3),
        Field("interrupt_status", 3, doc="the function asks for INTx, masked or not"),
        Field("capabilities_list", 4),
        Field("mhz66_capable", 5),
        reserved(6),
        Field("fast_back_to_back_capable", 7),
        Field("master_data_parity_error", 8, access=W1C),
        Field("devsel_timing", 9, 2),
        Field("signaled_target_abort", 11, access=W1C),
        Field("received_target_abort", 12, access=W1C),
        Field("received_master_abort", 13, access=W1C),
        Field("signaled_system_error", 14, access=W1C),
        Field("detected_parity_error", 15, access=W1C),
    ),
    source="PCI 3.0, 6.2.3",
)
REVISION_ID = Reg("revision_id", 0x08, 8, RO, source=_SOURCE)
CLASS_CODE = Reg("class_code", 0x09, 24, RO, source="PCI 3.0, 6.2.1 and appendix D")
CACHE_LINE_SIZE = Reg("cache_line_size", 0x0C, 8, RW, source=_SOURCE)
LATENCY_TIMER = Reg("latency_timer", 0x0D, 8, RO, source=_SOURCE)
HEADER_TYPE = Reg(
    "header_type",
    0x0E,
    8,
    RO,
    fields=(Field("layout", 0, 7), Field("multifunction", 7)),
    source="PCI 3.0, 6.2.1",
)
BIST = Reg("bist", 0x0F, 8, RO, source=_SOURCE)
BAR = Reg("bar", 0x10, 32, RW, stored=False, count=6, stride=4, source="PCI 3.0, 6.2.5")
CARDBUS_CIS = Reg("cardbus_cis", 0x28, 32, RO, source=_SOURCE)
SUBSYSTEM_VENDOR_ID = Reg("subsystem_vendor_id", 0x2C, 16, RO, source="PCI 3.0, 6.2.4")
SUBSYSTEM_ID = Reg("subsystem_id", 0x2E, 16, RO, source="PCI 3.0, 6.2.4")
EXPANSION_ROM = Reg("expansion_rom", 0x30, 32, RO, doc="none: reads as zero", source="PCI 3.0, 6.2.5.2")
CAPABILITIES_POINTER = Reg("capabilities_pointer", 0x34, 8, RO, source="PCI 3.0, 6.7")
RESERVED_35 = Reg("reserved_35", 0x35, 24, RO, source=_SOURCE)
RESERVED_38 = Reg("reserved_38", 0x38, 32, RO, source=_SOURCE)
INTERRUPT_LINE = Reg("interrupt_line", 0x3C, 8, RW, doc="scratch for software", source="PCI 3.0, 6.2.4")
INTERRUPT_PIN = Reg("interrupt_pin", 0x3D, 8, RO, doc="0 none, 1 INTA … 4 INTD", source="PCI 3.0, 6.2.4")
MIN_GNT = Reg("min_gnt", 0x3E, 8, RO, source=_SOURCE)
MAX_LAT = Reg("max_lat", 0x3F, 8, RO, source=_SOURCE)

HEADER_TABLE = RegisterTable(
    "PCI header",
    HEADER_SIZE,
    (
        VENDOR_ID, DEVICE_ID, COMMAND, STATUS, REVISION_ID, CLASS_CODE, CACHE_LINE_SIZE, LATENCY_TIMER,
        HEADER_TYPE, BIST, BAR, CARDBUS_CIS, SUBSYSTEM_VENDOR_ID, SUBSYSTEM_ID, EXPANSION_ROM,
        CAPABILITIES_POINTER, RESERVED_35, RESERVED_38, INTERRUPT_LINE, INTERRUPT_PIN, MIN_GNT, MAX_LAT,
    ),
    split=True,
    source="PCI Local Bus Specification 3.0, figure 6-1",
)  # fmt: skip

pci_config_write = declare("pci_config_write", function=str, offset=int, size=int, value=int)
pci_config_read = declare("pci_config_read", function=str, offset=int, size=int, value=int)


@dataclass(frozen=True, slots=True)
class Identity:
    """What a function says it is. class_code: base class, subclass, interface as one 24-bit number."""

    vendor_id: int
    device_id: int
    class_code: int
    revision_id: int = 0
    subsystem_vendor_id: int = 0
    subsystem_id: int = 0


@dataclass(frozen=True, slots=True)
class FunctionState:
    """registers: stored header registers. bars: addresses by register index."""

    registers: dict[str, int | str]
    bars: tuple[tuple[int, int], ...]
    intx: bool
    msix: MsixState | None


class PciFunction(Device):
    """One function.

    interrupt_pin: 0 for none, 1 to 4 for INTA to INTD.
    """

    def __init__(
        self,
        name: str,
        identity: Identity,
        *,
        bars: Sequence[Bar] = (),
        msix: Msix | None = None,
        interrupt_pin: int = 0,
    ) -> None:
        self.name = name
        self.identity = identity
        self.interrupt_pin = interrupt_pin
        self.is_multifunction = False
        self.power_on_interrupt_line = 0
        self.bars = tuple(bars)
        self.msix = msix
        self.capabilities = CapabilityList()
        self._intx_line: IrqLine | None = None
        self._intx = False
        self._bar_parts: dict[int, tuple[Bar, int]] = {}
        for bar in self.bars:
            for part in range(bar.registers):
                if bar.index + part in self._bar_parts:
                    raise ValueError(f"{name}: two BARs at register {bar.index + part}")
                self._bar_parts[bar.index + part] = (bar, part)
        self.registers = RegisterBlock(HEADER_TABLE, self, name)
        if msix is not None:
            self.add_capability(MsixCapability(msix))
        self._set_identity()

    def add_capability(self, capability: Capability) -> int:
        """Add to the capability list while the function is built; its offset in configuration space."""
        offset = self.capabilities.add(capability)
        self.registers[CAPABILITIES_POINTER] = self.capabilities.first
        self.registers.put(STATUS, "capabilities_list", 1)
        return offset

    def _set_identity(self) -> None:
        identity = self.identity
        registers = self.registers
        registers[VENDOR_ID] = identity.vendor_id
        registers[DEVICE_ID] = identity.device_id
        registers[REVISION_ID] = identity.revision_id
        registers[CLASS_CODE] = identity.class_code
        registers[SUBSYSTEM_VENDOR_ID] = identity.subsystem_vendor_id
        registers[SUBSYSTEM_ID] = identity.subsystem_id
        registers[INTERRUPT_PIN] = self.interrupt_pin
        registers[INTERRUPT_LINE] = self.power_on_interrupt_line
        registers[CAPABILITIES_POINTER] = self.capabilities.first
        registers.put(STATUS, "capabilities_list", int(bool(self.capabilities.placed)))
        registers.put(HEADER_TYPE, "multifunction", int(self.is_multifunction))

    # -- wiring, by the host bridge --

    def attach(self, router: BarRouter, intx: IrqLine | None, msi: MsiSink) -> None:
        """Connect to the host bridge. intx: the line of the interrupt pin."""
        for bar in self.bars:
            bar.router = router
        self._intx_line = intx
        if self.msix is not None:
            self.msix.sink = msi

    def detach(self) -> None:
        """Undo `attach`, after a reset: nothing that the device does is seen any more."""
        for bar in self.bars:
            bar.router = None
        self._intx_line = None
        if self.msix is not None:
            self.msix.sink = None

    # -- for the device --

    def set_intx(self, level: bool) -> None:
        """Ask for, or withdraw, the pin interrupt; seen on the line unless disabled or replaced by MSI-X."""
        self._intx = level
        self.registers.put(STATUS, "interrupt_status", int(level))
        self.update_intx()

    def update_intx(self) -> None:
        """Drive the line as command register and MSI-X say (6.2.2 bit 10; 6.8.2: MSI-X prohibits INTx)."""
        if self._intx_line is not None:
            disabled = self.registers.get(COMMAND, "interrupt_disable")
            uses_messages = self.msix is not None and self.msix.is_enabled
            self._intx_line.set(self._intx and not disabled and not uses_messages)

    # -- configuration accesses, by the host bridge --

    def config_read(self, offset: int, size: int) -> int:
        """Read 1, 2 or 4 aligned bytes below 4096; no extended capabilities: zero from 256 on."""
        if offset < HEADER_SIZE:
            value = self.registers.read(offset, size)
        elif offset < CONFIG_SIZE:
            value = self.capabilities.read(offset, size)
        else:
            value = 0
        if pci_config_read.on:
            pci_config_read(self.name, offset, size, value)
        return value

    def config_write(self, offset: int, size: int, value: int) -> None:
        """Write 1, 2 or 4 naturally aligned bytes."""
        if pci_config_write.on:
            pci_config_write(self.name, offset, size, value)
        if offset < HEADER_SIZE:
            self.registers.write(offset, size, value)
        elif offset < CONFIG_SIZE:
            self.capabilities.write(offset, size, value)

    def on_write_command(self, value: int) -> None:
        for bar in self.bars:
            field = "io_space" if bar.kind is BarKind.IO else "memory_space"
            bar.set_decoding(bool(COMMAND.field(field).get(value)))
        self.update_intx()

    def on_read_bar(self, index: int) -> int:
        found = self._bar_parts.get(index)
        return 0 if found is None else found[0].read_register(found[1])

    def on_write_bar(self, index: int, value: int) -> None:
        found = self._bar_parts.get(index)
        if found is not None:
            found[0].write_register(found[1], value)
        elif value not in (0, 0xFFFF_FFFF) and guest_error.on:
            guest_error(self.name, f"write of {value:#x} to BAR {index}, which does not exist")

    # -- lifecycle --

    def reset(self) -> None:
        for bar in self.bars:
            bar.reset()
        if self.msix is not None:
            self.msix.reset()
        self.registers.reset()
        self._set_identity()
        self.set_intx(False)

    def save(self) -> object:
        return self.save_function()

    def load(self, state: object) -> None:
        self.load_function(self.check_function(state))

    def save_function(self) -> FunctionState:
        """The state every function has."""
        return FunctionState(
            registers=self.registers.save(),
            bars=tuple((bar.index, bar.address) for bar in self.bars),
            intx=self._intx,
            msix=None if self.msix is None else self.msix.save(),
        )

    def check_function(self, state: object) -> FunctionState:
        """Give `state` back if it fits this function. Raises SavedStateError otherwise."""
        if not isinstance(state, FunctionState):
            raise SavedStateError(self.name, "not a PCI function")
        self.registers.check(state.registers)
        for reg in HEADER_TABLE.regs:
            if reg.stored and not reg.is_writable and state.registers[reg.name] != self.registers[reg]:
                raise SavedStateError(self.name, f"{reg.name} differs: another kind of function")
        if [index for index, _ in state.bars] != [bar.index for bar in self.bars]:
            raise SavedStateError(self.name, "other BARs")
        for bar, (_, address) in zip(self.bars, state.bars, strict=True):
            width = 64 if bar.kind is BarKind.MEMORY64 else 32
            if type(address) is not int or not 0 <= address < 1 << width or address % bar.size:
                raise SavedStateError(self.name, f"BAR {bar.index} at {address!r}")
        if type(state.intx) is not bool or (self.msix is None) != (state.msix is None):
            raise SavedStateError(self.name, "interrupts do not fit")
        if self.msix is not None and state.msix is not None:
            self.msix.check(state.msix)
        return state

    def load_function(self, state: FunctionState) -> None:
        """Take over a checked state; maps the BARs, drives the line."""
        for bar in self.bars:
            bar.reset()
        self.registers.load(state.registers)
        if self.msix is not None and state.msix is not None:
            self.msix.load(state.msix)
        for bar, (_, address) in zip(self.bars, state.bars, strict=True):
            bar.set_address(address)
        self.on_write_command(self.registers[COMMAND])
        self.set_intx(state.intx)
