"""Base address registers: windows of a function into memory or I/O space.

Source: PCI Local Bus Specification 3.0, section 6.2.5 "Base Addresses".

A BAR knows its size and what answers in it; where it ends up is decided by the guest, and the host bridge
maps it (`BarRouter`), or does not.
"""

from __future__ import annotations

from enum import Enum
from typing import Protocol

from manor.bus.bus import BusTarget


class BarKind(Enum):
    """Space of a BAR and the width of its address."""

    IO = "io"
    MEMORY32 = "memory32"
    MEMORY64 = "memory64"


# Smallest sizes: 6.2.5.1 allows 4 bytes of I/O and 16 of memory; a page of memory keeps functions apart in
# the host's maps.
_SMALLEST = {BarKind.IO: 4, BarKind.MEMORY32: 4096, BarKind.MEMORY64: 4096}
_IO_FLAGS_MASK = 0x3
_MEMORY_FLAGS_MASK = 0xF


class BarRouter(Protocol):
    """The host bridge, as a BAR sees it. Thread: machine lock held."""

    def map_bar(self, bar: Bar, address: int) -> bool:
        """Let `bar` answer at `address`; False if the address is outside the bridge's windows or taken."""

    def unmap_bar(self, bar: Bar, address: int) -> None:
        """Undo a successful `map_bar`."""


class Bar:
    """One BAR; a 64-bit one takes the register at `index` and the next.

    size: bytes, a power of two. target: answers accesses, offsets relative to the BAR.
    """

    def __init__(
        self,
        index: int,
        kind: BarKind,
        size: int,
        target: BusTarget,
        name: str,
        *,
        prefetchable: bool = False,
    ) -> None:
        last = 4 if kind is BarKind.MEMORY64 else 5
        if not 0 <= index <= last:
            raise ValueError(f"{name}: BAR index {index}")
        if size < _SMALLEST[kind] or size & (size - 1):
            raise ValueError(f"{name}: BAR size {size:#x} is not a power of two of at least {_SMALLEST[kind]}")
        if prefetchable and kind is BarKind.IO:
            raise ValueError(f"{name}: I/O is not prefetchable")
        self.index = index
        self.kind = kind
        self.size = size
        self.target = target
        self.name = name
        self.prefetchable = prefetchable
        self.router: BarRouter | None = None
        self.power_on_address = 0
        """Where firmware would have put it; 0 for nowhere. Set by the host bridge."""
        self.address = 0
        self.mapped_at: int | None = None
        self._decoding = False

    @property
    def flags(self) -> int:
        """The read-only low bits of the register (6.2.5.1)."""
        if self.kind is BarKind.IO:
            return 1
        return (4 if self.kind is BarKind.MEMORY64 else 0) | (8 if self.prefetchable else 0)

    @property
    def registers(self) -> int:
        """How many registers it takes."""
        return 2 if self.kind is BarKind.MEMORY64 else 1

    def read_register(self, part: int) -> int:
        """32-bit register: part 0 is the one at `index`, 1 the upper half of a 64-bit BAR."""
        if part:
            return self.address >> 32
        return self.address & 0xFFFF_FFFF | self.flags

    def write_register(self, part: int, value: int) -> None:
        """Write a register. All ones make the read value show the size: low bits are not stored."""
        if part:
            address = self.address & 0xFFFF_FFFF | value << 32
        else:
            low = value & ~(_IO_FLAGS_MASK if self.kind is BarKind.IO else _MEMORY_FLAGS_MASK)
            address = self.address >> 32 << 32 | low
        self.set_address(address)

    def set_address(self, address: int) -> None:
        """Move the BAR; address bits below its size are dropped."""
        self._unmap()
        self.address = address & ~(self.size - 1)
        self._map()

    def set_decoding(self, on: bool) -> None:
        """Follow the command register: whether the function answers in this space."""
        if on != self._decoding:
            self._decoding = on
            if on:
                self._map()
            else:
                self._unmap()

    def reset(self) -> None:
        """Not decoding, at the power-on address."""
        self._unmap()
        self._decoding = False
        self.address = self.power_on_address

    def _map(self) -> None:
        # Address 0 means "not set up": no BAR is ever placed there on this machine.
        if self._decoding and self.address and self.router is not None and self.router.map_bar(self, self.address):
            self.mapped_at = self.address

    def _unmap(self) -> None:
        if self.mapped_at is not None and self.router is not None:
            self.router.unmap_bar(self, self.mapped_at)
        self.mapped_at = None
