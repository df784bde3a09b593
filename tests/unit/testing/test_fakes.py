"""The fakes themselves."""

from __future__ import annotations

from manor.testing.fakes import FakeClock, FakeMsi, FakeTimers


def test_timers_run_in_order_at_their_own_time() -> None:
    clock = FakeClock()
    timers = FakeTimers(clock)
    seen: list[tuple[str, int]] = []

    def again() -> None:
        seen.append(("first", clock.now_ns()))
        timers.at(25, lambda: seen.append(("again", clock.now_ns())))

    timers.at(30, lambda: seen.append(("third", clock.now_ns())))
    timers.at(10, again)
    cancelled = timers.at(20, lambda: seen.append(("never", clock.now_ns())))
    cancelled.cancel()
    cancelled.cancel()
    assert timers.pending() == [10, 30]
    timers.advance(100)
    assert seen == [("first", 10), ("again", 25), ("third", 30)]
    assert clock.now_ns() == 100
    timers.at(50, lambda: seen.append(("late", clock.now_ns())))
    timers.advance(0)
    assert seen[-1] == ("late", 100)


def test_msi_remembers() -> None:
    msi = FakeMsi()
    msi.send(0xFEE00000, 0x41)
    assert msi.messages == [(0xFEE00000, 0x41)]
