"""Reader for 64-bit little-endian ELF files, as far as loading a kernel needs it.

Source: System V ABI, gABI 4.1 chapters 4 and 5; ELF-64 Object File Format 1.5.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from manor.base.address import align_up
from manor.base.errors import ProtocolError

MAGIC: Final = b"\x7fELF"
EM_X86_64: Final = 62
CLASS_64: Final = 2
DATA_LITTLE_ENDIAN: Final = 1

MACHINES: Final = {
    2: "SPARC", 3: "32-bit x86", 8: "MIPS", 20: "PowerPC", 21: "64-bit PowerPC", 22: "s390", 40: "32-bit Arm",
    43: "64-bit SPARC", 62: "x86-64", 183: "AArch64", 243: "RISC-V", 258: "LoongArch",
}  # fmt: skip
"""Names for messages. Source: gABI, e_machine registry."""

_EHDR: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR: Final = struct.Struct("<IIQQQQQQ")
_NHDR: Final = struct.Struct("<III")
_ET_REL: Final = 1
_PT_LOAD: Final = 1
_PT_INTERP: Final = 3
_PT_NOTE: Final = 4
_PT_TLS: Final = 7
_NT_GNU_ABI_TAG: Final = 1
_MAX_PROGRAM_HEADERS: Final = 128
"""Kernels have about five; a file with more is not one."""
_MAX_NOTES: Final = 1 << 20
"""Bytes of one note segment; kernels have a few hundred."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A PT_LOAD program header: `file_size` bytes at `offset`, followed by zeros up to `memory_size`."""

    offset: int
    file_size: int
    memory_size: int
    physical: int
    virtual: int

    @property
    def end(self) -> int:
        """First physical address behind the segment."""
        return self.physical + self.memory_size


@dataclass(frozen=True, slots=True)
class Note:
    """One note. type: as its owner defines it."""

    owner: str
    type: int
    description: bytes


@dataclass(frozen=True, slots=True)
class Elf:
    """What a loader needs. entry: as in the file, physical or virtual. Segments in file order.

    is_program: whether it asks for a running system: a program interpreter, thread-local storage, or the ABI that a
    system provides. Source: Linux Standard Base 5.0 Core, 11.1 "Special Sections" (.note.ABI-tag).
    """

    machine: int
    entry: int
    segments: tuple[Segment, ...]
    notes: tuple[Note, ...]
    is_program: bool = False

    @property
    def physical_entry(self) -> int:
        """The entry point as a physical address, for files that give it as a virtual one."""
        for segment in self.segments:
            if segment.physical <= self.entry < segment.end:
                return self.entry
        for segment in self.segments:
            if segment.virtual <= self.entry < segment.virtual + segment.memory_size:
                return self.entry - segment.virtual + segment.physical
        return self.entry


def is_elf(data: bytes) -> bool:
    return data.startswith(MAGIC)


def describe_machine(data: bytes) -> tuple[int, int]:
    """Class (1: 32 bits, 2: 64 bits) and machine of an ELF file of any kind. Raises ProtocolError."""
    if not is_elf(data) or len(data) < 20:
        raise ProtocolError("not an ELF file, or only the beginning of one", 0)
    order = "<" if data[5] == DATA_LITTLE_ENDIAN else ">"
    (machine,) = struct.unpack_from(order + "H", data, 18)
    return data[4], machine


def parse(data: bytes) -> Elf:
    """Read the headers of `data`. Raises ProtocolError with the offset for anything inconsistent."""
    elf_class, machine = describe_machine(data)
    if elf_class != CLASS_64 or data[5] != DATA_LITTLE_ENDIAN:
        raise ProtocolError("not a 64-bit little-endian ELF file", 4)
    if len(data) < _EHDR.size:
        raise ProtocolError("the ELF header is truncated", len(data))
    _, kind_of_file, _, _, entry, table, _, _, _, entry_size, count, _, _, _ = _EHDR.unpack_from(data)
    if kind_of_file == _ET_REL:
        raise ProtocolError("it is an object file or kernel module, not a kernel", 16)
    if count == 0 or count > _MAX_PROGRAM_HEADERS or entry_size < _PHDR.size:
        raise ProtocolError(f"{count} program headers of {entry_size} bytes are not an executable", 54)
    if table + count * entry_size > len(data):
        raise ProtocolError("the program headers are truncated", table)
    segments = []
    is_program = False
    notes: list[Note] = []
    for offset in range(table, table + count * entry_size, entry_size):
        kind, _, start, virtual, physical, file_size, memory_size, alignment = _PHDR.unpack_from(data, offset)
        is_program |= kind in (_PT_INTERP, _PT_TLS)
        if kind not in (_PT_LOAD, _PT_NOTE):
            continue
        if start + file_size > len(data):
            raise ProtocolError("a segment reaches behind the end of the file: it is truncated", offset)
        if kind == _PT_LOAD:
            if memory_size < file_size or physical + memory_size > 1 << 64:
                raise ProtocolError("a segment's sizes make no sense", offset)
            if memory_size:
                segments.append(Segment(start, file_size, memory_size, physical, virtual))
        elif file_size <= _MAX_NOTES:
            notes += _parse_notes(data[start : start + file_size], 8 if alignment == 8 else 4)
    if not segments:
        raise ProtocolError("the ELF file has nothing to load", table)
    is_program |= any((note.owner, note.type) == ("GNU", _NT_GNU_ABI_TAG) for note in notes)
    return Elf(machine, entry, tuple(segments), tuple(notes), is_program)


def _parse_notes(data: bytes, alignment: int) -> Iterator[Note]:
    """Notes until the first that does not fit; alignment padding behind the last one is usual."""
    position = 0
    while position + _NHDR.size <= len(data):
        name_size, size, kind = _NHDR.unpack_from(data, position)
        name_start = position + _NHDR.size
        start = align_up(name_start + name_size, alignment)
        if start + size > len(data):
            return
        owner = data[name_start : name_start + name_size].rstrip(b"\0").decode("ascii", "replace")
        yield Note(owner, kind, data[start : start + size])
        position = align_up(start + size, alignment)
