"""The file below an image: bytes at offsets, holes, flushes. Every format sits on a `File`; tests put others there.

A file may grow by writing and reads as zeros past its end, unlike a `BlockBackend`, whose size is the guest's.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Iterator
from typing import Final, Literal, Protocol

from manor.backends.block.api import BlockError, Buffers
from manor.backends.block.buffers import MAX_PIECES, Cursor, preadv, pwritev, total, zero_fill, zeros
from manor.backends.block.direct import DirectIo
from manor.backends.block.fallocate import KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE, fallocate
from manor.backends.block.lock import lock
from manor.base.errors import HostError
from manor.spec.block import CacheMode

MAX_CALL: Final = 1 << 30
"""Bytes for one call, below Linux's limit of 0x7ffff000."""

_ZERO_WRITE: Final = 64 << 20
"""Zeros written with one call where the file system knows no better."""

_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_CANNOT: Final = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV, errno.EPERM, errno.ENOTTY})


class File(Protocol):
    """What a format needs of its file. Any thread; calls on ranges that overlap have no defined order."""

    @property
    def name(self) -> str: ...

    @property
    def is_read_only(self) -> bool: ...

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode, the same for every name of the file."""

    def size(self) -> int:
        """Bytes in the file now."""

    def read(self, offset: int, buffers: Buffers) -> None:
        """Fill `buffers`; with zeros past the end. Raises BlockError."""

    def read_nowait(self, offset: int, buffers: Buffers) -> bool:
        """Fill `buffers` if that needs no waiting for a medium; False if it would."""

    def write(self, offset: int, buffers: Buffers) -> None:
        """Write all of `buffers`, growing the file. Raises BlockError."""

    def write_zeroes(self, offset: int, size: int, may_unmap: bool) -> None:
        """Make the range read as zeros. Grows the file if the range goes past its end."""

    def punch(self, offset: int, size: int) -> bool:
        """Give the range's space back; it then reads as zeros. False, and nothing happened, where that is
        impossible."""

    def allocate(self, offset: int, size: int) -> None:
        """Make sure that writing the range will find space; grows the file. Contents stay as they are."""

    def flush(self) -> None:
        """All writes that returned before are on the medium. Once it failed, it fails for ever."""

    def truncate(self, size: int) -> None:
        """Set the size. New bytes read as zeros."""

    def hold_size(self, size: int) -> None:
        """Nobody writes past `size`: I/O in blocks of the medium must not make the file longer either."""

    def extents(self, offset: int, size: int) -> Iterator[tuple[int, int, bool]]:
        """(offset, size, is_data) of the range, in order, without gaps; where unknown, all is data."""

    def close(self) -> None:
        """Flush if it was written, release locks and descriptors. Nothing happens the second time."""


def block_error(attempt: str, error: OSError) -> BlockError:
    """`error` of the host as what a device reports."""
    text = f"{attempt}: {error.strerror or error}"
    if error.errno in _NO_SPACE:
        return BlockError(text, "no-space")
    if error.errno == errno.EROFS:
        return BlockError(text, "read-only")
    return BlockError(text, "io")


class HostFile:
    """A regular file or block device of the host.

    A failed flush is final: Linux drops the pages that could not be written, and the next fdatasync returns success
    for data that is gone. So every later flush fails with the first one's reason.
    """

    def __init__(self, fd: int, name: str, *, read_only: bool, direct: bool = False) -> None:
        """Own `fd` from here on."""
        self._fd = fd
        self.name = name
        self.is_read_only = read_only
        status = os.fstat(fd)
        self.identity = (status.st_dev, status.st_ino)
        self.is_device = stat.S_ISBLK(status.st_mode)
        self._direct = DirectIo(fd, name) if direct else None
        self._lost: BlockError | None = None
        self._is_dirty = False
        self._nowait = not direct
        self._can_punch = True
        self._can_zero = True
        self._closing = threading.Lock()

    def fileno(self) -> int:
        return self._fd

    def size(self) -> int:
        if self.is_device:
            return os.lseek(self._fd, 0, os.SEEK_END)
        return os.fstat(self._fd).st_size

    def read(self, offset: int, buffers: Buffers) -> None:
        try:
            if self._direct is not None:
                self._direct.read(offset, buffers)
                return
            if preadv(self._fd, buffers, offset) == total(buffers):
                return
            self._read_rest(offset, buffers)
        except OSError as error:
            raise block_error(f"reading {self.name} at {offset:#x}", error) from error

    def _read_rest(self, offset: int, buffers: Buffers) -> None:
        """Read in as many calls as it takes; zeros past the end."""
        cursor = Cursor(buffers)
        left = total(buffers)
        while left:
            pieces = list(cursor.take(min(left, MAX_CALL)))
            left -= total(pieces)
            while pieces:
                part, rest = pieces[:MAX_PIECES], pieces[MAX_PIECES:]
                count = os.preadv(self._fd, part, offset)
                if count == 0:
                    zero_fill(pieces)
                    count = total(part)
                offset += count
                pieces = remaining(part, count) + rest

    def read_nowait(self, offset: int, buffers: Buffers) -> bool:
        if not self._nowait:
            return False
        try:
            return preadv(self._fd, buffers, offset, os.RWF_NOWAIT) == total(buffers)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in _CANNOT:
                return False  # the caller reads again, waits, and gets the error then
            self._nowait = False
            return False

    def write(self, offset: int, buffers: Buffers) -> None:
        self._before_change()
        try:
            if self._direct is not None:
                self._direct.write(offset, buffers)
                return
            count = pwritev(self._fd, buffers, offset)
            if count == total(buffers):
                return
            self._write_rest(offset + count, remaining(buffers, count))
        except OSError as error:
            raise block_error(f"writing {self.name} at {offset:#x}", error) from error

    def _write_rest(self, offset: int, pieces: list[memoryview]) -> None:
        while pieces:
            part, rest = pieces[:MAX_PIECES], pieces[MAX_PIECES:]
            count = os.pwritev(self._fd, part, offset)
            if count == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            offset += count
            pieces = remaining(part, count) + rest

    def _before_change(self) -> None:
        if self.is_read_only:
            raise BlockError(f"{self.name} is open for reading only", "read-only")
        self._is_dirty = True

    def write_zeroes(self, offset: int, size: int, may_unmap: bool) -> None:
        self._before_change()
        if may_unmap and offset + size <= self.size() and self.punch(offset, size):
            return
        if self._can_zero:
            try:
                fallocate(self._fd, ZERO_RANGE, offset, size)
                return
            except OSError as error:
                if error.errno not in _CANNOT:
                    raise block_error(f"zeroing {self.name} at {offset:#x}", error) from error
                self._can_zero = not _is_final(error, self.is_device)
        fill_with_zeros(self, offset, size)

    def punch(self, offset: int, size: int) -> bool:
        self._before_change()
        if not self._can_punch:
            return False
        try:
            fallocate(self._fd, PUNCH_HOLE | KEEP_SIZE, offset, size)
        except OSError as error:
            if error.errno not in _CANNOT:
                raise block_error(f"giving back space of {self.name} at {offset:#x}", error) from error
            self._can_punch = not _is_final(error, self.is_device)
            return False
        return True

    def allocate(self, offset: int, size: int) -> None:
        self._before_change()
        try:
            os.posix_fallocate(self._fd, offset, size)
        except OSError as error:
            raise block_error(f"allocating {size} bytes of {self.name}", error) from error

    def flush(self) -> None:
        if self._lost is not None:
            raise BlockError(f"{self._lost}; what was written before is lost, so no later flush can succeed")
        if self.is_read_only:
            return
        self._is_dirty = False  # before: what is written meanwhile is flushed another time
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            self._lost = block_error(f"flushing {self.name}", error)
            raise self._lost from error

    def truncate(self, size: int) -> None:
        if self.is_device:
            if size <= self.size():
                return
            raise BlockError(f"{self.name} is a device of {self.size()} bytes; it cannot grow to {size}", "no-space")
        self._before_change()
        try:
            os.ftruncate(self._fd, size)
        except OSError as error:
            raise block_error(f"resizing {self.name} to {size} bytes", error) from error

    def hold_size(self, size: int) -> None:
        if self._direct is not None and not self.is_device:
            self._direct.limit = size

    def extents(self, offset: int, size: int) -> Iterator[tuple[int, int, bool]]:
        end = offset + size
        while offset < end:
            start, is_data = self._next_data(offset, end)
            if start > offset:
                yield offset, start - offset, False
            if not is_data:
                return
            stop = self._next_hole(start, end)
            yield start, stop - start, True
            offset = stop

    def _next_data(self, offset: int, end: int) -> tuple[int, bool]:
        """Where data begins at or after `offset`, at most `end`; whether it does."""
        try:
            start = os.lseek(self._fd, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return end, False
            return offset, True
        return (start, True) if start < end else (end, False)

    def _next_hole(self, offset: int, end: int) -> int:
        try:
            return min(max(os.lseek(self._fd, offset, os.SEEK_HOLE), offset + 1), end)
        except OSError:
            return end

    def close(self) -> None:
        with self._closing:
            fd, self._fd = self._fd, -1
        if fd < 0:
            return
        try:
            if self._is_dirty and self._lost is None:
                os.fdatasync(fd)
        except OSError as error:
            raise block_error(f"flushing {self.name} before closing it", error) from error
        finally:
            os.close(fd)


def _is_final(error: OSError, is_device: bool) -> bool:
    """Whether trying again is useless. EINVAL of a device speaks of this range's alignment only."""
    return not (is_device and error.errno == errno.EINVAL)


def sync_folder(path: str) -> None:
    """Put the names in the folder of `path` on the medium: a file that was flushed is of no use without its name."""
    try:
        fd = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise HostError.from_os_error(f"flushing the folder of {path}", error) from error


def fill_with_zeros(file: File, offset: int, size: int) -> None:
    """Write zeros, byte for byte, so that the medium has a place for each."""
    for start in range(offset, offset + size, _ZERO_WRITE):
        file.write(start, zeros(min(_ZERO_WRITE, offset + size - start)))


def remaining(pieces: Buffers, done: int) -> list[memoryview]:
    """What is left of `pieces` after `done` bytes."""
    for index, piece in enumerate(pieces):
        if done < piece.nbytes:
            return [piece[done:] if done else piece, *pieces[index + 1 :]]
        done -= piece.nbytes
    return []


def open_file(
    path: str,
    *,
    read_only: bool,
    cache: CacheMode = "writeback",
    force_share: bool = False,
    create: Literal["no", "new", "replace"] = "no",
) -> HostFile:
    """Open and lock a file or block device of the host. Raises HostError, ImageInUse.

    create: "new" refuses a file that exists; "replace" empties one, once nobody else is seen to use it.
    """
    direct = cache == "direct"
    flags = (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC | os.O_NONBLOCK
    if direct:
        flags |= os.O_DIRECT
    if create != "no":
        flags |= os.O_CREAT | (os.O_EXCL if create == "new" else 0)
    try:
        fd = os.open(path, flags, 0o644)
    except OSError as error:
        if direct and error.errno == errno.EINVAL:
            raise HostError(
                f"{path}: its file system knows no direct I/O; use the cache mode writeback", error.errno, path
            ) from error
        purpose = "to read" if read_only else "for reading and writing"
        raise HostError.from_os_error(f"opening {path} {purpose}", error) from error
    try:
        mode = os.fstat(fd).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            raise HostError(f"{path} is neither a file nor a block device", file=path)
        os.set_blocking(fd, True)
        lock(fd, path, write=not read_only, force_share=force_share)
        if create == "replace" and stat.S_ISREG(mode):
            os.ftruncate(fd, 0)
        return HostFile(fd, path, read_only=read_only, direct=direct)
    except BaseException:
        os.close(fd)
        raise
