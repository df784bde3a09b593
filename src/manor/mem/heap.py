"""The process's own heap."""

from __future__ import annotations

import ctypes
import gc


def give_back() -> None:
    """Return what was freed to the host, where the C library can say so (glibc). Takes milliseconds. Thread: any.

    The allocator keeps freed memory below what is still in use; after a kernel was unpacked that is tens of MiB.
    """
    # WHY NATIVE: Python has no call for it. SAFETY: it takes no pointer and moves nothing that is in use.
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
