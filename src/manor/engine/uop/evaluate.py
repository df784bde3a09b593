"""The slow definition of a uop: its body evaluated over plain integers. Used as an oracle by tests."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from manor.engine.uop.ops import Kind, Op


class Word(NamedTuple):
    """An unsigned value of a known width in bits."""

    bits: int
    value: int

    @property
    def signed(self) -> int:
        return self.value - (1 << self.bits) if self.value >> (self.bits - 1) else self.value


def word(bits: int, value: int) -> Word:
    """`value` wrapped to `bits`."""
    return Word(bits, value & (1 << bits) - 1)


_UNSIGNED: Final = {
    "ult": lambda a, b: a < b,
    "ule": lambda a, b: a <= b,
    "ugt": lambda a, b: a > b,
    "uge": lambda a, b: a >= b,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
}
_SIGNED: Final = {
    "slt": lambda a, b: a < b,
    "sle": lambda a, b: a <= b,
    "sgt": lambda a, b: a > b,
    "sge": lambda a, b: a >= b,
}


def _same(a: Word, b: Word) -> int:
    if a.bits != b.bits:
        raise ValueError(f"operands of {a.bits} and {b.bits} bits")
    return a.bits


def _amount(a: Word, b: Word) -> int:
    if b.value >= _same(a, b):
        raise ValueError(f"shift of {a.bits} bits by {b.value}")
    return b.value


class PythonContext:
    """`uop.context.Context` over `Word`."""

    def const(self, bits: int, value: int) -> Word:
        return word(bits, value)

    def trunc(self, value: Word, bits: int) -> Word:
        return word(bits, value.value)

    def zext(self, value: Word, bits: int) -> Word:
        return Word(bits, value.value)

    def sext(self, value: Word, bits: int) -> Word:
        return word(bits, value.signed)

    def add(self, a: Word, b: Word) -> Word:
        return word(_same(a, b), a.value + b.value)

    def sub(self, a: Word, b: Word) -> Word:
        return word(_same(a, b), a.value - b.value)

    def mul(self, a: Word, b: Word) -> Word:
        return word(_same(a, b), a.value * b.value)

    def and_(self, a: Word, b: Word) -> Word:
        return word(_same(a, b), a.value & b.value)

    def or_(self, a: Word, b: Word) -> Word:
        return word(_same(a, b), a.value | b.value)

    def xor(self, a: Word, b: Word) -> Word:
        return word(_same(a, b), a.value ^ b.value)

    def shl(self, a: Word, b: Word) -> Word:
        return word(a.bits, a.value << _amount(a, b))

    def lshr(self, a: Word, b: Word) -> Word:
        return word(a.bits, a.value >> _amount(a, b))

    def ashr(self, a: Word, b: Word) -> Word:
        return word(a.bits, a.signed >> _amount(a, b))

    def rotl(self, a: Word, b: Word) -> Word:
        amount = b.value % _same(a, b)
        return word(a.bits, a.value << amount | a.value >> (a.bits - amount))

    def rotr(self, a: Word, b: Word) -> Word:
        return self.rotl(a, word(a.bits, -b.value % a.bits))

    def mulhi_u(self, a: Word, b: Word) -> Word:
        return word(_same(a, b), a.value * b.value >> a.bits)

    def mulhi_s(self, a: Word, b: Word) -> Word:
        return word(_same(a, b), a.signed * b.signed >> a.bits)

    def bswap(self, a: Word) -> Word:
        size = a.bits // 8
        return Word(a.bits, int.from_bytes(a.value.to_bytes(size, "little"), "big"))

    def ctpop(self, a: Word) -> Word:
        return Word(a.bits, a.value.bit_count())

    def cttz(self, a: Word) -> Word:
        return Word(a.bits, (a.value & -a.value).bit_length() - 1 if a.value else a.bits)

    def ctlz(self, a: Word) -> Word:
        return Word(a.bits, a.bits - a.value.bit_length())

    def icmp(self, relation: str, a: Word, b: Word) -> Word:
        _same(a, b)
        if relation in _SIGNED:
            return Word(1, int(_SIGNED[relation](a.signed, b.signed)))
        return Word(1, int(_UNSIGNED[relation](a.value, b.value)))

    def select(self, condition: Word, a: Word, b: Word) -> Word:
        _same(a, b)
        return a if condition.value else b


CONTEXT: Final = PythonContext()


def evaluate(op: Op, d: int = 0, a: int = 0, b: int = 0, imm: int = 0) -> int:
    """Result of an integer op that touches no memory; 1 or 0 (exit 0 taken) for a branch.

    d, a, b are the operands' 64-bit values, imm the immediate.
    """
    c: Any = CONTEXT
    if op.kind is Kind.MOVE:
        return a
    if op.kind is Kind.MOVE_IMM:
        return imm & (1 << 64) - 1
    if op.body is None:
        raise ValueError(f"uop {op.name} has no body")
    x, y, z, i = word(64, a), word(64, b), word(64, d), word(64, imm)
    arguments: dict[Kind, tuple[Word, ...]] = {
        Kind.UNARY: (x,),
        Kind.BINARY: (x, y),
        Kind.BINARY_IMM: (x, i),
        Kind.UPDATE: (z, x, y),
        Kind.BRANCH: (x, y),
        Kind.BRANCH_IMM: (x, i),
        Kind.RMW: (z, y),
    }
    result: Word = op.body(c, *arguments[op.kind])
    return result.value
