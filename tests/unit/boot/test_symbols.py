"""Symbols of kernels: ELF tables, and Linux's own, from an image that the test writes by the same rules."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manor.base.address import align_up
from manor.base.errors import ProtocolError
from manor.boot.kallsyms import find_kallsyms
from manor.boot.symbols import Symbols, read_symbols

BASE = 0xFFFF_FFFF_8100_0000
COUNT = 1500
NAMES = [f"function_{number}" for number in range(COUNT - 1)] + ["a" * 200]
PAIR = 1
"""The token that stands for "function_"."""


def pad(data: bytes) -> bytes:
    return data.ljust(align_up(len(data), 8), b"\0")


def tokens() -> list[bytes]:
    return [b"function_" if byte == PAIR else bytes([byte]) if 32 < byte < 127 else b"" for byte in range(256)]


def packed(name: str) -> bytes:
    data = b"T" + name.encode().replace(b"function_", bytes([PAIR]))
    size = len(data)
    return (bytes([size]) if size < 0x80 else bytes([size & 0x7F | 0x80, size >> 7])) + data


def image(offsets: list[int], behind: bool, prefix: bytes = bytes(64), base: int = BASE) -> bytes:
    """What scripts/kallsyms.c writes. behind: with the offsets behind the tokens, as since Linux 6.4."""
    entries = [packed(name) for name in NAMES]
    markers = [sum(map(len, entries[:place])) for place in range(0, COUNT, 256)]
    table = pad(b"".join(token + b"\0" for token in tokens()))
    index, at = [], 0
    for token in tokens():
        index.append(at)
        at += len(token) + 1
    addresses = pad(struct.pack(f"<{COUNT}i", *offsets)) + struct.pack("<Q", base)
    names = struct.pack("<Q", COUNT) + pad(b"".join(entries)) + pad(struct.pack(f"<{len(markers)}I", *markers))
    found = table + struct.pack("<256H", *index)
    return prefix + (names + found + addresses if behind else addresses + names + found) + bytes(64)


@pytest.mark.parametrize("behind", [False, True], ids=["6.1", "6.4"])
@pytest.mark.parametrize("prefix", [bytes(64), b"0\x001\x002\0".ljust(64, b"x"), bytes(range(8)) * 800])
def test_finds_its_own_image(behind: bool, prefix: bytes) -> None:
    found = find_kallsyms(image([16 * number for number in range(COUNT)], behind, prefix))
    assert found.names == NAMES
    assert found.addresses == [BASE + 16 * number for number in range(COUNT)]


def test_negative_offsets_mean_that_the_others_are_absolute() -> None:
    offsets = [0, 64, *(-1 - 16 * number for number in range(COUNT - 2))]
    found = find_kallsyms(image(offsets, behind=False))
    assert found.addresses[:4] == [0, 64, BASE, BASE + 16]


def test_base_that_is_no_kernel_address_is_not_believed() -> None:
    with pytest.raises(ProtocolError, match="of a form that is not known"):
        find_kallsyms(image([0] * COUNT, behind=False, base=0x1000))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_damaged_images_end_in_an_answer_or_an_error(data: st.DataObject) -> None:
    good = bytearray(image(list(range(COUNT)), behind=data.draw(st.booleans())))
    for _ in range(data.draw(st.integers(1, 20))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(good[: data.draw(st.integers(0, len(good)))])
    try:
        found = find_kallsyms(cut)
    except ProtocolError:
        return
    assert len(found.names) == len(found.addresses)


def elf(symbols: list[tuple[str, int]]) -> bytes:
    """A 64-bit ELF file with nothing but a symbol table."""
    names = b"\0" + b"".join(name.encode() + b"\0" for name, _ in symbols)
    table = bytes(24)
    at = 1
    for name, value in symbols:
        table += struct.pack("<IBBHQQ", at, 0x12, 0, 1, value, 0)
        at += len(name) + 1
    sections = struct.pack("<IIQQQQIIQQ", 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    sections += struct.pack("<IIQQQQIIQQ", 0, 2, 0, 0, 64, len(table), 2, 0, 8, 24)
    sections += struct.pack("<IIQQQQIIQQ", 0, 3, 0, 0, 64 + len(table), len(names), 0, 0, 1, 0)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, 62, 1, 0, 0, 64 + len(table) + len(names), 0, 64, 0, 0, 64, 3, 2
    )
    return header + table + names + sections


def test_elf_symbol_table(tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(elf([("start", 0x1000), ("alias", 0x1000), ("next", 0x1100)]))
    symbols = read_symbols(path)
    assert symbols.name_of(0x1004) == "alias+0x4"
    assert symbols.name_of(0x1100) == "next+0x0"
    assert symbols.name_of(0xFFF) == ""
    assert symbols.name_of(0x1100 + (2 << 20)) == ""


@pytest.mark.parametrize("size", [0, 3, 20, 63, 64, 80, 120])
def test_truncated_files_have_no_symbols(tmp_path: Path, size: int) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(elf([("start", 0x1000)])[:size])
    assert len(read_symbols(path)) == 0


def test_missing_file_has_no_symbols(tmp_path: Path) -> None:
    assert read_symbols(tmp_path / "nothing").name_of(1) == ""


def test_no_symbols_name_nothing() -> None:
    assert Symbols(()).name_of(5) == ""
