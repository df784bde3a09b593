"""Files in memory for tests of image formats: plain ones, and one that remembers what a power failure could leave."""

from __future__ import annotations

import bisect
import itertools
import random
import threading
from collections.abc import Iterator

from manor.backends.block.api import BlockError, Buffers
from manor.backends.block.buffers import join

SECTOR = 512


class MemoryFile:
    """A `File` whose contents are `data`. fails_after: writes that succeed before the medium is full; None for all."""

    def __init__(self, data: bytes | bytearray = b"", name: str = "memory", *, read_only: bool = False) -> None:
        self.data = bytearray(data)
        self.name = name
        self.is_read_only = read_only
        self.identity = (0, id(self))
        self.fails_after: int | None = None
        self.flush_error: BlockError | None = None
        self.writes = 0
        self.flushes = 0
        self.is_closed = False
        self.lock = threading.Lock()

    def size(self) -> int:
        return len(self.data)

    def read(self, offset: int, buffers: Buffers) -> None:
        for piece in buffers:
            part = self.data[offset : offset + piece.nbytes]
            piece[:] = bytes(part) + bytes(piece.nbytes - len(part))
            offset += piece.nbytes

    def read_nowait(self, offset: int, buffers: Buffers) -> bool:
        self.read(offset, buffers)
        return True

    def write(self, offset: int, buffers: Buffers) -> None:
        self._change(offset, join(buffers))

    def _change(self, offset: int, data: bytes) -> None:
        with self.lock:
            if self.is_read_only:
                raise BlockError(f"{self.name} is read-only", "read-only")
            if self.fails_after is not None and self.writes >= self.fails_after:
                raise BlockError(f"writing {self.name} at {offset:#x}: No space left on device", "no-space")
            self.writes += 1
            if offset > len(self.data):
                self.data.extend(bytes(offset - len(self.data)))
            self.data[offset : offset + len(data)] = data

    def write_zeroes(self, offset: int, size: int, may_unmap: bool) -> None:
        self._change(offset, bytes(size))

    def punch(self, offset: int, size: int) -> bool:
        size = max(0, min(size, len(self.data) - offset))
        if size:
            self._change(offset, bytes(size))
        return True

    def allocate(self, offset: int, size: int) -> None:
        if offset + size > len(self.data):
            self.truncate(offset + size)

    def flush(self) -> None:
        if self.flush_error is not None:
            raise self.flush_error
        self.flushes += 1

    def truncate(self, size: int) -> None:
        with self.lock:
            self.data = self.data[:size] + bytes(max(0, size - len(self.data)))

    def hold_size(self, size: int) -> None:
        pass

    def extents(self, offset: int, size: int) -> Iterator[tuple[int, int, bool]]:
        yield offset, size, True

    def close(self) -> None:
        self.is_closed = True


class RecordingFile(MemoryFile):
    """Keeps what was written, to build what a medium may hold after the power failed.

    The rules: what was written before a flush that returned is there. Of what was written later, each sector is
    there or is not, whatever the order; a longer file may have kept its old length.
    """

    def __init__(self, data: bytes | bytearray = b"", clock: Iterator[int] | None = None) -> None:
        """clock: shared by files whose records are to be put in one order."""
        super().__init__(data)
        self.log: list[tuple[int, bytes] | int | None] = []
        """In order: a write, a new size, None for a flush that returned."""
        self.times: list[int] = []
        """When each record was made, by the clock."""
        self._clock = clock or itertools.count()
        self._start = bytes(data)

    def _note(self, record: tuple[int, bytes] | int | None) -> None:
        self.log.append(record)
        self.times.append(next(self._clock))

    def _change(self, offset: int, data: bytes) -> None:
        super()._change(offset, data)
        self._note((offset, data))

    def truncate(self, size: int) -> None:
        super().truncate(size)
        self._note(size)

    def flush(self) -> None:
        super().flush()
        self._note(None)

    def crashed_at(self, time: int, rng: random.Random | None) -> MemoryFile:
        """The same at a time of the clock."""
        return self.crashed(bisect.bisect_left(self.times, time), rng)

    def crashed(self, length: int, rng: random.Random | None) -> MemoryFile:
        """The medium if power failed after the first `length` records. rng: picks what of the unflushed is there;
        None for nothing of it."""
        last_flush = max((index for index in range(length) if self.log[index] is None), default=-1)
        medium = MemoryFile(self._start)
        for record in self.log[: last_flush + 1]:
            _apply(medium, record)
        if rng is not None:
            likely = rng.choice((0.1, 0.5, 0.9, 1.0))
            for record in self.log[last_flush + 1 : length]:
                if isinstance(record, tuple):
                    for sector in _sectors(record):
                        if rng.random() < likely:
                            _apply(medium, sector)
                elif rng.random() < likely:
                    _apply(medium, record)
        return medium


def _apply(medium: MemoryFile, record: tuple[int, bytes] | int | None) -> None:
    if isinstance(record, tuple):
        medium.write(record[0], [memoryview(record[1])])
    elif record is not None:
        medium.truncate(record)


def _sectors(record: tuple[int, bytes]) -> Iterator[tuple[int, bytes]]:
    offset, data = record
    start = 0
    while start < len(data):
        stop = min(len(data), start + SECTOR - (offset + start) % SECTOR)
        yield offset + start, data[start:stop]
        start = stop
