"""VDI, the format of VirtualBox: fixed and dynamic images, read-only.

Source: VirtualBox has published no specification; the layout is the one described in "All about VDIs" (VirtualBox
forum, 2008: header version 1.1), checked against images that qemu-img makes.
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

SIGNATURE: Final = 0xBEDA107F
VERSION: Final = 0x0001_0001
"""1.1: VirtualBox has written no other since 2008."""

_START: Final = 0x40
"""Before it: text for people."""

_HEADER: Final = struct.Struct("<IIIII256sIIIIIIIQIIII16s16s16s16s")
_ENTRY: Final = struct.Struct("<I")

DYNAMIC: Final = 1
FIXED: Final = 2
_TYPES: Final = {3: "an undo image", 4: "a differencing image (of a snapshot or linked clone)"}

FREE: Final = 0xFFFF_FFFF
"""The block was never written."""
ZERO: Final = 0xFFFF_FFFE
"""The block was discarded and reads as zeros."""

MAX_BLOCK: Final = 256 << 20
"""Larger blocks than this make no sense; VirtualBox always takes 1 MiB."""


class VdiImage(MappedImage):
    """A VDI. All positions and sizes in bytes."""

    def __init__(self, file: File, size: int, block: int, table: int, first: int, extra: int, kind: str) -> None:
        super().__init__(file.name, size, [file], {"create type": kind}, cluster_size=block)
        self._file = file
        self._block = block
        self._table = table
        self._first = first
        self._extra = extra
        self._pages = Pages(file)

    def locate(self, offset: int, size: int) -> Iterator[Piece]:
        end = offset + size
        while offset < end:
            index, start = divmod(offset, self._block)
            count = min(self._block - start, end - offset)
            entry = self._pages.integer(self._table + index * _ENTRY.size, _ENTRY)
            if entry == FREE:
                yield Piece(count, "hole")
            elif entry == ZERO:
                yield Piece(count, "zero")
            else:
                place = self._first + entry * (self._block + self._extra) + self._extra + start
                yield Piece(count, "file", self._file, place)
            offset += count


def open_vdi(file: File, context: Context) -> BlockBackend:
    """The opener of format "vdi". Raises ProtocolError, ConfigError."""
    name = file.name
    fields = _HEADER.unpack(read_exactly(file, _START, _HEADER.size, "header"))
    signature, version, _, kind, _, _, table, first, *_, sector, _, size, block, extra, blocks = fields[:17]
    if signature != SIGNATURE:
        raise ProtocolError(f"{name}: this is no VDI image: the signature is {signature:#010x}", _START)
    if version != VERSION:
        raise ProtocolError(f"{name}: VDI version {version >> 16}.{version & 0xFFFF} is not known; 1.1 is")
    if kind not in (DYNAMIC, FIXED):
        what = _TYPES.get(kind, f"a VDI image of type {kind}")
        raise ConfigError(
            name, f"this is {what}, which Manor does not read; in VirtualBox clone the disk (VBoxManage clonemedium)"
        )
    if sector != 512 or not 512 <= block <= MAX_BLOCK or block & (block - 1) or extra > block or extra % 512:
        raise ProtocolError(f"{name}: sectors of {sector} and blocks of {block} + {extra} bytes are not possible")
    if size > blocks * block:
        raise ProtocolError(f"{name}: the disk has {size} bytes and its table holds {blocks} blocks of {block}")
    if table % _ENTRY.size or table + blocks * _ENTRY.size > file.size():
        raise ProtocolError(f"{name}: the table of {blocks} blocks at {table:#x} lies outside the file")
    return VdiImage(file, size, block, table, first, extra, "dynamic" if kind == DYNAMIC else "fixed")
