"""The driver's side of PCI, for tests: enumerate through ECAM, size BARs, find capabilities, program MSI-X,
drive virtio-pci.

It sees the machine only by reads and writes of its memory bus, as a guest kernel does.
Sources: PCI Local Bus Specification 3.0, chapter 6; VIRTIO 1.2, sections 3.1 and 4.1.
"""

from __future__ import annotations

from dataclasses import dataclass

from manor.bus.bus import Bus
from manor.testing.virtq_driver import VirtqDriver


@dataclass(frozen=True, slots=True)
class FoundBar:
    """A BAR as software measured it."""

    index: int
    kind: str
    size: int
    address: int


class FoundFunction:
    """One function found on bus 0."""

    def __init__(self, bus: Bus, ecam: int, slot: int, number: int) -> None:
        self._bus = bus
        self._base = ecam + (slot << 15) + (number << 12)
        self.slot = slot
        self.number = number
        self.vendor_id = self.read(0, 2)
        self.device_id = self.read(2, 2)
        self.bars: dict[int, FoundBar] = {}

    def read(self, offset: int, size: int) -> int:
        """Read configuration space."""
        return self._bus.read(self._base + offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        """Write configuration space."""
        self._bus.write(self._base + offset, size, value)

    def size_bars(self) -> dict[int, FoundBar]:
        """Measure all BARs with decoding off, as 6.2.5.1 describes; addresses are put back."""
        command = self.read(4, 2)
        self.write(4, 2, command & ~3)
        index = 0
        while index < 6:
            offset = 0x10 + 4 * index
            old = self.read(offset, 4)
            self.write(offset, 4, 0xFFFF_FFFF)
            probe = self.read(offset, 4)
            self.write(offset, 4, old)
            used = 1
            if probe & 1:
                size = (~(probe & 0xFFFF_FFFC) & 0xFFFF_FFFF) + 1
                self.bars[index] = FoundBar(index, "io", size, old & ~3)
            elif probe & 4:
                high = self.read(offset + 4, 4)
                self.write(offset + 4, 4, 0xFFFF_FFFF)
                wide = self.read(offset + 4, 4) << 32 | probe & ~0xF
                self.write(offset + 4, 4, high)
                size = (~wide & (1 << 64) - 1) + 1
                self.bars[index] = FoundBar(index, "memory64", size, high << 32 | old & ~0xF)
                used = 2
            elif probe:
                size = (~(probe & ~0xF) & 0xFFFF_FFFF) + 1
                self.bars[index] = FoundBar(index, "memory32", size, old & ~0xF)
            index += used
        self.write(4, 2, command)
        return self.bars

    def enable(self) -> None:
        """Memory and I/O decoding, bus master."""
        self.write(4, 2, self.read(4, 2) | 7)

    def capabilities(self) -> list[tuple[int, int]]:
        """(ID, offset) of the capability list. Raises RuntimeError if it does not end."""
        found: list[tuple[int, int]] = []
        offset = self.read(0x34, 1) if self.read(6, 2) & 0x10 else 0
        while offset:
            if len(found) > 48:
                raise RuntimeError("the capability list has a loop")
            found.append((self.read(offset, 1), offset))
            offset = self.read(offset + 1, 1)
        return found

    def bar_read(self, index: int, offset: int, size: int) -> int:
        """Read from a measured BAR."""
        return self._bus.read(self.bars[index].address + offset, size)

    def bar_write(self, index: int, offset: int, size: int, value: int) -> None:
        """Write to a measured BAR."""
        self._bus.write(self.bars[index].address + offset, size, value)

    def program_msix(self, address: int, first_data: int) -> int:
        """Enable MSI-X with every vector unmasked; vector n sends `first_data + n`. Returns the count."""
        offset = next(at for cap, at in self.capabilities() if cap == 0x11)
        control = self.read(offset + 2, 2)
        table = self.read(offset + 4, 4)
        count = (control & 0x7FF) + 1
        self.write(offset + 2, 2, control | 0xC000)
        for vector in range(count):
            entry = (table & ~7) + 16 * vector
            for part, value in enumerate((address & 0xFFFF_FFFF, address >> 32, first_data + vector, 0)):
                self.bar_write(table & 7, entry + 4 * part, 4, value)
        self.write(offset + 2, 2, control & ~0x4000 | 0x8000)
        return count


def enumerate_functions(bus: Bus, ecam: int) -> list[FoundFunction]:
    """Find the functions of bus 0, looking at functions 1 to 7 only where the header says there are any."""
    found = []
    for slot in range(32):
        first = FoundFunction(bus, ecam, slot, 0)
        if first.vendor_id == 0xFFFF:
            continue
        found.append(first)
        if first.read(0x0E, 1) & 0x80:
            others = [FoundFunction(bus, ecam, slot, number) for number in range(1, 8)]
            found += [other for other in others if other.vendor_id != 0xFFFF]
    return found


class VirtioPciDriver:
    """A virtio driver over a function that was sized and enabled."""

    def __init__(self, function: FoundFunction) -> None:
        self.function = function
        self.structures: dict[int, tuple[int, int, int]] = {}
        self.pci_cfg = 0
        self.notify_multiplier = 0
        for cap, offset in function.capabilities():
            if cap != 0x09:
                continue
            kind = function.read(offset + 3, 1)
            place = function.read(offset + 4, 1), function.read(offset + 8, 4), function.read(offset + 12, 4)
            if kind == 5:
                self.pci_cfg = offset
            else:
                self.structures[kind] = place
            if kind == 2:
                self.notify_multiplier = function.read(offset + 16, 4)

    def read(self, offset: int, size: int, structure: int = 1) -> int:
        """Read a field of a structure, the common configuration by default."""
        bar, start, _ = self.structures[structure]
        return self.function.bar_read(bar, start + offset, size)

    def write(self, offset: int, size: int, value: int, structure: int = 1) -> None:
        """Write a field of a structure."""
        bar, start, _ = self.structures[structure]
        self.function.bar_write(bar, start + offset, size, value)

    def negotiate(self, wanted: int) -> int:
        """Status up to FEATURES_OK with the wanted bits among those offered; returns the accepted ones.

        Raises RuntimeError if the device refuses.
        """
        self.write(0x14, 1, 0)
        self.write(0x14, 1, 1)
        self.write(0x14, 1, 3)
        offered = 0
        for select in (0, 1):
            self.write(0x00, 4, select)
            offered |= self.read(0x04, 4) << 32 * select
        accepted = offered & wanted
        for select in (0, 1):
            self.write(0x08, 4, select)
            self.write(0x0C, 4, accepted >> 32 * select & 0xFFFF_FFFF)
        self.write(0x14, 1, 0x0B)
        if not self.read(0x14, 1) & 8:
            raise RuntimeError(f"the device refuses features {accepted:#x}")
        return accepted

    def set_up_queue(self, index: int, queue: VirtqDriver, vector: int = 0xFFFF) -> None:
        """Give the device one queue and its vector, and enable it."""
        self.write(0x16, 2, index)
        self.write(0x18, 2, queue.size)
        self.write(0x1A, 2, vector)
        for offset, area in (
            (0x20, queue.descriptor_area),
            (0x28, queue.driver_area),
            (0x30, queue.device_area),
        ):
            self.write(offset, 4, area & 0xFFFF_FFFF)
            self.write(offset + 4, 4, area >> 32)
        self.write(0x1C, 2, 1)

    def start(self) -> None:
        """DRIVER_OK."""
        self.write(0x14, 1, 0x0F)

    def kick(self, index: int) -> None:
        """Notify queue `index` at its own address."""
        self.write(0x16, 2, index)
        self.write(self.read(0x1E, 2) * self.notify_multiplier, 2, index, structure=2)
