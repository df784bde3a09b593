"""Interval timer: modes, byte order, latches, interrupt, port 0x61."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manor.base.clock import SECOND
from manor.base.errors import SavedStateError
from manor.devices.timer.counter import FREQUENCY_HZ, Counter, nanoseconds, ticks
from manor.devices.timer.i8254 import I8254
from manor.spec.timer_state import CounterState, TimerState
from manor.testing.fakes import FakeClock, FakeIrq, FakeTimers

CONTROL = 3
MODE0, MODE1, MODE2, MODE3, MODE4, MODE5 = (0x30 | mode << 1 for mode in range(6))


class Bench:
    def __init__(self) -> None:
        self.clock = FakeClock(5 * SECOND)
        self.timers = FakeTimers(self.clock)
        self.irq = FakeIrq()
        self.pit = I8254("pit", self.irq.line(0), self.clock, self.timers)

    def program(self, counter: int, word: int, count: int) -> None:
        self.pit.ports.write(CONTROL, 1, counter << 6 | word)
        self.pit.ports.write(counter, 1, count & 0xFF)
        self.pit.ports.write(counter, 1, count >> 8)

    def count(self, counter: int) -> int:
        self.pit.ports.write(CONTROL, 1, counter << 6)
        low = self.pit.ports.read(counter, 1)
        return low | self.pit.ports.read(counter, 1) << 8

    def status(self, counter: int) -> int:
        self.pit.ports.write(CONTROL, 1, 0xE0 | 2 << counter)
        return self.pit.ports.read(counter, 1)

    def advance(self, clocks: int) -> None:
        """To the first moment at which `clocks` input clocks have passed since the counter was loaded."""
        self.timers.advance(nanoseconds(clocks))


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_counts_down_and_wraps(bench: Bench) -> None:
    bench.program(0, MODE0, 1000)
    assert bench.count(0) == 1000
    bench.advance(1)
    assert bench.count(0) == 999
    bench.advance(1001)
    assert bench.count(0) == 0xFFFF - 1


def test_mode_0_interrupts_once(bench: Bench) -> None:
    bench.program(0, MODE0, 100)
    assert not bench.irq.is_raised(0)
    bench.advance(99)
    assert not bench.irq.is_raised(0)
    bench.advance(1)
    assert bench.irq.is_raised(0), "OUT stays high until the next count"
    assert bench.timers.pending() == []
    bench.program(0, MODE0, 100)
    assert not bench.irq.is_raised(0)


@pytest.mark.parametrize("word", [MODE2, MODE3])
def test_periodic_modes_do_not_drift(bench: Bench, word: int) -> None:
    bench.program(0, word, 11932)  # 100 Hz, as Linux
    start = bench.clock.now_ns()
    edges = 0
    level = bench.irq.is_raised(0)
    for _ in range(100):
        deadline = bench.timers.pending()[0]
        bench.timers.advance(deadline - bench.clock.now_ns())
        edges += 1
    assert edges == 100
    assert level
    assert bench.clock.now_ns() - start == nanoseconds(100 * 11932)
    assert abs(bench.clock.now_ns() - start - SECOND) < SECOND // 1000


def test_every_period_is_an_edge(bench: Bench) -> None:
    bench.program(0, MODE2, 1000)
    rises = bench.irq.edges(0)
    bench.advance(10_000)
    assert bench.irq.edges(0) - rises == 10


def test_square_wave(bench: Bench) -> None:
    bench.program(2, MODE3, 10)
    bench.pit.port_b.write(0, 1, 1)
    levels = []
    for _ in range(20):
        levels.append(bench.pit.port_b.read(0, 1) >> 5 & 1)
        bench.advance(1)
    assert levels[:5] == [1] * 5
    assert sum(levels) == 10


def test_port_b_measures_time_as_linux_does(bench: Bench) -> None:
    """Linux's quick_pit_calibrate: gate on, counter 2 in mode 0, and wait for OUT2 or the count."""
    bench.pit.port_b.write(0, 1, 1)
    bench.program(2, MODE0, 0xFFFF)
    assert bench.pit.port_b.read(0, 1) & 0x23 == 1
    bench.advance(0xFFFE)
    assert not bench.pit.port_b.read(0, 1) & 0x20
    bench.advance(1)
    assert bench.pit.port_b.read(0, 1) & 0x20


def test_refresh_bit_toggles(bench: Bench) -> None:
    seen = set()
    for _ in range(4):
        seen.add(bench.pit.port_b.read(0, 1) & 0x10)
        bench.timers.advance(15_000)
    assert seen == {0, 0x10}


def test_speaker_bit_is_kept_and_the_rest_is_not(bench: Bench) -> None:
    bench.pit.port_b.write(0, 1, 0xFF)
    assert bench.pit.port_b.read(0, 1) & ~0x30 == 3


def test_one_shot_waits_for_its_trigger(bench: Bench) -> None:
    bench.program(2, MODE1, 10)
    assert bench.pit.port_b.read(0, 1) & 0x20, "high until triggered"
    bench.advance(50)
    bench.pit.port_b.write(0, 1, 1)
    assert not bench.pit.port_b.read(0, 1) & 0x20
    bench.advance(10)
    assert bench.pit.port_b.read(0, 1) & 0x20


@pytest.mark.parametrize("word", [MODE4, MODE5])
def test_strobe_is_low_for_one_clock(bench: Bench, word: int) -> None:
    bench.program(2, word, 10)
    bench.pit.port_b.write(0, 1, 1)
    levels = []
    for _ in range(15):
        levels.append(bench.pit.port_b.read(0, 1) >> 5 & 1)
        bench.advance(1)
    assert levels.count(0) == 1
    assert levels[10] == 0


def test_gate_holds_a_square_wave(bench: Bench) -> None:
    bench.program(2, MODE3, 100)
    bench.advance(70)
    assert bench.pit.port_b.read(0, 1) & 0x20, "no gate, no counting: high"
    assert bench.count(2) == 100


def test_latched_count_stands_still(bench: Bench) -> None:
    bench.program(0, MODE2, 1000)
    bench.pit.ports.write(CONTROL, 1, 0)
    bench.advance(10)
    bench.pit.ports.write(CONTROL, 1, 0)  # ignored: the first latch is not read yet
    low = bench.pit.ports.read(0, 1)
    assert low | bench.pit.ports.read(0, 1) << 8 == 1000
    assert bench.count(0) == 990


def test_read_back_of_status_and_count(bench: Bench) -> None:
    bench.program(0, MODE2, 1000)
    assert bench.status(0) == 0x80 | MODE2
    bench.pit.ports.write(CONTROL, 1, 0xC2)  # both: the status comes first
    assert bench.pit.ports.read(0, 1) == 0x80 | MODE2
    assert bench.pit.ports.read(0, 1) | bench.pit.ports.read(0, 1) << 8 == 1000


def test_single_bytes(bench: Bench) -> None:
    bench.pit.ports.write(CONTROL, 1, 0x14)  # low byte only, mode 2
    bench.pit.ports.write(0, 1, 200)
    assert bench.pit.ports.read(0, 1) == 200
    bench.pit.ports.write(CONTROL, 1, 0x24)  # high byte only
    bench.pit.ports.write(0, 1, 2)
    assert bench.pit.ports.read(0, 1) == 2


def test_zero_is_the_largest_count(bench: Bench) -> None:
    bench.program(0, MODE2, 0)
    assert bench.pit.save().counters[0].count == 0x10000
    bench.program(0, MODE2 | 1, 0)
    assert bench.pit.save().counters[0].count == 10_000


def test_decimal_counts(bench: Bench) -> None:
    bench.program(0, MODE2 | 1, 0x1234)
    bench.advance(5)
    assert bench.count(0) == 0x1229


def test_no_interrupt_before_a_count(bench: Bench) -> None:
    bench.pit.ports.write(CONTROL, 1, MODE2)
    assert bench.timers.pending() == []
    bench.pit.ports.write(0, 1, 1)
    assert bench.timers.pending() == [], "half a count is none"


def test_count_without_a_control_word_is_a_guest_error(bench: Bench) -> None:
    bench.pit.ports.write(0, 1, 1)
    assert bench.pit.save().counters[0] == CounterState()


def test_state_moves_to_another_timer(bench: Bench) -> None:
    bench.program(0, MODE2, 1000)
    bench.program(2, MODE3, 77)
    bench.pit.port_b.write(0, 1, 3)
    bench.advance(123)
    saved = bench.pit.save()
    other = I8254("other", bench.irq.line(1), bench.clock, bench.timers)
    other.load(saved)
    assert other.save() == saved
    rises = bench.irq.edges(1)
    bench.advance(1000)
    assert bench.irq.edges(1) == rises + 1


def test_bad_states_are_refused(bench: Bench) -> None:
    good = bench.pit.save()
    bad = (
        {"count": 0}, {"count": 0x10001}, {"mode": 6}, {"access": 0}, {"reading": 5}, {"writing": 0},
        {"written_low": 256},
        {"latched_count": 0x10000}, {"latched_status": -1}, {"loaded_ns": 1}, {"count": "1"},
    )  # fmt: skip
    for change in bad:
        counter = dataclasses.replace(good.counters[0], **change)
        with pytest.raises(SavedStateError):
            bench.pit.load(TimerState((counter, good.counters[1], good.counters[2])))
    with pytest.raises(SavedStateError, match="not the state of an interval timer"):
        bench.pit.load(1)
    with pytest.raises(SavedStateError, match="not the state of a counter"):
        bench.pit.load(TimerState((1, 2, 3)))  # type: ignore[arg-type]
    assert bench.pit.save() == good


@given(st.integers(0, 10**15))
def test_ticks_and_nanoseconds_are_inverse(count: int) -> None:
    assert ticks(nanoseconds(count)) == count
    assert count == 0 or ticks(nanoseconds(count) - 1) == count - 1
    assert ticks(SECOND) == FREQUENCY_HZ


@given(
    st.sampled_from(range(6)), st.integers(0, 0xFFFF), st.booleans(), st.integers(0, 10**12),
)  # fmt: skip
def test_next_rise_is_a_rise(mode: int, count: int, is_bcd: bool, later: int) -> None:
    counter = Counter()
    counter.control(0x30 | mode << 1 | is_bcd)
    counter.write(count & 0xFF, 0)
    counter.write(count >> 8, 0)
    counter.set_gate(False, 0)
    counter.set_gate(True, 0)
    at = counter.next_rise(later)
    if at is not None:
        assert at > later
        if counter.state.count > 1:  # 1 is not allowed in periodic modes (8254, "Mode Definitions")
            assert counter.output(at)
            assert not counter.output(at - 1)
    assert 0 <= counter.shown(later) <= 0xFFFF
