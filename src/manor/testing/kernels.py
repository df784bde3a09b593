"""Synthetic kernel files for tests: well-formed headers around a few bytes of content."""

from __future__ import annotations

import struct
from collections.abc import Sequence

LOAD_ADDRESS = 0x100_0000


def build_elf(
    segments: Sequence[tuple[int, bytes, int]],
    *,
    entry: int = LOAD_ADDRESS,
    notes: bytes = b"",
    machine: int = 62,
    elf_class: int = 2,
) -> bytes:
    """A little-endian ELF64 executable. segments: (physical address, contents, size in memory)."""
    count = len(segments) + bool(notes)
    position = 64 + 56 * count
    headers = b""
    contents = b""
    for physical, data, size in segments:
        virtual = physical | 0xFFFF_FFFF_8000_0000
        headers += struct.pack("<IIQQQQQQ", 1, 7, position, virtual, physical, len(data), size, 4096)
        contents += data
        position += len(data)
    if notes:
        headers += struct.pack("<IIQQQQQQ", 4, 4, position, 0, 0, len(notes), len(notes), 4)
        contents += notes
    ident = b"\x7fELF" + bytes([elf_class, 1, 1]) + bytes(9)
    start = struct.pack("<16sHHIQQQIHHHHHH", ident, 2, machine, 1, entry, 64, 0, 0, 64, 56, count, 64, 0, 0)
    return start + headers + contents


def build_note(owner: str, kind: int, description: bytes) -> bytes:
    """One ELF note with 4-byte alignment."""
    name = owner.encode() + b"\0"
    head = struct.pack("<III", len(name), len(description), kind) + name
    return head + bytes(-len(head) % 4) + description + bytes(-len(description) % 4)


def build_bzimage(
    payload: bytes,
    *,
    version: int = 0x020F,
    xloadflags: int = 1,
    cmdline_size: int = 2047,
    initrd_addr_max: int = 0x7FFF_FFFF,
    pref_address: int = LOAD_ADDRESS,
    init_size: int = 0x10_0000,
    payload_length: int | None = None,
) -> bytes:
    """A bzImage with one setup sector besides the boot sector, whose payload follows 0x200 bytes of code."""
    image = bytearray(0x400 + 0x200)
    image[0x1F1] = 1
    image[0x1FE:0x200] = b"\x55\xaa"
    image[0x200:0x206] = b"\xeb\x6aHdrS"
    struct.pack_into("<H", image, 0x206, version)
    struct.pack_into("<I", image, 0x22C, initrd_addr_max)
    struct.pack_into("<HI", image, 0x236, xloadflags, cmdline_size)
    struct.pack_into("<II", image, 0x248, 0x200, len(payload) if payload_length is None else payload_length)
    struct.pack_into("<QI", image, 0x258, pref_address, init_size)
    return bytes(image) + payload


def build_idle_kernel() -> bytes:
    """A kernel that halts for ever with interrupts on: the least guest that runs.

    Source of the note: Xen, "x86/HVM direct boot ABI": XEN_ELFNOTE_PHYS32_ENTRY is 18.
    """
    sti_hlt_again = b"\xfb\xf4\xeb\xfd"
    note = build_note("Xen", 18, struct.pack("<I", LOAD_ADDRESS))
    return build_elf([(LOAD_ADDRESS, sti_hlt_again, 4096)], entry=LOAD_ADDRESS, notes=note)
