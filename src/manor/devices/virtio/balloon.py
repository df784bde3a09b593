"""virtio-balloon: the guest gives memory back to the host.

Source: VIRTIO 1.2, section 5.5 "Traditional Memory Balloon Device".

*Inflating*: the host sets a size, the driver gives up as many pages, until they are wanted back or the guest runs out
of memory. *Free page reporting*: the driver tells by itself, from time to time, which pages nobody uses, and takes them
again without asking. *Statistics*: what the guest thinks of its memory, on request.
What was given up reads as zeros; the host makes new pages when the guest touches it again.

Free page hinting (for migration) is not offered. Queue numbers: Linux leaves out the queues of features that were not
negotiated, 5.5.2 numbers them all. Both find theirs: without hinting, 3 and 4 are the reporting queue.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from manor.base.address import PAGE_SIZE
from manor.base.bits import bit
from manor.base.errors import SavedStateError
from manor.devices.virtio.device import Defer, VirtioDevice
from manor.devices.virtio.queue import Chain, Queue
from manor.mem.guest_memory import GuestMemory
from manor.mem.scatter_native import Buffer
from manor.regs.access import RO, RW
from manor.regs.block import RegisterBlock
from manor.regs.field import Reg, RegisterTable
from manor.trace.event import declare

VIRTIO_BALLOON_F_STATS_VQ: Final = 1
VIRTIO_BALLOON_F_DEFLATE_ON_OOM: Final = 2
VIRTIO_BALLOON_F_PAGE_POISON: Final = 4
VIRTIO_BALLOON_F_PAGE_REPORTING: Final = 5

INFLATE_QUEUE: Final = 0
DEFLATE_QUEUE: Final = 1
STATISTICS_QUEUE: Final = 2
QUEUE_SIZE: Final = 128
QUEUES: Final = 5

PFN_SIZE: Final = 4
"""Bytes of one page number: a guest-physical address divided by 4096 (5.5.6)."""
PFN_LIMIT: Final = 4096
"""Page numbers looked at in one chain; drivers send 256. Bounds the time the machine lock is held."""
TURN_LIMIT: Final = 16
"""Chains of one turn: each may cost the host a few hundred microseconds."""
STATISTICS_LIMIT: Final = 64
"""Entries of statistics looked at; the specification has ten."""

STATISTICS: Final = (
    "swap_in", "swap_out", "major_faults", "minor_faults", "free", "total", "available", "caches",
    "huge_page_allocations", "huge_page_failures",
)  # fmt: skip
"""Names by tag (5.5.6.4). Faults and huge pages are counts, the others bytes."""

_S = "VIRTIO 1.2, 5.5.4"
NUM_PAGES = Reg("num_pages", 0x0, 32, RO, stored=False, source=_S)
ACTUAL = Reg("actual", 0x4, 32, RW, stored=False, source=_S)
FREE_PAGE_HINT_CMD_ID = Reg("free_page_hint_cmd_id", 0x8, 32, RO, stored=False, source=_S)
POISON_VAL = Reg("poison_val", 0xC, 32, RW, stored=False, source=_S)
CONFIG_TABLE = RegisterTable(
    "virtio-balloon config", 16, (NUM_PAGES, ACTUAL, FREE_PAGE_HINT_CMD_ID, POISON_VAL), split=True
)

balloon_release = declare("balloon_release", device=str, why=str, size=int)
balloon_target = declare("balloon_target", device=str, pages=int)

_STATISTIC = struct.Struct("<HQ")


class _Role(Enum):
    INFLATE = "inflate"
    DEFLATE = "deflate"
    STATISTICS = "statistics"
    REPORTING = "reporting"


@dataclass(frozen=True, slots=True)
class BalloonCounts:
    """Bytes given back to the host since the device was made, by the way they came."""

    inflated: int
    reported: int


@dataclass(frozen=True, slots=True)
class BalloonState:
    """What the host wants, and what the driver told."""

    target: int
    actual: int
    poison: int
    statistics: dict[str, int] = field(default_factory=dict)


class VirtioBalloon(VirtioDevice):
    """Memory balloon.

    on_actual: set by the host's side, called when the driver told how many pages the balloon holds.
    on_statistics: the same, for statistics.
    """

    DEVICE_ID = 5

    def __init__(self, name: str, memory: GuestMemory, defer: Defer, *, reporting: bool = True) -> None:
        """reporting: whether the guest is asked to give free memory back by itself."""
        features = bit(VIRTIO_BALLOON_F_STATS_VQ) | bit(VIRTIO_BALLOON_F_DEFLATE_ON_OOM)
        if reporting:
            features |= bit(VIRTIO_BALLOON_F_PAGE_POISON) | bit(VIRTIO_BALLOON_F_PAGE_REPORTING)
        self.on_actual: Callable[[], None] = _do_nothing
        self.on_statistics: Callable[[], None] = _do_nothing
        self.target = 0
        self.actual = 0
        self.statistics: dict[str, int] = {}
        self._poison = 0
        self._wants_statistics = False
        self._inflated = 0
        self._reported = 0
        super().__init__(name, memory, defer, [QUEUE_SIZE] * QUEUES, features)
        self._memory = memory
        self._config = RegisterBlock(CONFIG_TABLE, self, name)

    # -- host side --

    @property
    def counts(self) -> BalloonCounts:
        return BalloonCounts(self._inflated, self._reported)

    def set_target(self, pages: int) -> None:
        """Ask the driver to give up `pages` pages of 4 KiB in all; it does so as far as it can."""
        self.target = min(max(pages, 0), 0xFFFF_FFFF)
        if balloon_target.on:
            balloon_target(self.name, self.target)
        self.change_config()

    def request_statistics(self) -> bool:
        """Ask for fresh statistics; `on_statistics` follows. False if the driver has none to give (now)."""
        if not self.is_running or not self.has_feature(VIRTIO_BALLOON_F_STATS_VQ):
            return False
        self._wants_statistics = True
        self.schedule(STATISTICS_QUEUE)
        return True

    # -- virtio --

    def on_reset(self) -> None:
        self.actual = 0
        self._poison = 0
        self._wants_statistics = False
        self.statistics = {}

    def _role(self, index: int) -> _Role | None:
        if index == INFLATE_QUEUE:
            return _Role.INFLATE
        if index == DEFLATE_QUEUE:
            return _Role.DEFLATE
        if index == STATISTICS_QUEUE and self.has_feature(VIRTIO_BALLOON_F_STATS_VQ):
            return _Role.STATISTICS
        return _Role.REPORTING if self.has_feature(VIRTIO_BALLOON_F_PAGE_REPORTING) else None

    def handle_queue(self, queue: Queue) -> bool:
        role = self._role(queue.index)
        if role is None:
            self.report(f"queue {queue.index} belongs to a feature that was not negotiated")
            return False
        if role is _Role.STATISTICS:
            return self._turn_statistics(queue)
        for _ in range(TURN_LIMIT):
            chain = queue.pop()
            if chain is None:
                return False
            if role is _Role.INFLATE:
                self._inflate(chain)
            elif role is _Role.REPORTING:
                self._take_report(chain)
            # Deflating is a courtesy: a page comes back when the guest touches it.
            queue.add_used(chain, 0)
        return queue.has_available()

    def _inflate(self, chain: Chain) -> None:
        data = chain.read(PFN_LIMIT * PFN_SIZE)
        if chain.readable_size > PFN_LIMIT * PFN_SIZE or len(data) % PFN_SIZE:
            self.report(f"{chain.readable_size} bytes of page numbers; {len(data) // PFN_SIZE} numbers taken")
        numbers = memoryview(data[: len(data) // PFN_SIZE * PFN_SIZE]).cast("I")
        released = 0
        for first, count in _runs(sorted(numbers)):
            released += self._memory.release(first * PAGE_SIZE, count * PAGE_SIZE)
        if released < len(set(numbers)) * PAGE_SIZE:
            self.report("page numbers that are not RAM in the balloon")
        self._inflated += released
        if balloon_release.on:
            balloon_release(self.name, "inflated", released)

    def _take_report(self, chain: Chain) -> None:
        """The buffers themselves are the free memory."""
        if self.has_feature(VIRTIO_BALLOON_F_PAGE_POISON) and self._poison:
            return  # the guest expects its pattern, not zeros, in pages that it takes again (5.5.6.7)
        released = sum(self._release(buffer) for buffer in chain.writable)
        self._reported += released
        if balloon_release.on:
            balloon_release(self.name, "reported", released)

    def _release(self, buffer: Buffer) -> int:
        return self._memory.release(buffer.gpa, buffer.size)

    def _turn_statistics(self, queue: Queue) -> bool:
        """The driver leaves one buffer with us; returning it asks for the next (5.5.6.3)."""
        chain = queue.pop()
        if chain is None:
            return False
        if self._wants_statistics:
            self._wants_statistics = False
            queue.add_used(chain, 0)
            return queue.has_available()  # looking for the next one asks the driver to kick when it adds it
        data = chain.read(STATISTICS_LIMIT * _STATISTIC.size)
        # It stays in the ring: there is nothing of it to save, and it is found again after a load.
        queue.undo_pop(chain)
        whole = len(data) // _STATISTIC.size * _STATISTIC.size
        self.statistics = {
            STATISTICS[tag]: value for tag, value in _STATISTIC.iter_unpack(data[:whole]) if tag < len(STATISTICS)
        }
        self.on_statistics()
        return False

    # -- configuration --

    @property
    def config_size(self) -> int:
        return CONFIG_TABLE.size

    def read_config(self, offset: int, size: int) -> int:
        return self._config.read(offset, size)

    def write_config(self, offset: int, size: int, value: int) -> None:
        self._config.write(offset, size, value)

    def on_read_num_pages(self) -> int:
        return self.target

    def on_read_actual(self) -> int:
        return self.actual

    def on_write_actual(self, value: int) -> None:
        self.actual = value
        self.on_actual()

    def on_read_free_page_hint_cmd_id(self) -> int:
        return 0

    def on_read_poison_val(self) -> int:
        return self._poison

    def on_write_poison_val(self, value: int) -> None:
        if self.is_running:
            self.report("poison_val changed while the device runs")  # 5.5.6.6
            return
        self._poison = value

    # -- save and load --

    def save_own(self) -> BalloonState:
        return BalloonState(self.target, self.actual, self._poison, dict(self.statistics))

    def check_own(self, own: object) -> None:
        if not isinstance(own, BalloonState):
            raise SavedStateError(self.name, "not a balloon")
        for value in (own.target, own.actual, own.poison):
            if type(value) is not int or not 0 <= value <= 0xFFFF_FFFF:
                raise SavedStateError(self.name, f"{value!r} is not a 32-bit number")
        if type(own.statistics) is not dict or not own.statistics.keys() <= set(STATISTICS):
            raise SavedStateError(self.name, "statistics with unknown names")
        if any(type(value) is not int or not 0 <= value < 1 << 64 for value in own.statistics.values()):
            raise SavedStateError(self.name, "statistics are not 64-bit numbers")

    def load_own(self, own: object) -> None:
        assert isinstance(own, BalloonState)
        self.target, self.actual, self._poison = own.target, own.actual, own.poison
        self.statistics = dict(own.statistics)


def _runs(numbers: list[int]) -> list[tuple[int, int]]:
    """(first, count) of each run of neighbours in ascending `numbers`; what comes twice counts once."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and number < runs[-1][0] + runs[-1][1]:
            continue
        if runs and number == runs[-1][0] + runs[-1][1]:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((number, 1))
    return runs


def _do_nothing() -> None:
    """Nobody on the host waits for it."""
