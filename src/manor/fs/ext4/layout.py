"""Structures and numbers of ext4 on disk.

Source: Linux Documentation/filesystems/ext4 (kernel 6.1): globals, super, group_descr, inodes, ifork, attributes,
directory, journal. Offsets there are the offsets here.
"""

from __future__ import annotations

from enum import IntFlag
from typing import Final

from manor.fs.record import Record

SUPER_OFFSET: Final = 1024
SUPER_SIZE: Final = 1024
SUPER_MAGIC: Final = 0xEF53
EXTENT_MAGIC: Final = 0xF30A
XATTR_MAGIC: Final = 0xEA020000
JOURNAL_MAGIC: Final = 0xC03B3998

ROOT_INODE: Final = 2
RESIZE_INODE: Final = 7
JOURNAL_INODE: Final = 8
FIRST_INODE: Final = 11
"""The first that is not reserved; by custom that of lost+found."""

N_BLOCK: Final = 60
"""Bytes of an inode's own block map or extent tree (i_block)."""
MAX_EXTENT: Final = 0x8000
"""Blocks of one initialised extent; larger numbers mark preallocated ones."""
MAX_NAME: Final = 255
MAX_LINKS: Final = 65000


class Compat(IntFlag):
    HAS_JOURNAL = 0x4
    EXT_ATTR = 0x8
    RESIZE_INODE = 0x10
    DIR_INDEX = 0x20
    SPARSE_SUPER2 = 0x200


class Incompat(IntFlag):
    FILETYPE = 0x2
    RECOVER = 0x4
    JOURNAL_DEV = 0x8
    META_BG = 0x10
    EXTENTS = 0x40
    BIT64 = 0x80
    MMP = 0x100
    FLEX_BG = 0x200
    EA_INODE = 0x400
    CSUM_SEED = 0x2000
    LARGEDIR = 0x4000
    INLINE_DATA = 0x8000
    ENCRYPT = 0x10000
    CASEFOLD = 0x20000


class RoCompat(IntFlag):
    SPARSE_SUPER = 0x1
    LARGE_FILE = 0x2
    HUGE_FILE = 0x8
    DIR_NLINK = 0x20
    EXTRA_ISIZE = 0x40
    METADATA_CSUM = 0x400


class GroupFlag(IntFlag):
    INODE_UNINIT = 0x1
    BLOCK_UNINIT = 0x2
    INODE_ZEROED = 0x4


class InodeFlag(IntFlag):
    INDEX = 0x1000
    ENCRYPT = 0x800
    EXTENTS = 0x80000
    EA_INODE = 0x200000
    INLINE_DATA = 0x10000000


SUPER: Final = Record(
    SUPER_SIZE,
    {
        "inodes_count": (0x0, "I"), "blocks_count_lo": (0x4, "I"), "r_blocks_count_lo": (0x8, "I"),
        "free_blocks_count_lo": (0xC, "I"), "free_inodes_count": (0x10, "I"), "first_data_block": (0x14, "I"),
        "log_block_size": (0x18, "I"), "log_cluster_size": (0x1C, "I"), "blocks_per_group": (0x20, "I"),
        "clusters_per_group": (0x24, "I"), "inodes_per_group": (0x28, "I"), "mtime": (0x2C, "I"), "wtime": (0x30, "I"),
        "mnt_count": (0x34, "H"), "max_mnt_count": (0x36, "H"), "magic": (0x38, "H"), "state": (0x3A, "H"),
        "errors": (0x3C, "H"), "lastcheck": (0x40, "I"), "rev_level": (0x4C, "I"), "first_ino": (0x54, "I"),
        "inode_size": (0x58, "H"), "block_group_nr": (0x5A, "H"), "feature_compat": (0x5C, "I"),
        "feature_incompat": (0x60, "I"), "feature_ro_compat": (0x64, "I"), "uuid": (0x68, "16s"),
        "volume_name": (0x78, "16s"), "reserved_gdt_blocks": (0xCE, "H"), "journal_inum": (0xE0, "I"),
        "hash_seed": (0xEC, "16s"), "def_hash_version": (0xFC, "B"), "jnl_backup_type": (0xFD, "B"),
        "desc_size": (0xFE, "H"), "default_mount_opts": (0x100, "I"), "first_meta_bg": (0x104, "I"),
        "mkfs_time": (0x108, "I"), "jnl_blocks": (0x10C, "17I"), "blocks_count_hi": (0x150, "I"),
        "r_blocks_count_hi": (0x154, "I"), "free_blocks_count_hi": (0x158, "I"), "min_extra_isize": (0x15C, "H"),
        "want_extra_isize": (0x15E, "H"), "flags": (0x160, "I"), "log_groups_per_flex": (0x174, "B"),
        "checksum_type": (0x175, "B"), "checksum_seed": (0x270, "I"), "checksum": (0x3FC, "I"),
    },
)  # fmt: skip

GROUP: Final = Record(
    64,
    {
        "block_bitmap_lo": (0x0, "I"), "inode_bitmap_lo": (0x4, "I"), "inode_table_lo": (0x8, "I"),
        "free_blocks_lo": (0xC, "H"), "free_inodes_lo": (0xE, "H"), "used_dirs_lo": (0x10, "H"), "flags": (0x12, "H"),
        "block_bitmap_csum_lo": (0x18, "H"), "inode_bitmap_csum_lo": (0x1A, "H"), "itable_unused_lo": (0x1C, "H"),
        "checksum": (0x1E, "H"), "block_bitmap_hi": (0x20, "I"), "inode_bitmap_hi": (0x24, "I"),
        "inode_table_hi": (0x28, "I"), "free_blocks_hi": (0x2C, "H"), "free_inodes_hi": (0x2E, "H"),
        "used_dirs_hi": (0x30, "H"), "itable_unused_hi": (0x32, "H"), "block_bitmap_csum_hi": (0x38, "H"),
        "inode_bitmap_csum_hi": (0x3A, "H"),
    },
)  # fmt: skip

INODE: Final = Record(
    0xA0,
    {
        "mode": (0x0, "H"), "uid": (0x2, "H"), "size_lo": (0x4, "I"), "atime": (0x8, "I"), "ctime": (0xC, "I"),
        "mtime": (0x10, "I"), "dtime": (0x14, "I"), "gid": (0x18, "H"), "links_count": (0x1A, "H"),
        "blocks_lo": (0x1C, "I"), "flags": (0x20, "I"), "block": (0x28, "60s"), "generation": (0x64, "I"),
        "file_acl_lo": (0x68, "I"), "size_high": (0x6C, "I"), "blocks_high": (0x74, "H"), "file_acl_high": (0x76, "H"),
        "uid_high": (0x78, "H"), "gid_high": (0x7A, "H"), "checksum_lo": (0x7C, "H"), "extra_isize": (0x80, "H"),
        "checksum_hi": (0x82, "H"), "ctime_extra": (0x84, "I"), "mtime_extra": (0x88, "I"), "atime_extra": (0x8C, "I"),
        "crtime": (0x90, "I"), "crtime_extra": (0x94, "I"),
    },
)  # fmt: skip
CLASSIC_INODE: Final = 128
EXTRA_ISIZE: Final = 0x20
"""Bytes of the fields behind the first 128 that this version knows."""

EXTENT_HEADER: Final = Record(12, {"magic": (0, "H"), "entries": (2, "H"), "max": (4, "H"), "depth": (6, "H")})
EXTENT: Final = Record(12, {"block": (0, "I"), "len": (4, "H"), "start_hi": (6, "H"), "start_lo": (8, "I")})
EXTENT_INDEX: Final = Record(12, {"block": (0, "I"), "leaf_lo": (4, "I"), "leaf_hi": (8, "H")})

JOURNAL_SUPER: Final = Record(
    1024,
    {
        "magic": (0, "I"), "blocktype": (4, "I"), "blocksize": (12, "I"), "maxlen": (16, "I"), "first": (20, "I"),
        "sequence": (24, "I"), "start": (28, "I"), "uuid": (48, "16s"), "nr_users": (64, "I"),
    },
    order=">",
)  # fmt: skip

XATTR_PREFIXES: Final = {
    "system.posix_acl_access": 2,
    "system.posix_acl_default": 3,
    "user.": 1,
    "trusted.": 4,
    "security.": 6,
    "system.": 7,
}
"""Name index by prefix, whole names first."""


def backup_groups(count: int) -> set[int]:
    """Groups of `count` that have a copy of the superblock and the descriptors: 0, 1 and powers of 3, 5 and 7."""
    found = {0, 1}
    for base in (3, 5, 7):
        power = base
        while power < count:
            found.add(power)
            power *= base
    return {group for group in found if group < count}
