"""The driver's side of virtio, for tests: queues in guest memory, and a device without a transport.

Source: VIRTIO 1.2, sections 2.7 and 3.1.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from manor.devices.virtio.device import Status, VirtioDevice
from manor.devices.virtio.queue import (
    VIRTQ_DESC_F_INDIRECT,
    VIRTQ_DESC_F_NEXT,
    VIRTQ_DESC_F_WRITE,
    Queue,
)
from manor.mem.guest_memory import GuestMemory


class Allocator:
    """Hands out pieces of guest RAM, one after the other; never takes any back."""

    def __init__(self, start: int, end: int) -> None:
        self._next = start
        self._end = end

    def take(self, size: int, alignment: int = 16) -> int:
        """Guest-physical address of `size` fresh bytes. Raises MemoryError when there are none left."""
        gpa = (self._next + alignment - 1) // alignment * alignment
        if gpa + size > self._end:
            raise MemoryError(f"test memory is used up: {size:#x} bytes at {gpa:#x}")
        self._next = gpa + size
        return gpa


@dataclass(frozen=True, slots=True)
class Used:
    """One used element."""

    head: int
    written: int


class VirtqDriver:
    """A virtqueue as a driver lays it out and uses it."""

    def __init__(self, memory: GuestMemory, allocator: Allocator, size: int) -> None:
        self.memory = memory
        self.allocator = allocator
        self.size = size
        self.descriptor_area = allocator.take(16 * size, 16)
        self.driver_area = allocator.take(6 + 2 * size, 2)
        self.device_area = allocator.take(6 + 8 * size, 4)
        for gpa, count in ((self.descriptor_area, 16 * size), (self.driver_area, 6 + 2 * size)):
            memory.write(gpa, bytes(count))
        memory.write(self.device_area, bytes(6 + 8 * size))
        self.free = list(range(size))
        self.available = 0
        self._seen_used = 0
        self._chains: dict[int, tuple[list[int], list[tuple[int, int]]]] = {}

    def write_descriptor(self, index: int, gpa: int, size: int, flags: int, following: int = 0) -> None:
        """Write one descriptor of the table, whatever it says."""
        self.memory.write(
            self.descriptor_area + 16 * index, struct.pack("<QIHH", gpa, size, flags, following)
        )

    def make_available(self, head: int) -> None:
        """Put `head` into the available ring."""
        self.memory.write_u16(self.driver_area + 4 + 2 * (self.available % self.size), head)
        self.available = (self.available + 1) & 0xFFFF
        self.memory.write_u16(self.driver_area + 2, self.available)

    def add(
        self, readable: Sequence[bytes] = (), writable: Sequence[int] = (), *, indirect: bool = False
    ) -> int:
        """Add a chain: contents the device reads, sizes it may write. Returns its head."""
        pieces: list[tuple[int, int, int]] = []
        for data in readable:
            gpa = self.allocator.take(max(len(data), 1))
            self.memory.write(gpa, data)
            pieces.append((gpa, len(data), 0))
        for size in writable:
            pieces.append((self.allocator.take(max(size, 1)), size, VIRTQ_DESC_F_WRITE))
        outputs = [(gpa, size) for gpa, size, flags in pieces if flags]
        if indirect:
            table = self.allocator.take(16 * len(pieces))
            for index, (gpa, size, flags) in enumerate(pieces):
                flags |= VIRTQ_DESC_F_NEXT if index + 1 < len(pieces) else 0
                self.memory.write(table + 16 * index, struct.pack("<QIHH", gpa, size, flags, index + 1))
            taken = [self.free.pop(0)]
            self.write_descriptor(taken[0], table, 16 * len(pieces), VIRTQ_DESC_F_INDIRECT)
        else:
            taken = [self.free.pop(0) for _ in pieces]
            for index, (gpa, size, flags) in enumerate(pieces):
                last = index + 1 == len(pieces)
                flags |= 0 if last else VIRTQ_DESC_F_NEXT
                self.write_descriptor(taken[index], gpa, size, flags, 0 if last else taken[index + 1])
        self._chains[taken[0]] = (taken, outputs)
        self.make_available(taken[0])
        return taken[0]

    def used(self) -> list[Used]:
        """Elements used since the last call; their descriptors are free again."""
        index = self.memory.read_u16(self.device_area + 2)
        found = []
        while self._seen_used != index:
            element = self.device_area + 4 + 8 * (self._seen_used % self.size)
            found.append(Used(self.memory.read_u32(element), self.memory.read_u32(element + 4)))
            self._seen_used = (self._seen_used + 1) & 0xFFFF
        for used in found:
            self.free += self._chains[used.head][0]
        return found

    def written(self, used: Used) -> bytes:
        """What the device wrote into a used chain."""
        parts = [self.memory.read(gpa, size) for gpa, size in self._chains[used.head][1]]
        return b"".join(parts)[: used.written]

    def set_used_event(self, index: int) -> None:
        """With VIRTIO_F_EVENT_IDX: ask to be told when used.idx passes `index`."""
        self.memory.write_u16(self.driver_area + 4 + 2 * self.size, index)

    @property
    def avail_event(self) -> int:
        """With VIRTIO_F_EVENT_IDX: the addition the device wants to be kicked for."""
        return self.memory.read_u16(self.device_area + 4 + 8 * self.size)

    def set_flags(self, flags: int) -> None:
        """Flags of the available ring."""
        self.memory.write_u16(self.driver_area, flags)

    def attach(self, queue: Queue) -> None:
        """Tell a device's queue where everything is, as a transport would."""
        queue.set_size(self.size)
        queue.descriptor_area = self.descriptor_area
        queue.driver_area = self.driver_area
        queue.device_area = self.device_area


class DeferQueue:
    """A `Defer` that collects callbacks; `run` calls them, and those they add."""

    def __init__(self) -> None:
        self.callbacks: list[Callable[[], None]] = []

    def __call__(self, callback: Callable[[], None]) -> None:
        self.callbacks.append(callback)

    def run(self, turns: int = 1000) -> int:
        """Run until nothing is left; how many ran. Raises RuntimeError if `turns` do not suffice."""
        for count in range(turns):
            if not self.callbacks:
                return count
            self.callbacks.pop(0)()
        raise RuntimeError(f"work still left after {turns} turns")


class FakeNotifier:
    """A transport that remembers what it was told."""

    def __init__(self) -> None:
        self.used: list[int] = []
        self.config_changes = 0

    def queue_used(self, index: int) -> None:
        self.used.append(index)

    def config_changed(self) -> None:
        self.config_changes += 1


def start_device(
    device: VirtioDevice, memory: GuestMemory, allocator: Allocator, features: int, size: int = 16
) -> list[VirtqDriver]:
    """Initialise `device` as 3.1.1 says, without a transport; one driver queue per device queue.

    Raises RuntimeError if the device refuses the features.
    """
    device.write_status(0)
    device.write_status(Status.ACKNOWLEDGE)
    device.write_status(Status.ACKNOWLEDGE | Status.DRIVER)
    for select in (0, 1):
        device.write_driver_features(select, features >> 32 * select & 0xFFFF_FFFF)
    so_far = Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK
    device.write_status(so_far)
    if not device.status & Status.FEATURES_OK:
        raise RuntimeError(f"{device.name} refuses features {features:#x}")
    drivers = []
    for queue in device.queues:
        driver = VirtqDriver(memory, allocator, min(size, queue.max_size))
        driver.attach(queue)
        device.enable_queue(queue.index)
        drivers.append(driver)
    device.write_status(so_far | Status.DRIVER_OK)
    return drivers
