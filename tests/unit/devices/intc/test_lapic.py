"""Local APIC: priorities, EOI, IPIs and destinations, timer, errors, both access forms, save and load."""

from __future__ import annotations

import dataclasses
import threading

import pytest

from manor.accel.api import InterruptController
from manor.base.clock import SECOND
from manor.base.errors import SavedStateError
from manor.bus.msi import MsiSink
from manor.devices.intc import lapic
from manor.devices.intc.lapic import LocalApic
from manor.trace import sink

from .bench import (
    APIC_BASE,
    APR,
    CURRENT,
    DFR,
    DIVIDE,
    EOI,
    ESR,
    ICR_HIGH,
    ICR_LOW,
    ID,
    INITIAL,
    IRR,
    ISR,
    LDR,
    LVT_ERROR,
    LVT_LINT0,
    LVT_LINT1,
    LVT_PERF,
    LVT_THERMAL,
    LVT_TIMER,
    MASKED,
    PPR,
    SVR,
    TMR,
    TPR,
    TSC_DEADLINE,
    TSC_HZ,
    VERSION,
    X2APIC,
    Bench,
)

PERIODIC, DEADLINE = 1 << 17, 2 << 17


@pytest.fixture
def bench() -> Bench:
    return Bench()


def msi(bench: Bench, vector: int, destination: int = 0, data: int = 0, address: int = 0) -> bool:
    return bench.bus.deliver_msi(0xFEE00000 | destination << 12 | address, vector | data)


# --- registers and priorities ----------------------------------------------------------------------------------


def test_protocols(bench: Bench) -> None:
    controller: InterruptController = bench.apic
    msi_sink: MsiSink = bench.bus
    assert controller.acknowledge() is None
    msi_sink.send(0xFEE00000, 0x41)
    assert controller.acknowledge() == 0x41


def test_power_on_state() -> None:
    bench = Bench(enable=False)
    assert bench.read(VERSION) == 0x01050014
    assert bench.read(SVR) == 0xFF
    assert bench.read(DFR) == 0xFFFFFFFF
    assert [bench.read(0x320 + 16 * entry) for entry in range(6)] == [MASKED] * 6
    assert [bench.read(offset) for offset in (ID, TPR, APR, PPR, LDR, ESR, ICR_LOW, ICR_HIGH, INITIAL, CURRENT)] == [
        0
    ] * 10
    assert bench.msr(APIC_BASE) == 0xFEE00900
    assert Bench(first_id=3).msr(APIC_BASE) == 0xFEE00800


def test_interrupt_life(bench: Bench) -> None:
    assert msi(bench, 0x41)
    assert bench.cpu.pending
    assert bench.read(IRR + 0x20) == 2
    assert bench.apic.acknowledge() == 0x41
    assert not bench.cpu.pending
    assert bench.read(IRR + 0x20) == 0
    assert bench.read(ISR + 0x20) == 2
    assert bench.read(PPR) == 0x40
    assert bench.apic.acknowledge() is None
    bench.write(EOI, 0)
    assert bench.read(ISR + 0x20) == 0
    assert bench.read(PPR) == 0
    bench.write(EOI, 0)  # nothing in service: no effect


def test_higher_class_preempts_same_class_waits(bench: Bench) -> None:
    msi(bench, 0x51)
    assert bench.apic.acknowledge() == 0x51
    msi(bench, 0x5F)
    assert not bench.cpu.pending
    msi(bench, 0x61)
    assert bench.cpu.pending
    assert bench.apic.acknowledge() == 0x61
    bench.write(EOI, 0)
    assert not bench.cpu.pending
    bench.write(EOI, 0)
    assert bench.cpu.pending
    assert bench.apic.acknowledge() == 0x5F


def test_task_priority_holds_interrupts(bench: Bench) -> None:
    bench.write(TPR, 0x50)
    msi(bench, 0x5F)
    assert not bench.cpu.pending
    assert bench.read(PPR) == 0x50
    assert bench.apic.get_tpr() == 5
    bench.apic.set_tpr(4)
    assert bench.read(TPR) == 0x40
    assert bench.cpu.pending
    bench.apic.set_tpr(0xF5)
    assert bench.apic.get_tpr() == 5
    assert bench.apic.acknowledge() is None


def test_pending_is_told_only_on_change(bench: Bench) -> None:
    for vector in (0x31, 0x32, 0x41, 0x31):
        msi(bench, vector)
    assert bench.cpu.changes == [True]
    assert bench.taken() == [[0x41, 0x32, 0x31]]
    # While 0x41 was in service the lower ones waited.
    assert bench.cpu.changes == [True, False, True, False, True, False]
    assert bench.apic.has_interrupt() is False


def test_software_disable(bench: Bench) -> None:
    bench.write(LVT_TIMER, 0x40)
    bench.write(SVR, 0xFF)
    assert bench.read(LVT_TIMER) == MASKED | 0x40
    bench.write(LVT_TIMER, 0x40)
    assert bench.read(LVT_TIMER) == MASKED | 0x40
    assert not msi(bench, 0x41)
    msi(bench, 0, data=0x400)
    assert bench.cpu.events == ["nmi"]


def test_global_disable(bench: Bench) -> None:
    msi(bench, 0x41)
    assert bench.apic.write_msr(APIC_BASE, 0xFEE00100)
    assert not bench.cpu.pending
    assert bench.apic.acknowledge() is None
    assert bench.read(SVR) == 0xFFFFFFFF
    bench.write(SVR, 0x1FF)
    assert not msi(bench, 0x41)
    assert bench.apic.write_msr(APIC_BASE, 0xFEE00900)
    assert bench.read(SVR) == 0xFF  # state was lost


@pytest.mark.parametrize(("start", "value"), [(0x800, 0x500), (0x800, 0x800 | 1 << 52), (0, 0xC00), (0xC00, 0x800)])
def test_illegal_base_changes(bench: Bench, start: int, value: int) -> None:
    assert bench.apic.write_msr(APIC_BASE, 0xFEE00100 | start)
    before = bench.msr(APIC_BASE)
    assert not bench.apic.write_msr(APIC_BASE, 0xFEE00100 | value)
    assert bench.msr(APIC_BASE) == before


def test_moving_the_base_is_a_guest_error(bench: Bench) -> None:
    ring = sink.RingSink()
    sink.enable("guest_error", ring)
    assert bench.apic.write_msr(APIC_BASE, 0xFED00900)
    sink.disable("guest_error", ring)
    assert len(ring.events) == 1
    assert bench.apic.apic_base == 0xFED00900


def test_level_trigger_is_remembered_and_broadcast(bench: Bench) -> None:
    seen: list[int] = []

    class Listener:
        def end_of_interrupt(self, vector: int) -> None:
            seen.append(vector)

    bench.bus.attach_listener(Listener())
    msi(bench, 0x41, data=0x8000)
    assert bench.read(TMR + 0x20) == 2
    bench.apic.acknowledge()
    bench.write(EOI, 0)
    msi(bench, 0x42)
    bench.apic.acknowledge()
    bench.write(EOI, 0)
    assert seen == [0x41]
    bench.write(SVR, 0x11FF)  # broadcast suppressed
    msi(bench, 0x41, data=0x8000)
    bench.apic.acknowledge()
    bench.write(EOI, 0)
    assert seen == [0x41]
    msi(bench, 0x41)
    assert bench.read(TMR + 0x20) == 0


# --- destinations ----------------------------------------------------------------------------------------------


def test_physical_destinations() -> None:
    bench = Bench(3)
    msi(bench, 0x31, 1)
    assert bench.taken() == [[], [0x31], []]
    msi(bench, 0x31, 0xFF)
    assert bench.taken() == [[0x31]] * 3
    assert not msi(bench, 0x31, 9)


def test_logical_flat_and_cluster() -> None:
    bench = Bench(3)
    for index in range(3):
        bench.write(LDR, 1 << (24 + index), index)
    msi(bench, 0x31, 0b101, address=4)
    assert bench.taken() == [[0x31], [], [0x31]]
    for index, logical in enumerate((0x11, 0x12, 0x21)):
        bench.write(LDR, logical << 24, index)
        bench.write(DFR, 0x0FFFFFFF, index)
    assert bench.read(DFR) == 0x0FFFFFFF
    msi(bench, 0x32, 0x13, address=4)
    assert bench.taken() == [[0x32], [0x32], []]
    msi(bench, 0x32, 0x21, address=4)
    assert bench.taken() == [[], [], [0x32]]
    msi(bench, 0x32, 0xFF, address=4)
    assert bench.taken() == [[0x32]] * 3


def test_x2apic_logical_destination() -> None:
    bench = Bench(3, first_id=15)
    bench.x2apic()
    assert [bench.msr(X2APIC + 0x0D, cpu) for cpu in range(3)] == [1 << 15, 1 << 16 | 1, 1 << 16 | 2]
    assert bench.apic.write_msr(X2APIC + 0x30, 0x10003 << 32 | 1 << 11 | 0x55)
    assert bench.taken() == [[], [0x55], [0x55]]
    assert bench.apic.write_msr(X2APIC + 0x30, 0xFFFFFFFF << 32 | 0x56)
    assert bench.taken() == [[0x56]] * 3
    assert bench.apic.write_msr(X2APIC + 0x30, 17 << 32 | 0x57)
    assert bench.taken() == [[], [], [0x57]]


def test_lowest_priority_goes_to_one() -> None:
    bench = Bench(3)
    bench.write(TPR, 0x80, 0)
    for _ in range(4):
        msi(bench, 0x31, 0xFF, data=0x100)
    counts = [len(vectors) for vectors in bench.taken()]
    assert counts[0] == 0
    msi(bench, 0x31, 0xFF, data=0x100)
    msi(bench, 0x31, 0xFF, data=0x100)
    assert bench.taken() == [[], [0x31], [0x31]]  # equals take turns
    msi(bench, 0x32, 0xFF, address=8)  # redirection hint
    assert sum(len(vectors) for vectors in bench.taken()) == 1
    for index in range(3):
        bench.write(SVR, 0xFF, index)
    assert not msi(bench, 0x31, 0xFF, data=0x100)


def test_messages_outside_the_window(bench: Bench) -> None:
    assert not bench.bus.deliver_msi(0xFED00000, 0x41)
    assert not bench.bus.deliver_msi(0x1_FEE0_0000, 0x41)
    for mode in (2, 3, 7):
        assert not msi(bench, 0x41, data=mode << 8)


def test_ids_are_unique(bench: Bench) -> None:
    with pytest.raises(ValueError, match="ID 0"):
        LocalApic(0, bench.clock, bench.timers, TSC_HZ, bench.cpu, bench.bus)


# --- interprocessor interrupts ---------------------------------------------------------------------------------


def test_starting_a_processor() -> None:
    bench = Bench(2)
    bench.write(TPR, 0x20, 1)
    bench.ipi(1, 0x0000C500)  # INIT, level, assert
    bench.ipi(1, 0x00008500)  # INIT, level, de-assert: nothing
    bench.ipi(1, 0x00000608)
    bench.ipi(1, 0x00000608)
    assert bench.cpus[1].events == ["init", "sipi 0x8", "sipi 0x8"]
    assert bench.cpus[0].events == []
    assert bench.read(TPR, 1) == 0
    assert bench.read(SVR, 1) == 0xFF
    assert bench.read(ICR_LOW) == 0x608
    assert bench.read(ICR_HIGH) == 1 << 24


def test_shorthands() -> None:
    bench = Bench(3)
    bench.ipi(0, 0x40000 | 0x31)
    assert bench.taken() == [[0x31], [], []]
    bench.ipi(0, 0x80000 | 0x32)
    assert bench.taken() == [[0x32]] * 3
    bench.ipi(0, 0xC0000 | 0x33, cpu=1)
    assert bench.taken() == [[0x33], [], [0x33]]
    bench.ipi(0, 0xC0000 | 0x400)
    assert [cpu.events for cpu in bench.cpus] == [[], ["nmi"], ["nmi"]]
    bench.ipi(0, 0x40000 | 0x400)  # NMI to self and INIT to all are not legal
    bench.ipi(0, 0x80000 | 0x500)
    assert [cpu.events for cpu in bench.cpus] == [[], ["nmi"], ["nmi"]]


def test_ipi_logical_and_lowest_priority() -> None:
    bench = Bench(2)
    bench.write(LDR, 1 << 24, 0)
    bench.write(LDR, 2 << 24, 1)
    bench.ipi(2, 0x800 | 0x31)
    assert bench.taken() == [[], [0x31]]
    bench.write(TPR, 0x50, 1)
    bench.ipi(3, 0x900 | 0x31)
    assert bench.taken() == [[0x31], []]
    bench.ipi(0xFF, 0x32)
    bench.write(TPR, 0, 1)
    assert bench.taken() == [[0x32], [0x32]]


def test_self_ipi_register() -> None:
    bench = Bench()
    bench.x2apic()
    assert bench.apic.write_msr(X2APIC + 0x3F, 0x77)
    assert bench.taken() == [[0x77]]
    assert bench.msr(X2APIC + 0x3F) is None


# --- errors ----------------------------------------------------------------------------------------------------


def test_error_status_is_latched_by_a_write(bench: Bench) -> None:
    bench.write(LVT_ERROR, 0xFE)
    bench.ipi(0, 0x05)
    assert bench.read(ESR) == 0
    bench.write(ESR, 0)
    assert bench.read(ESR) == 0x20
    assert bench.taken() == [[0xFE]]
    bench.write(ESR, 0)
    assert bench.read(ESR) == 0
    assert not msi(bench, 0x0F)
    bench.read(0x40)
    bench.write(ESR, 0)
    assert bench.read(ESR) == 0xC0


def test_an_error_entry_with_an_illegal_vector_does_not_loop(bench: Bench) -> None:
    bench.write(LVT_ERROR, 0x05)
    msi(bench, 0x01)
    bench.write(ESR, 0)
    assert bench.read(ESR) == 0x40
    assert bench.taken() == [[]]


@pytest.mark.parametrize("size", [1, 2, 4, 8])
@pytest.mark.parametrize("offset", [0, 0x10, 0x21, 0x2F0, 0x3FC, 0x7F8, 0xFF8])
def test_any_access_has_a_defined_result(bench: Bench, offset: int, size: int) -> None:
    assert 0 <= bench.apic.read(offset, size) < 1 << (8 * size)
    bench.apic.write(offset, size, (1 << (8 * size)) - 1)
    assert bench.read(VERSION) == 0x01050014


def test_read_only_registers(bench: Bench) -> None:
    for offset in (ID, VERSION, PPR, APR, CURRENT, IRR, ISR, TMR):
        before = bench.read(offset)
        bench.write(offset, 0xFFFFFFFF)
        assert bench.read(offset) == before


# --- local vector table ----------------------------------------------------------------------------------------


def test_local_pins_and_events(bench: Bench) -> None:
    bench.apic.signal(lapic.LINT0)
    assert not bench.cpu.pending
    bench.write(LVT_LINT0, 0x35)
    bench.write(LVT_LINT1, 0x400)
    bench.write(LVT_THERMAL, 0x36)
    bench.write(LVT_PERF, 0x700)
    for entry in (lapic.LINT0, lapic.LINT1, lapic.THERMAL, lapic.PERF):
        bench.apic.signal(entry)
    assert bench.cpu.events == ["nmi"]
    assert bench.taken() == [[0x36, 0x35]]
    bench.write(LVT_LINT1, 0x500)
    bench.apic.signal(lapic.LINT1)
    assert bench.cpu.events == ["nmi", "init"]


def test_lvt_read_only_bits(bench: Bench) -> None:
    bench.write(LVT_LINT0, 0xFFFFFFFF)
    assert bench.read(LVT_LINT0) == 0x1A7FF
    bench.write(LVT_ERROR, 0xFFFFFFFF)
    assert bench.read(LVT_ERROR) == 0x100FF


# --- timer -----------------------------------------------------------------------------------------------------


def test_one_shot(bench: Bench) -> None:
    bench.write(LVT_TIMER, 0x40)
    bench.write(DIVIDE, 0b1011)
    bench.write(INITIAL, 5000)
    bench.timers.advance(2000)
    assert bench.read(CURRENT) == 3000
    bench.timers.advance(2999)
    assert not bench.cpu.pending
    bench.timers.advance(1)
    assert bench.read(CURRENT) == 0
    assert bench.taken() == [[0x40]]
    bench.timers.advance(SECOND)
    assert bench.taken() == [[]]
    assert bench.read(INITIAL) == 5000


@pytest.mark.parametrize(
    ("bits", "divider"), [(0, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (10, 128), (11, 1)]
)
def test_dividers(bench: Bench, bits: int, divider: int) -> None:
    bench.write(LVT_TIMER, 0x40)
    bench.write(DIVIDE, bits)
    assert bench.read(DIVIDE) == bits
    bench.write(INITIAL, 100)
    bench.timers.advance(100 * divider - 1)
    assert not bench.cpu.pending
    bench.timers.advance(1)
    assert bench.cpu.pending


def test_changing_the_divider_while_counting(bench: Bench) -> None:
    bench.write(LVT_TIMER, 0x40)
    bench.write(DIVIDE, 0b1011)
    bench.write(INITIAL, 1000)
    bench.timers.advance(400)
    bench.write(DIVIDE, 0)
    assert bench.read(CURRENT) == 600
    bench.timers.advance(1199)
    assert not bench.cpu.pending
    bench.timers.advance(1)
    assert bench.cpu.pending


def test_periodic(bench: Bench) -> None:
    bench.write(LVT_TIMER, PERIODIC | 0x40)
    bench.write(DIVIDE, 0b1011)
    bench.write(INITIAL, 100_000)
    for _ in range(3):
        bench.timers.advance(100_000)
        assert bench.taken() == [[0x40]]
    bench.timers.advance(30_000)
    assert bench.read(CURRENT) == 70_000
    bench.clock.advance(1_000_000)  # the I/O loop was late: the missed periods count once, the phase stays
    bench.apic.poll()
    assert bench.taken() == [[0x40]]
    assert bench.read(CURRENT) == 70_000
    bench.write(INITIAL, 0)
    bench.timers.advance(SECOND)
    assert bench.taken() == [[]]


def test_short_periods_do_not_spin_the_host(bench: Bench) -> None:
    bench.write(LVT_TIMER, PERIODIC | 0x40)
    bench.write(INITIAL, 1)
    bench.timers.advance(2)
    assert len(bench.timers.pending()) == 1
    assert bench.timers.pending()[0] - bench.clock.now_ns() >= 10_000


def test_masked_timer_counts_silently(bench: Bench) -> None:
    bench.write(LVT_TIMER, MASKED | 0x40)
    bench.write(INITIAL, 10)
    bench.timers.advance(100)
    assert bench.read(CURRENT) == 0
    assert not bench.cpu.pending


def test_tsc_deadline(bench: Bench) -> None:
    apic = bench.apic
    assert apic.write_msr(TSC_DEADLINE, 10_000)  # ignored in another mode
    assert apic.read_msr(TSC_DEADLINE) == 0
    bench.write(LVT_TIMER, DEADLINE | 0x40)
    bench.write(INITIAL, 5)
    assert bench.read(INITIAL) == 0
    assert apic.tsc() == 2000
    apic.write_msr(TSC_DEADLINE, 3001)  # half a nanosecond after 1500
    assert apic.read_msr(TSC_DEADLINE) == 3001
    bench.timers.advance(500)
    assert not bench.cpu.pending
    bench.timers.advance(1)
    assert bench.taken() == [[0x40]]
    assert apic.read_msr(TSC_DEADLINE) == 0
    apic.write_msr(TSC_DEADLINE, 1)  # in the past: at once
    assert bench.taken() == [[0x40]]
    apic.write_msr(TSC_DEADLINE, apic.tsc() + 1000)
    apic.write_msr(TSC_DEADLINE, 0)
    bench.timers.advance(SECOND)
    assert bench.taken() == [[]]
    apic.write_msr(TSC_DEADLINE, (1 << 64) - 1)  # never
    assert bench.timers.pending() == []


def test_tsc_offset_moves_the_deadline(bench: Bench) -> None:
    bench.write(LVT_TIMER, DEADLINE | 0x40)
    bench.apic.write_msr(TSC_DEADLINE, 1_000_000)
    bench.apic.set_tsc_offset(-2000)
    assert bench.apic.tsc() == 0
    bench.timers.advance(499_999)
    assert not bench.cpu.pending
    bench.apic.set_tsc_offset(2_000_000)
    assert bench.cpu.pending


def test_leaving_deadline_mode_stops(bench: Bench) -> None:
    bench.write(LVT_TIMER, DEADLINE | 0x40)
    bench.apic.write_msr(TSC_DEADLINE, 100_000)
    bench.write(LVT_TIMER, 0x40)
    bench.timers.advance(SECOND)
    assert not bench.cpu.pending
    bench.write(LVT_TIMER, 3 << 17 | 0x41)  # reserved mode: the old one stays
    assert bench.read(LVT_TIMER) == 0x41


def test_polling_does_not_leave_timers_behind(bench: Bench) -> None:
    bench.write(LVT_TIMER, DEADLINE | 0x40)
    for _ in range(50):
        bench.apic.write_msr(TSC_DEADLINE, bench.apic.tsc() + 2000)
        bench.clock.advance(1000)
        bench.apic.poll()
        assert bench.taken() == [[0x40]]
    assert bench.timers.pending() == []


# --- x2APIC ----------------------------------------------------------------------------------------------------


def test_x2apic_access() -> None:
    bench = Bench(first_id=0x123)
    assert bench.msr(X2APIC + 2) is None
    assert not bench.apic.write_msr(X2APIC + 8, 0)
    bench.x2apic()
    assert bench.msr(X2APIC + 2) == 0x123
    assert bench.msr(X2APIC + 3) == 0x01050014
    assert bench.read(VERSION) == 0xFFFFFFFF  # the MMIO form is gone
    assert bench.apic.write_msr(X2APIC + 8, 0x30)
    assert bench.msr(X2APIC + 8) == 0x30
    assert bench.msr(X2APIC + 0x0A) == 0x30
    assert bench.apic.write_msr(X2APIC + 0x0F, 0x1FE)
    assert bench.msr(X2APIC + 0x0F) == 0x1FE
    assert bench.apic.write_msr(X2APIC + 0x32, 0x40)
    assert bench.apic.write_msr(X2APIC + 0x3E, 0xB)
    assert bench.apic.write_msr(X2APIC + 0x38, 1000)
    bench.clock.advance(400)
    assert bench.msr(X2APIC + 0x39) == 600
    bench.timers.advance(600)
    assert bench.apic.acknowledge() == 0x40
    assert bench.msr(X2APIC + 0x12) == 1
    assert bench.apic.write_msr(X2APIC + 0x0B, 0)
    assert bench.msr(X2APIC + 0x12) == 0
    assert bench.apic.write_msr(X2APIC + 0x28, 0)


@pytest.mark.parametrize(
    ("index", "value"),
    [
        (0x02, 1),
        (0x03, 0),
        (0x08, 0x100),
        (0x0A, 0),
        (0x0B, 1),
        (0x0D, 0),
        (0x0E, 0),
        (0x0F, 1 << 32),
        (0x28, 1),
        (0x30, 1 << 12),
        (0x31, 0),
        (0x32, 1 << 8),
        (0x39, 0),
        (0x3F, 0x100),
        (0x40, 0),
        (0xFF, 0),
    ],
)
def test_x2apic_writes_that_fault(index: int, value: int) -> None:
    bench = Bench()
    bench.x2apic()
    assert not bench.apic.write_msr(X2APIC + index, value)


def test_x2apic_reads_that_fault() -> None:
    bench = Bench()
    bench.x2apic()
    for index in (0x00, 0x0B, 0x0C, 0x0E, 0x31, 0x3F, 0x40, 0xFF):
        assert bench.msr(X2APIC + index) is None
    assert bench.msr(0x10) is None
    assert not bench.apic.write_msr(0x10, 0)
    assert LocalApic.owns_msr(0x8FF)
    assert not LocalApic.owns_msr(0x900)


# --- reset, save and load, threads -----------------------------------------------------------------------------


def test_reset(bench: Bench) -> None:
    bench.x2apic()
    msi(bench, 0x41)
    bench.apic.reset()
    assert not bench.cpu.pending
    assert bench.msr(APIC_BASE) == 0xFEE00900
    assert bench.read(SVR) == 0xFF


def test_save_and_load(bench: Bench) -> None:
    bench.write(LVT_TIMER, PERIODIC | 0x40)
    bench.write(DIVIDE, 0b1011)
    bench.write(INITIAL, 100_000)
    bench.write(TPR, 0x10)
    bench.write(LDR, 1 << 24)
    msi(bench, 0x41, data=0x8000)
    bench.apic.acknowledge()
    msi(bench, 0x61)
    bench.timers.advance(40_000)
    state = bench.apic.save()
    other = Bench(enable=False)
    other.apic.load(state)
    assert other.apic.save() == state
    assert other.cpu.pending
    assert other.apic.acknowledge() == 0x61
    other.write(EOI, 0)
    other.write(EOI, 0)
    other.timers.advance(59_999)
    assert not other.cpu.pending
    other.timers.advance(1)
    assert other.apic.acknowledge() == 0x40


@pytest.mark.parametrize(
    "change",
    [
        {"apic_id": 1},
        {"apic_base": 0xFEE00400},
        {"apic_base": 1 << 60},
        {"irr": 1},
        {"isr": 1 << 256},
        {"tmr": -1},
        {"lvt": ()},
        {"lvt": (1 << 31,) * 6},
        {"tpr": 256},
        {"svr": 1 << 31},
        {"timer_mode": 3},
        {"timer_initial_count": -1},
        {"divide": 4},
        {"tsc_deadline": 1 << 64},
        {"timer_remaining_ns": -1},
        {"ldr": 1 << 32},
        {"icr": 1 << 64},
    ],
)
def test_load_refuses(bench: Bench, change: dict[str, object]) -> None:
    state = bench.apic.save()
    with pytest.raises(SavedStateError):
        bench.apic.load(dataclasses.replace(state, **change))  # type: ignore[arg-type]
    with pytest.raises(SavedStateError):
        bench.apic.load(None)
    assert bench.apic.save() == state


def test_no_interrupt_is_lost_between_threads() -> None:
    """Senders on several threads, one processor that acknowledges: every vector arrives at least once."""
    bench = Bench()
    rounds = 200

    def sender(base: int) -> None:
        for _ in range(rounds):
            for vector in range(base, base + 16):
                bench.bus.send(0xFEE00000, vector)

    threads = [threading.Thread(target=sender, args=(base,)) for base in (0x40, 0x60, 0x80)]
    for thread in threads:
        thread.start()
    seen: set[int] = set()
    while any(thread.is_alive() for thread in threads) or bench.cpu.pending:
        for vector in bench.taken()[0]:
            seen.add(vector)
    for thread in threads:
        thread.join()
    assert seen == {base + step for base in (0x40, 0x60, 0x80) for step in range(16)}
