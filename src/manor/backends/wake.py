"""Waking a thread that sleeps in epoll, at the least cost for who wakes it."""

from __future__ import annotations

import ctypes
from typing import Final

# WHY NATIVE: os.eventfd_write gives up the interpreter lock. The thread that was woken then gets it at once and keeps
# it for as long as its work takes, while the caller, a vCPU with the machine lock in its hand, waits to go on; and
# where that work needs the machine lock, both wait for each other in turn. This call keeps the interpreter lock until
# the caller gives it up by itself.
# SAFETY: eventfd_write(3) takes two integers and touches no memory; on a non-blocking eventfd it does not wait.
_eventfd_write: Final = ctypes.PyDLL(None).eventfd_write
_eventfd_write.argtypes = (ctypes.c_int, ctypes.c_uint64)
_eventfd_write.restype = ctypes.c_int


def wake(eventfd: int) -> None:
    """Make a non-blocking eventfd readable. Nothing happens if it is so already or is none. Thread: any."""
    _eventfd_write(eventfd, 1)
