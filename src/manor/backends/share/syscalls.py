"""System calls that Python has no function for. Raises OSError as `os` does."""

from __future__ import annotations

import ctypes
import os
from functools import cache


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def rename(old_fd: int, old: bytes, new_fd: int, new: bytes, flags: int) -> None:
    """renameat2(2)."""
    # WHY NATIVE: os.rename has no flags.
    # SAFETY: the strings are Python's, with their zero, and live through the call.
    _check(_libc().renameat2(old_fd, old, new_fd, new, ctypes.c_uint(flags)))


def allocate(fd: int, mode: int, offset: int, size: int) -> None:
    """fallocate(2)."""
    # WHY NATIVE: os.posix_fallocate has no modes (punching holes, zeroing).
    # SAFETY: numbers only.
    _check(_libc().fallocate(fd, mode, ctypes.c_longlong(offset), ctypes.c_longlong(size)))


def sync_file_system(fd: int) -> None:
    """syncfs(2)."""
    # WHY NATIVE: os.sync is for all file systems of the host.
    # SAFETY: numbers only.
    _check(_libc().syncfs(fd))
