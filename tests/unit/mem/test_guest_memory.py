"""Guest memory: bounds, spanning, ROM, the write notice, the layout."""

from __future__ import annotations

import ctypes
import itertools

import pytest

from manor.base.address import Gpa
from manor.base.errors import ConfigError
from manor.base.units import GiB, MiB
from manor.mem import layout
from manor.mem.guest_memory import GuestMemory, OutOfRange, Region

PAGE = 0x1000


@pytest.fixture
def memory() -> GuestMemory:
    """Two adjacent RAM regions, a gap, a ROM."""
    return GuestMemory(
        [
            Region(Gpa(0x8000), PAGE, "rom"),
            Region(Gpa(0), 2 * PAGE),
            Region(Gpa(2 * PAGE), PAGE),
        ]
    )


def test_regions_are_sorted_and_zero(memory: GuestMemory) -> None:
    assert [region.start for region in memory.regions] == [0, 2 * PAGE, 0x8000]
    assert memory.read(0, 16) == bytes(16)


def test_bytes_and_integers(memory: GuestMemory) -> None:
    memory.write(0x10, b"\x11\x22\x33\x44\x55\x66\x77\x88")
    assert memory.read_u8(0x11) == 0x22
    assert memory.read_u16(0x10) == 0x2211
    assert memory.read_u16(0x11) == 0x3322
    assert memory.read_u32(0x10) == 0x44332211
    assert memory.read_u32(0x12) == 0x66554433
    assert memory.read_u64(0x10) == 0x8877665544332211
    memory.write_u8(0x20, 0x1FF)
    memory.write_u16(0x21, 0x1BEEF)
    memory.write_u16(0x24, 0xCAFE)
    memory.write_u32(0x28, 0x1_0000_0001)
    memory.write_u32(0x2D, 5)
    memory.write_u64(0x38, (1 << 64) + 9)
    memory.write_u64(0x41, 7)
    assert memory.read(0x20, 7) == b"\xff\xef\xbe\x00\xfe\xca\x00"
    assert [memory.read_u32(0x28), memory.read_u32(0x2D), memory.read_u64(0x38), memory.read_u64(0x41)] == [1, 5, 9, 7]


def test_accesses_span_adjacent_regions(memory: GuestMemory) -> None:
    start = 2 * PAGE - 3
    memory.write(start, b"abcdef")
    assert memory.read(start, 6) == b"abcdef"
    memory.write_u64(start, 0x0102030405060708)
    assert memory.read_u64(start) == 0x0102030405060708
    assert memory.contains(start, 6)
    with pytest.raises(OutOfRange):
        memory.view(start, 6)


@pytest.mark.parametrize("gpa", [3 * PAGE, 3 * PAGE - 4, 0x7FFC, 0x9000 - 4, -8, 1 << 60, 1 << 70])
def test_outside_raises_and_writes_nothing(memory: GuestMemory, gpa: int) -> None:
    assert not memory.contains(gpa, 8)
    for access in (
        lambda: memory.read(gpa, 8),
        lambda: memory.write(gpa, b"12345678"),
        lambda: memory.read_u64(gpa),
        lambda: memory.write_u64(gpa, 1),
        lambda: memory.view(gpa, 8),
        lambda: memory.load(gpa, b"12345678"),
    ):
        with pytest.raises(OutOfRange):
            access()
    assert memory.read(3 * PAGE - 4, 4) == bytes(4)


def test_negative_size_is_out_of_range(memory: GuestMemory) -> None:
    assert not memory.contains(0x100, -1)
    with pytest.raises(OutOfRange):
        memory.read(0x100, -1)


def test_rom_changes_by_load_only(memory: GuestMemory) -> None:
    memory.load(0x8000, b"firmware")
    memory.write(0x8000, b"attacker")
    memory.write_u32(0x8000, 0)
    memory.write_u16(0x8000, 0)
    memory.write_u64(0x8000, 0)
    memory.write_u8(0x8000, 0)
    assert memory.read(0x8000, 8) == b"firmware"
    assert memory.view(0x8000, 8).readonly


def test_writes_are_noticed(memory: GuestMemory) -> None:
    seen: list[tuple[int, int]] = []
    memory.on_write = lambda gpa, size: seen.append((gpa, size))
    memory.write(0x10, b"abc")
    memory.write_u8(1, 1)
    memory.write_u16(2, 1)
    memory.write_u32(4, 1)
    memory.write_u64(8, 1)
    view = memory.view(0x100, 4)
    view[:] = b"wxyz"
    memory.written(0x100, 4)
    memory.write(0x10, b"")
    memory.load(0x20, b"z")
    assert seen == [(0x10, 3), (1, 1), (2, 2), (4, 4), (8, 8), (0x100, 4), (0x20, 1)]
    assert memory.read(0x100, 4) == b"wxyz"


def test_host_address_is_the_same_memory(memory: GuestMemory) -> None:
    memory.write(2 * PAGE, b"host")
    address = memory.host_address(memory.regions[1])
    assert address % PAGE == 0
    assert ctypes.string_at(address, 4) == b"host"
    with pytest.raises(KeyError):
        memory.host_address(Region(Gpa(0), PAGE))


def test_large_memory_is_lazy() -> None:
    memory = GuestMemory([Region(start, size) for start, size in layout.ram_ranges(64 * GiB)])
    memory.write_u64(4 * GiB, 0x1234)
    assert memory.read_u64(4 * GiB) == 0x1234


@pytest.mark.parametrize(
    "regions",
    [
        [],
        [Region(Gpa(0), 100)],
        [Region(Gpa(5), PAGE)],
        [Region(Gpa(0), 0)],
        [Region(Gpa(0), 2 * PAGE), Region(Gpa(PAGE), PAGE)],
        [Region(Gpa(1 << 52), PAGE)],
        [Region(Gpa(-PAGE), PAGE)],
    ],
)
def test_bad_regions_are_refused(regions: list[Region]) -> None:
    with pytest.raises(ConfigError):
        GuestMemory(regions)


def test_ram_ranges() -> None:
    assert layout.ram_ranges(256 * MiB) == [(0, 256 * MiB)]
    assert layout.ram_ranges(4 * GiB) == [(0, 3 * GiB), (4 * GiB, 1 * GiB)]
    for bad in (0, -PAGE, 100, layout.MAX_RAM + PAGE):
        with pytest.raises(ValueError, match="RAM size"):
            layout.ram_ranges(bad)


def test_layout_does_not_overlap() -> None:
    windows = sorted(
        [
            (0, layout.LOW_RAM_END),
            (layout.MMIO32, layout.MMIO32_SIZE),
            (layout.ECAM, layout.ECAM_SIZE),
            (layout.IO_APIC, layout.IO_APIC_SIZE),
            (layout.LOCAL_APIC, layout.MSI_WINDOW_SIZE),
            (layout.HIGH_RAM, layout.MMIO64 - layout.HIGH_RAM),
            (layout.MMIO64, layout.MMIO64_SIZE),
        ]
    )
    for (start, size), (following, _) in itertools.pairwise(windows):
        assert start + size <= following


def test_released_ram_reads_as_zeros_and_is_told_to_the_engine() -> None:
    memory = GuestMemory([Region(Gpa(0), 0x4000), Region(Gpa(0x4000), 0x2000), Region(Gpa(0x8000), 0x1000, "rom")])
    memory.load(0, b"x" * 0x6000)
    memory.load(0x8000, b"r" * 0x1000)
    told: list[tuple[int, int]] = []
    memory.on_write = lambda gpa, size: told.append((gpa, size))
    assert memory.release(0x2800, 0x6000) == 0x3000
    assert told == [(0x3000, 0x1000), (0x4000, 0x2000)]
    assert memory.read(0x2000, 0x4000) == b"x" * 0x1000 + bytes(0x3000)
    assert memory.read_u8(0x8000) == ord("r")
    assert memory.release(0x100, 0x800) == 0
    assert memory.release(1 << 51, 1 << 40) == 0


def test_views_and_structures_across_regions() -> None:
    memory = GuestMemory([Region(Gpa(0), 0x2000), Region(Gpa(0x2000), 0x2000), Region(Gpa(0x4000), 0x1000, "rom")])
    memory.load(0, bytes(index & 0xFF for index in range(0x4000)))
    told: list[tuple[int, int]] = []
    memory.on_write = lambda gpa, size: told.append((gpa, size))
    whole, first, second = memory.views_of([(0x10, 4), (0x1FFE, 4)])
    assert (bytes(whole), bytes(first), bytes(second)) == (b"\x10\x11\x12\x13", b"\xfe\xff", b"\x00\x01")
    second[1] = 0x55
    assert memory.read_u8(0x2001) == 0x55
    memory.written_all([(0x1FFE, 4), (0, 0)])
    assert told == [(0x1FFE, 4)]
    assert memory.views_of([(0x4000, 2)])[0].readonly
    with pytest.raises(OutOfRange):
        memory.views_of([(0x4FFF, 2)])
    assert memory.find_region(0x1FFE, 4) is None
    assert memory.find_region(0x4000, 1) == Region(Gpa(0x4000), 0x1000, "rom")
    told.clear()
    memory.write_u8(0x3FFF, 0x1AA)
    memory.write_u8(0x4000, 0xAA)
    assert (memory.read_u8(0x3FFF), memory.read_u8(0x4000)) == (0xAA, 0)
    assert (0x3FFF, 1) in told
    with pytest.raises(OutOfRange):
        memory.write_u8(0x5000, 1)
