"""Read functions and relocations out of a relocatable ELF64 object.

Source: System V ABI, edition 4.1, chapter 4; AMD64 supplement, table 4.10 (relocation types).
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from dataclasses import dataclass
from typing import Final

SHT_SYMTAB: Final = 2
SHT_RELA: Final = 4
STT_FUNC: Final = 2
EM_X86_64: Final = 62


class ObjectError(Exception):
    """The object has something that a stencil must not have; names it."""


@dataclass(frozen=True, slots=True)
class ObjectRelocation:
    """offset in the function's code, type number of the host's ABI, symbol name, addend."""

    offset: int
    type: int
    symbol: str
    addend: int


@dataclass(frozen=True, slots=True)
class Function:
    code: bytes
    relocations: tuple[ObjectRelocation, ...]


def _name(data: bytes, start: int, index: int) -> str:
    return data[start + index : data.index(b"\0", start + index)].decode()


def read_functions(data: bytes) -> dict[str, Function]:
    """All functions of the object's .text. ObjectError if the object carries constants or other code."""
    (machine,) = struct.unpack_from("<H", data, 18)
    if data[:6] != b"\x7fELF\x02\x01" or machine != EM_X86_64:
        raise ObjectError("not a little-endian ELF64 object for x86-64")
    (table,) = struct.unpack_from("<Q", data, 40)
    (count, names_index) = struct.unpack_from("<HH", data, 60)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, table + index * 64) for index in range(count)]
    names = [_name(data, sections[names_index][4], section[0]) for section in sections]
    for name, section in zip(names, sections, strict=True):
        if name.startswith((".rodata", ".data", ".bss", ".lrodata")) and section[5]:
            raise ObjectError(f"stencils need a {name} section of {section[5]} bytes")
    text_index = names.index(".text")
    text = data[sections[text_index][4] :][: sections[text_index][5]]
    symbols_section = next(section for section in sections if section[1] == SHT_SYMTAB)
    strings = sections[symbols_section[6]][4]
    symbols = []
    for position in range(symbols_section[4], symbols_section[4] + symbols_section[5], 24):
        index, info, _, section, value, size = struct.unpack_from("<IBBHQQ", data, position)
        symbols.append((_name(data, strings, index), info & 15, section, value, size))
    relocations: list[tuple[int, int, str, int]] = []
    for section in sections:
        if section[1] == SHT_RELA and section[7] == text_index:
            for offset, info, addend in struct.iter_unpack("<QQq", data[section[4] : section[4] + section[5]]):
                relocations.append((offset, info & 0xFFFFFFFF, symbols[info >> 32][0], addend))
    relocations.sort()
    offsets = [r[0] for r in relocations]
    return {
        name: Function(
            text[value : value + size],
            tuple(
                ObjectRelocation(offset - value, type, symbol, addend)
                for offset, type, symbol, addend in relocations[
                    bisect_left(offsets, value) : bisect_left(offsets, value + size)
                ]
            ),
        )
        for name, kind, section, value, size in symbols
        if section == text_index and kind == STT_FUNC
    }
