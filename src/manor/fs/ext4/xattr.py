"""Extended attributes: in the inode's spare bytes where they fit, else in a block of their own.

Source: Linux Documentation/filesystems/ext4/attributes.rst.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

from manor.base.errors import ConfigError
from manor.fs.crc32c import crc32c
from manor.fs.ext4 import acl
from manor.fs.ext4.layout import XATTR_MAGIC, XATTR_PREFIXES

_ENTRY: Final = struct.Struct("<BBHIII")
_BLOCK_HEADER: Final = 32
_MASK: Final = 0xFFFF_FFFF


def in_inode(xattrs: Mapping[str, bytes], room: int) -> bytes | None:
    """The bytes behind the fields of an inode; None if they need more than `room`."""
    packed = _pack(xattrs, room - 4, 4, hashed=False)
    return None if packed is None else struct.pack("<I", XATTR_MAGIC) + packed


def block(xattrs: Mapping[str, bytes], path: str, size: int, number: int, seed: int) -> bytes:
    """The attributes' own block of `size` bytes at block `number`. Raises ConfigError if they do not fit."""
    packed = _pack(xattrs, size - _BLOCK_HEADER, 0, hashed=True)
    if packed is None:
        raise ConfigError("", f"the extended attributes of {path!r} are larger than a block")
    combined = 0
    for at in _entries(packed):
        entry_hash = _ENTRY.unpack_from(packed, at)[5]
        combined = 0 if not entry_hash else (combined << 16 | combined >> 16) & _MASK ^ entry_hash
        if not entry_hash:
            break
    head = bytearray(struct.pack("<IIIIIIII", XATTR_MAGIC, 1, 1, combined, 0, 0, 0, 0))
    checksum = crc32c(crc32c(seed, struct.pack("<Q", number)), bytes(head) + packed)
    struct.pack_into("<I", head, 16, checksum)
    return bytes(head) + packed


def _pack(xattrs: Mapping[str, bytes], room: int, end: int, *, hashed: bool) -> bytes | None:
    """Entries from the front, values from the back of `room` bytes, sorted as the kernel wants them in blocks.

    Offsets of values count from the first entry in an inode, and from the block's start (its header) in a block.
    end: bytes of zeros that must stay behind the last entry, at least.
    """
    area = bytearray(room)
    position = 0
    back = room
    items = sorted((index, len(name), name, value) for index, name, value in map(_split, xattrs.items()))
    for index, _, name, value in items:
        entry_size = _ENTRY.size + -(-len(name) // 4) * 4
        value_size = -(-len(value) // 4) * 4
        if position + entry_size + max(end, 4) > back - value_size:
            return None
        back -= value_size
        area[back : back + len(value)] = value
        offset = back + (_BLOCK_HEADER if hashed else 0)
        area[position : position + _ENTRY.size + len(name)] = (
            _ENTRY.pack(len(name), index, offset, 0, len(value), _hash(name, value) if hashed else 0) + name
        )
        position += entry_size
    return bytes(area)


def _split(item: tuple[str, bytes]) -> tuple[int, bytes, bytes]:
    """(name index, rest of the name, value)."""
    name, value = item
    for prefix, index in XATTR_PREFIXES.items():
        if name.startswith(prefix):
            rest = name[len(prefix) :].encode("utf-8", "surrogateescape")
            if len(rest) > 255:
                break
            return index, rest, acl.to_disk(value) if index in acl.INDICES else value
    raise ConfigError("", f"{name!r} is not a name of an extended attribute that ext4 knows")


def _entries(area: bytes) -> list[int]:
    """Offsets of the entries in a packed area."""
    found = []
    at = 0
    while at + _ENTRY.size <= len(area) and area[at : at + 4] != b"\0\0\0\0":
        found.append(at)
        at += _ENTRY.size + -(-area[at] // 4) * 4
    return found


def _hash(name: bytes, value: bytes) -> int:
    """The entry's hash, over its name and its value's 32-bit words."""
    result = 0
    for byte in name:
        result = (result << 5 | result >> 27) & _MASK ^ byte
    padded = value + bytes(-len(value) % 4)
    for (word,) in struct.iter_unpack("<I", padded):
        result = (result << 16 | result >> 16) & _MASK ^ word
    return result
