"""Linux's "zero page", struct boot_params: what the 64-bit boot protocol hands to the kernel.

Source: Linux Documentation/arch/x86/zero-page.rst; boot.rst "The Real-Mode Kernel Header";
struct setup_data of the same documents, types as in the kernel ABI.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from manor.base.errors import ConfigError
from manor.boot.memory_map import MapEntry

SIZE: Final = 4096

_ACPI_RSDP_ADDR: Final = 0x070
_EXT_RAMDISK_IMAGE: Final = 0x0C0
_EXT_RAMDISK_SIZE: Final = 0x0C4
_EXT_CMD_LINE_PTR: Final = 0x0C8
_E820_ENTRIES: Final = 0x1E8
_VID_MODE: Final = 0x1FA
_BOOT_FLAG: Final = 0x1FE
_HEADER: Final = 0x202
_VERSION: Final = 0x206
_TYPE_OF_LOADER: Final = 0x210
_LOADFLAGS: Final = 0x211
_RAMDISK_IMAGE: Final = 0x218
_RAMDISK_SIZE: Final = 0x21C
_CMD_LINE_PTR: Final = 0x228
_SETUP_DATA: Final = 0x250
_E820_TABLE: Final = 0x2D0
_E820_MAX: Final = 128

_LOADER_UNDEFINED: Final = 0xFF
"""boot.rst: for boot loaders without an assigned number."""
_NORMAL_VIDEO: Final = 0xFFFF
_BOOT_MAGIC: Final = 0xAA55
_LOADED_HIGH: Final = 0x1
_PROTOCOL: Final = 0x020F
_SETUP_RNG_SEED: Final = 9
"""Kernels that know it credit the seed to their random number generator; older ones ignore it."""
_U32: Final = 0xFFFF_FFFF


def build(
    header: bytes | None,
    memory_map: Sequence[MapEntry],
    command_line: int,
    initrd: tuple[int, int] | None,
    acpi_rsdp: int | None,
    setup_data: int | None,
) -> bytes:
    """The page. Addresses are guest-physical.

    header: the setup header out of a bzImage, from offset 0x1F1; None for a plain ELF kernel.
    initrd: (address, size).
    """
    if len(memory_map) > _E820_MAX:
        raise ConfigError("memory", f"{len(memory_map)} ranges are more than the boot protocol can describe")
    page = bytearray(SIZE)
    if header is not None:
        page[0x1F1 : 0x1F1 + len(header)] = header
    else:
        struct.pack_into("<H", page, _BOOT_FLAG, _BOOT_MAGIC)
        page[_HEADER : _HEADER + 4] = b"HdrS"
        struct.pack_into("<H", page, _VERSION, _PROTOCOL)
    page[_LOADFLAGS] |= _LOADED_HIGH
    page[_TYPE_OF_LOADER] = _LOADER_UNDEFINED
    struct.pack_into("<H", page, _VID_MODE, _NORMAL_VIDEO)
    struct.pack_into("<I", page, _CMD_LINE_PTR, command_line & _U32)
    struct.pack_into("<I", page, _EXT_CMD_LINE_PTR, command_line >> 32)
    if initrd is not None:
        address, size = initrd
        struct.pack_into("<II", page, _RAMDISK_IMAGE, address & _U32, size & _U32)
        struct.pack_into("<I", page, _EXT_RAMDISK_IMAGE, address >> 32)
        struct.pack_into("<I", page, _EXT_RAMDISK_SIZE, size >> 32)
    struct.pack_into("<Q", page, _ACPI_RSDP_ADDR, acpi_rsdp or 0)
    struct.pack_into("<Q", page, _SETUP_DATA, setup_data or 0)
    page[_E820_ENTRIES] = len(memory_map)
    for index, entry in enumerate(memory_map):
        struct.pack_into("<QQI", page, _E820_TABLE + 20 * index, entry.start, entry.size, entry.type)
    return bytes(page)


def rng_seed_record(seed: bytes) -> bytes:
    """A setup_data record, the last of its list, that seeds the kernel's random numbers."""
    return struct.pack("<QII", 0, _SETUP_RNG_SEED, len(seed)) + seed
