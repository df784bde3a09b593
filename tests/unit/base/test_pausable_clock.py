"""A clock that can stand still."""

from __future__ import annotations

from manor.base.clock import FakeClock
from manor.base.pausable_clock import PausableClock


def test_time_without_the_pauses() -> None:
    host = FakeClock(now_ns=1000)
    clock = PausableClock(host)
    assert clock.now_ns() == 1000
    clock.stop()
    host.advance(500)
    clock.stop()
    host.advance(500)
    assert clock.now_ns() == 1000
    assert clock.start() == 1000
    assert clock.start() == 0
    host.advance(7)
    assert clock.now_ns() == 1007
    assert clock.host_ns(1010) == 2010


def test_civil_time_goes_on() -> None:
    host = FakeClock(wall_ns=5000)
    clock = PausableClock(host)
    clock.stop()
    host.advance(10)
    assert clock.wall_ns() == 5010


def test_time_that_went_on_elsewhere() -> None:
    for host in (FakeClock(now_ns=10**12), FakeClock(now_ns=3)):  # the second host was started later
        clock = PausableClock(host, stopped_at=5000)
        assert clock.now_ns() == 5000
        before = host.now_ns()
        host.advance(100)
        skipped = clock.catch_up()
        assert skipped == before + 100 - 5000
        assert clock.now_ns() == 5000
        host.advance(50)
        assert (clock.catch_up(), clock.now_ns()) == (50, 5000)
        host.advance(7)
        assert clock.start() == 7
        assert clock.catch_up() == 0
        host.advance(1)
        assert clock.now_ns() == 5001
