"""The SMBIOS tables: who made the machine, which one it is, and texts for its guest.

Source: DMTF DSP0134, System Management BIOS Reference Specification 3.6.0; section numbers below.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final
from uuid import UUID

from manor.base.address import align_up
from manor.base.errors import ConfigError
from manor.boot.acpi import checksum
from manor.spec.firmware import SmbiosSpec, check_smbios

MAKER: Final = "Manor"
PRODUCT: Final = "pc"
RELEASE_DATE: Final = "01/01/2026"
"""mm/dd/yyyy (7.1). Linux distrusts a firmware from before 2008: it ignores what ACPI says of PCI windows."""

_ENTRY: Final = struct.Struct("<5sBBBBBBBIQ")
_VERSION: Final = (3, 6, 0)
_ALIGNMENT: Final = 16

# 7.1.1 and 7.1.2: characteristics of the firmware.
_NOT_SUPPORTED: Final = 1 << 3
_IS_VIRTUAL_MACHINE: Final = 1 << 4
_POWER_SWITCH: Final = 6
"""7.2.2: what woke the system."""
_CHASSIS_OTHER: Final = 1
_STATE_SAFE: Final = 3
"""7.4.2."""
_SECURITY_NONE: Final = 3
"""7.4.3."""
_BOOT_NO_ERRORS: Final = 0
"""7.33.1."""


def build_smbios(spec: SmbiosSpec, base: int, size: int) -> bytes:
    """Entry point and tables as one block for guest memory at `base`. Raises ConfigError if `size` bytes are too
    few."""
    check_smbios(spec)
    identity = UUID(spec.uuid).bytes_le if spec.uuid else bytes(16)
    tables = [
        # 7.1 Platform Firmware Information: vendor, version, segment, date, ROM size, characteristics, extensions,
        # releases of the firmware (1.0) and of a controller's (255: none), extended ROM size.
        _table(
            0, 0,
            struct.pack(
                "<BBHBBQBBBBBBH", 1, 2, 0, 3, 0, _NOT_SUPPORTED, 0, _IS_VIRTUAL_MACHINE, 1, 0, 255, 255, 0
            ),
            (MAKER, "1", RELEASE_DATE),
        ),
        # 7.2 System Information: manufacturer, product, version, serial, UUID, wake-up, SKU, family.
        _table(
            1, 0x100, struct.pack("<BBBB16sBBB", 1, 2, 0, 3 if spec.serial else 0, identity, _POWER_SWITCH, 0, 0),
            (MAKER, PRODUCT, *([spec.serial] if spec.serial else [])),
        ),
        # 7.4 System Enclosure: manufacturer, type, version, serial, asset tag, three states, security, OEM, height,
        # cords,
        # contained elements (count, length), SKU.
        _table(
            3, 0x300,
            struct.pack(
                "<BBBBBBBBBIBBBBB", 1, _CHASSIS_OTHER, 0, 0, 0, _STATE_SAFE, _STATE_SAFE, _STATE_SAFE, _SECURITY_NONE,
                0, 0, 0, 0, 0, 0,
            ),
            (MAKER,),
        ),
    ]  # fmt: skip
    if spec.strings:
        # 7.12 OEM Strings: their number.
        tables.append(_table(11, 0xB00, bytes((len(spec.strings),)), spec.strings))
    # 7.33 System Boot Information, 7.46 End-of-Table.
    tables.append(_table(32, 0x2000, bytes(6) + bytes((_BOOT_NO_ERRORS,))))
    tables.append(_table(127, 0x7F00, b""))
    block = b"".join(tables)
    start = align_up(_ENTRY.size, _ALIGNMENT)
    if start + len(block) > size:
        raise ConfigError(
            "smbios",
            f"the texts for the guest have {len(block)} bytes; there is room for {size - start}: give fewer or shorter",
        )
    return _entry_point(base + start, len(block)).ljust(start, b"\0") + block


def _entry_point(address: int, size: int) -> bytes:
    """5.2.2 "SMBIOS 3.0 (64-bit) Entry Point"; revision 1. size: at most so many bytes of tables."""
    entry = bytearray(_ENTRY.pack(b"_SM3_", 0, _ENTRY.size, *_VERSION, 1, 0, size, address))
    entry[5] = checksum(entry)
    return bytes(entry)


def _table(kind: int, handle: int, body: bytes, strings: Sequence[str] = ()) -> bytes:
    """6.1.2 and 6.1.3: a header, the fixed part, and strings that it numbers from 1; two zeros end it."""
    header = struct.pack("<BBH", kind, 4 + len(body), handle)
    texts = b"".join(text.encode("ascii") + b"\0" for text in strings) or b"\0"
    return header + body + texts + b"\0"
