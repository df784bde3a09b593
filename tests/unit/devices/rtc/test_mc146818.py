"""Real-time clock: formats, setting, update flag, the three interrupts, CMOS RAM."""

from __future__ import annotations

import dataclasses
import datetime

import pytest

from manor.base.clock import MILLISECOND, SECOND
from manor.base.errors import SavedStateError
from manor.devices.rtc.mc146818 import Mc146818
from manor.testing.fakes import FakeClock, FakeIrq, FakeTimers
from manor.trace import sink

A, B, C, D = 0x0A, 0x0B, 0x0C, 0x0D
PIE, AIE, UIE, SET = 0x40, 0x20, 0x10, 0x80
WHEN = datetime.datetime(2024, 2, 29, 23, 59, 58, tzinfo=datetime.UTC)  # a Thursday


class Bench:
    def __init__(self) -> None:
        self.clock = FakeClock(wall_ns=int(WHEN.timestamp()) * SECOND)
        self.timers = FakeTimers(self.clock)
        self.irq = FakeIrq()
        self.rtc = Mc146818("rtc", self.irq.line(8), self.clock, self.timers)

    def get(self, index: int) -> int:
        self.rtc.write(0, 1, index)
        return self.rtc.read(1, 1)

    def put(self, index: int, value: int) -> None:
        self.rtc.write(0, 1, index)
        self.rtc.write(1, 1, value)

    def time(self) -> list[int]:
        """century year month day hour minute second."""
        return [self.get(index) for index in (0x32, 9, 8, 7, 4, 2, 0)]

    def set_time(self, values: list[int]) -> None:
        for index, value in zip((0x32, 9, 8, 7, 4, 2, 0), values, strict=True):
            self.put(index, value)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_time_in_bcd(bench: Bench) -> None:
    assert bench.time() == [0x20, 0x24, 0x02, 0x29, 0x23, 0x59, 0x58]
    assert bench.get(6) == 5  # Thursday, Sunday is 1
    bench.timers.advance(2 * SECOND)
    assert bench.time() == [0x20, 0x24, 0x03, 0x01, 0x00, 0x00, 0x00]
    assert bench.get(6) == 6


def test_binary_and_12_hour_formats(bench: Bench) -> None:
    bench.put(B, 0x06)
    assert bench.time() == [20, 24, 2, 29, 23, 59, 58]
    bench.put(B, 0x04)
    assert bench.get(4) == 0x80 | 11
    bench.put(B, 0x00)
    assert bench.get(4) == 0x80 | 0x11
    for hour, shown in ((0, 0x12), (1, 0x01), (11, 0x11), (12, 0x92), (13, 0x81)):
        bench.put(B, 0x02)
        bench.put(4, hour // 10 << 4 | hour % 10)
        bench.put(B, 0x00)
        assert bench.get(4) == shown
        bench.put(4, shown)
        bench.put(B, 0x02)
        assert bench.get(4) == hour // 10 << 4 | hour % 10


def test_update_in_progress_before_the_second_changes(bench: Bench) -> None:
    assert bench.get(A) == 0x26
    bench.timers.advance(SECOND - 2 * MILLISECOND)
    assert bench.get(A) == 0xA6
    bench.timers.advance(2 * MILLISECOND)
    assert bench.get(A) == 0x26
    assert bench.get(D) == 0x80


def test_setting_the_time_with_the_clock_held(bench: Bench) -> None:
    bench.put(B, SET | 0x02)
    bench.set_time([0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x59])
    bench.timers.advance(5 * SECOND)
    assert bench.time() == [0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x59]
    assert bench.get(A) & 0x80 == 0
    bench.put(B, 0x02)
    bench.timers.advance(SECOND)
    assert bench.time() == [0x20, 0x00, 0x01, 0x01, 0x00, 0x00, 0x00]


def test_setting_single_registers_while_running(bench: Bench) -> None:
    bench.put(9, 0x30)
    bench.put(4, 0x12)
    assert bench.time() == [0x20, 0x30, 0x03, 0x01, 0x12, 0x59, 0x58]  # 2030 has no 29 February
    bench.put(6, 1)
    assert bench.get(6) == 1
    bench.timers.advance(86400 * SECOND)
    assert bench.get(6) == 2


def test_divider_reset_gives_half_a_second(bench: Bench) -> None:
    bench.timers.advance(300 * MILLISECOND)
    bench.put(B, SET | 0x02)
    bench.put(A, 0x76)
    bench.put(0, 0x10)
    bench.timers.advance(3 * SECOND)
    bench.put(B, 0x02)
    bench.put(A, 0x26)
    bench.timers.advance(499 * MILLISECOND)
    assert bench.get(0) == 0x10
    bench.timers.advance(2 * MILLISECOND)
    assert bench.get(0) == 0x11


@pytest.mark.parametrize(
    ("index", "value"), [(0, 0x6A), (0, 0x60), (2, 0x99), (4, 0x24), (7, 0), (7, 0x32), (8, 0x13), (8, 0)]
)
def test_invalid_times_are_ignored(bench: Bench, index: int, value: int) -> None:
    ring = sink.RingSink()
    sink.enable("guest_error", ring)
    bench.put(index, value)
    sink.disable("guest_error", ring)
    assert bench.time() == [0x20, 0x24, 0x02, 0x29, 0x23, 0x59, 0x58]
    assert len(ring.events) == 1


def test_year_zero_is_no_date(bench: Bench) -> None:
    bench.put(B, SET | 0x02)
    bench.set_time([0, 0, 1, 1, 0, 0, 0])
    bench.put(B, 0x02)
    assert bench.get(0x32) == 0x20


def test_time_stays_within_four_digits(bench: Bench) -> None:
    bench.put(B, SET | 0x02)
    bench.set_time([0x99, 0x99, 0x12, 0x31, 0x23, 0x59, 0x59])
    bench.put(B, 0x02)
    bench.timers.advance(10 * SECOND)
    assert bench.time() == [0x99, 0x99, 0x12, 0x31, 0x23, 0x59, 0x59]


def test_update_interrupt(bench: Bench) -> None:
    bench.put(B, UIE | 0x02)
    bench.timers.advance(999 * MILLISECOND)
    assert not bench.irq.is_raised(8)
    bench.timers.advance(MILLISECOND)
    assert bench.irq.is_raised(8)
    assert bench.get(C) == 0x90 | 0x40  # the periodic flag is set with its interrupt disabled, too
    assert not bench.irq.is_raised(8)
    assert bench.get(C) == 0
    bench.timers.advance(3 * SECOND)
    assert bench.irq.edges(8) == 2  # no further edge until the flag was read


def test_flags_without_interrupts(bench: Bench) -> None:
    bench.put(A, 0x20)
    bench.timers.advance(SECOND)
    assert bench.get(C) == 0x10
    assert not bench.irq.is_raised(8)
    assert bench.timers.pending() == []


@pytest.mark.parametrize(("rate", "hz"), [(6, 1024), (15, 2), (3, 8192), (1, 256), (2, 128)])
def test_periodic_interrupt(bench: Bench, rate: int, hz: int) -> None:
    bench.put(A, 0x20 | rate)
    bench.put(B, PIE | 0x02)
    bench.get(C)
    for _ in range(5):
        before = bench.clock.now_ns()
        while not bench.irq.is_raised(8):
            bench.timers.advance(max(1, bench.timers.pending()[0] - bench.clock.now_ns()))
        assert bench.clock.now_ns() - before <= SECOND // hz + 1
        assert bench.get(C) & 0xC0 == 0xC0


def test_no_period_without_rate(bench: Bench) -> None:
    bench.put(A, 0x20)
    bench.put(B, PIE | 0x02)
    assert bench.timers.pending() == []


def test_alarm(bench: Bench) -> None:
    bench.put(1, 0x05)
    bench.put(3, 0x01)
    bench.put(5, 0x00)
    bench.put(B, AIE | 0x02)
    bench.timers.advance(66 * SECOND)  # 00:01:04
    assert not bench.irq.is_raised(8)
    bench.timers.advance(SECOND)
    assert bench.irq.is_raised(8)
    assert bench.get(C) & ~0x40 == 0xB0
    bench.timers.advance(86399 * SECOND)
    assert not bench.irq.is_raised(8)
    bench.timers.advance(SECOND)
    assert bench.irq.is_raised(8)


def test_alarm_wildcards(bench: Bench) -> None:
    bench.put(1, 0x30)
    bench.put(3, 0xC0)
    bench.put(5, 0xFF)
    bench.put(B, AIE | 0x02)
    for _ in range(3):
        bench.timers.advance(60 * SECOND)
        assert bench.irq.is_raised(8)
        assert bench.get(0) == 0x58
        bench.get(C)


def test_alarm_that_matches_nothing(bench: Bench) -> None:
    bench.put(1, 0x61)
    bench.put(B, AIE | 0x02)
    assert bench.timers.pending() == []
    bench.timers.advance(2 * 86400 * SECOND)
    assert not bench.irq.is_raised(8)


def test_set_clears_update_enable(bench: Bench) -> None:
    bench.put(B, SET | UIE | 0x02)
    assert bench.get(B) == SET | 0x02


def test_host_time_steps(bench: Bench) -> None:
    bench.put(B, UIE | 0x02)
    bench.clock.set_wall(0)
    assert bench.time() == [0x19, 0x70, 0x01, 0x01, 0x00, 0x00, 0x00]
    bench.timers.advance(2 * SECOND)
    assert bench.irq.is_raised(8)


def test_ram_and_index(bench: Bench) -> None:
    bench.put(0x0E, 0x12)
    bench.put(0x7F, 0x34)
    bench.put(0x80 | 0x33, 0x56)  # bit 7 masks NMI on a PC
    assert [bench.get(0x0E), bench.get(0x7F), bench.get(0x33)] == [0x12, 0x34, 0x56]
    assert bench.rtc.read(0, 1) == 0xFF
    bench.rtc.set_ram(0x10, 7)
    assert bench.get(0x10) == 7
    with pytest.raises(KeyError):
        bench.rtc.set_ram(0x0A, 7)


def test_16_bit_write_sets_index_and_data(bench: Bench) -> None:
    bench.rtc.write(0, 2, 0x9940)
    assert bench.get(0x40) == 0x99


def test_reset_keeps_time_and_ram(bench: Bench) -> None:
    bench.put(9, 0x30)
    bench.put(0x40, 1)
    bench.put(B, PIE | 0x06)
    bench.timers.advance(SECOND)
    assert bench.irq.is_raised(8)
    bench.rtc.reset()
    assert not bench.irq.is_raised(8)
    assert bench.timers.pending() == []
    assert bench.get(B) == 0x06
    assert bench.get(9) == 30
    assert bench.get(0x40) == 1
    bench.put(B, SET | 0x06)
    bench.rtc.reset()
    bench.timers.advance(SECOND)
    assert bench.get(B) == 0x06


def test_save_and_load(bench: Bench) -> None:
    bench.put(9, 0x31)
    bench.put(B, UIE | 0x02)
    bench.timers.advance(SECOND)
    state = bench.rtc.save()
    other = Bench()
    other.clock.set_wall(bench.clock.wall_ns())
    other.rtc.load(state)
    assert other.rtc.save() == state
    assert other.irq.is_raised(8)
    assert other.time() == bench.time()


@pytest.mark.parametrize("change", [{"weekday_offset": 7}, {"offset_ns": "x"}, {"cmos": {}}, {"ports": {}}])
def test_load_refuses(bench: Bench, change: dict[str, object]) -> None:
    state = bench.rtc.save()
    with pytest.raises(SavedStateError):
        bench.rtc.load(dataclasses.replace(state, **change))  # type: ignore[arg-type]
    with pytest.raises(SavedStateError):
        bench.rtc.load(7)
    assert bench.rtc.save() == state
