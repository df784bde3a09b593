"""The I/O loop as one network of a VM sees it: every callback holds the network's lock.

So a network belongs to whoever holds that lock. Mostly that is the loop; a vCPU that sends a little may have its answer
made at once, on its own thread, and needs no other one.
"""

from __future__ import annotations

import threading

from manor.backends.loop import Callback, Loop
from manor.backends.loop import Watch as LoopWatch
from manor.base.timers import TimerHandle


class _Watch:
    """A backends.loop.Watch. Thread: network's lock held."""

    __slots__ = ("_lock", "_on_readable", "_on_writable", "_reads", "_watch", "_writes")

    def __init__(
        self,
        loop: Loop,
        lock: threading.RLock,
        descriptor: int,
        on_readable: Callback | None,
        on_writable: Callback | None,
    ) -> None:
        self._lock = lock
        self._on_readable = on_readable
        self._on_writable = on_writable
        self._reads = self._writes = False
        self._watch: LoopWatch = loop.watch(descriptor, self._readable, self._writable)

    def want(self, *, read: bool = False, write: bool = False) -> None:
        self._reads, self._writes = read, write
        self._watch.want(read=read, write=write)

    def close(self) -> None:
        self.want()

    # What was wanted may have changed while the loop waited for the lock.

    def _readable(self) -> None:
        with self._lock:
            if self._reads and self._on_readable is not None:
                self._on_readable()

    def _writable(self) -> None:
        with self._lock:
            if self._writes and self._on_writable is not None:
                self._on_writable()


class _Timer:
    """A TimerHandle."""

    __slots__ = ("_callback", "_lock", "timer")

    def __init__(self, lock: threading.RLock, callback: Callback) -> None:
        self._lock = lock
        self._callback: Callback | None = callback
        self.timer: TimerHandle | None = None

    def cancel(self) -> None:
        """If the caller holds the network's lock, the call does not happen any more even if it is due."""
        self._callback = None
        if self.timer is not None:
            self.timer.cancel()

    def run(self) -> None:
        with self._lock:
            callback, self._callback = self._callback, None
            if callback is not None:
                callback()


class NetLoop:
    """A backends.loop.Loop on `loop`. lock: the network's, held in every callback and by whoever calls.

    A descriptor may thus be watched, and closed, by a thread that is not the loop's: the loop may then tell a new watch
    once about the old descriptor of that number. So a readiness is a hint, to be tried without waiting.
    """

    def __init__(self, loop: Loop, lock: threading.RLock) -> None:
        self._loop = loop
        self._lock = lock

    def watch(self, descriptor: int, on_readable: Callback | None = None, on_writable: Callback | None = None) -> _Watch:
        return _Watch(self._loop, self._lock, descriptor, on_readable, on_writable)

    def at(self, deadline_ns: int, callback: Callback) -> _Timer:
        timer = _Timer(self._lock, callback)
        timer.timer = self._loop.at(deadline_ns, timer.run)
        return timer

    def call_soon_threadsafe(self, callback: Callback) -> None:
        """Thread: any."""

        def run() -> None:
            with self._lock:
                callback()

        self._loop.call_soon_threadsafe(run)
