"""Uops as text: for traces, golden tests and people.

    t0 = add64 rax, rbx            st64 [rsp - 0x8], t0            br_eq32 cc_dst, cc_src -> 0, 1
    t0 = div64(rcx, rax, 0)        x16 = ldx [rdi + 0x10]          cc_op = SUB64

The form is stable: registers by the names of `engine.env`, xmm scratch registers as x16 to x19, immediates
in hexadecimal from 10 on, addresses in brackets, exits of the block behind `->`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from manor.engine.env import CC_OP, VREG_NAMES, XMM_SCRATCH, ZERO
from manor.engine.isa.x86.flags import CC_KINDS
from manor.engine.isa.x86.helper_catalog import HELPERS
from manor.engine.uop.ops import SIDE_EXIT, Kind, Op
from manor.engine.uop.table import OPS

LAYOUT: Final = struct.Struct("<HHBBBBqQ")
"""struct Uop of uop.pxd: op, x, d, a, b, insn, imm, pc."""


@dataclass(frozen=True, slots=True)
class Uop:
    """One uop of a block; fields as in uop.pxd."""

    op: int
    x: int = 0
    d: int = 0
    a: int = 0
    b: int = 0
    insn: int = 0
    imm: int = 0
    pc: int = 0

    def pack(self) -> bytes:
        return LAYOUT.pack(self.op, self.x, self.d, self.a, self.b, self.insn, self.imm, self.pc)


def unpack(data: bytes) -> Iterator[Uop]:
    """The uops in a block's bytes. Raises ValueError if they are cut off."""
    if len(data) % LAYOUT.size:
        raise ValueError(f"{len(data)} bytes are no whole number of uops of {LAYOUT.size}")
    for fields in LAYOUT.iter_unpack(data):
        yield Uop(*fields)


def show(uop: Uop, exits: tuple[int, ...] | None = None) -> str:
    """One uop. exits: where the block's exits lead, if they are to be shown as addresses."""
    if uop.op >= len(OPS):
        return f"uop_{uop.op}"
    op = OPS[uop.op]
    d, a, b = (_operand(kind, number) for kind, number in ((op.d, uop.d), (op.a, uop.a), (op.b, uop.b)))
    match op.kind:
        case Kind.MOVE:
            return f"{d} = {a}"
        case Kind.MOVE_IMM:
            return f"{d} = {_cc(uop.imm) if uop.d == CC_OP else number(uop.imm)}"
        case Kind.UNARY:
            return f"{d} = {op.name} {a}"
        case Kind.BINARY | Kind.UPDATE:
            return f"{d} = {op.name} {a}, {b}"
        case Kind.BINARY_IMM:
            return f"{d} = {op.name} {a}, {number(uop.imm)}"
        case Kind.LOAD | Kind.VECTOR_LOAD:
            return f"{d} = {op.name} {_address(uop)}"
        case Kind.STORE | Kind.VECTOR_STORE:
            return f"{op.name} {_address(uop)}, {b}"
        case Kind.RMW | Kind.CMPXCHG:
            return f"{d} = {op.name} [{a}], {b}" + (f", {d}" if op.kind is Kind.CMPXCHG else "")
        case Kind.HELPER:
            name = HELPERS[uop.x].name if uop.x < len(HELPERS) else f"helper_{uop.x}"
            return f"{d} = {name}({a}, {b}, {number(uop.imm)})"
        case Kind.VECTOR:
            return _vector(op, uop, d, a, b)
        case Kind.JUMP:
            return f"{op.name} -> {_exit(uop.x, exits)}"
        case Kind.BRANCH:
            return f"{op.name} {a}, {b} -> {_branch_exits(uop, exits)}"
        case Kind.BRANCH_IMM:
            return f"{op.name} {a}, {number(uop.imm)} -> {_branch_exits(uop, exits)}"
        case Kind.JUMP_INDIRECT:
            return f"{op.name} -> {a}"
        case Kind.NOP | Kind.EXIT:
            return op.name
    raise ValueError(f"uop {op.name} is of the unknown kind {op.kind}")


def _vector(op: Op, uop: Uop, d: str, a: str, b: str) -> str:
    operands = [text for kind, text in ((op.a, a), (op.b, b)) if kind]
    if getattr(op, "uses_imm", False):
        operands.append(number(uop.imm))
    return f"{d} = {op.name} {', '.join(operands)}" if op.d else f"{op.name} {', '.join(operands)}"


def _operand(kind: str, index: int) -> str:
    if kind == "r":
        return VREG_NAMES.get(index, f"v{index}")
    if kind == "x":
        return f"xmm{index}" if index < XMM_SCRATCH else f"x{index}"
    return ""


def _address(uop: Uop) -> str:
    if uop.a == ZERO:
        return f"[{number(uop.imm)}]"
    base = VREG_NAMES.get(uop.a, f"v{uop.a}")
    if not uop.imm:
        return f"[{base}]"
    return f"[{base} {'-' if uop.imm < 0 else '+'} {number(abs(uop.imm))}]"


def _branch_exits(uop: Uop, exits: tuple[int, ...] | None) -> str:
    """Where a branch leads if its condition holds, and if not; a side exit only names the first."""
    taken = _exit(uop.x, exits)
    return taken if uop.d == SIDE_EXIT else f"{taken}, {_exit(uop.x + 1, exits)}"


def _exit(index: int, exits: tuple[int, ...] | None) -> str:
    return str(index) if exits is None else hex(exits[index])


def _cc(value: int) -> str:
    """A known CC_OP: the kind of the operation and its width."""
    kind = value >> 2
    if not 0 <= kind < len(CC_KINDS):
        return number(value)
    return CC_KINDS[kind] if kind == 0 else f"{CC_KINDS[kind]}{8 << (value & 3)}"


def number(value: int) -> str:
    """An integer: decimal below ten, else hexadecimal."""
    return str(value) if -10 < value < 10 else hex(value)
