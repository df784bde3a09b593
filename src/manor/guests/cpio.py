"""The archive format of a Linux initramfs: cpio "newc".

Source: Linux Documentation/driver-api/early-userspace/buffer-format.rst; cpio(5), "New ASCII Format".
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from manor.base.errors import ProtocolError

_MAGIC: Final = b"070701"
_HEADER_SIZE: Final = 110
"""Magic and 13 fields of 8 hexadecimal digits."""
_TRAILER: Final = "TRAILER!!!"
_MAX_NAME: Final = 4096
"""PATH_MAX of Linux; a longer name is a damaged archive."""
_MAX_SIZE: Final = 0xFFFF_FFFF
"""Largest size the format can express."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file. name: without leading slash. mode: type and permission bits as in stat(2).

    data: contents, or the target of a symbolic link. device: (major, minor) of a device node.
    """

    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def directory(name: str, permissions: int = 0o755) -> Entry:
    return Entry(name, stat.S_IFDIR | permissions)


def regular(name: str, data: bytes, permissions: int = 0o644) -> Entry:
    return Entry(name, stat.S_IFREG | permissions, data)


def symlink(name: str, target: str) -> Entry:
    return Entry(name, stat.S_IFLNK | 0o777, target.encode())


def character_device(name: str, major: int, minor: int, permissions: int = 0o600) -> Entry:
    return Entry(name, stat.S_IFCHR | permissions, device=(major, minor))


def write_archive(entries: Iterable[Entry]) -> bytes:
    """An archive of `entries` in their order, owned by root, dated 1970: equal input gives equal bytes.

    Directories must come before what is in them. Raises ValueError for names the format cannot hold.
    """
    parts: list[bytes] = []
    for inode, entry in enumerate(entries, 1):
        name = entry.name.encode()
        if not name or len(name) >= _MAX_NAME or b"\0" in name or entry.name == _TRAILER:
            raise ValueError(f"{entry.name!r} cannot be a name in the archive")
        if len(entry.data) > _MAX_SIZE:
            raise ValueError(f"{entry.name!r} is larger than the format allows")
        parts.append(_record(inode, entry, name))
    parts.append(_record(0, Entry(_TRAILER, 0), _TRAILER.encode()))
    return b"".join(parts)


def _record(inode: int, entry: Entry, name: bytes) -> bytes:
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (
        inode, entry.mode, 0, 0, links, 0, len(entry.data),
        0, 0, *entry.device, len(name) + 1, 0,
    )  # fmt: skip
    head = _MAGIC + b"".join(b"%08X" % value for value in fields) + name + b"\0"
    return head + bytes(-len(head) % 4) + entry.data + bytes(-len(entry.data) % 4)


def read_archive(archive: bytes) -> list[Entry]:
    """The entries of an archive. Raises ProtocolError with the offset if it is damaged."""
    entries: list[Entry] = []
    position = 0
    while True:
        header = archive[position : position + _HEADER_SIZE]
        if len(header) < _HEADER_SIZE or not header.startswith(_MAGIC):
            raise ProtocolError("not a newc cpio header", position)
        try:
            fields = [int(header[start : start + 8], 16) for start in range(6, _HEADER_SIZE, 8)]
        except ValueError as error:
            raise ProtocolError("a field of the cpio header is not a number", position) from error
        mode, size, major, minor, name_size = fields[1], fields[6], fields[9], fields[10], fields[11]
        name_start = position + _HEADER_SIZE
        data_start = name_start + name_size + -(_HEADER_SIZE + name_size) % 4
        if not 1 < name_size <= _MAX_NAME or data_start + size > len(archive):
            raise ProtocolError("a cpio entry is longer than the archive", position)
        name = archive[name_start : name_start + name_size - 1].decode("utf-8", "surrogateescape")
        if name == _TRAILER:
            return entries
        entries.append(Entry(name, mode, archive[data_start : data_start + size], (major, minor)))
        position = data_start + size + -size % 4
