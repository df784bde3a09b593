"""The driver's side of NVMe, for tests: registers, queues in guest memory, commands.

Source: NVMe 1.4, sections 3.1, 4 and 7.6.1.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Protocol

from manor.mem.guest_memory import GuestMemory
from manor.testing.virtq_driver import Allocator

PAGE = 4096


class Registers(Protocol):
    """BAR 0 of a controller."""

    def read(self, offset: int, size: int) -> int: ...
    def write(self, offset: int, size: int, value: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Completion:
    """A completion queue entry. status: type in bits 8 to 10 and code; dnr: do not retry."""

    result: int
    sq_head: int
    sq: int
    cid: int
    status: int
    dnr: bool


class QueuePair:
    """A submission queue and a completion queue of the same number, as a driver uses them."""

    def __init__(self, memory: GuestMemory, bar: Registers, allocator: Allocator, number: int, size: int) -> None:
        self.memory = memory
        self.bar = bar
        self.number = number
        self.size = size
        self.sq_base = allocator.take(64 * size, PAGE)
        self.cq_base = allocator.take(16 * size, PAGE)
        memory.write(self.cq_base, bytes(16 * size))
        self.tail = 0
        self.head = 0
        self.phase = 1
        self.next_cid = 0

    def add(
        self, opcode: int, *, nsid: int = 1, prp1: int = 0, prp2: int = 0, dwords: tuple[int, ...] = (), flags: int = 0,
        cid: int | None = None,
    ) -> int:  # fmt: skip
        """Put a command into the queue; its identifier. dwords: from dword 10 on."""
        if cid is None:
            cid, self.next_cid = self.next_cid, (self.next_cid + 1) & 0xFFFF
        words = (*dwords, *[0] * (6 - len(dwords)))
        entry = struct.pack("<BBHI8xQQQ6I", opcode, flags, cid, nsid, 0, prp1, prp2, *words)
        self.memory.write(self.sq_base + 64 * self.tail, entry)
        self.tail = (self.tail + 1) % self.size
        return cid

    def ring(self) -> None:
        """Write the tail doorbell."""
        self.bar.write(0x1000 + 8 * self.number, 4, self.tail)

    def completions(self, ring: bool = True) -> list[Completion]:
        """Those that came since the last call. ring: tell the controller that they were seen."""
        found: list[Completion] = []
        while True:
            result, _, sq_head, sq, last = struct.unpack(
                "<IIHHI", self.memory.read(self.cq_base + 16 * self.head, 16)
            )
            if last >> 16 & 1 != self.phase:
                break
            status = last >> 17
            found.append(Completion(result, sq_head, sq, last & 0xFFFF, status & 0x7FF, bool(status & 1 << 14)))
            self.head += 1
            if self.head == self.size:
                self.head, self.phase = 0, self.phase ^ 1
        if found and ring:
            self.bar.write(0x1004 + 8 * self.number, 4, self.head)
        return found


class NvmeDriver:
    """A driver of one controller."""

    def __init__(self, memory: GuestMemory, bar: Registers, allocator: Allocator, admin_size: int = 16) -> None:
        self.memory = memory
        self.bar = bar
        self.allocator = allocator
        self.admin = QueuePair(memory, bar, allocator, 0, admin_size)

    @property
    def status(self) -> int:
        """CSTS."""
        return self.bar.read(0x1C, 4)

    def enable(self, cc: int = 1 | 6 << 16 | 4 << 20) -> None:
        """Set up the admin queues and CC.EN (7.6.1)."""
        size = self.admin.size - 1
        self.bar.write(0x24, 4, size << 16 | size)
        for offset, base in ((0x28, self.admin.sq_base), (0x30, self.admin.cq_base)):
            self.bar.write(offset, 4, base & 0xFFFF_FFFF)
            self.bar.write(offset + 4, 4, base >> 32)
        self.bar.write(0x14, 4, cc)

    def disable(self) -> None:
        self.bar.write(0x14, 4, 6 << 16 | 4 << 20)

    def execute(self, opcode: int, **fields: object) -> Completion:
        """An admin command that is completed at once. Raises RuntimeError if it is not."""
        cid = self.admin.add(opcode, **fields)  # type: ignore[arg-type]
        self.admin.ring()
        found = self.admin.completions()
        if [completion.cid for completion in found] != [cid]:
            raise RuntimeError(f"admin command {opcode:#x} was not completed: {found}")
        return found[0]

    def create_queues(self, number: int, size: int = 16, vector: int | None = None) -> QueuePair:
        """A queue pair. Raises RuntimeError if the controller refuses."""
        pair = QueuePair(self.memory, self.bar, self.allocator, number, size)
        interrupts = 2 | (number if vector is None else vector) << 16
        for opcode, base, last in ((5, pair.cq_base, interrupts), (1, pair.sq_base, number << 16)):
            done = self.execute(opcode, prp1=base, dwords=(number | size - 1 << 16, 1 | last))
            if done.status:
                raise RuntimeError(f"queue {number} refused with {done.status:#x}")
        return pair

    def read_data(self, opcode: int, size: int = 4096, **fields: object) -> tuple[Completion, bytes]:
        """An admin command that fills a page."""
        page = self.allocator.take(PAGE, PAGE)
        done = self.execute(opcode, prp1=page, **fields)
        return done, self.memory.read(page, size)
