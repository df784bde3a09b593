"""A small ISO 9660 file system with Rock Ridge names, from files in memory: one folder, few files.

Source: ECMA-119 (4th edition, 2019), section numbers below; SUSP 1.12 and RRIP 1.12 for the names as they were written.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

SECTOR: Final = 2048
"""ECMA-119, 6.1.2: also the size of a logical block here."""
MAX_FILE: Final = 16 << 20
"""Bytes; cloud-init's files are a few KiB, and its services refuse more than this long before."""

_SYSTEM_AREA: Final = 16
_PRIMARY: Final = _SYSTEM_AREA
_TERMINATOR: Final = _PRIMARY + 1
_PATH_TABLE_L: Final = _TERMINATOR + 1
_PATH_TABLE_M: Final = _PATH_TABLE_L + 1
_ROOT: Final = _PATH_TABLE_M + 1
_DIRECTORY_FLAG: Final = 2
_MODE_DIRECTORY: Final = 0o040555
_MODE_FILE: Final = 0o100444
_LABEL: Final = re.compile(r"[A-Za-z0-9_-]{1,32}", re.ASCII)
_FILE_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,29}", re.ASCII)
_EPOCH: Final = datetime(2020, 1, 1, tzinfo=UTC)
"""A fixed date: the same files give the same bytes."""


def write_iso(label: str, files: Mapping[str, bytes]) -> bytes:
    """The file system's image. label: the volume's, which guests look for. Raises ValueError for what it cannot
    hold."""
    if not _LABEL.fullmatch(label):
        raise ValueError(f"{label!r} is not a volume label")
    for name, data in files.items():
        if not _FILE_NAME.fullmatch(name) or len(data) > MAX_FILE:
            raise ValueError(f"the file {name!r} of {len(data)} bytes has no place in the file system")
    # What a record needs is known before the places are, so the root's size is, too.
    root_size = _whole(len(_root(0, SECTOR, dict.fromkeys(files, (0, 0)))))
    places: dict[str, tuple[int, int]] = {}
    sector = _ROOT + root_size // SECTOR
    for name in sorted(files):
        places[name] = (sector, len(files[name]))
        sector += _whole(len(files[name])) // SECTOR
    path_table = struct.pack("<BBIH2s", 1, 0, _ROOT, 1, b"\0\0"), struct.pack(">BBIH2s", 1, 0, _ROOT, 1, b"\0\0")
    image = bytearray(_SYSTEM_AREA * SECTOR)
    image += _primary(label, sector, root_size, len(path_table[0]))
    image += _padded(b"\xffCD001\x01")
    image += _padded(path_table[0]) + _padded(path_table[1])
    image += _root(_ROOT, root_size, places).ljust(root_size, b"\0")
    for name in sorted(files):
        image += _padded(files[name])
    return bytes(image)


def _whole(size: int) -> int:
    return -(-size // SECTOR) * SECTOR


def _padded(data: bytes) -> bytes:
    return data.ljust(_whole(len(data)), b"\0")


def _both16(value: int) -> bytes:
    """7.2.3: little-endian, then big-endian."""
    return struct.pack("<H", value) + struct.pack(">H", value)


def _both32(value: int) -> bytes:
    """7.3.3."""
    return struct.pack("<I", value) + struct.pack(">I", value)


def _primary(label: str, sectors: int, root_size: int, path_table_size: int) -> bytes:
    """8.4 "Primary Volume Descriptor". The label keeps its small letters, as guests look for "cidata"."""
    date = _EPOCH.strftime("%Y%m%d%H%M%S00").encode() + b"\0"
    never = b"0" * 16 + b"\0"
    volume = b"".join(
        (
            b"\x01CD001\x01\0",
            b" " * 32,  # system
            label.encode().ljust(32),
            bytes(8),
            _both32(sectors),
            bytes(32),
            _both16(1),  # volumes in the set
            _both16(1),  # this one
            _both16(SECTOR),
            _both32(path_table_size),
            struct.pack("<II", _PATH_TABLE_L, 0),
            struct.pack(">II", _PATH_TABLE_M, 0),
            _record(b"\0", _ROOT, root_size, _DIRECTORY_FLAG),
            b" " * 128 * 3,  # volume set, publisher, preparer
            b"MANOR".ljust(128),  # application
            b" " * 37 * 3,  # files with copyright, abstract, bibliography
            date + date + never + never,
            b"\x01\0",
        )
    )
    return _padded(volume)


def _record(identifier: bytes, sector: int, size: int, flags: int, system_use: bytes = b"") -> bytes:
    """9.1 "Format of a Directory Record". Its length is even, and so is the offset of the system use area."""
    date = bytes((_EPOCH.year - 1900, _EPOCH.month, _EPOCH.day, 0, 0, 0, 0))
    body = _both32(sector) + _both32(size) + date + bytes((flags, 0, 0)) + _both16(1) + bytes((len(identifier),))
    body += identifier
    if len(identifier) % 2 == 0:
        body += b"\0"
    body += system_use
    body += b"\0" * (len(body) % 2)
    return bytes((len(body) + 2, 0)) + body


def _root(sector: int, size: int, places: Mapping[str, tuple[int, int]]) -> bytes:
    """The records of the only folder, in the order of 9.3; none crosses the end of a sector (6.8.1.1)."""
    here = _entry(b"SP", b"\xbe\xef\0") + _attributes(_MODE_DIRECTORY, 2) + _ROCK_RIDGE
    records = [
        _record(b"\0", sector, size, _DIRECTORY_FLAG, here),
        _record(b"\1", sector, size, _DIRECTORY_FLAG, _attributes(_MODE_DIRECTORY, 2)),
    ]
    for identifier, name in sorted((_identifier(number), name) for number, name in enumerate(sorted(places))):
        system_use = _attributes(_MODE_FILE, 1) + _entry(b"NM", b"\0" + name.encode())
        records.append(_record(identifier, *places[name], 0, system_use))
    folder = bytearray()
    for record in records:
        if len(folder) % SECTOR + len(record) > SECTOR:
            folder += bytes(-len(folder) % SECTOR)
        folder += record
    return bytes(folder)


def _identifier(number: int) -> bytes:
    """A name of level 1 (10.1); what people see is the Rock Ridge name."""
    return f"FILE{number:04}.;1".encode()


def _entry(signature: bytes, data: bytes) -> bytes:
    """SUSP 1.12, 4.1."""
    return signature + bytes((4 + len(data), 1)) + data


def _attributes(mode: int, links: int) -> bytes:
    """RRIP 1.12, 4.1.1 "PX": mode, links, user, group, serial number."""
    return _entry(b"PX", b"".join(map(_both32, (mode, links, 0, 0, 0))))


_ROCK_RIDGE: Final = _entry(b"ER", bytes((10, 0, 0, 1)) + b"RRIP_1991A")
"""SUSP 1.12, 5.5: the extension in use; RRIP 1.12, 4.3 gives its identifier."""
