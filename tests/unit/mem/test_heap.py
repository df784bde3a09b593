"""Freed memory goes back to the host."""

from __future__ import annotations

import ctypes

import pytest

from manor.mem import heap

PIECE = 64 << 10
"""Below what the allocator asks the kernel for one by one."""


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def test_gives_back_what_was_freed() -> None:
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "malloc_trim"):
        pytest.skip("this C library has no malloc_trim")
    libc.malloc.restype = ctypes.c_void_p
    libc.free.argtypes = [ctypes.c_void_p]
    pieces = [libc.malloc(PIECE) for _ in range(512)]
    for piece in pieces:
        ctypes.memset(piece, 1, PIECE)
    kept = libc.malloc(PIECE)  # above them: so the heap cannot simply end lower
    for piece in pieces:
        libc.free(piece)
    before = resident()
    heap.give_back()
    assert before - resident() > 16 << 20
    libc.free(kept)
