"""NVMe: every command, every malformed one, queues, resets, events."""

from __future__ import annotations

import struct
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manor.backends.block.api import BlockError
from manor.base.address import Gpa
from manor.base.errors import SavedStateError, StateError
from manor.devices.block.disk import Disk
from manor.devices.nvme import prp
from manor.devices.nvme.controller import MAX_TRANSFER, NvmeController
from manor.devices.nvme.regs import Admin, FeatureId, Nvm, Status
from manor.mem.guest_memory import GuestMemory, Region
from manor.testing.fakes import FakeIrq, FakeMsi, FakeWork
from manor.testing.memory_disk import MemoryDisk, refused
from manor.testing.nvme_driver import Completion, NvmeDriver, QueuePair
from manor.testing.virtq_driver import Allocator
from manor.trace.event import declared
from manor.trace.sink import RingSink, disable, enable

RAM = 8 << 20
SECTORS = 512
RDY, CFS, SHST_DONE = 1, 2, 2 << 2


class Router:
    def map_bar(self, bar: object, address: int) -> bool:
        return True

    def unmap_bar(self, bar: object, address: int) -> None: ...


class Guest:
    """A controller and its driver, ready for I/O unless told otherwise."""

    def __init__(
        self,
        *,
        queues: int = 2,
        read_only: bool = False,
        discard: bool = True,
        is_vcpu: bool = True,
        is_enabled: bool = True,
        use_msix: bool = True,
        queue_size: int = 16,
    ) -> None:
        self.memory = GuestMemory([Region(Gpa(0), RAM), Region(Gpa(RAM), 0x1000, "rom")])
        self.backend = MemoryDisk(512 * SECTORS, read_only)
        self.work = FakeWork(is_vcpu)
        self.lock = threading.RLock()
        self.disk = Disk("disk0", self.backend, self.lock, self.work, "S1", discard)
        self.device = NvmeController("disk0", self.memory, self.disk, queues)
        self.irq, self.msi = FakeIrq(), FakeMsi()
        self.device.attach(Router(), self.irq.line(), self.msi)
        self.device.reset()
        self.allocator = Allocator(0x1000, RAM)
        self.driver = NvmeDriver(self.memory, self.device, self.allocator)
        if use_msix:
            msix = self.device.vectors
            msix.write_capability(2, 2, 0x8000)
            for vector in range(msix.vectors):
                for part, value in enumerate((0xFEE0_0000, 0, vector, 0)):
                    msix.write(16 * vector + 4 * part, 4, value)
        if is_enabled:
            self.driver.enable()
            assert self.driver.status == RDY
            self.io = self.driver.create_queues(1, queue_size)
            self.msi.messages.clear()

    def settle(self) -> None:
        self.work.run()

    def run(self, opcode: int, **fields: object) -> Completion:
        """One I/O command."""
        cid = self.io.add(opcode, **fields)  # type: ignore[arg-type]
        self.io.ring()
        self.settle()
        (done,) = self.io.completions()
        assert done.cid == cid
        return done

    def data(self, size: int, offset: int = 0) -> tuple[int, int]:
        """(prp1, prp2) of a buffer of `size` bytes whose pages are not neighbours. offset: in the first."""
        count = (offset + size + 4095) // 4096
        pages = [self.allocator.take(8192, 4096) for _ in range(count)]
        prp1 = pages[0] + offset
        if count == 1:
            return prp1, 0
        if count == 2:
            return prp1, pages[1]
        table = self.allocator.take(8 * count, 4096)
        self.memory.write(table, struct.pack(f"<{count - 1}Q", *pages[1:]))
        return prp1, table

    def copy(self, opcode: int, sector: int, count: int, data: bytes = b"", offset: int = 0, more: int = 0) -> bytes:
        """Read or write; the data read."""
        prp1, prp2 = self.data(512 * count, offset)
        where = prp.pieces(self.memory, prp1, prp2, 512 * count)
        if data:
            prp.write(self.memory, where, data)
        dwords = (sector & 0xFFFF_FFFF, sector >> 32, count - 1 | more)
        assert self.run(opcode, prp1=prp1, prp2=prp2, dwords=dwords).status == 0
        return prp.read(self.memory, where)


# --- bring-up ----------------------------------------------------------------------------------------------------


def test_registers() -> None:
    guest = Guest(is_enabled=False)
    cap = guest.device.read(0, 8)
    assert (cap & 0xFFFF, cap >> 16 & 1, cap >> 32 & 0xF, cap >> 37 & 1) == (1023, 1, 0, 1)
    assert guest.device.read(0, 4) | guest.device.read(4, 4) << 32 == cap
    assert guest.device.read(8, 4) == 0x10400
    assert guest.device.read(0x1C, 4) == 0
    guest.device.write(0x20, 4, 0x4E56_4D65)
    assert guest.device.read(0x20, 4) == 0
    assert guest.device.read(0x1000, 4) == 0


def test_controller_gets_ready_and_is_reset() -> None:
    guest = Guest()
    assert guest.driver.status == RDY
    guest.driver.disable()
    assert guest.driver.status == 0
    assert guest.device.submission == {}
    guest.device.write(0x1000, 4, 1)  # a doorbell of nobody
    guest.driver.admin = QueuePair(guest.memory, guest.device, guest.allocator, 0, 8)
    guest.driver.enable()
    assert guest.driver.status == RDY


@pytest.mark.parametrize(
    "spoil",
    [
        lambda driver: driver.enable(1 | 1 << 4 | 6 << 16 | 4 << 20),
        lambda driver: driver.enable(1 | 1 << 7 | 6 << 16 | 4 << 20),
        lambda driver: driver.enable(1 | 1 << 11 | 6 << 16 | 4 << 20),
        lambda driver: (setattr(driver.admin, "sq_base", RAM), driver.enable()),
        lambda driver: (setattr(driver.admin, "cq_base", 1 << 50), driver.enable()),
        lambda driver: (setattr(driver.admin, "size", 1), driver.enable()),
    ],
)
def test_bad_set_up_is_fatal_until_a_reset(spoil: object) -> None:
    guest = Guest(is_enabled=False)
    spoil(guest.driver)  # type: ignore[operator]
    assert guest.driver.status == CFS
    guest.driver.disable()
    assert guest.driver.status == 0


def test_shutdown_flushes_before_it_is_complete() -> None:
    guest = Guest()
    guest.device.write(0x14, 4, 1 | 1 << 14 | 6 << 16 | 4 << 20)
    assert guest.driver.status == RDY | 1 << 2
    guest.settle()
    assert guest.driver.status == RDY | SHST_DONE
    assert guest.backend.calls == [("flush", 0, 0)]
    guest.driver.disable()
    assert guest.driver.status == 0


def test_shutdown_that_cannot_flush_does_not_succeed() -> None:
    guest = Guest()
    guest.backend.fail["flush"] = refused()
    guest.device.write(0x14, 4, 1 | 2 << 14 | 6 << 16 | 4 << 20)
    guest.settle()
    assert guest.driver.status == RDY | CFS | 1 << 2


# --- reads and writes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_vcpu", [True, False], ids=["short", "worker"])
@pytest.mark.parametrize("is_cached", [True, False])
@pytest.mark.parametrize(("count", "offset"), [(1, 0), (1, 3584), (8, 0), (8, 512), (16, 0), (64, 4), (300, 2048)])
def test_write_and_read_back(count: int, offset: int, is_vcpu: bool, is_cached: bool) -> None:
    guest = Guest(is_vcpu=is_vcpu)
    guest.backend.is_cached = is_cached
    pattern = bytes(range(256)) * (2 * count)
    guest.copy(Nvm.WRITE, 5, count, pattern, offset)
    assert guest.backend.data[2560 : 2560 + 512 * count] == pattern
    assert guest.copy(Nvm.READ, 5, count, offset=offset) == pattern
    assert guest.disk.in_flight == 0
    assert guest.msi.messages[-1] == (0xFEE0_0000, 1)


def test_force_unit_access_and_write_cache() -> None:
    guest = Guest()
    guest.copy(Nvm.WRITE, 0, 1, b"x" * 512)
    guest.copy(Nvm.WRITE, 0, 1, b"x" * 512, more=1 << 30)
    assert guest.driver.execute(Admin.SET_FEATURES, dwords=(FeatureId.WRITE_CACHE, 0)).status == 0
    guest.copy(Nvm.WRITE, 0, 1, b"x" * 512)
    assert [call[0] for call in guest.backend.calls] == ["write", "write", "flush", "write", "flush"]


def test_flush_zeroes_and_deallocation() -> None:
    guest = Guest()
    guest.backend.data[:] = b"\xff" * len(guest.backend.data)
    assert guest.run(Nvm.FLUSH).status == 0
    assert guest.run(Nvm.FLUSH, nsid=0xFFFF_FFFF).status == 0
    assert guest.run(Nvm.WRITE_ZEROES, dwords=(2, 0, 1)).status == 0
    assert guest.run(Nvm.WRITE_ZEROES, dwords=(8, 0, 0 | 1 << 25)).status == 0
    page = guest.allocator.take(4096, 4096)
    guest.memory.write(page, struct.pack("<IIQIIQ", 0, 4, 16, 0, 8, 32))
    assert guest.run(Nvm.DATASET_MANAGEMENT, prp1=page, dwords=(1, 4)).status == 0
    assert guest.run(Nvm.DATASET_MANAGEMENT, prp1=page, dwords=(1, 3)).status == 0  # hints
    assert guest.backend.calls == [
        ("flush", 0, 0), ("flush", 0, 0), ("write_zeroes", 1024, 1024), ("unmap_zeroes", 4096, 512),
        ("discard", 8192, 2048), ("discard", 16384, 4096),
    ]  # fmt: skip


def test_commands_at_the_same_time_and_the_ring_goes_round() -> None:
    guest = Guest(queue_size=8)
    for turn in range(5):
        prps = [guest.allocator.take(4096, 4096) for _ in range(7)]
        for index, page in enumerate(prps):
            guest.memory.write(page, bytes([16 * turn + index + 1]) * 512)
            guest.io.add(Nvm.WRITE, prp1=page, dwords=(7 * turn + index, 0, 0))
        guest.io.ring()
        guest.settle()
        assert len(guest.io.completions()) == 7
    assert all(
        guest.backend.data[512 * (7 * turn + index)] == 16 * turn + index + 1
        for turn in range(5) for index in range(7)
    )  # fmt: skip
    assert len(guest.msi.messages) == 5


def test_full_completion_queue_holds_commands_back() -> None:
    guest = Guest(queue_size=4)
    for _ in range(3):
        guest.io.add(Nvm.FLUSH)
    guest.io.ring()
    guest.settle()
    first = guest.io.completions(ring=False)
    assert len(first) == 3
    for _ in range(3):
        guest.io.add(Nvm.FLUSH)
    guest.io.ring()
    guest.settle()
    assert guest.io.completions(ring=False) == []
    guest.device.write(0x1004 + 8, 4, 3)
    guest.settle()
    assert len(guest.io.completions()) == 3


# --- wrong commands ----------------------------------------------------------------------------------------------

PAGE_0 = 0x10_0000


@pytest.mark.parametrize(
    ("opcode", "fields", "status"),
    [
        (0x7F, {}, Status.INVALID_OPCODE),
        (Nvm.COMPARE, {}, Status.INVALID_OPCODE),
        (Nvm.READ, {"nsid": 2, "prp1": PAGE_0}, Status.INVALID_NAMESPACE),
        (Nvm.READ, {"nsid": 0, "prp1": PAGE_0}, Status.INVALID_NAMESPACE),
        (Nvm.WRITE, {"nsid": 0xFFFF_FFFF, "prp1": PAGE_0}, Status.INVALID_NAMESPACE),
        (Nvm.READ, {"flags": 1, "prp1": PAGE_0}, Status.INVALID_FIELD),
        (Nvm.READ, {"flags": 0x40, "prp1": PAGE_0}, Status.INVALID_FIELD),
        (Nvm.READ, {"prp1": PAGE_0, "dwords": (SECTORS, 0, 0)}, Status.LBA_OUT_OF_RANGE),
        (Nvm.READ, {"prp1": PAGE_0, "dwords": (SECTORS - 1, 0, 1)}, Status.LBA_OUT_OF_RANGE),
        (Nvm.WRITE, {"prp1": PAGE_0, "dwords": (0xFFFF_FFFF, 0xFFFF_FFFF, 0)}, Status.LBA_OUT_OF_RANGE),
        (Nvm.READ, {"prp1": PAGE_0, "dwords": (0, 0, MAX_TRANSFER // 512)}, Status.INVALID_FIELD),
        (Nvm.READ, {"prp1": PAGE_0 + 2, "dwords": (0, 0, 0)}, Status.PRP_OFFSET_INVALID),
        (Nvm.READ, {"prp1": PAGE_0 + 4, "prp2": PAGE_0 + 4, "dwords": (0, 0, 7)}, Status.PRP_OFFSET_INVALID),
        (Nvm.READ, {"prp1": PAGE_0, "prp2": PAGE_0 + 4, "dwords": (0, 0, 23)}, Status.PRP_OFFSET_INVALID),
        (Nvm.READ, {"prp1": RAM, "dwords": (0, 0, 0)}, Status.DATA_TRANSFER_ERROR),
        (Nvm.READ, {"prp1": 1 << 60, "dwords": (0, 0, 0)}, Status.DATA_TRANSFER_ERROR),
        (Nvm.WRITE, {"prp1": PAGE_0, "prp2": RAM, "dwords": (0, 0, 23)}, Status.DATA_TRANSFER_ERROR),
        (Nvm.WRITE_ZEROES, {"dwords": (SECTORS - 1, 0, 1)}, Status.LBA_OUT_OF_RANGE),
        (Nvm.DATASET_MANAGEMENT, {"prp1": RAM, "dwords": (0, 4)}, Status.DATA_TRANSFER_ERROR),
    ],
)
def test_malformed_command_is_refused_and_changes_nothing(
    opcode: int, fields: dict[str, object], status: Status
) -> None:
    guest = Guest()
    done = guest.run(opcode, **fields)
    assert (done.status, done.dnr) == (status, True)
    assert guest.backend.calls == []
    assert guest.run(Nvm.FLUSH).status == 0


def test_deallocation_outside_the_disk() -> None:
    guest = Guest()
    guest.memory.write(PAGE_0, struct.pack("<IIQIIQ", 0, 4, 16, 0, 8, SECTORS - 4))
    assert guest.run(Nvm.DATASET_MANAGEMENT, prp1=PAGE_0, dwords=(1, 4)).status == Status.LBA_OUT_OF_RANGE
    assert guest.backend.calls == []


def test_list_whose_pages_lead_on_and_on_ends() -> None:
    """Each list page has room for one entry only: its chain must begin with a page, and so makes progress."""
    guest = Guest()
    guest.memory.write(PAGE_0 + 0xFF8, struct.pack("<Q", PAGE_0 + 0xFF8))
    done = guest.run(Nvm.READ, prp1=PAGE_0, prp2=PAGE_0 + 0xFF8, dwords=(0, 0, 255))
    assert done.status == Status.PRP_OFFSET_INVALID


def test_chained_lists() -> None:
    guest = Guest()
    table, second = (guest.allocator.take(4096, 4096) for _ in range(2))
    pages = [guest.allocator.take(4096, 4096) for _ in range(4)]
    guest.memory.write(table + 0xFF0, struct.pack("<QQ", pages[1], second))
    guest.memory.write(second, struct.pack("<QQ", pages[2], pages[3]))
    found = prp.pieces(guest.memory, pages[0], table + 0xFF0, 4 * 4096)
    assert sum(size for _, size in found) == 4 * 4096
    assert found[0][0] == pages[0]


def test_same_identifier_twice_is_refused() -> None:
    guest = Guest()
    guest.io.add(Nvm.FLUSH, cid=7)
    guest.io.add(Nvm.FLUSH, cid=7)
    guest.io.ring()
    guest.settle()
    assert sorted(done.status for done in guest.io.completions()) == [0, Status.COMMAND_ID_CONFLICT]


def test_read_only_disk() -> None:
    guest = Guest(read_only=True)
    done = guest.run(Nvm.WRITE, prp1=PAGE_0, dwords=(0, 0, 0))
    assert done.status == Status.WRITE_PROTECTED
    assert guest.run(Nvm.WRITE_ZEROES, dwords=(0, 0, 0)).status == Status.INVALID_OPCODE
    assert guest.run(Nvm.DATASET_MANAGEMENT, prp1=PAGE_0, dwords=(0, 4)).status == Status.INVALID_OPCODE
    _, data = guest.driver.read_data(Admin.IDENTIFY, dwords=(0,))
    assert data[99] == 1
    assert guest.backend.calls == []


@pytest.mark.parametrize(
    ("operation", "opcode", "reason", "status"),
    [
        ("read", Nvm.READ, "io", Status.UNRECOVERED_READ_ERROR),
        ("write", Nvm.WRITE, "io", Status.WRITE_FAULT),
        ("write", Nvm.WRITE, "no-space", Status.CAPACITY_EXCEEDED),
        ("write", Nvm.WRITE, "read-only", Status.WRITE_PROTECTED),
        ("flush", Nvm.FLUSH, "io", Status.WRITE_FAULT),
    ],
)
def test_error_of_the_medium(operation: str, opcode: Nvm, reason: str, status: Status) -> None:
    guest = Guest()
    guest.backend.is_cached = False
    guest.backend.fail[operation] = BlockError("no", reason)  # type: ignore[arg-type]
    assert guest.run(opcode, prp1=PAGE_0, dwords=(0, 0, 0)).status == status
    assert guest.run(opcode, prp1=PAGE_0, dwords=(0, 0, 0)).status == 0


# --- queues ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("opcode", "prp1", "dwords", "status"),
    [
        (Admin.CREATE_CQ, PAGE_0, (0 | 7 << 16, 3), Status.INVALID_QUEUE_IDENTIFIER),
        (Admin.CREATE_CQ, PAGE_0, (3 | 7 << 16, 3), Status.INVALID_QUEUE_IDENTIFIER),
        (Admin.CREATE_CQ, PAGE_0, (1 | 7 << 16, 3), Status.INVALID_QUEUE_IDENTIFIER),
        (Admin.CREATE_CQ, PAGE_0, (2 | 0 << 16, 3), Status.INVALID_QUEUE_SIZE),
        (Admin.CREATE_CQ, PAGE_0, (2 | 1024 << 16, 3), Status.INVALID_QUEUE_SIZE),
        (Admin.CREATE_CQ, PAGE_0, (2 | 7 << 16, 2), Status.INVALID_FIELD),
        (Admin.CREATE_CQ, PAGE_0, (2 | 7 << 16, 3 | 3 << 16), Status.INVALID_INTERRUPT_VECTOR),
        (Admin.CREATE_CQ, PAGE_0 + 64, (2 | 7 << 16, 3), Status.PRP_OFFSET_INVALID),
        (Admin.CREATE_CQ, RAM, (2 | 7 << 16, 3), Status.DATA_TRANSFER_ERROR),
        (Admin.CREATE_SQ, PAGE_0, (2 | 7 << 16, 1 | 2 << 16), Status.COMPLETION_QUEUE_INVALID),
        (Admin.CREATE_SQ, PAGE_0, (2 | 7 << 16, 1 | 0 << 16), Status.COMPLETION_QUEUE_INVALID),
        (Admin.CREATE_SQ, PAGE_0, (1 | 7 << 16, 1 | 1 << 16), Status.INVALID_QUEUE_IDENTIFIER),
        (Admin.DELETE_CQ, 0, (0,), Status.INVALID_QUEUE_IDENTIFIER),
        (Admin.DELETE_CQ, 0, (2,), Status.INVALID_QUEUE_IDENTIFIER),
        (Admin.DELETE_CQ, 0, (1,), Status.INVALID_QUEUE_DELETION),
        (Admin.DELETE_SQ, 0, (0,), Status.INVALID_QUEUE_IDENTIFIER),
        (Admin.DELETE_SQ, 0, (2,), Status.INVALID_QUEUE_IDENTIFIER),
    ],
)
def test_queue_that_cannot_be(opcode: Admin, prp1: int, dwords: tuple[int, ...], status: Status) -> None:
    guest = Guest()
    assert guest.driver.execute(opcode, prp1=prp1, dwords=dwords).status == status


def test_two_queues_share_a_completion_queue_and_are_deleted() -> None:
    guest = Guest()
    base = guest.allocator.take(64 * 8, 4096)
    assert guest.driver.execute(Admin.CREATE_SQ, prp1=base, dwords=(2 | 7 << 16, 1 | 1 << 16)).status == 0
    guest.memory.write(base, struct.pack("<BBHI", Nvm.FLUSH, 0, 99, 1).ljust(64, b"\0"))
    guest.device.write(0x1000 + 16, 4, 1)
    guest.settle()
    (done,) = guest.io.completions()
    assert (done.sq, done.cid, done.status) == (2, 99, 0)
    assert guest.driver.execute(Admin.DELETE_CQ, dwords=(1,)).status == Status.INVALID_QUEUE_DELETION
    for number in (1, 2):
        assert guest.driver.execute(Admin.DELETE_SQ, dwords=(number,)).status == 0
    assert guest.driver.execute(Admin.DELETE_CQ, dwords=(1,)).status == 0
    assert list(guest.device.submission) == [0]


class Held(Guest):
    """A read in flight on a thread that the test lets go on."""

    def __init__(self) -> None:
        super().__init__(is_vcpu=False)
        self.backend.is_cached = False
        self.backend.gate.clear()
        self.io.add(Nvm.READ, prp1=PAGE_0, dwords=(0, 0, 0))
        self.io.ring()
        self.thread = threading.Thread(target=self.work.run)
        self.thread.start()
        while not self.backend.calls:
            pass

    def release(self) -> None:
        self.backend.gate.set()
        self.thread.join()


def test_reset_is_over_only_when_memory_is_left_alone() -> None:
    guest = Held()
    guest.driver.disable()
    assert guest.driver.status == RDY
    guest.io.ring()  # nothing happens to a queue that is going away
    guest.release()
    assert guest.driver.status == 0
    assert guest.io.completions(ring=False) == []
    assert guest.msi.messages == []


def test_enabled_again_before_the_reset_was_over() -> None:
    guest = Held()
    guest.driver.disable()
    guest.driver.admin = QueuePair(guest.memory, guest.device, guest.allocator, 0, 16)
    guest.driver.enable()
    guest.release()
    assert guest.driver.status == RDY
    assert guest.driver.execute(Admin.GET_FEATURES, dwords=(FeatureId.QUEUES,)).result == 0x1_0001


def test_deletion_of_a_queue_waits_for_its_commands() -> None:
    guest = Held()
    cid = guest.driver.admin.add(Admin.DELETE_SQ, dwords=(1,))
    guest.driver.admin.ring()
    assert guest.driver.admin.completions() == []
    guest.io.add(Nvm.FLUSH)
    guest.io.ring()
    guest.release()
    assert [done.status for done in guest.io.completions()] == [0]
    assert [done.cid for done in guest.driver.admin.completions()] == [cid]
    assert 1 not in guest.device.submission
    assert [call[0] for call in guest.backend.calls] == ["read"]


# --- interrupts --------------------------------------------------------------------------------------------------


def test_pin_follows_what_the_driver_has_not_seen() -> None:
    guest = Guest(use_msix=False)
    assert not guest.irq.is_raised()
    guest.io.add(Nvm.FLUSH)
    guest.io.ring()
    guest.settle()
    assert guest.irq.is_raised()
    guest.device.write(0x0C, 4, 2)  # the queue's vector is masked
    assert not guest.irq.is_raised()
    assert guest.device.read(0x0C, 4) == 2
    guest.device.write(0x10, 4, 2)
    assert guest.irq.is_raised()
    guest.io.completions()
    assert not guest.irq.is_raised()


# --- identity, features, logs ------------------------------------------------------------------------------------


def test_identify() -> None:
    guest = Guest()
    _, data = guest.driver.read_data(Admin.IDENTIFY, dwords=(1,))
    assert data[4:24] == b"S1".ljust(20)
    assert data[24:64].rstrip() == b"Manor NVMe disk"
    assert (data[77], data[512], data[513], data[525]) == (8, 0x66, 0x44, 1)
    assert struct.unpack_from("<IIH", data, 80)[0] == 0x10400
    assert struct.unpack_from("<I", data, 516) == (1,)
    assert struct.unpack_from("<H", data, 520) == (1 << 2 | 1 << 3,)
    assert data[768:].startswith(b"nqn.2014-08.org.nvmexpress:uuid:")
    _, data = guest.driver.read_data(Admin.IDENTIFY, dwords=(0,))
    assert struct.unpack_from("<QQQ", data) == (SECTORS,) * 3
    assert struct.unpack_from("<HBB", data, 128) == (0, 9, 0)
    _, data = guest.driver.read_data(Admin.IDENTIFY, nsid=0, dwords=(2,))
    assert struct.unpack_from("<II", data) == (1, 0)
    _, data = guest.driver.read_data(Admin.IDENTIFY, nsid=1, dwords=(2,))
    assert data == bytes(4096)
    _, data = guest.driver.read_data(Admin.IDENTIFY, dwords=(3,))
    assert data[:2] == b"\x03\x10"
    assert data[20] == 0
    for fields, status in (
        ({"dwords": (0,), "nsid": 2}, Status.INVALID_NAMESPACE),
        ({"dwords": (3,), "nsid": 0}, Status.INVALID_NAMESPACE),
        ({"dwords": (2,), "nsid": 0xFFFF_FFFF}, Status.INVALID_NAMESPACE),
        ({"dwords": (0x55,)}, Status.INVALID_FIELD),
    ):
        assert guest.driver.execute(Admin.IDENTIFY, prp1=PAGE_0, **fields).status == status
    assert guest.driver.execute(Admin.IDENTIFY, prp1=RAM, dwords=(1,)).status == Status.DATA_TRANSFER_ERROR


def test_features() -> None:
    guest = Guest()
    execute = guest.driver.execute
    assert execute(Admin.GET_FEATURES, dwords=(FeatureId.WRITE_CACHE,)).result == 1
    assert execute(Admin.SET_FEATURES, dwords=(FeatureId.WRITE_CACHE, 0xFFFE)).status == 0
    assert execute(Admin.GET_FEATURES, dwords=(FeatureId.WRITE_CACHE,)).result == 0
    assert execute(Admin.GET_FEATURES, dwords=(FeatureId.WRITE_CACHE | 1 << 8,)).result == 1
    assert execute(Admin.GET_FEATURES, dwords=(FeatureId.WRITE_CACHE | 3 << 8,)).result == 4
    assert execute(Admin.GET_FEATURES, dwords=(FeatureId.INTERRUPT_VECTOR, 1)).result == 1
    for number in FeatureId:
        assert execute(Admin.GET_FEATURES, dwords=(number,)).status == 0
    for command, dwords, status in (
        (Admin.SET_FEATURES, (FeatureId.WRITE_CACHE | 1 << 31, 0), Status.FEATURE_NOT_SAVEABLE),
        (Admin.SET_FEATURES, (0x55, 0), Status.INVALID_FIELD),
        (Admin.SET_FEATURES, (FeatureId.POWER_MANAGEMENT, 3), Status.INVALID_FIELD),
        (Admin.SET_FEATURES, (FeatureId.INTERRUPT_VECTOR, 99), Status.INVALID_FIELD),
        (Admin.SET_FEATURES, (FeatureId.QUEUES, 0xFFFF), Status.INVALID_FIELD),
        (Admin.SET_FEATURES, (FeatureId.QUEUES, 0), Status.COMMAND_SEQUENCE_ERROR),
        (Admin.GET_FEATURES, (0x55,), Status.INVALID_FIELD),
        (Admin.GET_FEATURES, (FeatureId.WRITE_CACHE | 4 << 8,), Status.INVALID_FIELD),
        (Admin.GET_FEATURES, (FeatureId.INTERRUPT_VECTOR, 99), Status.INVALID_FIELD),
        (0x7F, (), Status.INVALID_OPCODE),
    ):
        assert execute(command, dwords=dwords).status == status
    assert execute(Admin.ABORT, dwords=(1,)).result == 1


def test_number_of_queues_is_what_there_is() -> None:
    guest = Guest(is_enabled=False)
    guest.driver.enable()
    done = guest.driver.execute(Admin.SET_FEATURES, dwords=(FeatureId.QUEUES, 0x3F_003F))
    assert (done.status, done.result) == (0, 0x1_0001)


def test_log_pages() -> None:
    guest = Guest()
    guest.copy(Nvm.WRITE, 0, 16, b"x" * 8192)
    _, data = guest.driver.read_data(Admin.GET_LOG_PAGE, 512, nsid=0xFFFF_FFFF, dwords=(2 | 127 << 16,))
    assert int.from_bytes(data[48:64], "little") == 1
    assert int.from_bytes(data[80:96], "little") == 1
    _, data = guest.driver.read_data(Admin.GET_LOG_PAGE, 512, dwords=(3 | 127 << 16,))
    assert data[0] == 1
    _, part = guest.driver.read_data(Admin.GET_LOG_PAGE, 8, dwords=(3 | 1 << 16, 0, 8))
    assert part == data[8:16]
    done, data = guest.driver.read_data(Admin.GET_LOG_PAGE, 64, dwords=(1 | 15 << 16,))
    assert (done.status, data) == (0, bytes(64))
    for dwords, status in (
        ((0x42 | 1 << 16,), Status.INVALID_LOG_PAGE),
        ((2 | 1 << 16, 0, 2), Status.INVALID_FIELD),
        ((2 | 1 << 16, 0, 516), Status.INVALID_FIELD),
    ):
        assert guest.driver.execute(Admin.GET_LOG_PAGE, prp1=PAGE_0, dwords=dwords).status == status


# --- events ------------------------------------------------------------------------------------------------------


def test_resize_is_told_by_an_event() -> None:
    guest = Guest()
    guest.driver.execute(Admin.SET_FEATURES, dwords=(FeatureId.ASYNC_EVENTS, 1 << 8))
    cids = [guest.driver.admin.add(Admin.ASYNC_EVENT) for _ in range(5)]
    guest.driver.admin.ring()
    (fifth,) = guest.driver.admin.completions()
    assert (fifth.cid, fifth.status) == (cids[4], Status.ASYNC_EVENT_LIMIT)
    guest.disk.resize(512 * 1000)
    (event,) = guest.driver.admin.completions()
    assert (event.cid, event.result) == (cids[0], 2 | 4 << 16)
    guest.disk.resize(512 * 900)
    assert guest.driver.admin.completions() == []  # masked until the log page is read
    page = guest.allocator.take(4096, 4096)
    guest.driver.admin.add(Admin.GET_LOG_PAGE, prp1=page, dwords=(4 | 1023 << 16,))
    guest.driver.admin.ring()
    results = [done.result for done in guest.driver.admin.completions()]
    assert sorted(results) == [0, 2 | 4 << 16]
    assert guest.memory.read_u32(page) == 1
    _, data = guest.driver.read_data(Admin.IDENTIFY, dwords=(0,))
    assert struct.unpack_from("<Q", data) == (900,)


def test_bad_doorbell_is_told_by_an_event() -> None:
    guest = Guest()
    guest.driver.admin.add(Admin.ASYNC_EVENT)
    guest.driver.admin.ring()
    guest.device.write(0x1000 + 8 * 2, 4, 1)
    (event,) = guest.driver.admin.completions()
    assert event.result == 0 | 0 << 8 | 1 << 16
    guest.device.write(0x1000 + 8, 4, 999)
    guest.device.write(0x1004 + 8, 4, 5)
    guest.device.write(0x1002, 2, 5)
    assert guest.run(Nvm.FLUSH).status == 0


# --- saving ------------------------------------------------------------------------------------------------------


def test_saved_state_goes_on_where_it_stopped() -> None:
    guest, other = Guest(), Guest(is_enabled=False)
    guest.driver.execute(Admin.SET_FEATURES, dwords=(FeatureId.WRITE_CACHE, 0))
    guest.driver.admin.add(Admin.ASYNC_EVENT)
    guest.driver.admin.ring()
    guest.copy(Nvm.WRITE, 0, 1, b"x" * 512)
    other.memory.write(0, guest.memory.read(0, RAM))
    other.device.load(guest.device.save())
    assert other.device.save() == guest.device.save()
    guest.io.bar = other.device
    guest.io.memory = other.memory
    guest.io.add(Nvm.FLUSH)
    guest.io.ring()
    other.settle()
    assert [done.status for done in guest.io.completions()] == [0]


def test_save_needs_an_idle_controller() -> None:
    guest = Held()
    with pytest.raises(StateError):
        guest.device.save()
    guest.release()
    guest.device.save()


def test_wrong_states_are_refused() -> None:
    from dataclasses import replace

    guest, other = Guest(), Guest(is_enabled=False)
    state = guest.device.save()
    before = other.device.save()
    queue = state.completion_queues[1]
    for wrong in (
        "nothing",
        replace(state, capacity=1),
        replace(state, interrupt_mask=-1),
        replace(state, submission_queues=()),
        replace(state, completion_queues=(queue,)),
        replace(state, completion_queues=(state.completion_queues[0], replace(queue, base=RAM))),
        replace(state, completion_queues=(state.completion_queues[0], replace(queue, size=1))),
        replace(state, completion_queues=(state.completion_queues[0], replace(queue, tail=99))),
        replace(state, completion_queues=(state.completion_queues[0], replace(queue, partner=99))),
        replace(state, admin=replace(state.admin, features=())),
        replace(state, admin=replace(state.admin, event_requests=(1,) * 9)),
        replace(state, admin=replace(state.admin, masked=(9,))),
    ):
        with pytest.raises(SavedStateError):
            other.device.load(wrong)
        assert other.device.save() == before


# --- everything at once -------------------------------------------------------------------------------------------

COMMANDS = st.lists(
    st.tuples(
        st.booleans(), st.integers(0, 0x10), st.integers(0, 3), st.sampled_from([0, 1, 2, 3, 8, 0x10_0000, 0x10_0008]),
        st.sampled_from([0, 0x10_0000, 0x10_0FF8, RAM, 1 << 63]), st.lists(st.integers(0, 1 << 32 - 1), max_size=6),
    ),
    max_size=12,
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(COMMANDS)
def test_no_command_breaks_the_controller(
    commands: list[tuple[bool, int, int, int, int, list[int]]],
) -> None:
    guest = Guest()
    for is_admin, opcode, nsid, prp1, prp2, dwords in commands:
        queue = guest.driver.admin if is_admin else guest.io
        queue.add(opcode, nsid=nsid, prp1=prp1, prp2=prp2, dwords=tuple(each & 0xFFFF_FFFF for each in dwords))
        queue.ring()
        guest.settle()
        queue.completions()
    guest.driver.disable()
    guest.settle()
    assert guest.driver.status == 0
    assert guest.disk.in_flight == 0


def test_every_event_fires() -> None:
    sink = RingSink(1000)
    enable("nvme_*", sink)
    enable("disk_*", sink)
    try:
        guest = Guest()
        guest.backend.fail["write"] = refused()
        guest.run(Nvm.WRITE, prp1=PAGE_0, dwords=(0, 0, 0))
    finally:
        disable("nvme_*", sink)
        disable("disk_*", sink)
    fired = {name for name, _ in sink.events}
    assert {name for name in declared if name.startswith(("nvme_", "disk_"))} == fired
