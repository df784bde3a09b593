"""The header of a bzImage, the usual form of a Linux kernel for x86.

Source: Linux Documentation/arch/x86/boot.rst "The Real-Mode Kernel Header" (protocol 2.15).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from manor.base.errors import ProtocolError

HEADER_OFFSET: Final = 0x1F1
"""Where the header starts, in the file and in boot_params."""
_MAGIC: Final = b"HdrS"
_MAGIC_OFFSET: Final = 0x202
_FIXED_END: Final = 0x268
"""End of the fields up to protocol 2.12, all that is read here."""
_HEADER_LIMIT: Final = 0x290
"""boot_params has other contents from here on."""
_SECTOR: Final = 512
_DEFAULT_SETUP_SECTORS: Final = 4
"""Meaning of 0 in setup_sects, for historical reasons."""
_OLDEST_PROTOCOL: Final = 0x020C
"""First with xloadflags, that is with a 64-bit entry point; Linux 3.8."""

XLF_KERNEL_64: Final = 0x1


@dataclass(frozen=True, slots=True)
class BzImage:
    """Header fields under the names of the boot protocol, and where the parts are in the file.

    header: the bytes to copy to HEADER_OFFSET of boot_params.
    """

    header: bytes
    version: int
    xloadflags: int
    initrd_addr_max: int
    cmdline_size: int
    payload: bytes

    @property
    def is_64_bit(self) -> bool:
        """Whether the kernel has the 64-bit entry point."""
        return bool(self.xloadflags & XLF_KERNEL_64)


def is_bzimage(data: bytes) -> bool:
    return data[_MAGIC_OFFSET : _MAGIC_OFFSET + 4] == _MAGIC and data[0x1FE:0x200] == b"\x55\xaa"


def parse(data: bytes) -> BzImage:
    """Read the header. Raises ProtocolError if it is too old or the file is truncated."""
    if not is_bzimage(data) or len(data) < _FIXED_END:
        raise ProtocolError("no Linux setup header", HEADER_OFFSET)
    (version,) = struct.unpack_from("<H", data, 0x206)
    if version < _OLDEST_PROTOCOL:
        found = f"{version >> 8}.{version & 0xFF:02}"
        raise ProtocolError(f"boot protocol {found} is older than 2.12 (Linux 3.8)", 0x206)
    start = (data[HEADER_OFFSET] or _DEFAULT_SETUP_SECTORS) * _SECTOR + _SECTOR
    payload_offset, payload_length = struct.unpack_from("<II", data, 0x248)
    payload_start = start + payload_offset
    if payload_start + payload_length > len(data):
        needed = payload_start + payload_length
        raise ProtocolError(f"the kernel is truncated: {len(data)} bytes of at least {needed}", len(data))
    # The jump instruction in front of the magic tells how long the header is. Source: boot.rst, field jump.
    header_end = min(_MAGIC_OFFSET + data[0x201], _HEADER_LIMIT)
    (initrd_addr_max,) = struct.unpack_from("<I", data, 0x22C)
    xloadflags, cmdline_size = struct.unpack_from("<HI", data, 0x236)
    return BzImage(
        header=data[HEADER_OFFSET:header_end],
        version=version,
        xloadflags=xloadflags,
        initrd_addr_max=initrd_addr_max,
        cmdline_size=cmdline_size,
        payload=data[payload_start : payload_start + payload_length],
    )
