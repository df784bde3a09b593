"""I/O APIC with 24 pins and an EOI register (version 0x20).

Source: Intel 82093AA I/O APIC datasheet, 290566-001, section 3; EOI register (offset 0x40): Intel 9 Series
PCH datasheet, 12.5.

Guest-visible differences from hardware: input levels are logical (asserted or not), so the polarity bit has
no effect; delivery is at once, so delivery status is always idle; the arbitration ID is the ID.

Thread: any; the lock of the ApicBus is taken inside, so an EOI coming from a vCPU needs no other lock.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from manor.base.errors import SavedStateError
from manor.devices.device import Device
from manor.devices.intc.apic_bus import EoiListener
from manor.devices.intc.message import DeliveryMode, encode_msi
from manor.regs.access import RO, RW, WO
from manor.regs.block import RegisterBlock
from manor.regs.field import Field, Reg, RegisterTable, reserved
from manor.trace.event import declare, guest_error

PINS: Final = 24

IOREGSEL: Final = Reg(
    "IOREGSEL", 0x00, 32, source="82093AA 3.1.1", doc="index of the register in IOWIN",
    fields=(Field("index", 0, 8), reserved(8, 24)),
)  # fmt: skip
IOWIN: Final = Reg("IOWIN", 0x10, 32, RW, stored=False, source="82093AA 3.1.2", doc="window")
EOI: Final = Reg(
    "EOI", 0x40, 32, WO, stored=False, source="9 Series PCH 12.5.3", doc="end of interrupt for a vector",
    fields=(Field("vector", 0, 8), reserved(8, 24)),
)  # fmt: skip
TABLE: Final = RegisterTable("ioapic", 0x1000, (IOREGSEL, IOWIN, EOI), source="Intel 82093AA, 3.1")

IOAPICID: Final = Reg(
    "IOAPICID", 0, 32, source="82093AA 3.2.1", fields=(reserved(0, 24), Field("id", 24, 4), reserved(28, 4))
)
IOAPICVER: Final = Reg(
    "IOAPICVER", 4, 32, RO, source="82093AA 3.2.2",
    fields=(
        Field("version", 0, 8, reset=0x20),
        reserved(8, 8),
        Field("max_entry", 16, 8, reset=PINS - 1),
        reserved(24, 8),
    ),
)  # fmt: skip
IOAPICARB: Final = Reg("IOAPICARB", 8, 32, RO, stored=False, source="82093AA 3.2.3", doc="arbitration ID")
REDTBL_LOW: Final = Reg(
    "REDTBL_LOW", 4 * 0x10, 32, stored=False, count=PINS, stride=8, source="82093AA 3.2.4",
    fields=(
        Field("vector", 0, 8),
        Field("delivery_mode", 8, 3),
        Field("logical", 11),
        Field("delivery_status", 12, access=RO),
        Field("polarity", 13),
        Field("remote_irr", 14, access=RO),
        Field("trigger", 15, doc="1 is level"),
        Field("mask", 16, reset=1),
        reserved(17, 15),
    ),
)  # fmt: skip
REDTBL_HIGH: Final = Reg(
    "REDTBL_HIGH", 4 * 0x11, 32, stored=False, count=PINS, stride=8, source="82093AA 3.2.4",
    fields=(reserved(0, 24), Field("destination", 24, 8)),
)  # fmt: skip
INDIRECT: Final = RegisterTable(
    "ioapic_indirect",
    4 * (0x10 + 2 * PINS),
    (IOAPICID, IOAPICVER, IOAPICARB, REDTBL_LOW, REDTBL_HIGH),
    source="Intel 82093AA, 3.2; offset is 4 * index",
)

_LOGICAL: Final = REDTBL_LOW.mask("logical")
_REMOTE_IRR: Final = REDTBL_LOW.mask("remote_irr")
_LEVEL: Final = REDTBL_LOW.mask("trigger")
_MASKED: Final = REDTBL_LOW.mask("mask")
_ENTRY_BITS: Final = 64

ioapic_level = declare("ioapic_level", pin=int, level=bool)
ioapic_deliver = declare("ioapic_deliver", pin=int, address=int, data=int, accepted=bool)
ioapic_eoi = declare("ioapic_eoi", pin=int, vector=int)


class MessageBus(Protocol):
    """What the I/O APIC needs of the ApicBus."""

    @property
    def lock(self) -> threading.RLock: ...
    def deliver_msi(self, address: int, data: int) -> bool: ...
    def attach_listener(self, listener: EoiListener) -> None: ...


@dataclass(frozen=True, slots=True)
class IoApicState:
    """Saved state. entries: the 64-bit redirection entries. levels: of the inputs."""

    registers: Mapping[str, int | str]
    indirect: Mapping[str, int | str]
    entries: tuple[int, ...]
    levels: tuple[bool, ...]


class IoApic(Device):
    """Implements BusTarget (MMIO), IrqSink (its 24 pins) and EoiListener (for the ApicBus)."""

    def __init__(self, name: str, bus: MessageBus) -> None:
        self.name = name
        self._bus = bus
        self._lock = bus.lock
        self._levels = [False] * PINS
        self._entries = [REDTBL_LOW.reset_value] * PINS
        self._registers = RegisterBlock(TABLE, self, name)
        self._indirect = RegisterBlock(INDIRECT, self, name)
        bus.attach_listener(self)

    # --- life -----------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Registers to power-on values. The inputs keep their levels: devices drive them, and reset
        themselves."""
        with self._lock:
            self._registers.reset()
            self._indirect.reset()
            self._entries = [REDTBL_LOW.reset_value] * PINS

    def save(self) -> IoApicState:
        with self._lock:
            return IoApicState(
                self._registers.save(), self._indirect.save(), tuple(self._entries), tuple(self._levels)
            )

    def load(self, state: object) -> None:
        if not isinstance(state, IoApicState):
            raise SavedStateError(self.name, f"not the state of an I/O APIC: {type(state).__name__}")
        reserved_bits = REDTBL_LOW.reserved_mask | REDTBL_HIGH.reserved_mask << 32
        if len(state.entries) != PINS or any(
            not 0 <= entry < 1 << _ENTRY_BITS or entry & reserved_bits for entry in state.entries
        ):
            raise SavedStateError(self.name, "the redirection table is invalid")
        if len(state.levels) != PINS:
            raise SavedStateError(self.name, f"{len(state.levels)} input levels, {PINS} pins")
        with self._lock:
            self._indirect.check(state.indirect)
            self._registers.load(state.registers)
            self._indirect.load(state.indirect)
            self._entries = list(state.entries)
            self._levels = list(state.levels)

    # --- inputs ---------------------------------------------------------------------------------------------

    def set_level(self, number: int, level: bool) -> None:
        """IrqSink: input `number` changes. Edges on a masked input are lost, as the datasheet says."""
        with self._lock:
            if self._levels[number] == level:
                return
            self._levels[number] = level
            if ioapic_level.on:
                ioapic_level(number, level)
            if level:
                entry = self._entries[number]
                if not entry & _MASKED and not (entry & _LEVEL and entry & _REMOTE_IRR):
                    self._deliver(number, entry)

    def end_of_interrupt(self, vector: int) -> None:
        """A vector's handler finished: level inputs routed to it may interrupt again. Lock held."""
        for pin, entry in enumerate(self._entries):
            if entry & 0xFF == vector and entry & _LEVEL and entry & _REMOTE_IRR:
                if ioapic_eoi.on:
                    ioapic_eoi(pin, vector)
                self._entries[pin] = entry & ~_REMOTE_IRR
                self._service(pin)

    def _service(self, pin: int) -> None:
        """Deliver a level input that is asserted, unmasked and not in service."""
        entry = self._entries[pin]
        if self._levels[pin] and entry & _LEVEL and not entry & (_MASKED | _REMOTE_IRR):
            self._deliver(pin, entry)

    def _deliver(self, pin: int, entry: int) -> None:
        mode = (entry >> 8) & 7
        is_level = bool(entry & _LEVEL)
        address, data = encode_msi(entry >> 56, bool(entry & _LOGICAL), mode, entry & 0xFF, is_level)
        # Remote IRR first: an EOI may come back from inside the delivery only after it is set.
        has_remote_irr = is_level and mode in (DeliveryMode.FIXED, DeliveryMode.LOWEST_PRIORITY)
        if has_remote_irr:
            self._entries[pin] = entry | _REMOTE_IRR
        accepted = self._bus.deliver_msi(address, data)
        if has_remote_irr and not accepted:
            self._entries[pin] &= ~_REMOTE_IRR
        if ioapic_deliver.on:
            ioapic_deliver(pin, address, data, accepted)

    # --- MMIO -----------------------------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        with self._lock:
            return self._registers.read(offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        with self._lock:
            self._registers.write(offset, size, value)

    def on_read_iowin(self) -> int:
        return self._indirect.read(4 * self._registers[IOREGSEL], 4)

    def on_write_iowin(self, value: int) -> None:
        self._indirect.write(4 * self._registers[IOREGSEL], 4, value)

    def on_write_eoi(self, value: int) -> None:
        self.end_of_interrupt(value)

    def on_read_ioapicarb(self) -> int:
        return self._indirect[IOAPICID]

    def on_read_redtbl_low(self, pin: int) -> int:
        return self._entries[pin] & 0xFFFF_FFFF

    def on_write_redtbl_low(self, pin: int, value: int) -> None:
        entry = self._entries[pin]
        if not value & _LEVEL:
            entry &= ~_REMOTE_IRR  # meaningless for edges; software switches to edge to force an EOI
        low = value | (entry & _REMOTE_IRR)
        self._entries[pin] = (entry & ~0xFFFF_FFFF) | low
        if (value >> 8) & 7 == DeliveryMode.RESERVED and guest_error.on:
            guest_error(self.name, f"pin {pin}: reserved delivery mode")
        self._service(pin)

    def on_read_redtbl_high(self, pin: int) -> int:
        return self._entries[pin] >> 32

    def on_write_redtbl_high(self, pin: int, value: int) -> None:
        self._entries[pin] = (self._entries[pin] & 0xFFFF_FFFF) | value << 32
