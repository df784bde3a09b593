"""Guest code as text, in Intel syntax, from the engine's own declarations of instructions.

It decides by the same tables that the translator runs on (`isa.x86.tables`), so what a trace shows is what the
engine understood: bytes that raise #UD are `(bad)`. Used for traces, tests and reference pages; not for speed.

Source: SDM volume 2, chapter 2 (encoding) and appendix A (operands).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Final

from manor.engine.env import FLAG_CODE32, FLAG_CODE64
from manor.engine.isa.x86 import tables
from manor.engine.isa.x86.catalog import instructions
from manor.engine.isa.x86.declare import Insn
from manor.engine.isa.x86.template import Builder, Operand
from manor.engine.uop.show import number

MAX_LENGTH: Final = 15
_SEGMENTS: Final = ("es", "cs", "ss", "ds", "fs", "gs")
_WORDS: Final = ("ax", "cx", "dx", "bx", "sp", "bp", "si", "di")
_LOW: Final = ("al", "cl", "dl", "bl", "spl", "bpl", "sil", "dil")
_HIGH: Final = ("ah", "ch", "dh", "bh")
_SIZES: Final = {8: "byte", 16: "word", 32: "dword", 64: "qword", 128: "xmmword"}
_EXTENDED: Final = {0x68, 0x69, 0x6A, 0x6B, 0x81, 0x83, 0xC7, 0xA9, 0xF7}
"""One-byte opcodes whose immediate is sign-extended to a 64-bit operand size."""
_ADDRESS16: Final = ("bx + si", "bx + di", "bp + si", "bp + di", "si", "di", "bp", "bx")

# declared name -> the manual's names at operand sizes 16, 32 and 64
_BY_SIZE: Final[dict[str, tuple[str, str, str]]] = {
    "cbw": ("cbw", "cwde", "cdqe"), "cwd": ("cwd", "cdq", "cqo"), "iret": ("iret", "iretd", "iretq"),
    "pushf": ("pushf", "pushfd", "pushfq"), "popf": ("popf", "popfd", "popfq"), "retf": ("retf", "retf", "retfq"),
    "pusha": ("pusha", "pushad", ""), "popa": ("popa", "popad", ""), "sysret": ("sysret", "sysret", "sysretq"),
    "sysexit": ("sysexit", "sysexit", "sysexitq"), "cmpxchg8b": ("cmpxchg8b", "cmpxchg8b", "cmpxchg16b"),
    "pinsrd": ("pinsrd", "pinsrd", "pinsrq"), "pextrd": ("pextrd", "pextrd", "pextrq"),
    "movd": ("movd", "movd", "movq"), "fxsave": ("fxsave", "fxsave", "fxsave64"),
    "fxrstor": ("fxrstor", "fxrstor", "fxrstor64"), "xsave": ("xsave", "xsave", "xsave64"),
    "xrstor": ("xrstor", "xrstor", "xrstor64"),
}  # fmt: skip
_STRINGS: Final = frozenset(("movs", "cmps", "stos", "lods", "scas", "ins", "outs"))
_COMPARING: Final = frozenset(("cmps", "scas"))
_PREFETCH: Final = ("prefetchnta", "prefetcht0", "prefetcht1", "prefetcht2")
_COUNTER: Final = {2: "jcxz", 4: "jecxz", 8: "jrcxz"}


@dataclass(frozen=True, slots=True)
class Line:
    """One instruction. insn is None where the engine raises #UD."""

    address: int
    code: bytes
    mnemonic: str
    operands: str
    insn: Insn | None

    @property
    def size(self) -> int:
        return len(self.code)

    @property
    def text(self) -> str:
        return f"{self.mnemonic} {self.operands}" if self.operands else self.mnemonic


@dataclass(frozen=True, slots=True)
class _Tables:
    """The parts of the decoder's tables that are needed here; layout in `isa.x86.tables`."""

    cells: memoryview
    rm_tables: memoryview
    modrm: bytes
    kinds: tuple[int, ...]
    flags: tuple[int, ...]
    has_template: tuple[bytes, ...]


_ENTRY: Final = struct.Struct("<BBH18HI")


@cache
def _tables() -> _Tables:
    blob = memoryview(tables.serialize())
    offsets = struct.unpack_from("<8Q", blob)
    count = len(instructions())
    entries = [_ENTRY.unpack_from(blob, offsets[3] + index * _ENTRY.size) for index in range(count)]
    return _Tables(
        blob[offsets[0] : offsets[0] + 2 * tables.DISPATCH_SIZE].cast("H"),
        blob[offsets[1] : offsets[2]].cast("H"),
        bytes(blob[offsets[2] : offsets[3]]),
        tuple(entry[0] for entry in entries),
        tuple(entry[1] for entry in entries),
        tuple(bytes(number != 0 for number in entry[3:21]) for entry in entries),
    )


class _Truncated(Exception):
    """The bytes end inside the instruction."""


class _Decoder:
    """State of one instruction's decoding; the steps and names are those of `decode_native`."""

    def __init__(self, code: bytes, address: int, flags: int) -> None:
        self.code = code[:MAX_LENGTH]
        self.address = address
        self.mode64 = bool(flags & FLAG_CODE64)
        self.code32 = bool(flags & FLAG_CODE32)
        self.position = 0
        self.rex = self.repeat = self.modrm = self.reg = self.rm = self.displacement = self.imm = self.imm2 = 0
        self.map = self.opcode = self.prefix = self.opsize = self.address_size = 0
        self.lock = False
        self.segment = self.sib = -1
        self.mod = 3

    def take(self, size: int, signed: bool = False) -> int:
        if self.position + size > len(self.code):
            raise _Truncated
        data = self.code[self.position : self.position + size]
        self.position += size
        return int.from_bytes(data, "little", signed=signed)

    # -------------------------------------------------------------- decoding
    def line(self) -> Line:
        insn, index = self._find()
        if insn is None:
            return self._bad()
        t = _tables()
        if t.flags[index] & tables.ENTRY_DEFAULT64 and self.mode64 and self.opsize == 1:
            self.opsize = 2
        self._immediates(t.kinds[index])
        moffs = t.kinds[index] == tables.IMM_MOFFS
        memory = self.mod != 3 or moffs
        form = int(memory)
        if self.lock:
            if not memory or not t.flags[index] & tables.ENTRY_LOCK:
                return self._bad()
            form = 2
        if not t.has_template[index][(self.mode64 * 3 + self.opsize) * 3 + form]:
            return self._bad()
        builder = Builder(insn, self.mode64, 16 << self.opsize, memory, False)
        operands = ", ".join(self._segment(insn, [self._operand(operand, insn) for operand in builder.operands]))
        operands = operands or self._stack(insn)
        return Line(self.address, self.code[: self.position], self._mnemonic(insn), operands, insn)

    def _bad(self) -> Line:
        return Line(self.address, self.code[: self.position], "(bad)", "", None)

    def _find(self) -> tuple[Insn | None, int]:
        self._prefixes()
        t = _tables()
        row = (self.mode64 * 4 + self.map) * 256 + self.opcode
        if t.modrm[row]:
            self._modrm()
        cell = t.cells[((row * 4 + self.prefix) * 8 + (self.modrm >> 3 & 7)) * 2 + (self.mod != 3)]
        if cell & 0x8000:
            cell = t.rm_tables[(cell & 0x7FFF) * 8 + (self.modrm & 7)]
        if self.map == 0 and self.opcode == 0x90 and self.rex & 1:
            # 90 with REX.B exchanges R8 and RAX; the plain one does nothing.
            cell = t.cells[((self.mode64 * 4) * 256 + 0x91) * 4 * 16]
        return (instructions()[cell - 1], cell - 1) if cell else (None, 0)

    def _prefixes(self) -> None:
        operand16 = address = False
        while True:
            byte = self.take(1)
            if byte == 0x66:
                operand16 = True
            elif byte == 0x67:
                address = True
            elif byte in (0xF2, 0xF3):
                self.repeat = byte
            elif byte == 0xF0:
                self.lock = True
            elif byte in (0x26, 0x2E, 0x36, 0x3E):
                if not self.mode64:
                    self.segment = byte >> 3 & 3
            elif byte in (0x64, 0x65):
                self.segment = byte - 0x60
            elif self.mode64 and byte & 0xF0 == 0x40:
                self.rex = byte
                continue
            else:
                break
            self.rex = 0
        self.map = 0
        if byte == 0x0F:
            self.map, byte = 1, self.take(1)
            if byte in (0x38, 0x3A):
                self.map, byte = (2 if byte == 0x38 else 3), self.take(1)
        self.opcode = byte
        self.prefix = (2 if self.repeat == 0xF3 else 3) if self.repeat else int(operand16)
        if self.mode64:
            self.opsize = 2 if self.rex & 8 else int(not operand16)
            self.address_size = 4 if address else 8
        else:
            self.opsize = int(self.code32 ^ operand16)
            self.address_size = 4 if self.code32 ^ address else 2

    def _modrm(self) -> None:
        self.modrm = self.take(1)
        self.mod = self.modrm >> 6
        self.reg = self.modrm >> 3 & 7 | (self.rex & 4) << 1
        self.rm = self.modrm & 7 | (self.rex & 1) << 3
        if self.mod == 3:
            return
        base = self.modrm & 7
        if self.address_size == 2:
            if self.mod == 1:
                self.displacement = self.take(1, signed=True)
            elif self.mod == 2 or base == 6:
                self.displacement = self.take(2, signed=True)
            return
        if base == 4:
            self.sib = self.take(1)
            base = self.sib & 7
        if self.mod == 1:
            self.displacement = self.take(1, signed=True)
        elif self.mod == 2 or base == 5:
            self.displacement = self.take(4, signed=True)

    def _immediates(self, kind: int) -> None:
        size = 2 if self.opsize == 0 else 4
        match kind:
            case tables.IMM_S8 | tables.IMM_REL8:
                self.imm = self.take(1, signed=True)
            case tables.IMM_U16:
                self.imm = self.take(2)
            case tables.IMM_Z:
                self.imm = self.take(size, signed=True)
            case tables.IMM_V:
                self.imm = self.take(8 if self.opsize == 2 else size, signed=True)
            case tables.IMM_RELZ:
                self.imm = self.take(4 if self.mode64 else size, signed=True)
            case tables.IMM_ENTER:
                self.imm, self.imm2 = self.take(2), self.take(1)
            case tables.IMM_TWO8:
                self.imm, self.imm2 = self.take(1), self.take(1)
            case tables.IMM_FAR:
                self.imm, self.imm2 = self.take(size), self.take(2)
            case tables.IMM_MOFFS:
                self.displacement = self.take(self.address_size)

    # -------------------------------------------------------------- text
    def _mnemonic(self, insn: Insn) -> str:
        repeat, _, name = insn.name.rpartition(" ")
        if name in _BY_SIZE:
            name = _BY_SIZE[name][self.opsize]
        elif name in _STRINGS:
            wide = min(self.opsize, 1) if name in ("ins", "outs") else self.opsize
            if self.repeat == 0xF3:
                repeat = "repe" if name in _COMPARING else "rep"
            elif self.repeat == 0xF2:
                repeat = "repne"
            name += "wdq"[wide] if self.opcode & 1 else "b"
        elif name == "nop":
            name = self._hint()
        elif name == "jrcxz":
            name = _COUNTER[self.address_size]
        elif name == "ud":
            name = "ud1" if self.opcode == 0xB9 else "ud0"
        words = ["lock"] * self.lock + [repeat] * bool(repeat) + [name]
        return " ".join(words)

    def _hint(self) -> str:
        """The name of a no-operation whose encoding means more to other processors."""
        digit = self.modrm >> 3 & 7
        if self.map == 0:
            return "pause" if self.repeat == 0xF3 else "nop"
        if self.opcode == 0x1E and self.repeat == 0xF3 and self.modrm in (0xFA, 0xFB):
            return "endbr64" if self.modrm == 0xFA else "endbr32"
        if self.mod != 3 and self.opcode == 0x18 and digit < 4:
            return _PREFETCH[digit]
        if self.mod != 3 and self.opcode == 0x0D:
            return "prefetchw" if digit == 1 else "prefetch"
        return "nop"

    def _segment(self, insn: Insn, operands: list[str]) -> list[str]:
        """Add the segment register that an encoding of MOV, PUSH or POP implies."""
        if self.map == 0 and self.opcode in (0x8C, 0x8E):
            name = _SEGMENTS[insn.encoding.reg or 0]
            return [*operands, name] if self.opcode == 0x8C else [name, *operands]
        if insn.name in ("push", "pop") and not operands:
            return [_SEGMENTS[self.opcode >> 3 & 7]]
        return operands

    def _stack(self, insn: Insn) -> str:
        """Operands of x87 register forms, which the declarations leave to the encoding."""
        e = insn.encoding
        if insn.name == "fnstsw":
            return "ax"
        if insn.gate != "x87" or e.operands or e.rm is not None:
            return ""
        if self.opcode in (0xD8, 0xDA, 0xDB) or insn.name in ("fcomip", "fucomip"):
            return f"st(0), st({self.modrm & 7})"
        if self.opcode in (0xDC, 0xDE) and not insn.name.startswith("fcom"):
            return f"st({self.modrm & 7}), st(0)"
        return f"st({self.modrm & 7})"

    def _operand(self, operand: Operand, insn: Insn) -> str:
        kind, width = operand.spec.kind, operand.width
        if operand.memory:
            return self._memory(operand, insn)
        match kind:
            case "G":
                return self._register(self.reg, width)
            case "E" | "R":
                if insn.name == "nop" and self._hint().startswith("endbr"):
                    return ""
                return self._register(self.rm, width)
            case "Z":
                return self._register(self.opcode & 7 | (self.rex & 1) << 3, width)
            case "V":
                return f"xmm{self.reg}"
            case "W" | "U":
                return f"xmm{self.rm}"
            case "P":
                return f"mm{self.reg & 7}"
            case "Q" | "N":
                return f"mm{self.rm & 7}"
            case "C" | "D":
                return f"{kind.lower()}r{self.reg}"
            case "S":
                return _SEGMENTS[self.reg & 7] if self.reg & 7 < 6 else "?"
            case "J":
                return hex(self.target())
            case "A":
                return f"{self.imm2:#x}:{self.imm:#x}"
            case "I":
                return self._immediate(operand, insn)
            case "1" | "3":
                return kind
            case "rAX" | "AX" | "AL":
                return self._register(0, width)
            case "eAX":
                return self._register(0, min(width, 32))
            case "CL":
                return "cl"
            case "DX":
                return "dx"
        raise ValueError(f"{insn.name}: operand kind {kind} has no text")

    def target(self) -> int:
        """Where a relative jump leads."""
        next_address = self.address + self.position
        if self.mode64:
            return next_address + self.imm & (1 << 64) - 1
        return next_address + self.imm & (0xFFFF if self.opsize == 0 else 0xFFFFFFFF)

    def _immediate(self, operand: Operand, insn: Insn) -> str:
        specs = insn.encoding.operands
        if len([spec for spec in specs if spec.kind == "I"]) == 2 and operand.spec is specs[-1]:
            return number(self.imm2)
        width = operand.width
        if self.map == 0 and self.opcode in _EXTENDED:
            width = 16 << self.opsize
            if width == 64 and self.imm < 0:
                return number(self.imm)
        return number(self.imm & (1 << width) - 1)

    def _register(self, index: int, width: int) -> str:
        if width == 8:
            if index >= 8:
                return f"r{index}b"
            return _HIGH[index - 4] if index >= 4 and not self.rex else _LOW[index]
        if index >= 8:
            return f"r{index}" + {16: "w", 32: "d", 64: ""}[width]
        return {16: "", 32: "e", 64: "r"}[width] + _WORDS[index]

    def _memory(self, operand: Operand, insn: Insn) -> str:
        segment = f"{_SEGMENTS[self.segment]}:" if self.segment >= 0 else ""
        size = _SIZES.get(operand.width, "")
        size = f"{size} ptr " if size and insn.name != "lea" else ""
        return f"{size}{segment}[{self._address(operand)}]"

    def _address(self, operand: Operand) -> str:
        if operand.spec.kind == "O":
            return hex(self.displacement)
        parts: list[str] = []
        base = self.modrm & 7
        if self.address_size == 2:
            if not (self.mod == 0 and base == 6):
                parts.append(_ADDRESS16[base])
        elif self.sib >= 0:
            width = 8 * self.address_size
            if not (self.sib & 7 == 5 and self.mod == 0):
                parts.append(self._register(self.sib & 7 | (self.rex & 1) << 3, width))
            index = self.sib >> 3 & 7 | (self.rex & 2) << 2
            if index != 4:
                scale = 1 << (self.sib >> 6)
                parts.append(self._register(index, width) + (f"*{scale}" if scale > 1 else ""))
        elif base == 5 and self.mod == 0:
            if self.mode64:
                parts.append("rip" if self.address_size == 8 else "eip")
        else:
            parts.append(self._register(self.rm, 8 * self.address_size))
        if not parts:
            return hex(self.displacement & (1 << 8 * self.address_size) - 1)
        text = " + ".join(parts)
        if self.displacement:
            text += f" {'-' if self.displacement < 0 else '+'} {number(abs(self.displacement))}"
        return text


def decode(code: bytes, address: int, flags: int = FLAG_CODE64) -> Line | None:
    """The first instruction of `code`; None if the bytes end inside it.

    address: of the first byte, as RIP has it. flags: block flags (FLAG_CODE64, FLAG_CODE32; neither: 16-bit code).
    """
    try:
        return _Decoder(code, address, flags).line()
    except _Truncated:
        if len(code) >= MAX_LENGTH:
            # More than 15 bytes: #GP.
            return Line(address, code[:MAX_LENGTH], "(bad)", "", None)
        return None


def disassemble(code: bytes, address: int, flags: int = FLAG_CODE64) -> Iterator[Line]:
    """All instructions of `code`; what is left of a cut-off one comes as `(cut)`."""
    offset = 0
    while offset < len(code):
        line = decode(code[offset : offset + MAX_LENGTH], address + offset, flags)
        if line is None:
            yield Line(address + offset, code[offset:], "(cut)", "", None)
            return
        yield line
        offset += line.size
