"""Blocks of a directory.

Source: Linux Documentation/filesystems/ext4/directory.rst: linear directories, with a checksum at each block's end.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterable
from typing import Final

from manor.fs.crc32c import crc32c

_HEAD: Final = struct.Struct("<IHBB")
_TAIL: Final = struct.Struct("<IHBBI")
TAIL_SIZE: Final = _TAIL.size
_TAIL_TYPE: Final = 0xDE
FILE_TYPES: Final = {
    stat.S_IFREG: 1, stat.S_IFDIR: 2, stat.S_IFCHR: 3, stat.S_IFBLK: 4, stat.S_IFIFO: 5, stat.S_IFSOCK: 6,
    stat.S_IFLNK: 7,
}  # fmt: skip

Name = tuple[bytes, int, int]
"""(name, inode, type of file as directories have it)."""


def entry_size(name: bytes) -> int:
    """Bytes that an entry needs."""
    return -(-(_HEAD.size + len(name)) // 4) * 4


def distribute(names: Iterable[Name], room: int) -> list[list[Name]]:
    """Names in their order on as few blocks as that gives, each with `room` bytes; at least one block."""
    blocks: list[list[Name]] = [[]]
    used = 0
    for name in names:
        size = entry_size(name[0])
        if used + size > room:
            blocks.append([])
            used = 0
        blocks[-1].append(name)
        used += size
    return blocks


def pack_entries(names: Iterable[Name], room: int) -> bytearray:
    """Entries that fill `room` bytes exactly: the last one reaches to the end."""
    data = bytearray(room)
    position = 0
    last = -1
    for name, inode, kind in names:
        size = entry_size(name)
        _HEAD.pack_into(data, position, inode, size, len(name), kind)
        data[position + _HEAD.size : position + _HEAD.size + len(name)] = name
        last = position
        position += size
    if last < 0:
        _HEAD.pack_into(data, 0, 0, room, 0, 0)
    else:
        struct.pack_into("<H", data, last + 4, room - last)
    return data


def leaf(names: Iterable[Name], size: int, seed: int) -> bytes:
    """A block of entries with its checksum. seed: that of the directory's inode."""
    data = pack_entries(names, size - TAIL_SIZE)
    return bytes(data) + _TAIL.pack(0, TAIL_SIZE, 0, _TAIL_TYPE, crc32c(seed, data))
