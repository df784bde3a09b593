"""VHD, the format of Virtual PC and early Hyper-V ("vpc" in qemu-img's words): fixed and dynamic images, read-only.

Source: Microsoft, "Virtual Hard Disk Image Format Specification", version 1.0, October 11, 2006.
All integers are big-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from manor.backends.block.api import BlockBackend
from manor.backends.block.file import File
from manor.backends.block.mapped import MappedImage, Pages, Piece, read_exactly
from manor.base.errors import ConfigError, ProtocolError

if TYPE_CHECKING:
    from manor.backends.block.open import Context

FOOTER_SIZE: Final = 512
_FOOTER: Final = struct.Struct(">8sIIQI4sI4sQQHBBII16sB")
"""cookie, features, format version, data offset, time, creator, its version, its host, original and current size,
cylinders, heads, sectors, type, checksum, identity, saved state. Section "Hard Disk Footer Format"."""
_DYNAMIC: Final = struct.Struct(">8sQQIIII")
"""cookie, data offset, table offset, version, entries, block size, checksum. Section "Dynamic Disk Header Format"."""
DYNAMIC_SIZE: Final = 1024
_ENTRY: Final = struct.Struct(">I")

FIXED: Final = 2
DYNAMIC: Final = 3
DIFFERENCING: Final = 4

FREE: Final = 0xFFFF_FFFF
_SECTOR: Final = 512

_BY_GEOMETRY: Final = (b"vpc ", b"qemu")
"""Creators whose disks have the size of their geometry; others state the size. Seen with qemu-img 7.2."""
_MAX_GEOMETRY: Final = 65535 * 16 * 255
"""Sectors of the largest geometry; a disk that has it may be larger, and its size field tells."""


class VpcImage(MappedImage):
    """A dynamic VHD: a table of blocks, each with a bitmap of its sectors before it."""

    def __init__(self, file: File, size: int, table: int, block: int) -> None:
        super().__init__(file.name, size, [file], {"create type": "dynamic"}, cluster_size=block)
        self._file = file
        self._table = table
        self._block = block
        # One bit a sector, padded to a sector. Section "Block Allocation Table and Data Blocks".
        self._bitmap = (block // _SECTOR // 8 + _SECTOR - 1) & -_SECTOR
        self._pages = Pages(file)

    def locate(self, offset: int, size: int) -> Iterator[Piece]:
        end = offset + size
        while offset < end:
            index, start = divmod(offset, self._block)
            count = min(self._block - start, end - offset)
            entry = self._pages.integer(self._table + index * _ENTRY.size, _ENTRY)
            if entry == FREE:
                yield Piece(count, "hole")
            else:
                # The bitmap need not be looked at: sectors that it does not name are zeros in a dynamic disk.
                yield Piece(count, "file", self._file, entry * _SECTOR + self._bitmap + start)
            offset += count


class FixedVpcImage(MappedImage):
    """A fixed VHD: the disk as it is, then the footer."""

    def __init__(self, file: File, size: int) -> None:
        super().__init__(file.name, size, [file], {"create type": "fixed"})
        self._file = file

    def locate(self, offset: int, size: int) -> Iterator[Piece]:
        if size:
            yield Piece(size, "file", self._file, offset)


def checksum(data: bytes, at: int) -> int:
    """One's complement of the sum of all bytes but the four at `at`, where it is stored."""
    return ~(sum(data[:at]) + sum(data[at + 4 :])) & 0xFFFF_FFFF


def open_vpc(file: File, context: Context) -> BlockBackend:
    """The opener of format "vpc". Raises ProtocolError, ConfigError."""
    name = file.name
    length = file.size()
    footer = _find_footer(file)
    fields = _FOOTER.unpack_from(footer)
    data_offset, creator, current, cylinders, heads, sectors, kind = (
        fields[3], fields[5], fields[9], fields[10], fields[11], fields[12], fields[13],
    )  # fmt: skip
    geometry = cylinders * heads * sectors
    size = geometry * _SECTOR if creator in _BY_GEOMETRY and geometry < _MAX_GEOMETRY else current
    if kind == DIFFERENCING:
        raise ConfigError(
            name, "this is a differencing VHD, which Manor does not read; merge it into its parent (Hyper-V: Merge-VHD)"
        )
    if kind == FIXED:
        if size > length:
            raise ProtocolError(f"{name}: the disk has {size} bytes and the file {length}; it was cut off")
        return FixedVpcImage(file, size)
    if kind != DYNAMIC:
        raise ProtocolError(f"{name}: a VHD of type {kind} is not known; fixed (2) and dynamic (3) are")
    header = read_exactly(file, data_offset, DYNAMIC_SIZE, "dynamic disk header")
    cookie, _, table, version, entries, block, stored = _DYNAMIC.unpack_from(header)
    if cookie != b"cxsparse" or stored != checksum(header, _DYNAMIC.size - 4):
        raise ProtocolError(f"{name}: the dynamic disk header is damaged", data_offset)
    if version >> 16 != 1:
        raise ProtocolError(f"{name}: a dynamic disk header of version {version >> 16} is not known; 1 is")
    if block < _SECTOR or block & (block - 1):
        raise ProtocolError(f"{name}: blocks of {block} bytes are not possible")
    if size > entries * block:
        raise ProtocolError(f"{name}: the disk has {size} bytes and its table holds {entries} blocks of {block}")
    if table % _ENTRY.size or table + entries * _ENTRY.size > length:
        raise ProtocolError(f"{name}: the table of {entries} blocks at {table:#x} lies outside the file")
    return VpcImage(file, size, table, block)


def _find_footer(file: File) -> bytes:
    """The footer at the end, or its copy at the start of a dynamic disk."""
    for position in (file.size() - FOOTER_SIZE, 0):
        if position < 0 or file.size() < FOOTER_SIZE:
            continue
        footer = read_exactly(file, position, FOOTER_SIZE, "footer")
        if footer.startswith(b"conectix") and _FOOTER.unpack_from(footer)[14] == checksum(footer, 64):
            return footer
    raise ProtocolError(f"{file.name}: this is no VHD image, or its footer is damaged: it has no valid checksum")
