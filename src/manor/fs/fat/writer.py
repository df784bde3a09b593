"""Writer of whole FAT32 file systems: entries in, an image out, equal bytes for equal input."""

from __future__ import annotations

import re
import stat
import struct
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from manor.base.errors import ConfigError
from manor.fs.entry import NS_PER_S, Entry
from manor.fs.fat.layout import (
    ARCHIVE,
    BOOT,
    DIRECTORY,
    END,
    ENTRY,
    FS_INFO,
    LONG_CHARACTERS,
    LONG_NAME,
    MAX_NAME,
    MIN_CLUSTERS_32,
    SECTOR,
    VOLUME,
    short_checksum,
)
from manor.fs.io import Sink

_CHUNK: Final = 1 << 20
_RESERVED: Final = 32
_FATS: Final = 2
_MEDIA: Final = 0xF8
_ROOT: Final = 2
_MAX_FILE: Final = 0xFFFF_FFFF
_SHORT: Final = re.compile(r"[A-Z0-9!#$%&'()@^_`{}~-]{1,8}(?:\.[A-Z0-9!#$%&'()@^_`{}~-]{1,3})?")
_FORBIDDEN: Final = re.compile(r'["*/:<>?\\|\x00-\x1f]')


@dataclass(slots=True)
class _Directory:
    cluster: int
    parent: int
    mtime: int
    entries: bytearray = field(default_factory=bytearray)
    names: set[str] = field(default_factory=set)
    shorts: set[bytes] = field(default_factory=set)


class Fat32Writer:
    """One new file system of `size` bytes on `sink`, whose bytes must read as zeros.

    volume_id: 32 bits; label: at most 11 characters of ASCII. Directories come before what is in them; there are only
    directories and regular files. Raises ConfigError for what does not fit. Thread: one.
    """

    def __init__(self, sink: Sink, size: int, *, volume_id: int, label: str = "NO NAME", hidden: int = 0) -> None:
        """hidden: sectors before the partition on its disk."""
        self._sink = sink
        self._volume_id = volume_id
        self._label = label.upper().encode("ascii", "replace").ljust(11)[:11]
        self._hidden = hidden
        self._sectors = size // SECTOR
        self._per_cluster, self._fat_sectors = _shape(self._sectors)
        self._cluster = self._per_cluster * SECTOR
        self._data = _RESERVED + _FATS * self._fat_sectors
        self._clusters = (self._sectors - self._data) // self._per_cluster
        self._fat = [_MEDIA | 0x0FFF_FF00, END]
        self._directories = {"": _Directory(_ROOT, 0, 0)}
        # The root's first cluster is known from the start; all others follow as they are needed.
        self._fat.append(END)

    def add(self, entry: Entry) -> None:
        """Put one entry into the file system. Owners and permissions have no place there."""
        if not entry.path:
            return
        parent_path, _, name = entry.path.rpartition("/")
        parent = self._directories.get(parent_path)
        if parent is None or not name or len(name) > MAX_NAME or _FORBIDDEN.search(name) or name.strip(" .") != name:
            raise ConfigError("", f"{entry.path!r} cannot be in a FAT file system: no directory for it, or a bad name")
        if name.lower() in parent.names:
            raise ConfigError("", f"{entry.path!r} is there already, as names here have no case")
        parent.names.add(name.lower())
        if stat.S_ISDIR(entry.mode):
            cluster = self._chain(1)[0]
            self._directories[entry.path] = _Directory(cluster, 0 if parent_path == "" else parent.cluster, entry.mtime)
            self._enter(parent, name, DIRECTORY, cluster, 0, entry.mtime)
        elif stat.S_ISREG(entry.mode):
            if entry.size > _MAX_FILE:
                raise ConfigError("", f"{entry.path!r} is larger than a file of FAT can be")
            cluster = self._write_contents(entry)
            self._enter(parent, name, ARCHIVE, cluster, entry.size, entry.mtime)
        else:
            raise ConfigError("", f"{entry.path!r} is neither a directory nor a regular file")

    def _write_contents(self, entry: Entry) -> int:
        """The first cluster; 0 for an empty file. Clusters are given out in order, so a file is contiguous."""
        if not entry.size:
            return 0
        first = self._chain(-(-entry.size // self._cluster))[0]
        offset = self._offset(first)
        left = entry.size
        with entry.open() as stream:
            while left:
                data = stream.read(min(_CHUNK, left))
                if not data:
                    raise ConfigError("", f"the contents of {entry.path!r} ended early")
                self._sink.write(offset, data)
                offset += len(data)
                left -= len(data)
        return first

    def _chain(self, count: int) -> range:
        """The next `count` free clusters, chained."""
        first = len(self._fat)
        if first + count > self._clusters + 2:
            raise ConfigError("size", "the files do not fit into the FAT file system; make it larger")
        self._fat += range(first + 1, first + count)
        self._fat.append(END)
        return range(first, first + count)

    def _offset(self, cluster: int) -> int:
        return (self._data + (cluster - 2) * self._per_cluster) * SECTOR

    def _enter(self, directory: _Directory, name: str, attributes: int, cluster: int, size: int, mtime: int) -> None:
        short = _short_name(name, directory.shorts)
        directory.shorts.add(short)
        if short != _packed(name):
            directory.entries += _long_entries(name, short)
        directory.entries += _entry(short, attributes, cluster, size, mtime)

    def finish(self) -> None:
        """Write everything but the contents of files. Nothing can be added afterwards."""
        for path, each in self._directories.items():
            if path:
                head = _entry(b".".ljust(11), DIRECTORY, each.cluster, 0, each.mtime)
                head += _entry(b"..".ljust(11), DIRECTORY, each.parent, 0, each.mtime)
            else:
                head = _entry(self._label, VOLUME, 0, 0, 0)
            self._write_directory(each, head + bytes(each.entries))
        fat = struct.pack(f"<{len(self._fat)}I", *self._fat)
        for number in range(_FATS):
            self._sink.write((_RESERVED + number * self._fat_sectors) * SECTOR, fat)
        boot = BOOT.pack(
            jump=b"\xeb\x58\x90", oem=b"MSWIN4.1", bytes_per_sector=SECTOR, sectors_per_cluster=self._per_cluster,
            reserved=_RESERVED, fats=_FATS, media=_MEDIA, sectors_per_track=63, heads=255, hidden=self._hidden,
            sectors_32=self._sectors, fat_size_32=self._fat_sectors, root_cluster=_ROOT, fs_info=1, backup_boot=6,
            drive=0x80, boot_signature=0x29, volume_id=self._volume_id, label=self._label, type=b"FAT32   ",
            signature=b"\x55\xaa",
        )  # fmt: skip
        info = FS_INFO.pack(
            lead=0x41615252, structure=0x61417272, free=self._clusters + 2 - len(self._fat), next=len(self._fat),
            trail=0xAA550000,
        )  # fmt: skip
        for start in (0, 6):
            self._sink.write(start * SECTOR, boot)
            self._sink.write((start + 1) * SECTOR, info)
            self._sink.write((start + 3) * SECTOR - 2, b"\x55\xaa")

    def _write_directory(self, directory: _Directory, data: bytes) -> None:
        self._sink.write(self._offset(directory.cluster), data[: self._cluster])
        rest = data[self._cluster :]
        if rest:
            clusters = self._chain(-(-len(rest) // self._cluster))
            self._fat[directory.cluster] = clusters[0]
            self._sink.write(self._offset(clusters[0]), rest)


def _shape(sectors: int) -> tuple[int, int]:
    """(sectors per cluster, sectors per FAT): the largest cluster, to 4 KiB, that leaves enough of them for FAT32."""
    for per_cluster in (8, 4, 2, 1):
        fat = -(-(sectors // per_cluster + 2) * 4 // SECTOR)
        if (sectors - _RESERVED - _FATS * fat) // per_cluster >= MIN_CLUSTERS_32 + 16:
            return per_cluster, fat
    raise ConfigError("size", f"{sectors * SECTOR} bytes are too few for FAT32; it needs 34 MiB")


def _packed(name: str) -> bytes:
    """A name as a short one of 11 bytes, as if it were one."""
    stem, _, extension = name.partition(".")
    return stem.encode("ascii", "replace").ljust(8)[:8] + extension.encode("ascii", "replace").ljust(3)[:3]


def _short_name(name: str, taken: set[bytes]) -> bytes:
    """The name itself if it is a short one, else one made of it with a number that nobody has (fatgen103, 7)."""
    if _SHORT.fullmatch(name) and _packed(name) not in taken:
        return _packed(name)
    stem, dot, extension = name.upper().rpartition(".")
    if not dot:
        stem, extension = extension, ""
    stem = re.sub(r"[^A-Z0-9_-]", "", stem) or "_"
    extension = re.sub(r"[^A-Z0-9_-]", "", extension)[:3]
    number = 1
    while True:
        tail = f"~{number}"
        short = (stem[: 8 - len(tail)] + tail).encode().ljust(8) + extension.encode().ljust(3)
        if short not in taken:
            return short
        number += 1


def _long_entries(name: str, short: bytes) -> bytes:
    """The entries of a long name, last part first."""
    units = name.encode("utf-16-le")
    count = -(-len(units) // (2 * LONG_CHARACTERS))
    padded = units
    if len(units) % (2 * LONG_CHARACTERS):
        padded = (units + b"\0\0").ljust(count * 2 * LONG_CHARACTERS, b"\xff")
    checksum = short_checksum(short)
    entries = []
    for number in range(count, 0, -1):
        part = padded[(number - 1) * 2 * LONG_CHARACTERS : number * 2 * LONG_CHARACTERS]
        order = number | (0x40 if number == count else 0)
        entries.append(
            struct.pack("<B10sBBB12sH4s", order, part[:10], LONG_NAME, 0, checksum, part[10:22], 0, part[22:])
        )
    return b"".join(entries)


def _entry(name: bytes, attributes: int, cluster: int, size: int, mtime: int) -> bytes:
    time, date = _dos_time(mtime)
    return bytes(
        ENTRY.pack(
            name=name, attributes=attributes, create_time=time, create_date=date, access_date=date, write_time=time,
            write_date=date, cluster_high=cluster >> 16, cluster_low=cluster & 0xFFFF, size=size,
        )
    )  # fmt: skip


def _dos_time(nanoseconds: int) -> tuple[int, int]:
    """(time in steps of two seconds, date) in UTC; the years are 1980 to 2107."""
    moment = datetime.fromtimestamp(min(max(nanoseconds // NS_PER_S, 315532800), 4354819198), UTC)
    time = moment.hour << 11 | moment.minute << 5 | moment.second // 2
    return time, moment.year - 1980 << 9 | moment.month << 5 | moment.day


