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
    _add(memory, found, prp1, first)
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
        _check_ram(memory, table, _ENTRY * min(slots, wanted))
        entries = struct.unpack(f"<{min(slots, wanted)}Q", memory.read(table, _ENTRY * min(slots, wanted)))
        # The last entry of a page leads to the next list if that is needed.
        is_chained = wanted > slots
        for entry in entries[: slots - 1] if is_chained else entries:
            _add_page(memory, found, entry, min(left, PAGE))
            left -= min(left, PAGE)
        if is_chained:
            table = entries[-1]
            if table % PAGE:
                raise BadPrp(Status.PRP_OFFSET_INVALID, f"list at {table:#x} does not begin with a page")
    return found


def _add_page(memory: GuestMemory, found: list[Piece], gpa: int, size: int) -> None:
    if gpa % PAGE:
        raise BadPrp(Status.PRP_OFFSET_INVALID, f"entry {gpa:#x} does not begin with a page")
    _add(memory, found, gpa, size)


def _add(memory: GuestMemory, found: list[Piece], gpa: int, size: int) -> None:
    _check_ram(memory, gpa, size)
    if found and found[-1][0] + found[-1][1] == gpa:
        start, before = found[-1]
        # Joined only within a region: a view lies in one.
        if memory.find_region(start, before + size) is not None:
            found[-1] = (start, before + size)
            return
    found.append((gpa, size))


def _check_ram(memory: GuestMemory, gpa: int, size: int) -> None:
    region = memory.find_region(gpa, size)
    if region is None or region.kind != "ram":
        raise BadPrp(Status.DATA_TRANSFER_ERROR, f"{size} bytes at {gpa:#x} are not RAM")


def read(memory: GuestMemory, where: list[Piece]) -> bytes:
    """Copy what is there."""
    return b"".join(memory.read(gpa, size) for gpa, size in where)


def write(memory: GuestMemory, where: list[Piece], data: bytes) -> None:
    """Put `data` there, as much as there is room for."""
    done = 0
    for gpa, size in where:
        memory.write(gpa, data[done : done + size])
        done += size
