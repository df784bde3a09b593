"""A disk as its device sees it: requests to a backend that run while nobody holds the machine lock.

    device, lock held           no lock held               lock held again
    start(batch) ──▶ short ──▶ the vCPU that kicked ──┐
                 └─▶ long  ──▶ a worker's thread ─────┴─▶ request.done(error), then batch.after()

A request is short if it is small and the medium was quick lately: then the vCPU that kicked does it before it goes on,
without another thread's wake-up, and finds its interrupt pending. What would wait (a read that the host has not in
memory, a flush, anything while the medium is slow) is done by workers, and the guest goes on.

While a request is in flight the backend reads or writes guest memory at any moment. So a device that forgets requests
(a reset, a queue's deletion) says so only when `in_flight` of them is 0: it must not promise the guest earlier that its
memory is left alone.
"""

from __future__ import annotations

import resource
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from functools import partial
from typing import Final

from manor.backends.block.api import BlockBackend, BlockError, Buffers
from manor.base.work import Work
from manor.trace.event import declare

SECTOR: Final = 512
"""Bytes of the unit in which both device types count."""

SHORT_REQUEST: Final = 1 << 20
"""Bytes of a request that a vCPU does itself: to copy so many takes about as long as a worker needs to wake up."""
SHORT_BATCH: Final = 1 << 20
"""Bytes that one kick may cost the vCPU that made it; a worker copies the rest of a larger batch beside it."""
SLOW_NS: Final = 1_000_000
"""A short request that took longer may have waited for the medium."""
WATCHED: Final = 64
"""Short requests that are watched after one that took long: whether the thread waited, or other programs took its turn,
which is no fault of the medium."""
SLOW_FACTOR: Final = 20
"""For so many times as long as a slow request took, vCPUs leave everything to workers. So a slow medium costs them at
most one part in so many of their time."""
WORKERS: Final = 8
"""Requests of one disk that wait for the medium at the same time."""
QUICK_NS: Final = 100_000
"""While workers wait less for a request, one of them is as good as several: they would wait for each other."""
COPY_SPEED: Final = 2
"""Bytes that a worker copies in a nanosecond, at least: so much of a request's time it has not waited."""
TURN_NS: Final = 200_000
"""A worker tells the guest of what it has done at least so often."""

disk_request = declare("disk_request", disk=str, kind=str, offset=int, size=int)
disk_error = declare("disk_error", disk=str, kind=str, offset=int, size=int, message=str)


class Kind(Enum):
    """What a request asks of the backend. ZERO_UNMAP: zeros, and their space may be given back."""

    READ = "read"
    WRITE = "write"
    FLUSH = "flush"
    DISCARD = "discard"
    ZERO = "zero"
    ZERO_UNMAP = "zero-unmap"


_COPIES: Final = (Kind.READ, Kind.WRITE)

Range = tuple[int, int]
"""Offset and size in bytes."""


class Request:
    """One request in flight.

    ranges: where; for READ and WRITE exactly one, as large as `buffers` together; none for FLUSH.
    durable: the data must be on the medium before it is done (a write-through cache, FUA).
    done: called once, machine lock held, with None or what went wrong. Guest memory may be written until then.
    """

    __slots__ = ("buffers", "done", "durable", "error", "kind", "ranges")

    def __init__(
        self,
        kind: Kind,
        ranges: Sequence[Range],
        buffers: Buffers,
        done: Callable[[BlockError | None], None],
        durable: bool = False,
    ) -> None:
        self.kind = kind
        self.ranges = ranges
        self.buffers = buffers
        self.done = done
        self.durable = durable
        self.error: BlockError | None = None

    @property
    def size(self) -> int:
        """Bytes of all ranges."""
        return sum(size for _, size in self.ranges)


@dataclass(slots=True)
class DiskStatistics:
    """Counters of one disk since the machine was built. Bytes and requests of the guest; ns: from start to done, of all
    requests of the kind. short: requests that the kicking vCPU did itself."""

    read_requests: int = 0
    read_bytes: int = 0
    read_ns: int = 0
    write_requests: int = 0
    write_bytes: int = 0
    write_ns: int = 0
    flush_requests: int = 0
    flush_ns: int = 0
    discard_requests: int = 0
    discard_bytes: int = 0
    errors: int = 0
    short: int = 0

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


_NOT_THERE: Final = "outside the disk, which was made smaller"
_UNFINISHED: Final = BlockError("the request was not finished")


class Batch:
    """Requests that a device starts together. after: called with the machine lock held, after each time that `done` of
    some of them was called: the place for one interrupt."""

    __slots__ = ("after", "started_ns")

    def __init__(self, after: Callable[[], None]) -> None:
        self.after = after
        self.started_ns = time.monotonic_ns()


class Disk:
    """The requests of one device to one backend.

    lock: the machine lock. serial: what the guest reads as serial number. discard: whether it may give space back.
    may_wait: requests have to wait for something else than the medium, for example for a limit: vCPUs do none.
    Thread: machine lock held, unless a method says otherwise.
    """

    def __init__(
        self,
        name: str,
        backend: BlockBackend,
        lock: threading.RLock,
        work: Work,
        serial: str = "",
        discard: bool = True,
        *,
        may_wait: bool = False,
    ) -> None:
        self.name = name
        self.serial = serial
        self.is_read_only = backend.is_read_only
        self.may_discard = discard and not backend.is_read_only
        self.statistics = DiskStatistics()
        self.on_resize: Callable[[], None] = _do_nothing
        """Set by the device; called after the size changed."""
        self.in_flight = 0
        """Requests started and not done."""
        self._backend = backend
        self._work = work
        self._lock = lock
        self._settled = threading.Condition(lock)
        self._may_wait = may_wait
        self._is_abandoned = False
        self._is_paused = False
        self._waiting: deque[tuple[Request, Batch]] = deque()
        self._workers = 0
        self._slow_until_ns = 0
        self._watched = 0
        """Short requests that will still be watched."""
        self._mean_ns = 2 * QUICK_NS
        """What workers waited for each of the requests that they did lately."""
        self._size = backend.size

    @property
    def size(self) -> int:
        """Bytes that the guest sees: whole sectors."""
        return self._size - self._size % SECTOR

    def covers(self, offset: int, size: int) -> bool:
        """Whether the range lies on the disk."""
        return offset >= 0 and size >= 0 and offset + size <= self.size

    # --- requests -------------------------------------------------------------------------------------------

    def start(self, requests: Sequence[Request], after: Callable[[], None]) -> None:
        """Do `requests`, in any order and at the same time; see `Request.done` and `Batch.after`.

        Neither is called from inside `start`.
        """
        if not requests:
            return
        batch = Batch(after)
        self.in_flight += len(requests)
        if disk_request.on:
            for request in requests:
                offset = request.ranges[0][0] if request.ranges else 0
                disk_request(self.name, request.kind.value, offset, request.size)
        short: list[Request] = []
        long: Sequence[Request] = requests
        if not self._is_paused and not self._may_wait and batch.started_ns >= self._slow_until_ns:
            long = []
            left = SHORT_BATCH
            for request in requests:
                size = request.ranges[0][1] if request.kind in _COPIES and not request.durable else SHORT_BATCH + 1
                if size <= left and size <= SHORT_REQUEST:
                    left -= size
                    short.append(request)
                else:
                    long.append(request)
            if short and not self._work.submit_short(partial(self._run_short, short, batch)):
                long = requests
        if long:
            self._waiting.extend((request, batch) for request in long)
            self._call_workers()

    def drain(self, timeout: float | None = None) -> bool:
        """Wait until nothing is in flight. timeout: seconds; False when they are over.

        Thread: any that does not hold the machine lock.
        """
        with self._lock:
            return self._settled.wait_for(lambda: self.in_flight == 0, timeout)

    def abandon(self) -> None:
        """Tell the device of no request any more: it is being taken apart while the host still works on some. They keep
        the guest memory that they use."""
        with self._lock:
            self._is_abandoned = True

    def resize(self, size: int) -> None:
        """Change the backend's size, and tell the guest. size: bytes, a multiple of 512. Raises BlockError.

        Thread: any that does not hold the machine lock.
        """
        with self._lock:
            self._settled.wait_for(lambda: not self._is_paused)
            self._is_paused = True
            self._settled.wait_for(lambda: self.in_flight == len(self._waiting))
        try:
            self._backend.resize(size)
        finally:
            with self._lock:
                self._is_paused = False
                is_changed = self._size != self._backend.size
                self._size = self._backend.size
                self._settled.notify_all()
                self._call_workers()
                if is_changed:
                    self.on_resize()

    # --- inside ---------------------------------------------------------------------------------------------

    def _run_short(self, requests: list[Request], batch: Batch) -> None:
        """Do what needs no waiting; leave the rest to workers. Thread: a vCPU's, no lock held."""
        finished: list[tuple[Request, Batch]] = []
        left: list[tuple[Request, Batch]] = [(request, batch) for request in requests]
        before = now = time.monotonic_ns()
        waits = _waits() if self._watched else 0
        slow_until = 0
        try:
            for work in tuple(left):
                if not self._perform(work[0], may_wait=False):
                    continue
                finished.append(work)
                left.remove(work)
                now = time.monotonic_ns()
                if self._watched:
                    self._watched -= 1
                    earlier, waits = waits, _waits()
                    if now - before > SLOW_NS and waits != earlier:
                        slow_until = now + SLOW_FACTOR * (now - before)
                        break
                elif now - before > SLOW_NS:
                    self._watched = WATCHED
                    waits = _waits()
                before = now
        finally:
            with self._lock:
                if slow_until:
                    self._slow_until_ns = slow_until
                if left:
                    self._waiting.extend(left)
                    self._call_workers()
                self.statistics.short += len(finished)
                self._finish(finished, now)

    def _call_workers(self) -> None:
        """Have workers for what waits: one while the medium is quick, several when each may wait for it."""
        if self._is_paused or not self._waiting:
            return
        wanted = 1 if self._mean_ns < QUICK_NS else min(len(self._waiting), WORKERS)
        while self._workers < wanted:
            self._add_worker()

    def _add_worker(self) -> None:
        self._workers += 1
        self._work.submit(self._run_waiting)

    def _run_waiting(self) -> None:
        """Do what waits, until nothing does. Thread: a worker's, no lock held."""
        finished: list[tuple[Request, Batch]] = []
        told = now = time.monotonic_ns()
        is_working = True
        try:
            while True:
                with self._lock:
                    work = self._next(finished, now - told > TURN_NS)
                    if work is None:
                        # In the same breath as the look at what waits: who adds to it counts the workers.
                        self._workers -= 1
                        is_working = False
                        return
                if not finished:
                    told = now
                finished.append(work)
                request = work[0]
                started = time.monotonic_ns()
                self._perform(request, may_wait=True)
                now = time.monotonic_ns()
                if request.kind in _COPIES:
                    waited = max(0, now - started - request.ranges[0][1] // COPY_SPEED)
                    self._mean_ns += (waited - self._mean_ns) >> 3
        finally:
            if is_working:
                # An exception, which ends the VM: nobody must wait for these for ever.
                with self._lock:
                    self._workers -= 1
                    self._finish(finished, time.monotonic_ns())

    def _next(self, finished: list[tuple[Request, Batch]], is_time: bool) -> tuple[Request, Batch] | None:
        """The next request for a worker, if any, after telling of those it has `finished` where that may not wait."""
        while True:
            has_more = bool(self._waiting) and not self._is_paused
            # Nobody knows how long the next one takes, unless they are all quick.
            is_quick = has_more and self._mean_ns < QUICK_NS and self._waiting[0][0].kind in _COPIES
            if finished and (is_time or not is_quick):
                self._finish(finished, time.monotonic_ns())
                finished.clear()
                continue
            if not has_more:
                return None
            if not is_quick and len(self._waiting) > 1 and self._workers < WORKERS:
                self._add_worker()
            return self._waiting.popleft()

    def _finish(self, finished: Sequence[tuple[Request, Batch]], now: int) -> None:
        """Tell the device, count, and wake who waits. Machine lock held."""
        batches: list[Batch] = []
        for request, batch in finished:
            self.in_flight -= 1
            self._count(request, now - batch.started_ns)
            if self._is_abandoned:
                continue
            if batch not in batches:
                batches.append(batch)
            request.done(request.error)
        for batch in batches:
            batch.after()
        if self.in_flight == 0 or self._is_paused:
            self._settled.notify_all()

    def _perform(self, request: Request, may_wait: bool) -> bool:
        """One request to the backend. False: it would have to wait, and is not done."""
        backend, kind = self._backend, request.kind
        request.error = _UNFINISHED
        try:
            size = backend.size
            for offset, length in request.ranges:
                if offset + length > size:
                    raise BlockError(_NOT_THERE)
                if kind is Kind.READ:
                    if not may_wait:
                        request.error = None
                        return backend.read_nowait(offset, request.buffers)
                    backend.read(offset, request.buffers)
                elif kind is Kind.WRITE:
                    backend.write(offset, request.buffers)
                elif kind is Kind.DISCARD:
                    backend.discard(offset, length)
                else:
                    backend.write_zeroes(offset, length, kind is Kind.ZERO_UNMAP)
            if kind is Kind.FLUSH or request.durable:
                backend.flush()
            request.error = None
        except BlockError as error:
            request.error = error
            if disk_error.on:
                offset = request.ranges[0][0] if request.ranges else 0
                disk_error(self.name, kind.value, offset, request.size, str(error))
        return True

    def _count(self, request: Request, elapsed_ns: int) -> None:
        counters = self.statistics
        if request.error is not None:
            counters.errors += 1
        if request.kind is Kind.READ:
            counters.read_requests += 1
            counters.read_bytes += request.ranges[0][1]
            counters.read_ns += elapsed_ns
        elif request.kind is Kind.WRITE:
            counters.write_requests += 1
            counters.write_bytes += request.ranges[0][1]
            counters.write_ns += elapsed_ns
        elif request.kind is Kind.FLUSH:
            counters.flush_requests += 1
            counters.flush_ns += elapsed_ns
        else:
            counters.discard_requests += 1
            counters.discard_bytes += request.size


def _waits() -> int:
    """How often the calling thread gave up the processor because it had to wait. Source: getrusage(2), ru_nvcsw."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


def _do_nothing() -> None:
    """No device is interested yet."""
