"""Split virtqueue, the device's side.

Source: VIRTIO 1.2 (OASIS, 2022), section 2.7 "Split Virtqueues".

The three areas live in guest memory, which the guest may change at any moment. So each field is read once,
checked, and then used from the host-side copy: positions in the rings, the set of heads the device holds,
descriptors of a chain. A rule broken by the guest makes the queue `broken`: `pop` returns nothing from then
on and the owner is told through `on_broken`, once. No guest input raises an exception.

What runs for every chain is native (`ring_native`). Here is the rest: how a queue is set up, what is wrong with one,
chains that are rare, save and load.

Thread: every method under the machine lock.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from manor.base.errors import SavedStateError, StateError
from manor.mem.guest_memory import GuestMemory
from manor.mem.ring_native import Chain as Chain
from manor.mem.ring_native import Ring
from manor.mem.scatter_native import Buffer, GuestBuffers, Segments
from manor.trace.event import declare, guest_error

VIRTQ_DESC_F_NEXT = 1
VIRTQ_DESC_F_WRITE = 2
VIRTQ_DESC_F_INDIRECT = 4
VIRTQ_AVAIL_F_NO_INTERRUPT = 1

DESCRIPTOR_SIZE = 16
USED_ELEMENT_SIZE = 8

# VIRTIO 1.2, 2.7: "The maximum Queue Size value is 32768", a power of two.
QUEUE_SIZE_LIMIT = 32768

# Descriptors of one chain, direct or indirect. 2.7.5.3.1 allows no more than the queue size; drivers exceed
# it in indirect tables when a device states a larger segment limit. The cap bounds the work that one
# available entry can cause.
CHAIN_LIMIT = 1024
# Entries of an indirect table. 2.7.5.3.1 allows the driver no chain longer than the queue, so larger tables have no
# use; the bound keeps a copy of one small.
INDIRECT_LIMIT = QUEUE_SIZE_LIMIT

Buffers = GuestBuffers | list[memoryview]

_unpack_descriptor = struct.Struct("<QIHH").unpack_from

virtqueue_broken = declare("virtqueue_broken", queue=int, reason=str)


@dataclass(frozen=True, slots=True)
class QueueState:
    """What a stopped queue is, for save and load. No chain is in the device's hands while it is saved."""

    size: int
    enabled: bool
    descriptor_area: int
    driver_area: int
    device_area: int
    next_avail: int
    next_used: int
    signalled_used: int
    broken: bool


class Queue(Ring):
    """One split virtqueue.

    index: its number in the device. max_size: power of two, the largest and the initial queue size.
    on_broken: called once with the reason when the guest broke a rule.
    """

    def __init__(
        self, index: int, max_size: int, memory: GuestMemory, on_broken: Callable[[str], None] | None = None
    ) -> None:
        if not _is_queue_size(max_size, QUEUE_SIZE_LIMIT):
            raise ValueError(f"queue size {max_size} is not a power of two up to {QUEUE_SIZE_LIMIT}")
        super().__init__(index, memory, CHAIN_LIMIT)
        self.max_size = max_size
        self._ram = _ram_ranges(memory)
        low = next((region for region in memory.regions if region.kind == "ram"), None)
        # The first region of RAM, where most buffers are.
        self._low_start, self._low_end = (0, 0) if low is None else (int(low.start), int(low.end))
        self._low = memoryview(b"") if low is None else memory.view(low.start, low.size)
        self._on_broken = on_broken
        self._name = f"virtqueue {index}"
        self.reset()

    def reset(self) -> None:
        """Return to the state after device reset; chains in flight are forgotten."""
        self.size = self.max_size
        self.enabled = False
        self.broken = False
        self.is_resetting = False
        self.descriptor_area = 0
        self.driver_area = 0
        self.device_area = 0
        self.next_avail = self.seen_avail = 0
        self.next_used = self.signalled_used = 0
        self.held = {}
        self.detach()

    def begin_reset(self) -> None:
        """Take and return no chains any more; `reset` follows when the device let go of guest memory."""
        self.is_resetting = True

    def set_size(self, size: int) -> bool:
        """Choose the queue size before enabling; False (and nothing changes) if it is not allowed."""
        if self.enabled or not _is_queue_size(size, self.max_size):
            return False
        self.size = size
        return True

    def enable(self) -> None:
        """Start using the areas set up by the driver; broken if they are misaligned or not in RAM."""
        if self.enabled:
            return
        self.enabled = True
        self._check_areas()

    @property
    def is_active(self) -> bool:
        return self.enabled and not self.broken and not self.is_resetting

    @property
    def in_flight(self) -> int:
        """Count of chains the device holds."""
        return len(self.held)

    # -- for the native part --

    def violate(self, reason: str) -> None:
        """The guest broke a rule."""
        self._break(reason)

    def collect_slowly(self, head: int) -> Chain | None:
        """Copy and check the descriptors of the chain at `head`: the definition of what `RamTable.collect` does for
        all but the rare and the wrong ones."""
        # Each descriptor is read once, wherever its table is; `start` is that of the table in `table`.
        table: memoryview | bytes = self.memory.view(self.descriptor_area, DESCRIPTOR_SIZE * self.size)
        start, count, position = 0, self.size, head
        limit = min(self.size, CHAIN_LIMIT)  # a chain visiting more descriptors than there are has a loop
        is_indirect = False
        readable: list[Buffer] = []
        writable: list[Buffer] = []
        is_writing = False
        ram_start, ram_end = self._low_start, self._low_end
        visited = 0
        while True:
            gpa, size, flags, following = _unpack_descriptor(table, start + DESCRIPTOR_SIZE * position)
            visited += 1
            if visited > limit:
                self._break(f"chain at {head} has more than {limit} descriptors")
                return None
            if flags & VIRTQ_DESC_F_INDIRECT:
                problem = self._indirect_problem(gpa, size, flags, is_indirect)
                if problem:
                    self._break(f"chain at {head}: {problem}")
                    return None
                count, position = size // DESCRIPTOR_SIZE, 0
                limit, visited, is_indirect = min(count, CHAIN_LIMIT), 0, True
                if ram_start <= gpa and gpa + size <= ram_end:
                    table, start = self._low, gpa - ram_start
                else:
                    table, start = self.memory.read(gpa, size), 0
                continue
            if not (ram_start <= gpa and gpa + size <= ram_end) and not self._in_ram(gpa, size):
                self._break(f"chain at {head}: buffer {gpa:#018x}, size {size:#x} is not in RAM")
                return None
            if flags & VIRTQ_DESC_F_WRITE:
                is_writing = True
                if size:
                    writable.append(Buffer(gpa, size))
            elif is_writing:
                self._break(f"chain at {head}: readable descriptor after a writable one")
                return None
            elif size:
                readable.append(Buffer(gpa, size))
            if not flags & VIRTQ_DESC_F_NEXT:
                return Chain(head, self.memory, Segments(readable), Segments(writable))
            if following >= count:
                self._break(f"chain at {head}: next descriptor {following} of {count}")
                return None
            position = following

    def _indirect_problem(self, gpa: int, size: int, flags: int, is_indirect: bool) -> str | None:
        """What is wrong with a descriptor that refers to an indirect table (2.7.5.3), if anything."""
        if not self.indirect:
            return "indirect descriptor without VIRTIO_F_INDIRECT_DESC"
        if is_indirect:
            return "indirect descriptor inside an indirect table"
        if flags & VIRTQ_DESC_F_NEXT:
            return "indirect descriptor with a next one"
        if size == 0 or size % DESCRIPTOR_SIZE:
            return f"indirect table of {size} bytes"
        if size > DESCRIPTOR_SIZE * INDIRECT_LIMIT:
            return f"indirect table of {size} bytes, more than {INDIRECT_LIMIT} descriptors"
        if not self._in_ram(gpa, size):
            return f"indirect table {gpa:#018x}, size {size:#x} is not in RAM"
        return None

    # -- save and load --

    def save(self) -> QueueState:
        if self.held:
            raise StateError(f"save virtqueue {self.index}", f"{len(self.held)} chains in flight")
        return QueueState(
            size=self.size,
            enabled=self.enabled,
            descriptor_area=self.descriptor_area,
            driver_area=self.driver_area,
            device_area=self.device_area,
            next_avail=self.next_avail,
            next_used=self.next_used,
            signalled_used=self.signalled_used,
            broken=self.broken,
        )

    def load(self, state: QueueState) -> None:
        """Take over a saved state. Raises SavedStateError, and changes nothing, if it does not fit."""
        self.check(state)
        self.reset()
        self.size = state.size
        self.descriptor_area = state.descriptor_area
        self.driver_area = state.driver_area
        self.device_area = state.device_area
        self.next_avail = self.seen_avail = state.next_avail
        self.next_used = state.next_used
        self.signalled_used = state.signalled_used
        self.broken = state.broken
        self.enabled = state.enabled
        if self.is_active:
            self._map_areas()

    def check(self, state: QueueState) -> None:
        """Raise SavedStateError if `load` would."""
        if not isinstance(state, QueueState):
            raise SavedStateError(self._name, "not a queue state")
        numbers = (state.size, state.descriptor_area, state.driver_area, state.device_area)
        positions = (state.next_avail, state.next_used, state.signalled_used)
        if any(type(number) is not int for number in numbers + positions):
            raise SavedStateError(self._name, "not made of integers")
        if type(state.enabled) is not bool or type(state.broken) is not bool:
            raise SavedStateError(self._name, "enabled and broken are not booleans")
        if not _is_queue_size(state.size, self.max_size):
            raise SavedStateError(self._name, f"size {state.size}, the largest is {self.max_size}")
        if any(not 0 <= position <= 0xFFFF for position in positions):
            raise SavedStateError(self._name, f"ring positions {positions} are not 16-bit")
        if any(not 0 <= number < 1 << 64 for number in numbers):
            raise SavedStateError(self._name, "ring addresses are not 64-bit")
        if state.enabled and not state.broken:
            problem = self._areas_problem(state.size, state.descriptor_area, state.driver_area, state.device_area)
            if problem:
                raise SavedStateError(self._name, problem)

    # -- guest memory --

    def _check_areas(self) -> None:
        problem = self._areas_problem(self.size, self.descriptor_area, self.driver_area, self.device_area)
        if problem:
            self._break(problem)
        else:
            self._map_areas()

    def _map_areas(self) -> None:
        """Look the checked areas up once: they are used several times for every chain."""
        view = self.memory.view
        self.attach(
            view(self.driver_area, 6 + 2 * self.size), view(self.device_area, 6 + USED_ELEMENT_SIZE * self.size)
        )

    def _areas_problem(self, size: int, descriptors: int, driver: int, device: int) -> str | None:
        """What is wrong with the three areas (2.7: sizes and alignments), if anything."""
        areas = (
            ("descriptor area", descriptors, DESCRIPTOR_SIZE * size, 16),
            ("driver area", driver, 6 + 2 * size, 2),
            ("device area", device, 6 + USED_ELEMENT_SIZE * size, 4),
        )
        for name, gpa, length, alignment in areas:
            if gpa % alignment:
                return f"{name} {gpa:#018x} is not aligned to {alignment}"
            if not self._in_ram(gpa, length):
                return f"{name} {gpa:#018x}, size {length:#x} is not in RAM"
            if self.memory.find_region(gpa, length) is None:
                return f"{name} {gpa:#018x}, size {length:#x} is in two regions of RAM"
        return None

    def _in_ram(self, gpa: int, size: int) -> bool:
        return any(start <= gpa and gpa + size <= end for start, end in self._ram)

    def _break(self, reason: str) -> None:
        """Stop using the queue: the guest broke a rule."""
        self.broken = True
        if virtqueue_broken.on:
            virtqueue_broken(self.index, reason)
        if guest_error.on:
            guest_error(self._name, reason)
        if self._on_broken is not None:
            self._on_broken(reason)


def _is_queue_size(size: int, largest: int) -> bool:
    return 0 < size <= largest and size & (size - 1) == 0


def _ram_ranges(memory: GuestMemory) -> list[tuple[int, int]]:
    """Return [start, end) of RAM with adjacent regions joined; devices reach nothing else."""
    ranges: list[tuple[int, int]] = []
    for region in sorted(memory.regions, key=lambda region: region.start):
        if region.kind != "ram":
            continue
        end = region.start + region.size
        if ranges and ranges[-1][1] == region.start:
            ranges[-1] = (ranges[-1][0], end)
        else:
            ranges.append((region.start, end))
    return ranges
