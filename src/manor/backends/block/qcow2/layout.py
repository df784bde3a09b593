"""Numbers of the format, and what follows from a header's widths. Source: qcow2 specification, the section named at
each."""

from __future__ import annotations

from typing import Final

MAGIC: Final = b"QFI\xfb"

# "Header": bits of the three feature fields.
DIRTY: Final = 1 << 0
CORRUPT: Final = 1 << 1
DATA_FILE: Final = 1 << 2
COMPRESSION: Final = 1 << 3
EXTENDED_L2: Final = 1 << 4
KNOWN_INCOMPATIBLE: Final = DIRTY | CORRUPT | DATA_FILE | COMPRESSION | EXTENDED_L2
LAZY_REFCOUNTS: Final = 1 << 0
BITMAPS: Final = 1 << 0
DATA_FILE_RAW: Final = 1 << 1
KNOWN_AUTOCLEAR: Final = BITMAPS | DATA_FILE_RAW

# "Header": byte offsets of fields that are written alone.
AT_SIZE: Final = 24
AT_L1: Final = 36
AT_REFCOUNT_TABLE: Final = 48
AT_SNAPSHOTS: Final = 60
AT_FEATURES: Final = 72

# "Header extensions": types.
EXT_END: Final = 0
EXT_BACKING_FORMAT: Final = 0xE2792ACA
EXT_FEATURE_NAMES: Final = 0x6803F857
EXT_BITMAPS: Final = 0x23852875
EXT_ENCRYPTION: Final = 0x0537BE77
EXT_DATA_FILE: Final = 0x44415441

# "Cluster mapping" and "Extended L2 Entries": bits of entries.
COPIED: Final = 1 << 63
COMPRESSED: Final = 1 << 62
ZERO: Final = 1 << 0
OFFSET_MASK: Final = 0x00FF_FFFF_FFFF_FE00
REFCOUNT_OFFSET_MASK: Final = 0xFFFF_FFFF_FFFF_FE00
RESERVED: Final = 0x3F00_0000_0000_01FE
"""Of a standard cluster's L2 entry; with version 2 and extended entries `ZERO` as well."""
SUBCLUSTERS: Final = 32
ALL_ALLOCATED: Final = 0xFFFF_FFFF
ALL_ZERO: Final = 0xFFFF_FFFF << 32

MIN_CLUSTER_BITS: Final = 9
MAX_CLUSTER_BITS: Final = 21
MIN_EXTENDED_CLUSTER_BITS: Final = 14

# The specification names these as QEMU's limits; we keep to them in both directions, so that memory is bounded.
MAX_L1_SIZE: Final = 32 << 20
MAX_REFCOUNT_TABLE_SIZE: Final = 8 << 20
MAX_BACKING_NAME: Final = 1023
MAX_SNAPSHOTS: Final = 65536
MAX_SNAPSHOT_TABLE_SIZE: Final = 64 << 20
MAX_HOST_OFFSET: Final = 1 << 56


class Geometry:
    """Sizes that follow from cluster_bits, refcount_order and the kind of L2 entries."""

    __slots__ = (
        "cluster_bits",
        "cluster_mask",
        "cluster_size",
        "compressed_offset_mask",
        "compressed_shift",
        "is_extended",
        "l2_bits",
        "l2_mask",
        "l2_shift",
        "l2_size",
        "refcount_bits",
        "refcount_entries",
        "subcluster_bits",
        "words",
    )

    def __init__(self, cluster_bits: int, refcount_order: int, is_extended: bool) -> None:
        self.cluster_bits = cluster_bits
        self.cluster_size = 1 << cluster_bits
        self.cluster_mask = self.cluster_size - 1
        self.is_extended = is_extended
        self.words = 2 if is_extended else 1
        """64-bit words in an L2 entry."""
        self.l2_bits = cluster_bits - 3 - (self.words - 1)
        self.l2_size = 1 << self.l2_bits
        """Entries in an L2 table."""
        self.l2_mask = self.l2_size - 1
        self.l2_shift = cluster_bits + self.l2_bits
        """Log of the bytes that one L2 table maps."""
        self.subcluster_bits = cluster_bits - 5 if is_extended else cluster_bits
        self.refcount_bits = 1 << refcount_order
        self.refcount_entries = (self.cluster_size * 8) >> refcount_order
        """Clusters that one refcount block counts."""
        self.compressed_shift = 62 - (cluster_bits - 8)
        self.compressed_offset_mask = min((1 << self.compressed_shift) - 1, MAX_HOST_OFFSET - 1)

    def clusters(self, size: int) -> int:
        """Clusters that hold `size` bytes."""
        return (size + self.cluster_mask) >> self.cluster_bits

    def l1_entries(self, size: int) -> int:
        """Entries of the L1 table for a disk of `size` bytes."""
        return (size + (1 << self.l2_shift) - 1) >> self.l2_shift

    def compressed_range(self, entry: int) -> tuple[int, int]:
        """(offset in the file, bytes up to the end of the last sector) of a compressed cluster.

        Source: "Compressed Clusters Descriptor".
        """
        offset = entry & self.compressed_offset_mask
        sectors = ((entry & (COMPRESSED - 1)) >> self.compressed_shift) + 1
        return offset, sectors * 512 - (offset & 511)

    def compressed_clusters(self, entry: int) -> range:
        """Host clusters that a compressed cluster touches; each counts it once."""
        offset, size = self.compressed_range(entry)
        return range(offset >> self.cluster_bits, ((offset + size - 1) >> self.cluster_bits) + 1)
