"""A small x86-64 assembler for generated cases: from an opcode template and chosen operands to bytes.

Template tokens are those of the SDM, volume 2, section 3.1.1: hex bytes, /r, /0 to /7, +r, ib, iw, id, iz, iv.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from tests.oracle.state import MASK64


@dataclass(frozen=True, slots=True)
class Memory:
    """A memory operand. base 16 is RIP; None is absent. disp_size 0, 1 or 4."""

    base: int | None = None
    index: int | None = None
    scale: int = 1
    disp: int = 0
    disp_size: int = 4


RIP_BASE = 16


@dataclass(slots=True)
class Template:
    """An opcode split into what the encoder needs."""

    mandatory: int | None = None
    opcode: bytes = b""
    digit: int | None = None
    has_modrm: bool = False
    plus_register: bool = False
    immediates: tuple[str, ...] = ()
    rex_w: bool = False
    operand_16: bool = False
    suffix: bytes = field(default=b"")


def parse(text: str) -> Template:
    """`66 0F 3A 0F /r ib` and the like. A leading 66, F2 or F3 is a mandatory prefix; W sets REX.W; O16
    an operand-size prefix that is not part of the opcode."""
    template = Template()
    opcode = bytearray()
    immediates = []
    for token in text.split():
        if token == "/r":
            template.has_modrm = True
        elif token.startswith("/"):
            template.has_modrm, template.digit = True, int(token[1])
        elif token == "+r":
            template.plus_register = True
        elif token == "W":
            template.rex_w = True
        elif token == "O16":
            template.operand_16 = True
        elif token in ("ib", "iw", "id", "iz", "iv", "iq"):
            immediates.append(token)
        elif token in ("66", "F2", "F3") and not opcode and template.mandatory is None:
            template.mandatory = int(token, 16)
        else:
            opcode.append(int(token, 16))
    template.opcode, template.immediates = bytes(opcode), tuple(immediates)
    return template


def immediate_size(kind: str, operand_size: int) -> int:
    """Bytes of an immediate of this kind under this operand size (bytes)."""
    if kind == "iz":
        return min(operand_size, 4)
    if kind == "iv":
        return operand_size
    return {"ib": 1, "iw": 2, "id": 4, "iq": 8}[kind]


class CannotEncode(ValueError):
    """The operands do not fit together (a high byte register with REX)."""


def encode(
    template: Template,
    *,
    operand_size: int = 4,
    reg: int = 0,
    rm: int | Memory = 0,
    immediates: tuple[int, ...] = (),
    prefixes: bytes = b"",
    rex: str = "auto",
    rip: int = 0,
) -> bytes:
    """The bytes. rex: auto, force (an empty REX if need be) or forbid. rip: address of the first byte; for a
    RIP-relative operand Memory.disp holds the target address."""
    bits = 8 if (template.rex_w or operand_size == 8) else 0
    modrm = b""
    if template.has_modrm:
        field_value = template.digit if template.digit is not None else reg
        if field_value >= 8:
            bits |= 4
        modrm, rm_bits = _modrm(field_value & 7, rm)
        bits |= rm_bits
    elif template.plus_register and reg >= 8:
        bits |= 1
    if rex == "forbid" and bits:
        raise CannotEncode("operands need REX")
    head = bytearray()
    if (operand_size == 2 or template.operand_16) and template.mandatory != 0x66:
        head.append(0x66)
    head += prefixes
    if template.mandatory is not None:
        head.append(template.mandatory)
    if bits or rex == "force":
        head.append(0x40 | bits)
    opcode = bytearray(template.opcode)
    if template.plus_register:
        opcode[-1] += reg & 7
    tail = bytearray()
    for kind, value in zip(template.immediates, immediates, strict=True):
        size = immediate_size(kind, operand_size)
        tail += (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")
    if isinstance(rm, Memory) and rm.base == RIP_BASE and template.has_modrm:
        end = rip + len(head) + len(opcode) + len(modrm) + len(tail)
        modrm = modrm[:-4] + struct.pack("<I", (rm.disp - end) & 0xFFFF_FFFF)
    return bytes(head) + bytes(opcode) + modrm + bytes(tail)


_SCALE_BITS = {1: 0, 2: 1, 4: 2, 8: 3}


def _modrm(reg: int, rm: int | Memory) -> tuple[bytes, int]:
    """ModRM, SIB and displacement, with the REX.X and REX.B bits they need."""
    if isinstance(rm, int):
        return bytes((0xC0 | reg << 3 | rm & 7,)), 1 if rm >= 8 else 0
    if rm.base == RIP_BASE:
        return bytes((reg << 3 | 5, 0, 0, 0, 0)), 0
    rex = 0
    disp = (rm.disp & MASK64) & 0xFFFF_FFFF
    if rm.base is None:  # [disp32] or [index*scale+disp32]: SIB with base 101 and mod 00
        index = 4 if rm.index is None else rm.index
        rex |= 2 if index >= 8 else 0
        sib = _SCALE_BITS[rm.scale] << 6 | (index & 7) << 3 | 5
        return bytes((reg << 3 | 4, sib)) + struct.pack("<I", disp), rex
    size = rm.disp_size
    if size == 0 and rm.base & 7 == 5:
        size = 1  # mod 00 with base rbp or r13 means something else
    mod = {0: 0, 1: 0x40, 4: 0x80}[size]
    rex |= 1 if rm.base >= 8 else 0
    tail = b"" if size == 0 else bytes((disp & 0xFF,)) if size == 1 else struct.pack("<I", disp)
    if rm.index is None and rm.base & 7 != 4:
        return bytes((mod | reg << 3 | rm.base & 7,)) + tail, rex
    index = 4 if rm.index is None else rm.index
    rex |= 2 if index >= 8 else 0
    sib = _SCALE_BITS[rm.scale] << 6 | (index & 7) << 3 | rm.base & 7
    return bytes((mod | reg << 3 | 4, sib)) + tail, rex
