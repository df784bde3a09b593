"""The loop of one network: its callbacks hold the network's lock, and look again when they have it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from manor.base.clock import MILLISECOND, HostClock
from manor.vmm.io_loop import IoLoop
from manor.vmm.net_loop import NetLoop

WAIT_S = 5.0


class Bench:
    """A loop that runs, and a network's view of it. This thread may hold the lock as a vCPU does."""

    def __init__(self) -> None:
        self.errors: list[BaseException] = []
        self.loop = IoLoop(HostClock(), self.errors.append)
        self.lock = threading.RLock()
        self.network = NetLoop(self.loop, self.lock)
        self.loop.start()

    def is_owned(self) -> bool:
        """Whether another thread holds the lock, as seen by a thread that does not."""
        seen: list[bool] = []

        def look() -> None:
            seen.append(not self.lock.acquire(blocking=False))
            if not seen[0]:
                self.lock.release()

        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        return seen[0]

    def settle(self) -> None:
        """Wait until the loop has done what it is at. The lock must be free."""
        for _ in range(2):  # the first call may run in the turn in which the descriptors were looked at
            done = threading.Event()
            self.loop.call_soon_threadsafe(done.set)
            assert done.wait(WAIT_S)


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.loop.stop()
    assert not bench.errors


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    first, second = socket.socketpair()
    first.setblocking(False)
    yield first, second
    first.close()
    second.close()


def call(bench: Bench, callback: Callable[[], None], pair: tuple[socket.socket, socket.socket], how: str) -> None:
    """Have the loop call `callback` in one of its ways."""
    match how:
        case "call":
            bench.network.call_soon_threadsafe(callback)
        case "timer":
            bench.network.at(0, callback)
        case "readable" | "writable":

            def once() -> None:
                watch.close()
                callback()

            with bench.lock:
                watch = bench.network.watch(pair[0].fileno(), once, once)
                watch.want(read=how == "readable", write=how == "writable")
            pair[1].send(b"x")


@pytest.mark.parametrize("how", ["call", "timer", "readable", "writable"])
def test_callbacks_hold_the_lock(bench: Bench, pair: tuple[socket.socket, socket.socket], how: str) -> None:
    seen: list[bool] = []
    done = threading.Event()

    def callback() -> None:
        seen.append(bench.is_owned())
        done.set()

    call(bench, callback, pair, how)
    assert done.wait(WAIT_S)
    assert seen == [True]
    bench.settle()
    assert not bench.is_owned()


def test_a_timer_that_is_due_can_be_cancelled_by_who_holds_the_lock(bench: Bench) -> None:
    calls: list[int] = []
    with bench.lock:
        timer = bench.network.at(0, lambda: calls.append(1))
        threading.Event().wait(0.02)  # the loop waits for the lock by now
        timer.cancel()
    bench.settle()
    assert calls == []


def test_what_is_not_wanted_any_more_when_the_lock_is_free_is_not_called(
    bench: Bench, pair: tuple[socket.socket, socket.socket]
) -> None:
    calls: list[bytes] = []
    with bench.lock:
        watch = bench.network.watch(pair[0].fileno(), lambda: calls.append(pair[0].recv(10)))
        watch.want(read=True)
        pair[1].send(b"x")
        threading.Event().wait(0.02)
        watch.close()
    bench.settle()
    assert calls == []
    with bench.lock:
        watch.want(read=True)
    for _ in range(100):
        bench.settle()
        if calls:
            break
    assert calls == [b"x"]
    with bench.lock:
        watch.close()


def test_descriptors_are_watched_from_a_thread_while_the_loop_sleeps(bench: Bench) -> None:
    """As a vCPU does that opens connections: many descriptors, their numbers used again and again."""
    got: list[bytes] = []
    for round_ in range(50):
        first, second = socket.socketpair()
        first.setblocking(False)
        done = threading.Event()

        def read(first: socket.socket = first, done: threading.Event = done) -> None:
            got.append(first.recv(10))
            done.set()

        with bench.lock:
            watch = bench.network.watch(first.fileno(), read)
            watch.want(read=True)
        second.send(bytes((round_,)))
        assert done.wait(WAIT_S)
        with bench.lock:
            watch.close()
            first.close()
        second.close()
    assert got == [bytes((round_,)) for round_ in range(50)]


def test_a_timer_of_the_future_runs_once(bench: Bench) -> None:
    calls: list[int] = []
    done = threading.Event()
    bench.network.at(HostClock().now_ns() + MILLISECOND, lambda: (calls.append(1), done.set())[1])
    assert done.wait(WAIT_S)
    bench.settle()
    assert calls == [1]
