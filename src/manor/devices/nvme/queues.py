"""Submission and completion queues in guest memory.

Source: NVMe 1.4, section 4.1 "Submission queue & completion queue definition", 4.2 "Submission queue entry", 4.6
"Completion queue entry".

Positions that the guest writes (doorbells) are checked when they come; an entry is copied before it is looked at.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

from manor.devices.nvme.regs import Status
from manor.mem.guest_memory import GuestMemory

COMMAND_SIZE: Final = 64
COMPLETION_SIZE: Final = 16
_COMMAND: Final = struct.Struct("<BBHI8xQQQ6I")
_COMPLETION: Final = struct.Struct("<IIHHI")


class Command(NamedTuple):
    """A submission queue entry. flags: fused operation and PRP or SGL. cdw10 to cdw15: by command."""

    opcode: int
    flags: int
    cid: int
    nsid: int
    metadata: int
    prp1: int
    prp2: int
    cdw10: int
    cdw11: int
    cdw12: int
    cdw13: int
    cdw14: int
    cdw15: int


class Outcome(NamedTuple):
    """How a command ended. result: dword 0 of its completion."""

    status: Status
    result: int = 0


@dataclass(frozen=True, slots=True)
class QueueState:
    """A queue at rest. partner: completion queue of a submission queue; vector of a completion queue, -1 for none."""

    number: int
    base: int
    size: int
    head: int
    tail: int
    phase: int
    partner: int


class CompletionQueue:
    """Completions for the driver.

    vector: of its interrupt, None without. reserved: commands whose completions will need room.
    """

    def __init__(self, memory: GuestMemory, number: int, base: int, size: int, vector: int | None) -> None:
        self.number = number
        self.base = base
        self.size = size
        self.vector = vector
        self.head = 0
        self.tail = 0
        self.phase = 1
        self.reserved = 0
        self._memory = memory

    @property
    def has_room(self) -> bool:
        """Whether one more command may be taken, so that its completion will find room."""
        used = (self.tail - self.head) % self.size
        return used + self.reserved < self.size - 1

    @property
    def is_empty(self) -> bool:
        """Whether the driver has seen everything."""
        return self.head == self.tail

    def set_head(self, head: int) -> bool:
        """The driver took entries up to `head`. False, and nothing happens, if there are none such."""
        if head >= self.size or (head - self.head) % self.size > (self.tail - self.head) % self.size:
            return False
        self.head = head
        return True

    def post(self, result: int, sq_head: int, sq: int, cid: int, status: int) -> None:
        """Add a completion. status: the status field without its phase bit."""
        gpa = self.base + COMPLETION_SIZE * self.tail
        last = cid | (status << 1 | self.phase) << 16
        # The phase bit tells the driver that the entry is complete, so it is written last, with a store of its own.
        self._memory.write(gpa, _COMPLETION.pack(result, 0, sq_head, sq, 0)[:12])
        self._memory.write_u32(gpa + 12, last)
        self.tail += 1
        if self.tail == self.size:
            self.tail = 0
            self.phase ^= 1

    def save(self) -> QueueState:
        vector = -1 if self.vector is None else self.vector
        return QueueState(self.number, self.base, self.size, self.head, self.tail, self.phase, vector)


class SubmissionQueue:
    """Commands of the driver. in_flight: command identifiers that are being worked on.

    deletion: the identifier of the command that deletes this queue and waits for the end of those.
    """

    def __init__(self, memory: GuestMemory, number: int, base: int, size: int, cq: CompletionQueue) -> None:
        self.number = number
        self.base = base
        self.size = size
        self.cq = cq
        self.head = 0
        self.tail = 0
        self.in_flight: set[int] = set()
        self.deletion: int | None = None
        self._memory = memory

    @property
    def is_empty(self) -> bool:
        return self.head == self.tail

    def set_tail(self, tail: int) -> bool:
        """The driver added entries up to `tail`. False, and nothing happens, if there is no such place."""
        if tail >= self.size:
            return False
        self.tail = tail
        return True

    def take(self) -> Command:
        """The next command; there must be one."""
        raw = self._memory.read(self.base + COMMAND_SIZE * self.head, COMMAND_SIZE)
        self.head = (self.head + 1) % self.size
        return Command._make(_COMMAND.unpack(raw))

    def save(self) -> QueueState:
        return QueueState(self.number, self.base, self.size, self.head, self.tail, 0, self.cq.number)
