"""virtio-blk: a disk.

Source: VIRTIO 1.2, section 5.2 "Block Device".

A kick takes the chains, checks them and starts their requests (`devices.block.disk`), which run while no lock is held;
their ends return the chains, with one interrupt for those that end together.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple

from manor.backends.block.api import BlockError
from manor.base.bits import bit
from manor.base.errors import SavedStateError
from manor.devices.block.disk import SECTOR, Disk, Kind, Request
from manor.devices.virtio.device import Defer, State, VirtioDevice
from manor.devices.virtio.queue import Buffers, Chain, Queue
from manor.mem.guest_memory import GuestMemory
from manor.regs.access import RO, RW
from manor.regs.block import RegisterBlock
from manor.regs.field import Reg, RegisterTable, reserved
from manor.trace.event import declare

VIRTIO_BLK_F_SIZE_MAX = 1
VIRTIO_BLK_F_SEG_MAX = 2
VIRTIO_BLK_F_GEOMETRY = 4
VIRTIO_BLK_F_RO = 5
VIRTIO_BLK_F_BLK_SIZE = 6
VIRTIO_BLK_F_FLUSH = 9
VIRTIO_BLK_F_TOPOLOGY = 10
VIRTIO_BLK_F_CONFIG_WCE = 11
VIRTIO_BLK_F_MQ = 12
VIRTIO_BLK_F_DISCARD = 13
VIRTIO_BLK_F_WRITE_ZEROES = 14
"""Feature bits (5.2.3)."""

VIRTIO_BLK_T_IN = 0
VIRTIO_BLK_T_OUT = 1
VIRTIO_BLK_T_FLUSH = 4
VIRTIO_BLK_T_GET_ID = 8
VIRTIO_BLK_T_DISCARD = 11
VIRTIO_BLK_T_WRITE_ZEROES = 13
"""Request types (5.2.6)."""

VIRTIO_BLK_S_OK = 0
VIRTIO_BLK_S_IOERR = 1
VIRTIO_BLK_S_UNSUPP = 2
"""Status of a request (5.2.6)."""

WRITE_ZEROES_UNMAP = 1
"""The one flag of a segment of a discard or write zeroes request (5.2.6)."""

QUEUE_SIZE: Final = 512
"""Room for a mebibyte in pages that lie anywhere, Linux's largest request, as one chain (2.7.5.3.1)."""
SEG_MAX: Final = QUEUE_SIZE - 2
"""Data buffers of a request: its header and its status have descriptors of their own."""
SIZE_MAX: Final = 1 << 20
"""Bytes of one data buffer. With SEG_MAX it bounds a request, and so how long the end of one can take."""
MAX_QUEUES: Final = 16
"""More vCPUs than this share queues."""
ID_SIZE: Final = 20
"""Bytes of the serial number (5.2.6, VIRTIO_BLK_T_GET_ID)."""
MAX_DISCARD_RANGES: Final = 256
MAX_DISCARD_SECTORS: Final = 1 << 22
"""Segments of a discard, and sectors of one: 2 GiB."""
MAX_ZERO_RANGES: Final = 16
MAX_ZERO_SECTORS: Final = 1 << 18
"""The same of a write zeroes request, 128 MiB: a medium that knows no better writes them, which a reset waits for."""
_PHYSICAL_BLOCK_EXP: Final = 3
"""A physical block of 8 sectors: partial pages cost the host a read before the write."""
_PHYSICAL_SECTORS: Final = 1 << _PHYSICAL_BLOCK_EXP

_HEADER = struct.Struct("<I4xQ")
_SEGMENT = struct.Struct("<QII")

_S = "VIRTIO 1.2, 5.2.4"
CAPACITY = Reg("capacity", 0x00, 64, RO, stored=False, doc="in sectors of 512 bytes", source=_S)
SIZE_MAX_REG = Reg("size_max", 0x08, 32, RO, stored=False, source=_S)
SEG_MAX_REG = Reg("seg_max", 0x0C, 32, RO, stored=False, source=_S)
CYLINDERS = Reg("cylinders", 0x10, 16, RO, stored=False, source=_S)
HEADS = Reg("heads", 0x12, 8, RO, stored=False, source=_S)
SECTORS = Reg("sectors", 0x13, 8, RO, stored=False, source=_S)
BLK_SIZE = Reg("blk_size", 0x14, 32, RO, stored=False, doc="bytes of a logical block", source=_S)
PHYSICAL_BLOCK_EXP = Reg("physical_block_exp", 0x18, 8, RO, stored=False, source=_S)
ALIGNMENT_OFFSET = Reg("alignment_offset", 0x19, 8, RO, stored=False, source=_S)
MIN_IO_SIZE = Reg("min_io_size", 0x1A, 16, RO, stored=False, doc="in logical blocks", source=_S)
OPT_IO_SIZE = Reg("opt_io_size", 0x1C, 32, RO, stored=False, doc="in logical blocks", source=_S)
WRITEBACK = Reg("writeback", 0x20, 8, RW, stored=False, doc="0 write-through, 1 write-back", source=_S)
UNUSED0 = Reg("unused0", 0x21, 8, fields=(reserved(0, 8),), source=_S)
NUM_QUEUES = Reg("num_queues", 0x22, 16, RO, stored=False, source=_S)
MAX_DISCARD_SECTORS_REG = Reg("max_discard_sectors", 0x24, 32, RO, stored=False, source=_S)
MAX_DISCARD_SEG = Reg("max_discard_seg", 0x28, 32, RO, stored=False, source=_S)
DISCARD_SECTOR_ALIGNMENT = Reg("discard_sector_alignment", 0x2C, 32, RO, stored=False, source=_S)
MAX_WRITE_ZEROES_SECTORS = Reg("max_write_zeroes_sectors", 0x30, 32, RO, stored=False, source=_S)
MAX_WRITE_ZEROES_SEG = Reg("max_write_zeroes_seg", 0x34, 32, RO, stored=False, source=_S)
WRITE_ZEROES_MAY_UNMAP = Reg("write_zeroes_may_unmap", 0x38, 8, RO, stored=False, source=_S)
UNUSED1 = Reg("unused1", 0x39, 24, fields=(reserved(0, 24),), source=_S)

CONFIG_TABLE = RegisterTable(
    "virtio-blk config",
    0x3C,
    (
        CAPACITY, SIZE_MAX_REG, SEG_MAX_REG, CYLINDERS, HEADS, SECTORS, BLK_SIZE, PHYSICAL_BLOCK_EXP, ALIGNMENT_OFFSET,
        MIN_IO_SIZE, OPT_IO_SIZE, WRITEBACK, UNUSED0, NUM_QUEUES, MAX_DISCARD_SECTORS_REG, MAX_DISCARD_SEG,
        DISCARD_SECTOR_ALIGNMENT, MAX_WRITE_ZEROES_SECTORS, MAX_WRITE_ZEROES_SEG, WRITE_ZEROES_MAY_UNMAP, UNUSED1,
    ),
    split=True,
    source="VIRTIO 1.2, 5.2.4 struct virtio_blk_config",
)  # fmt: skip

virtio_blk_request = declare("virtio_blk_request", device=str, queue=int, type=int, sector=int, size=int)


class Answer(NamedTuple):
    """How a request ended. filled: bytes written from the start of the chain's writable part, without the status."""

    status: int
    filled: int = 0


@dataclass(frozen=True, slots=True)
class BlkState:
    """What the driver of a disk told. capacity: in sectors, as the driver last could read it."""

    writeback: bool
    capacity: int


class VirtioBlk(VirtioDevice):
    """Block device. queues: 1 to MAX_QUEUES."""

    DEVICE_ID = 2
    SERVES_KICKS = True

    def __init__(self, name: str, memory: GuestMemory, defer: Defer, disk: Disk, queues: int = 1) -> None:
        if not 1 <= queues <= MAX_QUEUES:
            raise ValueError(f"{name}: {queues} queues, at most {MAX_QUEUES}")
        self.disk = disk
        self._writeback = True
        self._busy = [0] * queues
        features = bit(VIRTIO_BLK_F_SIZE_MAX) | bit(VIRTIO_BLK_F_SEG_MAX) | bit(VIRTIO_BLK_F_GEOMETRY)
        features |= bit(VIRTIO_BLK_F_BLK_SIZE) | bit(VIRTIO_BLK_F_TOPOLOGY) | bit(VIRTIO_BLK_F_FLUSH)
        features |= bit(VIRTIO_BLK_F_CONFIG_WCE) | bit(VIRTIO_BLK_F_MQ)
        if disk.is_read_only:
            features |= bit(VIRTIO_BLK_F_RO)
        else:
            features |= bit(VIRTIO_BLK_F_WRITE_ZEROES)
        if disk.may_discard:
            features |= bit(VIRTIO_BLK_F_DISCARD)
        super().__init__(name, memory, defer, [QUEUE_SIZE] * queues, features)
        self._config = RegisterBlock(CONFIG_TABLE, self, name)
        disk.on_resize = self.change_config

    # -- requests --

    def handle_queue(self, queue: Queue) -> bool:
        requests: list[Request] = []
        more = True
        for _ in range(queue.size):
            chain = queue.pop()
            if chain is None:
                more = False
                break
            outcome = self._take(queue, chain)
            if isinstance(outcome, Request):
                requests.append(outcome)
            else:
                self._answer(queue, chain, outcome)
        self._busy[queue.index] += len(requests)
        self.disk.start(requests, partial(self._after, queue))
        return more and queue.has_available()

    def is_busy(self, index: int) -> bool:
        return self._busy[index] > 0

    def _after(self, queue: Queue) -> None:
        """Some requests of `queue` ended together."""
        if self.is_running and queue.is_active:
            self.finish(queue)
        else:
            self.settle(queue.index)

    def _take(self, queue: Queue, chain: Chain) -> Request | Answer:
        """The request in a chain, or the answer to one that needs no backend."""
        room = chain.writable_size - 1  # the last byte is the status (5.2.6)
        if room < 0:
            self.report("request without room for its status")
            return Answer(VIRTIO_BLK_S_IOERR)
        payload = chain.readable_size - _HEADER.size
        if payload < 0:
            self.report(f"request with a header of {chain.readable_size} bytes")
            return Answer(VIRTIO_BLK_S_IOERR)
        kind, sector = _HEADER.unpack(chain.read(_HEADER.size))
        if virtio_blk_request.on:
            virtio_blk_request(self.name, queue.index, kind, sector, payload if kind == VIRTIO_BLK_T_OUT else room)
        if kind == VIRTIO_BLK_T_IN:
            return self._copy(queue, chain, Kind.READ, sector, room)
        if kind == VIRTIO_BLK_T_OUT:
            return self._copy(queue, chain, Kind.WRITE, sector, payload)
        if kind == VIRTIO_BLK_T_FLUSH:
            return Request(Kind.FLUSH, (), (), partial(self._done, queue, chain, None, 0))
        if kind == VIRTIO_BLK_T_GET_ID:
            return self._identify(chain, room)
        if kind in (VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES):
            return self._change_ranges(queue, chain, kind, payload)
        self.report(f"request of unknown type {kind}")
        return Answer(VIRTIO_BLK_S_UNSUPP)

    def _copy(self, queue: Queue, chain: Chain, kind: Kind, sector: int, size: int) -> Request | Answer:
        """A read or write of `size` bytes."""
        offset = SECTOR * sector
        problem = ""
        if size == 0 or size % SECTOR:
            problem = f"{size} bytes"
        elif not self.disk.covers(offset, size):
            problem = f"{size} bytes at sector {sector} of {self.capacity}"
        elif size > SEG_MAX * SIZE_MAX:
            problem = f"{size} bytes, at most {SEG_MAX * SIZE_MAX}"
        elif kind is Kind.WRITE and self.disk.is_read_only:
            problem = "the disk is read-only"
        if problem:
            self.report(f"{kind.value} refused: {problem}")
            return Answer(VIRTIO_BLK_S_IOERR)
        if kind is Kind.READ:
            buffers = chain.writable_buffers(size)
            return Request(kind, ((offset, size),), buffers, partial(self._done, queue, chain, buffers, size))
        done = partial(self._done, queue, chain, None, 0)
        return Request(kind, ((offset, size),), chain.readable_buffers(_HEADER.size), done, self._is_write_through)

    def _identify(self, chain: Chain, room: int) -> Request | Answer:
        if room < ID_SIZE:
            self.report(f"serial number asked for with {room} bytes of room")
            return Answer(VIRTIO_BLK_S_IOERR)
        serial = self.disk.serial.encode("ascii", "replace")[:ID_SIZE]
        chain.write(serial.ljust(ID_SIZE, b"\0"))
        return Answer(VIRTIO_BLK_S_OK, ID_SIZE)

    def _change_ranges(self, queue: Queue, chain: Chain, kind: int, size: int) -> Request | Answer:
        """A discard or write zeroes request (5.2.6.2)."""
        is_discard = kind == VIRTIO_BLK_T_DISCARD
        if not self.has_feature(VIRTIO_BLK_F_DISCARD if is_discard else VIRTIO_BLK_F_WRITE_ZEROES):
            self.report(f"request of type {kind} without its feature")
            return Answer(VIRTIO_BLK_S_UNSUPP)
        most = MAX_DISCARD_RANGES if is_discard else MAX_ZERO_RANGES
        longest = MAX_DISCARD_SECTORS if is_discard else MAX_ZERO_SECTORS
        if size == 0 or size % _SEGMENT.size or size > most * _SEGMENT.size:
            self.report(f"request of type {kind} with {size} bytes of segments")
            return Answer(VIRTIO_BLK_S_IOERR)
        ranges: list[tuple[int, int]] = []
        unmaps = 0
        for sector, count, flags in _SEGMENT.iter_unpack(chain.read(size, _HEADER.size)):
            if flags & ~WRITE_ZEROES_UNMAP or (is_discard and flags):
                self.report(f"request of type {kind} with flags {flags:#x}")
                return Answer(VIRTIO_BLK_S_UNSUPP)
            if count > longest or not self.disk.covers(SECTOR * sector, SECTOR * count):
                self.report(f"request of type {kind}: {count} sectors at {sector} of {self.capacity}")
                return Answer(VIRTIO_BLK_S_IOERR)
            unmaps += flags
            if count:
                ranges.append((SECTOR * sector, SECTOR * count))
        done = partial(self._done, queue, chain, None, 0)
        if is_discard:
            return Request(Kind.DISCARD, ranges, (), done)
        # One request of ours has one flag: space is given back only if all segments allow it.
        may_unmap = self.disk.may_discard and unmaps * _SEGMENT.size == size
        kind_of_zero = Kind.ZERO_UNMAP if may_unmap else Kind.ZERO
        return Request(kind_of_zero, ranges, (), done, self._is_write_through)

    def _done(
        self, queue: Queue, chain: Chain, buffers: Buffers | None, filled: int, error: BlockError | None
    ) -> None:
        """A request ended. buffers: guest memory that it wrote; filled: bytes in them."""
        self._busy[queue.index] -= 1
        is_held = self.state is State.DRIVER_OK and queue.holds(chain)
        if is_held and error is None and filled == chain.writable_size - 1:
            # The commonest end, in fewer steps.
            chain.fill_last(VIRTIO_BLK_S_OK)
            queue.add_used(chain, filled + 1)
            return
        if buffers is not None:
            # Also after an error: the backend may have got half-way.
            chain.filled(buffers)
        if not is_held:
            return  # the driver has forgotten the request
        if error is None:
            self._answer(queue, chain, Answer(VIRTIO_BLK_S_OK, filled))
        else:
            is_unknown = error.reason == "unsupported"
            self._answer(queue, chain, Answer(VIRTIO_BLK_S_UNSUPP if is_unknown else VIRTIO_BLK_S_IOERR))

    def _answer(self, queue: Queue, chain: Chain, answer: Answer) -> None:
        """Return a chain with its status, the last byte of the writable part, where it has one."""
        room = chain.writable_size - 1
        if room >= 0:
            chain.write_last(answer.status)
        # The used length counts from the start and may not claim bytes that were not written (2.7.8.2).
        queue.add_used(chain, room + 1 if answer.filled == room else answer.filled)

    @property
    def _is_write_through(self) -> bool:
        """Whether a write must be on the medium before it is done (5.2.6.2)."""
        if self.has_feature(VIRTIO_BLK_F_CONFIG_WCE):
            return not self._writeback
        return not self.has_feature(VIRTIO_BLK_F_FLUSH)

    def on_reset(self) -> None:
        self._writeback = True

    # -- configuration --

    @property
    def capacity(self) -> int:
        """In sectors of 512 bytes."""
        return self.disk.size // SECTOR

    @property
    def config_size(self) -> int:
        return CONFIG_TABLE.size

    def read_config(self, offset: int, size: int) -> int:
        return self._config.read(offset, size)

    def write_config(self, offset: int, size: int, value: int) -> None:
        self._config.write(offset, size, value)

    def on_read_capacity(self) -> int:
        return self.capacity

    def on_read_size_max(self) -> int:
        return SIZE_MAX

    def on_read_seg_max(self) -> int:
        return SEG_MAX

    def on_read_cylinders(self) -> int:
        # 16 heads of 63 sectors are what a PC takes where nobody says otherwise; nothing uses them but old
        # partitioning programs. Larger disks than such a geometry can tell show the largest.
        return min(self.capacity // (16 * 63), 0xFFFF)

    def on_read_heads(self) -> int:
        return 16

    def on_read_sectors(self) -> int:
        return 63

    def on_read_blk_size(self) -> int:
        return SECTOR

    def on_read_physical_block_exp(self) -> int:
        return _PHYSICAL_BLOCK_EXP

    def on_read_alignment_offset(self) -> int:
        return 0

    def on_read_min_io_size(self) -> int:
        return _PHYSICAL_SECTORS

    def on_read_opt_io_size(self) -> int:
        return 0  # no preference

    def on_read_writeback(self) -> int:
        return int(not self._is_write_through) if self.has_feature(VIRTIO_BLK_F_CONFIG_WCE) else int(self._writeback)

    def on_write_writeback(self, value: int) -> None:
        if not self.has_feature(VIRTIO_BLK_F_CONFIG_WCE) or value > 1:
            self.report(f"cache mode written with {value}")
            return
        self._writeback = bool(value)

    def on_read_num_queues(self) -> int:
        return len(self.queues)

    def on_read_max_discard_sectors(self) -> int:
        return MAX_DISCARD_SECTORS if self.disk.may_discard else 0

    def on_read_max_discard_seg(self) -> int:
        return MAX_DISCARD_RANGES if self.disk.may_discard else 0

    def on_read_discard_sector_alignment(self) -> int:
        return _PHYSICAL_SECTORS if self.disk.may_discard else 0

    def on_read_max_write_zeroes_sectors(self) -> int:
        return 0 if self.disk.is_read_only else MAX_ZERO_SECTORS

    def on_read_max_write_zeroes_seg(self) -> int:
        return 0 if self.disk.is_read_only else MAX_ZERO_RANGES

    def on_read_write_zeroes_may_unmap(self) -> int:
        return int(self.disk.may_discard)

    # -- save and load --

    def save_own(self) -> BlkState:
        return BlkState(self._writeback, self.capacity)

    def check_own(self, own: object) -> None:
        if not isinstance(own, BlkState) or type(own.writeback) is not bool or type(own.capacity) is not int:
            raise SavedStateError(self.name, "not a disk")
        if own.capacity != self.capacity:
            raise SavedStateError(self.name, f"a disk of {own.capacity} sectors, this one has {self.capacity}")

    def load_own(self, own: object) -> None:
        assert isinstance(own, BlkState)
        self._writeback = own.writeback
