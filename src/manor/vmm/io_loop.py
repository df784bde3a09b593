"""The event loop of a VM: file descriptors, timers, calls from other threads; one thread.

It never polls: with nothing to do the thread sleeps in the kernel without a time limit.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import select
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

from manor.backends.wake import wake
from manor.base.clock import SECOND, Clock
from manor.base.pausable_clock import PausableClock

logger = logging.getLogger(__name__)

Callback = Callable[[], None]

_FLUSH_S: Final = 5.0
_CALLS_A_TURN: Final = 64
"""Calls, which may ask for further calls, before descriptors and timers get their turn."""
_SELECT_LIMIT: Final = 1024
"""select(2) takes no descriptors from here on (FD_SETSIZE)."""
_READ: Final = select.EPOLLIN
_WRITE: Final = select.EPOLLOUT


class Watched:
    """Descriptors that are watched, by epoll(7), and the watch of each.

    Without the `selectors` module, whose objects for each call and each event took longer than the system calls.
    """

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self.by_descriptor: dict[int, Watch] = {}


class Watch:
    """What one descriptor is watched for (backends.loop.Watch).

    Thread: the loop's, any before `start`, or any that holds the lock of the watch's owner (`vmm.net_loop`).
    """

    __slots__ = ("_descriptor", "_events", "_on_readable", "_on_writable", "_watched")

    def __init__(
        self, watched: Watched, descriptor: int, on_readable: Callback | None, on_writable: Callback | None
    ) -> None:
        self._watched = watched
        self._descriptor = descriptor
        self._on_readable = on_readable
        self._on_writable = on_writable
        self._events = 0

    def want(self, *, read: bool = False, write: bool = False) -> None:
        """Call back when the descriptor is readable, or writable, from now on; neither: forget it for a while."""
        events = (_READ if read else 0) | (_WRITE if write else 0)
        if events == self._events:
            return
        descriptor = self._descriptor
        watched = self._watched
        if not events:
            watched.by_descriptor.pop(descriptor, None)
            with suppress(OSError):  # closed by its owner already, which is the same
                watched.epoll.unregister(descriptor)
        elif self._events:
            watched.epoll.modify(descriptor, events)
        else:
            watched.epoll.register(descriptor, events)
            watched.by_descriptor[descriptor] = self
        self._events = events

    def close(self) -> None:
        """Watch no more; call it before the descriptor is closed. Events that are due are dropped."""
        self.want()

    def run(self, events: int, call: Callable[[Callback], None]) -> None:
        """Call what is ready; a callback may have changed what the next one is wanted for. events: as epoll(7) says
        them; an error or a hang-up is for whoever reads or writes next."""
        if events & ~_WRITE and self._events & _READ and self._on_readable is not None:
            call(self._on_readable)
        if events & ~_READ and self._events & _WRITE and self._on_writable is not None:
            call(self._on_writable)


class Timer:
    """A TimerHandle of IoLoop."""

    __slots__ = ("callback", "cancelled")

    def __init__(self, callback: Callback) -> None:
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        """Forget the call. Its place in the heap goes away when its time comes."""
        self.cancelled = True


@dataclass(frozen=True, slots=True)
class LoopStatistics:
    """Counts since the loop was made."""

    wakeups: int
    timers: int


class IoLoop:
    """Timers (base.timers.Timers), readers and calls, all run on the loop's own thread.

    on_error gets an exception that escaped a callback, on the loop's thread; the loop goes on.
    """

    def __init__(self, clock: Clock, on_error: Callable[[BaseException], None]) -> None:
        self._clock = clock
        self._on_error = on_error
        self._watched = Watched()
        self._epoll = self._watched.epoll
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._wake_fd, _READ)
        self._lock = threading.Lock()
        self._calls: deque[Callback] = deque()
        self._heap: list[tuple[int, int, Timer]] = []
        self._order = itertools.count()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._is_sleeping = False
        """Set before the loop looks whether there is anything to do: who adds something then has to wake it."""
        self._sleep_until: int | None = 0
        self._wakeups = 0
        self._timers = 0

    # --- any thread -----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="io-loop", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop and join the thread, then close its descriptors. Calls not yet run are dropped."""
        with self._lock:
            self._stopping = True
        thread, self._thread = self._thread, None
        if thread is not None:
            self._wake()
            thread.join()
        self._epoll.close()
        with self._lock:
            if self._wake_fd >= 0:
                os.close(self._wake_fd)
                self._wake_fd = -1

    def at(self, deadline_ns: int, callback: Callback) -> Timer:
        """Run `callback` at or soon after `deadline_ns`."""
        timer = Timer(callback)
        with self._lock:
            heapq.heappush(self._heap, (deadline_ns, next(self._order), timer))
            sleeping_longer = self._sleep_until is None or deadline_ns < self._sleep_until
            if sleeping_longer:
                self._sleep_until = deadline_ns  # so that the next timer after it needs no second wake-up
                if self._is_sleeping:
                    self._wake_locked()
        return timer

    def call_soon_threadsafe(self, callback: Callback) -> None:
        """Run `callback` on the loop's thread, in the order of calls. Dropped once the loop stops."""
        self._calls.append(callback)
        if self._is_sleeping:
            self._wake()

    def add_reader(self, descriptor: int, callback: Callback) -> None:
        """Run `callback` whenever `descriptor` is readable. Raises OSError if it cannot be waited for (a file).

        Thread: the loop's, or any before `start`.
        """
        self.watch(descriptor, callback).want(read=True)

    def remove_reader(self, descriptor: int) -> None:
        """Undo `add_reader`; nothing happens if there is none. Thread: the loop's."""
        watch = self._watched.by_descriptor.get(descriptor)
        if watch is not None:
            watch.close()

    def watch(self, descriptor: int, on_readable: Callback | None = None, on_writable: Callback | None = None) -> Watch:
        """Be ready to watch `descriptor`: `want` says for what. One watch for a descriptor at a time.

        Thread: as for Watch.
        """
        return Watch(self._watched, descriptor, on_readable, on_writable)

    def statistics(self) -> LoopStatistics:
        return LoopStatistics(self._wakeups, self._timers)

    # --- the loop's thread ----------------------------------------------------------------------------------

    def _wake(self) -> None:
        with self._lock:
            self._wake_locked()

    def _wake_locked(self) -> None:
        if self._wake_fd >= 0:
            self._is_sleeping = False  # once is enough
            wake(self._wake_fd)

    def _run(self) -> None:
        watches = self._watched.by_descriptor
        while not self._stopping:
            ready = self._wait()
            self._wakeups += 1
            for descriptor, events in ready:
                watch = watches.get(descriptor)
                if watch is not None:
                    watch.run(events, self._call)
                elif descriptor == self._wake_fd:
                    os.eventfd_read(descriptor)
            for _ in range(_CALLS_A_TURN):
                if not self._calls or self._stopping:
                    break
                self._call(self._calls.popleft())
            self._run_timers()

    def _wait(self) -> list[tuple[int, int]]:
        """Sleep until a descriptor is ready or the next timer is due; not at all if there are calls. What is ready."""
        self._is_sleeping = True
        if self._calls or self._stopping:
            self._is_sleeping = False
            return self._epoll.poll(0)
        with self._lock:
            while self._heap and self._heap[0][2].cancelled:
                heapq.heappop(self._heap)
            self._sleep_until = self._heap[0][0] if self._heap else None
            deadline = self._sleep_until
        timeout = None if deadline is None else max(0, deadline - self._clock.now_ns()) / SECOND
        if timeout and self._epoll.fileno() < _SELECT_LIMIT:
            # epoll rounds up to milliseconds, which makes a guest's timers late; select on the epoll
            # descriptor itself has microseconds.
            select.select([self._epoll], [], [], timeout)
            timeout = 0
        ready = self._epoll.poll(timeout)
        self._is_sleeping = False
        return ready

    def _run_timers(self) -> None:
        now = self._clock.now_ns()
        while not self._stopping:
            with self._lock:
                if not self._heap or self._heap[0][0] > now:
                    return
                timer = heapq.heappop(self._heap)[2]
            if not timer.cancelled:
                self._timers += 1
                self._call(timer.callback)

    def _call(self, callback: Callback) -> None:
        try:
            callback()
        except Exception as error:  # the edge where a bug in a device ends its VM, not the process
            logger.exception("I/O loop callback failed")
            self._on_error(error)


class LockedTimer:
    """A TimerHandle of LockedTimers."""

    __slots__ = ("_callback", "_owner", "deadline_ns", "is_cancelled", "timer")

    def __init__(self, owner: LockedTimers, deadline_ns: int, callback: Callback) -> None:
        self._owner = owner
        self._callback = callback
        self.deadline_ns = deadline_ns
        self.is_cancelled = False
        self.timer: Timer | None = None

    def cancel(self) -> None:
        """Forget the call; if the caller holds the lock, it does not run any more even if it is due."""
        self.is_cancelled = True
        if self.timer is not None:
            self.timer.cancel()

    def run(self) -> None:
        """Call back with the lock held. Thread: the loop's."""
        owner = self._owner
        with owner.lock:
            if self.is_cancelled or owner.is_closed:
                return
            if owner.is_due(self):
                self._callback()


class LockedTimers:
    """The timers of one machine: base.timers.Timers whose callbacks run with the machine lock held.

    clock: the machine's own, in which deadlines are; while the machine is paused nothing is called back.
    """

    def __init__(self, loop: IoLoop, lock: threading.RLock, clock: PausableClock | None = None) -> None:
        self.lock = lock
        self.is_closed = False
        self._loop = loop
        self._clock = clock
        self._is_paused = False
        self._held: list[LockedTimer] = []

    def at(self, deadline_ns: int, callback: Callback) -> LockedTimer:
        """As IoLoop.at. Takes only the loop's own lock, so any device lock may be held."""
        timer = LockedTimer(self, deadline_ns, callback)
        self._arm(timer)
        return timer

    def defer(self, callback: Callback) -> None:
        """Run `callback` soon, on the loop's thread with the lock held. Thread: any."""
        self._loop.call_soon_threadsafe(LockedTimer(self, 0, callback).run)

    def pause(self) -> None:
        """Call nothing back until `resume`."""
        with self.lock:
            self._is_paused = True

    def resume(self) -> None:
        """What became due meanwhile is called, in order, as far as the machine's own time says that it is due."""
        with self.lock:
            self._is_paused = False
            held, self._held = self._held, []
            for timer in held:
                self._arm(timer)

    def is_due(self, timer: LockedTimer) -> bool:
        """Whether to call back now; otherwise it is kept for later. Thread: the loop's, lock held."""
        if self._is_paused:
            self._held.append(timer)
            return False
        if self._clock is not None and timer.deadline_ns > self._clock.now_ns():
            self._arm(timer)  # the machine was paused since it was armed
            return False
        return True

    def close(self) -> None:
        """Run no callback any more, also none that is due: what they belong to is being taken apart."""
        with self.lock:
            self.is_closed = True
            self._held.clear()

    def _arm(self, timer: LockedTimer) -> None:
        deadline = timer.deadline_ns
        host_deadline = deadline if self._clock is None or deadline == 0 else self._clock.host_ns(deadline)
        timer.timer = self._loop.at(host_deadline, timer.run)


class LoopReaders:
    """The loop's readers for other threads (machine.doorbells.Readers): both calls take effect soon, in order."""

    def __init__(self, loop: IoLoop) -> None:
        self._loop = loop

    def watch(self, fd: int, callback: Callback) -> None:
        """As IoLoop.add_reader. Thread: any."""
        self._loop.call_soon_threadsafe(partial(self._loop.add_reader, fd, callback))

    def unwatch(self, fd: int, then: Callback) -> None:
        """As IoLoop.remove_reader; `then` runs after it, on the loop's thread. Thread: any."""
        self._loop.call_soon_threadsafe(partial(self._forget, fd, then))

    def flush(self) -> None:
        """Wait until what was asked for has happened. Thread: any but the loop's, which must be running."""
        done = threading.Event()
        self._loop.call_soon_threadsafe(done.set)
        done.wait(_FLUSH_S)

    def _forget(self, fd: int, then: Callback) -> None:
        self._loop.remove_reader(fd)
        then()
