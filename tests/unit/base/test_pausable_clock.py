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
