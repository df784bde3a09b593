"""Which file system is in a range of bytes, and a reader for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from manor.base.errors import ProtocolError
from manor.fs.ext4.reader import Ext4Reader, is_ext
from manor.fs.fat.reader import FatReader, is_fat
from manor.fs.io import Source
from manor.fs.reading import FileSystem

_OTHERS: Final = (
    (0, b"LUKS\xba\xbe", "encrypted (LUKS)"),
    (3, b"-FVE-FS-", "encrypted (BitLocker)"),
    (512, b"LABELONE", "a volume of LVM"),
    (0x10040, b"_BHRfS_M", "btrfs"),
    (0, b"XFSB", "XFS"),
    (3, b"NTFS    ", "NTFS"),
    (0x400, b"\x10\x20\xf5\xf2", "F2FS"),
    (0, b"hsqs", "SquashFS"),
    (0x8001, b"CD001", "ISO 9660"),
    (4086, b"SWAPSPACE2", "swap space"),
    (4096, b"\xfc\x4e\x2b\xa9", "a member of a RAID"),
)
"""What is not read here: offset, mark, words for people."""


def open_file_system(source: Source) -> FileSystem | None:
    """A reader for what is in `source`; None if nothing that is known here. Raises ProtocolError if it is damaged."""
    openers: tuple[tuple[Callable[[Source], bool], Callable[[Source], FileSystem]], ...] = (
        (is_ext, Ext4Reader),
        (is_fat, FatReader),
    )
    if any(_has(source, offset, mark) for offset, mark, _ in _OTHERS):
        return None
    for matches, opener in openers:
        if matches(source):
            return opener(source)
    return None


def describe(source: Source) -> str:
    """Words for what is in `source`."""
    for offset, mark, words in _OTHERS:
        if _has(source, offset, mark):
            return words
    try:
        system = open_file_system(source)
    except ProtocolError as error:
        return str(error)
    return "unknown" if system is None else system.kind


def _has(source: Source, offset: int, mark: bytes) -> bool:
    return offset + len(mark) <= source.size and source.read(offset, len(mark)) == mark
