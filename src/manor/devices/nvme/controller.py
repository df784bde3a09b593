"""An NVMe controller with one namespace: registers, doorbells, queues, and the commands that move data.

Source: NVM Express Base Specification 1.4, sections 3 "Controller registers", 4 "Data structures", 6 "NVM command set",
7.6 "Controller initialization and shutdown processing". Admin commands are in `admin`.

Commands are taken from a submission queue only while its completion queue has room for their completions, so nothing
waits for room. A controller reset, and the deletion of a submission queue, are over when none of their commands is in
flight any more: then nobody writes guest memory for them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import partial
from typing import Final

from manor.backends.block.api import BlockError
from manor.base.errors import SavedStateError, StateError
from manor.devices.block.disk import SECTOR, Disk, Kind, Request
from manor.devices.nvme import prp
from manor.devices.nvme.admin import AdminCommands, AdminState
from manor.devices.nvme.identify import MDTS, NAMESPACE, NSID_ALL
from manor.devices.nvme.queues import Command, CompletionQueue, Outcome, QueueState, SubmissionQueue
from manor.devices.nvme.regs import (
    ACQ,
    AQA,
    ASQ,
    CC,
    CSTS,
    DO_NOT_RETRY,
    DOORBELL_SIZE,
    DOORBELLS,
    MAX_QUEUE_SIZE,
    PAGE,
    TABLE,
    Nvm,
    Status,
)
from manor.devices.pci.bar import Bar, BarKind
from manor.devices.pci.config import FunctionState, Identity, PciFunction
from manor.devices.pci.msix import BAR_SIZE as MSIX_BAR_SIZE
from manor.devices.pci.msix import Msix
from manor.mem.guest_memory import GuestMemory
from manor.regs.block import RegisterBlock
from manor.trace.event import declare, guest_error

VENDOR_ID: Final = 0x1AF4
DEVICE_ID: Final = 0x10F0
"""Drivers find the device by its class. The vendor ID is the one of virtio devices, the device ID one that it uses for
none of them."""
CLASS_CODE: Final = 0x01_08_02
"""Mass storage, non-volatile memory, NVM Express. Source: NVMe 1.4, 2.1.5."""
REGISTER_BAR: Final = 0
REGISTER_BAR_SIZE: Final = 0x2000
MSIX_BAR: Final = 4
MAX_QUEUES: Final = 16
"""I/O queue pairs."""
MAX_TRANSFER: Final = PAGE << MDTS

_RANGE: Final = struct.Struct("<IIQ")
_FORCE_UNIT_ACCESS: Final = 1 << 30
_DEALLOCATE: Final = 1 << 25
_SHIFT_SQES, _SHIFT_CQES = 6, 4

nvme_command = declare("nvme_command", device=str, queue=int, opcode=int, cid=int, cdw10=int, cdw12=int)
nvme_completion = declare("nvme_completion", device=str, queue=int, cid=int, status=int, result=int)
nvme_state = declare("nvme_state", device=str, cc=int, csts=int)


@dataclass(frozen=True, slots=True)
class NvmeState:
    """A controller at rest."""

    function: FunctionState
    registers: dict[str, int | str]
    interrupt_mask: int
    capacity: int
    completion_queues: tuple[QueueState, ...]
    submission_queues: tuple[QueueState, ...]
    admin: AdminState


class NvmeController(PciFunction):
    """PCI function of a disk. Target of BAR 0. queues: I/O queue pairs that it offers, 1 to MAX_QUEUES."""

    def __init__(self, name: str, memory: GuestMemory, disk: Disk, queues: int = 1) -> None:
        if not 1 <= queues <= MAX_QUEUES:
            raise ValueError(f"{name}: {queues} queues, at most {MAX_QUEUES}")
        self.disk = disk
        self.queue_limit = queues
        self._memory = memory
        msix = Msix(f"{name} msix", queues + 1, MSIX_BAR, self.update_intx)
        super().__init__(
            name,
            Identity(VENDOR_ID, DEVICE_ID, CLASS_CODE, 1, VENDOR_ID, DEVICE_ID),
            bars=(
                Bar(REGISTER_BAR, BarKind.MEMORY64, REGISTER_BAR_SIZE, self, f"{name} nvme"),
                Bar(MSIX_BAR, BarKind.MEMORY32, MSIX_BAR_SIZE, msix, f"{name} msix"),
            ),
            msix=msix,
            interrupt_pin=1,
        )
        self.vectors = msix
        self.registers_block = RegisterBlock(TABLE, self, name)
        self.submission: dict[int, SubmissionQueue] = {}
        self.completion: dict[int, CompletionQueue] = {}
        self.admin = AdminCommands(self, memory)
        self._interrupt_mask = 0
        self._is_resetting = False
        disk.on_resize = self.admin.namespace_changed

    def report(self, message: str) -> None:
        """Trace a mistake of the guest."""
        if guest_error.on:
            guest_error(self.name, message)

    # -- BAR 0 --

    def read(self, offset: int, size: int) -> int:
        if offset < DOORBELLS:
            return self.registers_block.read(offset, size)
        self.report(f"read of the doorbell at {offset:#x}")
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        if offset < DOORBELLS:
            self.registers_block.write(offset, size, value)
        elif size != DOORBELL_SIZE or offset % DOORBELL_SIZE:
            self.report(f"write of {size} bytes at {offset:#x}, among the doorbells")
        else:
            index = (offset - DOORBELLS) // DOORBELL_SIZE
            self._ring(index >> 1, bool(index & 1), value & 0xFFFF)

    def _ring(self, number: int, is_completion: bool, value: int) -> None:
        """A doorbell: the tail of submission queue `number`, or the head of that completion queue (3.1.16, 3.1.17)."""
        if not self._is_ready:
            self.report(f"doorbell of queue {number} while the controller is not ready")
            return
        if is_completion:
            cq = self.completion.get(number)
            if cq is None or not cq.set_head(value):
                self._bad_doorbell(f"completion queue {number}, head {value}", cq is not None)
                return
            self._update_pin()
            # Room for more completions: commands may have waited for it.
            for sq in list(self.submission.values()):
                if sq.cq is cq and not sq.is_empty:
                    self._serve(sq)
            if number == 0:
                self.admin.send_events()
        else:
            sq_found = self.submission.get(number)
            if sq_found is None or not sq_found.set_tail(value):
                self._bad_doorbell(f"submission queue {number}, tail {value}", sq_found is not None)
                return
            self._serve(sq_found)

    def _bad_doorbell(self, what: str, exists: bool) -> None:
        self.report(f"doorbell: {what}")
        self.admin.doorbell_error(exists)

    # -- state --

    @property
    def _is_ready(self) -> bool:
        return bool(self.registers_block.get(CSTS, "rdy")) and not self._is_resetting

    def on_write_cc(self, value: int) -> None:
        enable = CC.field("en").get(value)
        ready = self.registers_block.get(CSTS, "rdy")
        if enable and not ready and not self._is_resetting:
            self._enable()
        elif not enable and (ready or self.registers_block.get(CSTS, "cfs")):
            self._begin_reset()
        if CC.field("shn").get(value) and self.registers_block.get(CSTS, "shst") == 0:
            self._shut_down()
        if nvme_state.on:
            nvme_state(self.name, value, self.registers_block[CSTS])

    def _enable(self) -> None:
        """7.6.1: look at what the driver set up, and be ready or fatally not."""
        registers = self.registers_block
        problem = ""
        if registers.get(CC, "css") or registers.get(CC, "mps") or registers.get(CC, "ams"):
            problem = f"CC {registers[CC]:#x} chooses what CAP does not offer"
        sizes = registers.get(AQA, "asqs") + 1, registers.get(AQA, "acqs") + 1
        for name, base, size in (
            ("submission", registers[ASQ], 64 * sizes[0]),
            ("completion", registers[ACQ], 16 * sizes[1]),
        ):
            if not problem and not self.is_ram(base, size):
                problem = f"the admin {name} queue, {size} bytes at {base:#x}, is not in RAM"
        if not problem and (sizes[0] < 2 or sizes[1] < 2):
            problem = f"admin queues of {sizes[0]} and {sizes[1]} entries"
        if problem:
            self.report(problem)
            registers.put(CSTS, "cfs", 1)
            return
        cq = CompletionQueue(self._memory, 0, registers[ACQ], sizes[1], 0)
        self.completion[0] = cq
        self.submission[0] = SubmissionQueue(self._memory, 0, registers[ASQ], sizes[0], cq)
        registers.put(CSTS, "rdy", 1)

    def _begin_reset(self) -> None:
        """CC.EN was cleared (7.3.2): CSTS.RDY follows when guest memory is left alone."""
        self._is_resetting = True
        self._try_reset()

    def _try_reset(self) -> None:
        if any(sq.number and sq.in_flight for sq in self.submission.values()) or self.disk.in_flight:
            return
        self._is_resetting = False
        self._clear_queues()
        for name in ("rdy", "cfs", "shst"):
            self.registers_block.put(CSTS, name, 0)
        if self.registers_block.get(CC, "en"):
            self._enable()

    def _clear_queues(self) -> None:
        self.submission.clear()
        self.completion.clear()
        self.admin.reset()
        self._interrupt_mask = 0
        self.set_intx(False)

    def _shut_down(self) -> None:
        """7.6.2: everything is on the medium before the driver reads that the shutdown is complete."""
        self.registers_block.put(CSTS, "shst", 1)
        self.disk.start([Request(Kind.FLUSH, (), (), self._is_shut_down)], self._settle)

    def _is_shut_down(self, error: BlockError | None) -> None:
        if error is None:
            self.registers_block.put(CSTS, "shst", 2)
        else:
            # The driver waits for a time and goes on; what it must not see is success.
            self.registers_block.put(CSTS, "cfs", 1)

    def _settle(self) -> None:
        if self._is_resetting:
            self._try_reset()

    # -- interrupts --

    def interrupt(self, cq: CompletionQueue) -> None:
        """The driver of `cq` has something to see."""
        if cq.vector is not None and self.vectors.is_enabled:
            self.vectors.notify(cq.vector)
        else:
            self._update_pin()

    def _update_pin(self) -> None:
        """The pin is asserted while a completion queue that interrupts has entries that the driver did not see."""
        if not self.vectors.is_enabled:
            waits = any(
                not cq.is_empty and cq.vector is not None and not self._interrupt_mask >> cq.vector & 1
                for cq in self.completion.values()
            )
            self.set_intx(waits)

    def on_read_intms(self) -> int:
        return self._interrupt_mask

    def on_write_intms(self, value: int) -> None:
        self._interrupt_mask |= value
        self._update_pin()

    def on_read_intmc(self) -> int:
        return self._interrupt_mask

    def on_write_intmc(self, value: int) -> None:
        self._interrupt_mask &= ~value
        self._update_pin()

    def on_read_nssr(self) -> int:
        return 0

    def on_write_nssr(self, value: int) -> None:
        self.report(f"subsystem reset ({value:#x}), which is not offered")

    # -- commands --

    def is_ram(self, gpa: int, size: int) -> bool:
        """Whether a queue can be there: a page's begin, and all of it RAM."""
        region = self._memory.find_region(gpa, size)
        return gpa % PAGE == 0 and region is not None and region.kind == "ram"

    @property
    def has_entry_sizes(self) -> bool:
        """Whether CC has the sizes of queue entries that there are."""
        registers = self.registers_block
        return registers.get(CC, "iosqes") == _SHIFT_SQES and registers.get(CC, "iocqes") == _SHIFT_CQES

    def _serve(self, sq: SubmissionQueue) -> None:
        """Take what the driver added, as much as there is room to complete."""
        requests: list[Request] = []
        cq = sq.cq
        has_answers = False
        for _ in range(sq.size):
            if sq.is_empty or not cq.has_room or sq.deletion is not None:
                break
            command = sq.take()
            if nvme_command.on:
                nvme_command(self.name, sq.number, command.opcode, command.cid, command.cdw10, command.cdw12)
            if command.cid in sq.in_flight:
                outcome: Outcome | Request | None = self._refuse(Status.COMMAND_ID_CONFLICT, f"CID {command.cid} twice")
            elif command.flags:
                outcome = self._refuse(Status.INVALID_FIELD, f"flags {command.flags:#x}: fused, or without PRPs")
            elif sq.number == 0:
                outcome = self.admin.execute(sq, command)
            else:
                outcome = self._execute(sq, command)
            if isinstance(outcome, Outcome):
                self.complete(sq, command.cid, outcome)
                has_answers = True
            elif outcome is not None:
                sq.in_flight.add(command.cid)
                cq.reserved += 1
                requests.append(outcome)
        if has_answers:
            self.interrupt(cq)
        self.disk.start(requests, partial(self._after, sq))

    def complete(self, sq: SubmissionQueue, cid: int, outcome: Outcome) -> None:
        """Post a completion; its queue has room. The interrupt is the caller's."""
        status = int(outcome.status)
        if status and outcome.status not in (Status.INTERNAL_ERROR, Status.WRITE_FAULT, Status.UNRECOVERED_READ_ERROR):
            status |= DO_NOT_RETRY
        if nvme_completion.on:
            nvme_completion(self.name, sq.number, cid, status, outcome.result)
        sq.cq.post(outcome.result, sq.head, sq.number, cid, status)

    def _after(self, sq: SubmissionQueue) -> None:
        """Some commands of `sq` ended together."""
        if self._is_resetting:
            self._try_reset()
            return
        if self.submission.get(sq.number) is not sq:
            return  # forgotten by a reset that ended with these commands
        self.interrupt(sq.cq)
        if sq.deletion is not None and not sq.in_flight:
            self.admin.deleted(sq)
        elif not sq.is_empty:
            self._serve(sq)

    def _refuse(self, status: Status, message: str) -> Outcome:
        self.report(message)
        return Outcome(status)

    def _execute(self, sq: SubmissionQueue, command: Command) -> Outcome | Request:
        """A command of the NVM command set (6)."""
        if command.nsid != NAMESPACE and not (command.opcode == Nvm.FLUSH and command.nsid == NSID_ALL):
            return self._refuse(Status.INVALID_NAMESPACE, f"namespace {command.nsid:#x}")
        try:
            if command.opcode in (Nvm.READ, Nvm.WRITE):
                return self._copy(sq, command)
            if command.opcode == Nvm.FLUSH:
                return Request(Kind.FLUSH, (), (), partial(self._done, sq, command, ()))
            if command.opcode == Nvm.WRITE_ZEROES and not self.disk.is_read_only:
                return self._write_zeroes(sq, command)
            if command.opcode == Nvm.DATASET_MANAGEMENT and self.disk.may_discard:
                return self._manage_dataset(sq, command)
        except prp.BadPrp as bad:
            return self._refuse(bad.status, f"command {command.opcode:#x}: {bad}")
        return self._refuse(Status.INVALID_OPCODE, f"opcode {command.opcode:#x}")

    def _range(self, command: Command) -> tuple[int, int]:
        """Offset and size in bytes."""
        sector = command.cdw10 | command.cdw11 << 32
        return SECTOR * sector, SECTOR * ((command.cdw12 & 0xFFFF) + 1)

    def _is_durable(self, command: Command) -> bool:
        return bool(command.cdw12 & _FORCE_UNIT_ACCESS) or not self.admin.has_write_cache

    def _copy(self, sq: SubmissionQueue, command: Command) -> Outcome | Request:
        """Read or write (6.9, 6.15)."""
        is_write = command.opcode == Nvm.WRITE
        offset, size = self._range(command)
        if size > MAX_TRANSFER:
            return self._refuse(Status.INVALID_FIELD, f"transfer of {size} bytes")
        if not self.disk.covers(offset, size):
            return self._refuse(Status.LBA_OUT_OF_RANGE, f"{size} bytes at {offset:#x} of {self.disk.size:#x}")
        if is_write and self.disk.is_read_only:
            return self._refuse(Status.WRITE_PROTECTED, "write to a read-only disk")
        where = prp.pieces(self._memory, command.prp1, command.prp2, size)
        buffers = self._memory.buffers_of(where, 0, size)
        if is_write:
            done = partial(self._done, sq, command, ())
            return Request(Kind.WRITE, ((offset, size),), buffers, done, self._is_durable(command))
        return Request(Kind.READ, ((offset, size),), buffers, partial(self._done, sq, command, where))

    def _write_zeroes(self, sq: SubmissionQueue, command: Command) -> Outcome | Request:
        """6.17; DEAC: the space may be given back."""
        offset, size = self._range(command)
        if not self.disk.covers(offset, size):
            return self._refuse(Status.LBA_OUT_OF_RANGE, f"{size} bytes at {offset:#x} of {self.disk.size:#x}")
        may_unmap = bool(command.cdw12 & _DEALLOCATE) and self.disk.may_discard
        kind = Kind.ZERO_UNMAP if may_unmap else Kind.ZERO
        done = partial(self._done, sq, command, ())
        return Request(kind, ((offset, size),), (), done, self._is_durable(command))

    def _manage_dataset(self, sq: SubmissionQueue, command: Command) -> Outcome | Request:
        """6.7: deallocate; the other attributes are hints."""
        count = (command.cdw10 & 0xFF) + 1
        size = _RANGE.size * count
        data = prp.read(self._memory, prp.pieces(self._memory, command.prp1, command.prp2, size))
        if not command.cdw11 & 1 << 2:
            return Outcome(Status.SUCCESS)
        ranges: list[tuple[int, int]] = []
        for _, sectors, sector in _RANGE.iter_unpack(data):
            if not self.disk.covers(SECTOR * sector, SECTOR * sectors):
                return self._refuse(Status.LBA_OUT_OF_RANGE, f"deallocation of {sectors} sectors at {sector}")
            if sectors:
                ranges.append((SECTOR * sector, SECTOR * sectors))
        return Request(Kind.DISCARD, ranges, (), partial(self._done, sq, command, ()))

    def _done(
        self, sq: SubmissionQueue, command: Command, filled: tuple[prp.Piece, ...] | list[prp.Piece],
        error: BlockError | None,
    ) -> None:  # fmt: skip
        """A request ended. filled: guest memory that it wrote."""
        self._memory.written_all(filled)
        sq.in_flight.discard(command.cid)
        sq.cq.reserved -= 1
        if not self._is_resetting:
            self.complete(sq, command.cid, Outcome(_status_of(command, error)))

    # -- lifecycle --

    def reset(self) -> None:
        super().reset()
        self.registers_block.reset()
        self._is_resetting = False
        self._clear_queues()

    def save(self) -> NvmeState:
        """Raises StateError while commands are in flight."""
        if self.disk.in_flight:
            raise StateError(f"save {self.name}", f"{self.disk.in_flight} commands in flight")
        return NvmeState(
            function=self.save_function(),
            registers=self.registers_block.save(),
            interrupt_mask=self._interrupt_mask,
            capacity=self.disk.size,
            completion_queues=tuple(cq.save() for cq in self.completion.values()),
            submission_queues=tuple(sq.save() for sq in self.submission.values()),
            admin=self.admin.save(),
        )

    def load(self, state: object) -> None:
        if not isinstance(state, NvmeState):
            raise SavedStateError(self.name, "not an NVMe controller")
        function = self.check_function(state.function)
        self.registers_block.check(state.registers)
        if state.capacity != self.disk.size:
            raise SavedStateError(self.name, f"a disk of {state.capacity} bytes, this one has {self.disk.size}")
        if type(state.interrupt_mask) is not int or not 0 <= state.interrupt_mask < 1 << 32:
            raise SavedStateError(self.name, f"interrupt mask {state.interrupt_mask!r}")
        self.admin.check(state.admin)
        completion, submission = self._check_queues(state)
        self.registers_block.load(state.registers)
        self._interrupt_mask = state.interrupt_mask
        self._is_resetting = False
        self.completion, self.submission = completion, submission
        self.admin.load(state.admin)
        self.load_function(function)

    def _check_queues(self, state: NvmeState) -> tuple[dict[int, CompletionQueue], dict[int, SubmissionQueue]]:
        """The queues of a saved state. Raises SavedStateError if there cannot be such."""
        completion: dict[int, CompletionQueue] = {}
        submission: dict[int, SubmissionQueue] = {}
        for saved in state.completion_queues:
            self._check_queue(saved, 16)
            if not -1 <= saved.partner < self.vectors.vectors:
                raise SavedStateError(self.name, f"queue {saved.number} with vector {saved.partner}")
            vector = None if saved.partner < 0 else saved.partner
            cq = CompletionQueue(self._memory, saved.number, saved.base, saved.size, vector)
            cq.head, cq.tail, cq.phase = saved.head, saved.tail, saved.phase
            completion[saved.number] = cq
        for saved in state.submission_queues:
            self._check_queue(saved, 64)
            if saved.partner not in completion:
                raise SavedStateError(self.name, f"queue {saved.number} without its completion queue")
            sq = SubmissionQueue(self._memory, saved.number, saved.base, saved.size, completion[saved.partner])
            sq.head, sq.tail = saved.head, saved.tail
            submission[saved.number] = sq
        if (0 in submission) != bool(TABLE.by_name["csts"].field("rdy").get(int(state.registers["csts"]))):
            raise SavedStateError(self.name, "admin queues do not fit the status")
        return completion, submission

    def _check_queue(self, saved: QueueState, entry: int) -> None:
        numbers = (saved.number, saved.base, saved.size, saved.head, saved.tail, saved.phase, saved.partner)
        if any(type(number) is not int for number in numbers):
            raise SavedStateError(self.name, "a queue that is not made of integers")
        largest = MAX_QUEUE_SIZE if saved.number else PAGE
        if (
            not 0 <= saved.number <= self.queue_limit
            or not 2 <= saved.size <= largest
            or not (0 <= saved.head < saved.size and 0 <= saved.tail < saved.size and saved.phase in (0, 1))
            or not self.is_ram(saved.base, entry * saved.size)
        ):
            raise SavedStateError(self.name, f"queue {saved.number} cannot be {saved}")


def _status_of(command: Command, error: BlockError | None) -> Status:
    if error is None:
        return Status.SUCCESS
    if error.reason == "no-space":
        return Status.CAPACITY_EXCEEDED
    if error.reason == "read-only":
        return Status.WRITE_PROTECTED
    return Status.UNRECOVERED_READ_ERROR if command.opcode == Nvm.READ else Status.WRITE_FAULT
