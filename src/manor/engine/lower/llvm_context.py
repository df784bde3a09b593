"""The vocabulary of uop bodies over LLVM IR (llvmlite; imported only while the engine is built)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from llvmlite import ir

I1, I8, I16, I32, I64, I128 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64, 128))
PTR: Final = ir.PointerType()
_RELATIONS: Final = {
    "eq": "==", "ne": "!=",
    "ult": "<", "ule": "<=", "ugt": ">", "uge": ">=",
    "slt": "<", "sle": "<=", "sgt": ">", "sge": ">=",
}  # fmt: skip

Value = Any
"""An ir.Value, or an `Immediate` that is not yet narrowed."""


@dataclass(slots=True)
class Immediate:
    """The immediate operand of a stencil: a hole. Truncating it asks for a narrower hole.

    LLVM folds a hole into an instruction only if it knows that it fits, hence one symbol a width.
    """

    at: Callable[[int], ir.Value]
    cache: dict[int, ir.Value] = field(default_factory=dict)

    def value(self, bits: int) -> ir.Value:
        if bits not in self.cache:
            self.cache[bits] = self.at(bits)
        return self.cache[bits]


class LlvmContext:
    """`uop.context.Context` over an IRBuilder."""

    def __init__(self, builder: ir.IRBuilder) -> None:
        self.builder = builder

    def _v(self, value: Value) -> ir.Value:
        return value.value(64) if isinstance(value, Immediate) else value

    def const(self, bits: int, value: int) -> Value:
        return ir.Constant(ir.IntType(bits), value & (1 << bits) - 1)

    def trunc(self, value: Value, bits: int) -> Value:
        if isinstance(value, Immediate):
            return value.value(bits)
        if isinstance(value, ir.Constant):
            return self.const(bits, value.constant)
        return self.builder.trunc(value, ir.IntType(bits))

    def zext(self, value: Value, bits: int) -> Value:
        return self.builder.zext(self._v(value), ir.IntType(bits))

    def sext(self, value: Value, bits: int) -> Value:
        return self.builder.sext(self._v(value), ir.IntType(bits))

    def add(self, a: Value, b: Value) -> Value:
        return self.builder.add(self._v(a), self._v(b))

    def sub(self, a: Value, b: Value) -> Value:
        return self.builder.sub(self._v(a), self._v(b))

    def mul(self, a: Value, b: Value) -> Value:
        return self.builder.mul(self._v(a), self._v(b))

    def and_(self, a: Value, b: Value) -> Value:
        if isinstance(a, ir.Constant) and isinstance(b, ir.Constant):
            return ir.Constant(a.type, a.constant & b.constant)
        return self.builder.and_(self._v(a), self._v(b))

    def or_(self, a: Value, b: Value) -> Value:
        return self.builder.or_(self._v(a), self._v(b))

    def xor(self, a: Value, b: Value) -> Value:
        return self.builder.xor(self._v(a), self._v(b))

    def shl(self, a: Value, b: Value) -> Value:
        return self.builder.shl(self._v(a), self._v(b))

    def lshr(self, a: Value, b: Value) -> Value:
        return self.builder.lshr(self._v(a), self._v(b))

    def ashr(self, a: Value, b: Value) -> Value:
        return self.builder.ashr(self._v(a), self._v(b))

    def _funnel(self, name: str, a: Value, b: Value) -> Value:
        a, b = self._v(a), self._v(b)
        function = self.builder.module.declare_intrinsic(name, [a.type], ir.FunctionType(a.type, [a.type] * 3))
        return self.builder.call(function, [a, a, b])

    def rotl(self, a: Value, b: Value) -> Value:
        return self._funnel("llvm.fshl", a, b)

    def rotr(self, a: Value, b: Value) -> Value:
        return self._funnel("llvm.fshr", a, b)

    def _high(self, extend: str, a: Value, b: Value) -> Value:
        a, b = self._v(a), self._v(b)
        bits = a.type.width
        wide = ir.IntType(2 * bits)
        widen = getattr(self.builder, extend)
        product = self.builder.mul(widen(a, wide), widen(b, wide))
        return self.builder.trunc(self.builder.lshr(product, ir.Constant(wide, bits)), a.type)

    def mulhi_u(self, a: Value, b: Value) -> Value:
        return self._high("zext", a, b)

    def mulhi_s(self, a: Value, b: Value) -> Value:
        return self._high("sext", a, b)

    def bswap(self, a: Value) -> Value:
        return self.builder.bswap(self._v(a))

    def ctpop(self, a: Value) -> Value:
        return self.builder.ctpop(self._v(a))

    def cttz(self, a: Value) -> Value:
        return self.builder.cttz(self._v(a), ir.Constant(I1, 0))

    def ctlz(self, a: Value) -> Value:
        return self.builder.ctlz(self._v(a), ir.Constant(I1, 0))

    def icmp(self, relation: str, a: Value, b: Value) -> Value:
        compare = self.builder.icmp_signed if relation[0] == "s" else self.builder.icmp_unsigned
        return compare(_RELATIONS[relation], self._v(a), self._v(b))

    def select(self, condition: Value, a: Value, b: Value) -> Value:
        return self.builder.select(condition, self._v(a), self._v(b))
