"""The capability list in configuration space.

Source: PCI Local Bus Specification 3.0, section 6.7 "Capabilities List".
"""

from __future__ import annotations

from typing import Protocol

HEADER_SIZE = 0x40
CONFIG_SIZE = 0x100
CAP_ID_VENDOR = 0x09
CAP_ID_MSIX = 0x11


class Capability(Protocol):
    """One entry of the list. Offsets are from its first byte; the list answers the two header bytes.

    size: bytes with header.
    """

    cap_id: int
    size: int

    def read(self, offset: int, size: int) -> int: ...
    def write(self, offset: int, size: int, value: int) -> None: ...


class BytesCapability:
    """A read-only capability: `body` is what follows the two header bytes."""

    def __init__(self, cap_id: int, body: bytes) -> None:
        self.cap_id = cap_id
        self.size = 2 + len(body)
        self._bytes = bytes(2) + body

    def read(self, offset: int, size: int) -> int:
        return int.from_bytes(self._bytes[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        """Read-only: dropped, as real functions do."""


class CapabilityList:
    """Capabilities placed one after the other from the end of the header; each at a multiple of 4."""

    def __init__(self) -> None:
        self.placed: list[tuple[int, Capability]] = []
        self._end = HEADER_SIZE

    def add(self, capability: Capability) -> int:
        """Append; the offset it got in configuration space. ValueError if there is no room."""
        offset = self._end
        if offset + capability.size > CONFIG_SIZE:
            raise ValueError(f"capability {capability.cap_id:#x} of {capability.size} bytes does not fit")
        self.placed.append((offset, capability))
        self._end = (offset + capability.size + 3) & ~3
        return offset

    @property
    def first(self) -> int:
        """Offset of the first one, 0 if there is none."""
        return self.placed[0][0] if self.placed else 0

    def read(self, offset: int, size: int) -> int:
        """Configuration space from the end of the header on; bytes of no capability are zero.

        The access is naturally aligned, so it touches one capability, perhaps with its header.
        """
        for index, (start, capability) in enumerate(self.placed):
            if start <= offset < start + capability.size:
                value = capability.read(offset - start, size)
                if offset - start < 2:
                    following = self.placed[index + 1][0] if index + 1 < len(self.placed) else 0
                    header = capability.cap_id | following << 8
                    shift = 8 * (offset - start)
                    bits = 0xFFFF >> shift & (1 << 8 * size) - 1
                    value = value & ~bits | header >> shift & bits
                return value
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        for start, capability in self.placed:
            if start <= offset < start + capability.size:
                capability.write(offset - start, size, value)
                return
