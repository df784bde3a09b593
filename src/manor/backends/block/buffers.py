"""Lists of buffers: total size, slices across pieces, zeros. No byte is copied that need not be."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from manor.backends.block.api import Buffers
from manor.mem.scatter_native import GuestBuffers

ZEROS: Final = memoryview(bytes(1 << 20))
"""A mebibyte of zeros, to copy or to write from."""


MAX_PIECES: Final = 1024
"""Pieces that one preadv or pwritev takes: UIO_MAXIOV, Linux include/uapi/linux/uio.h."""


def total(buffers: Buffers) -> int:
    """Bytes in all pieces."""
    if isinstance(buffers, GuestBuffers):
        return buffers.nbytes
    if len(buffers) == 1:
        return buffers[0].nbytes
    return sum(piece.nbytes for piece in buffers)


def preadv(fd: int, buffers: Buffers, offset: int, flags: int = 0) -> int:
    """Fill from a file; the bytes read, as many as one call took. Raises OSError."""
    if isinstance(buffers, GuestBuffers):
        return buffers.read_from(fd, offset, flags)
    return os.preadv(fd, buffers if len(buffers) <= MAX_PIECES else buffers[:MAX_PIECES], offset, flags)


def pwritev(fd: int, buffers: Buffers, offset: int) -> int:
    """Write to a file; the bytes written, as many as one call took. Raises OSError."""
    if isinstance(buffers, GuestBuffers):
        return buffers.write_to(fd, offset)
    return os.pwritev(fd, buffers if len(buffers) <= MAX_PIECES else buffers[:MAX_PIECES], offset)


def zero_fill(buffers: Buffers) -> None:
    """Make every byte zero."""
    for piece in buffers:
        size = piece.nbytes
        for start in range(0, size, len(ZEROS)):
            count = min(len(ZEROS), size - start)
            piece[start : start + count] = ZEROS[:count]


def zeros(size: int) -> list[memoryview]:
    """Pieces to write that hold `size` zeros; they share their memory."""
    pieces = [ZEROS] * (size // len(ZEROS))
    if size % len(ZEROS):
        pieces.append(ZEROS[: size % len(ZEROS)])
    return pieces


def is_zero(data: memoryview | bytes | bytearray) -> bool:
    """Whether `data` holds zeros only; by comparing with zeros in C, which stops at the first difference."""
    size = len(data)
    for start in range(0, size, len(ZEROS)):
        count = min(len(ZEROS), size - start)
        if data[start : start + count] != ZEROS[:count]:
            return False
    return True


class Cursor:
    """Takes a list of buffers apart from the front."""

    __slots__ = ("_index", "_pieces", "_start")

    def __init__(self, buffers: Buffers) -> None:
        self._pieces = buffers
        self._index = 0
        self._start = 0

    def take(self, size: int) -> Buffers:
        """The next `size` bytes, in place. There must be as many."""
        if isinstance(self._pieces, GuestBuffers):
            start = self._start
            self._start += size
            return self._pieces.part(start, size)
        taken: list[memoryview] = []
        while size:
            piece = self._pieces[self._index]
            room = piece.nbytes - self._start
            if room > size:
                taken.append(piece[self._start : self._start + size])
                self._start += size
                break
            if room:
                taken.append(piece[self._start :] if self._start else piece)
            size -= room
            self._index += 1
            self._start = 0
        return taken


def cut(buffers: Buffers, start: int, size: int) -> Buffers:
    """Bytes [start, start + size) of the pieces, in place."""
    cursor = Cursor(buffers)
    cursor.take(start)
    return cursor.take(size)


def join(buffers: Sequence[memoryview]) -> bytes:
    """A copy of all bytes, each read once."""
    return b"".join(buffers)
