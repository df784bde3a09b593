"""The table of integer and control uops: one description of each.

Everything else is derived from it: the interpreter's cases, the stencils, the register
allocator's operand classes, the text form and the tests. Operands d, a and b are virtual
registers (`engine.env`), `imm` is a 64-bit immediate.

Naming: a number is the width in bits that the operation works at. 32-bit operations ignore
the upper halves of their inputs and clear that of their result, as x86 does; so the narrower
x86 widths are computed at 32 bits and inserted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from manor.engine.uop.context import Context

Body = Callable[..., Any]


class Kind(Enum):
    """How a uop is executed; decides operands, faults and block flow."""

    UNARY = "d = f(a)"
    BINARY = "d = f(a, b)"
    BINARY_IMM = "d = f(a, imm)"
    UPDATE = "d = f(d, a, b)"
    MOVE = "d = a"
    MOVE_IMM = "d = imm"
    LOAD = "d = memory[a + imm]"
    STORE = "memory[a + imm] = b"
    RMW = "d = memory[a]; memory[a] = f(d, b), atomically"
    CMPXCHG = "old = memory[a]; if old == d then memory[a] = b; d = old, atomically"
    HELPER = "d = helper[x](env, a, b, imm)"
    VECTOR = "env.xmm[d] = f(env.xmm[a], env.xmm[b], imm); see vector_ops"
    VECTOR_LOAD = "env.xmm[d] = memory[a + imm], 16 bytes"
    VECTOR_STORE = "memory[a + imm] = env.xmm[b], 16 bytes"
    JUMP = "terminal: continue at exit x"
    BRANCH = "terminal: exit x if f(a, b) else exit x + 1; inside a block (d is SIDE_EXIT): exit x if f(a, b)"
    BRANCH_IMM = "the same of f(a, imm)"
    JUMP_INDIRECT = "terminal: rip = a; if that is not canonical, #GP(0) with imm taken back from RSP"
    EXIT = "terminal: continue at env.rip through the dispatcher"
    NOP = "nothing"


TERMINALS: Final = frozenset({Kind.JUMP, Kind.BRANCH, Kind.BRANCH_IMM, Kind.JUMP_INDIRECT, Kind.EXIT})
BRANCHES: Final = frozenset({Kind.BRANCH, Kind.BRANCH_IMM})
"""Terminals, or inside a block side exits: then `d` is SIDE_EXIT."""
SIDE_EXIT: Final = 1


@dataclass(frozen=True, slots=True)
class Op:
    """One uop kind. `body` gives the meaning over a Context; bits is the memory access width.

    d, a, b: operand classes: "r" virtual register, "x" xmm register, "" unused.
    """

    name: str
    kind: Kind
    body: Body | None = None
    bits: int = 64
    signed_to: int = 0
    d: str = ""
    a: str = ""
    b: str = ""


_OPS: list[Op] = []


def _declare(op: Op) -> None:
    if any(other.name == op.name for other in _OPS):
        raise ValueError(f"uop {op.name} is declared twice")
    _OPS.append(op)


def _unary(name: str, body: Body) -> None:
    _declare(Op(name, Kind.UNARY, body, d="r", a="r"))


def _binary(name: str, body: Body) -> None:
    """Declare `name` (register b) and `name` + "i" (immediate)."""
    _declare(Op(name, Kind.BINARY, body, d="r", a="r", b="r"))
    _declare(Op(name + "i", Kind.BINARY_IMM, body, d="r", a="r"))


def _at(bits: int, name: str) -> Body:
    """Body that applies a two-operand Context operation at `bits` and zero-extends."""

    def body(c: Context[Any], a: Any, b: Any) -> Any:
        operation = getattr(c, name)
        if bits == 64:
            return operation(a, b)
        return c.zext(operation(c.trunc(a, bits), c.trunc(b, bits)), 64)

    return body


def _shift(bits: int, name: str) -> Body:
    """Shift at `bits`; the amount is taken modulo 64 for 64 bits, else modulo 32 (x86 masks so)."""

    def body(c: Context[Any], a: Any, b: Any) -> Any:
        operation = getattr(c, name)
        amount = c.and_(b, c.const(64, 63 if bits == 64 else 31))
        if bits == 64:
            return operation(a, amount)
        return c.zext(operation(c.trunc(a, bits), c.trunc(amount, bits)), 64)

    return body


def _extend(method: str, bits: int, to: int = 64) -> Body:
    def body(c: Context[Any], a: Any) -> Any:
        value = getattr(c, method)(c.trunc(a, bits), to)
        return value if to == 64 else c.zext(value, 64)

    return body


def _insert(bits: int, lsb: int) -> Body:
    mask = ((1 << bits) - 1) << lsb

    def body(c: Context[Any], a: Any, b: Any) -> Any:
        field = c.zext(c.trunc(b, bits), 64)
        if lsb:
            field = c.shl(field, c.const(64, lsb))
        return c.or_(c.and_(a, c.const(64, ~mask & (1 << 64) - 1)), field)

    return body


def _scaled_add(shift: int) -> Body:
    def body(c: Context[Any], a: Any, b: Any) -> Any:
        return c.add(a, c.shl(b, c.const(64, shift)))

    return body


def _compare(relation: str, bits: int) -> Body:
    def condition(c: Context[Any], a: Any, b: Any) -> Any:
        if bits < 64:
            a, b = c.trunc(a, bits), c.trunc(b, bits)
        return c.icmp(relation, a, b)

    return condition


def _set(relation: str, bits: int) -> Body:
    condition = _compare(relation, bits)

    def body(c: Context[Any], a: Any, b: Any) -> Any:
        return c.zext(condition(c, a, b), 64)

    return body


def _count(method: str, bits: int) -> Body:
    def body(c: Context[Any], a: Any) -> Any:
        value = c.trunc(a, bits) if bits < 64 else a
        result = getattr(c, method)(value)
        return c.zext(result, 64) if bits < 64 else result

    return body


RELATIONS: Final = ("eq", "ne", "ult", "ule", "ugt", "uge", "slt", "sle", "sgt", "sge")
WIDTHS: Final = (8, 16, 32, 64)

_declare(Op("nop", Kind.NOP))
_declare(Op("mov", Kind.MOVE, d="r", a="r"))
_declare(Op("movi", Kind.MOVE_IMM, d="r"))

for _bits in (32, 64):
    for _name, _method in (
        ("add", "add"), ("sub", "sub"), ("and", "and_"), ("or", "or_"), ("xor", "xor"), ("mul", "mul"),
    ):  # fmt: skip
        _binary(f"{_name}{_bits}", _at(_bits, _method))
    for _name, _method in (("shl", "shl"), ("shr", "lshr"), ("sar", "ashr")):
        _binary(f"{_name}{_bits}", _shift(_bits, _method))
for _bits in WIDTHS:
    _binary(f"rol{_bits}", _at(_bits, "rotl"))
    _binary(f"ror{_bits}", _at(_bits, "rotr"))
_binary("mulhu64", lambda c, a, b: c.mulhi_u(a, b))
_binary("mulhs64", lambda c, a, b: c.mulhi_s(a, b))
_binary("insert8", _insert(8, 0))
_binary("insert8h", _insert(8, 8))
_binary("insert16", _insert(16, 0))
for _shift_amount in (1, 2, 3):
    _binary(f"addsl{_shift_amount}", _scaled_add(_shift_amount))

for _bits in (8, 16, 32):
    _unary(f"zext{_bits}", _extend("zext", _bits))
    _unary(f"sext{_bits}", _extend("sext", _bits))
_unary("sext8to32", _extend("sext", 8, 32))
_unary("sext16to32", _extend("sext", 16, 32))
_unary("extract8h", lambda c, a: c.and_(c.lshr(a, c.const(64, 8)), c.const(64, 0xFF)))
_unary("not32", lambda c, a: c.zext(c.xor(c.trunc(a, 32), c.const(32, 0xFFFFFFFF)), 64))
_unary("not64", lambda c, a: c.xor(a, c.const(64, (1 << 64) - 1)))
_unary("neg32", lambda c, a: c.zext(c.sub(c.const(32, 0), c.trunc(a, 32)), 64))
_unary("neg64", lambda c, a: c.sub(c.const(64, 0), a))
_unary("bswap32", lambda c, a: c.zext(c.bswap(c.trunc(a, 32)), 64))
_unary("bswap64", lambda c, a: c.bswap(a))
for _bits in (16, 32, 64):
    _unary(f"ctpop{_bits}", _count("ctpop", _bits))
    _unary(f"cttz{_bits}", _count("cttz", _bits))
    _unary(f"ctlz{_bits}", _count("ctlz", _bits))
_unary("parity8", lambda c, a: c.zext(c.icmp("eq", c.and_(c.ctpop(c.and_(a, c.const(64, 0xFF))),
                                                         c.const(64, 1)), c.const(64, 0)), 64))  # fmt: skip

for _relation in RELATIONS:
    for _bits in WIDTHS:
        _binary(f"set_{_relation}{_bits}_", _set(_relation, _bits))
        _declare(Op(f"br_{_relation}{_bits}", Kind.BRANCH, _compare(_relation, _bits), a="r", b="r"))
        _declare(Op(f"br_{_relation}{_bits}i", Kind.BRANCH_IMM, _compare(_relation, _bits), a="r"))
_declare(
    Op("selnz", Kind.UPDATE, lambda c, d, a, b: c.select(c.icmp("ne", b, c.const(64, 0)), a, d), d="r", a="r", b="r")
)

for _bits in WIDTHS:
    _declare(Op(f"ld{_bits}", Kind.LOAD, bits=_bits, d="r", a="r"))
    _declare(Op(f"st{_bits}", Kind.STORE, bits=_bits, a="r", b="r"))
for _bits, _to in ((8, 32), (16, 32), (8, 64), (16, 64), (32, 64)):
    _declare(Op(f"ld{_bits}s{_to}", Kind.LOAD, bits=_bits, signed_to=_to, d="r", a="r"))
for _bits in WIDTHS:
    for _name, _method in (("add", "add"), ("and", "and_"), ("or", "or_"), ("xor", "xor")):
        _declare(Op(f"rmw_{_name}{_bits}", Kind.RMW, _at(64, _method), bits=_bits, d="r", a="r", b="r"))
    _declare(Op(f"rmw_xchg{_bits}", Kind.RMW, lambda c, a, b: b, bits=_bits, d="r", a="r", b="r"))
    _declare(Op(f"cmpxchg{_bits}", Kind.CMPXCHG, bits=_bits, d="r", a="r", b="r"))

_declare(Op("ldx", Kind.VECTOR_LOAD, bits=128, d="x", a="r"))
_declare(Op("stx", Kind.VECTOR_STORE, bits=128, a="r", b="x"))
_declare(Op("helper", Kind.HELPER, d="r", a="r", b="r"))

_declare(Op("jump", Kind.JUMP))
_declare(Op("jump_indirect", Kind.JUMP_INDIRECT, a="r"))
_declare(Op("exit", Kind.EXIT))

INTEGER_OPS: Final[tuple[Op, ...]] = tuple(_OPS)
