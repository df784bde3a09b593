"""Address dispatch: which device answers an access, and what happens when none does.

The contract: a target gets offsets relative to its own start, values fit the access size, and calls are made
with the machine lock held. Reads that nobody answers give all ones, writes nobody takes are dropped, and both
are traced; that is what a PC does.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Protocol

from manor.bus.doorbell import MapWatcher
from manor.bus.range_map import Range, RangeMap
from manor.trace.event import declare

bus_unmapped_read = declare("bus_unmapped_read", bus=str, address=int, size=int)
bus_unmapped_write = declare("bus_unmapped_write", bus=str, address=int, size=int, value=int)


class BusTarget(Protocol):
    """What can be put on a bus. size: 1, 2, 4 or 8, or another number for a part of a split access."""

    def read(self, offset: int, size: int) -> int: ...
    def write(self, offset: int, size: int, value: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Slot:
    """One mapped target."""

    target: BusTarget
    name: str


@dataclass(frozen=True, slots=True)
class BusStatistics:
    """Counts since the bus was made. Unlocked counters: exact only when the machine is paused."""

    reads: int
    writes: int
    unmapped: int


class Bus:
    """One address space: memory-mapped or port I/O.

    Thread: any for read and write. map, unmap and remap take the machine lock themselves.
    """

    def __init__(self, name: str, lock: threading.RLock | None = None) -> None:
        """lock: the machine lock, shared by all buses of a machine; without one the bus makes its own."""
        self.name = name
        self.lock = threading.RLock() if lock is None else lock
        self._ranges: RangeMap[Slot] = RangeMap()
        self._last: Range[Slot] | None = None
        self.watcher: MapWatcher | None = None
        """Told about every change of the map that is made from now on."""
        self._reads = 0
        self._writes = 0
        self._unmapped = 0

    # --- the map --------------------------------------------------------------------------------------------

    def map(self, start: int, size: int, target: BusTarget, name: str) -> None:
        """Put `target` at [start, start + size). Raises ValueError naming the other one if that overlaps."""
        with self.lock:
            for used in self._ranges:
                if used.start < start + size and start < used.end:
                    raise ValueError(
                        f"{self.name}: {name} at [{start:#x}, {start + size:#x}) overlaps {used.owner.name} "
                        f"at [{used.start:#x}, {used.end:#x})"
                    )
            self._ranges.add(start, size, Slot(target, name))
            self._last = None
            if self.watcher is not None:
                self.watcher.mapped(start, target)

    def unmap(self, start: int) -> None:
        """Remove the target that starts at `start`. Raises KeyError if there is none."""
        with self.lock:
            self._ranges.remove(start)
            self._last = None
            if self.watcher is not None:
                self.watcher.unmapped(start)

    def remap(self, start: int, new_start: int) -> None:
        """Move the target at `start` to `new_start`. On overlap: ValueError, and it stays where it was."""
        with self.lock:
            old = self._ranges.remove(start)
            self._last = None
            if self.watcher is not None:
                self.watcher.unmapped(start)
            try:
                self.map(new_start, old.size, old.owner.target, old.owner.name)
            except ValueError:
                self._ranges.add(old.start, old.size, old.owner)
                if self.watcher is not None:
                    self.watcher.mapped(old.start, old.owner.target)
                raise

    def find(self, address: int) -> tuple[BusTarget, int, str] | None:
        """(target, offset, name) at `address`."""
        found = self._ranges.find(address)
        return None if found is None else (found.owner.target, address - found.start, found.owner.name)

    def ranges(self) -> list[tuple[int, int, str]]:
        """(start, size, name) of everything mapped, ascending."""
        return [(used.start, used.size, used.owner.name) for used in self._ranges]

    def statistics(self) -> BusStatistics:
        return BusStatistics(self._reads, self._writes, self._unmapped)

    # --- access ---------------------------------------------------------------------------------------------

    def read(self, address: int, size: int) -> int:
        """Value of `size` bytes at `address`, little-endian."""
        with self.lock:
            self._reads += 1
            found = self._last
            if found is None or not found.start <= address < found.end:
                found = self._ranges.find(address)
                self._last = found
            if found is not None and address + size <= found.end:
                return found.owner.target.read(address - found.start, size)
            return self._read_split(address, size)

    def write(self, address: int, size: int, value: int) -> None:
        """Write the low `size` bytes of `value` at `address`, little-endian."""
        with self.lock:
            self._writes += 1
            found = self._last
            if found is None or not found.start <= address < found.end:
                found = self._ranges.find(address)
                self._last = found
            value &= (1 << (8 * size)) - 1
            if found is not None and address + size <= found.end:
                found.owner.target.write(address - found.start, size, value)
                return
            self._write_split(address, size, value)

    def _piece(self, address: int, end: int) -> tuple[Range[Slot] | None, int]:
        """Owner of `address` and the end of the part of [address, end) that it, or nobody, owns."""
        found = self._ranges.find(address)
        if found is not None:
            return found, min(end, found.end)
        following = self._ranges.next_start(address)
        return None, end if following is None else min(end, following)

    def _read_split(self, address: int, size: int) -> int:
        value = 0
        position, end = address, address + size
        while position < end:
            found, stop = self._piece(position, end)
            count = stop - position
            if found is None:
                part = (1 << (8 * count)) - 1
                self._unmapped += 1
                if bus_unmapped_read.on:
                    bus_unmapped_read(self.name, position, count)
            else:
                part = found.owner.target.read(position - found.start, count)
            value |= part << (8 * (position - address))
            position = stop
        return value

    def _write_split(self, address: int, size: int, value: int) -> None:
        position, end = address, address + size
        while position < end:
            found, stop = self._piece(position, end)
            count = stop - position
            part = (value >> (8 * (position - address))) & ((1 << (8 * count)) - 1)
            if found is None:
                self._unmapped += 1
                if bus_unmapped_write.on:
                    bus_unmapped_write(self.name, position, count, part)
            else:
                found.owner.target.write(position - found.start, count, part)
            position = stop
