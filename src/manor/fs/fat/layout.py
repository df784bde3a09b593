"""Structures of FAT on disk.

Source: Microsoft "FAT: General Overview of On-Disk Format" 1.03 (fatgen103): 3 (boot sector), 5 (FSInfo), 6
(directory structure), 7 (long names).
"""

from __future__ import annotations

from typing import Final

from manor.fs.record import Record

SECTOR: Final = 512
DIRECTORY: Final = 0x10
VOLUME: Final = 0x08
LONG_NAME: Final = 0x0F
ARCHIVE: Final = 0x20
ENTRY_SIZE: Final = 32
END: Final = 0x0FFF_FFFF
MIN_CLUSTERS_32: Final = 65525
"""With fewer clusters a file system is FAT16, whatever it says; with fewer than MIN_CLUSTERS_16, FAT12."""
MIN_CLUSTERS_16: Final = 4085
LONG_CHARACTERS: Final = 13
MAX_NAME: Final = 255

BOOT: Final = Record(
    SECTOR,
    {
        "jump": (0, "3s"), "oem": (3, "8s"), "bytes_per_sector": (11, "H"), "sectors_per_cluster": (13, "B"),
        "reserved": (14, "H"), "fats": (16, "B"), "root_entries": (17, "H"), "sectors_16": (19, "H"),
        "media": (21, "B"), "fat_size_16": (22, "H"), "sectors_per_track": (24, "H"), "heads": (26, "H"),
        "hidden": (28, "I"), "sectors_32": (32, "I"), "fat_size_32": (36, "I"), "root_cluster": (44, "I"),
        "fs_info": (48, "H"), "backup_boot": (50, "H"), "drive": (64, "B"), "boot_signature": (66, "B"),
        "volume_id": (67, "I"), "label": (71, "11s"), "type": (82, "8s"), "signature": (510, "2s"),
    },
)  # fmt: skip
FS_INFO: Final = Record(
    SECTOR,
    {"lead": (0, "I"), "structure": (484, "I"), "free": (488, "I"), "next": (492, "I"), "trail": (508, "I")},
)
ENTRY: Final = Record(
    ENTRY_SIZE,
    {
        "name": (0, "11s"), "attributes": (11, "B"), "case": (12, "B"), "create_time": (14, "H"),
        "create_date": (16, "H"), "access_date": (18, "H"), "cluster_high": (20, "H"), "write_time": (22, "H"),
        "write_date": (24, "H"), "cluster_low": (26, "H"), "size": (28, "I"),
    },
)  # fmt: skip


def short_checksum(name: bytes) -> int:
    """The checksum of a short name that ties the entries of its long name to it."""
    total = 0
    for byte in name:
        total = ((total & 1) << 7 | total >> 1) + byte & 0xFF
    return total
