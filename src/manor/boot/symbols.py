"""Names for addresses in a guest's kernel: from the symbol table of an ELF file, or those that Linux carries itself."""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from manor.base.errors import ManorError, ProtocolError
from manor.boot import bzimage, payload
from manor.boot import elf as elf_file
from manor.boot.kallsyms import find_kallsyms

_FARTHEST: Final = 1 << 20
"""Bytes behind a symbol that still count as part of it: the longest functions are far shorter."""
_SHDR: Final = struct.Struct("<IIQQQQIIQQ")
_SYM: Final = struct.Struct("<IBBHQQ")
_SHT_SYMTAB: Final = 2
_MAX_SECTIONS: Final = 1 << 16
_FUNCTION_TYPES: Final = (0, 2)
"""STT_NOTYPE, as assembly labels are, and STT_FUNC. Source: gABI 4.1, chapter 4."""


class Symbols:
    """Symbols by address."""

    def __init__(self, symbols: Iterable[tuple[int, str]]) -> None:
        ordered = sorted(symbols)
        self._addresses = [address for address, _ in ordered]
        self._names = [name for _, name in ordered]

    def __len__(self) -> int:
        return len(self._names)

    def name_of(self, address: int) -> str:
        """`name+0x12`, or "" if no symbol is near."""
        index = bisect_right(self._addresses, address) - 1
        if index < 0 or address - self._addresses[index] > _FARTHEST:
            return ""
        start = self._addresses[index]
        while index and self._addresses[index - 1] == start:
            index -= 1  # of several names the first, so that the answer is always the same
        return f"{self._names[index]}+{address - start:#x}"


def read_symbols(kernel: Path) -> Symbols:
    """The symbols of a bootable kernel; none if it has none or cannot be read any more."""
    try:
        data = kernel.read_bytes()
        if bzimage.is_bzimage(data):
            data = payload.decompress(bzimage.parse(data).payload)
        found = list(_symbol_table(data))
        if not found:
            own = find_kallsyms(data)
            found = list(zip(own.addresses, own.names, strict=True))
    except (OSError, ManorError):
        return Symbols(())
    return Symbols(found)


def _symbol_table(data: bytes) -> list[tuple[int, str]]:
    """The functions of an ELF file's symbol table. Source: gABI 4.1, chapter 4. Raises ProtocolError."""
    elf_class, _ = elf_file.describe_machine(data)
    if elf_class != elf_file.CLASS_64 or len(data) < 64:
        raise ProtocolError("not a 64-bit ELF file", 4)
    (table,) = struct.unpack_from("<Q", data, 40)
    size, count = struct.unpack_from("<HH", data, 58)
    if size < _SHDR.size or count > _MAX_SECTIONS or table + size * count > len(data):
        return []
    sections = [_SHDR.unpack_from(data, table + size * index) for index in range(count)]
    for _, kind, _, _, start, length, link, _, _, _ in sections:
        if kind == _SHT_SYMTAB and link < count and start + length <= len(data):
            names, names_size = sections[link][4], sections[link][5]
            return _read_table(data[start : start + length], data[names : names + names_size])
    return []


def _read_table(table: bytes, names: bytes) -> list[tuple[int, str]]:
    found = []
    for name, info, _, section, value, _ in _SYM.iter_unpack(table[: len(table) // _SYM.size * _SYM.size]):
        if section and value and info & 15 in _FUNCTION_TYPES and name < len(names):
            text = names[name : names.find(b"\0", name)]
            found.append((value, text.decode("ascii", "replace")))
    return found
