"""Interrupt messages: what travels between I/O APICs, MSI devices and local APICs.

Source: Intel SDM volume 3, 11.6.1 "Interrupt Command Register", 11.11 "Message Signalled Interrupts".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Final

MSI_BASE: Final = 0xFEE0_0000
BROADCAST_8: Final = 0xFF
"""All processors, in an 8-bit destination."""
BROADCAST_32: Final = 0xFFFF_FFFF


class DeliveryMode(IntEnum):
    """Source: SDM volume 3, 11.6.1, and 11.5.1 for EXTINT."""

    FIXED = 0
    LOWEST_PRIORITY = 1
    SMI = 2
    RESERVED = 3
    NMI = 4
    INIT = 5
    STARTUP = 6
    EXTINT = 7


@dataclass(frozen=True, slots=True)
class InterruptMessage:
    """One message. destination is an APIC ID, or a logical set if `is_logical`; both broadcasts are
    BROADCAST_32."""

    destination: int
    is_logical: bool
    mode: DeliveryMode
    vector: int
    is_level: bool = False
    is_redirectable: bool = False


@lru_cache(maxsize=256)
def decode_msi(address: int, data: int) -> InterruptMessage | None:
    """The message of a write of `data` to `address`; None if the address is outside the interrupt window."""
    if address & ~0xFFFFF != MSI_BASE:
        return None
    destination = (address >> 12) & 0xFF
    return InterruptMessage(
        BROADCAST_32 if destination == BROADCAST_8 else destination,
        bool(address & 4),
        DeliveryMode((data >> 8) & 7),
        data & 0xFF,
        bool(data & 0x8000),
        bool(address & 8),
    )


def encode_msi(
    destination: int, is_logical: bool, mode: int, vector: int, is_level: bool, is_redirectable: bool = False
) -> tuple[int, int]:
    """(address, data) of a message to an 8-bit destination."""
    address = MSI_BASE | (destination & 0xFF) << 12 | is_redirectable << 3 | is_logical << 2
    return address, (vector & 0xFF) | (mode & 7) << 8 | is_level << 15 | is_level << 14
