"""The ELF reader: what a loader needs, and refusal of what makes no sense."""

from __future__ import annotations

import struct

import pytest

from manor.base.errors import ProtocolError
from manor.boot import elf
from manor.testing.kernels import build_elf, build_note


def test_segments_entry_and_notes() -> None:
    notes = build_note("Xen", 18, struct.pack("<I", 0x100_0040)) + build_note("Linux", 0x100, b"abc")
    parsed = elf.parse(build_elf([(0x100_0000, b"code", 0x2000), (0x200_0000, b"", 16)], notes=notes))
    assert parsed.entry == parsed.physical_entry == 0x100_0000
    assert [(s.physical, s.file_size, s.memory_size) for s in parsed.segments] == [
        (0x100_0000, 4, 0x2000),
        (0x200_0000, 0, 16),
    ]
    assert [(n.owner, n.type, n.description) for n in parsed.notes] == [
        ("Xen", 18, b"\x40\x00\x00\x01"),
        ("Linux", 0x100, b"abc"),
    ]


def test_virtual_entry_becomes_physical() -> None:
    parsed = elf.parse(build_elf([(0x100_0000, b"code", 4)], entry=0xFFFF_FFFF_8100_0002))
    assert parsed.physical_entry == 0x100_0002


def test_note_that_reaches_behind_its_segment_ends_the_list() -> None:
    notes = build_note("A", 1, b"x") + struct.pack("<III", 4, 1000, 1) + b"B\0\0\0"
    assert [n.owner for n in elf.parse(build_elf([(0x100_0000, b"c", 1)], notes=notes)).notes] == ["A"]


@pytest.mark.parametrize("length", [0, 3, 19, 40, 64, 100, 120])
def test_truncated_file_is_refused(length: int) -> None:
    with pytest.raises(ProtocolError):
        elf.parse(build_elf([(0x100_0000, b"code" * 10, 0x2000)])[:length])


def test_too_many_program_headers_are_refused() -> None:
    data = bytearray(build_elf([(0x100_0000, b"code", 4)]))
    struct.pack_into("<H", data, 56, 0xFFFF)
    with pytest.raises(ProtocolError, match="program headers"):
        elf.parse(bytes(data))


def test_segment_smaller_in_memory_than_in_file_is_refused() -> None:
    with pytest.raises(ProtocolError, match="sizes"):
        elf.parse(build_elf([(0x100_0000, b"code", 2)]))


def test_machine_of_any_class() -> None:
    assert elf.describe_machine(build_elf([(0, b"c", 1)], machine=183)) == (2, 183)
    assert elf.describe_machine(b"\x7fELF\x01\x01\x01" + bytes(9) + b"\x02\x00\x03\x00") == (1, 3)
