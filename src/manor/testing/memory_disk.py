"""A block backend in memory whose operations can be held, made to fail, or made to wait."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from manor.backends.block.api import BlockError, Buffers, Extent


class MemoryDisk:
    """BlockBackend over a bytearray, which tests look at.

    fail: raised by the next operation of that name. is_cached: what `read_nowait` answers. gate: while it is clear,
    operations other than `read_nowait` wait. calls: (operation, offset, size) in the order in which they began.
    """

    def __init__(self, size: int, is_read_only: bool = False, name: str = "memory") -> None:
        self.data = bytearray(size)
        self.is_read_only = is_read_only
        self.name = name
        self.is_cached = True
        self.fail: dict[str, Exception] = {}
        self.gate = threading.Event()
        self.gate.set()
        self.calls: list[tuple[str, int, int]] = []
        self.is_closed = False

    @property
    def size(self) -> int:
        return len(self.data)

    def _begin(self, operation: str, offset: int, size: int) -> None:
        self.calls.append((operation, offset, size))
        self.gate.wait(20)
        error = self.fail.pop(operation, None)
        if error is not None:
            raise error
        if offset < 0 or offset + size > len(self.data):
            raise AssertionError(f"{operation} of {size} bytes at {offset} of {len(self.data)}")

    def read(self, offset: int, buffers: Buffers) -> None:
        self._begin("read", offset, sum(map(len, buffers)))
        self._fill(offset, buffers)

    def read_nowait(self, offset: int, buffers: Buffers) -> bool:
        if self.is_cached:
            self.calls.append(("read_nowait", offset, sum(map(len, buffers))))
            self._fill(offset, buffers)
        return self.is_cached

    def _fill(self, offset: int, buffers: Buffers) -> None:
        for buffer in buffers:
            buffer[:] = self.data[offset : offset + len(buffer)]
            offset += len(buffer)

    def write(self, offset: int, buffers: Buffers) -> None:
        self._begin("write", offset, sum(map(len, buffers)))
        for buffer in buffers:
            self.data[offset : offset + len(buffer)] = buffer
            offset += len(buffer)

    def write_zeroes(self, offset: int, size: int, may_unmap: bool) -> None:
        self._begin("unmap_zeroes" if may_unmap else "write_zeroes", offset, size)
        self.data[offset : offset + size] = bytes(size)

    def discard(self, offset: int, size: int) -> None:
        self._begin("discard", offset, size)
        self.data[offset : offset + size] = bytes(size)

    def flush(self) -> None:
        self._begin("flush", 0, 0)

    def resize(self, size: int) -> None:
        self._begin("resize", 0, 0)
        self.data = self.data[:size].ljust(size, b"\0")

    def extents(self, offset: int, size: int) -> Iterator[Extent]:
        """Blocks of 4 KiB: data; where all is zero holes, but in the second MiB zeros."""
        end = offset + size
        while offset < end:
            stop = min(end, offset // 4096 * 4096 + 4096)
            is_data = any(self.data[offset:stop])
            yield Extent(offset, stop - offset, "data" if is_data else "zero" if offset >> 20 == 1 else "hole")
            offset = stop

    def close(self) -> None:
        self.is_closed = True


def refused(message: str = "the medium says no") -> BlockError:
    """An error of the medium."""
    return BlockError(message)
