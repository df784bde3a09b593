"""Writer of whole ext4 file systems: entries in, an image out, equal bytes for equal input.

Contents are written as entries arrive, one behind the other; directories, inodes and everything that counts them
follow in `finish`. What is never written stays a hole: an empty file system of any size costs a few hundred kilobytes.

Source: Linux Documentation/filesystems/ext4 (kernel 6.1).
"""

from __future__ import annotations

import stat
import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from manor.base.errors import ConfigError
from manor.fs.crc32c import crc32c
from manor.fs.entry import NS_PER_S, Entry
from manor.fs.ext4 import htree, xattr
from manor.fs.ext4.directory import FILE_TYPES, Name
from manor.fs.ext4.geometry import BLOCK, BLOCKS_PER_GROUP, DESCRIPTOR, INODE_SIZE, Geometry
from manor.fs.ext4.layout import (
    CLASSIC_INODE,
    EXTENT,
    EXTENT_HEADER,
    EXTENT_INDEX,
    EXTENT_MAGIC,
    EXTRA_ISIZE,
    FIRST_INODE,
    GROUP,
    INODE,
    JOURNAL_INODE,
    JOURNAL_MAGIC,
    JOURNAL_SUPER,
    MAX_EXTENT,
    MAX_LINKS,
    MAX_NAME,
    N_BLOCK,
    RESIZE_INODE,
    ROOT_INODE,
    SUPER,
    SUPER_MAGIC,
    SUPER_OFFSET,
    Compat,
    GroupFlag,
    Incompat,
    InodeFlag,
    RoCompat,
)
from manor.fs.io import Sink

_CHUNK: Final = 1 << 20
_ADDRESSES: Final = BLOCK // 4
_INLINE_EXTENTS: Final = 4
_LEAF_EXTENTS: Final = (BLOCK - EXTENT_HEADER.size - 4) // EXTENT.size
_DYNAMIC_REV: Final = 1
_SIGNED_HASH: Final = 1
_HALF_MD4: Final = 1
_CRC32C: Final = 1
_USER_XATTR_AND_ACL: Final = 0xC
_LOST_AND_FOUND_BLOCKS: Final = 4

Range = tuple[int, int]
"""(first block, count)."""


@dataclass(slots=True)
class _Inode:
    """One inode until it is written."""

    number: int
    mode: int
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    size: int = 0
    links: int = 1
    flags: int = 0
    block: bytes = bytes(N_BLOCK)
    blocks: int = 0
    """File system blocks that it owns, of whatever kind."""
    acl_block: int = 0
    spare: bytes = b""
    """Extended attributes in the inode itself."""


@dataclass(slots=True)
class _Directory:
    inode: _Inode
    parent: int
    path: str
    names: list[Name] = field(default_factory=list)
    subdirectories: int = 0


class Ext4Writer:
    """One new file system of `size` bytes on `sink`, whose bytes must read as zeros.

    identity: the file system's UUID; label: at most 16 bytes; created: seconds since 1970; inodes: files that must
    fit at least, beyond one for each 16 KiB. Entries may come in any order as long as a directory comes before what
    is in it and a file before its other names. The root directory is there already; adding "" sets its attributes.
    Raises ConfigError for what does not fit. Thread: one.
    """

    def __init__(
        self, sink: Sink, size: int, *, identity: uuid.UUID, label: str = "", created: int = 0, inodes: int = 0
    ) -> None:
        self._sink = sink
        self._label = label.encode()
        if len(self._label) > 16:
            raise ConfigError("label", f"{label!r} is longer than the 16 bytes of a label")
        self._identity = identity
        self._created = created
        self._geometry = Geometry.of(size, inodes)
        self._seed = crc32c(0xFFFF_FFFF, identity.bytes)
        self._hash_seed = uuid.uuid5(identity, "hash seed").bytes
        self._free: Iterator[Range] = self._geometry.free_ranges()
        self._current: Range = (0, 0)
        self._taken: list[Range] = []
        self._inodes: dict[int, _Inode] = {}
        self._by_path: dict[str, _Inode] = {}
        self._next_inode = FIRST_INODE
        created_ns = created * NS_PER_S
        root = _Inode(ROOT_INODE, stat.S_IFDIR | 0o755, mtime=created_ns)
        self._inodes[ROOT_INODE] = root
        self._by_path[""] = root
        self._directories: dict[str, _Directory] = {"": _Directory(root, ROOT_INODE, "")}
        self._journal = self._allocate(self._geometry.journal_blocks)
        self.add(Entry("lost+found", stat.S_IFDIR | 0o700, mtime=created_ns))

    # --- entries --------------------------------------------------------------------------------------------------

    def add(self, entry: Entry) -> None:
        """Put one entry into the file system."""
        if entry.path == "":
            self._set_root(entry)
            return
        parent_path, _, name = entry.path.rpartition("/")
        parent = self._directories.get(parent_path)
        encoded = name.encode("utf-8", "surrogateescape")
        if parent is None or not 0 < len(encoded) <= MAX_NAME or encoded in (b".", b"..") or b"\0" in encoded:
            raise ConfigError("", f"{entry.path!r} cannot be in the file system: no directory for it, or no name")
        if entry.path in self._by_path:
            if entry.path == "lost+found" and stat.S_ISDIR(entry.mode):
                return
            raise ConfigError("", f"{entry.path!r} is there already")
        if entry.link is not None:
            inode = self._by_path.get(entry.link)
            if inode is None or stat.S_ISDIR(inode.mode):
                raise ConfigError("", f"{entry.path!r} is another name of {entry.link!r}, which is no earlier file")
            inode.links += 1
            if inode.links > MAX_LINKS:
                raise ConfigError("", f"{entry.link!r} has more than {MAX_LINKS} names")
        else:
            inode = self._new_inode(entry)
        parent.names.append((encoded, inode.number, FILE_TYPES[stat.S_IFMT(inode.mode)]))
        self._by_path[entry.path] = inode
        if stat.S_ISDIR(inode.mode):
            parent.subdirectories += 1
            self._directories[entry.path] = _Directory(inode, parent.inode.number, entry.path)

    def _set_root(self, entry: Entry) -> None:
        root = self._inodes[ROOT_INODE]
        root.mode, root.uid, root.gid, root.mtime = entry.mode, entry.uid, entry.gid, entry.mtime
        self._set_xattrs(root, entry)

    def _new_inode(self, entry: Entry) -> _Inode:
        kind = stat.S_IFMT(entry.mode)
        if kind not in FILE_TYPES:
            raise ConfigError("", f"the mode {entry.mode:o} of {entry.path!r} names no kind of file")
        number = self._next_inode
        if number > self._geometry.inodes:
            raise ConfigError("size", f"the file system is too small for more than {self._geometry.inodes} files")
        self._next_inode += 1
        inode = _Inode(number, entry.mode, entry.uid, entry.gid, entry.mtime)
        self._inodes[number] = inode
        self._set_xattrs(inode, entry)
        if kind == stat.S_IFREG or (kind == stat.S_IFLNK and entry.size >= N_BLOCK):
            self._write_contents(inode, entry)
        elif kind == stat.S_IFLNK:
            with entry.open() as stream:
                target = stream.read(entry.size)
            if not target:
                raise ConfigError("", f"the symbolic link {entry.path!r} has no target")
            inode.size = len(target)
            inode.block = target.ljust(N_BLOCK, b"\0")
        elif kind in (stat.S_IFCHR, stat.S_IFBLK):
            inode.block = _device(*entry.device).ljust(N_BLOCK, b"\0")
        return inode

    def _write_contents(self, inode: _Inode, entry: Entry) -> None:
        inode.size = entry.size
        ranges = self._allocate(-(-entry.size // BLOCK))
        left = entry.size
        with entry.open() as stream:
            for start, count in ranges:
                offset = start * BLOCK
                end = min(count * BLOCK, left)
                done = 0
                while done < end:
                    data = stream.read(min(_CHUNK, end - done))
                    if not data:
                        raise ConfigError("", f"the contents of {entry.path!r} ended early")
                    self._sink.write(offset + done, data)
                    done += len(data)
                left -= end
        self._map(inode, ranges)

    def _set_xattrs(self, inode: _Inode, entry: Entry) -> None:
        if not entry.xattrs:
            return
        spare = xattr.in_inode(entry.xattrs, INODE_SIZE - CLASSIC_INODE - EXTRA_ISIZE)
        if spare is not None:
            inode.spare = spare
            return
        number = self._allocate(1)[0][0]
        self._sink.write(number * BLOCK, xattr.block(entry.xattrs, entry.path, BLOCK, number, self._seed))
        inode.acl_block = number
        inode.blocks += 1

    # --- blocks ---------------------------------------------------------------------------------------------------

    def _allocate(self, count: int) -> list[Range]:
        """The next `count` free blocks."""
        ranges: list[Range] = []
        while count:
            start, left = self._current
            if not left:
                following = next(self._free, None)
                if following is None:
                    raise ConfigError("size", "the contents do not fit; give a larger size")
                self._current = following
                continue
            taken = min(left, count)
            ranges.append((start, taken))
            self._current = (start + taken, left - taken)
            count -= taken
        self._taken += ranges
        return ranges

    def _map(self, inode: _Inode, ranges: list[Range]) -> None:
        """Make `ranges`, in order, the contents of `inode`."""
        inode.flags |= InodeFlag.EXTENTS
        inode.blocks += sum(count for _, count in ranges)
        entries: list[tuple[int, bytes]] = []
        logical = 0
        for start, count in ranges:
            while count:
                length = min(count, MAX_EXTENT)
                entries.append((logical, bytes(EXTENT.pack(block=logical, len=length, start_lo=start))))
                logical, start, count = logical + length, start + length, count - length
        depth = 0
        while len(entries) > _INLINE_EXTENTS:
            above = []
            for first in range(0, len(entries), _LEAF_EXTENTS):
                part = entries[first : first + _LEAF_EXTENTS]
                number = self._allocate(1)[0][0]
                node = _extent_node(part, _LEAF_EXTENTS, depth).ljust(BLOCK - 4, b"\0")
                self._sink.write(number * BLOCK, node + struct.pack("<I", crc32c(self._inode_seed(inode), node)))
                inode.blocks += 1
                above.append((part[0][0], bytes(EXTENT_INDEX.pack(block=part[0][0], leaf_lo=number))))
            entries = above
            depth += 1
        inode.block = _extent_node(entries, _INLINE_EXTENTS, depth).ljust(N_BLOCK, b"\0")

    def _inode_seed(self, inode: _Inode) -> int:
        """What the checksums of an inode and its blocks start from; generations are 0 here."""
        return crc32c(self._seed, struct.pack("<II", inode.number, 0))

    # --- the end --------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Write everything but the contents. Nothing can be added afterwards."""
        for directory in self._directories.values():
            self._write_directory(directory)
        self._write_journal()
        self._write_resize_inode()
        descriptors = self._write_groups()
        self._write_supers(descriptors)

    def _write_directory(self, directory: _Directory) -> None:
        inode = directory.inode
        links = 2 + directory.subdirectories
        inode.links = 1 if links > MAX_LINKS else links
        least = _LOST_AND_FOUND_BLOCKS if directory.path == "lost+found" else 1
        blocks, indexed = htree.blocks(
            directory.names, inode.number, directory.parent, BLOCK, self._inode_seed(inode), self._hash_seed, least
        )
        if indexed:
            inode.flags |= InodeFlag.INDEX
        inode.size = len(blocks) * BLOCK
        ranges = self._allocate(len(blocks))
        position = 0
        for start, count in ranges:
            self._sink.write(start * BLOCK, b"".join(blocks[position : position + count]))
            position += count
        self._map(inode, ranges)

    def _write_journal(self) -> None:
        created = self._created * NS_PER_S
        inode = _Inode(JOURNAL_INODE, stat.S_IFREG | 0o600, mtime=created)
        inode.size = self._geometry.journal_blocks * BLOCK
        self._map(inode, self._journal)
        self._inodes[JOURNAL_INODE] = inode
        head = JOURNAL_SUPER.pack(
            magic=JOURNAL_MAGIC, blocktype=4, blocksize=BLOCK, maxlen=self._geometry.journal_blocks, first=1,
            sequence=1, nr_users=1, uuid=self._identity.bytes,
        )  # fmt: skip
        self._sink.write(self._journal[0][0] * BLOCK, head)

    def _write_resize_inode(self) -> None:
        """The inode that owns the reserve for more descriptors: a block map whose second level is the reserve itself.

        Entry n of its double indirect block names the reserved block n; that block lists its copies in other groups.
        """
        geometry = self._geometry
        reserved = geometry.reserved_descriptor_blocks
        double = self._allocate(1)[0][0]
        table = [0] * _ADDRESSES
        others = [group for group in geometry.backups() if group]
        for number in range(reserved):
            position = geometry.descriptor_blocks + number
            block = 1 + position
            table[position % _ADDRESSES] = block
            copies = [block + geometry.group_start(group) for group in others]
            self._sink.write(block * BLOCK, struct.pack(f"<{len(copies)}I", *copies))
        self._sink.write(double * BLOCK, struct.pack(f"<{_ADDRESSES}I", *table))
        inode = _Inode(RESIZE_INODE, stat.S_IFREG | 0o600, mtime=self._created * NS_PER_S)
        inode.size = (_ADDRESSES * _ADDRESSES + _ADDRESSES + 12) * BLOCK
        inode.blocks = 1 + reserved * (1 + len(others))
        inode.block = struct.pack("<15I", *([0] * 13), double, 0)
        self._inodes[RESIZE_INODE] = inode

    def _write_groups(self) -> bytes:
        """Bitmaps and inode tables; returns the descriptors."""
        geometry = self._geometry
        used = sorted([*geometry.fixed_ranges(), *self._taken])
        bitmaps = _bitmaps(used, geometry.groups)
        descriptors = []
        self._free_blocks = 0
        self._free_inodes = 0
        last_inode = self._next_inode - 1
        directories = [0] * geometry.groups
        for each in self._directories.values():
            directories[(each.inode.number - 1) // geometry.inodes_per_group] += 1
        for group in range(geometry.groups):
            flags = GroupFlag.INODE_ZEROED
            size = geometry.group_blocks(group)
            bitmap, block_count = bitmaps.get(group, (None, 0))
            block_checksum = 0
            if bitmap is None and group != geometry.groups - 1:
                flags |= GroupFlag.BLOCK_UNINIT
            else:
                bitmap = bitmap if bitmap is not None else bytearray(BLOCK)
                _set_bits(bitmap, size, BLOCKS_PER_GROUP - size)
                self._sink.write(geometry.block_bitmap(group) * BLOCK, bitmap)
                block_checksum = crc32c(self._seed, bitmap)
            first = group * geometry.inodes_per_group + 1
            inode_count = min(max(last_inode - first + 1, 0), geometry.inodes_per_group)
            inode_checksum = 0
            if inode_count:
                inode_checksum = self._write_inodes(group, first, inode_count)
            else:
                flags |= GroupFlag.INODE_UNINIT
            free_blocks = size - block_count
            free_inodes = geometry.inodes_per_group - inode_count
            self._free_blocks += free_blocks
            self._free_inodes += free_inodes
            descriptor = GROUP.pack(
                block_bitmap_lo=geometry.block_bitmap(group), inode_bitmap_lo=geometry.inode_bitmap(group),
                inode_table_lo=geometry.inode_table(group), free_blocks_lo=free_blocks & 0xFFFF,
                free_blocks_hi=free_blocks >> 16, free_inodes_lo=free_inodes & 0xFFFF,
                free_inodes_hi=free_inodes >> 16, used_dirs_lo=directories[group] & 0xFFFF,
                used_dirs_hi=directories[group] >> 16, flags=flags, itable_unused_lo=free_inodes & 0xFFFF,
                itable_unused_hi=free_inodes >> 16, block_bitmap_csum_lo=block_checksum & 0xFFFF,
                block_bitmap_csum_hi=block_checksum >> 16, inode_bitmap_csum_lo=inode_checksum & 0xFFFF,
                inode_bitmap_csum_hi=inode_checksum >> 16,
            )  # fmt: skip
            checksum = crc32c(crc32c(self._seed, struct.pack("<I", group)), descriptor)
            struct.pack_into("<H", descriptor, 0x1E, checksum & 0xFFFF)
            descriptors.append(bytes(descriptor))
        return b"".join(descriptors)

    def _write_inodes(self, group: int, first: int, count: int) -> int:
        """A group's inodes and their bitmap; returns the bitmap's checksum."""
        geometry = self._geometry
        table = b"".join(self._pack_inode(number) for number in range(first, first + count))
        self._sink.write(geometry.inode_table(group) * BLOCK, table)
        bitmap = bytearray(BLOCK)
        _set_bits(bitmap, 0, count)
        _set_bits(bitmap, geometry.inodes_per_group, 8 * BLOCK - geometry.inodes_per_group)
        self._sink.write(geometry.inode_bitmap(group) * BLOCK, bitmap)
        return crc32c(self._seed, bitmap[: geometry.inodes_per_group // 8])

    def _pack_inode(self, number: int) -> bytes:
        inode = self._inodes.get(number)
        if inode is None:
            # Reserved and unused.
            return bytes(INODE_SIZE)
        seconds, extra = _time(inode.mtime)
        sectors = inode.blocks * (BLOCK // 512)
        head = INODE.pack(
            mode=inode.mode, uid=inode.uid & 0xFFFF, uid_high=inode.uid >> 16, gid=inode.gid & 0xFFFF,
            gid_high=inode.gid >> 16, size_lo=inode.size & 0xFFFF_FFFF, size_high=inode.size >> 32, atime=seconds,
            ctime=seconds, mtime=seconds, crtime=seconds, atime_extra=extra, ctime_extra=extra, mtime_extra=extra,
            crtime_extra=extra, links_count=inode.links, blocks_lo=sectors & 0xFFFF_FFFF, blocks_high=sectors >> 32,
            flags=inode.flags, block=inode.block, file_acl_lo=inode.acl_block, extra_isize=EXTRA_ISIZE,
        )  # fmt: skip
        data = bytearray(bytes(head) + inode.spare).ljust(INODE_SIZE, b"\0")
        checksum = crc32c(self._inode_seed(inode), data)
        struct.pack_into("<H", data, 0x7C, checksum & 0xFFFF)
        struct.pack_into("<H", data, 0x82, checksum >> 16)
        return bytes(data)

    def _write_supers(self, descriptors: bytes) -> None:
        geometry = self._geometry
        journal = self._inodes[JOURNAL_INODE]
        reserved = geometry.blocks // 20
        for group in geometry.backups():
            data = SUPER.pack(
                inodes_count=geometry.inodes, blocks_count_lo=geometry.blocks, r_blocks_count_lo=reserved,
                free_blocks_count_lo=self._free_blocks, free_inodes_count=self._free_inodes, log_block_size=2,
                log_cluster_size=2, blocks_per_group=BLOCKS_PER_GROUP, clusters_per_group=BLOCKS_PER_GROUP,
                inodes_per_group=geometry.inodes_per_group, wtime=self._created, max_mnt_count=0xFFFF,
                magic=SUPER_MAGIC, state=1, errors=1, lastcheck=self._created, rev_level=_DYNAMIC_REV,
                first_ino=FIRST_INODE, inode_size=INODE_SIZE, block_group_nr=group,
                feature_compat=Compat.HAS_JOURNAL | Compat.EXT_ATTR | Compat.RESIZE_INODE | Compat.DIR_INDEX,
                feature_incompat=Incompat.FILETYPE | Incompat.EXTENTS | Incompat.BIT64 | Incompat.FLEX_BG,
                feature_ro_compat=RoCompat.SPARSE_SUPER | RoCompat.LARGE_FILE | RoCompat.HUGE_FILE
                | RoCompat.DIR_NLINK | RoCompat.EXTRA_ISIZE | RoCompat.METADATA_CSUM,
                uuid=self._identity.bytes, volume_name=self._label,
                reserved_gdt_blocks=geometry.reserved_descriptor_blocks, journal_inum=JOURNAL_INODE,
                hash_seed=self._hash_seed, def_hash_version=_HALF_MD4, jnl_backup_type=1, desc_size=DESCRIPTOR,
                default_mount_opts=_USER_XATTR_AND_ACL, mkfs_time=self._created,
                jnl_blocks=(*struct.unpack("<15I", journal.block), journal.size >> 32, journal.size & 0xFFFF_FFFF),
                min_extra_isize=EXTRA_ISIZE, want_extra_isize=EXTRA_ISIZE, flags=_SIGNED_HASH,
                log_groups_per_flex=geometry.log_flex, checksum_type=_CRC32C,
            )  # fmt: skip
            struct.pack_into("<I", data, 0x3FC, crc32c(0xFFFF_FFFF, data[:0x3FC]))
            start = geometry.group_start(group) * BLOCK
            self._sink.write(start if group else SUPER_OFFSET, data)
            self._sink.write(start + BLOCK, descriptors)


def _extent_node(entries: list[tuple[int, bytes]], room: int, depth: int) -> bytes:
    """A node of an extent tree: its header and entries."""
    head = EXTENT_HEADER.pack(magic=EXTENT_MAGIC, entries=len(entries), max=room, depth=depth)
    return bytes(head) + b"".join(entry for _, entry in entries)


def _device(major: int, minor: int) -> bytes:
    """A device number: in 16 bits where it fits, else in the second word (Linux include/linux/kdev_t.h)."""
    if major < 256 and minor < 256:
        return struct.pack("<I", major << 8 | minor)
    return struct.pack("<II", 0, minor & 0xFF | major << 8 | (minor & ~0xFF) << 12)


def _time(nanoseconds: int) -> tuple[int, int]:
    """(32 bits of seconds, extra word): two more bits of seconds, above them the nanoseconds."""
    seconds, rest = divmod(nanoseconds, NS_PER_S)
    # The low word is signed; the two extra bits count the wraps of 2**32.
    low = seconds & 0xFFFF_FFFF
    signed = low - (low >> 31 << 32)
    epoch = seconds - signed >> 32
    if not 0 <= epoch <= 3:
        raise ConfigError("", f"{seconds} seconds since 1970 is no time of a file here")
    return low, epoch | rest << 2


def _set_bits(bitmap: bytearray, start: int, count: int) -> None:
    """Set bits [start, start + count), whole bytes at once."""
    end = start + count
    while start < end and start % 8:
        bitmap[start // 8] |= 1 << start % 8
        start += 1
    whole = (end - start) // 8
    if whole > 0:
        bitmap[start // 8 : start // 8 + whole] = b"\xff" * whole
        start += 8 * whole
    while start < end:
        bitmap[start // 8] |= 1 << start % 8
        start += 1


def _bitmaps(used: list[Range], groups: int) -> dict[int, tuple[bytearray, int]]:
    """group -> (block bitmap, blocks used) for the groups with any."""
    found: dict[int, tuple[bytearray, int]] = {}
    for start, count in used:
        while count:
            group, place = divmod(start, BLOCKS_PER_GROUP)
            part = min(count, BLOCKS_PER_GROUP - place)
            bitmap, total = found.get(group) or (bytearray(BLOCK), 0)
            _set_bits(bitmap, place, part)
            found[group] = (bitmap, total + part)
            start, count = start + part, count - part
    return found
