"""Vector uops for the reference interpreter: bodies rendered as C functions in a declaration file.

`render_pxd()` is written by the build as `vector_interp.pxd`; `interp_native` cimports it and its cases are
`render_vector(op)`. Lanes are unrolled scalar C; floating-point lanes are computed with single-lane host
operations, so rounding, flush-to-zero and sticky flags are those of the MXCSR in force. Where C may
exchange the operands of an operation, the rule for NaNs is applied to the result.

Source of the NaN rule: Intel SDM volume 1, table 4-7.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from manor.engine.uop.vector_ops import COMPARISONS, VECTOR_OPS, VectorOp


@dataclass(frozen=True, slots=True)
class Value:
    """A C expression of `bits` width (1 for a condition), without side effects."""

    text: str
    bits: int


def _type(bits: int, signed: bool = False) -> str:
    return f"{'' if signed else 'u'}int{bits}_t"


_RELATIONS: Final = {
    "eq": ("==", False), "ne": ("!=", False), "ult": ("<", False), "ule": ("<=", False), "ugt": (">", False),
    "uge": (">=", False), "slt": ("<", True), "sle": ("<=", True), "sgt": (">", True), "sge": (">=", True),
}  # fmt: skip


class CContext:
    """A `VectorContext` that writes C. Every value becomes a local variable."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._count = 0

    def _value(self, text: str, bits: int) -> Value:
        name = f"t{self._count}"
        self._count += 1
        self.lines.append(f"const {_type(8 if bits == 1 else bits)} {name} = {text};")
        return Value(name, bits)

    def _signed(self, value: Value) -> str:
        return f"({_type(value.bits, True)}){value.text}"

    def const(self, bits: int, value: int) -> Value:
        return Value(f"UINT{bits}_C({value & (1 << bits) - 1:#x})" if bits > 1 else str(value & 1), bits)

    def trunc(self, value: Value, bits: int) -> Value:
        return self._value(f"({_type(bits)}){value.text}", bits)

    def zext(self, value: Value, bits: int) -> Value:
        return self._value(value.text, bits)

    def sext(self, value: Value, bits: int) -> Value:
        if value.bits == 1:
            return self._value(f"({_type(bits)})({value.text} ? -1 : 0)", bits)
        return self._value(f"({_type(bits)})({_type(bits, True)}){self._signed(value)}", bits)

    def _binary(self, operator: str, a: Value, b: Value) -> Value:
        # Through 64 bits: narrower types would be promoted to int, whose overflow is undefined.
        return self._value(f"({_type(a.bits)})((uint64_t){a.text} {operator} (uint64_t){b.text})", a.bits)

    def add(self, a: Value, b: Value) -> Value:
        return self._binary("+", a, b)

    def sub(self, a: Value, b: Value) -> Value:
        return self._binary("-", a, b)

    def mul(self, a: Value, b: Value) -> Value:
        return self._binary("*", a, b)

    def and_(self, a: Value, b: Value) -> Value:
        return self._binary("&", a, b)

    def or_(self, a: Value, b: Value) -> Value:
        return self._binary("|", a, b)

    def xor(self, a: Value, b: Value) -> Value:
        return self._binary("^", a, b)

    def shl(self, a: Value, b: Value) -> Value:
        return self._binary("<<", a, b)

    def lshr(self, a: Value, b: Value) -> Value:
        return self._binary(">>", a, b)

    def ashr(self, a: Value, b: Value) -> Value:
        return self._value(f"({_type(a.bits)})({self._signed(a)} >> {b.text})", a.bits)

    def icmp(self, relation: str, a: Value, b: Value) -> Value:
        operator, signed = _RELATIONS[relation]
        if signed:
            return self._value(f"{self._signed(a)} {operator} {self._signed(b)}", 1)
        return self._value(f"{a.text} {operator} {b.text}", 1)

    def select(self, condition: Value, a: Value, b: Value) -> Value:
        return self._value(f"({_type(a.bits)})({condition.text} ? {a.text} : {b.text})", a.bits)

    def call(self, function: str, bits: int, *arguments: Value) -> Value:
        return self._value(f"manor_{function}({', '.join(a.text for a in arguments)})", bits)


class _Cell:
    """An xmm operand: lanes are loaded when the body asks for them, which is before anything is stored."""

    def __init__(self, context: CContext, pointer: str) -> None:
        self._context = context
        self._pointer = pointer
        self._known: dict[int, list[Value]] = {}

    def lanes(self, bits: int) -> list[Value]:
        if bits not in self._known:
            name = f"{self._pointer}{bits}"
            self._context.lines.append(f"{_type(bits)} {name}[{128 // bits}]; memcpy({name}, {self._pointer}, 16);")
            self._known[bits] = [Value(f"{name}[{i}]", bits) for i in range(128 // bits)]
        return self._known[bits]


def _function(op: VectorOp) -> str:
    context = CContext()
    operands: dict[str, Any] = {"d": _Cell(context, "xd")}
    for letter in ("a", "b"):
        is_cell = getattr(op, letter) == "x"
        operands[letter] = _Cell(context, f"x{letter}") if is_cell else Value(f"r{letter}", 64)
    assert op.body is not None
    result = op.body(context, operands["d"], operands["a"], operands["b"], Value("imm", 64))
    if op.d == "r":
        ending = f"return {result.text};"
    else:
        lanes = ", ".join(lane.text for lane in result)
        size = sum(lane.bits for lane in result) // 8
        ending = f"const {_type(result[0].bits)} out[] = {{{lanes}}}; memcpy(xd, out, {size}); return 0;"
    parameters = "uint8_t *xd, const uint8_t *xa, const uint8_t *xb, uint64_t ra, uint64_t rb, uint64_t imm"
    return f"static uint64_t manor_v_{op.name}({parameters})\n{{ {' '.join(context.lines)} {ending} }}"


def _floats() -> list[str]:
    """The floating-point functions that bodies call, one lane each, over bit patterns."""
    lines = [
        "static inline __m128 manor_s(uint32_t x) { return _mm_castsi128_ps(_mm_cvtsi32_si128((int)x)); }",
        "static inline __m128d manor_d(uint64_t x) { return _mm_castsi128_pd(_mm_cvtsi64_si128((int64_t)x)); }",
        "static inline uint32_t manor_32(__m128 x) { return (uint32_t)_mm_cvtsi128_si32(_mm_castps_si128(x)); }",
        "static inline uint64_t manor_64(__m128d x) { return (uint64_t)_mm_cvtsi128_si64(_mm_castpd_si128(x)); }",
    ]
    # volatile: the operation must happen for its flags even where its result is replaced.
    for bits, suffix, wrap, quiet, infinity in (
        (32, "ss", "manor_s", 0x0040_0000, 0x7F80_0000),
        (64, "sd", "manor_d", 0x0008_0000_0000_0000, 0x7FF0_0000_0000_0000),
    ):
        t, f, back = _type(bits), f"manor_f{bits}", f"manor_{bits}"
        magnitude = (1 << bits - 1) - 1
        lines += [
            f"static inline int {f}_nan({t} x) "
            f"{{ return (x & UINT{bits}_C({magnitude:#x})) > UINT{bits}_C({infinity:#x}); }}",
            f"static inline {t} {f}_rule({t} a, {t} b, {t} r) {{ return {f}_nan(a) ? a | UINT{bits}_C({quiet:#x}) : "
            f"{f}_nan(b) ? b | UINT{bits}_C({quiet:#x}) : r; }}",
        ]
        for name in ("add", "sub", "mul", "div"):
            lines.append(
                f"static inline {t} {f}_{name}({t} a, {t} b) "
                f"{{ volatile {t} r = {back}(_mm_{name}_{suffix}({wrap}(a), {wrap}(b))); return {f}_rule(a, b, r); }}"
            )
        for name in ("min", "max", *(f"cmp{c}" for c in COMPARISONS)):
            lines.append(
                f"static inline {t} {f}_{name}({t} a, {t} b) "
                f"{{ return {back}(_mm_{name}_{suffix}({wrap}(a), {wrap}(b))); }}"
            )
        for name in ("comi", "ucomi"):
            lines.append(
                f"static inline uint64_t {f}_{name}({t} a, {t} b) {{ "
                f"volatile int less = _mm_{name}lt_{suffix}({wrap}(a), {wrap}(b)), "
                f"same = _mm_{name}eq_{suffix}({wrap}(a), {wrap}(b)); "
                f"return {f}_nan(a) || {f}_nan(b) ? 0x45 : less ? 1 : same ? 0x40 : 0; }}"
            )
        root = "_mm_sqrt_ss(manor_s(a))" if bits == 32 else "_mm_sqrt_sd(manor_d(a), manor_d(a))"
        lines.append(f"static inline {t} {f}_sqrt({t} a) {{ return {back}({root}); }}")
        for mode in range(16):
            lines.append(
                f"static inline {t} {f}_round{mode}({t} a) "
                f"{{ return {back}(_mm_round_{suffix}({wrap}(a), {wrap}(a), {mode})); }}"
            )
        zero = "_mm_setzero_ps()" if bits == 32 else "_mm_setzero_pd()"
        for integer in (32, 64):
            i = _type(integer)
            lines += [
                f"static inline {t} manor_i{integer}_to_f{bits}({i} a) "
                f"{{ return {back}(_mm_cvtsi{integer}_{suffix}({zero}, ({_type(integer, True)})a)); }}",
                f"static inline {i} {f}_to_i{integer}({t} a) {{ return ({i})_mm_cvt{suffix}_si{integer}({wrap}(a)); }}",
                f"static inline {i} {f}_to_i{integer}_zero({t} a) "
                f"{{ return ({i})_mm_cvtt{suffix}_si{integer}({wrap}(a)); }}",
            ]
    for name in ("rcp", "rsqrt"):
        lines.append(
            f"static inline uint32_t manor_f32_{name}(uint32_t a) "
            f"{{ return manor_32(_mm_{name}_ss(manor_s(a))); }}"
        )
    lines += [
        "static inline uint64_t manor_f32_to_f64(uint32_t a) "
        "{ return manor_64(_mm_cvtss_sd(_mm_setzero_pd(), manor_s(a))); }",
        "static inline uint32_t manor_f64_to_f32(uint64_t a) "
        "{ return manor_32(_mm_cvtsd_ss(_mm_setzero_ps(), manor_d(a))); }",
    ]
    return lines


def vector_ops() -> tuple[VectorOp, ...]:
    """The vector uops that have a body (not the aligned loads and stores)."""
    return tuple(op for op in VECTOR_OPS if isinstance(op, VectorOp))


def render_c() -> str:
    """All functions, as C for an x86-64 host."""
    head = [
        "#include <stdint.h>", "#include <string.h>", "#pragma GCC push_options", '#pragma GCC target("sse4.2")',
        # GCC 12 mistakes a signed high product of 16-bit lanes for an unsigned one when it vectorizes.
        '#pragma GCC optimize("no-tree-vectorize", "no-tree-slp-vectorize")',
        '#pragma GCC diagnostic ignored "-Wunused-function"', "#include <nmmintrin.h>",
    ]  # fmt: skip
    functions = [_function(op) for op in vector_ops()]
    return "\n".join([*head, *_floats(), *functions, "#pragma GCC pop_options"]) + "\n"


def render_pxd() -> str:
    """`vector_interp.pxd`: the functions and their declarations."""
    arguments = "uint8_t *xd, const uint8_t *xa, const uint8_t *xb, uint64_t ra, uint64_t rb, uint64_t imm"
    lines = [
        "# Generated by manor.engine.uop.interp_vector from the table of vector uops; do not edit.",
        "from libc.stdint cimport uint64_t, uint8_t",
        "",
        "cdef extern from *:",
        '    r"""',
        "#ifndef MANOR_VECTOR_INTERP",
        "#define MANOR_VECTOR_INTERP",
        render_c() + "#endif",
        '    """',
        *(f'    uint64_t v_{op.name} "manor_v_{op.name}"({arguments}) noexcept nogil' for op in vector_ops()),
    ]
    return "\n".join(lines) + "\n"


def render_vector(op: VectorOp) -> list[str]:
    """The statements of the interpreter's case for one vector uop, in Cython.

    Names in scope: xd, xa, xb (uint8_t* to the cells of "x" operands; they may be equal), ra, rb
    (uint64_t, "r" operands), imm, rd (assigned if the destination is a register). The interpreter must
    `from manor.engine.uop.vector_interp cimport *`.
    """
    cells = [letter if getattr(op, letter[1]) == "x" else "NULL" for letter in ("xd", "xa", "xb")]
    values = [letter if getattr(op, letter[1]) == "r" else "0" for letter in ("ra", "rb")]
    call = f"v_{op.name}({', '.join(cells + values)}, {'<uint64_t>imm' if op.uses_imm else '0'})"
    return [f"rd = {call}" if op.d == "r" else call]
