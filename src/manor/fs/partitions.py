"""Partition tables: GPT written and read, the MBR's read.

Source: UEFI Specification 2.10, 5.2 (MBR) and 5.3 (GPT). Numbers of blocks are LBAs of the disk's sector size.
"""

from __future__ import annotations

import struct
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from manor.base.errors import ConfigError, ProtocolError
from manor.base.units import MiB
from manor.fs.io import Sink, Source
from manor.fs.record import Record

SECTOR: Final = 512
ALIGNMENT: Final = MiB
"""Where partitions begin: a multiple of every block size that disks have."""

ESP: Final = uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
"""EFI system partition (UEFI 5.3.3)."""
LINUX_ROOT_X86_64: Final = uuid.UUID("4f68bce3-e8cd-4db1-96e7-fbcaf984b709")
"""Discoverable Partitions Specification: the root partition of a machine with x86-64."""
XBOOTLDR: Final = uuid.UUID("bc13c2ff-59e6-4262-a352-b275fd6f7172")
"""Discoverable Partitions Specification: /boot, beside an EFI system partition."""

_BLOCK: Final = 4096
_ENTRIES: Final = 128
_MAX_ENTRIES: Final = 1024
_ENTRY_SIZE: Final = 128
_MBR_SIGNATURE: Final = b"\x55\xaa"
_PROTECTIVE: Final = 0xEE
_EXTENDED: Final = frozenset({0x05, 0x0F, 0x85})
_MBR_ESP: Final = 0xEF
_MAX_LOGICAL: Final = 60
_HEADER_SIZE: Final = 92

_HEADER: Final = Record(
    _HEADER_SIZE,
    {
        "signature": (0, "8s"), "revision": (8, "I"), "size": (12, "I"), "crc": (16, "I"), "my_lba": (24, "Q"),
        "alternate_lba": (32, "Q"), "first_usable": (40, "Q"), "last_usable": (48, "Q"), "guid": (56, "16s"),
        "entries_lba": (72, "Q"), "entries": (80, "I"), "entry_size": (84, "I"), "entries_crc": (88, "I"),
    },
)  # fmt: skip
_ENTRY: Final = Record(
    _ENTRY_SIZE,
    {
        "type": (0, "16s"), "guid": (16, "16s"), "first": (32, "Q"), "last": (40, "Q"), "attributes": (48, "Q"),
        "name": (56, "72s"),
    },
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition. start, size: bytes. kind: the type's GUID, None in an MBR. guid: its own, None in an MBR."""

    start: int
    size: int
    kind: uuid.UUID | None
    guid: uuid.UUID | None = None
    name: str = ""
    is_esp: bool = False


def usable(size: int) -> tuple[int, int]:
    """(start, end) in bytes of what partitions may take of a disk of `size` bytes, in whole blocks of 4 KiB."""
    end = (size // SECTOR - 1 - _ENTRIES * _ENTRY_SIZE // SECTOR) * SECTOR
    return ALIGNMENT, end // _BLOCK * _BLOCK


def write_gpt(sink: Sink, size: int, guid: uuid.UUID, partitions: Sequence[Partition]) -> None:
    """A GPT, its backup and a protective MBR, for a disk of `size` bytes with sectors of 512."""
    sectors = size // SECTOR
    table_sectors = _ENTRIES * _ENTRY_SIZE // SECTOR
    first_usable, last_usable = 2 + table_sectors, sectors - 2 - table_sectors
    table = bytearray(_ENTRIES * _ENTRY_SIZE)
    position = first_usable * SECTOR
    for number, each in enumerate(partitions):
        if each.start < position or each.size <= 0 or each.start + each.size > (last_usable + 1) * SECTOR:
            raise ConfigError("size", f"the partition {each.name} does not fit on a disk of {size} bytes")
        position = each.start + each.size
        if each.kind is None or each.guid is None:
            raise ValueError(f"the partition {each.name} has no type or no GUID")
        table[number * _ENTRY_SIZE : (number + 1) * _ENTRY_SIZE] = _ENTRY.pack(
            type=each.kind.bytes_le, guid=each.guid.bytes_le, first=each.start // SECTOR,
            last=(each.start + each.size) // SECTOR - 1, name=each.name.encode("utf-16-le")[:72],
        )  # fmt: skip
    for my, other, at in ((1, sectors - 1, 2), (sectors - 1, 1, sectors - 1 - table_sectors)):
        header = _HEADER.pack(
            signature=b"EFI PART", revision=0x10000, size=_HEADER_SIZE, my_lba=my, alternate_lba=other,
            first_usable=first_usable, last_usable=last_usable, guid=guid.bytes_le, entries_lba=at, entries=_ENTRIES,
            entry_size=_ENTRY_SIZE, entries_crc=zlib.crc32(table),
        )  # fmt: skip
        struct.pack_into("<I", header, 16, zlib.crc32(header))
        sink.write(at * SECTOR, table)
        sink.write(my * SECTOR, header)
    protective = struct.pack(
        "<B3sB3sII", 0, b"\x00\x02\x00", _PROTECTIVE, b"\xff\xff\xff", 1, min(sectors - 1, 0xFFFF_FFFF)
    )
    sink.write(446, protective + bytes(48) + _MBR_SIGNATURE)


def read_partitions(source: Source) -> list[Partition]:
    """The partitions of a disk, by its GPT, the GPT's backup, or its MBR; empty if it has no table.

    Raises ProtocolError for a table that is damaged beyond its backup, or nonsense.
    """
    if source.size < 2 * SECTOR:
        return []
    mbr = source.read(0, SECTOR)
    for sector in (SECTOR, 4096):
        found = _read_gpt(source, sector)
        if found is not None:
            return found
    if mbr[510:512] != _MBR_SIGNATURE or _is_file_system(mbr):
        return []
    if any(mbr[450 + 16 * number] == _PROTECTIVE for number in range(4)):
        raise ProtocolError("the disk's partition table (GPT) and its copy are damaged")
    return _read_mbr(source, mbr)


def _is_file_system(sector: bytes) -> bool:
    """Whether a first sector is that of a FAT or NTFS without a table: their boot sectors have an MBR's signature."""
    return sector[3:11] == b"NTFS    " or sector[54:59] in (b"FAT12", b"FAT16") or sector[82:87] == b"FAT32"


def _read_gpt(source: Source, sector: int) -> list[Partition] | None:
    """The partitions by the primary or the backup header; None if neither is whole."""
    for lba in (1, source.size // sector - 1):
        if (lba + 1) * sector > source.size:
            continue
        data = source.read(lba * sector, sector)
        header = _HEADER.unpack(data)
        size = header["size"]
        if header["signature"] != b"EFI PART" or not _HEADER_SIZE <= size <= sector or header["my_lba"] != lba:
            continue
        if zlib.crc32(data[:16] + bytes(4) + data[20:size]) != header["crc"]:
            continue
        count, entry_size = header["entries"], header["entry_size"]
        if not count <= _MAX_ENTRIES or not _ENTRY_SIZE <= entry_size <= 4096:
            continue
        start = header["entries_lba"] * sector
        if start + count * entry_size > source.size:
            continue
        table = source.read(start, count * entry_size)
        if zlib.crc32(table) == header["entries_crc"]:
            return _gpt_entries(table, entry_size, sector, source.size)
    return None


def _gpt_entries(table: bytes, entry_size: int, sector: int, disk: int) -> list[Partition]:
    found = []
    for offset in range(0, len(table), entry_size):
        entry = _ENTRY.unpack(table[offset : offset + _ENTRY_SIZE])
        kind = uuid.UUID(bytes_le=entry["type"])
        if not kind.int:
            continue
        start, end = entry["first"] * sector, (entry["last"] + 1) * sector
        if not start < end <= disk:
            continue
        name = entry["name"].decode("utf-16-le", "replace").partition("\0")[0]
        found.append(Partition(start, end - start, kind, uuid.UUID(bytes_le=entry["guid"]), name, kind == ESP))
    return found


def _read_mbr(source: Source, mbr: bytes) -> list[Partition]:
    found = []
    for number in range(4):
        kind, start, size = _mbr_entry(mbr, number)
        if kind in _EXTENDED:
            found += _read_logical(source, start)
        elif kind and size and start + size <= source.size:
            found.append(Partition(start, size, None, is_esp=kind == _MBR_ESP))
    return found


def _read_logical(source: Source, extended: int) -> list[Partition]:
    """The chain of logical partitions, no longer than any is."""
    found = []
    at = extended
    for _ in range(_MAX_LOGICAL):
        if at + SECTOR > source.size:
            break
        table = source.read(at, SECTOR)
        if table[510:512] != _MBR_SIGNATURE:
            break
        kind, start, size = _mbr_entry(table, 0)
        if kind and size and at + start + size <= source.size:
            found.append(Partition(at + start, size, None, is_esp=kind == _MBR_ESP))
        kind, start, _ = _mbr_entry(table, 1)
        if kind not in _EXTENDED or not start:
            break
        at = extended + start
    return found


def _mbr_entry(sector: bytes, number: int) -> tuple[int, int, int]:
    """(type, start in bytes, size in bytes)."""
    kind, start, size = struct.unpack_from("<4xB3xII", sector, 446 + 16 * number)
    return kind, start * SECTOR, size * SECTOR
