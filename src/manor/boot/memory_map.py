"""The memory map that a guest gets instead of asking a BIOS: which addresses are RAM, which are taken.

Source: ACPI 6.5, 15.1 "INT 15H, E820H - Query System Address Map", table 15.3 "Address Range Types".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from manor.mem.guest_memory import GuestMemory
from manor.mem.layout import EBDA, ECAM, ECAM_SIZE, ROM_AREA_END

RAM: Final = 1
RESERVED: Final = 2


@dataclass(frozen=True, slots=True)
class MapEntry:
    """[start, start + size), type as in E820 (and in PVH, which took the numbers over)."""

    start: int
    size: int
    type: int

    @property
    def end(self) -> int:
        return self.start + self.size


PC_RESERVED: Final = (
    # BIOS data, video and ROM area; holds the ACPI tables.
    (int(EBDA), ROM_AREA_END - EBDA),
    # Linux uses memory-mapped configuration space only if the map says it is taken.
    (int(ECAM), ECAM_SIZE),
)
"""(start, size) of what is never RAM for the guest's allocator on the `pc` machine."""


def memory_map(memory: GuestMemory, reserved: Sequence[tuple[int, int]] = PC_RESERVED) -> list[MapEntry]:
    """RAM of `memory` without the `reserved` ranges, and these, in ascending order."""
    entries = [MapEntry(start, size, RESERVED) for start, size in reserved]
    holes = sorted((start, start + size) for start, size in reserved)
    for region in memory.regions:
        if region.kind != "ram":
            entries.append(MapEntry(int(region.start), region.size, RESERVED))
            continue
        position = int(region.start)
        for start, end in holes:
            if end <= position or start >= region.end:
                continue
            if start > position:
                entries.append(MapEntry(position, start - position, RAM))
            position = end
        if position < region.end:
            entries.append(MapEntry(position, region.end - position, RAM))
    return sorted(entries, key=lambda entry: entry.start)
