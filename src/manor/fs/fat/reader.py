"""Reader of FAT12, FAT16 and FAT32: directories and files, long names, without regard to case."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Final

from manor.base.errors import ProtocolError
from manor.fs.fat.layout import (
    BOOT,
    DIRECTORY,
    ENTRY,
    ENTRY_SIZE,
    LONG_NAME,
    MIN_CLUSTERS_16,
    MIN_CLUSTERS_32,
    SECTOR,
    VOLUME,
    short_checksum,
)
from manor.fs.io import Source
from manor.fs.reading import MAX_ENTRIES, Node

_ROOT: Final = 1
"""The handle of the root of FAT12 and FAT16, which is no chain: no cluster has this number."""
_DELETED: Final = 0xE5
_LOWER_STEM: Final = 0x08
_LOWER_EXTENSION: Final = 0x10
"""Case bits of a short name, as Windows and Linux use them."""


class FatReader:
    """A FAT file system on `source`. Raises ProtocolError if it is none."""

    kind = "FAT"

    def __init__(self, source: Source) -> None:
        if not is_fat(source):
            raise ProtocolError("this is no FAT file system")
        self._source = source
        fields = BOOT.unpack(source.read(0, SECTOR))
        sector: int = fields["bytes_per_sector"]
        self._cluster: int = sector * fields["sectors_per_cluster"]
        fat_size: int = fields["fat_size_16"] or fields["fat_size_32"]
        sectors: int = fields["sectors_16"] or fields["sectors_32"]
        root_size = -(-fields["root_entries"] * ENTRY_SIZE // sector)
        first_data = fields["reserved"] + fields["fats"] * fat_size + root_size
        if sectors * sector > source.size or first_data >= sectors:
            raise ProtocolError("the FAT file system is damaged, or the image is cut off", 0)
        self._data = first_data * sector
        self._clusters = (sectors - first_data) * sector // self._cluster
        self._root_start = (fields["reserved"] + fields["fats"] * fat_size) * sector
        self._root_size: int = fields["root_entries"] * ENTRY_SIZE
        is_32 = self._clusters >= MIN_CLUSTERS_32
        self._bits = 32 if is_32 else 16 if self._clusters >= MIN_CLUSTERS_16 else 12
        self._root_cluster: int = fields["root_cluster"] if is_32 else _ROOT
        # The first copy, no longer than its clusters need.
        needed = -(-(self._clusters + 2) * self._bits // 8)
        if needed > fat_size * sector:
            raise ProtocolError("the FAT is shorter than its clusters need", 0)
        self._fat = source.read(fields["reserved"] * sector, needed + 1)
        place = 67 if is_32 else 39
        serial, label = struct.unpack_from("<I11s", source.read(0, SECTOR), place)
        self._uuid: str = f"{serial >> 16:04X}-{serial & 0xFFFF:04X}"
        self._label: str = label.decode("ascii", "replace").strip()

    @property
    def uuid(self) -> str:
        return self._uuid

    @property
    def label(self) -> str:
        return self._label

    def root(self) -> Node:
        return Node("", "directory", 0, self._root_cluster)

    def entries(self, directory: Node) -> list[Node]:
        data = self._directory_data(directory)
        found: list[Node] = []
        pieces: dict[int, bytes] = {}
        checksum = -1
        for start in range(0, len(data), ENTRY_SIZE):
            first = data[start]
            if first == 0:
                break
            raw = data[start : start + ENTRY_SIZE]
            attributes = raw[11]
            if first == _DELETED:
                pieces = {}
            elif attributes == LONG_NAME:
                if first & 0x40 or raw[13] != checksum:
                    pieces = {}
                checksum = raw[13]
                pieces[first & 0x1F] = raw[1:11] + raw[14:26] + raw[28:32]
            else:
                fields = ENTRY.unpack(raw)
                if not attributes & VOLUME and first != ord("."):
                    found.append(self._node(fields, pieces, checksum))
                pieces = {}
            if len(found) > MAX_ENTRIES:
                raise ProtocolError(f"the directory {directory.name} has too many entries")
        return found

    def find(self, directory: Node, name: str) -> Node | None:
        wanted = name.casefold()
        return next((node for node in self.entries(directory) if node.name.casefold() == wanted), None)

    def contents(self, node: Node, limit: int) -> bytes:
        if node.size > limit:
            raise ProtocolError(f"{node.name} has {node.size} bytes, more than the {limit} that are read of it")
        if not node.size:
            return b""
        data = self._chain_data(node.handle, node.size)
        if len(data) < node.size:
            raise ProtocolError(f"the clusters of {node.name} end before it does")
        return data

    def _node(self, fields: dict[str, Any], pieces: dict[int, bytes], checksum: int) -> Node:
        name = _short(fields["name"], fields["case"])
        if pieces and short_checksum(fields["name"]) == checksum and sorted(pieces) == list(range(1, len(pieces) + 1)):
            units = b"".join(pieces[number] for number in sorted(pieces))
            name = units.decode("utf-16-le", "replace").partition("\0")[0]
        is_directory = bool(fields["attributes"] & DIRECTORY)
        cluster = fields["cluster_low"] | (fields["cluster_high"] << 16 if self._bits == 32 else 0)
        # A directory's parent that is the root is written as cluster 0.
        handle = self._root_cluster if is_directory and not cluster else cluster
        return Node(name, "directory" if is_directory else "file", 0 if is_directory else fields["size"], handle)

    def _directory_data(self, directory: Node) -> bytes:
        if directory.handle == _ROOT:
            return self._source.read(self._root_start, self._root_size)
        return self._chain_data(directory.handle, MAX_ENTRIES * ENTRY_SIZE)

    def _chain_data(self, cluster: int, limit: int) -> bytes:
        """The data of a chain, at most `limit` bytes of it."""
        parts = []
        size = 0
        for start, count in self._runs(cluster, -(-limit // self._cluster)):
            parts.append(self._source.read(self._data + (start - 2) * self._cluster, count * self._cluster))
            size += count * self._cluster
        return b"".join(parts)[:limit]

    def _runs(self, cluster: int, limit: int) -> Iterator[tuple[int, int]]:
        """(first, count) of clusters in a row; no more than `limit` clusters. A loop ends there at the latest."""
        total = 0
        start = count = 0
        while 2 <= cluster < self._clusters + 2 and total < limit:
            if count and cluster == start + count:
                count += 1
            else:
                if count:
                    yield start, count
                start, count = cluster, 1
            total += 1
            if total > self._clusters:
                raise ProtocolError("a chain of the FAT is a loop")
            cluster = self._next(cluster)
        if count:
            yield start, count

    def _next(self, cluster: int) -> int:
        match self._bits:
            case 32:
                value: int = struct.unpack_from("<I", self._fat, 4 * cluster)[0]
                return value & 0x0FFF_FFFF
            case 16:
                return int(struct.unpack_from("<H", self._fat, 2 * cluster)[0])
            case _:
                pair: int = struct.unpack_from("<H", self._fat, cluster + cluster // 2)[0]
                return pair >> 4 if cluster & 1 else pair & 0xFFF


def is_fat(source: Source) -> bool:
    """Whether a first sector is that of a FAT file system: numbers that all of them have (fatgen103, 3)."""
    if source.size < SECTOR:
        return False
    fields = BOOT.unpack(source.read(0, SECTOR))
    per_cluster = fields["sectors_per_cluster"]
    return (
        fields["signature"] == b"\x55\xaa"
        and fields["bytes_per_sector"] in (512, 1024, 2048, 4096)
        and per_cluster in (1, 2, 4, 8, 16, 32, 64, 128)
        and fields["fats"] in (1, 2)
        and fields["reserved"] > 0
        and bool(fields["fat_size_16"] or fields["fat_size_32"])
        and bool(fields["sectors_16"] or fields["sectors_32"])
        and (fields["media"] == 0xF0 or fields["media"] >= 0xF8)
    )


def _short(name: bytes, case: int) -> str:
    stem = name[:8].decode("cp437").rstrip()
    extension = name[8:].decode("cp437").rstrip()
    if stem[:1] == "\x05":
        stem = "σ" + stem[1:]  # the byte that marks deleted entries, replaced (fatgen103, 6)
    stem = stem.lower() if case & _LOWER_STEM else stem
    extension = extension.lower() if case & _LOWER_EXTENSION else extension
    return f"{stem}.{extension}" if extension else stem
