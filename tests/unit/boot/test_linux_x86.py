"""Loading a kernel: where things go, how it is entered, and one clear sentence for what cannot boot."""

from __future__ import annotations

import gzip
import os
import struct
from itertools import pairwise
from pathlib import Path

import pytest

from manor.base.address import Gpa
from manor.base.errors import ConfigError
from manor.base.units import MiB
from manor.boot import entry_x86
from manor.boot.linux_x86 import check_files, load_linux
from manor.boot.memory_map import RAM, RESERVED, MapEntry, memory_map
from manor.mem.guest_memory import GuestMemory, Region
from manor.testing.kernels import LOAD_ADDRESS, build_bzimage, build_elf, build_note

LINUX_NOTES = build_note("Linux", 0x100, b"salt") + build_note("Xen", 18, struct.pack("<I", LOAD_ADDRESS + 0x40))
PVH_NOTES = build_note("Xen", 18, struct.pack("<I", LOAD_ADDRESS + 0x40))
CODE = bytes(range(1, 101))


def linux_elf() -> bytes:
    return build_elf([(LOAD_ADDRESS, CODE, 0x5000)], notes=LINUX_NOTES)


@pytest.fixture
def memory() -> GuestMemory:
    return GuestMemory([Region(Gpa(0), 64 * MiB)])


def store(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "kernel"
    path.write_bytes(data)
    return path


def u32(memory: GuestMemory, gpa: int) -> int:
    return memory.read_u32(gpa)


@pytest.mark.parametrize("packed", [False, True])
def test_linux64_entry(tmp_path: Path, memory: GuestMemory, packed: bool) -> None:
    data = build_bzimage(gzip.compress(linux_elf())) if packed else linux_elf()
    booted = load_linux(memory, store(tmp_path, data), b"initrd!", "console=ttyS0", 0xE0000, rng_seed=b"s" * 32)

    assert booted.protocol == "linux64"
    assert memory.read(LOAD_ADDRESS, 100) == CODE
    assert booted.kernel == (LOAD_ADDRESS, LOAD_ADDRESS + 0x5000)
    state = booted.state
    assert state.rip == LOAD_ADDRESS
    assert (state.cr0 & 0x8000_0001, state.cr4 & 0x20, state.efer & 0x500) == (0x8000_0001, 0x20, 0x500)
    assert (state.cs.selector, state.cs.attributes & 0x2000, state.ds.selector) == (0x10, 0x2000, 0x18)
    assert state.rflags == 2

    page = state.gpr[6]
    assert memory.read(page + 0x202, 4) == b"HdrS"
    assert memory.read_u8(page + 0x210) == 0xFF
    command_line = u32(memory, page + 0x228)
    assert memory.read(command_line, 14) == b"console=ttyS0\0"
    initrd, size = u32(memory, page + 0x218), u32(memory, page + 0x21C)
    assert (initrd % 4096, size, memory.read(initrd, size)) == (0, 7, b"initrd!")
    assert memory.read_u64(page + 0x70) == 0xE0000
    record = memory.read_u64(page + 0x250)
    assert memory.read(record, 16 + 32) == struct.pack("<QII", 0, 9, 32) + b"s" * 32
    count = memory.read_u8(page + 0x1E8)
    table = [struct.unpack("<QQI", memory.read(page + 0x2D0 + 20 * index, 20)) for index in range(count)]
    assert [MapEntry(*entry) for entry in table] == list(booted.memory_map)
    assert table[0] == (0, 0x9FC00, RAM)


def test_identity_map_covers_four_gib(tmp_path: Path, memory: GuestMemory) -> None:
    state = load_linux(memory, store(tmp_path, linux_elf()), None, "", None).state
    for address in (0, LOAD_ADDRESS, 0xFFFF_F000):
        pml4e = memory.read_u64(state.cr3 + (address >> 39) * 8)
        pdpte = memory.read_u64((pml4e & ~0xFFF) + (address >> 30 & 511) * 8)
        pde = memory.read_u64((pdpte & ~0xFFF) + (address >> 21 & 511) * 8)
        assert (pml4e & 3, pdpte & 3, pde & 0x83, pde & ~0x1F_FFFF) == (3, 3, 0x83, address & ~0x1F_FFFF)


def test_gdt_agrees_with_the_hidden_parts(tmp_path: Path, memory: GuestMemory) -> None:
    state = load_linux(memory, store(tmp_path, linux_elf()), None, "", None).state
    for segment in (state.cs, state.ds, state.tr):
        entry = memory.read_u64(state.gdtr.base + segment.selector)
        assert (entry >> 40 & 0xF0FF) == segment.attributes
        limit = (entry & 0xFFFF) | (entry >> 32 & 0xF0000)
        assert (limit << 12 | 0xFFF if segment.attributes & 0x8000 else limit) == segment.limit


def test_pvh_entry(tmp_path: Path, memory: GuestMemory) -> None:
    path = store(tmp_path, build_elf([(LOAD_ADDRESS, CODE, 0x5000)], notes=PVH_NOTES))
    booted = load_linux(memory, path, b"module", "hello", 0xE0000)

    assert booted.protocol == "pvh"
    state = booted.state
    assert state.rip == LOAD_ADDRESS + 0x40
    assert (state.cr0 & 0x8000_0001, state.cr4, state.efer) == (1, 0, 0)
    assert state.cs.attributes & 0x4000
    info = struct.unpack("<IIIIQQQQII", memory.read(state.gpr[3], 56))
    assert info[:4] == (0x336EC578, 1, 0, 1)
    address, size, _, _ = struct.unpack("<QQQQ", memory.read(info[4], 32))
    assert memory.read(address, size) == b"module"
    assert memory.read(info[5], 6) == b"hello\0"
    assert info[6] == 0xE0000
    assert struct.unpack("<QQII", memory.read(info[7], 24)) == (0, 0x9FC00, 1, 0)
    assert info[8] == len(booted.memory_map)


def test_linux_with_a_pvh_note_is_entered_as_asked(tmp_path: Path, memory: GuestMemory) -> None:
    path = store(tmp_path, linux_elf())
    assert load_linux(memory, path, None, "", None).protocol == "linux64"
    assert load_linux(memory, path, None, "", None, protocol="pvh").state.rip == LOAD_ADDRESS + 0x40


def test_unknown_compression_is_one_sentence(tmp_path: Path, memory: GuestMemory) -> None:
    image = build_bzimage(b"\x01\x02\x03\x04" * 100)
    with pytest.raises(ConfigError, match=r"its compression is unknown \(it begins with 01 02 03 04, .* gzip, xz,"):
        load_linux(memory, store(tmp_path, image), None, "", None)


@pytest.mark.parametrize("kind", [3, 7])
def test_a_program_is_not_a_kernel_that_wants_to_be_loaded_at_0(tmp_path: Path, memory: GuestMemory, kind: int) -> None:
    data = bytearray(build_elf([(0, CODE, 0x1000)], entry=0, notes=build_note("GNU", 3, b"id")))
    struct.pack_into("<I", data, 64 + 56, kind)
    with pytest.raises(ConfigError, match="is a program or library, not a kernel"):
        load_linux(memory, store(tmp_path, bytes(data)), None, "", None)
    static = build_elf([(LOAD_ADDRESS, CODE, 0x1000)], notes=build_note("GNU", 1, bytes(16)))
    with pytest.raises(ConfigError, match="is a program or library, not a kernel"):
        load_linux(memory, store(tmp_path, static), None, "", None)


def test_what_a_glance_at_the_files_tells(tmp_path: Path) -> None:
    kernel = store(tmp_path, build_bzimage(gzip.compress(linux_elf())))
    check_files(kernel, kernel)
    with pytest.raises(ConfigError, match="/etc/hostname is not a kernel"):
        check_files(Path("/etc/hostname"), None)
    with pytest.raises(ConfigError, match=r"initrd: .*nonexistent does not exist"):
        check_files(kernel, tmp_path / "nonexistent")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    check_files(pipe, pipe)  # would hang if it read them


def test_bss_is_cleared_and_zero_pages_are_not_written(tmp_path: Path, memory: GuestMemory) -> None:
    memory.write(LOAD_ADDRESS + 0x1000, b"dirty")
    written: list[tuple[int, int]] = []
    memory.on_write = lambda gpa, size: written.append((gpa, size))
    load_linux(memory, store(tmp_path, linux_elf()), None, "", None)
    assert memory.read(LOAD_ADDRESS + 100, 0x5000 - 100) == bytes(0x5000 - 100)
    assert (LOAD_ADDRESS, 0x5000) in written


def test_initrd_respects_the_kernels_limit(tmp_path: Path, memory: GuestMemory) -> None:
    image = build_bzimage(gzip.compress(linux_elf()), initrd_addr_max=0x1FF_FFFF)
    booted = load_linux(memory, store(tmp_path, image), bytes(5000), "", None)
    assert booted.initrd == (0x200_0000 - 0x2000, 0x200_0000 - 0x2000 + 5000)


BAD_KERNELS = {
    "empty": (b"", "is empty"),
    "text": (b"#!/bin/sh\n" * 100, "not a kernel"),
    "aarch64 ELF": (build_elf([(0, b"c", 1)], machine=183), "AArch64"),
    "32-bit ELF": (b"\x7fELF\x01\x01\x01" + bytes(9) + b"\x02\x00\x03\x00" + bytes(64), "32-bit x86"),
    "x32 ELF": (build_elf([(0, b"c", 1)], elf_class=1), "x86-64"),
    "arm64 Image": (bytes(0x38) + b"ARM\x64" + bytes(100), "AArch64"),
    "riscv Image": (bytes(0x38) + b"RSC\x05" + bytes(100), "RISC-V"),
    "arm zImage": (bytes(0x24) + b"\x18\x28\x6f\x01" + bytes(100), "32-bit Arm"),
    "zboot": (b"MZ\0\0zimg" + bytes(100), "another architecture"),
    "gzip": (gzip.compress(b"x" * 100), "gzip-compressed file"),
    "32-bit bzImage": (build_bzimage(gzip.compress(linux_elf()), xloadflags=0), "32-bit kernel"),
    "old bzImage": (build_bzimage(gzip.compress(linux_elf()), version=0x204), "protocol 2.04"),
    "truncated bzImage": (build_bzimage(gzip.compress(linux_elf()))[:-20], "truncated"),
    "damaged bzImage": (build_bzimage(gzip.compress(linux_elf())[:-30] + bytes(30)), "truncated|damaged"),
    "truncated ELF": (linux_elf()[:-200], "truncated"),
    "no segments": (build_elf([], notes=PVH_NOTES), "nothing to load"),
    "entry outside": (build_elf([(LOAD_ADDRESS, b"c", 1)], entry=0x5000_0000), "entry point"),
    "low": (build_elf([(0x1000, b"code", 4)], entry=0x1000), "below 1 MiB"),
    "too large": (build_elf([(LOAD_ADDRESS, b"c", 64 * MiB)]), "too small"),
    "bzImage of aarch64": (build_bzimage(gzip.compress(build_elf([(0, b"c", 1)], machine=183))), "AArch64"),
}


@pytest.mark.parametrize("name", BAD_KERNELS)
def test_bad_kernel_is_one_clear_sentence(tmp_path: Path, memory: GuestMemory, name: str) -> None:
    data, expected = BAD_KERNELS[name]
    with pytest.raises(ConfigError, match=expected) as caught:
        load_linux(memory, store(tmp_path, data), None, "", None)
    assert "\n" not in str(caught.value)
    assert memory.read(0, 0xA0000) == bytes(0xA0000)


def test_bad_paths(tmp_path: Path, memory: GuestMemory) -> None:
    with pytest.raises(ConfigError, match=r"kernel: .*missing does not exist"):
        load_linux(memory, tmp_path / "missing", None, "", None)
    with pytest.raises(ConfigError, match="is a directory"):
        load_linux(memory, tmp_path, None, "", None)
    with pytest.raises(ConfigError, match=r"initrd: .*does not exist"):
        load_linux(memory, store(tmp_path, linux_elf()), tmp_path / "missing", "", None)


def test_a_device_as_kernel_is_not_read_for_ever(memory: GuestMemory) -> None:
    with pytest.raises(ConfigError, match="/dev/zero is a device, not a file"):
        load_linux(memory, Path("/dev/zero"), None, "", None)


def test_memory_too_small_for_initrd(tmp_path: Path, memory: GuestMemory) -> None:
    with pytest.raises(ConfigError, match=r"64 MiB are too small for this kernel and initrd; at least \d+ MiB"):
        load_linux(memory, store(tmp_path, linux_elf()), bytes(30 * MiB), "", None)


def test_command_line(tmp_path: Path, memory: GuestMemory) -> None:
    path = store(tmp_path, build_bzimage(gzip.compress(linux_elf()), cmdline_size=20))
    load_linux(memory, path, None, "x" * 20, None)
    with pytest.raises(ConfigError, match="21 bytes; this kernel takes 20"):
        load_linux(memory, path, None, "x" * 21, None)
    with pytest.raises(ConfigError, match="NUL"):
        load_linux(memory, path, None, "a\0b", None)


def test_pvh_asked_for_but_missing(tmp_path: Path, memory: GuestMemory) -> None:
    path = store(tmp_path, build_elf([(LOAD_ADDRESS, b"code", 4)]))
    with pytest.raises(ConfigError, match="no PVH entry"):
        load_linux(memory, path, None, "", None, protocol="pvh")


def test_memory_map_with_ram_above_4_gib() -> None:
    rom = Region(Gpa(0xFFFF_0000), 0x1_0000, "rom")
    memory = GuestMemory([Region(Gpa(0), 2 * MiB), Region(Gpa(1 << 32), 4 * MiB), rom])
    assert memory_map(memory, [(0xA0000, 0x60000), (0xE000_0000, 0x1000)]) == [
        MapEntry(0, 0xA0000, RAM),
        MapEntry(0xA0000, 0x60000, RESERVED),
        MapEntry(0x100000, MiB, RAM),
        MapEntry(0xE000_0000, 0x1000, RESERVED),
        MapEntry(0xFFFF_0000, 0x1_0000, RESERVED),
        MapEntry(1 << 32, 4 * MiB, RAM),
    ]


def test_low_memory_uses_do_not_overlap() -> None:
    places = [
        (entry_x86.GDT, 64),
        (entry_x86.START_INFO, 4096),
        (entry_x86.BOOT_PARAMS, 4096),
        (entry_x86.PAGE_TABLES, 6 * 4096),
        (entry_x86.SETUP_DATA, 4096),
        (entry_x86.MODULE_LIST, 4096),
        (entry_x86.MEMORY_MAP, 128 * 24),
        (entry_x86.COMMAND_LINE, entry_x86.COMMAND_LINE_END - entry_x86.COMMAND_LINE),
    ]
    for (start, size), (following, _) in pairwise(places):
        assert start + size <= following
