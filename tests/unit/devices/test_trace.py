"""Every trace event of the interrupt controllers, the clock, the serial port and the power registers fires."""

from __future__ import annotations

import datetime
from collections.abc import Iterator

import pytest

from manor.backends.char.memory import MemoryBackend
from manor.base.clock import SECOND
from manor.bus.irq import IrqLine
from manor.devices.intc.apic_bus import ApicBus
from manor.devices.intc.ioapic import IoApic
from manor.devices.intc.lapic import LocalApic
from manor.devices.misc.power import RESET_VALUE, SLP_TYP_S5, PowerControl
from manor.devices.rtc.mc146818 import Mc146818
from manor.devices.serial.ns16550 import FIFO_SIZE, Ns16550
from manor.testing.fakes import FakeClock, FakeIrq, FakeTimers
from manor.trace.sink import RingSink, disable, enable

TSC_HZ = 1_000_000_000
SVR, EOI, LVT_TIMER, INITIAL = 0xF0, 0xB0, 0x320, 0x380
LEVEL = 1 << 15


class Cpu:
    def interrupt_pending(self, pending: bool) -> None: ...
    def nmi(self) -> None: ...
    def init(self) -> None: ...
    def sipi(self, vector: int) -> None: ...


@pytest.fixture
def ring() -> Iterator[RingSink]:
    sink = RingSink(10_000)
    enable("*", sink)
    yield sink
    disable("*", sink)


def names(ring: RingSink) -> set[str]:
    return {name for name, _ in ring.events}


def test_interrupt_controllers(ring: RingSink) -> None:
    clock = FakeClock()
    timers = FakeTimers(clock)
    bus = ApicBus()
    apic = LocalApic(0, clock, timers, TSC_HZ, Cpu(), bus)
    ioapic = IoApic("ioapic", bus)
    apic.write(SVR, 4, 0x1FF)
    ioapic.write(0, 4, 0x10)
    ioapic.write(0x10, 4, LEVEL | 0x34)
    line = IrqLine(ioapic, 0)
    line.raise_()
    assert apic.acknowledge() == 0x34
    line.lower()
    apic.write(EOI, 4, 0)
    apic.write(LVT_TIMER, 4, 0x40)
    apic.write(INITIAL, 4, 1)
    timers.advance(SECOND)
    base = apic.read_msr(0x1B)
    assert base is not None
    assert apic.write_msr(0x1B, base | 1 << 10)
    apic.read_msr(0x802)
    assert names(ring) >= {
        "apic_message", "ioapic_deliver", "ioapic_eoi", "ioapic_level", "lapic_accept", "lapic_acknowledge",
        "lapic_eoi", "lapic_timer_fire", "lapic_msr_read", "lapic_msr_write",
    }  # fmt: skip
    assert ("lapic_acknowledge", (0, 0x34)) in ring.events


def test_clock(ring: RingSink) -> None:
    clock = FakeClock(wall_ns=int(datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC).timestamp()) * SECOND)
    timers = FakeTimers(clock)
    rtc = Mc146818("rtc", FakeIrq().line(8), clock, timers)
    for index, value in ((0x00, 0x30), (0x0B, 0x12)):  # seconds; update interrupt, 24 hours
        rtc.write(0, 1, index)
        rtc.write(1, 1, value)
    timers.advance(2 * SECOND)
    assert names(ring) >= {"rtc_set_time", "rtc_interrupt"}


def test_serial_port(ring: RingSink) -> None:
    clock = FakeClock()
    uart = Ns16550("com1", FakeIrq().line(), MemoryBackend(), clock, FakeTimers(clock))
    uart.write(2, 1, 1)
    uart.write(0, 1, ord("a"))
    uart.write(4, 1, 3)
    uart.write(1, 1, 1)
    uart.receive(b"x")
    uart.write(4, 1, 0x10)  # loopback: what is sent comes back, more than the FIFO holds
    for _ in range(FIFO_SIZE + 2):
        uart.write(0, 1, ord("b"))
    assert names(ring) >= {"serial_transmit", "serial_receive", "serial_overrun"}
    assert ("serial_transmit", ("com1", ord("a"))) in ring.events


def test_power(ring: RingSink) -> None:
    power = PowerControl("power", lambda: None, lambda: None)
    power.acpi.write(0, 1, SLP_TYP_S5 << 2 | 1 << 5)
    power.acpi.write(2, 1, RESET_VALUE)
    assert names(ring) >= {"power_off_request", "power_reset_request"}
