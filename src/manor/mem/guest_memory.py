"""Guest-physical memory: anonymous mappings with bounds-checked access.

The guest can change memory at any moment: read a value once, check it, then use that copy. Aligned accesses
of 2, 4 and 8 bytes are single host accesses, so a reader never sees half of a write.
Thread: any; there is no lock, exactly as between real processors and devices.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Literal

from manor.base.address import PAGE_SIZE, Gpa
from manor.base.errors import ConfigError, HostError, OutOfRange
from manor.mem.scatter_native import GuestBuffers, RamTable, Segments
from manor.trace.event import guest_error

__all__ = ["GuestMemory", "OutOfRange", "Region"]

_MAP_NORESERVE: Final = getattr(mmap, "MAP_NORESERVE", 0x4000)
"""Linux's number, for Python versions whose mmap module does not name it. Source: Linux uapi
asm-generic/mman.h."""
_PHYSICAL_BITS: Final = 52
"""Widest physical address of the architecture. Source: Intel SDM volume 3, 4.1.4."""
_PIECE: Final = struct.Struct("=QQ")


@dataclass(frozen=True, slots=True)
class Region:
    """A piece of guest-physical memory. start and size: bytes, multiples of the page size."""

    start: Gpa
    size: int
    kind: Literal["ram", "rom"] = "ram"

    @property
    def end(self) -> Gpa:
        """First address behind the region."""
        return Gpa(self.start + self.size)


class _Mapping:
    """The host memory behind one region, as bytes and as naturally aligned words."""

    __slots__ = ("address", "data", "end", "is_rom", "memory", "region", "start", "u16", "u32", "u64")

    def __init__(self, region: Region) -> None:
        self.region = region
        self.start = int(region.start)
        self.end = int(region.end)
        self.is_rom = region.kind == "rom"
        try:
            # NORESERVE: pages exist when touched; the guest's size is no promise of host memory.
            self.memory = mmap.mmap(
                -1, region.size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
            )
        except OSError as error:
            raise HostError.from_os_error(f"map {region.size:#x} bytes of guest memory", error) from error
        # WHY NATIVE: engines and KVM need the host address of guest memory.
        # SAFETY: the mapping is owned by this object and pinned by the exported buffers, so the address stays
        # valid as long as the GuestMemory lives; page aligned by mmap; any thread; the guest changes
        # contents only.
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        self.data = memoryview(self.memory)
        self.u16 = self.data.cast("H")
        self.u32 = self.data.cast("I")
        self.u64 = self.data.cast("Q")


def slices(ranges: Iterable[tuple[int, int]], offset: int, limit: int) -> list[tuple[int, int]]:
    """Address and size of the bytes `offset` to `offset + limit` of ranges laid end to end."""
    found: list[tuple[int, int]] = []
    for gpa, length in ranges:
        if limit <= 0:
            break
        if offset >= length:
            offset -= length
            continue
        size = min(length - offset, limit)
        found.append((gpa + offset, size))
        limit -= size
        offset = 0
    return found


class GuestMemory:
    """All memory of one guest. Addresses and sizes are bytes; values are little-endian integers."""

    def __init__(self, regions: Iterable[Region]) -> None:
        """Map `regions`. Raises ConfigError if they overlap or are misaligned, HostError if the host
        refuses."""
        if sys.byteorder != "little":
            raise HostError("guest memory needs a little-endian host: word accesses are not converted")
        ordered = sorted(regions, key=lambda region: region.start)
        if not ordered:
            raise ConfigError("memory", "a guest needs at least one region")
        previous_end = 0
        for index, region in enumerate(ordered):
            where = f"memory.regions[{index}]"
            if region.start < 0 or region.start % PAGE_SIZE or region.size <= 0 or region.size % PAGE_SIZE:
                raise ConfigError(where, f"[{region.start:#x}, +{region.size:#x}) is not made of whole pages")
            if region.start < previous_end:
                raise ConfigError(where, f"starts at {region.start:#x}, inside the region before it")
            if region.end > 1 << _PHYSICAL_BITS:
                raise ConfigError(where, f"ends above {_PHYSICAL_BITS}-bit physical addresses")
            previous_end = region.end
        self.regions: tuple[Region, ...] = tuple(ordered)
        self.on_write: Callable[[int, int], None] | None = None
        """Called with (gpa, size) after each write by a device; an engine drops code translated from
        there."""
        self.on_write_ranges: Callable[[bytes], None] | None = None
        """Where it is set, called once for many writes: addresses and sizes as `GuestBuffers.ranges` has them."""
        self._mappings = [_Mapping(region) for region in ordered]
        self._starts = [mapping.start for mapping in self._mappings]
        self._last = self._mappings[0]
        self.ram_table = RamTable(
            [(each.start, each.region.size, each.data) for each in self._mappings if not each.is_rom]
        )
        """Where RAM is, for lists of pieces of it."""

    # --- lookup ---------------------------------------------------------------------------------------------

    def _find(self, gpa: int, size: int) -> _Mapping | None:
        """The mapping that covers [gpa, gpa + size) completely."""
        mapping = self._last
        if not mapping.start <= gpa < mapping.end:
            index = bisect_right(self._starts, gpa) - 1
            if index < 0:
                return None
            mapping = self._mappings[index]
            if gpa >= mapping.end:
                return None
            self._last = mapping
        if size < 0 or gpa + size > mapping.end:
            return None
        return mapping

    def _pieces(self, gpa: int, size: int) -> list[tuple[_Mapping, int, int]]:
        """(mapping, offset, size) for an access that may span adjacent regions."""
        pieces = []
        position = gpa
        end = gpa + size
        if size < 0:
            raise OutOfRange(gpa, size)
        while position < end:
            mapping = self._find(position, 1)
            if mapping is None:
                raise OutOfRange(gpa, size)
            count = min(end, mapping.end) - position
            pieces.append((mapping, position - mapping.start, count))
            position += count
        return pieces

    def contains(self, gpa: int, size: int) -> bool:
        """Whether every byte of [gpa, gpa + size) is guest memory (of one or of adjacent regions)."""
        try:
            return self._find(gpa, size) is not None or bool(self._pieces(gpa, size))
        except OutOfRange:
            return False

    def host_address(self, region: Region) -> int:
        """Host-virtual address of the first byte of `region`; valid while this object lives."""
        for mapping in self._mappings:
            if mapping.region == region:
                return mapping.address
        raise KeyError(f"{region} is not a region of this guest")

    # --- bytes ----------------------------------------------------------------------------------------------

    def read(self, gpa: int, size: int) -> bytes:
        """A copy of `size` bytes. Raises OutOfRange."""
        mapping = self._find(gpa, size)
        if mapping is not None:
            offset = gpa - mapping.start
            return bytes(mapping.data[offset : offset + size])
        pieces = self._pieces(gpa, size)
        return b"".join(bytes(piece.data[offset : offset + count]) for piece, offset, count in pieces)

    def write(self, gpa: int, data: bytes | bytearray | memoryview) -> None:
        """Write as a device does: ROM does not change. Raises OutOfRange before anything is written."""
        view = memoryview(data).cast("B") if isinstance(data, memoryview) else data
        size = len(view)
        mapping = self._find(gpa, size)
        if mapping is not None and not mapping.is_rom:
            offset = gpa - mapping.start
            mapping.data[offset : offset + size] = view
        else:
            position = 0
            for piece, offset, count in self._pieces(gpa, size):
                if piece.is_rom:
                    self._report_rom_write(piece.start + offset, count)
                else:
                    piece.data[offset : offset + count] = view[position : position + count]
                position += count
        if self.on_write is not None and size:
            self.on_write(gpa, size)

    def load(self, gpa: int, data: bytes | bytearray | memoryview) -> None:
        """Write as the machine's builder does: into RAM and ROM. Raises OutOfRange."""
        position = 0
        for mapping, offset, count in self._pieces(gpa, len(data)):
            mapping.data[offset : offset + count] = data[position : position + count]
            position += count
        if self.on_write is not None and position:
            self.on_write(gpa, position)

    def view(self, gpa: int, size: int) -> memoryview:
        """Direct writable access to RAM that lies in one region; no copy. Raises OutOfRange.

        The guest may change the bytes at any moment. Whoever writes through it calls `written` afterwards.
        """
        mapping = self._find(gpa, size)
        if mapping is None:
            raise OutOfRange(gpa, size)
        offset = gpa - mapping.start
        part = mapping.data[offset : offset + size]
        return part.toreadonly() if mapping.is_rom else part

    def views(self, gpa: int, size: int) -> list[memoryview]:
        """As `view`, in as many pieces as the range has regions."""
        mapping = self._find(gpa, size)
        if mapping is not None:
            return [self.view(gpa, size)]
        return [self.view(piece.start + offset, count) for piece, offset, count in self._pieces(gpa, size)]

    def views_of(self, ranges: Iterable[tuple[int, int]]) -> list[memoryview]:
        """`views` of many ranges (address, size), one after the other."""
        mapping = self._last
        start, end, data, is_rom = mapping.start, mapping.end, mapping.data, mapping.is_rom
        found: list[memoryview] = []
        for gpa, size in ranges:
            if start <= gpa and gpa + size <= end and not is_rom:
                found.append(data[gpa - start : gpa - start + size])
            else:
                found += self.views(gpa, size)
        return found

    def buffers_of(
        self, ranges: Segments | Iterable[tuple[int, int]], offset: int, limit: int
    ) -> GuestBuffers | list[memoryview]:
        """At most `limit` bytes of ranges (address, size) laid end to end, from `offset` on, for the host to read from
        or write to; as `views`. Raises OutOfRange."""
        segments = ranges if isinstance(ranges, Segments) else Segments(ranges)
        buffers = self.ram_table.buffers(segments, offset, limit)
        if buffers is not None:
            return buffers
        # A piece in two regions, in ROM or nowhere.
        return self.views_of(slices(segments, offset, limit))

    def find_region(self, gpa: int, size: int) -> Region | None:
        """The region that covers all of [gpa, gpa + size)."""
        mapping = self._find(gpa, size)
        return None if mapping is None else mapping.region

    def written(self, gpa: int, size: int) -> None:
        """Tell that [gpa, gpa + size) was written through a view."""
        if self.on_write is not None and size:
            self.on_write(gpa, size)

    def written_all(self, ranges: Iterable[tuple[int, int]]) -> None:
        """`written` of many ranges (address, size)."""
        on_write = self.on_write
        if on_write is not None:
            for gpa, size in ranges:
                if size:
                    on_write(gpa, size)

    def written_segments(self, buffers: GuestBuffers | Segments) -> None:
        """`written` of all its pieces."""
        if self.on_write_ranges is not None:
            self.on_write_ranges(buffers.ranges())
        elif self.on_write is not None:
            for gpa, size in _PIECE.iter_unpack(buffers.ranges()):
                self.on_write(gpa, size)

    def release(self, gpa: int, size: int) -> int:
        """Give the RAM behind the whole pages of [gpa, gpa + size) back to the host; it reads as zeros from then on.

        Returns the bytes given back: partial pages, ROM, and what is no memory stay as they are. A host that refuses
        keeps its memory; that is no error of the guest. Nobody may rely on the contents: the guest gave them up.
        """
        start, end = -(-gpa // PAGE_SIZE) * PAGE_SIZE, (gpa + size) // PAGE_SIZE * PAGE_SIZE
        released = 0
        for mapping in self._mappings:
            first, last = max(start, mapping.start), min(end, mapping.end)
            if first >= last or mapping.is_rom:
                continue
            try:
                mapping.memory.madvise(mmap.MADV_DONTNEED, first - mapping.start, last - first)
            except OSError:
                continue
            released += last - first
            if self.on_write is not None:
                self.on_write(first, last - first)
        return released

    # --- integers -------------------------------------------------------------------------------------------

    def read_u8(self, gpa: int) -> int:
        mapping = self._find(gpa, 1)
        if mapping is None:
            raise OutOfRange(gpa, 1)
        return mapping.data[gpa - mapping.start]

    def read_u16(self, gpa: int) -> int:
        mapping = self._find(gpa, 2)
        if mapping is None or gpa & 1:
            return int.from_bytes(self.read(gpa, 2), "little")
        return mapping.u16[(gpa - mapping.start) >> 1]

    def read_u32(self, gpa: int) -> int:
        mapping = self._find(gpa, 4)
        if mapping is None or gpa & 3:
            return int.from_bytes(self.read(gpa, 4), "little")
        return mapping.u32[(gpa - mapping.start) >> 2]

    def read_u64(self, gpa: int) -> int:
        mapping = self._find(gpa, 8)
        if mapping is None or gpa & 7:
            return int.from_bytes(self.read(gpa, 8), "little")
        return mapping.u64[(gpa - mapping.start) >> 3]

    def write_u8(self, gpa: int, value: int) -> None:
        """Write the low 8 bits of `value`. Raises OutOfRange; so do the wider ones."""
        mapping = self._find(gpa, 1)
        if mapping is None or mapping.is_rom:
            self.write(gpa, (value & 0xFF).to_bytes(1, "little"))
            return
        mapping.data[gpa - mapping.start] = value & 0xFF
        if self.on_write is not None:
            self.on_write(gpa, 1)

    def write_u16(self, gpa: int, value: int) -> None:
        mapping = self._find(gpa, 2)
        if mapping is None or gpa & 1 or mapping.is_rom:
            self.write(gpa, (value & 0xFFFF).to_bytes(2, "little"))
            return
        mapping.u16[(gpa - mapping.start) >> 1] = value & 0xFFFF
        if self.on_write is not None:
            self.on_write(gpa, 2)

    def write_u32(self, gpa: int, value: int) -> None:
        mapping = self._find(gpa, 4)
        if mapping is None or gpa & 3 or mapping.is_rom:
            self.write(gpa, (value & 0xFFFF_FFFF).to_bytes(4, "little"))
            return
        mapping.u32[(gpa - mapping.start) >> 2] = value & 0xFFFF_FFFF
        if self.on_write is not None:
            self.on_write(gpa, 4)

    def write_u64(self, gpa: int, value: int) -> None:
        mapping = self._find(gpa, 8)
        if mapping is None or gpa & 7 or mapping.is_rom:
            self.write(gpa, (value & 0xFFFF_FFFF_FFFF_FFFF).to_bytes(8, "little"))
            return
        mapping.u64[(gpa - mapping.start) >> 3] = value & 0xFFFF_FFFF_FFFF_FFFF
        if self.on_write is not None:
            self.on_write(gpa, 8)

    @staticmethod
    def _report_rom_write(gpa: int, size: int) -> None:
        if guest_error.on:
            guest_error("memory", f"device write of {size} bytes to ROM at {gpa:#x} dropped")
