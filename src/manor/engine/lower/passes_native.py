# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False

"""Passes over the uops of one block, before they are interpreted or turned into host code.

Copies are propagated, what nobody reads is dropped, and results are computed where they belong. The state stays precise: whatever may leave the
block (a memory access, a helper that may fault, a side exit, the end) reads every register that is not a temporary.
Temporaries die at the end of their guest instruction.

WHY NATIVE: run for every block. SAFETY: uops are read and written within [0, count); register numbers
come from the translator and are below 64. Threads: any; the tables are filled while modules load.
"""

import cython
from cython.cimports.libc.stdint import uint8_t, uint64_t
from cython.cimports.libc.string import memcpy
from cython.cimports.manor.engine.lower.passes_native import (
    KIND_BINARY,
    KIND_BINARY_IMM,
    KIND_BRANCH,
    KIND_BRANCH_IMM,
    KIND_CMPXCHG,
    KIND_HELPER,
    KIND_LOAD,
    KIND_MOVE,
    KIND_MOVE_IMM,
    KIND_NOP,
    KIND_RMW,
    KIND_STORE,
    KIND_UNARY,
    KIND_UPDATE,
    KIND_VECTOR_LOAD,
    KIND_VECTOR_STORE,
    MAX_HELPERS,
    MAX_OPS,
    ONE,
    OP_A_IS_VREG,
    OP_B_IS_VREG,
    OP_CLEAN32,
    OP_COMMUTATIVE,
    OP_D_IS_VREG,
    OP_MUST_ALIGN,
    OP_READS_D,
    OP_SHIFT_AMOUNT,
    HelperInfo,
    OpInfo,
    ctz64,
)
from cython.cimports.manor.engine.uop.uop import Uop

from manor.engine import env as _env
from manor.engine.lower import layout as _layout
from manor.engine.uop.table import NUMBER as _NUMBER

cython.declare(
    ops=OpInfo[2048], helpers=HelperInfo[1024], op_count=cython.int, helper_count=cython.int, ADD64=cython.int,
    ZEXT32=cython.int, AND64I=cython.int, ADD64I=cython.int, MOV=cython.int, AND32=cython.int, AND64=cython.int,
    OR32=cython.int, OR64=cython.int, CC_DST=cython.int, PXOR=cython.int, XZERO=cython.int,
    TEMPORARY_MASK=uint64_t, ARCHITECTURAL_MASK=uint64_t,
)  # fmt: skip


def _mask(vregs):
    """Bit mask of a tuple of virtual registers; None: all that are not temporaries."""
    if vregs is None:
        return ((1 << _env.VREG_COUNT) - 1) & ~_temporaries()
    return sum({1 << v for v in vregs})


def _temporaries():
    return sum(1 << v for v in _env.TEMPORARY_VREGS)


def load_ops(path) -> None:
    """Read the properties of the uops that the build wrote (ops.bin). Once, before any block is translated.

    ValueError if the file is not for this engine.
    """
    global op_count, ADD64
    with open(path, "rb") as file:
        data: bytes = file.read()
    count: cython.int = int.from_bytes(data[8:12], "little")
    source: cython.p_const_char = data
    if data[:8] != _layout.OPS_MAGIC or count > MAX_OPS or len(data) != 16 + count * cython.sizeof(OpInfo):
        raise ValueError(f"{path} does not hold the uops of this engine: build it again")
    memcpy(ops, source + 16, count * cython.sizeof(OpInfo))
    op_count = count
    ADD64 = int.from_bytes(data[12:16], "little")


def set_helpers(table, addresses) -> None:
    """Make the native helpers known: `uop.helper.Helper` records by number, and their addresses by name.

    Once, before the first block is translated. KeyError if an address is missing.
    """
    global helper_count
    index: cython.int
    if len(table) > MAX_HELPERS:
        raise ValueError(f"{len(table)} helpers, room for {MAX_HELPERS}")
    for index, helper in enumerate(table):
        helpers[index].address = addresses[helper.name]
        helpers[index].reads = _mask(helper.reads)
        helpers[index].writes = _mask(helper.writes)
        helpers[index].faults = helper.faults
        helpers[index].pure = helper.pure
    helper_count = len(table)


def numbers() -> dict:
    """Numbers that the build shares with this module, for a test that they agree."""
    return {
        "UNARY": KIND_UNARY, "LOAD": KIND_LOAD, "HELPER": KIND_HELPER, "VECTOR_STORE": KIND_VECTOR_STORE,
        "NOP": KIND_NOP, "OpInfo": cython.sizeof(OpInfo), "READS_D": OP_READS_D, "MUST_ALIGN": OP_MUST_ALIGN,
        "COMMUTATIVE": OP_COMMUTATIVE, "SHIFT_AMOUNT": OP_SHIFT_AMOUNT, "B_IS_VREG": OP_B_IS_VREG,
    }  # fmt: skip


ZEXT32 = _NUMBER["zext32"]
AND64I = _NUMBER["and64i"]
ADD64I = _NUMBER["add64i"]
MOV = _NUMBER["mov"]
AND32 = _NUMBER["and32"]
AND64 = _NUMBER["and64"]
OR32 = _NUMBER["or32"]
OR64 = _NUMBER["or64"]
CC_DST = _env.CC_DST
PXOR = _NUMBER["pxor"]
XZERO = _NUMBER["xzero"]
TEMPORARY_MASK = _temporaries()
ARCHITECTURAL_MASK = _mask(None)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def op_table() -> cython.pointer(OpInfo):
    return cython.address(ops[0])


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def helper_table() -> cython.pointer(HelperInfo):
    return cython.address(helpers[0])


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def add64_op() -> cython.int:
    """Number of the uop that adds two registers."""
    return ADD64


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def propagate_copies(uops: cython.pointer(Uop), count: cython.int) -> cython.void:
    """Let readers of a copy read what it was copied from; operations that change nothing become copies."""
    source: uint8_t[64]
    copies: uint64_t = 0  # registers that are copies
    origins: uint64_t = 0  # registers that some copy was made of
    clean: uint64_t = 0  # registers whose upper half is zero
    killed: uint64_t
    rest: uint64_t
    index: cython.int
    v: cython.int
    u: cython.pointer(Uop)
    info: cython.pointer(OpInfo)
    for index in range(count):
        u = uops + index
        info = cython.address(ops[u.op])
        if index and u.insn != uops[index - 1].insn and (copies | origins) & TEMPORARY_MASK:
            copies &= ~TEMPORARY_MASK
            rest = copies
            while rest:
                v = ctz64(rest)
                rest &= rest - 1
                if (TEMPORARY_MASK >> source[v]) & 1:
                    copies &= ~(ONE << v)
            origins &= ~TEMPORARY_MASK
        if info.flags & OP_A_IS_VREG and (copies >> u.a) & 1:
            u.a = source[u.a]
        if info.flags & OP_B_IS_VREG and (copies >> u.b) & 1:
            u.b = source[u.b]
        if (u.op == AND32 or u.op == OR32) and u.a == u.b:
            # TEST of a register with itself. Whoever reads the lazy result looks at its width only.
            u.op = MOV if u.d == CC_DST else ZEXT32
            info = cython.address(ops[u.op])
        if (
            (u.op == ZEXT32 and (clean >> u.a) & 1)
            or ((u.op == AND64 or u.op == OR64) and u.a == u.b)
            or (u.op == AND64I and u.imm == -1)
            or (u.op == ADD64I and u.imm == 0)
        ):
            u.op = MOV
            info = cython.address(ops[MOV])
        elif u.op == PXOR and u.a == u.b and u.a == u.d:
            u.op = XZERO
            continue
        if info.kind == KIND_MOVE and u.d == u.a:
            u.op = 0
            continue
        killed = ONE << u.d if info.flags & OP_D_IS_VREG else 0
        if info.kind == KIND_HELPER:
            killed |= helpers[u.x].writes
        if info.flags & OP_CLEAN32 or (info.kind == KIND_MOVE and (clean >> u.a) & 1):
            clean |= killed
        elif info.kind == KIND_MOVE_IMM and cython.cast(uint64_t, u.imm) >> 32 == 0:
            clean |= killed
        else:
            clean &= ~killed
        copies &= ~killed
        if origins & killed:
            rest = copies
            while rest:
                v = ctz64(rest)
                rest &= rest - 1
                if (killed >> source[v]) & 1:
                    copies &= ~(ONE << v)
            origins &= ~killed
        if info.kind == KIND_MOVE:
            source[u.d] = u.a
            copies |= ONE << u.d
            origins |= ONE << u.a


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def drop_dead(uops: cython.pointer(Uop), count: cython.int) -> cython.int:
    """Remove uops whose result nobody reads; returns the new count."""
    live: uint64_t = ARCHITECTURAL_MASK
    d: uint64_t
    index: cython.int
    kept: cython.int = 0
    u: cython.pointer(Uop)
    info: cython.pointer(OpInfo)
    kind: cython.int
    for index in range(count - 1, -1, -1):
        u = uops + index
        info = cython.address(ops[u.op])
        kind = info.kind
        if index + 1 < count and u.insn != uops[index + 1].insn:
            live &= ~TEMPORARY_MASK
        d = ONE << u.d if info.flags & OP_D_IS_VREG else 0
        if (
            kind in (KIND_UNARY, KIND_BINARY, KIND_BINARY_IMM, KIND_UPDATE, KIND_MOVE, KIND_MOVE_IMM, KIND_NOP)
            or (kind == KIND_HELPER and helpers[u.x].pure)
        ) and not live & d:
            u.op = 0
            continue
        live &= ~d
        if info.flags & OP_READS_D:
            live |= d
        if info.flags & OP_A_IS_VREG:
            live |= ONE << u.a
        if info.flags & OP_B_IS_VREG:
            live |= ONE << u.b
        if kind == KIND_HELPER:
            live |= helpers[u.x].reads | helpers[u.x].writes
            if helpers[u.x].faults:
                live |= ARCHITECTURAL_MASK
        elif kind in (
            KIND_LOAD, KIND_STORE, KIND_RMW, KIND_CMPXCHG, KIND_VECTOR_LOAD, KIND_VECTOR_STORE, KIND_BRANCH,
            KIND_BRANCH_IMM,
        ):  # fmt: skip
            live |= ARCHITECTURAL_MASK
    for index in range(count):
        if ops[uops[index].op].kind != KIND_NOP:
            if kept != index:
                uops[kept] = uops[index]
            kept += 1
    return kept


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def compute_in_place(uops: cython.pointer(Uop), count: cython.int) -> cython.int:
    """Let the uop that computes a temporary write the register that it is then moved to; returns the new count.

    Templates compute into temporaries, since what may fault must come before what changes; most often nothing
    stands between the two.
    """
    index: cython.int
    kept: cython.int = 0
    origin: cython.int
    u: cython.pointer(Uop)
    for index in range(count):
        u = uops + kept
        if kept != index:
            u[0] = uops[index]
        kept += 1
        if ops[u.op].kind == KIND_MOVE and (TEMPORARY_MASK >> u.a) & 1 and is_dead_after(uops, index, count, u.a):
            origin = find_origin(uops, kept - 1)
            if origin >= 0:
                rename(uops, origin, kept - 1)
                kept -= 1
    return kept


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def find_origin(uops: cython.pointer(Uop), index: cython.int) -> cython.int:
    """The uop that computes what the move at `index` moves, if only moves of other registers lie between; else -1."""
    move: cython.pointer(Uop) = uops + index
    u: cython.pointer(Uop)
    kind: cython.int
    while index:
        index -= 1
        u = uops + index
        if u.insn != move.insn:
            return -1
        if writes_alone(u, move.a):
            return index
        kind = ops[u.op].kind
        if kind != KIND_MOVE and kind != KIND_MOVE_IMM:
            return -1
        if u.d == move.d or u.d == move.a or (kind == KIND_MOVE and u.a == move.d):
            return -1
    return -1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def rename(uops: cython.pointer(Uop), origin: cython.int, index: cython.int) -> cython.void:
    """Let `origin` write what the move at `index` writes, and the moves between read it there."""
    move: cython.pointer(Uop) = uops + index
    between: cython.int
    for between in range(origin + 1, index):
        if ops[uops[between].op].kind == KIND_MOVE and uops[between].a == move.a:
            uops[between].a = move.d
    uops[origin].d = move.d


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
@cython.inline
def writes_alone(u: cython.pointer(Uop), v: cython.int) -> cython.bint:
    """Whether a uop does no more than computing register `v`."""
    kind: cython.int = ops[u.op].kind
    return u.d == v and (kind == KIND_UNARY or kind == KIND_BINARY or kind == KIND_BINARY_IMM or kind == KIND_LOAD)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def is_dead_after(uops: cython.pointer(Uop), start: cython.int, count: cython.int, v: cython.int) -> cython.bint:
    """Whether the guest instruction of the uop at `start` does not read the temporary `v` behind it."""
    insn: cython.int = uops[start].insn
    info: cython.pointer(OpInfo)
    index: cython.int
    for index in range(start + 1, count):
        if uops[index].insn != insn:
            return True
        info = cython.address(ops[uops[index].op])
        if info.flags & OP_A_IS_VREG and uops[index].a == v:
            return False
        if info.flags & OP_B_IS_VREG and uops[index].b == v:
            return False
        if info.flags & OP_READS_D and uops[index].d == v:
            return False
        if info.kind == KIND_HELPER and (helpers[uops[index].x].reads >> v) & 1:
            return False
        if info.flags & OP_D_IS_VREG and uops[index].d == v:
            return True
    return True


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def optimize(uops: cython.pointer(Uop), count: cython.int) -> cython.int:
    """Improve a block in place; returns the new number of uops. The last one stays the terminal."""
    propagate_copies(uops, count)
    return compute_in_place(uops, drop_dead(uops, count))
