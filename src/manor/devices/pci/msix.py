"""MSI-X: interrupt messages of a function, with a table and pending bits in one of its BARs.

Source: PCI Local Bus Specification 3.0, section 6.8.2 "MSI-X Capability and Table Structure".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from manor.base.bits import bit
from manor.base.errors import SavedStateError
from manor.bus.msi import MsiSink
from manor.devices.pci.capability import CAP_ID_MSIX
from manor.regs.access import RO
from manor.regs.block import RegisterBlock
from manor.regs.field import Field, Reg, RegisterTable, reserved
from manor.trace.event import declare, guest_error

ENTRY_SIZE = 16
PBA_OFFSET = 0x800
BAR_SIZE = 0x1000
VECTOR_LIMIT = PBA_OFFSET // ENTRY_SIZE
NO_VECTOR = 0xFFFF

_MASKED = 1
_WORD = 0xFFFF_FFFF

MESSAGE_CONTROL = Reg(
    "message_control",
    2,
    16,
    fields=(
        Field("table_size", 0, 11, RO, doc="vectors minus one"),
        reserved(11, 3),
        Field("function_mask", 14, doc="all vectors behave as masked"),
        Field("enable", 15, doc="messages instead of INTx"),
    ),
    source="PCI 3.0, 6.8.2.3",
)
_ENABLE = MESSAGE_CONTROL.mask("enable")
_FUNCTION_MASK = MESSAGE_CONTROL.mask("function_mask")
TABLE = Reg(
    "table",
    4,
    32,
    RO,
    fields=(Field("bir", 0, 3), Field("offset", 3, 29, doc="in units of 8 bytes")),
    source="PCI 3.0, 6.8.2.4",
)
PBA = Reg(
    "pba",
    8,
    32,
    RO,
    fields=(Field("bir", 0, 3), Field("offset", 3, 29, doc="in units of 8 bytes")),
    source="PCI 3.0, 6.8.2.5",
)
HEADER = Reg("header", 0, 16, RO, doc="capability ID and next pointer, answered by the list", source="PCI 3.0, 6.7")
MSIX_TABLE = RegisterTable("MSI-X capability", 12, (HEADER, MESSAGE_CONTROL, TABLE, PBA), split=True)

msix_send = declare("msix_send", function=str, vector=int, address=int, data=int)


@dataclass(frozen=True, slots=True)
class MsixState:
    """control: message control. entries: (address, data, vector control) each. pending: bit per vector."""

    control: int
    entries: tuple[tuple[int, int, int], ...]
    pending: int


class Msix:
    """The capability and, as a BusTarget, the BAR with table and pending bit array.

    bar: index of the BAR that maps this object. on_enable: called when the enable bit changes.
    """

    def __init__(self, name: str, vectors: int, bar: int, on_enable: Callable[[], None] | None = None) -> None:
        if not 1 <= vectors <= VECTOR_LIMIT:
            raise ValueError(f"{name}: {vectors} MSI-X vectors, at most {VECTOR_LIMIT}")
        self.name = name
        self.vectors = vectors
        self.sink: MsiSink | None = None
        self._bar = bar
        self._on_enable = on_enable
        self._registers = RegisterBlock(MSIX_TABLE, self, name)
        self._was_enabled = False
        self.reset()

    def reset(self) -> None:
        """Disabled, every vector masked, nothing pending (6.8.2.9: mask bits are 1 after reset)."""
        self._registers.reset()
        self._registers.put(MESSAGE_CONTROL, "table_size", self.vectors - 1)
        self._registers.put(TABLE, "bir", self._bar)
        self._registers.put(PBA, "bir", self._bar)
        self._registers.put(PBA, "offset", PBA_OFFSET >> 3)
        # Per vector four 32-bit words: address low, address high, data, vector control.
        self._words = [0, 0, 0, _MASKED] * self.vectors
        self._pending = 0
        self._was_enabled = False
        self._take_control()

    def _take_control(self) -> None:
        """Read the message control register, for those who ask at every interrupt."""
        control = self._registers[MESSAGE_CONTROL]
        self.is_enabled = control & _ENABLE != 0
        self.is_masked = control & _FUNCTION_MASK != 0
        """Whether the function mask holds all vectors back."""

    @property
    def pending(self) -> int:
        """Pending bits, one per vector."""
        return self._pending

    def notify(self, vector: int) -> None:
        """Signal `vector`: a message now, or when it is unmasked. NO_VECTOR and disabled: nothing."""
        if vector >= self.vectors or not self.is_enabled:
            return
        if self.is_masked or self._words[4 * vector + 3] & _MASKED:
            self._pending |= bit(vector)
        else:
            self._send(vector)

    def _send(self, vector: int) -> None:
        low, high, data, _ = self._words[4 * vector : 4 * vector + 4]
        if self._pending:
            self._pending &= ~bit(vector)
        address = high << 32 | low
        if msix_send.on:
            msix_send(self.name, vector, address, data)
        if self.sink is not None:
            self.sink.send(address, data)

    def _send_unmasked(self) -> None:
        """Send what became deliverable."""
        if not self._pending or not self.is_enabled or self.is_masked:
            return
        for vector in range(self.vectors):
            if self._pending >> vector & 1 and not self._words[4 * vector + 3] & _MASKED:
                self._send(vector)

    # -- the capability --

    def on_write_message_control(self, value: int) -> None:
        self._take_control()
        enabled = self.is_enabled
        if enabled != self._was_enabled:
            self._was_enabled = enabled
            if self._on_enable is not None:
                self._on_enable()
        self._send_unmasked()

    def read_capability(self, offset: int, size: int) -> int:
        return self._registers.read(offset, size)

    def write_capability(self, offset: int, size: int, value: int) -> None:
        self._registers.write(offset, size, value)

    # -- the BAR --

    def read(self, offset: int, size: int) -> int:
        """Table or pending bits; 4 or 8 aligned bytes (6.8.2: other accesses are undefined, here zero)."""
        if size not in (4, 8) or offset % size:
            self._report(f"read of {size} bytes at {offset:#x} of the MSI-X BAR")
            return 0
        value = self._read_word(offset)
        if size == 8:
            value |= self._read_word(offset + 4) << 32
        return value

    def write(self, offset: int, size: int, value: int) -> None:
        if size not in (4, 8) or offset % size:
            self._report(f"write of {size} bytes at {offset:#x} of the MSI-X BAR")
            return
        self._write_word(offset, value & _WORD)
        if size == 8:
            self._write_word(offset + 4, value >> 32 & _WORD)

    def _read_word(self, offset: int) -> int:
        if offset < ENTRY_SIZE * self.vectors:
            return self._words[offset >> 2]
        if offset >= PBA_OFFSET:
            return self._pending >> 8 * (offset - PBA_OFFSET) & 0xFFFF_FFFF
        return 0

    def _write_word(self, offset: int, value: int) -> None:
        if offset >= ENTRY_SIZE * self.vectors:
            self._report(f"write at {offset:#x} of the MSI-X BAR, outside the table")
            return
        index = offset >> 2
        part = index & 3
        if part == 0:
            value &= ~3  # 6.8.2.7: the low two address bits are zero
        elif part == 3:
            value &= _MASKED
        self._words[index] = value
        if part == 3 and not value:
            self._send_unmasked()

    def _report(self, message: str) -> None:
        if guest_error.on:
            guest_error(self.name, message)

    # -- save and load --

    def save(self) -> MsixState:
        entries = tuple(
            (self._words[i + 1] << 32 | self._words[i], self._words[i + 2], self._words[i + 3])
            for i in range(0, 4 * self.vectors, 4)
        )
        return MsixState(self._registers[MESSAGE_CONTROL], entries, self._pending)

    def check(self, state: MsixState) -> None:
        """Raise SavedStateError if `load` would."""
        if not isinstance(state, MsixState) or type(state.entries) is not tuple:
            raise SavedStateError(self.name, "not an MSI-X state")
        if type(state.control) is not int or not 0 <= state.control <= 0xFFFF:
            raise SavedStateError(self.name, f"message control {state.control!r}")
        if state.control & MESSAGE_CONTROL.reserved_mask:
            raise SavedStateError(self.name, f"message control {state.control:#x} has reserved bits")
        size = MESSAGE_CONTROL.field("table_size").get(state.control) + 1
        if size != self.vectors or len(state.entries) != self.vectors:
            raise SavedStateError(self.name, f"not {self.vectors} vectors")
        for address, data, control in state.entries:
            if not (0 <= address < 1 << 64 and address % 4 == 0 and 0 <= data < 1 << 32 and control in (0, 1)):
                raise SavedStateError(self.name, f"entry {(address, data, control)}")
        if type(state.pending) is not int or not 0 <= state.pending < 1 << self.vectors:
            raise SavedStateError(self.name, f"pending bits {state.pending!r}")

    def load(self, state: MsixState) -> None:
        """Take over a saved state; sends nothing. SavedStateError, and no change, if it does not fit."""
        self.check(state)
        self._registers[MESSAGE_CONTROL] = state.control
        self._words = []
        for address, data, control in state.entries:
            self._words += [address & 0xFFFF_FFFF, address >> 32, data, control]
        self._pending = state.pending
        self._take_control()
        self._was_enabled = self.is_enabled


class MsixCapability:
    """The capability-list side of an Msix, whose `read` and `write` are those of the BAR."""

    cap_id = CAP_ID_MSIX
    size = 12

    def __init__(self, msix: Msix) -> None:
        self.read = msix.read_capability
        self.write = msix.write_capability
