"""I/O around the host's page cache: O_DIRECT wants offsets, sizes and memory aligned; what is not goes by a bounce
buffer."""

from __future__ import annotations

import errno
import mmap
import os
import threading
from typing import Final

from manor.backends.block.api import Buffers
from manor.backends.block.buffers import Cursor, total, zero_fill

_BOUNCE: Final = 1 << 20
"""Bytes copied at once."""

_PIECES: Final = 1024


class DirectIo:
    """Reads and writes of one O_DIRECT descriptor.

    A write that covers part of a block reads the rest first. Such writes exclude each other; a write of whole blocks
    that comes at the same time would overlap one only if the guest's own requests did.
    """

    def __init__(self, fd: int, name: str) -> None:
        self._fd = fd
        self.name = name
        self._partial = threading.Lock()
        self.limit: int | None = None
        """The size that the file keeps although its last block is written as a whole."""
        self.alignment = self._find_alignment()

    def _find_alignment(self) -> int:
        """The smallest size that the file takes, found by reading; 4096 where nothing can be read."""
        with mmap.mmap(-1, 4096) as page, memoryview(page) as whole:
            for size in (512, 1024, 2048, 4096):
                try:
                    with whole[:size] as piece:
                        os.preadv(self._fd, [piece], 0)
                except OSError as error:
                    if error.errno != errno.EINVAL:
                        raise
                    continue
                return size
        return 4096

    def _is_aligned(self, offset: int, buffers: Buffers) -> bool:
        bits = offset
        for piece in buffers:
            bits |= piece.nbytes
        return bits & (self.alignment - 1) == 0 and len(buffers) <= _PIECES

    def read(self, offset: int, buffers: Buffers) -> None:
        wanted = total(buffers)
        if self._is_aligned(offset, buffers):
            # Memory that is not aligned is known by the kernel's answer alone, which costs one system call.
            try:
                if os.preadv(self._fd, buffers, offset) == wanted:
                    return
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
        cursor = Cursor(buffers)
        end = offset + wanted
        with mmap.mmap(-1, min(_BOUNCE, self._round(wanted) + self.alignment)) as page, memoryview(page) as bounce:
            while offset < end:
                start = offset & -self.alignment
                size = min(self._round(end) - start, len(bounce))
                got = self._read_blocks(start, bounce[:size])
                position = offset - start
                count = min(size, end - start) - position
                for piece in cursor.take(count):
                    have = max(0, min(piece.nbytes, got - position))
                    piece[:have] = bounce[position : position + have]
                    zero_fill([piece[have:]])
                    position += piece.nbytes
                offset += count

    def _read_blocks(self, offset: int, target: memoryview) -> int:
        """Bytes read; fewer than asked at the end of the file only."""
        done = 0
        while done < len(target):
            count = os.preadv(self._fd, [target[done:]], offset + done)
            done += count
            if count == 0 or count % self.alignment:
                break
        return done

    def write(self, offset: int, buffers: Buffers) -> None:
        wanted = total(buffers)
        if self._is_aligned(offset, buffers):
            try:
                if os.pwritev(self._fd, buffers, offset) == wanted:
                    return
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
        cursor = Cursor(buffers)
        end = offset + wanted
        with (
            self._partial,
            mmap.mmap(-1, min(_BOUNCE, self._round(wanted) + self.alignment)) as page,
            memoryview(page) as bounce,
        ):
            while offset < end:
                start = offset & -self.alignment
                size = min(self._round(end) - start, len(bounce))
                count = min(size, end - start) - (offset - start)
                self._write_blocks(start, bounce[:size], offset - start, cursor.take(count))
                offset += count

    def _write_blocks(self, start: int, block: memoryview, position: int, pieces: Buffers) -> None:
        count = total(pieces)
        tail = position + count
        if position or tail % self.alignment:
            zero_fill([block])
            self._read_blocks(start, block)
        for piece in pieces:
            block[position : position + piece.nbytes] = piece
            position += piece.nbytes
        done = 0
        while done < len(block):
            written = os.pwritev(self._fd, [block[done:]], start + done)
            if written == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            done += written
        if self.limit is not None and start + len(block) > self.limit:
            os.ftruncate(self._fd, self.limit)

    def _round(self, size: int) -> int:
        return (size + self.alignment - 1) & -self.alignment
