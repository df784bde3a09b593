"""How an x86 instruction is declared: encoding, operands, and one body that gives its meaning.

    @insn("01 Ev,Gv", "03 Gv,Ev")
    def add(c, dst, src): ...

The encoding is opcode bytes in hex, optionally after a mandatory prefix (66, F2, F3 or NP = none
of them), then `/0`-`/7` when ModRM.reg extends the opcode, `rm=N` when ModRM.rm does too, `+r`
when the low three opcode bits name a register; then the operands in the notation of the SDM,
volume 2, appendix A.2:

    E  ModRM.rm, register or memory      G  ModRM.reg          Z  register in the opcode
    M  memory only                       R  ModRM.rm, register only
    I  immediate                         J  relative target    O  absolute memory offset
    A  far pointer                       S  segment register   C, D  control, debug register
    V  ModRM.reg, xmm     W  xmm or memory     U  ModRM.rm, xmm only
    P  ModRM.reg, mmx     Q  mmx or memory     N  ModRM.rm, mmx only
    AL CL AX DX eAX rAX 1 3   fixed

    b 8   w 16   d 32   q 64   v operand size   z 16/32   y 32/64   x 128 bits
    s: no size (LGDT and the like)

Bodies run while the engine is built, once for each variant (mode, operand size, register or
memory, LOCK), over a `Builder`; what they emit becomes a template that the translator copies.
So an `if` on an operand's form or on `c.width` costs nothing at run time.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

Body = Callable[..., None]

OPERAND: Final = re.compile(r"^([EGZMRIJOASCDVWUPQN])([bwdqvzyxs])$")
FIXED: Final = {"AL": 8, "CL": 8, "AX": 16, "DX": 16, "eAX": 0, "rAX": 0, "1": 0, "3": 0}
MODRM_KINDS: Final = frozenset("EGMRSCDVWUPQN")
RM_KINDS: Final = frozenset("EWQ")
"""Operand kinds with a register and a memory form."""


@dataclass(frozen=True, slots=True)
class OperandSpec:
    """One operand as declared: kind letter (or fixed name) and size letter."""

    kind: str
    size: str


@dataclass(frozen=True, slots=True)
class Encoding:
    """One parsed encoding string."""

    text: str
    prefix: str | None
    map: int
    opcode: int
    reg: int | None
    rm: int | None
    plus_r: bool
    operands: tuple[OperandSpec, ...]

    @property
    def has_modrm(self) -> bool:
        return self.reg is not None or any(o.kind in MODRM_KINDS for o in self.operands)


@dataclass(frozen=True, slots=True)
class Insn:
    """One declared instruction form.

    mode: "any", "64" or "legacy" (not 64-bit). default64: the operand size is 64 bits in 64-bit
    mode without REX.W. lock: the LOCK prefix is allowed with a memory destination.
    undefined: flags the manual leaves undefined, for the tests.
    ends: the instruction ends its block. gate: condition checked before the body:
    "x87", "mmx" or "sse" (device-not-available rules), "" for none.
    """

    name: str
    encoding: Encoding
    body: Body
    mode: str = "any"
    default64: bool = False
    lock: bool = False
    undefined: tuple[str, ...] = ()
    gate: str = ""
    sized: bool = False
    extra: dict[str, Any] = field(default_factory=dict)


INSNS: Final[list[Insn]] = []
"""Filled by the modules that `isa.x86.catalog` names."""


def parse_encoding(text: str) -> Encoding:
    """Parse an encoding string; ValueError names what is wrong."""
    words = text.split()
    prefix: str | None = None
    if words[0] in ("66", "F2", "F3", "NP") and len(words) > 1 and re.fullmatch(r"[0-9A-F]{2}(\+r)?", words[1]):
        prefix = words.pop(0)
    opcode_bytes: list[int] = []
    plus_r = False
    while words and re.fullmatch(r"[0-9A-F]{2}(\+r)?", words[0]):
        word = words.pop(0)
        plus_r = word.endswith("+r")
        opcode_bytes.append(int(word[:2], 16))
    map_number = 0
    if opcode_bytes[:2] == [0x0F, 0x38]:
        map_number, opcode_bytes = 2, opcode_bytes[2:]
    elif opcode_bytes[:2] == [0x0F, 0x3A]:
        map_number, opcode_bytes = 3, opcode_bytes[2:]
    elif opcode_bytes[:1] == [0x0F] and len(opcode_bytes) > 1:
        map_number, opcode_bytes = 1, opcode_bytes[1:]
    if len(opcode_bytes) != 1:
        raise ValueError(f"{text}: expected one opcode byte after the map, got {opcode_bytes}")
    reg = rm = None
    operands: tuple[OperandSpec, ...] = ()
    for word in words:
        if re.fullmatch(r"/[0-7]", word):
            reg = int(word[1])
        elif word.startswith("rm="):
            rm = int(word[3:])
        elif word == "/r":
            pass
        else:
            operands = tuple(_operand(part, text) for part in word.split(","))
    return Encoding(text, prefix, map_number, opcode_bytes[0], reg, rm, plus_r, operands)


def _operand(part: str, text: str) -> OperandSpec:
    if part in FIXED:
        return OperandSpec(part, "")
    match = OPERAND.match(part)
    if match is None:
        raise ValueError(f"{text}: unknown operand {part}")
    return OperandSpec(match[1], match[2])


def declare(name: str, encoding: str, body: Body, **attributes: Any) -> None:
    """Add one instruction form to the catalog."""
    INSNS.append(Insn(name, parse_encoding(encoding), body, **attributes))


def insn(*encodings: str, name: str = "", **attributes: Any) -> Callable[[Body], Body]:
    """Declare the decorated body for each encoding; the instruction's name is the function's."""

    def decorate(body: Body) -> Body:
        for encoding in encodings:
            declare(name or body.__name__.rstrip("_"), encoding, body, **attributes)
        return body

    return decorate
