"""Where everything of a new ext4 file system goes: groups, their metadata, the free blocks between.

The layout is that of flexible block groups: bitmaps and inode tables of up to 16 groups lie together in the first
(Linux Documentation/filesystems/ext4/blockgroup.rst), so data is as contiguous as it can be.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from manor.base.errors import ConfigError
from manor.base.units import GiB, KiB, MiB, TiB, format_size
from manor.fs.ext4.layout import FIRST_INODE, backup_groups

BLOCK: Final = 4096
INODE_SIZE: Final = 256
DESCRIPTOR: Final = 64
BLOCKS_PER_GROUP: Final = 8 * BLOCK
MAX_LOG_FLEX: Final = 4
MIN_SIZE: Final = 16 * MiB
MAX_SIZE: Final = 16 * TiB
"""Block numbers of 32 bits: the journal and the resize inode know no larger ones."""

_BYTES_PER_INODE: Final = 16 * KiB
_GROWTH: Final = 1024
"""How many times its size the file system can grow while it is mounted."""
_ADDRESSES: Final = BLOCK // 4


@dataclass(frozen=True, slots=True)
class Geometry:
    """All numbers are blocks or counts."""

    blocks: int
    inodes_per_group: int

    @classmethod
    def of(cls, size: int, inodes: int = 0) -> Geometry:
        """For `size` bytes and at least `inodes` files. Raises ConfigError for a size that cannot be."""
        if not MIN_SIZE <= size <= MAX_SIZE:
            limits = f"{format_size(MIN_SIZE)} to {format_size(MAX_SIZE)}"
            raise ConfigError("size", f"an ext4 file system here has {limits}")
        blocks = size // BLOCK
        geometry = cls._for_blocks(blocks, size, inodes)
        # A last group too small for its own metadata is left out.
        last = geometry.groups - 1
        if last and geometry.group_blocks(last) < geometry.super_blocks(last) + 2 + geometry.table_blocks + 64:
            geometry = cls._for_blocks(last * BLOCKS_PER_GROUP, size, inodes)
        return geometry

    @classmethod
    def _for_blocks(cls, blocks: int, size: int, inodes: int) -> Geometry:
        wanted = max(size // _BYTES_PER_INODE, inodes + FIRST_INODE)
        per_block = BLOCK // INODE_SIZE
        per_group = -(-wanted // -(-blocks // BLOCKS_PER_GROUP))
        per_group = -(-per_group // per_block) * per_block
        if per_group > 8 * BLOCK:
            raise ConfigError("size", f"{format_size(size)} is too small for {inodes} files")
        return cls(blocks, per_group)

    @property
    def groups(self) -> int:
        return -(-self.blocks // BLOCKS_PER_GROUP)

    @property
    def inodes(self) -> int:
        return self.groups * self.inodes_per_group

    @property
    def table_blocks(self) -> int:
        """Blocks of one group's inode table."""
        return self.inodes_per_group * INODE_SIZE // BLOCK

    @property
    def descriptor_blocks(self) -> int:
        return -(-self.groups * DESCRIPTOR // BLOCK)

    @property
    def reserved_descriptor_blocks(self) -> int:
        """Kept free behind the descriptors, for growing while mounted."""
        most = min(self.blocks * _GROWTH, MAX_SIZE // BLOCK)
        groups = -(-most // BLOCKS_PER_GROUP)
        return min(-(-groups * DESCRIPTOR // BLOCK) - self.descriptor_blocks, _ADDRESSES)

    @property
    def journal_blocks(self) -> int:
        """As large as others make them for this size: a small part, at most 64 MiB."""
        size = self.blocks * BLOCK
        for limit, journal in ((64 * MiB, MiB * 4), (512 * MiB, 8 * MiB), (2 * GiB, 16 * MiB), (4 * GiB, 32 * MiB)):
            if size < limit:
                return journal // BLOCK
        return 64 * MiB // BLOCK

    @property
    def log_flex(self) -> int:
        """Groups of a flexible group, as a power of two: as many as leave half of its first group for data."""
        log = MAX_LOG_FLEX
        while log and (2 + self.table_blocks) << log > BLOCKS_PER_GROUP // 2:
            log -= 1
        return log

    def group_start(self, group: int) -> int:
        return group * BLOCKS_PER_GROUP

    def group_blocks(self, group: int) -> int:
        """Blocks of a group; the last may have fewer."""
        return min(BLOCKS_PER_GROUP, self.blocks - group * BLOCKS_PER_GROUP)

    def backups(self) -> list[int]:
        """Groups with superblock and descriptors, the first included, in order."""
        return sorted(backup_groups(self.groups))

    def super_blocks(self, group: int) -> int:
        """Blocks at the start of a group for the superblock, the descriptors and their reserve."""
        if group not in backup_groups(self.groups):
            return 0
        return 1 + self.descriptor_blocks + self.reserved_descriptor_blocks

    def _flex_start(self, group: int) -> tuple[int, int, int]:
        """(block behind the first group's superblock, groups in this flexible group, place of `group` in it)."""
        first = group >> self.log_flex << self.log_flex
        count = min(1 << self.log_flex, self.groups - first)
        return self.group_start(first) + self.super_blocks(first), count, group - first

    def block_bitmap(self, group: int) -> int:
        start, _, place = self._flex_start(group)
        return start + place

    def inode_bitmap(self, group: int) -> int:
        start, count, place = self._flex_start(group)
        return start + count + place

    def inode_table(self, group: int) -> int:
        start, count, place = self._flex_start(group)
        return start + 2 * count + place * self.table_blocks

    def fixed_ranges(self) -> list[tuple[int, int]]:
        """(first block, count) of all metadata with a fixed place, in order, without overlaps."""
        ranges = []
        for group in range(self.groups):
            if self.super_blocks(group):
                ranges.append((self.group_start(group), self.super_blocks(group)))
            if group % (1 << self.log_flex) == 0:
                start, count, _ = self._flex_start(group)
                ranges.append((start, count * (2 + self.table_blocks)))
        return ranges

    def free_ranges(self) -> Iterator[tuple[int, int]]:
        """(first block, count) of what is free at first, in order."""
        position = 0
        for start, count in self.fixed_ranges():
            if start > position:
                yield position, start - position
            position = start + count
        if position < self.blocks:
            yield position, self.blocks - position
