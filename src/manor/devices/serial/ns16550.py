"""16550A UART.

Source: PC16550D Universal Asynchronous Receiver/Transmitter with FIFOs, National Semiconductor, June 1995,
section 8 "Registers" and table II.

Guest-visible differences from hardware:
- Transmission takes no time: the transmitter is always empty again when the guest looks.
- Input arrives as fast as the guest takes it, and never overruns the receiver: the far end waits until the guest
  receives, honours RTS and the free space of the FIFO, and sends again what a FIFO reset discarded. Only in
  loopback can a character be lost.
- The interrupt output is not gated by OUT2 (on a PC it is): programs that forget OUT2 work.
- The input lines CTS, DSR and DCD are asserted until `set_modem_lines` says otherwise.
- FIFO control bit 3 (DMA mode) has no effect: no RXRDY and TXRDY pins.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from manor.backends.char.api import CharBackend
from manor.base.clock import SECOND, Clock
from manor.base.errors import SavedStateError
from manor.base.timers import TimerHandle, Timers
from manor.bus.irq import IrqLine
from manor.devices.device import Device
from manor.regs.access import RC, RO, WO
from manor.regs.block import RegisterBlock
from manor.regs.field import Field, Reg, RegisterTable, reserved
from manor.trace.event import declare

_SOURCE: Final = "PC16550D, June 1995, section 8"

RBR: Final = Reg("RBR", 0, access=RO, bank="data", stored=False, doc="receiver buffer")
THR: Final = Reg("THR", 0, access=WO, bank="data", stored=False, doc="transmitter holding register")
DLL: Final = Reg("DLL", 0, bank="divisor", reset=1, doc="divisor latch, low byte")
DLM: Final = Reg("DLM", 1, bank="divisor", doc="divisor latch, high byte")
IER: Final = Reg(
    "IER", 1, bank="data", source=f"{_SOURCE}.7", doc="interrupt enable",
    fields=(
        Field("erbfi", 0, doc="received data available and timeout"),
        Field("etbei", 1, doc="transmitter holding register empty"),
        Field("elsi", 2, doc="receiver line status"),
        Field("edssi", 3, doc="modem status"),
        reserved(4, 4),
    ),
)  # fmt: skip
IIR: Final = Reg(
    "IIR", 2, access=RO, stored=False, source=f"{_SOURCE}.6", doc="interrupt identification",
    fields=(
        Field("no_interrupt", 0, reset=1),
        Field("id", 1, 3, values=((0, "modem"), (1, "THRE"), (2, "data"), (3, "line"), (6, "timeout"))),
        reserved(4, 2),
        Field("fifo", 6, 2, values=((0, "off"), (3, "on"))),
    ),
)  # fmt: skip
FCR: Final = Reg(
    "FCR", 2, access=WO, stored=False, source=f"{_SOURCE}.5", doc="FIFO control",
    fields=(
        Field("enable", 0),
        Field("reset_receiver", 1),
        Field("reset_transmitter", 2),
        Field("dma", 3),
        reserved(4, 2),
        Field("trigger", 6, 2, values=((0, "1 byte"), (1, "4"), (2, "8"), (3, "14"))),
    ),
)  # fmt: skip
LCR: Final = Reg(
    "LCR", 3, source=f"{_SOURCE}.1", doc="line control",
    fields=(
        Field("word_length", 0, 2, doc="data bits minus 5"),
        Field("stop", 2),
        Field("parity", 3),
        Field("even", 4),
        Field("stick", 5),
        Field("set_break", 6),
        Field("dlab", 7, doc="divisor latch access: selects the bank"),
    ),
)  # fmt: skip
MCR: Final = Reg(
    "MCR", 4, source=f"{_SOURCE}.8", doc="modem control",
    fields=(
        Field("dtr", 0),
        Field("rts", 1),
        Field("out1", 2),
        Field("out2", 3),
        Field("loop", 4),
        reserved(5, 3),
    ),
)  # fmt: skip
LSR: Final = Reg(
    "LSR", 5, access=RO, source=f"{_SOURCE}.4", doc="line status",
    fields=(
        Field("dr", 0, doc="data ready"),
        Field("oe", 1, access=RC, doc="overrun"),
        Field("pe", 2, access=RC, doc="parity error"),
        Field("fe", 3, access=RC, doc="framing error"),
        Field("bi", 4, access=RC, doc="break"),
        Field("thre", 5, reset=1, doc="transmitter holding register empty"),
        Field("temt", 6, reset=1, doc="transmitter empty"),
        Field("fifo_error", 7, doc="an error waits in the FIFO"),
    ),
)  # fmt: skip
MSR: Final = Reg(
    "MSR", 6, access=RO, source=f"{_SOURCE}.9", doc="modem status",
    fields=(
        Field("dcts", 0, access=RC),
        Field("ddsr", 1, access=RC),
        Field("teri", 2, access=RC),
        Field("ddcd", 3, access=RC),
        Field("cts", 4, reset=1),
        Field("dsr", 5, reset=1),
        Field("ri", 6),
        Field("dcd", 7, reset=1),
    ),
)  # fmt: skip
SCR: Final = Reg("SCR", 7, doc="scratch")

TABLE: Final = RegisterTable(
    "ns16550",
    8,
    (RBR, THR, IER, IIR, FCR, LCR, MCR, LSR, MSR, SCR, DLL, DLM),
    banks=("data", "divisor"),
    split=True,
    unmapped=0xFF,
    source="PC16550D, National Semiconductor, June 1995",
)

FIFO_SIZE: Final = 16
_TRIGGERS: Final = (1, 4, 8, 14)
_CRYSTAL_BAUD: Final = 115_200
"""1.8432 MHz / 16: the baud rate for divisor 1. PC16550D, section 8.3."""
_TIMEOUT_CHARACTERS: Final = 4
"""Character times without activity until the timeout interrupt. PC16550D, section 8.10."""

_IER_DATA: Final = IER.mask("erbfi")
_IER_THRE: Final = IER.mask("etbei")
_IER_LINE: Final = IER.mask("elsi")
_IER_MODEM: Final = IER.mask("edssi")
_LSR_ERRORS: Final = LSR.mask("oe", "pe", "fe", "bi")
_LSR_DR: Final = LSR.mask("dr")
_LSR_OE: Final = LSR.mask("oe")
_LSR_BI: Final = LSR.mask("bi")
_LSR_FIFO_ERROR: Final = LSR.mask("fifo_error")
_MSR_DELTAS: Final = MSR.mask("dcts", "ddsr", "teri", "ddcd")
_MSR_LINES: Final = MSR.mask("cts", "dsr", "ri", "dcd")
_MSR_RI: Final = MSR.mask("ri")
_MSR_TERI: Final = MSR.mask("teri")
_MCR_LOOP: Final = MCR.mask("loop")
_MCR_RTS: Final = MCR.mask("rts")
_POLLS: Final = 4
"""Reads of the line status with nothing sent since the read before, by which a guest shows that it waits for input:
for the transmitter it never has to wait. More than one, as drivers look at it for other reasons too."""
_IIR_NONE: Final = 0x1
_IIR_MODEM: Final = 0x0
_IIR_THRE: Final = 0x2
_IIR_DATA: Final = 0x4
_IIR_LINE: Final = 0x6
_IIR_TIMEOUT: Final = 0xC

serial_transmit = declare("serial_transmit", device=str, value=int)
serial_receive = declare("serial_receive", device=str, count=int)
serial_overrun = declare("serial_overrun", device=str, value=int)


@dataclass(frozen=True, slots=True)
class Ns16550State:
    """Saved state. fifo: (character, line status bits) pairs, oldest first."""

    registers: Mapping[str, int | str]
    fifo: tuple[tuple[int, int], ...]
    fifo_enabled: bool
    trigger: int
    thre_pending: bool
    timeout_pending: bool
    modem_lines: int
    fifo_has_loopback: bool
    rts_used: bool
    polls: int
    status_read: bool


class Ns16550(Device):
    """One serial port. Implements BusTarget (8 bytes) and CharReceiver."""

    def __init__(
        self, name: str, irq: IrqLine, backend: CharBackend, clock: Clock, timers: Timers
    ) -> None:
        self.name = name
        self.on_room: Callable[[], None] | None = None
        """Called when `can_receive` became positive again; may call `receive`. Set by the backend's owner."""
        self.on_unread: Callable[[bytes], None] | None = None
        """Called with input that a FIFO reset discarded, to be sent again before any other. Set like `on_room`."""
        self._irq = irq
        self._backend = backend
        self._clock = clock
        self._timers = timers
        self._timer: TimerHandle | None = None
        self._fifo: deque[tuple[int, int]] = deque()
        self._modem_lines = MSR.reset_value & _MSR_LINES
        self.registers = RegisterBlock(TABLE, self, name)
        self.read = self.registers.read
        self.write = self.registers.write
        self.reset()

    # --- life -----------------------------------------------------------------------------------------------

    def reset(self) -> None:
        self.registers.reset()
        self._fifo.clear()
        self._fifo_has_loopback = False
        self._fifo_enabled = False
        self._trigger = 1
        self._thre_pending = False
        self._thre_enabled = False
        self._rts_used = False
        self._polls = 0
        self._status_read = False
        self._stop_timeout()
        self._show_modem_lines(self._modem_lines, False)
        self._update()

    def save(self) -> Ns16550State:
        return Ns16550State(
            self.registers.save(),
            tuple(self._fifo),
            self._fifo_enabled,
            self._trigger,
            self._thre_pending,
            self._timeout_pending,
            self._modem_lines,
            self._fifo_has_loopback,
            self._rts_used,
            self._polls,
            self._status_read,
        )

    def load(self, state: object) -> None:
        if not isinstance(state, Ns16550State):
            raise SavedStateError(self.name, f"not the state of a 16550: {type(state).__name__}")
        depth = FIFO_SIZE if state.fifo_enabled else 1
        if len(state.fifo) > depth:
            raise SavedStateError(self.name, f"{len(state.fifo)} characters in a FIFO of {depth}")
        if any(not 0 <= byte <= 0xFF or errors & ~_LSR_ERRORS for byte, errors in state.fifo):
            raise SavedStateError(self.name, "a character in the FIFO is out of range")
        if state.trigger not in _TRIGGERS or state.modem_lines & ~_MSR_LINES:
            raise SavedStateError(self.name, "trigger level or modem lines are out of range")
        self.registers.load(state.registers)
        self._fifo = deque(state.fifo)
        self._fifo_enabled = state.fifo_enabled
        self._trigger = state.trigger
        self._thre_pending = state.thre_pending
        self._thre_enabled = bool(self.registers[IER] & _IER_THRE)
        self._stop_timeout()
        self._timeout_pending = state.timeout_pending
        self._modem_lines = state.modem_lines
        self._fifo_has_loopback = state.fifo_has_loopback
        self._rts_used = state.rts_used
        self._polls = state.polls
        self._status_read = state.status_read
        self._restart_timeout()
        self._update()

    # --- the line -------------------------------------------------------------------------------------------

    def can_receive(self) -> int:
        """Bytes `receive` takes now.

        A guest receives if its data interrupt is enabled or it polls the line status; before that, input would be
        lost to the tests and resets of its driver. RTS stops the input only of a guest that has ever asserted it:
        simple ones leave it alone. It does not stop one that polls, such as a kernel's debugger.
        """
        registers = self.registers
        control = registers[MCR]
        if control & _MCR_LOOP:
            return 0
        may_send = control & _MCR_RTS or not self._rts_used
        ready = (registers[IER] & _IER_DATA and may_send) or self._polls >= _POLLS
        return self._room() if ready else 0

    def receive(self, data: bytes) -> int:
        """Take the first `can_receive()` bytes of `data`; returns how many that were."""
        count = min(len(data), self.can_receive())
        if count == 0:
            return 0
        if serial_receive.on:
            serial_receive(self.name, count)
        for byte in data[:count]:
            self._fifo.append((byte, 0))
        self._received()
        return count

    def receive_break(self) -> bool:
        """The far end sends a break; False, and nothing happens, if there is no room for it."""
        if self.can_receive() == 0:
            return False
        self._fifo.append((0, _LSR_BI))
        self._received()
        return True

    def set_modem_lines(self, *, cts: bool, dsr: bool, ri: bool, dcd: bool) -> None:
        """Levels of the modem's outputs, true is asserted."""
        fields = MSR.by_name
        self._modem_lines = (
            fields["cts"].put(0, cts)
            | fields["dsr"].put(0, dsr)
            | fields["ri"].put(0, ri)
            | fields["dcd"].put(0, dcd)
        )
        if not self.registers[MCR] & _MCR_LOOP:
            self._show_modem_lines(self._modem_lines, True)
            self._update()

    def _room(self) -> int:
        return (FIFO_SIZE if self._fifo_enabled else 1) - len(self._fifo)

    def _received(self) -> None:
        self._timeout_pending = False
        self._restart_timeout()
        self._show_first()
        self._update()

    # --- register hooks -------------------------------------------------------------------------------------

    def on_read_rbr(self) -> int:
        if not self._fifo:
            return 0
        had_room = self._room() > 0
        byte, _ = self._fifo.popleft()
        if not self._fifo:
            self._fifo_has_loopback = False
        self._timeout_pending = False
        self._restart_timeout()
        self._show_first()
        self._update()
        if not had_room and self.on_room is not None:
            self.on_room()
        return byte

    def on_write_thr(self, value: int) -> None:
        self._status_read = False
        self._thre_pending = True  # empty again at once
        if self.registers[MCR] & _MCR_LOOP:
            self._loop_back(value, 0)
        else:
            if serial_transmit.on:
                serial_transmit(self.name, value)
            self._backend.write(bytes((value,)))
        self._update()

    def on_write_ier(self, value: int) -> None:
        # Enabling the interrupt while the register is empty requests it. Drivers test for this behaviour.
        self._polls = 0
        if value & _IER_THRE and not self._thre_enabled:
            self._thre_pending = True
        self._thre_enabled = bool(value & _IER_THRE)
        self._update()
        if value & _IER_DATA:
            self._offer_room()

    def on_read_iir(self) -> int:
        cause = self._cause()
        if cause == _IIR_THRE:
            self._thre_pending = False
            self._update()
        return cause | (0xC0 if self._fifo_enabled else 0)

    def on_write_fcr(self, value: int) -> None:
        self._polls = 0
        enable = bool(FCR.field("enable").get(value))
        dropped = bool(FCR.field("reset_receiver").get(value)) or enable != self._fifo_enabled
        if not enable:
            # The other bits are only taken when bit 0 is one. PC16550D, section 8.5.
            self._trigger = 1
        else:
            self._trigger = _TRIGGERS[FCR.field("trigger").get(value)]
        self._fifo_enabled = enable
        if dropped:
            self._discard()
        self._update()
        if dropped:
            self._offer_room()

    def on_write_lcr(self, value: int) -> None:
        self.registers.bank = "divisor" if LCR.field("dlab").get(value) else "data"
        if LCR.field("set_break").get(value) and self.registers[MCR] & _MCR_LOOP:
            self._loop_back(0, _LSR_BI)
            self._update()

    def on_write_mcr(self, value: int) -> None:
        self._polls = 0
        self._rts_used |= bool(value & _MCR_RTS)
        if value & _MCR_LOOP:
            # RTS drives CTS, DTR drives DSR, OUT1 drives RI, OUT2 drives DCD. PC16550D, section 8.8.
            fields = MCR.by_name
            lines = (
                MSR.by_name["cts"].put(0, fields["rts"].get(value))
                | MSR.by_name["dsr"].put(0, fields["dtr"].get(value))
                | MSR.by_name["ri"].put(0, fields["out1"].get(value))
                | MSR.by_name["dcd"].put(0, fields["out2"].get(value))
            )
        else:
            lines = self._modem_lines
        self._show_modem_lines(lines, True)
        self._update()
        self._offer_room()

    def on_read_lsr(self) -> int:
        value = self.registers[LSR]
        if not value & _LSR_DR and self._polls < _POLLS:
            self._polls += self._status_read
            self._status_read = True
            if self._polls == _POLLS:
                self._offer_room()
                value = self.registers[LSR]
        if value & _LSR_ERRORS:
            self.registers[LSR] = value & ~_LSR_ERRORS
            if self._fifo:
                self._fifo[0] = (self._fifo[0][0], 0)  # shown once
            self._show_first()
            self._update()
        return value

    def on_read_msr(self) -> int:
        value = self.registers[MSR]
        if value & _MSR_DELTAS:
            self.registers[MSR] = value & ~_MSR_DELTAS
            self._update()
        return value

    # --- inside ---------------------------------------------------------------------------------------------

    def _offer_room(self) -> None:
        if self.on_room is not None and self.can_receive() > 0:
            self.on_room()

    def _discard(self) -> None:
        """Empty the FIFO; the far end sends again what came from it, but no break and nothing of a loopback test."""
        lost = b"" if self._fifo_has_loopback else bytes(byte for byte, errors in self._fifo if not errors & _LSR_BI)
        self._fifo.clear()
        self._fifo_has_loopback = False
        self._stop_timeout()
        self._show_first()
        if lost and self.on_unread is not None:
            self.on_unread(lost)

    def _loop_back(self, byte: int, errors: int) -> None:
        """A transmitted character arrives at our own receiver."""
        if self._room() <= 0:
            if serial_overrun.on:
                serial_overrun(self.name, byte)
            self.registers[LSR] |= _LSR_OE
            if self._fifo_enabled:
                return  # the FIFO keeps its contents, the new character is lost
            self._fifo.clear()  # without FIFO the old character is lost
        self._fifo.append((byte, errors))
        self._fifo_has_loopback = True
        self._timeout_pending = False
        self._restart_timeout()
        self._show_first()

    def _show_first(self) -> None:
        """Make the line status describe the character at the top of the FIFO."""
        value = self.registers[LSR] & ~(_LSR_DR | _LSR_FIFO_ERROR)
        if self._fifo:
            value |= _LSR_DR | self._fifo[0][1]
            if self._fifo_enabled and any(errors for _, errors in self._fifo):
                value |= _LSR_FIFO_ERROR
        self.registers[LSR] = value

    def _show_modem_lines(self, lines: int, deltas: bool) -> None:
        old = self.registers[MSR]
        changed = (old ^ lines) & _MSR_LINES
        value = lines | (old & _MSR_DELTAS if deltas else 0)
        if deltas:
            value |= (changed & ~_MSR_RI) >> 4  # each delta bit is four below its line
            if changed & _MSR_RI and old & _MSR_RI:
                value |= _MSR_TERI  # the trailing edge only
        self.registers[MSR] = value

    def _cause(self) -> int:
        """Interrupt identification, highest priority first. PC16550D, table IV."""
        registers = self.registers
        enabled = registers[IER]
        if enabled & _IER_LINE and registers[LSR] & _LSR_ERRORS:
            return _IIR_LINE
        if enabled & _IER_DATA:
            count = len(self._fifo)
            if count and (not self._fifo_enabled or count >= self._trigger):
                return _IIR_DATA
            if self._timeout_pending:
                return _IIR_TIMEOUT
        if enabled & _IER_THRE and self._thre_pending:
            return _IIR_THRE
        if enabled & _IER_MODEM and registers[MSR] & _MSR_DELTAS:
            return _IIR_MODEM
        return _IIR_NONE

    def _update(self) -> None:
        self._irq.set(self._cause() != _IIR_NONE)

    # --- receiver timeout -----------------------------------------------------------------------------------

    def _character_ns(self) -> int:
        registers = self.registers
        line = registers[LCR]
        bits = 1 + 5 + LCR.field("word_length").get(line) + LCR.field("parity").get(line) + 1
        bits += LCR.field("stop").get(line)
        divisor = (registers[DLM] << 8 | registers[DLL]) or 1
        return bits * SECOND * divisor // _CRYSTAL_BAUD

    def _stop_timeout(self) -> None:
        self._timeout_pending = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _restart_timeout(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        # From the trigger level on the data interrupt is requested anyway.
        if self._fifo_enabled and 0 < len(self._fifo) < self._trigger:
            delay = _TIMEOUT_CHARACTERS * self._character_ns()
            self._timer = self._timers.at(self._clock.now_ns() + delay, self._on_timeout)

    def _on_timeout(self) -> None:
        self._timer = None
        if self._fifo_enabled and self._fifo:
            self._timeout_pending = True
            self._update()
