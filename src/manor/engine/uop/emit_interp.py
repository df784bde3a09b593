"""Generate the reference interpreter from the uop table.

The output is a Cython module: one function that runs the uops of a block, with one case a uop.
It is the definition of the uops that runs fast enough to boot a kernel, and the oracle for
generated host code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from manor.engine.env import MMU_MODES, RSP, TLB_ENTRIES
from manor.engine.uop.interp_vector import render_vector
from manor.engine.uop.ops import Kind, Op
from manor.engine.uop.table import OPS
from manor.engine.uop.vector_ops import VectorOp

_SIGNED: Final = {8: "int8_t", 16: "int16_t", 32: "int32_t", 64: "int64_t"}
_RELATION: Final = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}


def _u(bits: int) -> str:
    return f"uint{bits}_t"


@dataclass(frozen=True, slots=True)
class Text:
    """A value: a C expression in Cython's syntax, of an unsigned type of `bits` (1: 0 or 1)."""

    text: str
    bits: int


class TextContext:
    """The uop vocabulary (`uop.context`) as C expressions. Widths are kept by casts."""

    def _cast(self, bits: int, text: str) -> Text:
        return Text(f"<{_u(bits)}>({text})", bits)

    def const(self, bits: int, value: int) -> Text:
        return self._cast(bits, f"{value & (1 << bits) - 1:#x}ULL")

    def trunc(self, value: Text, bits: int) -> Text:
        return self._cast(bits, value.text)

    def zext(self, value: Text, bits: int) -> Text:
        return self._cast(bits, value.text)

    def sext(self, value: Text, bits: int) -> Text:
        return self._cast(bits, f"<{_SIGNED[value.bits]}>({value.text})")

    def _infix(self, operator: str, a: Text, b: Text) -> Text:
        return self._cast(a.bits, f"({a.text}) {operator} ({b.text})")

    def add(self, a: Text, b: Text) -> Text:
        return self._infix("+", a, b)

    def sub(self, a: Text, b: Text) -> Text:
        return self._infix("-", a, b)

    def mul(self, a: Text, b: Text) -> Text:
        # narrower than int would be multiplied as signed int, which may overflow
        return self._cast(a.bits, f"<uint64_t>({a.text}) * <uint64_t>({b.text})")

    def and_(self, a: Text, b: Text) -> Text:
        return self._infix("&", a, b)

    def or_(self, a: Text, b: Text) -> Text:
        return self._infix("|", a, b)

    def xor(self, a: Text, b: Text) -> Text:
        return self._infix("^", a, b)

    def shl(self, a: Text, b: Text) -> Text:
        return self._infix("<<", a, b)

    def lshr(self, a: Text, b: Text) -> Text:
        return self._infix(">>", a, b)

    def ashr(self, a: Text, b: Text) -> Text:
        return self._cast(a.bits, f"<{_SIGNED[a.bits]}>({a.text}) >> ({b.text})")

    def _rotate(self, first: str, second: str, a: Text, b: Text) -> Text:
        mask = a.bits - 1
        left = f"({a.text}) {first} (({b.text}) & {mask})"
        right = f"({a.text}) {second} ((0 - ({b.text})) & {mask})"
        return self._cast(a.bits, f"({left}) | ({right})")

    def rotl(self, a: Text, b: Text) -> Text:
        return self._rotate("<<", ">>", a, b)

    def rotr(self, a: Text, b: Text) -> Text:
        return self._rotate(">>", "<<", a, b)

    def mulhi_u(self, a: Text, b: Text) -> Text:
        return self._cast(64, f"(<uint128_t>({a.text}) * <uint128_t>({b.text})) >> 64")

    def mulhi_s(self, a: Text, b: Text) -> Text:
        return self._cast(64, f"(<int128_t><int64_t>({a.text}) * <int128_t><int64_t>({b.text})) >> 64")

    def bswap(self, a: Text) -> Text:
        return self._cast(a.bits, f"__builtin_bswap{a.bits}({a.text})")

    def ctpop(self, a: Text) -> Text:
        return self._cast(a.bits, f"__builtin_popcountll({a.text})")

    def cttz(self, a: Text) -> Text:
        return self._cast(a.bits, f"__builtin_ctzll({a.text}) if ({a.text}) else {a.bits}")

    def ctlz(self, a: Text) -> Text:
        return self._cast(a.bits, f"__builtin_clzll({a.text}) - {64 - a.bits} if ({a.text}) else {a.bits}")

    def icmp(self, relation: str, a: Text, b: Text) -> Text:
        operator = _RELATION[relation.removeprefix("u").removeprefix("s")]
        if relation.startswith("s"):
            signed = _SIGNED[a.bits]
            return Text(f"(<{signed}>({a.text})) {operator} (<{signed}>({b.text}))", 1)
        return Text(f"({a.text}) {operator} ({b.text})", 1)

    def select(self, condition: Text, a: Text, b: Text) -> Text:
        return self._cast(a.bits, f"({a.text}) if ({condition.text}) else ({b.text})")


_CONTEXT: Final = TextContext()
_A: Final = Text("r[u.a]", 64)
_B: Final = Text("r[u.b]", 64)
_D: Final = Text("r[u.d]", 64)
_IMM: Final = Text("<uint64_t>u.imm", 64)


def _probe(bits: int, tag: int | str) -> list[str]:
    """Find the TLB entry; `hit` tells whether the access may go straight to memory."""
    return [
        "e = tlb + ((addr >> 12) & TLB_MASK) * 4",
        f"if e[{tag}] == ((addr + {bits // 8 - 1}) & PAGE_FRAME_MASK):",
    ]


def _load(op: Op) -> list[str]:
    bits = op.bits
    value = "value"
    if op.signed_to:
        value = f"<uint64_t><{_u(op.signed_to)}><{_SIGNED[bits]}>value"
    return [
        "addr = r[u.a] + <uint64_t>u.imm",
        *_probe(bits, "u.x >> 3"),  # the load of a read-modify-write needs the write tag
        f"    value = (<{_u(bits)}*><void*>(addr + e[2]))[0]",
        "else:",
        f"    value = load_slow(env, addr, {bits // 8}, mode | u.x, u.pc)",
        "    if env.fault:",
        "        return NULL",
        f"r[u.d] = {value}",
    ]


def _store(op: Op) -> list[str]:
    return [
        "addr = r[u.a] + <uint64_t>u.imm",
        *_probe(op.bits, 1),
        f"    (<{_u(op.bits)}*><void*>(addr + e[2]))[0] = <{_u(op.bits)}>r[u.b]",
        "else:",
        f"    store_slow(env, addr, r[u.b], {op.bits // 8}, mode | u.x, u.pc)",
        "    if env.fault:",
        "        return NULL",
    ]


def _rmw_pointer(bits: int) -> list[str]:
    return [
        "addr = r[u.a]",
        *_probe(bits, 1),
        "    p = <uint8_t*><void*>(addr + e[2])",
        "else:",
        f"    p = rmw_pointer(env, addr, {bits // 8}, mode | u.x, u.pc)",
        "    if env.fault:",
        "        return NULL",
    ]


def _rmw(op: Op) -> list[str]:
    """Atomic on the host where guest memory can be reached; else under the lock of split accesses."""
    name = op.name.removeprefix("rmw_").rstrip("0123456789")
    builtin = {"xchg": "__atomic_exchange_n"}.get(name, f"__atomic_fetch_{name}")
    assert op.body is not None
    combined = op.body(_CONTEXT, Text("value", 64), _B)
    return [
        *_rmw_pointer(op.bits),
        "if p != NULL:",
        f"    value = {builtin}(<{_u(op.bits)}*>p, <{_u(op.bits)}>r[u.b], 5)",
        "else:",
        "    lock_split(env)",
        f"    value = load_slow(env, addr, {op.bits // 8}, mode | u.x, u.pc)",
        "    if not env.fault:",
        f"        store_slow(env, addr, {combined.text}, {op.bits // 8}, mode | u.x, u.pc)",
        "    unlock_split(env)",
        "    if env.fault:",
        "        return NULL",
        "r[u.d] = value",
    ]


def _cmpxchg(op: Op) -> list[str]:
    return [
        *_rmw_pointer(op.bits),
        f"expected{op.bits} = <{_u(op.bits)}>r[u.d]",
        "if p != NULL:",
        f"    __atomic_compare_exchange_n(<{_u(op.bits)}*>p, &expected{op.bits}, <{_u(op.bits)}>r[u.b], False, 5, 5)",
        f"    value = expected{op.bits}",
        "else:",
        "    lock_split(env)",
        f"    value = load_slow(env, addr, {op.bits // 8}, mode | u.x, u.pc)",
        "    if not env.fault:",
        f"        store_slow(env, addr, r[u.b] if <{_u(op.bits)}>value == expected{op.bits} else value, "
        f"{op.bits // 8}, mode | u.x, u.pc)",
        "    unlock_split(env)",
        "    if env.fault:",
        "        return NULL",
        "r[u.d] = value",
    ]


def _vector(op: Op) -> list[str]:
    assert isinstance(op, VectorOp)
    lines = [f"x{name} = vector_cell(env, u.{name})" for name in "dab" if getattr(op, name) == "x"]
    lines += [f"r{name} = r[u.{name}]" for name in "ab" if getattr(op, name) == "r"]
    if op.d == "r":
        lines.append("rd = r[u.d]")
    lines += ["imm = u.imm", *render_vector(op)]
    if op.d == "r":
        lines.append("r[u.d] = rd")
    return lines


def _aligned(op: Op) -> list[str]:
    """The #GP(0) of the aligned forms, which comes before anything about the page."""
    if op.name not in ("ldxa", "stxa"):
        return []
    return ["if addr & 15:", "    env.rip = u.pc", "    raise_fault(env, 13, 0)", "    return NULL"]


def render_op(op: Op) -> list[str]:
    """The statements of one uop's case."""
    match op.kind:
        case Kind.NOP:
            return ["pass"]
        case Kind.MOVE:
            return ["r[u.d] = r[u.a]"]
        case Kind.MOVE_IMM:
            return ["r[u.d] = <uint64_t>u.imm"]
        case Kind.UNARY:
            assert op.body is not None
            return [f"r[u.d] = {op.body(_CONTEXT, _A).text}"]
        case Kind.BINARY | Kind.BINARY_IMM:
            assert op.body is not None
            b = _B if op.kind is Kind.BINARY else _IMM
            return [f"r[u.d] = {op.body(_CONTEXT, _A, b).text}"]
        case Kind.UPDATE:
            assert op.body is not None
            return [f"r[u.d] = {op.body(_CONTEXT, _D, _A, _B).text}"]
        case Kind.LOAD:
            return _load(op)
        case Kind.STORE:
            return _store(op)
        case Kind.RMW:
            return _rmw(op)
        case Kind.CMPXCHG:
            return _cmpxchg(op)
        case Kind.HELPER:
            return [
                "env.rip = u.pc",
                "r[u.d] = helpers[u.x](env, r[u.a], r[u.b], <uint64_t>u.imm)",
                "if env.fault:",
                "    return NULL",
            ]
        case Kind.VECTOR:
            return _vector(op)
        case Kind.VECTOR_LOAD:
            return [
                "addr = r[u.a] + <uint64_t>u.imm",
                "xd = vector_cell(env, u.d)",
                *_aligned(op),
                *_probe(128, 0),
                "    memcpy(xd, <void*>(addr + e[2]), 16)",
                "else:",
                "    load128_slow(env, addr, xd, mode | u.x, u.pc)",
                "    if env.fault:",
                "        return NULL",
            ]
        case Kind.VECTOR_STORE:
            return [
                "addr = r[u.a] + <uint64_t>u.imm",
                "xb = vector_cell(env, u.b)",
                *_aligned(op),
                *_probe(128, 1),
                "    memcpy(<void*>(addr + e[2]), xb, 16)",
                "else:",
                "    store128_slow(env, addr, xb, mode | u.x, u.pc)",
                "    if env.fault:",
                "        return NULL",
            ]
        case Kind.JUMP:
            return ["env.rip = block.exits[u.x].pc", "return block"]
        case Kind.BRANCH | Kind.BRANCH_IMM:
            assert op.body is not None
            b = _B if op.kind is Kind.BRANCH else _IMM
            return [
                f"if {op.body(_CONTEXT, _A, b).text}:",
                "    env.insn_count -= block.insn_count - u.insn - 1",
                "    env.rip = block.exits[u.x].pc",
                "    return block",
                "if u.d != SIDE_EXIT:",
                "    env.rip = block.exits[u.x + 1].pc",
                "    return block",
            ]
        case Kind.JUMP_INDIRECT:
            return [
                "if not canonical(r[u.a]):",
                "    env.rip = u.pc",
                f"    r[{RSP}] -= <uint64_t>u.imm",
                "    raise_fault(env, 13, 0)",
                "    return NULL",
                "env.rip = r[u.a]",
                "return block",
            ]
        case Kind.EXIT:
            return ["return block"]


_HEAD: Final = '''\
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# Generated by manor.engine.uop.emit_interp from the uop table; do not edit.
"""The reference interpreter of uops."""

from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset, memcmp
from manor.engine.env cimport Env
from manor.engine.isa.x86.bits cimport canonical
from manor.engine.softmmu_native cimport load_slow, store_slow, load128_slow, store128_slow, raise_fault
from manor.engine.softmmu_native cimport lock_split, rmw_pointer, unlock_split
from manor.engine.uop.uop cimport SIDE_EXIT, Uop
from manor.engine.vm cimport Block, Vm, helper_fn
from manor.engine.vector_interp cimport *

cdef extern from *:
    ctypedef unsigned long long uint128_t "unsigned __int128"
    ctypedef long long int128_t "__int128"
    uint16_t __builtin_bswap16(uint16_t) nogil
    uint32_t __builtin_bswap32(uint32_t) nogil
    uint64_t __builtin_bswap64(uint64_t) nogil
    int __builtin_popcountll(uint64_t) nogil
    int __builtin_ctzll(uint64_t) nogil
    int __builtin_clzll(uint64_t) nogil
    uint64_t __atomic_fetch_add(void *, uint64_t, int) nogil
    uint64_t __atomic_fetch_and(void *, uint64_t, int) nogil
    uint64_t __atomic_fetch_or(void *, uint64_t, int) nogil
    uint64_t __atomic_fetch_xor(void *, uint64_t, int) nogil
    uint64_t __atomic_exchange_n(void *, uint64_t, int) nogil
    bint __atomic_compare_exchange_n(void *, void *, uint64_t, bint, int, int) nogil

cdef uint64_t TLB_MASK = {tlb_mask}
cdef uint64_t PAGE_FRAME_MASK = <uint64_t>-4096
cdef helper_fn helpers[1024]


def set_helper(int number, uint64_t address):
    """Register a native helper's address under its number in the helper catalog."""
    helpers[number] = <helper_fn><void*>address


cdef inline uint8_t *vector_cell(Env *env, int index) noexcept nogil:
    """xmm registers, or from 32 the mmx registers: mantissas of the x87 registers."""
    if index >= 32:
        return <uint8_t*>&env.fpr[(index - 32) * 2]
    return <uint8_t*>&env.xmm[index * 2]


cdef Block *interpret(Env *env, Block *block) noexcept nogil:
    """Run a block. Returns it with env.rip at the successor, or NULL with env.fault set."""
    cdef Uop *u = <Uop*>block.uops
    cdef uint64_t *r = &env.regs[0]
    cdef uint32_t mode = (env.block_flags >> 6) & 3
    cdef uint64_t *tlb = &env.tlb[mode * {tlb_words}]
    cdef uint64_t *e
    cdef uint64_t addr, value, ra, rb, rd
    cdef int64_t imm
    cdef uint8_t *p
    cdef uint8_t *xd
    cdef uint8_t *xa
    cdef uint8_t *xb
    cdef uint8_t expected8
    cdef uint16_t expected16
    cdef uint32_t expected32
    cdef uint64_t expected64
    cdef int op
    env.insn_count += block.insn_count
    while True:
        op = u.op
'''


def render() -> str:
    """The whole module."""
    head = (
        _HEAD.replace("{tlb_mask}", str(TLB_ENTRIES - 1))
        .replace("{tlb_words}", str(TLB_ENTRIES * 4))
    )
    assert MMU_MODES <= 4
    lines = [head.rstrip("\n")]
    for number, op in enumerate(OPS):
        lines.append(f"        {'el' if number else ''}if op == {number}:  # {op.name}")
        lines += [f"            {line}" for line in render_op(op)]
    lines += ["        u += 1", ""]
    return "\n".join(lines)


def render_pxd() -> str:
    """The declarations that other modules cimport."""
    return (
        "# Generated by manor.engine.uop.emit_interp; do not edit.\n"
        "from manor.engine.env cimport Env\n"
        "from manor.engine.vm cimport Block, helper_fn\n\n"
        "cdef helper_fn helpers[1024]\n"
        "cdef Block *interpret(Env *env, Block *block) noexcept nogil\n"
    )
