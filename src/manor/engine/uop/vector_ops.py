"""The table of vector and floating-point uops over env.xmm.

Each entry has a body over lanes (`vector_context`), which is its definition and what the interpreter runs,
and the host instruction that does the same on an x86-64 host, which is what the stencils hold: the
guest's NaN, rounding and flag behaviour then is the host's own. A host of another kind renders the body.

Operands: d, a, b are cells of env.xmm ("x") or virtual registers ("r"). A vector result of fewer than 128
bits replaces the low lanes of d and leaves the others: that is how scalar instructions work.
Uops that read d have `tie="d"`.

Source: Intel SDM volume 2 (325383-081), the instruction pages named like the uops.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from manor.engine.uop.ops import Kind, Op

Lanes = list[Any]
LaneBody = Callable[..., Any]
"""(c, d, a, b, imm) -> lanes of the result, or one 64-bit value where the result is a register."""


@dataclass(frozen=True, slots=True)
class VectorOp(Op):
    """A vector uop.

    host: x86-64 instruction, AT&T order, {d} {a} {b} {imm} for the operands; "" = render the body.
    tie: operand whose value d holds before the host instruction: "a", "d" or "" (none).
    a_bits, b_bits, d_bits: how much of each operand is touched (an "r" operand of 32 is used as such).
    uses_imm: takes the immediate (as a register value, any 64-bit number).
    flags: mask of the EFLAGS bits that are the result (host leaves them in EFLAGS), 0 if none.
    """

    host: str = ""
    tie: str = ""
    a_bits: int = 128
    b_bits: int = 128
    d_bits: int = 128
    uses_imm: bool = False
    flags: int = 0


_OPS: list[VectorOp] = []


def _op(name: str, body: LaneBody, host: str, **fields: Any) -> None:
    if any(other.name == name for other in _OPS):
        raise ValueError(f"vector uop {name} is declared twice")
    fields.setdefault("d", "x")
    fields.setdefault("a", "x")
    _OPS.append(VectorOp(name, Kind.VECTOR, body, host=host, **fields))


def _binary(name: str, body: LaneBody) -> None:
    """Packed d = f(a, b)."""
    _op(name, body, f"{name} {{b}}, {{d}}", b="x", tie="a")


def _unary(name: str, body: LaneBody, host: str = "") -> None:
    """Packed d = f(a)."""
    _op(name, body, host or f"{name} {{a}}, {{d}}")


# ------------------------------------------------------------------ lane helpers
def _zip(bits: int, f: Callable[[Any, Any, Any], Any]) -> LaneBody:
    def body(c: Any, d: Any, a: Any, b: Any, imm: Any) -> Lanes:
        return [f(c, x, y) for x, y in zip(a.lanes(bits), b.lanes(bits), strict=True)]

    return body


def _map(bits: int, f: Callable[[Any, Any], Any]) -> LaneBody:
    def body(c: Any, d: Any, a: Any, b: Any, imm: Any) -> Lanes:
        return [f(c, x) for x in a.lanes(bits)]

    return body


def _method(name: str) -> Callable[[Any, Any, Any], Any]:
    return lambda c, x, y: getattr(c, name)(x, y)


def _relation(relation: str, bits: int) -> Callable[[Any, Any, Any], Any]:
    """All ones where the relation holds."""
    return lambda c, x, y: c.sext(c.icmp(relation, x, y), bits)


def _choose(relation: str) -> Callable[[Any, Any, Any], Any]:
    return lambda c, x, y: c.select(c.icmp(relation, x, y), x, y)


def _clamp(c: Any, value: Any, low: int, high: int, wide: int, to: int) -> Any:
    """Saturate a signed value of `wide` bits into [low, high] and cut it to `to` bits."""
    mask = (1 << wide) - 1
    low_c, high_c = c.const(wide, low & mask), c.const(wide, high & mask)
    value = c.select(c.icmp("slt", value, low_c), low_c, value)
    value = c.select(c.icmp("sgt", value, high_c), high_c, value)
    return c.trunc(value, to)


def _range(bits: int, signed: bool) -> tuple[int, int]:
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)


def _saturating(operation: str, bits: int, signed: bool) -> Callable[[Any, Any, Any], Any]:
    def f(c: Any, x: Any, y: Any) -> Any:
        extend = c.sext if signed else c.zext
        value = getattr(c, operation)(extend(x, 2 * bits), extend(y, 2 * bits))
        return _clamp(c, value, *_range(bits, signed), 2 * bits, bits)

    return f


def _average(bits: int) -> Callable[[Any, Any, Any], Any]:
    def f(c: Any, x: Any, y: Any) -> Any:
        wide = c.add(c.add(c.zext(x, 32), c.zext(y, 32)), c.const(32, 1))
        return c.trunc(c.lshr(wide, c.const(32, 1)), bits)

    return f


def _multiply_high(signed: bool) -> Callable[[Any, Any, Any], Any]:
    def f(c: Any, x: Any, y: Any) -> Any:
        extend = c.sext if signed else c.zext
        return c.trunc(c.lshr(c.mul(extend(x, 32), extend(y, 32)), c.const(32, 16)), 16)

    return f


def _multiply_round(c: Any, x: Any, y: Any) -> Any:
    product = c.mul(c.sext(x, 32), c.sext(y, 32))
    return c.trunc(c.lshr(c.add(c.lshr(product, c.const(32, 14)), c.const(32, 1)), c.const(32, 1)), 16)


def _sign(bits: int) -> Callable[[Any, Any, Any], Any]:
    def f(c: Any, x: Any, y: Any) -> Any:
        zero = c.const(bits, 0)
        return c.select(c.icmp("slt", y, zero), c.sub(zero, x), c.select(c.icmp("eq", y, zero), zero, x))

    return f


def _absolute(bits: int) -> Callable[[Any, Any], Any]:
    return lambda c, x: c.select(c.icmp("slt", x, c.const(bits, 0)), c.sub(c.const(bits, 0), x), x)


def _pack(bits: int, signed: bool) -> LaneBody:
    def body(c: Any, d: Any, a: Any, b: Any, imm: Any) -> Lanes:
        return [_clamp(c, x, *_range(bits // 2, signed), bits, bits // 2) for x in a.lanes(bits) + b.lanes(bits)]

    return body


def _interleave(bits: int, high: bool) -> LaneBody:
    def body(c: Any, d: Any, a: Any, b: Any, imm: Any) -> Lanes:
        count = 64 // bits
        start = count if high else 0
        pairs = zip(a.lanes(bits)[start : start + count], b.lanes(bits)[start : start + count], strict=True)
        return [lane for pair in pairs for lane in pair]

    return body


def _adjacent(bits: int, f: Callable[[Any, Any, Any], Any]) -> LaneBody:
    """Horizontal: f over neighbouring lanes of a, then of b."""

    def body(c: Any, d: Any, a: Any, b: Any, imm: Any) -> Lanes:
        lanes = a.lanes(bits) + b.lanes(bits)
        return [f(c, lanes[i], lanes[i + 1]) for i in range(0, len(lanes), 2)]

    return body


def _even_product(signed: bool) -> LaneBody:
    def body(c: Any, d: Any, a: Any, b: Any, imm: Any) -> Lanes:
        extend = c.sext if signed else c.zext
        return [c.mul(extend(x, 64), extend(y, 64)) for x, y in zip(a.lanes(32)[::2], b.lanes(32)[::2], strict=True)]

    return body


def _multiply_add(c: Any, d: Any, a: Any, b: Any, imm: Any) -> Lanes:
    products = [c.mul(c.sext(x, 32), c.sext(y, 32)) for x, y in zip(a.lanes(16), b.lanes(16), strict=True)]
    return [c.add(products[i], products[i + 1]) for i in range(0, 8, 2)]


def _multiply_add_bytes(c: Any, d: Any, a: Any, b: Any, imm: Any) -> Lanes:
    products = [c.mul(c.zext(x, 32), c.sext(y, 32)) for x, y in zip(a.lanes(8), b.lanes(8), strict=True)]
    return [_clamp(c, c.add(products[i], products[i + 1]), -0x8000, 0x7FFF, 32, 16) for i in range(0, 16, 2)]


def _absolute_differences(c: Any, d: Any, a: Any, b: Any, imm: Any) -> Lanes:
    result = []
    differences = [
        c.zext(c.select(c.icmp("ugt", x, y), c.sub(x, y), c.sub(y, x)), 64)
        for x, y in zip(a.lanes(8), b.lanes(8), strict=True)
    ]
    for half in (differences[:8], differences[8:]):
        total = half[0]
        for value in half[1:]:
            total = c.add(total, value)
        result.append(total)
    return result


def _pick(c: Any, lanes: Lanes, index: Any, bits: int) -> Any:
    """lanes[index] by a chain of selects."""
    result = lanes[0]
    for i, lane in enumerate(lanes[1:], 1):
        result = c.select(c.icmp("eq", index, c.const(bits, i)), lane, result)
    return result


def _shuffle_bytes(c: Any, d: Any, a: Any, b: Any, imm: Any) -> Lanes:
    source = a.lanes(8)
    result = []
    for control in b.lanes(8):
        byte = _pick(c, source, c.and_(control, c.const(8, 15)), 8)
        result.append(c.select(c.icmp("slt", control, c.const(8, 0)), c.const(8, 0), byte))
    return result


def _shift(name: str, bits: int, immediate: bool) -> LaneBody:
    """Shift all lanes by one count; a count beyond the width gives zero (or copies of the sign)."""

    def body(c: Any, d: Any, a: Any, b: Any, imm: Any) -> Lanes:
        count = imm if immediate else b.lanes(64)[0]
        beyond = c.icmp("ugt", count, c.const(64, bits - 1))
        amount = c.trunc(c.select(beyond, c.const(64, bits - 1), count), bits)
        result = []
        for x in a.lanes(bits):
            value = getattr(c, name)(x, amount)
            result.append(value if name == "ashr" else c.select(beyond, c.const(bits, 0), value))
        return result

    return body


def _signs(bits: int) -> LaneBody:
    """Sign bits of the lanes, lane 0 in bit 0."""

    def body(c: Any, d: Any, a: Any, b: Any, imm: Any) -> Any:
        result = c.const(64, 0)
        for i, x in enumerate(a.lanes(bits)):
            sign = c.lshr(x, c.const(bits, bits - 1))
            sign = sign if bits == 64 else c.zext(sign, 64)
            result = c.or_(result, c.shl(sign, c.const(64, i)))
        return result

    return body


def _select_by_sign(bits: int) -> LaneBody:
    """d = a where the lane of b is negative, else d."""

    def body(c: Any, d: Any, a: Any, b: Any, imm: Any) -> Lanes:
        return [
            c.select(c.icmp("slt", mask, c.const(bits, 0)), x, old)
            for old, x, mask in zip(d.lanes(bits), a.lanes(bits), b.lanes(bits), strict=True)
        ]

    return body


def _minimum_position(c: Any, d: Any, a: Any, b: Any, imm: Any) -> Lanes:
    lanes = a.lanes(16)
    best, index = lanes[0], c.const(16, 0)
    for i, x in enumerate(lanes[1:], 1):
        less = c.icmp("ult", x, best)
        best, index = c.select(less, x, best), c.select(less, c.const(16, i), index)
    return [best, index] + [c.const(16, 0)] * 6


def _test(c: Any, d: Any, a: Any, b: Any, imm: Any) -> Any:
    """EFLAGS of PTEST: ZF if a & b == 0, CF if b & ~a == 0 (a is the first operand)."""
    both, rest = c.const(64, 0), c.const(64, 0)
    for x, y in zip(a.lanes(64), b.lanes(64), strict=True):
        both = c.or_(both, c.and_(x, y))
        rest = c.or_(rest, c.and_(y, c.xor(x, c.const(64, (1 << 64) - 1))))
    zero, carry = c.icmp("eq", both, c.const(64, 0)), c.icmp("eq", rest, c.const(64, 0))
    return c.or_(c.shl(c.zext(zero, 64), c.const(64, 6)), c.zext(carry, 64))


def _call(function: str, bits: int) -> Callable[..., Any]:
    return lambda c, *lanes: c.call(function, bits, *lanes)


# ------------------------------------------------------------------ integer, packed
for _b, _s in ((8, "b"), (16, "w"), (32, "d"), (64, "q")):
    _binary(f"padd{_s}", _zip(_b, _method("add")))
    _binary(f"psub{_s}", _zip(_b, _method("sub")))
    _binary(f"pcmpeq{_s}", _zip(_b, _relation("eq", _b)))
    _binary(f"pcmpgt{_s}", _zip(_b, _relation("sgt", _b)))
for _b, _s in ((8, "b"), (16, "w")):
    for _o in ("add", "sub"):
        _binary(f"p{_o}s{_s}", _zip(_b, _saturating(_o, _b, True)))
    _binary(f"pavg{_s}", _zip(_b, _average(_b)))
for _b, _s in ((8, "b"), (16, "w"), (32, "d")):
    for _o, _r in (("min", "lt"), ("max", "gt")):
        _binary(f"p{_o}s{_s}", _zip(_b, _choose("s" + _r)))
        _binary(f"p{_o}u{_s}", _zip(_b, _choose("u" + _r)))
    _binary(f"psign{_s}", _zip(_b, _sign(_b)))
    _unary(f"pabs{_s}", _map(_b, _absolute(_b)))


def _unsigned_saturating(operation: str, bits: int) -> Callable[[Any, Any, Any], Any]:
    def f(c: Any, x: Any, y: Any) -> Any:
        value = getattr(c, operation)(x, y)
        if operation == "add":
            return c.select(c.icmp("ult", value, x), c.const(bits, (1 << bits) - 1), value)
        return c.select(c.icmp("ugt", y, x), c.const(bits, 0), value)

    return f


for _b, _s in ((8, "b"), (16, "w")):
    for _o in ("add", "sub"):
        _binary(f"p{_o}us{_s}", _zip(_b, _unsigned_saturating(_o, _b)))
_binary("pand", _zip(64, _method("and_")))
_binary("por", _zip(64, _method("or_")))
_binary("pxor", _zip(64, _method("xor")))
_binary("pandn", _zip(64, lambda c, x, y: c.and_(c.xor(x, c.const(64, (1 << 64) - 1)), y)))
_binary("pmullw", _zip(16, lambda c, x, y: c.trunc(c.mul(c.zext(x, 32), c.zext(y, 32)), 16)))
_binary("pmulld", _zip(32, _method("mul")))
_binary("pmulhw", _zip(16, _multiply_high(True)))
_binary("pmulhuw", _zip(16, _multiply_high(False)))
_binary("pmulhrsw", _zip(16, _multiply_round))
_binary("pmuludq", _even_product(False))
_binary("pmuldq", _even_product(True))
_binary("pmaddwd", _multiply_add)
_binary("pmaddubsw", _multiply_add_bytes)
_binary("psadbw", _absolute_differences)
_binary("packsswb", _pack(16, True))
_binary("packssdw", _pack(32, True))
_binary("packuswb", _pack(16, False))
_binary("packusdw", _pack(32, False))
for _b, _s in ((8, "bw"), (16, "wd"), (32, "dq"), (64, "qdq")):
    _binary(f"punpckl{_s}", _interleave(_b, False))
    _binary(f"punpckh{_s}", _interleave(_b, True))
_binary("pshufb", _shuffle_bytes)
for _o, _m in (("add", "add"), ("sub", "sub")):
    _binary(f"ph{_o}w", _adjacent(16, _method(_m)))
    _binary(f"ph{_o}d", _adjacent(32, _method(_m)))
    _binary(f"ph{_o}sw", _adjacent(16, _saturating(_m, 16, True)))
for _o, _m, _sizes in (("psll", "shl", "wdq"), ("psrl", "lshr", "wdq"), ("psra", "ashr", "wd")):
    for _s in _sizes:
        _b = {"w": 16, "d": 32, "q": 64}[_s]
        _op(f"{_o}{_s}", _shift(_m, _b, False), f"{_o}{_s} {{b}}, {{d}}", b="x", tie="a")
        _op(f"{_o}{_s}i", _shift(_m, _b, True), f"{_o}{_s} {{imm}}, {{d}}", tie="a", uses_imm=True)


def _byte_shift(count: int, left: bool) -> LaneBody:
    def body(c: Any, d: Any, a: Any, b: Any, imm: Any) -> Lanes:
        lanes: Lanes = a.lanes(8)
        zero: Lanes = [c.const(8, 0)] * count
        return zero + lanes[: 16 - count] if left else lanes[count:] + zero

    return body


def _align(count: int) -> LaneBody:
    def body(c: Any, d: Any, a: Any, b: Any, imm: Any) -> Lanes:
        lanes: Lanes = b.lanes(8) + a.lanes(8) + [c.const(8, 0)] * 16
        return lanes[count : count + 16]

    return body


# Uops whose host instruction needs an immediate byte exist once for each value of it, numbered in a row: the
# translator adds the guest's immediate to the number of the first one (pseudo-uop BYIMM).
for _n in range(17):
    _op(f"pslldq_{_n}", _byte_shift(_n, True), f"pslldq $${_n}, {{d}}", tie="a")
for _n in range(17):
    _op(f"psrldq_{_n}", _byte_shift(_n, False), f"psrldq $${_n}, {{d}}", tie="a")
for _n in range(33):
    _op(f"palignr_{_n}", _align(_n), f"palignr $${_n}, {{b}}, {{d}}", b="x", tie="a")


def _shuffle_words(bits: int, first: int, selectors: int) -> LaneBody:
    """PSHUFD (32 bits), PSHUFLW, PSHUFHW (16 bits, lanes from `first`)."""

    def body(c: Any, d: Any, a: Any, b: Any, imm: Any) -> Lanes:
        source = a.lanes(bits)
        lanes = list(source)
        for i in range(4):
            lanes[first + i] = source[first + (selectors >> 2 * i & 3)]
        return lanes

    return body


def _shuffle_pair(bits: int, selectors: int) -> LaneBody:
    """SHUFPS, SHUFPD: the lower half of the lanes from a, the upper from b."""

    def body(c: Any, d: Any, a: Any, b: Any, imm: Any) -> Lanes:
        count = 128 // bits
        width = count // 2
        sources = [a.lanes(bits)] * width + [b.lanes(bits)] * width
        return [sources[i][selectors >> width * i & (count - 1)] for i in range(count)]

    return body


def _blend(bits: int, mask: int) -> LaneBody:
    def body(c: Any, d: Any, a: Any, b: Any, imm: Any) -> Lanes:
        pairs = zip(a.lanes(bits), b.lanes(bits), strict=True)
        return [y if mask >> i & 1 else x for i, (x, y) in enumerate(pairs)]

    return body


for _name, _b, _first in (("pshufd", 32, 0), ("pshuflw", 16, 0), ("pshufhw", 16, 4)):
    for _n in range(256):
        _op(f"{_name}_{_n}", _shuffle_words(_b, _first, _n), f"{_name} $${_n}, {{a}}, {{d}}")
for _name, _b, _count in (("shufps", 32, 256), ("shufpd", 64, 4)):
    for _n in range(_count):
        _op(f"{_name}_{_n}", _shuffle_pair(_b, _n), f"{_name} $${_n}, {{b}}, {{d}}", b="x", tie="a")
for _name, _b, _count in (("blendps", 32, 16), ("blendpd", 64, 4)):
    for _n in range(_count):
        _op(f"{_name}_{_n}", _blend(_b, _n), f"{_name} $${_n}, {{b}}, {{d}}", b="x", tie="a")


def _extend(method: str, narrow: int, wide: int) -> LaneBody:
    def body(c: Any, d: Any, a: Any, b: Any, imm: Any) -> Lanes:
        return [getattr(c, method)(x, wide) for x in a.lanes(narrow)[: 128 // wide]]

    return body


for _s, _narrow, _wide in (
    ("bw", 8, 16), ("bd", 8, 32), ("bq", 8, 64), ("wd", 16, 32), ("wq", 16, 64), ("dq", 32, 64),
):  # fmt: skip
    _unary(f"pmovsx{_s}", _extend("sext", _narrow, _wide))
    _unary(f"pmovzx{_s}", _extend("zext", _narrow, _wide))
_unary("phminposuw", _minimum_position)
_op("pblendvb", _select_by_sign(8), "pblendvb %xmm0, {a}, {d}", b="x", tie="d")
_op("blendvps", _select_by_sign(32), "blendvps %xmm0, {a}, {d}", b="x", tie="d")
_op("blendvpd", _select_by_sign(64), "blendvpd %xmm0, {a}, {d}", b="x", tie="d")
_op("pmovmskb", _signs(8), "pmovmskb {a}, {d}", d="r", d_bits=32)
_op("movmskps", _signs(32), "movmskps {a}, {d}", d="r", d_bits=32)
_op("movmskpd", _signs(64), "movmskpd {a}, {d}", d="r", d_bits=32)
_op("ptest", _test, "ptest {b}, {a}", d="r", b="x", flags=0x41)


# ------------------------------------------------------------------ moves: cells are memory, no host instruction needed
def _move(bits: int) -> LaneBody:
    def body(c: Any, d: Any, a: Any, b: Any, imm: Any) -> Lanes:
        return list(a.lanes(bits)) if bits == 128 else [a.lanes(bits)[0]]

    return body


_op("xmove", lambda c, d, a, b, imm: a.lanes(64), "")
_op("xmove32", _move(32), "", a_bits=32, d_bits=32)
_op("xmove64", _move(64), "", a_bits=64, d_bits=64)
_op("xzero", lambda c, d, a, b, imm: [c.const(64, 0)] * 2, "", a="")
_op("xset", lambda c, d, a, b, imm: [a, b], "", a="r", b="r", a_bits=64, b_bits=64)
_op("xset64", lambda c, d, a, b, imm: [a, c.const(64, 0)], "", a="r", a_bits=64)


def _get(bits: int, index: int) -> LaneBody:
    def body(c: Any, d: Any, a: Any, b: Any, imm: Any) -> Any:
        lane = a.lanes(bits)[index]
        return lane if bits == 64 else c.zext(lane, 64)

    return body


def _put(bits: int, index: int) -> LaneBody:
    def body(c: Any, d: Any, a: Any, b: Any, imm: Any) -> Lanes:
        lanes = list(d.lanes(bits))
        lanes[index] = a if bits == 64 else c.trunc(a, bits)
        return lanes

    return body


LANE_WIDTHS: Final = (8, 16, 32, 64)
for _b in LANE_WIDTHS:
    for _n in range(128 // _b):
        _op(f"xget{_b}_{_n}", _get(_b, _n), "", d="r")
    for _n in range(128 // _b):
        _op(f"xput{_b}_{_n}", _put(_b, _n), "", a="r", tie="d")


# ------------------------------------------------------------------ floating point
def _scalar_form(name: str, function: str, bits: int, operands: int, host: str) -> None:
    """d.low = f([d.low,] a.low); a name that ends in _m takes a register as the source (a memory operand)."""
    memory = name.endswith("_m")

    def body(c: Any, d: Any, a: Any, b: Any, imm: Any) -> Lanes:
        arguments = [d.lanes(bits)[0]] if operands == 2 else []
        source = (a if bits == 64 else c.trunc(a, bits)) if memory else a.lanes(bits)[0]
        return [c.call(function, bits, *arguments, source)]

    tie = "d" if operands == 2 else ""
    _op(name, body, host, a="r" if memory else "x", tie=tie, a_bits=bits, d_bits=bits)


def _scalar(name: str, function: str, bits: int, operands: int) -> None:
    """`name` and `name`_m."""
    for suffix in ("", "_m"):
        _scalar_form(name + suffix, function, bits, operands, f"{name} {{a}}, {{d}}")


FLOATS: Final = ((32, "s"), (64, "d"))
COMPARISONS: Final = ("eq", "lt", "le", "unord", "neq", "nlt", "nle", "ord")
"""Predicates of CMPPS and its kin, by immediate."""
for _b, _s in FLOATS:
    for _o in ("add", "sub", "mul", "div", "min", "max"):
        _binary(f"{_o}p{_s}", _zip(_b, _call(f"f{_b}_{_o}", _b)))
        _scalar(f"{_o}s{_s}", f"f{_b}_{_o}", _b, 2)
    _unary(f"sqrtp{_s}", _map(_b, _call(f"f{_b}_sqrt", _b)))
    _scalar(f"sqrts{_s}", f"f{_b}_sqrt", _b, 1)
    for _n, _o in enumerate(COMPARISONS):
        _op(f"cmpp{_s}_{_n}", _zip(_b, _call(f"f{_b}_cmp{_o}", _b)), f"cmpp{_s} $${_n}, {{b}}, {{d}}", b="x", tie="a")
    for _n in range(16):
        _op(f"roundp{_s}_{_n}", _map(_b, _call(f"f{_b}_round{_n}", _b)), f"roundp{_s} $${_n}, {{a}}, {{d}}")
    for _form in ("", "_m"):
        for _n, _o in enumerate(COMPARISONS):
            _scalar_form(f"cmps{_s}_{_n}{_form}", f"f{_b}_cmp{_o}", _b, 2, f"cmps{_s} $${_n}, {{a}}, {{d}}")
        for _n in range(16):
            _scalar_form(f"rounds{_s}_{_n}{_form}", f"f{_b}_round{_n}", _b, 1, f"rounds{_s} $${_n}, {{a}}, {{d}}")
    for _o in ("add", "sub"):
        _binary(f"h{_o}p{_s}", _adjacent(_b, _call(f"f{_b}_{_o}", _b)))


def _add_subtract(bits: int) -> LaneBody:
    def body(c: Any, d: Any, a: Any, b: Any, imm: Any) -> Lanes:
        return [
            c.call(f"f{bits}_{'add' if i & 1 else 'sub'}", bits, x, y)
            for i, (x, y) in enumerate(zip(a.lanes(bits), b.lanes(bits), strict=True))
        ]

    return body


for _b, _s in FLOATS:
    _binary(f"addsubp{_s}", _add_subtract(_b))
for _o in ("rcp", "rsqrt"):
    _unary(f"{_o}ps", _map(32, _call(f"f32_{_o}", 32)))
    _scalar(f"{_o}ss", f"f32_{_o}", 32, 1)


def _compare_flags(function: str, bits: int, memory: bool) -> LaneBody:
    def body(c: Any, d: Any, a: Any, b: Any, imm: Any) -> Any:
        y = (b if bits == 64 else c.trunc(b, bits)) if memory else b.lanes(bits)[0]
        return c.call(function, 64, a.lanes(bits)[0], y)

    return body


for _b, _s in FLOATS:
    for _o in ("comi", "ucomi"):
        for _memory in (False, True):
            _op(
                f"{_o}s{_s}" + ("_m" if _memory else ""), _compare_flags(f"f{_b}_{_o}", _b, _memory),
                f"{_o}s{_s} {{b}}, {{a}}", d="r", b="r" if _memory else "x", a_bits=_b, b_bits=_b, flags=0x45,
            )  # fmt: skip


def _convert(function: str, source: int, result: int, lanes: int, pad: bool = False) -> LaneBody:
    """The lowest `lanes` lanes converted; pad: the upper half of the result is zero."""

    def body(c: Any, d: Any, a: Any, b: Any, imm: Any) -> Lanes:
        converted = [c.call(function, result, x) for x in a.lanes(source)[:lanes]]
        return converted + [c.const(result, 0)] * lanes if pad else converted

    return body


_unary("cvtdq2ps", _convert("i32_to_f32", 32, 32, 4))
_unary("cvtps2dq", _convert("f32_to_i32", 32, 32, 4))
_unary("cvttps2dq", _convert("f32_to_i32_zero", 32, 32, 4))
_unary("cvtdq2pd", _convert("i32_to_f64", 32, 64, 2))
_unary("cvtpd2dq", _convert("f64_to_i32", 64, 32, 2, True))
_unary("cvttpd2dq", _convert("f64_to_i32_zero", 64, 32, 2, True))
_unary("cvtps2pd", _convert("f32_to_f64", 32, 64, 2))
_unary("cvtpd2ps", _convert("f64_to_f32", 64, 32, 2, True))


def _scalar_convert(name: str, function: str, source: int, result: int) -> None:
    def body(c: Any, d: Any, a: Any, b: Any, imm: Any) -> Lanes:
        return [c.call(function, result, a.lanes(source)[0])]

    def memory_body(c: Any, d: Any, a: Any, b: Any, imm: Any) -> Lanes:
        return [c.call(function, result, a if source == 64 else c.trunc(a, source))]

    _op(name, body, f"{name} {{a}}, {{d}}", a_bits=source, d_bits=result)
    _op(f"{name}_m", memory_body, f"{name} {{a}}, {{d}}", a="r", a_bits=source, d_bits=result)


_scalar_convert("cvtss2sd", "f32_to_f64", 32, 64)
_scalar_convert("cvtsd2ss", "f64_to_f32", 64, 32)


def _from_integer(source: int, result: int) -> LaneBody:
    def body(c: Any, d: Any, a: Any, b: Any, imm: Any) -> Lanes:
        return [c.call(f"i{source}_to_f{result}", result, a if source == 64 else c.trunc(a, source))]

    return body


def _to_integer(source: int, result: int, truncate: bool) -> LaneBody:
    def body(c: Any, d: Any, a: Any, b: Any, imm: Any) -> Any:
        value = c.call(f"f{source}_to_i{result}" + ("_zero" if truncate else ""), result, a.lanes(source)[0])
        return value if result == 64 else c.zext(value, 64)

    return body


for _b, _s in FLOATS:
    for _i, _letter in ((32, "l"), (64, "q")):
        _op(
            f"cvtsi{_i}_s{_s}", _from_integer(_i, _b), f"cvtsi2s{_s}{_letter} {{a}}, {{d}}",
            a="r", a_bits=_i, d_bits=_b,
        )  # fmt: skip
        for _t in ("", "t"):
            _op(
                f"cvt{_t}s{_s}_si{_i}", _to_integer(_b, _i, bool(_t)), f"cvt{_t}s{_s}2si {{a}}, {{d}}",
                d="r", a_bits=_b, d_bits=_i,
            )  # fmt: skip

ALIGNED_OPS: Final = (
    Op("ldxa", Kind.VECTOR_LOAD, bits=128, d="x", a="r"),
    Op("stxa", Kind.VECTOR_STORE, bits=128, a="r", b="x"),
)
"""Like ldx and stx, but an address that is not a multiple of 16 raises #GP(0) and changes nothing."""
VECTOR_OPS: Final[tuple[Op, ...]] = (*ALIGNED_OPS, *_OPS)
