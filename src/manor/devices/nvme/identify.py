"""What a controller says of itself and of its namespace: identify data and log pages, as bytes.

Source: NVMe 1.4, 5.15 "Identify command" (figures 245 to 249), 5.14.1 "Log specific information" (figures 193 to 197).
"""

from __future__ import annotations

import hashlib
import struct
import uuid
from typing import Final

from manor.devices.block.disk import SECTOR, Disk
from manor.devices.nvme.regs import VERSION

SIZE: Final = 4096
NAMESPACE: Final = 1
"""Identifier of the one namespace."""
NSID_ALL: Final = 0xFFFF_FFFF
MDTS: Final = 8
"""Largest transfer: 1 << MDTS memory pages, 1 MiB."""
ABORT_LIMIT: Final = 4
ASYNC_EVENT_LIMIT: Final = 4
"""Asynchronous event requests that may wait."""
ERROR_LOG_ENTRIES: Final = 1
MODEL: Final = "Manor NVMe disk"
FIRMWARE: Final = "1"
SECTOR_SHIFT: Final = SECTOR.bit_length() - 1

_DATA_UNIT: Final = 1000 * SECTOR
"""SMART counts data in thousands of sectors (figure 196)."""
_ONCS_DSM, _ONCS_WRITE_ZEROES = 1 << 2, 1 << 3
_OAES_NAMESPACE: Final = 1 << 8
_VWC_PRESENT: Final = 1


def _put(data: bytearray, offset: int, form: str, *values: object) -> None:
    struct.pack_into("<" + form, data, offset, *values)


def _text(text: str, size: int) -> bytes:
    """ASCII filled with spaces (1.5 "Conventions")."""
    return text.encode("ascii", "replace")[:size].ljust(size)


def disk_uuid(disk: Disk) -> uuid.UUID:
    """The same for the same disk of a machine at each start, another for every other."""
    digest = hashlib.sha256(f"manor nvme {disk.name} {disk.serial}".encode()).digest()
    return uuid.UUID(bytes=digest[:16], version=4)


def controller(disk: Disk, vendor_id: int) -> bytes:
    """Figure 247."""
    data = bytearray(SIZE)
    _put(data, 0, "HH", vendor_id, vendor_id)
    _put(data, 4, "20s40s8s", _text(disk.serial or disk.name, 20), _text(MODEL, 40), _text(FIRMWARE, 8))
    _put(data, 77, "B", MDTS)
    _put(data, 80, "I", VERSION)
    _put(data, 92, "I", _OAES_NAMESPACE)
    _put(data, 111, "B", 1)  # an I/O controller
    _put(data, 258, "BBB", ABORT_LIMIT - 1, ASYNC_EVENT_LIMIT - 1, 1 << 1 | 1)  # one firmware slot, read-only
    _put(data, 262, "B", ERROR_LOG_ENTRIES - 1)
    _put(data, 266, "HH", 343, 353)  # kelvin at which a medium warns and stops; figure 247 recommends 343
    _put(data, 512, "BB", 0x66, 0x44)  # entries of 64 and 16 bytes
    _put(data, 516, "I", NAMESPACE)
    oncs = (_ONCS_DSM if disk.may_discard else 0) | (0 if disk.is_read_only else _ONCS_WRITE_ZEROES)
    _put(data, 520, "H", oncs)
    _put(data, 525, "B", _VWC_PRESENT)
    _put(data, 768, "256s", f"nqn.2014-08.org.nvmexpress:uuid:{disk_uuid(disk)}".encode())
    _put(data, 2048, "H", 1)  # power state 0: its power has to be something
    return bytes(data)


def namespace(disk: Disk) -> bytes:
    """Figure 245."""
    data = bytearray(SIZE)
    sectors = disk.size // SECTOR
    _put(data, 0, "QQQ", sectors, sectors, sectors)
    _put(data, 24, "B", int(disk.may_discard))  # thin provisioning
    _put(data, 33, "B", 1 << 3 if disk.may_discard else 0)  # write zeroes may deallocate
    _put(data, 99, "B", int(disk.is_read_only))
    _put(data, 128, "HBB", 0, SECTOR_SHIFT, 0)
    return bytes(data)


def active_namespaces(after: int) -> bytes:
    """Identifiers greater than `after` (5.15.2.3)."""
    return (struct.pack("<I", NAMESPACE) if after < NAMESPACE else b"").ljust(SIZE, b"\0")


def descriptors(disk: Disk) -> bytes:
    """Figure 249: the UUID of the namespace."""
    return (struct.pack("<BBxx", 3, 16) + disk_uuid(disk).bytes).ljust(SIZE, b"\0")


def smart_log(disk: Disk) -> bytes:
    """Figure 196. There is no medium of ours that wears out: only what the guest did is counted."""
    counters = disk.statistics
    data = bytearray(512)
    _put(data, 1, "H", 273 + 25)  # there is no sensor; room temperature alarms nobody
    _put(data, 3, "BB", 100, 10)

    def put_wide(offset: int, value: int) -> None:
        data[offset : offset + 16] = value.to_bytes(16, "little")

    put_wide(32, -(-counters.read_bytes // _DATA_UNIT))
    put_wide(48, -(-counters.write_bytes // _DATA_UNIT))
    put_wide(64, counters.read_requests)
    put_wide(80, counters.write_requests)
    put_wide(112, 1)
    put_wide(160, counters.errors)
    return bytes(data)


def error_log() -> bytes:
    """Figure 195: entries of 64 bytes; with error count 0 there is none."""
    return bytes(64 * ERROR_LOG_ENTRIES)


def firmware_log() -> bytes:
    """Figure 197: slot 1 is active."""
    return (b"\1".ljust(8, b"\0") + _text(FIRMWARE, 8)).ljust(512, b"\0")


def changed_namespaces_log(is_changed: bool) -> bytes:
    """Figure 199."""
    return (struct.pack("<I", NAMESPACE) if is_changed else b"").ljust(SIZE, b"\0")
