"""What a disk has done: operations, bytes, errors and time, by kind of request."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from manor.backends.block.api import BlockBackend, BlockError, Buffers, Extent
from manor.backends.block.buffers import total
from manor.base.clock import Clock, HostClock

Kind = Literal["read", "write", "write_zeroes", "discard", "flush"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class RequestStatistics:
    """Requests of one kind. bytes: of those that succeeded. time_ns: that all of them took, side by side ones added."""

    operations: int = 0
    bytes: int = 0
    errors: int = 0
    time_ns: int = 0


@dataclass(frozen=True, slots=True)
class BlockStatistics:
    """A disk's requests since it was opened."""

    read: RequestStatistics = field(default_factory=RequestStatistics)
    write: RequestStatistics = field(default_factory=RequestStatistics)
    write_zeroes: RequestStatistics = field(default_factory=RequestStatistics)
    discard: RequestStatistics = field(default_factory=RequestStatistics)
    flush: RequestStatistics = field(default_factory=RequestStatistics)


class _Counter:
    __slots__ = ("bytes", "errors", "operations", "time_ns")

    def __init__(self) -> None:
        self.operations = self.bytes = self.errors = self.time_ns = 0


class CountedImage:
    """A `BlockBackend` that counts what goes through to another one. Owns it. Any thread."""

    def __init__(self, image: BlockBackend, clock: Clock | None = None) -> None:
        self.image = image
        self._now = (clock or HostClock()).now_ns
        self._counters = {kind: _Counter() for kind in KINDS}
        self._lock = threading.Lock()

    def statistics(self) -> BlockStatistics:
        """The counters now, all of one moment."""
        with self._lock:
            return BlockStatistics(
                **{
                    kind: RequestStatistics(one.operations, one.bytes, one.errors, one.time_ns)
                    for kind, one in self._counters.items()
                }
            )

    @contextmanager
    def _counted(self, kind: Kind, size: int) -> Iterator[None]:
        start = self._now()
        try:
            yield
        except BlockError:
            self._count(kind, 0, self._now() - start, failed=True)
            raise
        self._count(kind, size, self._now() - start)

    def _count(self, kind: Kind, size: int, time_ns: int, *, failed: bool = False) -> None:
        counter = self._counters[kind]
        with self._lock:
            counter.operations += 1
            counter.bytes += size
            counter.errors += failed
            counter.time_ns += time_ns

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
        with self._counted("read", total(buffers)):
            self.image.read(offset, buffers)

    def read_nowait(self, offset: int, buffers: Buffers) -> bool:
        """Counted if it succeeds; else `read` follows, and is."""
        start = self._now()
        if not self.image.read_nowait(offset, buffers):
            return False
        self._count("read", total(buffers), self._now() - start)
        return True

    def write(self, offset: int, buffers: Buffers) -> None:
        with self._counted("write", total(buffers)):
            self.image.write(offset, buffers)

    def write_zeroes(self, offset: int, size: int, may_unmap: bool) -> None:
        with self._counted("write_zeroes", size):
            self.image.write_zeroes(offset, size, may_unmap)

    def discard(self, offset: int, size: int) -> None:
        with self._counted("discard", size):
            self.image.discard(offset, size)

    def flush(self) -> None:
        with self._counted("flush", 0):
            self.image.flush()

    def resize(self, size: int) -> None:
        self.image.resize(size)

    def extents(self, offset: int, size: int) -> Iterator[Extent]:
        return self.image.extents(offset, size)

    def close(self) -> None:
        self.image.close()
