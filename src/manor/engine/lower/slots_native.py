# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False

"""Where the guest's registers are within a block: the register allocator, and the ways back to their cells.

Virtual registers live in slots (host registers): loaded when first read, written back at the block's end, before
helpers that look at them, and on the way to a slow path. A `mov` costs nothing: two registers then share a slot. A
constant has no slot until an operation needs one. Temporaries are never written back, unless they are squeezed out of
their slot. Registers of xmm have slots of their own, one each.

WHY NATIVE: it is part of the translator's inner loop. SAFETY: register numbers are below 64, xmm registers' below 32.
Threads: under vm.lock.
"""

import cython
from cython.cimports.libc.stdint import int32_t, int64_t, uint8_t, uint32_t, uint64_t
from cython.cimports.manor.engine.lower.copy_native import put, special_stencil
from cython.cimports.manor.engine.lower.emitter import (
    IN_MEMORY,
    IS_CONSTANT,
    LAST_A,
    LAST_B,
    SLOT_COUNT,
    SPECIAL_CONST_64,
    SPECIAL_CONST_S32,
    SPECIAL_CONST_U32,
    SPECIAL_CONST_ZERO,
    SPECIAL_LOAD_SLOT,
    SPECIAL_LOAD_X,
    SPECIAL_MOVE,
    SPECIAL_STORE_CONST32,
    SPECIAL_STORE_CONST64,
    SPECIAL_STORE_SLOT,
    SPECIAL_STORE_X,
    XMM_REGISTERS,
    XMM_SCRATCH_FIRST,
    XSLOT_COUNT,
    ColdPath,
    Emitter,
)
from cython.cimports.manor.engine.lower.passes_native import ONE, OP_A_IS_VREG, OP_B_IS_VREG, OpInfo, ctz64, op_table
from cython.cimports.manor.engine.uop.uop import Uop

from manor.engine import env as _env

cython.declare(
    ops=cython.pointer(OpInfo), REGS=cython.int, XMM=cython.int, FPR=cython.int, XMM_CELLS=cython.int,
    TEMPORARIES_MASK=uint64_t, S32_MIN=int64_t, S32_MAX=int64_t, U32_LIMIT=int64_t,
)  # fmt: skip
ops = op_table()
REGS = _env.OFFSETS["regs"]
XMM = _env.OFFSETS["xmm"]
FPR = _env.OFFSETS["fpr"]
XMM_CELLS = 32
TEMPORARIES_MASK = sum(1 << v for v in _env.TEMPORARY_VREGS)
S32_MIN = -(1 << 31)
S32_MAX = (1 << 31) - 1
U32_LIMIT = 1 << 32


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
@cython.inline
def fits(value: int64_t) -> cython.bint:
    return S32_MIN <= value <= S32_MAX


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def store(e: cython.pointer(Emitter), v: cython.int) -> cython.void:
    """Bring the cell of a dirty register up to date."""
    e.d = REGS + 8 * v
    if e.place[v] >= 0:
        put(e, special_stencil(SPECIAL_STORE_SLOT) + e.place[v])
    else:
        e.imm = e.constant[v]
        put(e, special_stencil(SPECIAL_STORE_CONST32) if fits(e.imm) else special_stencil(SPECIAL_STORE_CONST64))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def write_back(e: cython.pointer(Emitter), mask: uint64_t) -> cython.void:
    """Store the dirty registers of `mask`; they stay where they are."""
    rest: uint64_t = e.dirty & mask
    e.dirty &= ~mask
    while rest:
        store(e, ctz64(rest))
        rest &= rest - 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def forget(e: cython.pointer(Emitter), v: cython.int) -> cython.void:
    """The register's value is in its cell, or nobody wants it."""
    if e.place[v] >= 0:
        e.holders[e.place[v]] &= ~(ONE << v)
    e.place[v] = IN_MEMORY
    e.dirty &= ~(ONE << v)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def forget_all(e: cython.pointer(Emitter), mask: uint64_t) -> cython.void:
    while mask:
        forget(e, ctz64(mask))
        mask &= mask - 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def take(e: cython.pointer(Emitter)) -> cython.int:
    """A free slot, pinned; the least recently used one is emptied if all hold something."""
    slot: cython.int
    best: cython.int = -1
    for slot in range(SLOT_COUNT):
        if not (e.pinned >> slot) & 1:
            if e.holders[slot] == 0:
                best = slot
                break
            if best < 0 or e.stamp[slot] < e.stamp[best]:
                best = slot
    if e.holders[best]:
        write_back(e, e.holders[best])
        forget_all(e, e.holders[best])
    e.pinned |= 1 << best
    e.clock += 1
    e.stamp[best] = e.clock
    return best


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def put_constant(e: cython.pointer(Emitter), slot: cython.int, value: int64_t) -> cython.void:
    e.imm = value
    if value == 0:
        put(e, special_stencil(SPECIAL_CONST_ZERO) + slot)
    elif 0 < value < U32_LIMIT:
        put(e, special_stencil(SPECIAL_CONST_U32) + slot)
    elif fits(value):
        put(e, special_stencil(SPECIAL_CONST_S32) + slot)
    else:
        put(e, special_stencil(SPECIAL_CONST_64) + slot)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def use(e: cython.pointer(Emitter), v: cython.int) -> cython.int:
    """The slot that holds the register, pinned; loads it if needed."""
    slot: cython.int = e.place[v]
    if slot >= 0:
        e.pinned |= 1 << slot
        e.clock += 1
        e.stamp[slot] = e.clock
        return slot
    slot = take(e)
    if e.place[v] == IS_CONSTANT:
        put_constant(e, slot, e.constant[v])
    else:
        e.a = REGS + 8 * v
        put(e, special_stencil(SPECIAL_LOAD_SLOT) + slot)
    e.place[v] = slot
    e.holders[slot] |= ONE << v
    return slot


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def assign(e: cython.pointer(Emitter), v: cython.int, slot: cython.int) -> cython.void:
    """The register's new value is in `slot`."""
    forget(e, v)
    e.place[v] = slot
    e.holders[slot] |= ONE << v
    e.dirty |= ONE << v


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
@cython.inline
def is_temporary(v: cython.int) -> cython.bint:
    return (TEMPORARIES_MASK >> v) & 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def may_overwrite(e: cython.pointer(Emitter), slot: cython.int, v: cython.int, last: cython.bint,
                  d: cython.int) -> cython.bint:  # fmt: skip
    """Whether the slot that `v` was read from may receive the new value of `d`.

    last: `v` is not read again in this block.
    """
    others: uint64_t = e.holders[slot] & ~(ONE << d)
    if others == 0:
        return True
    return last and v != d and others == ONE << v


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def release(e: cython.pointer(Emitter), v: cython.int, d: cython.int) -> cython.void:
    """Empty the slot of `v`, which is not read again, for the new value of `d`."""
    if v != d:
        if not is_temporary(v):
            write_back(e, ONE << v)
        forget(e, v)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def target_of(e: cython.pointer(Emitter), slot: cython.int, v: cython.int, last: cython.bint,
              d: cython.int) -> cython.int:  # fmt: skip
    """A slot with the value of `v` that the operation may overwrite with `d`."""
    target: cython.int
    if may_overwrite(e, slot, v, last, d):
        release(e, v, d)
        return slot
    target = take(e)
    put(e, special_stencil(SPECIAL_MOVE) + target * SLOT_COUNT + slot)
    return target


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def fresh(e: cython.pointer(Emitter), slot: cython.int, v: cython.int, last: cython.bint,
          d: cython.int) -> cython.int:  # fmt: skip
    """A slot that may be overwritten with `d`, whatever it holds now; `slot` (of `v`) if that is free.

    Changes nothing about who holds what: a cold path must still find the old values.
    """
    own: cython.int = e.place[d]
    if own >= 0 and e.holders[own] == ONE << d:
        e.pinned |= 1 << own
        return own
    if last and is_temporary(v) and e.holders[slot] == ONE << v:
        return slot
    return take(e)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def sync(e: cython.pointer(Emitter), v: cython.int) -> cython.int:
    """Make the register's cell hold its value; returns the cell's offset in env."""
    write_back(e, ONE << v)
    return REGS + 8 * v


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
@cython.inline
def xmm_cell(index: cython.int) -> cython.int:
    """Offset of a vector operand: xmm and scratch registers, then from 32 on the x87 registers."""
    return XMM + 16 * index if index < XMM_CELLS else FPR + 16 * (index - XMM_CELLS)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def x_store(e: cython.pointer(Emitter), x: cython.int) -> cython.void:
    """Bring the cell of a dirty xmm register up to date."""
    e.d = xmm_cell(x)
    put(e, special_stencil(SPECIAL_STORE_X) + e.xplace[x])


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def x_write_back(e: cython.pointer(Emitter), mask: uint32_t) -> cython.void:
    """Store the dirty xmm registers of `mask`; they stay where they are."""
    rest: uint64_t = e.xdirty & mask
    e.xdirty &= ~mask
    while rest:
        x_store(e, ctz64(rest))
        rest &= rest - 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def x_forget(e: cython.pointer(Emitter), x: cython.int) -> cython.void:
    """The register's value is in its cell, or nobody wants it."""
    if e.xplace[x] >= 0:
        e.xholder[e.xplace[x]] = -1
        e.xplace[x] = IN_MEMORY
    e.xdirty &= ~(cython.cast(uint32_t, 1) << x)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def x_forget_scratch(e: cython.pointer(Emitter)) -> cython.void:
    """Scratch registers die at the end of each guest instruction."""
    x: cython.int
    for x in range(XMM_SCRATCH_FIRST, XMM_REGISTERS):
        x_forget(e, x)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def x_forget_all(e: cython.pointer(Emitter)) -> cython.void:
    slot: cython.int
    for slot in range(XSLOT_COUNT):
        if e.xholder[slot] >= 0:
            x_forget(e, e.xholder[slot])


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def x_pin(e: cython.pointer(Emitter), slot: cython.int) -> cython.int:
    e.xpinned |= 1 << slot
    e.clock += 1
    e.xstamp[slot] = e.clock
    return slot


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def x_take(e: cython.pointer(Emitter)) -> cython.int:
    """A free xmm slot, pinned; the least recently used one is emptied if all hold something."""
    slot: cython.int
    best: cython.int = -1
    for slot in range(XSLOT_COUNT):
        if not (e.xpinned >> slot) & 1:
            if e.xholder[slot] < 0:
                best = slot
                break
            if best < 0 or e.xstamp[slot] < e.xstamp[best]:
                best = slot
    if e.xholder[best] >= 0:
        x_write_back(e, cython.cast(uint32_t, 1) << e.xholder[best])
        x_forget(e, e.xholder[best])
    return x_pin(e, best)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def x_use(e: cython.pointer(Emitter), x: cython.int) -> cython.int:
    """The slot that holds the xmm register, pinned; loads it if needed."""
    slot: cython.int = e.xplace[x]
    if slot >= 0:
        return x_pin(e, slot)
    slot = x_take(e)
    e.a = xmm_cell(x)
    put(e, special_stencil(SPECIAL_LOAD_X) + slot)
    e.xplace[x] = slot
    e.xholder[slot] = x
    return slot


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def x_target(e: cython.pointer(Emitter), x: cython.int, keeps: cython.bint) -> cython.int:
    """The slot for the new value of an xmm register. keeps: with its old value."""
    if keeps or e.xplace[x] >= 0:
        return x_use(e, x)
    return x_take(e)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def x_assign(e: cython.pointer(Emitter), x: cython.int, slot: cython.int) -> cython.void:
    """The register's new value is in `slot`, which was got by `x_target`."""
    e.xplace[x] = slot
    e.xholder[slot] = x
    e.xdirty |= cython.cast(uint32_t, 1) << x


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def x_sync(e: cython.pointer(Emitter), x: cython.int) -> cython.int:
    """Make the cell of a vector operand hold its value; returns its offset in env."""
    if x < XMM_REGISTERS:
        x_write_back(e, cython.cast(uint32_t, 1) << x)
    return xmm_cell(x)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def write_back_all(e: cython.pointer(Emitter)) -> cython.void:
    """The end of the block: every register of the guest into its cell."""
    x_forget_scratch(e)
    x_write_back(e, ~cython.cast(uint32_t, 0))
    write_back(e, ~TEMPORARIES_MASK)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def forget_operands(e: cython.pointer(Emitter), u: cython.pointer(Uop), last: cython.int) -> cython.void:
    """Free the slots of temporaries that are not read again."""
    info: cython.pointer(OpInfo) = ops + u.op
    if last & LAST_A and info.flags & OP_A_IS_VREG and is_temporary(u.a):
        forget(e, u.a)
    if last & LAST_B and info.flags & OP_B_IS_VREG and is_temporary(u.b):
        forget(e, u.b)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def begin_cold(e: cython.pointer(Emitter)) -> cython.pointer(ColdPath):
    """The record of a cold path that begins at e.cold_out."""
    c: cython.pointer(ColdPath) = e.cold + e.cold_count
    c.start = cython.cast(uint32_t, e.cold_out - e.cold_base)
    return c


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def store_dirty(e: cython.pointer(Emitter)) -> cython.void:
    """Bring all cells up to date on a path of its own: on the other one they stay as they are."""
    rest: uint64_t = e.dirty & ~TEMPORARIES_MASK
    while rest:
        store(e, ctz64(rest))
        rest &= rest - 1
    rest = e.xdirty
    while rest:
        x_store(e, ctz64(rest))
        rest &= rest - 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def put_cold(e: cython.pointer(Emitter), number: uint32_t) -> cython.void:
    """Emit a uop's slow path into the cold buffer: store what is dirty, then the cold twin."""
    c: cython.pointer(ColdPath) = begin_cold(e)
    hot: cython.pointer(uint8_t) = e.out
    d: int32_t = e.d
    imm: int64_t = e.imm
    e.out = e.cold_out
    store_dirty(e)
    e.d = d
    e.imm = imm
    put(e, number)
    c.next_patch = cython.cast(uint32_t, e.next_patch - e.cold_base)
    e.cold_out = e.out
    e.out = hot


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def put_hot(e: cython.pointer(Emitter), number: uint32_t) -> cython.void:
    """Emit the fast path of the uop whose cold path was put last."""
    c: cython.pointer(ColdPath) = e.cold + e.cold_count
    put(e, number)
    c.hot_patch = e.cold_patch
    c.back = e.out
    e.cold_count += 1
