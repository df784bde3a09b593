"""Stored bitmaps: Manor does not keep them up, so it makes sure that nobody relies on them, and loses none of them.

A bitmap that follows the guest's writes ("auto") is marked in use before the first write: the next program then
knows that it is out of date. Others describe a moment in the past and stay true. Source: qcow2 specification,
"Bitmaps".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from manor.backends.block.file import File
from manor.backends.block.qcow2 import layout
from manor.backends.block.qcow2.header import Header
from manor.base.errors import ProtocolError

_EXTENSION: Final = struct.Struct(">IIQQ")
_ENTRY: Final = struct.Struct(">QIIBBHI")
_IN_USE: Final = 1
_AUTO: Final = 2
_MAX_BITMAPS: Final = 65535
_MAX_DIRECTORY: Final = 64 << 20
_MAX_TABLE: Final = 32 << 20
_FLAGS_AT: Final = 12


@dataclass(frozen=True, slots=True)
class Bitmap:
    """One entry of the directory. table_size in entries; entry_offset: where the entry is in the file."""

    name: str
    table_offset: int
    table_size: int
    flags: int
    granularity_bits: int
    entry_offset: int

    @property
    def is_auto(self) -> bool:
        return bool(self.flags & _AUTO)

    @property
    def is_in_use(self) -> bool:
        return bool(self.flags & _IN_USE)


@dataclass(frozen=True, slots=True)
class Directory:
    """Where the directory is, and its entries. Offsets and sizes in bytes."""

    offset: int
    size: int
    bitmaps: tuple[Bitmap, ...]


def read_bitmaps(file: File, header: Header) -> Directory | None:
    """The directory, if the image has bitmaps that are valid at all. Raises ProtocolError."""
    data = header.extension(layout.EXT_BITMAPS)
    if not header.autoclear & layout.BITMAPS:
        return None
    if data is None or len(data) < _EXTENSION.size:
        raise ProtocolError(f"{file.name}: bitmaps are announced, but there is no extension that describes them", 88)
    count, _, size, offset = _EXTENSION.unpack_from(data)
    end = (file.size() + header.geometry.cluster_mask) & ~header.geometry.cluster_mask
    if count > _MAX_BITMAPS or size > _MAX_DIRECTORY or offset & header.geometry.cluster_mask or offset + size > end:
        raise ProtocolError(f"{file.name}: the directory of bitmaps is not inside the file", offset)
    directory = bytearray(size)
    file.read(offset, [memoryview(directory)])
    found = []
    at = 0
    for _ in range(count):
        if at + _ENTRY.size > size:
            raise ProtocolError(f"{file.name}: the directory of bitmaps ends inside an entry", offset + at)
        fields = _ENTRY.unpack_from(directory, at)
        table_offset, table_size, flags, _kind, granularity_bits, name_size, extra_size = fields
        name_at = at + _ENTRY.size + extra_size
        if name_at + name_size > size or 8 * table_size > _MAX_TABLE or table_offset + 8 * table_size > end:
            raise ProtocolError(f"{file.name}: an entry of the directory of bitmaps does not fit", offset + at)
        name = bytes(directory[name_at : name_at + name_size]).decode("utf-8", "replace")
        found.append(Bitmap(name, table_offset, table_size, flags, granularity_bits, offset + at))
        at = (name_at + name_size + 7) & -8
    return Directory(offset, size, tuple(found))


def mark_in_use(file: File, directory: Directory) -> None:
    """Before the first write: bitmaps that should follow it do not."""
    stale = [bitmap for bitmap in directory.bitmaps if bitmap.is_auto and not bitmap.is_in_use]
    for bitmap in stale:
        flags = (bitmap.flags | _IN_USE).to_bytes(4, "big")
        file.write(bitmap.entry_offset + _FLAGS_AT, [memoryview(flags)])
    if stale:
        file.flush()
