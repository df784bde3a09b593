"""The PVH boot protocol: struct hvm_start_info and the ELF note that says where to enter.

Source: Xen public headers xen/arch-x86/hvm/start_info.h (version 1) and xen/elfnote.h; docs/misc/pvh.pandoc.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from manor.boot.elf import Elf
from manor.boot.memory_map import MapEntry

_OWNER: Final = "Xen"
_XEN_ELFNOTE_GUEST_OS: Final = 6
_XEN_ELFNOTE_PHYS32_ENTRY: Final = 18
_MAGIC: Final = 0x336E_C578
_VERSION: Final = 1

START_INFO: Final = struct.Struct("<IIIIQQQQII")
MODULE: Final = struct.Struct("<QQQQ")
MAP_ENTRY: Final = struct.Struct("<QQII")


def entry_point(elf: Elf) -> int | None:
    """Physical address of the 32-bit entry, None if the kernel has none."""
    for note in elf.notes:
        if note.owner == _OWNER and note.type == _XEN_ELFNOTE_PHYS32_ENTRY and len(note.description) in (4, 8):
            return int.from_bytes(note.description, "little")
    return None


def is_linux(elf: Elf) -> bool:
    """Whether the notes say that this is a Linux kernel."""
    return any(
        note.owner == "Linux"
        or (note.owner, note.type, note.description) == (_OWNER, _XEN_ELFNOTE_GUEST_OS, b"linux\0")
        for note in elf.notes
    )


def start_info(
    command_line: int, modules: int, module_count: int, memory_map: int, map_count: int, acpi_rsdp: int | None
) -> bytes:
    """struct hvm_start_info; the arguments are guest-physical addresses and counts."""
    return START_INFO.pack(
        _MAGIC, _VERSION, 0, module_count, modules if module_count else 0, command_line, acpi_rsdp or 0,
        memory_map, map_count, 0,
    )  # fmt: skip


def module(address: int, size: int) -> bytes:
    """struct hvm_modlist_entry without a command line."""
    return MODULE.pack(address, size, 0, 0)


def map_table(entries: Sequence[MapEntry]) -> bytes:
    """Array of struct hvm_memmap_table_entry; the types are those of E820."""
    return b"".join(MAP_ENTRY.pack(entry.start, entry.size, entry.type, 0) for entry in entries)
