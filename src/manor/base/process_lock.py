"""A file that says which process has something: a VM, a state directory. It is locked as long as that process lives.

The lock belongs to the open file description (fcntl(2), F_OFD_SETLK): it ends with the last descriptor, however the
process dies, and children and programs that inherit the descriptor have it too. Whoever only looks takes no lock, and
so never stands in the way of who wants it.
"""

from __future__ import annotations

import fcntl
import os
import struct
from typing import Final

FLOCK: Final = struct.Struct("@hhqqi4x")
"""struct flock of 64-bit Linux: type, whence, start, length, pid (0 for locks of open file descriptions)."""
_EVERYTHING: Final = 0
"""As length: to the end of the file, wherever that is."""
_MAX_PID: Final = 32
"""Bytes that a process's number may have."""


def open_lock(path: str | os.PathLike[str]) -> int:
    """A descriptor of the lock's file, which is made if it is missing. Raises OSError."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def try_lock(descriptor: int) -> bool:
    """Take the lock; False if another description has it. True as well if this one has it already. Raises OSError."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, _EVERYTHING, 0))
    except (BlockingIOError, PermissionError):  # EAGAIN or EACCES, fcntl(2)
        return False
    return True


def note_pid(descriptor: int) -> None:
    """Write this process's number into the file, for people and for `holder`."""
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)


def noted_pid(descriptor: int) -> int | None:
    """The number in the file; None if there is none."""
    text = os.pread(descriptor, _MAX_PID, 0).strip()
    return int(text) if text.isdigit() else None


def is_locked(descriptor: int, start: int = 0, length: int = _EVERYTHING) -> bool:
    """Whether another description has a lock on some of these bytes. Takes none. Raises OSError."""
    answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, length, 0))
    return bool(FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def holder(path: str | os.PathLike[str]) -> int | None:
    """The process that has the lock, 0 if its number is not known; None if nobody has it, or there is no such file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return noted_pid(descriptor) or 0 if is_locked(descriptor) else None
    finally:
        os.close(descriptor)
