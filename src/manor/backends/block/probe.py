"""What format a file is of, by what it begins with."""

from __future__ import annotations

from typing import Final

PROBE_SIZE: Final = 2048

_MAGICS: Final = (
    # (format, offset, bytes): qcow2 specification, "Header"; VMDK 5.0 specification, "Sparse Extent"; VDI's image
    # signature 0xbeda107f at 0x40; VHDX 1.0 (MS-VHDX), 2.2.1; VHD 1.0, "Hard Disk Footer Format"; LUKS 1 and 2
    # on-disk formats.
    ("qcow2", 0, b"QFI\xfb\x00\x00\x00\x02"),
    ("qcow2", 0, b"QFI\xfb\x00\x00\x00\x03"),
    ("qcow", 0, b"QFI\xfb\x00\x00\x00\x01"),
    ("vmdk", 0, b"KDMV"),
    ("vmdk", 0, b"COWD"),
    ("vmdk", 0, b"# Disk DescriptorFile"),
    ("vdi", 0x40, b"\x7f\x10\xda\xbe"),
    ("vhdx", 0, b"vhdxfile"),
    ("vpc", 0, b"conectix"),
    ("qed", 0, b"QED\0"),
    ("parallels", 0, b"WithoutFreeSpace"),
    ("parallels", 0, b"WithouFreSpacExt"),
    ("luks", 0, b"LUKS\xba\xbe"),
)

NOT_SUPPORTED: Final = frozenset({"qcow", "qed", "parallels", "luks"})
"""Formats that are recognized so that nobody takes them for raw disks, and that Manor does not read."""


def probe(head: bytes | bytearray | memoryview) -> str:
    """The format of a file that begins with `head` (PROBE_SIZE bytes or the whole file); "raw" if of no other.

    A qcow2 of a version not yet known is "qcow2": its opener says what is wrong with it.
    """
    data = bytes(head)
    for name, offset, magic in _MAGICS:
        if data[offset : offset + len(magic)] == magic:
            return name
    return "qcow2" if data.startswith(b"QFI\xfb") else "raw"
