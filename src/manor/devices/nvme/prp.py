"""Where the data of a command is: physical region pages.

Source: NVMe 1.4, section 4.3 "Physical Region Page Entry and List".
"""

from __future__ import annotations

import struct
from typing import Final

from manor.devices.nvme.regs import PAGE, Status
from manor.mem.guest_memory import GuestMemory

_ENTRY: Final = 8

Piece = tuple[int, int]
"""Guest-physical address and bytes."""


class BadPrp(Exception):
    """The driver's entries do not describe the data. Never leaves the device."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status


def pieces(memory: GuestMemory, prp1: int, prp2: int, size: int) -> list[Piece]:
    """The guest memory of `size` bytes, neighbours joined; all of it is RAM. Raises BadPrp.

    The work is bounded by `size`: every list but the first begins at a page and so has room for entries.
    """
    if prp1 & 3:
        raise BadPrp(Status.PRP_OFFSET_INVALID, f"data at {prp1:#x} is not aligned to 4 bytes")
    found: list[Piece] = []
    first = min(size, PAGE - prp1 % PAGE)
    ram_end = _add(memory, found, prp1, first)
    left = size - first
    if left == 0:
        return found
    if left <= PAGE:
        _add_page(memory, found, prp2, left)
        return found
    table = prp2
    if table % _ENTRY:
        raise BadPrp(Status.PRP_OFFSET_INVALID, f"list at {table:#x} is not aligned to {_ENTRY} bytes")
    while left > 0:
        slots = (PAGE - table % PAGE) // _ENTRY
        wanted = (left + PAGE - 1) // PAGE
        count = min(slots, wanted)
        _end_of_ram(memory, table, _ENTRY * count)
        entries = struct.unpack(f"<{count}Q", memory.read(table, _ENTRY * count))
        # The last entry of a page leads to the next list if that is needed.
        is_chained = wanted > slots
        for entry in entries[: slots - 1] if is_chained else entries:
            start, before = found[-1]
            size = PAGE if left > PAGE else left
            if entry == start + before and entry + size <= ram_end:
                found[-1] = (start, before + size)
            else:
                ram_end = _add_page(memory, found, entry, size)
            left -= size
        if is_chained:
            table = entries[-1]
            if table % PAGE:
                raise BadPrp(Status.PRP_OFFSET_INVALID, f"list at {table:#x} does not begin with a page")
    return found


def _add_page(memory: GuestMemory, found: list[Piece], gpa: int, size: int) -> int:
    """As `_add`, for what must begin with a page."""
    if gpa % PAGE:
        raise BadPrp(Status.PRP_OFFSET_INVALID, f"entry {gpa:#x} does not begin with a page")
    return _add(memory, found, gpa, size)


def _add(memory: GuestMemory, found: list[Piece], gpa: int, size: int) -> int:
    """Add a piece; returns the end of its RAM: up to there the next one may be joined to it."""
    end = _end_of_ram(memory, gpa, size)
    found.append((gpa, size))
    return end


def _end_of_ram(memory: GuestMemory, gpa: int, size: int) -> int:
    """The end of the region of RAM that all of the range lies in. Raises BadPrp if there is none."""
    region = memory.find_region(gpa, size)
    if region is None or region.kind != "ram":
        raise BadPrp(Status.DATA_TRANSFER_ERROR, f"{size} bytes at {gpa:#x} are not RAM")
    return region.end


def read(memory: GuestMemory, where: list[Piece]) -> bytes:
    """Copy what is there."""
    return b"".join(memory.read(gpa, size) for gpa, size in where)


def write(memory: GuestMemory, where: list[Piece], data: bytes) -> None:
    """Put `data` there, as much as there is room for."""
    done = 0
    for gpa, size in where:
        memory.write(gpa, data[done : done + size])
        done += size
