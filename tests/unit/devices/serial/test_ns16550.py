"""16550A UART: identification, FIFO, every interrupt, loopback, flow control."""

from __future__ import annotations

import dataclasses

import pytest

from manor.backends.char.api import CharBackend, CharReceiver
from manor.backends.char.memory import MemoryBackend
from manor.base.clock import MILLISECOND
from manor.base.errors import SavedStateError
from manor.devices.serial.ns16550 import FIFO_SIZE, Ns16550
from manor.testing.fakes import FakeClock, FakeIrq, FakeTimers
from manor.trace import sink

DATA, IER, IIR, FCR, LCR, MCR, LSR, MSR, SCR = 0, 1, 2, 2, 3, 4, 5, 6, 7
NONE, MODEM, THRE, RX, LINE, TIMEOUT = 1, 0, 2, 4, 6, 0xC
DTR, RTS, OUT1, OUT2, LOOP = 1, 2, 4, 8, 16


class Port:
    """A port on a bench, opened by its driver: it receives until a test takes the interrupt or RTS away."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.timers = FakeTimers(self.clock)
        self.irq = FakeIrq()
        self.line = MemoryBackend()
        self.uart = Ns16550("com1", self.irq.line(), self.line, self.clock, self.timers)
        self.write(MCR, RTS | DTR | OUT2)
        self.write(IER, 0x01)

    def read(self, offset: int) -> int:
        return self.uart.read(offset, 1)

    def write(self, offset: int, value: int) -> None:
        self.uart.write(offset, 1, value)

    def cause(self) -> int:
        return self.read(IIR) & 0xF

    def drain(self) -> bytes:
        data = bytearray()
        while self.read(LSR) & 1:
            data.append(self.read(DATA))
        return bytes(data)


@pytest.fixture
def port() -> Port:
    return Port()


def test_protocols(port: Port) -> None:
    receiver: CharReceiver = port.uart
    backend: CharBackend = port.line
    assert receiver.can_receive() == 1
    backend.write(b"")


def test_power_on_state() -> None:
    uart = Port().uart
    uart.reset()
    assert [uart.read(offset, 1) for offset in range(8)] == [0, 0, 1, 0, 0, 0x60, 0xB0, 0]


def test_output_reaches_the_line(port: Port) -> None:
    for byte in b"hello":
        port.write(DATA, byte)
        assert port.read(LSR) & 0x60 == 0x60
    assert port.line.output == b"hello"


def test_scratch_and_divisor(port: Port) -> None:
    port.write(SCR, 0x5A)
    assert port.read(SCR) == 0x5A
    port.write(LCR, 0x83)
    port.write(DATA, 0x12)
    port.write(IER, 0x34)
    assert (port.read(DATA), port.read(IER)) == (0x12, 0x34)
    port.write(LCR, 0x03)
    assert (port.read(DATA), port.read(IER)) == (0, 1)
    assert port.line.output == b""


def test_a_driver_identifies_a_16550a(port: Port) -> None:
    """The steps a careful driver takes: interrupt enable bits, loopback, FIFO bits, no later model's features."""
    port.write(IER, 0)
    assert port.read(IER) == 0
    port.write(IER, 0x0F)
    assert port.read(IER) & 0x0F == 0x0F
    port.write(IER, 0)
    port.write(MCR, LOOP | OUT2 | RTS)
    assert port.read(MSR) & 0xF0 == 0x90
    port.write(MCR, OUT2 | RTS)
    port.write(LCR, 0)
    port.write(FCR, 0x01)
    assert port.read(IIR) >> 6 == 3
    port.write(LCR, 0x80)  # a 16650 would show an enhanced feature register of 0
    assert port.read(IIR) != 0
    port.write(LCR, 0xBF)
    assert port.read(IIR) != 0
    port.write(LCR, 0x80)  # a 16750 would set bit 5 for its 64-byte FIFO
    port.write(FCR, 0x21)
    assert port.read(IIR) & 0x20 == 0
    port.write(LCR, 0)
    port.write(IER, 0x40)  # an XScale port would keep this bit
    assert port.read(IER) == 0
    port.write(FCR, 0)
    assert port.read(IIR) >> 6 == 0


def test_transmitter_interrupt(port: Port) -> None:
    port.write(IER, 0x02)
    assert port.irq.is_raised()
    assert port.cause() == THRE
    assert not port.irq.is_raised()  # reading the identification answers it
    assert port.cause() == NONE
    port.write(DATA, 0x41)
    assert port.cause() == THRE
    port.write(IER, 0)
    port.write(IER, 0x02)  # enabling requests again: drivers test for this
    assert port.cause() == THRE


def test_receive_without_fifo(port: Port) -> None:
    port.write(IER, 0x01)
    assert port.uart.receive(b"ab") == 1
    assert port.irq.is_raised()
    assert port.cause() == RX
    assert port.uart.can_receive() == 0
    assert port.read(DATA) == ord("a")
    assert not port.irq.is_raised()
    assert port.uart.receive(b"b") == 1


@pytest.mark.parametrize(("bits", "level"), [(0, 1), (1, 4), (2, 8), (3, 14)])
def test_fifo_trigger_levels(port: Port, bits: int, level: int) -> None:
    port.write(FCR, 0x01 | bits << 6)
    port.write(IER, 0x01)
    for count in range(1, level):
        port.uart.receive(b"x")
        assert not port.irq.is_raised(), count
    port.uart.receive(b"x")
    assert port.cause() == RX
    port.read(DATA)
    assert not port.irq.is_raised()


def test_receiver_timeout(port: Port) -> None:
    port.write(LCR, 0x83)  # 8N1 at 9600 baud: a character takes 1.04 ms
    port.write(DATA, 12)
    port.write(LCR, 0x03)
    port.write(FCR, 0xC1)
    port.write(IER, 0x01)
    port.uart.receive(b"abc")
    port.timers.advance(4 * MILLISECOND)
    assert not port.irq.is_raised()
    port.timers.advance(MILLISECOND)
    assert port.irq.is_raised()
    assert port.read(IIR) == 0xC0 | TIMEOUT
    assert port.read(DATA) == ord("a")
    assert not port.irq.is_raised()
    port.timers.advance(5 * MILLISECOND)  # and again for the rest
    assert port.cause() == TIMEOUT
    assert port.drain() == b"bc"
    assert port.timers.pending() == []


def test_line_status_interrupt_for_break(port: Port) -> None:
    port.write(FCR, 0x01)
    port.write(IER, 0x05)
    port.uart.receive(b"a")
    assert port.uart.receive_break()
    assert port.read(LSR) & 0x9F == 0x81  # an error waits in the FIFO, not at its top
    assert port.cause() == RX
    port.read(DATA)
    assert port.cause() == LINE
    assert port.read(LSR) & 0x9F == 0x91
    assert port.cause() == RX  # reading the status answered it, the null character is still there
    assert port.read(LSR) & 0x9F == 0x01
    assert port.read(DATA) == 0
    assert port.cause() == NONE


def test_modem_status_interrupt(port: Port) -> None:
    port.write(IER, 0x08)
    port.uart.set_modem_lines(cts=True, dsr=True, ri=True, dcd=False)
    assert port.irq.is_raised()
    assert port.cause() == MODEM
    assert port.read(MSR) == 0x70 | 0x08  # DCD changed; a rising RI is no event
    assert not port.irq.is_raised()
    port.uart.set_modem_lines(cts=False, dsr=False, ri=False, dcd=True)
    assert port.read(MSR) == 0x80 | 0x0F
    assert port.read(MSR) == 0x80


def test_interrupt_priorities(port: Port) -> None:
    port.write(FCR, 0x01)
    port.write(IER, 0x0F)
    port.uart.set_modem_lines(cts=False, dsr=True, ri=False, dcd=True)
    port.uart.receive_break()
    assert port.cause() == LINE
    port.read(LSR)
    assert port.cause() == RX
    port.read(DATA)
    assert port.cause() == THRE
    assert port.cause() == MODEM
    port.read(MSR)
    assert port.cause() == NONE


def test_loopback(port: Port) -> None:
    port.write(FCR, 0x01)
    port.write(MCR, LOOP)
    assert port.read(MSR) & 0xF0 == 0
    for control, status in ((RTS, 0x10), (DTR, 0x20), (OUT1, 0x40), (OUT2, 0x80)):
        port.write(MCR, LOOP | control)
        assert port.read(MSR) & 0xF0 == status
    for byte in b"echo":
        port.write(DATA, byte)
    assert port.line.output == b""
    assert port.uart.can_receive() == 0
    assert port.drain() == b"echo"
    port.write(LCR, 0x43)
    assert port.read(LSR) & 0x11 == 0x11
    port.read(DATA)
    port.write(MCR, 0)
    assert port.read(MSR) & 0xF0 == 0xB0


def test_loopback_overrun(port: Port) -> None:
    port.write(FCR, 0x01)
    port.write(MCR, LOOP)
    for byte in range(FIFO_SIZE + 1):
        port.write(DATA, byte)
    assert port.read(LSR) & 0x02
    assert port.read(LSR) & 0x02 == 0
    assert port.drain() == bytes(range(FIFO_SIZE))
    port.write(FCR, 0)
    port.write(DATA, 1)
    port.write(DATA, 2)
    assert port.read(LSR) & 0x03 == 0x03
    assert port.read(DATA) == 2


def test_fifo_resets(port: Port) -> None:
    port.write(FCR, 0x01)
    port.uart.receive(b"abc")
    port.write(FCR, 0x03)
    assert port.read(LSR) & 1 == 0
    port.uart.receive(b"abc")
    port.write(FCR, 0x00)  # switching the FIFO off empties it
    assert port.read(LSR) & 1 == 0


def test_no_input_is_lost(port: Port) -> None:
    """A backend that keeps what was not taken, and offers again when called, delivers everything in order."""
    port.write(FCR, 0x01)
    text = bytes(range(256)) * 4
    waiting = bytearray(text)

    def offer() -> None:
        del waiting[: port.uart.receive(bytes(waiting))]

    port.uart.on_room = offer
    offer()
    assert len(text) - len(waiting) == FIFO_SIZE
    assert port.drain() == text


class Bench:
    """A port after power-on whose backend has input waiting."""

    def __init__(self, text: bytes) -> None:
        self.port = Port()
        self.port.uart.reset()
        self.waiting = bytearray(text)
        self.port.uart.on_room = self.offer
        self.port.uart.on_unread = self.put_back
        self.read = self.port.read
        self.write = self.port.write
        self.offer()

    def offer(self) -> None:
        while taken := self.port.uart.receive(bytes(self.waiting)):
            del self.waiting[:taken]

    def put_back(self, data: bytes) -> None:
        self.waiting[:0] = data

    def open(self) -> None:
        """What Linux' driver does when its port is opened. Source: Linux 6.1, 8250_port.c, serial8250_do_startup."""
        for value in (0x01, 0x07, 0x00):
            self.write(FCR, value)
        self.forget()
        self.write(LCR, 0x03)
        self.write(MCR, DTR | OUT2)
        self.write(IER, 0x02)
        self.read(LSR)
        self.read(IIR)
        self.write(IER, 0)
        self.forget()
        self.write(IER, 0x05)
        # Only then the speed, and with it the FIFO.
        self.write(LCR, 0x93)
        self.write(DATA, 12)
        self.write(IER, 0)
        self.write(LCR, 0x13)
        self.write(FCR, 0x01)
        self.write(FCR, 0x81)
        self.write(MCR, DTR | OUT2 | RTS)

    def close(self) -> None:
        """And when it is closed: serial8250_do_shutdown."""
        self.write(MCR, OUT2)
        self.write(IER, 0)
        self.write(MCR, 0)
        for value in (0x01, 0x07, 0x00):
            self.write(FCR, value)
        self.read(DATA)

    def forget(self) -> None:
        for register in (LSR, DATA, IIR, MSR):
            self.read(register)


def test_piped_input_loses_its_first_bytes() -> None:
    bench = Bench(b"uname -a; exit\n")
    # An early console has asserted RTS, for its output.
    bench.write(FCR, 0)
    bench.write(MCR, DTR | RTS)
    for byte in b"Linux version":
        bench.read(LSR)
        bench.write(DATA, byte)
    bench.open()
    assert bench.port.drain() == b"uname -a; exit\n"


def test_input_of_a_simple_driver_that_never_asserts_rts_is_not_lost_either() -> None:
    bench = Bench(b"uname -a; exit\n")
    bench.open()
    assert bench.port.drain() == b"uname -a; exit\n"


def test_input_survives_closing_and_opening_the_port() -> None:
    text = bytes(range(64))
    bench = Bench(text)
    bench.open()
    first = bytes(bench.read(DATA) for _ in range(3))
    bench.close()
    assert not bench.read(LSR) & 1
    bench.open()
    assert first + bench.port.drain() == text


def test_a_guest_that_lowers_rts_is_sent_nothing_until_it_raises_it() -> None:
    bench = Bench(bytes(range(64)))
    bench.open()
    bench.write(MCR, DTR | OUT2)
    assert bench.port.drain() == bytes(range(FIFO_SIZE))
    bench.write(MCR, DTR | OUT2 | RTS)
    assert bench.port.drain() == bytes(range(FIFO_SIZE, 64))


def test_input_for_a_driver_without_modem_control() -> None:
    bench = Bench(b"ls\n")
    bench.write(MCR, 0)
    bench.write(IER, 0x01)
    assert bench.port.drain() == b"ls\n"


@pytest.mark.parametrize("control", [None, 0, DTR, DTR | RTS, DTR | OUT2])
def test_input_for_a_guest_that_polls(control: int | None) -> None:
    """A boot loader, or a kernel's debugger before and after the port is opened."""
    bench = Bench(b"continue\n")
    if control is not None:
        bench.write(MCR, control)
    answer = bytearray()
    for _ in range(100):
        if bench.read(LSR) & 1:
            answer.append(bench.read(DATA))
            bench.write(DATA, answer[-1])
    assert answer == b"continue\n"


def test_loopback_data_is_not_taken_for_input() -> None:
    bench = Bench(b"")
    bench.write(FCR, 0x01)
    bench.write(MCR, LOOP)
    bench.write(DATA, 0x55)
    bench.write(MCR, 0)
    bench.write(FCR, 0x03)
    assert bench.waiting == b""


def test_wide_accesses_are_split(port: Port) -> None:
    port.uart.write(SCR - 1, 2, 0x7700)
    assert port.uart.read(SCR, 1) == 0x77
    assert port.uart.read(LSR, 2) == 0xB060
    assert port.uart.read(SCR, 4) == 0xFFFFFF77


def test_read_only_registers_ignore_writes(port: Port) -> None:
    ring = sink.RingSink()
    sink.enable("guest_error", ring)
    port.write(LSR, 0)
    port.write(MSR, 0)
    sink.disable("guest_error", ring)
    assert port.read(LSR) == 0x60
    assert port.read(MSR) == 0xB0
    assert len(ring.events) == 2


def test_save_and_load(port: Port) -> None:
    port.write(FCR, 0x81)
    port.write(IER, 0x03)
    port.write(LCR, 0x13)
    port.write(DATA, 1)
    port.uart.receive(b"abc")
    state = port.uart.save()
    other = Port()
    other.uart.load(state)
    assert other.uart.save() == state
    assert other.irq.is_raised()
    other.timers.advance(10**9)
    assert other.cause() == TIMEOUT
    assert other.drain() == b"abc"


@pytest.mark.parametrize(
    "change",
    [
        {"fifo": ((0, 0),) * 17},
        {"fifo": ((256, 0),)},
        {"fifo": ((1, 0x60),)},
        {"trigger": 3},
        {"modem_lines": 1},
        {"registers": {}},
    ],
)
def test_load_refuses(port: Port, change: dict[str, object]) -> None:
    port.write(FCR, 0x01)
    state = port.uart.save()
    with pytest.raises(SavedStateError):
        port.uart.load(dataclasses.replace(state, **change))  # type: ignore[arg-type]
    with pytest.raises(SavedStateError):
        port.uart.load(None)
    assert port.uart.save() == state
