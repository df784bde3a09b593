"""The event loop: timers, readers, calls from other threads."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from manor.base.clock import MILLISECOND, HostClock
from manor.vmm.io_loop import IoLoop, LockedTimers, Watch


class Waiter:
    """Collects calls and lets the test wait for a number of them."""

    def __init__(self) -> None:
        self.calls: list[object] = []
        self._changed = threading.Condition()

    def __call__(self, value: object = None) -> None:
        with self._changed:
            self.calls.append(value)
            self._changed.notify_all()

    def wait(self, count: int) -> list[object]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.calls) >= count, 5), self.calls
            return self.calls


@pytest.fixture
def errors() -> list[BaseException]:
    return []


@pytest.fixture
def loop(errors: list[BaseException]) -> Iterator[IoLoop]:
    loop = IoLoop(HostClock(), errors.append)
    loop.start()
    yield loop
    loop.stop()


def now() -> int:
    return time.monotonic_ns()


def test_timers_run_in_order_of_deadline_and_not_early(loop: IoLoop) -> None:
    seen = Waiter()
    start = now()
    loop.at(start + 20 * MILLISECOND, lambda: seen(("late", now())))
    loop.at(start + 5 * MILLISECOND, lambda: seen(("early", now())))
    calls: list[Any] = seen.wait(2)
    (first, at_first), (second, at_second) = calls
    assert (first, second) == ("early", "late")
    assert at_first >= start + 5 * MILLISECOND
    assert at_second >= start + 20 * MILLISECOND


def test_cancelled_timer_does_not_run(loop: IoLoop) -> None:
    seen = Waiter()
    loop.at(now() + 5 * MILLISECOND, lambda: seen("cancelled")).cancel()
    loop.at(now() + 10 * MILLISECOND, lambda: seen("kept"))
    assert seen.wait(1) == ["kept"]


def test_timer_set_in_a_callback_runs(loop: IoLoop) -> None:
    seen = Waiter()

    def outer() -> None:
        loop.at(0, seen)
        seen("outer")

    loop.at(0, outer)
    seen.wait(2)


def test_calls_from_other_threads_keep_their_order(loop: IoLoop) -> None:
    seen = Waiter()
    for number in range(100):
        loop.call_soon_threadsafe(partial(seen, number))
    assert seen.wait(100) == list(range(100))


def test_reader_runs_when_data_comes_and_stops_when_removed(loop: IoLoop) -> None:
    reading, writing = os.pipe()
    seen = Waiter()
    try:
        loop.call_soon_threadsafe(lambda: loop.add_reader(reading, lambda: seen(os.read(reading, 10))))
        os.write(writing, b"one")
        assert seen.wait(1) == [b"one"]
        loop.call_soon_threadsafe(lambda: (loop.remove_reader(reading), seen("removed"))[1])
        seen.wait(2)
        os.write(writing, b"two")
        loop.call_soon_threadsafe(lambda: seen("after"))
        assert seen.wait(3) == [b"one", "removed", "after"]
    finally:
        os.close(reading)
        os.close(writing)


def test_error_in_a_callback_is_reported_and_the_loop_goes_on(
    loop: IoLoop, errors: list[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    seen = Waiter()

    def fail() -> None:
        raise ValueError("a bug")

    loop.call_soon_threadsafe(fail)
    loop.call_soon_threadsafe(seen)
    seen.wait(1)
    assert [str(error) for error in errors] == ["a bug"]
    assert "callback failed" in caplog.text


def test_idle_loop_does_not_wake_up(loop: IoLoop) -> None:
    seen = Waiter()
    loop.call_soon_threadsafe(seen)
    seen.wait(1)
    time.sleep(0.01)
    before = loop.statistics().wakeups
    time.sleep(0.05)
    assert loop.statistics().wakeups == before


def test_calls_after_stop_are_dropped() -> None:
    loop = IoLoop(HostClock(), lambda error: None)
    loop.start()
    loop.stop()
    loop.call_soon_threadsafe(lambda: pytest.fail("ran after stop"))
    loop.at(0, lambda: pytest.fail("ran after stop"))


def test_locked_timers_hold_the_lock_and_obey_a_cancel_under_it(loop: IoLoop) -> None:
    lock = threading.RLock()
    timers = LockedTimers(loop, lock)
    seen = Waiter()
    with lock:
        timer = timers.at(0, lambda: seen("cancelled"))
        time.sleep(0.01)  # the loop is waiting for the lock by now
        timer.cancel()
    timers.defer(lambda: seen("kept"))
    assert seen.wait(1) == ["kept"]


def test_closed_timers_run_nothing(loop: IoLoop) -> None:
    timers = LockedTimers(loop, threading.RLock())
    seen = Waiter()
    timers.at(now() + 5 * MILLISECOND, lambda: seen("old machine"))
    timers.close()
    loop.at(now() + 10 * MILLISECOND, lambda: seen("later"))
    assert seen.wait(1) == ["later"]


class TestWatch:
    """Descriptors that are watched for reading and writing."""

    def test_wanted_directions_only(self, loop: IoLoop) -> None:
        near, far = socket.socketpair()
        seen = Waiter()

        def readable() -> None:
            seen(("read", near.recv(100)))

        def writable() -> None:
            watch.want(read=True)
            seen("write")

        watch = loop.watch(near.fileno(), readable, writable)
        far.send(b"early")
        loop.call_soon_threadsafe(lambda: seen("nothing wanted"))
        assert seen.wait(1) == ["nothing wanted"]
        loop.call_soon_threadsafe(lambda: watch.want(read=True, write=True))
        assert sorted(map(str, seen.wait(3)[1:])) == ["('read', b'early')", "write"]
        far.send(b"late")
        assert seen.wait(4)[3:] == [("read", b"late")]
        loop.call_soon_threadsafe(watch.close)
        loop.call_soon_threadsafe(lambda: seen("closed"))
        seen.wait(5)
        far.send(b"unseen")
        loop.at(now() + 10 * MILLISECOND, lambda: seen("later"))
        assert seen.wait(6)[5:] == ["later"]
        near.close()
        far.close()

    def test_what_one_callback_closes_is_not_called_in_the_same_round(self, loop: IoLoop) -> None:
        pairs = [socket.socketpair() for _ in range(2)]
        seen = Waiter()
        watches: list[Watch] = []

        def readable() -> None:
            for watch in watches:
                watch.close()
            seen("once")

        def begin() -> None:
            for near, far in pairs:
                watches.append(loop.watch(near.fileno(), readable))
                watches[-1].want(read=True)
                far.send(b"x")

        loop.call_soon_threadsafe(begin)
        seen.wait(1)
        loop.at(now() + 10 * MILLISECOND, lambda: seen("later"))
        assert seen.wait(2) == ["once", "later"]
        for pair in pairs:
            for end in pair:
                end.close()

    def test_readers_are_watches_too(self, loop: IoLoop) -> None:
        near, far = socket.socketpair()
        seen = Waiter()
        loop.call_soon_threadsafe(lambda: loop.add_reader(near.fileno(), lambda: seen(near.recv(10))))
        far.send(b"a")
        assert seen.wait(1) == [b"a"]
        loop.call_soon_threadsafe(lambda: loop.remove_reader(near.fileno()))
        loop.call_soon_threadsafe(lambda: loop.remove_reader(near.fileno()))
        loop.call_soon_threadsafe(lambda: seen("removed"))
        assert seen.wait(2)[1:] == ["removed"]
        near.close()
        far.close()
