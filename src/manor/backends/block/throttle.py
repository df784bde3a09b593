"""Limits of a disk: so many bytes and operations a second, with bursts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from manor.backends.block.api import BlockBackend, Buffers, Extent
from manor.backends.block.buffers import total
from manor.base.clock import SECOND, Clock, HostClock
from manor.spec.block import Throttle


class TokenBucket:
    """Lets `rate` units a second pass, and up to `burst` at once after a time of rest. Any thread.

    Whoever takes more than there is gets it and is told how long to wait: so requests pass in the order in which they
    came, and one that is larger than the burst passes too. rate: 0 for no limit. burst: 0 for a tenth of a second's.
    """

    def __init__(self, rate: int, burst: int, clock: Clock) -> None:
        self._rate = rate
        self._clock = clock
        self._burst_ns = (burst or max(1, rate // 10)) * SECOND // rate if rate else 0
        self._full_at = clock.now_ns()
        """When the bucket will be full if nobody takes more. How far that is ahead is what is missing in it."""
        self._lock = threading.Lock()

    def take(self, amount: int) -> int:
        """Take `amount` units; returns the nanoseconds to wait before using them."""
        if not self._rate:
            return 0
        with self._lock:
            now = self._clock.now_ns()
            # Rounded up, or many small amounts would pass for nothing.
            self._full_at = max(self._full_at, now) + -(-amount * SECOND // self._rate)
            return max(0, self._full_at - self._burst_ns - now)


class ThrottledImage:
    """A `BlockBackend` that lets a limited number of bytes and operations a second through to another one. Owns it.

    Reads and writes count with their bytes; discards and zeroes, which move no data, as operations. A flush never
    waits: delaying it makes nothing cheaper and the guest less safe.
    """

    def __init__(
        self,
        image: BlockBackend,
        limits: Throttle,
        clock: Clock | None = None,
        wait: Callable[[int], None] | None = None,
    ) -> None:
        """wait: waits as many nanoseconds; for tests with a clock of their own."""
        self.image = image
        self._clock = clock or HostClock()
        self._closed = threading.Event()
        self._wait = wait or self._wait_or_close
        self.set_limits(limits)

    def set_limits(self, limits: Throttle) -> None:
        """Other limits from now on. Requests that are waiting keep theirs. Any thread."""
        self.limits = limits
        self._buckets = (
            TokenBucket(limits.operations_per_second, limits.burst_operations, self._clock),
            TokenBucket(limits.bytes_per_second, limits.burst_bytes, self._clock),
        )

    def _pass(self, size: int) -> None:
        operations, data = self._buckets
        delay = max(operations.take(1), data.take(size))
        if delay:
            self._wait(delay)

    def _wait_or_close(self, delay_ns: int) -> None:
        self._closed.wait(delay_ns / SECOND)

    @property
    def size(self) -> int:
        return self.image.size

    @property
    def is_read_only(self) -> bool:
        return self.image.is_read_only

    @property
    def name(self) -> str:
        return self.image.name

    def read(self, offset: int, buffers: Buffers) -> None:
        self._pass(total(buffers))
        self.image.read(offset, buffers)

    def read_nowait(self, offset: int, buffers: Buffers) -> bool:
        """Only without limits: a request may have to wait for them."""
        limits = self.limits
        if limits.bytes_per_second or limits.operations_per_second:
            return False
        return self.image.read_nowait(offset, buffers)

    def write(self, offset: int, buffers: Buffers) -> None:
        self._pass(total(buffers))
        self.image.write(offset, buffers)

    def write_zeroes(self, offset: int, size: int, may_unmap: bool) -> None:
        self._pass(0)
        self.image.write_zeroes(offset, size, may_unmap)

    def discard(self, offset: int, size: int) -> None:
        self._pass(0)
        self.image.discard(offset, size)

    def flush(self) -> None:
        self.image.flush()

    def resize(self, size: int) -> None:
        self.image.resize(size)

    def extents(self, offset: int, size: int) -> Iterator[Extent]:
        return self.image.extents(offset, size)

    def close(self) -> None:
        """Requests that wait go on at once."""
        self._closed.set()
        self.image.close()
