# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Passes over the uops of one block, before they are interpreted or turned into host code.

Copies are propagated, then what nobody reads is dropped. The state stays precise: whatever may leave the
block (a memory access, a helper that may fault, the end) reads every register that is not a temporary.
Temporaries die at the end of their guest instruction.

WHY NATIVE: run for every block. SAFETY: uops are read and written within [0, count); register numbers
come from the translator and are below 64. Threads: any; the tables are filled while modules load.
"""

import cython
from cython.cimports.libc.stdint import int16_t, int32_t, uint8_t, uint16_t, uint64_t
from cython.cimports.manor.engine.lower.passes_native import (
    KIND_BINARY,
    KIND_BINARY_IMM,
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
    OP_D_IS_VREG,
    OP_READS_D,
    HelperInfo,
    OpInfo,
    ctz64,
)
from cython.cimports.manor.engine.uop.uop import Uop

from manor.engine import env as _env
from manor.engine.lower import forms as _forms
from manor.engine.uop.ops import Kind

cython.declare(
    ops=OpInfo[2048], helpers=HelperInfo[1024], op_count=cython.int, helper_count=cython.int,
    TEMPORARY_MASK=uint64_t, ARCHITECTURAL_MASK=uint64_t,
)  # fmt: skip


def _mask(vregs):
    """Bit mask of a tuple of virtual registers; None: all that are not temporaries."""
    if vregs is None:
        return ((1 << _env.VREG_COUNT) - 1) & ~_temporaries()
    return sum({1 << v for v in vregs})


def _temporaries():
    return sum(1 << (_env.T0 + i) for i in range(_env.TEMPORARIES)) | 1 << _env.EA | 1 << _env.EA2


def _fill_ops():
    global op_count
    index: cython.int
    infos = _forms.op_infos()
    if len(infos) > MAX_OPS:
        raise ValueError(f"{len(infos)} uops, room for {MAX_OPS}")
    expected = (KIND_UNARY, KIND_LOAD, KIND_HELPER, KIND_VECTOR_STORE, KIND_NOP)
    kinds = (Kind.UNARY, Kind.LOAD, Kind.HELPER, Kind.VECTOR_STORE, Kind.NOP)
    if tuple(_forms.KIND_NUMBER[k] for k in kinds) != expected:
        raise ValueError("passes_native.pxd numbers the kinds differently from uop.ops")
    for index, info in enumerate(infos):
        ops[index].kind = info.kind
        ops[index].bits = info.bits if info.bits < 256 else 0
        ops[index].modulus = info.modulus
        ops[index].rmw = info.rmw
        ops[index].flags = info.flags
        ops[index].stencils = info.stencils
        ops[index].imm_op = info.imm_op
        ops[index].zero_shift = info.zero_shift
    op_count = len(infos)


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


TEMPORARY_MASK = _temporaries()
ARCHITECTURAL_MASK = _mask(None)
_fill_ops()


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
def propagate_copies(uops: cython.pointer(Uop), count: cython.int) -> cython.void:
    """Let readers of a copy read what it was copied from."""
    source: uint8_t[64]
    copies: uint64_t = 0  # registers that are copies
    origins: uint64_t = 0  # registers that some copy was made of
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
        if info.kind == KIND_MOVE and u.d == u.a:
            u.op = 0
            continue
        killed = ONE << u.d if info.flags & OP_D_IS_VREG else 0
        if info.kind == KIND_HELPER:
            killed |= helpers[u.x].writes
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
            kind == KIND_UNARY
            or kind == KIND_BINARY
            or kind == KIND_BINARY_IMM
            or kind == KIND_UPDATE
            or kind == KIND_MOVE
            or kind == KIND_MOVE_IMM
            or kind == KIND_NOP
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
        elif (
            kind == KIND_LOAD
            or kind == KIND_STORE
            or kind == KIND_RMW
            or kind == KIND_CMPXCHG
            or kind == KIND_VECTOR_LOAD
            or kind == KIND_VECTOR_STORE
        ):
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
def optimize(uops: cython.pointer(Uop), count: cython.int) -> cython.int:
    """Improve a block in place; returns the new number of uops. The last one stays the terminal."""
    propagate_copies(uops, count)
    return drop_dead(uops, count)
