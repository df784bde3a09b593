"""What the stencil generator and the emitter agree on: forms, holes, operation properties.

A *stencil* is the host code of one uop with holes. Its operands sit in *slots* (host registers
that live through the whole block) or, for rare uops, in their cells of the vCPU (`env`).
No import of LLVM here: this module is used at run time too.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Final

from manor.engine.uop.ops import TERMINALS, Kind, Op
from manor.engine.uop.table import NUMBER, OPS
from manor.engine.uop.vector_ops import VectorOp

SLOTS: Final = 8
"""Host registers that hold virtual registers; stencils of two operands exist SLOTS squared times."""
XSLOTS: Final = 6
"""Host vector registers that hold xmm registers of the guest (as many as the calling convention passes)."""


class Form(IntEnum):
    """Which operands of a stencil are in slots. The first slot named varies slowest."""

    RR = 0
    """BINARY: d is a, b. UNARY, LOAD: d, a. STORE: b, a. BRANCH: a, b. UPDATE: d, a, b."""
    RI = 1
    """BINARY_IMM: d is a. STORE: a, the value is an immediate. BRANCH_IMM, JUMP_INDIRECT: a. VECTOR_LOAD,
    VECTOR_STORE: a. UNARY: d is a. HELPER: d."""
    MEMORY = 2
    """All operands in env: VECTOR, RMW, CMPXCHG, HELPER without a result."""
    RR_COLD = 3
    """Slow-path twin of RR, out of line."""
    RI_COLD = 4
    MEMORY_COLD = 5
    RI_WIDE = 6
    """HELPER: d, with an immediate beyond 32 bits."""
    MEMORY_WIDE = 7
    RM = 8
    """Rare BINARY: d is a, b in memory."""
    X = 9
    """Frequent VECTOR operations, VECTOR_LOAD (d, a), VECTOR_STORE (b, a): xmm operands in xmm slots; see `Shape`."""
    X_COLD = 10


FORMS: Final = len(Form)


class Shape(IntEnum):
    """Operands of the X form of a VECTOR operation, the first varies slowest."""

    NONE = 0
    """There is no X form."""
    DB = 1
    """d is a; b."""
    DA = 2
    """d, a."""
    DR = 3
    """d; a is a virtual register in a slot."""
    RA = 4
    """d is a virtual register in a slot; a."""
    AB = 5
    """a, b; the result goes to d's cell."""
    AR = 6
    """a; b is a virtual register in a slot; the result goes to d's cell."""
    D = 7
    """d (is a, if there is an a)."""


SHAPE_ARITY: Final[dict[Shape, tuple[int, ...]]] = {
    Shape.DB: (XSLOTS, XSLOTS), Shape.DA: (XSLOTS, XSLOTS), Shape.DR: (XSLOTS, SLOTS), Shape.RA: (SLOTS, XSLOTS),
    Shape.AB: (XSLOTS, XSLOTS), Shape.AR: (XSLOTS, SLOTS), Shape.D: (XSLOTS,),
}  # fmt: skip
_IN_SLOTS: Final = re.compile(
    r"(add|sub|mul|div|min|max|sqrt)s[sd](_m)?|(add|sub|mul|div)p[sd]|cvtsi\d+_s[sd]|cvtt?s[sd]_si\d+"
    r"|cvt(ss2sd|sd2ss)(_m)?|u?comis[sd](_m)?|cmpsd_[0-7](_m)?|pand|por|pxor|pandn|p(add|sub|cmpeq)[bwdq]|pcmpgt[bwd]"
    r"|p(min|max)ub|pmovmskb|movmskp[sd]|punpck[lh]\w+|ps(ll|rl)[dq]i|psradi|pmuludq|pmulld|pmaddwd|cvtdq2p[sd]"
    r"|pshufd_(0|68|78|80|85|170|177|229|238|245|255)|xmove(32|64)?|xzero|xset64|xget(32|64)_0|xget64_1|xput64_[01]"
)
"""The operations that have an X form: what compiled programs consist of."""


def shape(op: Op) -> Shape:
    """Shape of the X form of a VECTOR operation."""
    if not isinstance(op, VectorOp) or not _IN_SLOTS.fullmatch(op.name):
        return Shape.NONE
    shapes = {
        ("x", "x", ""): Shape.DA, ("x", "r", ""): Shape.DR, ("r", "x", ""): Shape.RA, ("r", "x", "x"): Shape.AB,
        ("r", "x", "r"): Shape.AR, ("x", "", ""): Shape.D,
    }  # fmt: skip
    if op.tie == "a":
        return Shape.DB if op.b else Shape.D
    return shapes[op.d, op.a, op.b]


def keeps_old(op: VectorOp) -> bool:
    """Whether an X form needs the old value of its xmm destination."""
    return op.d == "x" and (bool(op.tie) or op.d_bits < 128 or op.name.startswith("xput"))


class Hole(IntEnum):
    """What is written into a hole when a stencil is copied."""

    IMM = 0
    """The immediate, at the width of the relocation."""
    LOW = 1
    """Its low 32 bits."""
    HIGH = 2
    SHIFT = 3
    """The immediate as an 8-bit shift amount."""
    SHIFT_NEGATED = 4
    """addend - shift amount: LLVM turned the rotation round."""
    D = 5
    """Offset of operand d's cell in env."""
    A = 6
    B = 7
    TLB = 8
    """Offset of the TLB of the block's MMU mode in env."""
    META = 9
    """Argument of a slow path: size | mode << 8 | operation << 16."""
    PC_LOW = 10
    PC_HIGH = 11
    COUNT = 12
    """Instructions: of the block (head), or not executed (fault exit)."""
    CALLEE = 13
    FLAGS = 14
    """Block flags << JUMP_KEY_SHIFT."""
    COLD = 15
    NEXT = 16
    EXIT0 = 17
    EXIT1 = 18
    VALUE = 19
    """A constant to be stored, sign-extended from 32 bits (the displacement is IMM)."""
    NEGATED = 20
    """-immediate: LLVM turned a subtraction into an addition."""


class Patch(IntEnum):
    """How a value is written into the code: the host's relocation types, reduced."""

    ABS64 = 0
    ABS32 = 1
    ABS16 = 2
    ABS8 = 3
    REL32 = 4
    """x86-64: target - place + addend."""
    # AArch64 hosts will add MOVW groups and BRANCH26 here.


class Special(IntEnum):
    """Stencils that belong to no uop. Arity (slots it is made for) in SPECIAL_ARITY."""

    ENTER = 0
    THUNK = 1
    HEAD = 2
    EXIT_STUB = 3
    LEAVE = 4
    LOAD_SLOT = 5
    STORE_SLOT = 6
    STORE_CONST32 = 7
    STORE_CONST64 = 8
    MOVE = 9
    CONST_ZERO = 10
    CONST_U32 = 11
    CONST_S32 = 12
    CONST_64 = 13
    DISPATCH = 14
    """Go on at env.rip: through the jump cache if nothing else is to be done first, else leave."""
    THUNK_ALL = 15
    """A thunk that keeps the vector registers too."""
    LOAD_X = 16
    STORE_X = 17
    MOVE_X = 18
    UNCOUNT = 19
    """Take the instructions back that a side exit leaves out."""


SPECIAL_ARITY: Final[dict[Special, int | tuple[int, ...]]] = {
    Special.LOAD_X: (XSLOTS,), Special.STORE_X: (XSLOTS,), Special.MOVE_X: (XSLOTS, XSLOTS),
    Special.LOAD_SLOT: 1, Special.STORE_SLOT: 1, Special.MOVE: 2, Special.CONST_ZERO: 1,
    Special.CONST_U32: 1, Special.CONST_S32: 1, Special.CONST_64: 1,
}  # fmt: skip

THUNK_CALL, THUNK_LOAD, THUNK_STORE, THUNK_RMW, THUNK_CMPXCHG, THUNK_LOADX, THUNK_STOREX, THUNK_CALL_ALL = range(8)
"""Cells of env.thunks: the calling thunk, the addresses of `layout.SLOW_PATHS`, the thunk that saves all."""
THUNK_HEAD_SIZE: Final = 15
"""Cell of env.thunks that holds no address: how far into a block its look for interrupts reaches."""

META_ALIGNED: Final = 1 << 24
"""In META: a 16-byte access must be aligned to 16, else #GP(0)."""
RMW_ADD, RMW_AND, RMW_OR, RMW_XOR, RMW_XCHG = range(5)
RMW_OPERATIONS: Final = {"add": RMW_ADD, "and": RMW_AND, "or": RMW_OR, "xor": RMW_XOR, "xchg": RMW_XCHG}

KINDS: Final = tuple(Kind)
KIND_NUMBER: Final = {kind: number for number, kind in enumerate(KINDS)}

# properties of an operation, as the emitter reads them
COMMUTATIVE: Final = 1
SWAP_OPERANDS: Final = 2
"""The stencils are those of the mirrored relation: exchange a and b."""
SWAP_EXITS: Final = 4
"""The stencils are those of the negated relation: exchange the exits."""
SHIFT_AMOUNT: Final = 8
"""The immediate is a shift amount; zero needs another operation (see `zero_shift`)."""
TERMINAL: Final = 16
IN_PLACE: Final = 32
"""UNARY with d is a only (form RI)."""
D_IS_VREG: Final = 64
A_IS_VREG: Final = 128
B_IS_VREG: Final = 256
MUST_ALIGN: Final = 8192
"""16-byte access to a multiple of 16."""
CLEAN32: Final = 16384
"""The result's upper half is zero."""
READS_D: Final = 512
D_IS_XMM: Final = 1024
A_IS_XMM: Final = 2048
B_IS_XMM: Final = 4096


@dataclass(frozen=True, slots=True)
class OpInfo:
    """Run-time properties of one uop operation.

    stencils: number of the op whose stencils it uses. imm_op: its immediate form or -1.
    bits: memory access width; for ops with an immediate 64 if the immediate must fit 32 bits signed.
    modulus: of a shift amount. zero_shift: the op that replaces a shift by zero. rmw: of an atomic operation;
    of a VECTOR the Shape, modulus then says whether it needs the old value of its xmm destination.
    """

    kind: int
    flags: int
    bits: int
    stencils: int
    imm_op: int = -1
    modulus: int = 0
    zero_shift: int = 0
    rmw: int = 0


_MIRROR: Final = {"uge": "ule", "ugt": "ult", "sge": "sle", "sgt": "slt"}
_BRANCH: Final = {
    "ne": ("eq", SWAP_EXITS), "uge": ("ult", SWAP_EXITS), "sge": ("slt", SWAP_EXITS),
    "ugt": ("ult", SWAP_OPERANDS), "sgt": ("slt", SWAP_OPERANDS),
    "ule": ("ult", SWAP_OPERANDS | SWAP_EXITS), "sle": ("slt", SWAP_OPERANDS | SWAP_EXITS),
}  # fmt: skip
_BRANCH_IMM: Final = {
    "ne": ("eq", SWAP_EXITS), "uge": ("ult", SWAP_EXITS), "sge": ("slt", SWAP_EXITS),
    "ule": ("ugt", SWAP_EXITS), "sle": ("sgt", SWAP_EXITS),
}  # fmt: skip
_COMMUTATIVE: Final = ("add", "and", "or", "xor", "mul", "set_eq", "set_ne")
_FULL_UNARY: Final = ("zext8", "zext16", "zext32", "sext8", "sext16", "sext32", "extract8h")
_RARE_BINARY: Final = ("rol", "ror", "mulh", "insert8h")
_SHIFTS: Final = ("shl", "shr", "sar", "rol", "ror")


_CLEAN32: Final = re.compile(
    r"(add|sub|and|or|xor|mul|shl|shr|sar|rol|ror|not|neg|bswap|ctpop|cttz|ctlz)32i?|zext\d+|ld(8|16|32)|ld\d+s32"
    r"|sext\d+to32|extract8h|parity8|set_\w+|ro[lr](8|16)i?|ct\w+(16|64)"
)


def operation_bits(op: Op) -> int:
    """The width an integer op works at, from its name (see uop.ops)."""
    stem = op.name.removesuffix("i").rstrip("_h")
    for bits in (64, 32, 16, 8):
        if stem.endswith(str(bits)):
            return bits
    return 64


def describe(op: Op) -> OpInfo:
    """Properties of `op`."""
    flags = 0
    name = op.name
    stencils, imm_op, modulus, zero_shift, bits, rmw = NUMBER[name], -1, 0, 0, op.bits, 0
    for letter, operand in (("D", op.d), ("A", op.a), ("B", op.b)):
        if operand:
            flags |= globals()[f"{letter}_IS_VREG" if operand == "r" else f"{letter}_IS_XMM"]
    if op.kind in (Kind.UPDATE, Kind.CMPXCHG):
        flags |= READS_D
    if op.kind in TERMINALS:
        flags |= TERMINAL
    if op.name in ("ldxa", "stxa"):
        flags |= MUST_ALIGN
    if op.kind in (Kind.BINARY, Kind.BINARY_IMM, Kind.BRANCH, Kind.BRANCH_IMM):
        bits = operation_bits(op)
        imm_op = NUMBER.get(name + "i", -1) if op.kind in (Kind.BINARY, Kind.BRANCH) else -1
        if name.startswith(_COMMUTATIVE) and not name.startswith("addsl"):
            flags |= COMMUTATIVE
        if name.startswith(_SHIFTS) and op.kind is Kind.BINARY_IMM:
            flags |= SHIFT_AMOUNT
            modulus = bits
            zero_shift = NUMBER["mov" if bits == 64 else f"zext{bits}"]
    if name.startswith(("set_", "br_")):
        prefix, relation, rest = name[: name.index("_") + 1], name.split("_")[1], ""
        relation, rest = relation.rstrip("0123456789i"), name[len(prefix) + len(relation.rstrip("0123456789i")) :]
        if op.kind is Kind.BINARY and relation in _MIRROR:
            flags |= SWAP_OPERANDS
            stencils = NUMBER[prefix + _MIRROR[relation] + rest]
        elif op.kind is Kind.BRANCH and relation in _BRANCH:
            relation, extra = _BRANCH[relation]
            flags |= extra
            stencils = NUMBER[prefix + relation + rest]
        elif op.kind is Kind.BRANCH_IMM and relation in _BRANCH_IMM:
            relation, extra = _BRANCH_IMM[relation]
            flags |= extra
            stencils = NUMBER[prefix + relation + rest]
    if op.d == "r" and _CLEAN32.fullmatch(name):
        flags |= CLEAN32
    if op.kind is Kind.UNARY and name not in _FULL_UNARY:
        flags |= IN_PLACE
    if op.kind is Kind.RMW:
        rmw = RMW_OPERATIONS[name.removeprefix("rmw_").rstrip("0123456789")]
    if isinstance(op, VectorOp):
        rmw, modulus = shape(op), int(keeps_old(op))
    return OpInfo(KIND_NUMBER[op.kind], flags, bits, stencils, imm_op, modulus, zero_shift, rmw)


def op_infos() -> tuple[OpInfo, ...]:
    """`describe` of every uop, by number."""
    return tuple(describe(op) for op in OPS)


def forms_of(op: Op) -> tuple[tuple[Form, int | tuple[int, ...]], ...]:
    """Forms to generate for `op`, each with its arity: number of slots that vary, or how many of each there are."""
    if describe(op).stencils != NUMBER[op.name]:
        return ()
    match op.kind:
        case Kind.BINARY if op.name.startswith(_RARE_BINARY) or op.name.endswith(("8_", "16_")):
            return ((Form.RM, 1),)
        case Kind.BINARY | Kind.BRANCH:
            return ((Form.RR, 2),)
        case Kind.UPDATE:
            return ((Form.RR, 3),)
        case Kind.BINARY_IMM | Kind.BRANCH_IMM | Kind.JUMP_INDIRECT:
            return ((Form.RI, 1),)
        case Kind.UNARY:
            return ((Form.RR, 2),) if op.name in _FULL_UNARY else ((Form.RI, 1),)
        case Kind.LOAD:
            return ((Form.RR, 2), (Form.RR_COLD, 2))
        case Kind.STORE:
            return ((Form.RR, 2), (Form.RR_COLD, 2), (Form.RI, 1), (Form.RI_COLD, 1))
        case Kind.RMW | Kind.CMPXCHG:
            return ((Form.MEMORY, 0), (Form.MEMORY_COLD, 0))
        case Kind.VECTOR_LOAD | Kind.VECTOR_STORE:
            return ((Form.RI, 1), (Form.RI_COLD, 1), (Form.X, (XSLOTS, SLOTS)), (Form.X_COLD, (XSLOTS, SLOTS)))
        case Kind.VECTOR if shape(op):
            return ((Form.MEMORY, 0), (Form.X, SHAPE_ARITY[shape(op)]))
        case Kind.VECTOR:
            return ((Form.MEMORY, 0),)
        case Kind.HELPER:
            return ((Form.RI, 1), (Form.MEMORY, 0), (Form.RI_WIDE, 1), (Form.MEMORY_WIDE, 0))
        case _:
            return ()


_GENERATORS: Final = (
    "lower/blob.py", "lower/forms.py", "lower/llvm_context.py", "lower/llvm_vector.py", "lower/stencil.py",
    "uop/ops.py", "uop/vector_ops.py", "env.py",
)  # fmt: skip


def fingerprint() -> bytes:
    """32 bytes over the sources that the stencils are made from; used while the engine is built."""
    digest = hashlib.sha256()
    for name in _GENERATORS:
        digest.update(Path(__file__).parent.parent.joinpath(name).read_bytes())
    return digest.digest()
