"""Reader of ext2, ext3 and ext4: directories, files, links, extended attributes.

A file system whose journal was not replayed is read as it is on the disk: what was written last may be missing.
Source: Linux Documentation/filesystems/ext4 (kernel 6.1).
"""

from __future__ import annotations

import io
import stat
import struct
import uuid
from collections.abc import Callable, Iterator
from typing import Final

from manor.base.errors import ProtocolError
from manor.fs.entry import Entry, FileData
from manor.fs.ext4 import acl
from manor.fs.ext4.layout import (
    CLASSIC_INODE,
    EXTENT_MAGIC,
    GROUP,
    INODE,
    N_BLOCK,
    ROOT_INODE,
    SUPER,
    SUPER_MAGIC,
    SUPER_OFFSET,
    SUPER_SIZE,
    XATTR_MAGIC,
    XATTR_PREFIXES,
    Incompat,
    InodeFlag,
)
from manor.fs.io import Source
from manor.fs.reading import MAX_ENTRIES, Kind, Node

_KNOWN: Final = (
    Incompat.FILETYPE | Incompat.RECOVER | Incompat.META_BG | Incompat.EXTENTS | Incompat.BIT64 | Incompat.MMP
    | Incompat.FLEX_BG | Incompat.EA_INODE | Incompat.CSUM_SEED | Incompat.LARGEDIR | Incompat.INLINE_DATA
    | Incompat.ENCRYPT | Incompat.CASEFOLD
)  # fmt: skip
_MAX_DEPTH: Final = 5
_MAX_NODES: Final = 1 << 16
"""Nodes of one extent tree that are read."""
_MAX_DIRECTORY: Final = 64 << 20
_MAX_TREE_DEPTH: Final = 200
_DIRECT: Final = 12
_XATTR_ENTRY: Final = struct.Struct("<BBHIII")
_KINDS: Final[dict[int, Kind]] = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "link"}


class Inode:
    """The fields of one inode."""

    __slots__ = (
        "acl_block", "block", "device", "flags", "gid", "links", "mode", "mtime", "number", "size", "tail", "uid",
    )  # fmt: skip

    def __init__(self, number: int, data: bytes) -> None:
        fields = INODE.unpack(data.ljust(INODE.size, b"\0"))
        self.number = number
        self.mode: int = fields["mode"]
        self.uid: int = fields["uid"] | fields["uid_high"] << 16
        self.gid: int = fields["gid"] | fields["gid_high"] << 16
        self.size: int = fields["size_lo"] | fields["size_high"] << 32
        self.links: int = fields["links_count"]
        self.flags: int = fields["flags"]
        self.block: bytes = fields["block"]
        self.acl_block: int = fields["file_acl_lo"] | fields["file_acl_high"] << 32
        extra = fields["extra_isize"] if len(data) > CLASSIC_INODE else 0
        seconds = fields["mtime"] - (fields["mtime"] >> 31 << 32)
        nanoseconds = 0
        if extra >= 12:
            seconds += (fields["mtime_extra"] & 3) << 32
            nanoseconds = min(fields["mtime_extra"] >> 2, 999_999_999)
        self.mtime: int = seconds * 10**9 + nanoseconds
        self.tail: bytes = data[CLASSIC_INODE + extra :] if extra else b""
        old, new = struct.unpack_from("<II", self.block)
        self.device = (
            (old >> 8 & 0xFF, old & 0xFF) if old else (new >> 8 & 0xFFF, new & 0xFF | new >> 12 & 0xFFF00)
        )  # fmt: skip


class Ext4Reader:
    """An ext2, ext3 or ext4 file system on `source`. Raises ProtocolError if it is none, or one that is not known."""

    kind = "ext4"

    def __init__(self, source: Source) -> None:
        if not is_ext(source):
            raise ProtocolError("this is no ext4 file system")
        self._source = source
        fields = SUPER.unpack(source.read(SUPER_OFFSET, SUPER_SIZE))
        unknown = fields["feature_incompat"] & ~int(_KNOWN)
        if unknown:
            raise ProtocolError(f"the ext4 file system has features that are not known here ({unknown:#x})")
        if fields["log_block_size"] > 6 or not fields["blocks_per_group"] or not fields["inodes_per_group"]:
            raise ProtocolError("the superblock of the ext4 file system is damaged", SUPER_OFFSET)
        self._block = 1024 << fields["log_block_size"]
        incompat = Incompat(fields["feature_incompat"])
        self.is_dirty = Incompat.RECOVER in incompat
        """Whether its journal waits to be replayed."""
        high = fields["blocks_count_hi"] if Incompat.BIT64 in incompat else 0
        self._blocks: int = fields["blocks_count_lo"] | high << 32
        self._descriptor: int = fields["desc_size"] if Incompat.BIT64 in incompat else 32
        self._inode_size: int = fields["inode_size"] if fields["rev_level"] else CLASSIC_INODE
        if (
            not 32 <= self._descriptor <= 1024
            or not CLASSIC_INODE <= self._inode_size <= self._block
            or self._blocks * self._block > source.size
            or fields["blocks_per_group"] > 8 * self._block
        ):
            message = "the superblock of the ext4 file system is damaged, or the image is cut off"
            raise ProtocolError(message, SUPER_OFFSET)
        self._inodes: int = fields["inodes_count"]
        self._inodes_per_group: int = fields["inodes_per_group"]
        self._blocks_per_group: int = fields["blocks_per_group"]
        self._first_block: int = fields["first_data_block"]
        self._first_meta_bg: int | None = fields["first_meta_bg"] if Incompat.META_BG in incompat else None
        self._has_filetype = Incompat.FILETYPE in incompat
        self._uuid = uuid.UUID(bytes=fields["uuid"])
        self._label: str = fields["volume_name"].partition(b"\0")[0].decode("utf-8", "replace")

    @property
    def uuid(self) -> str:
        return str(self._uuid)

    @property
    def label(self) -> str:
        return self._label

    # --- nodes ----------------------------------------------------------------------------------------------------

    def root(self) -> Node:
        return self._node("", ROOT_INODE)

    def _node(self, name: str, number: int) -> Node:
        inode = self.inode(number)
        return Node(name, _KINDS.get(stat.S_IFMT(inode.mode), "other"), inode.size, number)

    def entries(self, directory: Node) -> list[Node]:
        return [self._node(name, number) for name, number in self._names(directory)]

    def find(self, directory: Node, name: str) -> Node | None:
        for each, number in self._names(directory):
            if each == name:
                return self._node(name, number)
        return None

    def contents(self, node: Node, limit: int) -> bytes:
        inode = self.inode(node.handle)
        if inode.size > limit:
            raise ProtocolError(f"{node.name} has {inode.size} bytes, more than the {limit} that are read of it")
        if stat.S_ISLNK(inode.mode) and inode.size < N_BLOCK and not inode.flags & InodeFlag.EXTENTS:
            return inode.block[: inode.size]
        return self.data(inode)

    def inode(self, number: int) -> Inode:
        """One inode. Raises ProtocolError if there is none of that number."""
        if not 1 <= number <= self._inodes:
            raise ProtocolError(f"there is no inode {number}")
        group, place = divmod(number - 1, self._inodes_per_group)
        table = self._inode_table(group)
        return Inode(number, self._source.read(table * self._block + place * self._inode_size, self._inode_size))

    def _inode_table(self, group: int) -> int:
        per_block = self._block // self._descriptor
        block, place = divmod(group, per_block)
        if self._first_meta_bg is not None and block >= self._first_meta_bg:
            # In the first group of its meta group, behind a superblock if that group has one.
            first = block * per_block
            at = self._first_block + first * self._blocks_per_group + self._has_super(first)
        else:
            at = self._first_block + 1 + block
        data = self._source.read(at * self._block + place * self._descriptor, self._descriptor)
        fields = GROUP.unpack(data.ljust(GROUP.size, b"\0"))
        table: int = fields["inode_table_lo"] | (fields["inode_table_hi"] << 32 if self._descriptor >= 64 else 0)
        return table

    @staticmethod
    def _has_super(group: int) -> int:
        """1 for a group with a copy of the superblock: 0, 1, powers of 3, 5 and 7."""
        if group <= 1:
            return 1
        for base in (3, 5, 7):
            rest = group
            while rest % base == 0:
                rest //= base
            if rest == 1:
                return 1
        return 0

    def walk(self, is_wanted: Callable[[str], bool]) -> Iterator[Entry]:
        """Everything, sorted, as entries; a directory that is not wanted is left out with all that is in it.

        Raises ProtocolError.
        """
        links: dict[int, str] = {}

        def entry(path: str, number: int) -> Entry:
            inode = self.inode(number)
            if not stat.S_ISDIR(inode.mode) and inode.links > 1:
                if number in links:
                    return Entry(path, inode.mode, link=links[number])
                links[number] = path
            data: bytes | FileData = b""
            if inode.size > self._source.size and not stat.S_ISDIR(inode.mode):
                raise ProtocolError(f"{path} is larger than the file system")
            if stat.S_ISLNK(inode.mode):
                data = self.contents(Node(path, "link", inode.size, number), 4096)
            elif stat.S_ISREG(inode.mode):
                data = FileData(inode.size, lambda: io.BytesIO(self.data(inode)))
            is_device = stat.S_ISCHR(inode.mode) or stat.S_ISBLK(inode.mode)
            device = inode.device if is_device else (0, 0)
            xattrs = self.xattrs(inode)
            return Entry(path, inode.mode, inode.uid, inode.gid, inode.mtime, data, device, xattrs=xattrs)

        def below(path: str, number: int, depth: int) -> Iterator[Entry]:
            if depth > _MAX_TREE_DEPTH:
                raise ProtocolError(f"{path} lies deeper than any directory")
            for name, child in sorted(self._names(Node(path, "directory", 0, number))):
                inner = f"{path}/{name}" if path else name
                if is_wanted(inner):
                    found = entry(inner, child)
                    yield found
                    if stat.S_ISDIR(found.mode):
                        yield from below(inner, child, depth + 1)

        yield entry("", ROOT_INODE)
        yield from below("", ROOT_INODE, 0)

    # --- directories ----------------------------------------------------------------------------------------------

    def _names(self, directory: Node) -> Iterator[tuple[str, int]]:
        """(name, inode) of a directory's entries. Index blocks of hashed directories look like empty ones."""
        inode = self.inode(directory.handle)
        if not stat.S_ISDIR(inode.mode):
            raise ProtocolError(f"{directory.name} is no directory")
        if inode.flags & InodeFlag.ENCRYPT:
            raise ProtocolError(f"the directory {directory.name} is encrypted")
        if inode.size > _MAX_DIRECTORY:
            raise ProtocolError(f"the directory {directory.name} is larger than any is")
        data = self.data(inode)
        if inode.flags & InodeFlag.INLINE_DATA:
            # The parent's number stands where entries would begin.
            yield from self._block_names(data[4:N_BLOCK], directory.name)
            yield from self._block_names(data[N_BLOCK:], directory.name)
            return
        count = 0
        for start in range(0, len(data), self._block):
            for found in self._block_names(data[start : start + self._block], directory.name):
                count += 1
                if count > MAX_ENTRIES:
                    raise ProtocolError(f"the directory {directory.name} has too many entries")
                yield found

    def _block_names(self, block: bytes, where: str) -> Iterator[tuple[str, int]]:
        at = 0
        while at + 8 <= len(block):
            number, size, length, high = struct.unpack_from("<IHBB", block, at)
            if self._block >= 65536 and size in (0, 65535):
                size = 65536
            if not self._has_filetype:
                length |= high << 8
            if size < 8 or size % 4 or at + size > len(block) or 8 + length > size:
                raise ProtocolError(f"the directory {where} is damaged")
            if number and length:
                name = block[at + 8 : at + 8 + length].decode("utf-8", "surrogateescape")
                if name not in (".", "..") and "/" not in name and "\0" not in name:
                    yield name, number
            at += size

    # --- data -----------------------------------------------------------------------------------------------------

    def data(self, inode: Inode) -> bytes:
        """All contents of an inode; holes as zeros. The caller has bounded its size."""
        if inode.flags & InodeFlag.ENCRYPT:
            raise ProtocolError("a file is encrypted")
        if inode.flags & InodeFlag.INLINE_DATA:
            return (inode.block + self.xattrs(inode).get("system.data", b""))[: inode.size]
        result = bytearray(inode.size)
        extents = self._extents(inode) if inode.flags & InodeFlag.EXTENTS else self._mapped(inode)
        for logical, count, physical in extents:
            start = logical * self._block
            if start >= len(result):
                continue
            size = min(count * self._block, len(result) - start)
            if not 0 < physical <= physical + count <= self._blocks:
                raise ProtocolError(f"the inode {inode.number} has blocks outside the file system")
            result[start : start + size] = self._source.read(physical * self._block, size)
        return bytes(result)

    def _extents(self, inode: Inode) -> Iterator[tuple[int, int, int]]:
        """(first block of the file, count, first block of the file system)."""
        nodes = 0
        todo: list[tuple[bytes, int]] = [(inode.block, _MAX_DEPTH)]
        while todo:
            node, above = todo.pop()
            magic, count, most, depth = struct.unpack_from("<HHHH", node)
            if magic != EXTENT_MAGIC or count > most or 12 + 12 * count > len(node) or depth > above:
                raise ProtocolError(f"the extents of inode {inode.number} are damaged")
            for number in range(count):
                at = 12 + 12 * number
                if depth:
                    _, low, high = struct.unpack_from("<IIH", node, at)
                    nodes += 1
                    if nodes > _MAX_NODES:
                        raise ProtocolError(f"the inode {inode.number} has too many extents")
                    todo.append((self._source.read((low | high << 32) * self._block, self._block), depth - 1))
                else:
                    logical, length, high, low = struct.unpack_from("<IHHI", node, at)
                    if length <= 0x8000:  # longer ones are set aside and read as zeros
                        yield logical, length, low | high << 32

    def _mapped(self, inode: Inode) -> Iterator[tuple[int, int, int]]:
        """The same by the block map of ext2 and ext3."""
        blocks = -(-inode.size // self._block)
        pointers = struct.unpack("<15I", inode.block)
        per_block = self._block // 4

        def walk(pointer: int, logical: int, level: int) -> Iterator[tuple[int, int, int]]:
            if not pointer or logical >= blocks:
                return
            if level == 0:
                yield logical, 1, pointer
                return
            if pointer >= self._blocks:
                raise ProtocolError(f"the inode {inode.number} has blocks outside the file system")
            data = self._source.read(pointer * self._block, self._block)
            for number, below in enumerate(struct.unpack(f"<{per_block}I", data)):
                yield from walk(below, logical + number * per_block ** (level - 1), level - 1)

        for number in range(_DIRECT):
            yield from walk(pointers[number], number, 0)
        logical = _DIRECT
        for level in (1, 2, 3):
            yield from walk(pointers[_DIRECT + level - 1], logical, level)
            logical += per_block**level

    # --- extended attributes --------------------------------------------------------------------------------------

    def xattrs(self, inode: Inode) -> dict[str, bytes]:
        """The extended attributes by their full names."""
        found: dict[str, bytes] = {}
        if inode.tail[:4] == struct.pack("<I", XATTR_MAGIC):
            found |= _xattrs(inode.tail[4:], inode.tail[4:])
        if inode.acl_block:
            if inode.acl_block >= self._blocks:
                raise ProtocolError(f"the inode {inode.number} has attributes outside the file system")
            block = self._source.read(inode.acl_block * self._block, self._block)
            if block[:4] == struct.pack("<I", XATTR_MAGIC):
                found |= _xattrs(block[32:], block)
        return found


def is_ext(source: Source) -> bool:
    """Whether there is a superblock of ext2, ext3 or ext4."""
    if source.size < SUPER_OFFSET + SUPER_SIZE:
        return False
    return source.read(SUPER_OFFSET + 0x38, 2) == struct.pack("<H", SUPER_MAGIC)


def _xattrs(entries: bytes, values: bytes) -> dict[str, bytes]:
    """values: what the offsets of values count from."""
    prefixes = {index: prefix for prefix, index in XATTR_PREFIXES.items()}
    found = {}
    at = 0
    while at + _XATTR_ENTRY.size <= len(entries) and entries[at : at + 4] != b"\0\0\0\0":
        length, index, offset, inode, size, _ = _XATTR_ENTRY.unpack_from(entries, at)
        name = entries[at + _XATTR_ENTRY.size : at + _XATTR_ENTRY.size + length].decode("utf-8", "surrogateescape")
        if index in prefixes and not inode and offset + size <= len(values):
            value = values[offset : offset + size]
            found[prefixes[index] + name] = acl.from_disk(value) if index in acl.INDICES else value
        at += _XATTR_ENTRY.size + -(-length // 4) * 4
    return found
