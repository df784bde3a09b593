"""Read guest-virtual memory for traces: no faults, no accessed bits, no statistics, permissions ignored.

Source: SDM volume 3, 4.3 (32-bit), 4.4 (PAE) and 4.5 (4-level paging).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

PAGE_SIZE: Final = 4096
MAX_STRING: Final = 256
"""A path in a trace is cut here: the guest chooses the length, the trace must stay readable."""
_CR0_PG: Final = 1 << 31
_CR4_PSE: Final = 1 << 4
_CR4_PAE: Final = 1 << 5
_EFER_LMA: Final = 1 << 10
_FRAME: Final = 0x000F_FFFF_FFFF_F000


class Memory(Protocol):
    """What is needed of guest memory."""

    def read(self, gpa: int, size: int) -> bytes: ...
    def contains(self, gpa: int, size: int) -> bool: ...


class Registers(Protocol):
    """What is needed of a vCPU: fields of the env by name (`accel.dbt.state.Fields`)."""

    def get(self, name: str, index: int = 0, code: str = "Q") -> int: ...


class Peek:
    """Reads through the page tables of one vCPU. Thread: that vCPU's, inside a callback."""

    def __init__(self, memory: Memory, registers: Registers) -> None:
        self._memory = memory
        self._registers = registers

    def string(self, gva: int) -> str | None:
        """The NUL-terminated text at `gva`, cut after MAX_STRING bytes; None if it is not in memory."""
        data = b""
        while len(data) < MAX_STRING:
            gpa = self.translate(gva + len(data))
            if gpa is None:
                return None
            size = min(PAGE_SIZE - gpa % PAGE_SIZE, MAX_STRING - len(data))
            if not self._memory.contains(gpa, size):
                return None
            piece, end, _ = self._memory.read(gpa, size).partition(b"\0")
            data += piece
            if end:
                return data.decode("utf-8", "replace")
        return data.decode("utf-8", "replace") + "..."

    def translate(self, gva: int) -> int | None:
        """The guest-physical address behind `gva`, None if no page is mapped there."""
        r = self._registers
        gva &= (1 << 64) - 1
        if not r.get("cr", 0) & _CR0_PG:
            return gva & 0xFFFFFFFF
        cr3, cr4 = r.get("cr", 3), r.get("cr", 4)
        if not cr4 & _CR4_PAE:
            return self._walk32(gva & 0xFFFFFFFF, cr3 & 0xFFFFF000, cr4)
        if r.get("efer") & _EFER_LMA:
            return self._walk(gva, cr3 & _FRAME, (39, 30, 21, 12))
        pointer = r.get("pdpte", gva >> 30 & 3)
        return self._walk(gva & 0xFFFFFFFF, pointer & _FRAME, (21, 12)) if pointer & 1 else None

    def _walk(self, gva: int, table: int, shifts: Sequence[int]) -> int | None:
        for shift in shifts:
            entry = self._entry(table + (gva >> shift & 0x1FF) * 8, 8)
            if not entry & 1:
                return None
            if shift == 12 or (entry & 0x80 and shift < 39):
                mask = (1 << shift) - 1
                return entry & _FRAME & ~mask | gva & mask
            table = entry & _FRAME
        return None

    def _walk32(self, gva: int, table: int, cr4: int) -> int | None:
        entry = self._entry(table + (gva >> 22) * 4, 4)
        if not entry & 1:
            return None
        if entry & 0x80 and cr4 & _CR4_PSE:
            # PSE-36: bits 13 to 20 are address bits 32 to 39.
            return entry & 0xFFC00000 | (entry >> 13 & 0xFF) << 32 | gva & 0x3FFFFF
        entry = self._entry((entry & 0xFFFFF000) + (gva >> 12 & 0x3FF) * 4, 4)
        return entry & 0xFFFFF000 | gva & 0xFFF if entry & 1 else None

    def _entry(self, gpa: int, size: int) -> int:
        """A table entry; 0, which maps nothing, where there is no memory."""
        return int.from_bytes(self._memory.read(gpa, size), "little") if self._memory.contains(gpa, size) else 0
