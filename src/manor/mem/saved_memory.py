"""The contents of RAM in pieces, for a file: what was never touched and what is zero is left out.

Whether a page was ever touched the kernel knows (/proc/self/pagemap: bit 63 present, bit 62 swapped. Source: Linux,
Documentation/admin-guide/mm/pagemap.rst). So a guest of many gigabytes that uses few costs no more than it uses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from manor.base.address import PAGE_SIZE
from manor.base.errors import SavedStateError
from manor.mem.guest_memory import GuestMemory, Region

PIECE: Final = 1 << 20
"""Bytes of the largest piece."""
_ENTRY: Final = 8
_ENTRIES: Final = 1 << 16
"""Entries of the page map that are read at once."""
_TOUCHED: Final = re.compile(rb"[\x40-\xff]+")
"""Top bytes of entries of pages that are somewhere, in memory or swapped out."""
_ZERO_PAGE: Final = bytes(PAGE_SIZE)
_NAME: Final = "memory"


def touched(memory: GuestMemory) -> list[tuple[int, int]]:
    """(gpa, size) of the whole pages of RAM that may be anything but zero, ascending."""
    found: list[tuple[int, int]] = []
    for region in memory.regions:
        if region.kind == "ram":
            found += _touched(memory, region)
    return found


def _touched(memory: GuestMemory, region: Region) -> list[tuple[int, int]]:
    first = memory.host_address(region) // PAGE_SIZE
    count = region.size // PAGE_SIZE
    found: list[tuple[int, int]] = []
    try:
        with open("/proc/self/pagemap", "rb", buffering=0) as pages:
            pages.seek(first * _ENTRY)
            for start in range(0, count, _ENTRIES):
                wanted = min(_ENTRIES, count - start)
                entries = pages.read(wanted * _ENTRY)
                if len(entries) != wanted * _ENTRY:
                    return [(region.start, region.size)]
                for run in _TOUCHED.finditer(entries[_ENTRY - 1 :: _ENTRY]):
                    gpa = region.start + (start + run.start()) * PAGE_SIZE
                    found.append((gpa, (run.end() - run.start()) * PAGE_SIZE))
    except OSError:  # a host that does not tell
        return [(region.start, region.size)]
    return found


def pieces(memory: GuestMemory, ranges: list[tuple[int, int]]) -> Iterator[tuple[int, bytes, int]]:
    """(gpa, contents, bytes of `ranges` dealt with so far); only pieces that have something but zeros, ascending.

    Thread: one, while nobody writes guest memory.
    """
    done = 0
    for gpa, size in ranges:
        for offset in range(0, size, PIECE):
            data = memory.read(gpa + offset, min(PIECE, size - offset))
            done += len(data)
            for begin, end in _full_runs(data):
                yield gpa + offset + begin, data[begin:end], done


def _full_runs(data: bytes) -> list[tuple[int, int]]:
    """[begin, end) of the runs of pages that are not zero."""
    runs: list[tuple[int, int]] = []
    begin = -1
    for offset in range(0, len(data), PAGE_SIZE):
        is_full = data[offset : offset + PAGE_SIZE] != _ZERO_PAGE
        if is_full and begin < 0:
            begin = offset
        elif not is_full and begin >= 0:
            runs.append((begin, offset))
            begin = -1
    if begin >= 0:
        runs.append((begin, len(data)))
    return runs


def load_piece(memory: GuestMemory, gpa: int, data: bytes) -> None:
    """Put a piece back into memory that was all zero. Raises SavedStateError if there is no such RAM."""
    region = memory.find_region(gpa, len(data))
    if gpa % PAGE_SIZE or len(data) % PAGE_SIZE or not data or region is None or region.kind != "ram":
        raise SavedStateError(_NAME, f"{len(data)} bytes at {gpa:#x} are not in RAM")
    memory.load(gpa, data)
