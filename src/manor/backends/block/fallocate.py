"""fallocate(2) with its modes, which Python's `os` does not offer."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from typing import Final

# Modes: Linux, include/uapi/linux/falloc.h.
KEEP_SIZE: Final = 0x01
PUNCH_HOLE: Final = 0x02
ZERO_RANGE: Final = 0x10


@cache
def _function() -> ctypes._NamedFuncPointer:
    # WHY NATIVE: os.posix_fallocate knows no mode and falls back to writing.
    # SAFETY: integers only; errno is read on the calling thread.
    function = ctypes.CDLL(None, use_errno=True).fallocate
    function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong)
    function.restype = ctypes.c_int
    return function


def fallocate(fd: int, mode: int, offset: int, size: int) -> None:
    """Allocate, punch or zero [offset, offset + size). Raises OSError, EOPNOTSUPP where the file system cannot."""
    if _function()(fd, mode, offset, size) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
