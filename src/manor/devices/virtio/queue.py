"""Split virtqueue, the device's side.

Source: VIRTIO 1.2 (OASIS, 2022), section 2.7 "Split Virtqueues".

The three areas live in guest memory, which the guest may change at any moment. So each field is read once,
checked, and then used from the host-side copy: positions in the rings, the set of heads the device holds,
descriptors of a chain. A rule broken by the guest makes the queue `broken`: `pop` returns nothing from then
on and the owner is told through `on_broken`, once. No guest input raises an exception.

Thread: every method under the machine lock.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass

from manor.base.errors import SavedStateError, StateError
from manor.mem.guest_memory import GuestMemory, slices
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

virtqueue_pop = declare("virtqueue_pop", queue=int, head=int, readable=int, writable=int)
virtqueue_used = declare("virtqueue_used", queue=int, head=int, written=int)
virtqueue_broken = declare("virtqueue_broken", queue=int, reason=str)


class Chain:
    """A descriptor chain the device holds: what it may read, then what it may write.

    Holds the host's copy of the descriptors; contents stay in guest memory, so read them once.
    readable_size, writable_size: bytes of either part.
    """

    __slots__ = ("head", "memory", "readable", "readable_size", "writable", "writable_size")

    def __init__(
        self,
        head: int,
        memory: GuestMemory,
        readable: Segments,
        writable: Segments,
    ) -> None:
        self.head = head
        self.memory = memory
        self.readable = readable
        self.writable = writable
        self.readable_size = readable.size
        self.writable_size = writable.size

    def readable_buffers(self, offset: int) -> Buffers:
        """The readable part from `offset` bytes into it, for the host to read; no copy."""
        return self.memory.buffers_of(self.readable, offset, self.readable_size)

    def writable_buffers(self, limit: int) -> Buffers:
        """The first `limit` bytes of the writable part, for the host to write; no copy. Then call `filled`."""
        return self.memory.buffers_of(self.writable, 0, limit)

    def filled(self, buffers: Buffers) -> None:
        """Tell that the host wrote `buffers`, made by `writable_buffers`."""
        if isinstance(buffers, GuestBuffers):
            self.memory.written_buffers(buffers)
        else:
            self.memory.written_all(slices(self.writable, 0, sum(piece.nbytes for piece in buffers)))

    def write_last(self, value: int) -> None:
        """Set the last byte of the writable part, which must have one."""
        last = self.writable[-1]
        self.memory.write_u8(last.gpa + last.size - 1, value)

    def read(self, limit: int, offset: int = 0) -> bytes:
        """Copy up to `limit` bytes of the readable part, from `offset` bytes into it."""
        if offset == 0 and self.readable and self.readable[0].size == limit:
            return self.memory.read(self.readable[0].gpa, limit)
        parts: list[bytes] = []
        for gpa, size in slices(self.readable, offset, limit):
            parts.append(self.memory.read(gpa, size))
        return b"".join(parts)

    def write(self, data: bytes, offset: int = 0) -> int:
        """Copy `data` into the writable part at `offset` bytes; the count of bytes that found room."""
        done = 0
        for gpa, size in slices(self.writable, offset, len(data)):
            self.memory.write(gpa, data[done : done + size])
            done += size
        return done


@dataclass(frozen=True, slots=True)
class _Rings:
    """Guest memory of an enabled queue: descriptors as bytes, driver and device area in 16-bit words, and the used
    elements in 32-bit words behind one for flags and index (2.7.6, 2.7.8). Aligned words are single accesses."""

    descriptors: memoryview
    driver: memoryview
    device: memoryview
    used: memoryview


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


class Queue:
    """One split virtqueue.

    index: its number in the device. max_size: power of two, the largest and the initial queue size.
    on_broken: called once with the reason when the guest broke a rule.
    """

    def __init__(
        self, index: int, max_size: int, memory: GuestMemory, on_broken: Callable[[str], None] | None = None
    ) -> None:
        if not _is_queue_size(max_size, QUEUE_SIZE_LIMIT):
            raise ValueError(f"queue size {max_size} is not a power of two up to {QUEUE_SIZE_LIMIT}")
        self.index = index
        self.max_size = max_size
        self.event_idx = False  # VIRTIO_F_EVENT_IDX negotiated
        self.indirect = False  # VIRTIO_F_INDIRECT_DESC negotiated
        self._memory = memory
        self._ram = _ram_ranges(memory)
        self._collect_fast = memory.ram_table.collect
        low = next((region for region in memory.regions if region.kind == "ram"), None)
        # The first region of RAM, where most buffers are.
        self._low_start, self._low_end = (0, 0) if low is None else (int(low.start), int(low.end))
        self._low = memoryview(b"") if low is None else memory.view(low.start, low.size)
        self._on_broken = on_broken
        self._fence = threading.Lock()
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
        self._next_avail = 0  # position of the next chain to take; the guest's copy is only a limit
        self._seen_avail = 0  # avail.idx as last read and checked
        self._next_used = 0  # our authority for used.idx
        self._signalled_used = 0  # used.idx when the driver was last told
        self._in_flight: dict[int, Chain] = {}
        self._rings: _Rings | None = None

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
        return len(self._in_flight)

    def holds(self, chain: Chain) -> bool:
        """Whether `chain` is still in the device's hands: no reset has forgotten it."""
        return self._in_flight.get(chain.head) is chain and not self.is_resetting

    # -- taking chains --

    def pop(self) -> Chain | None:
        """Take the next available chain; None if there is none (the driver will kick when it adds one) or
        broken.

        Source: 2.7.13 "Receiving Used Buffers From The Device", 2.7.5, 2.7.10.
        """
        rings = self._rings
        if rings is None or self.broken or self.is_resetting or not self._has_available(rings):
            return None
        position = self._next_avail % self.size
        head = rings.driver[2 + position]
        if head >= self.size:
            self._break(f"available entry {position} names descriptor {head} of {self.size}")
            return None
        if head in self._in_flight:
            self._break(f"descriptor {head} made available while the device holds it")
            return None
        # What it does not take is looked at again, from the beginning, by `_collect`: it says what is wrong.
        parts = self._collect_fast(
            self.descriptor_area, self.size, head, min(self.size, CHAIN_LIMIT), CHAIN_LIMIT, self.indirect
        )
        chain = self._collect(rings, head) if parts is None else Chain(head, self._memory, *parts)
        if chain is None:
            return None
        self._next_avail = (self._next_avail + 1) & 0xFFFF
        self._in_flight[head] = chain
        if virtqueue_pop.on:
            virtqueue_pop(self.index, head, chain.readable_size, chain.writable_size)
        return chain

    def undo_pop(self, chain: Chain) -> None:
        """Put the chain taken last back; it will be taken again. Only right after its `pop`."""
        if self._in_flight.get(chain.head) is not chain:
            return  # the queue was reset meanwhile
        del self._in_flight[chain.head]
        self._next_avail = (self._next_avail - 1) & 0xFFFF

    def has_available(self) -> bool:
        """Whether `pop` would look at a chain; if not, the driver's next addition kicks."""
        rings = self._rings
        return rings is not None and self.is_active and self._has_available(rings)

    def _has_available(self, rings: _Rings) -> bool:
        if self._seen_avail != self._next_avail:
            return True
        if self._read_available_index(rings):
            return True
        if self.broken:
            return False
        if self.event_idx:
            # Ask for a kick with the next chain, then look again: the driver may have added one before it
            # could see the request. Fence pairs with the driver's between avail.idx and avail_event
            # (2.7.10.1).
            rings.device[2 + 4 * self.size] = self._next_avail
            self._memory.written(self.device_area + 4 + USED_ELEMENT_SIZE * self.size, 2)
            self._full_fence()
            return self._read_available_index(rings)
        return False

    def _read_available_index(self, rings: _Rings) -> bool:
        """Refresh the checked copy of avail.idx; True if chains wait."""
        index = rings.driver[1]
        waiting = (index - self._next_avail) & 0xFFFF
        if waiting > self.size:
            self._break(f"available index {index} is {waiting} ahead of {self._next_avail}, queue size {self.size}")
            return False
        self._seen_avail = index
        return waiting != 0

    def _collect(self, rings: _Rings, head: int) -> Chain | None:
        """Copy and check the descriptors of the chain at `head`: the definition of what `RamTable.collect` does for
        all but the rare and the wrong ones."""
        # Each descriptor is read once, wherever its table is; `start` is that of the table in `table`.
        table: memoryview | bytes = rings.descriptors
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
                    table, start = self._memory.read(gpa, size), 0
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
                return Chain(head, self._memory, Segments(readable), Segments(writable))
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

    # -- returning chains --

    def add_used(self, chain: Chain, written: int) -> None:
        """Return a chain to the driver.

        written: bytes the device wrote from the start of the writable part; 0 for a read request.
        The driver learns of it by `take_interrupt` after the last one of a batch, which must follow.
        Source: 2.7.8 "The Virtqueue Used Ring".
        """
        if self._in_flight.get(chain.head) is not chain:
            return  # the queue was reset while the device worked on the chain
        assert 0 <= written <= chain.writable_size
        del self._in_flight[chain.head]
        rings = self._rings
        if not self.is_active:
            return
        assert rings is not None
        position = self._next_used % self.size
        rings.used[1 + 2 * position] = chain.head
        rings.used[2 + 2 * position] = written
        self._next_used = (self._next_used + 1) & 0xFFFF
        # The element must be visible before the index; pairs with the driver's read barrier after used.idx
        # (2.7.13).
        self._full_fence()
        rings.device[1] = self._next_used
        self._memory.written(self.device_area + 2, 2)
        if virtqueue_used.on:
            virtqueue_used(self.index, chain.head, written)

    def take_interrupt(self) -> bool:
        """Whether the driver wants to be told of the chains returned since the last call that said so.

        Source: 2.7.7 "Used Buffer Notification Suppression".
        """
        added = (self._next_used - self._signalled_used) & 0xFFFF
        rings = self._rings
        if rings is None or added == 0 or not self.is_active:
            return False
        # The elements, once a batch: for what was translated from a page that the ring shares with code.
        self._memory.written(self.device_area, 4 + USED_ELEMENT_SIZE * self.size)
        # used.idx must be visible before the driver's wish is read; pairs with its barrier after enabling
        # notifications.
        self._full_fence()
        if self.event_idx:
            event = rings.driver[2 + self.size]
            # Told if the index passed `event` since it was told last; the driver's formula, modulo 2**16.
            wanted = (self._next_used - event - 1) & 0xFFFF < added
        else:
            wanted = not rings.driver[0] & VIRTQ_AVAIL_F_NO_INTERRUPT
        self._signalled_used = self._next_used
        return wanted

    # -- save and load --

    def save(self) -> QueueState:
        if self._in_flight:
            raise StateError(f"save virtqueue {self.index}", f"{len(self._in_flight)} chains in flight")
        return QueueState(
            size=self.size,
            enabled=self.enabled,
            descriptor_area=self.descriptor_area,
            driver_area=self.driver_area,
            device_area=self.device_area,
            next_avail=self._next_avail,
            next_used=self._next_used,
            signalled_used=self._signalled_used,
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
        self._next_avail = self._seen_avail = state.next_avail
        self._next_used = state.next_used
        self._signalled_used = state.signalled_used
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
        """Look the checked areas up once: each is used several times for every chain."""
        view = self._memory.view
        device = view(self.device_area, 4 + USED_ELEMENT_SIZE * self.size)
        self._rings = _Rings(
            descriptors=view(self.descriptor_area, DESCRIPTOR_SIZE * self.size),
            driver=view(self.driver_area, 6 + 2 * self.size).cast("H"),
            device=view(self.device_area, 6 + USED_ELEMENT_SIZE * self.size).cast("H"),
            used=device.cast("I"),
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
            if self._memory.find_region(gpa, length) is None:
                return f"{name} {gpa:#018x}, size {length:#x} is in two regions of RAM"
        return None

    def _in_ram(self, gpa: int, size: int) -> bool:
        return any(start <= gpa and gpa + size <= end for start, end in self._ram)

    def _full_fence(self) -> None:
        """Order our earlier stores before our later loads, as other processors see them.

        An atomic read-modify-write is the full barrier that Python offers; taking an uncontended lock is one.
        """
        with self._fence:
            pass

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
