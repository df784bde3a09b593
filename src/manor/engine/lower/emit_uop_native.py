# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False

"""The host code of each uop: which stencil in which form, and what it leaves in which slot.

WHY NATIVE: it is part of the translator's inner loop. SAFETY: as emit_native. Threads: under vm.lock.
"""

import cython
from cython.cimports.libc.stdint import int64_t, uint32_t, uint64_t
from cython.cimports.manor.engine.lower.copy_native import first, put, put_jump, special_stencil
from cython.cimports.manor.engine.lower.emit_exit_native import emit_branch
from cython.cimports.manor.engine.lower.emit_memory_native import (
    emit_load,
    emit_locked,
    emit_store,
    emit_vector_memory,
)
from cython.cimports.manor.engine.lower.emitter import (
    DEAD_D,
    FORM_MEMORY,
    FORM_MEMORY_WIDE,
    FORM_RI,
    FORM_RI_WIDE,
    FORM_RM,
    FORM_RR,
    FORM_X,
    IS_CONSTANT,
    LAST_A,
    LAST_B,
    SHAPE_AB,
    SHAPE_AR,
    SHAPE_DA,
    SHAPE_DB,
    SHAPE_DR,
    SHAPE_RA,
    SLOT_COUNT,
    SPECIAL_DISPATCH,
    SPECIAL_STORE_CONST64,
    XMM_REGISTERS,
    XSLOT_COUNT,
    Emitter,
)
from cython.cimports.manor.engine.lower.passes_native import (
    KIND_BINARY,
    KIND_BINARY_IMM,
    KIND_BRANCH,
    KIND_BRANCH_IMM,
    KIND_CMPXCHG,
    KIND_HELPER,
    KIND_JUMP,
    KIND_JUMP_INDIRECT,
    KIND_LOAD,
    KIND_MOVE,
    KIND_MOVE_IMM,
    KIND_NOP,
    KIND_RMW,
    KIND_STORE,
    KIND_UNARY,
    KIND_UPDATE,
    KIND_VECTOR,
    KIND_VECTOR_LOAD,
    KIND_VECTOR_STORE,
    ONE,
    OP_A_IS_VREG,
    OP_B_IS_VREG,
    OP_COMMUTATIVE,
    OP_D_IS_VREG,
    OP_IN_PLACE,
    OP_SHIFT_AMOUNT,
    OP_SWAP_OPERANDS,
    HelperInfo,
    OpInfo,
    helper_table,
    op_table,
)
from cython.cimports.manor.engine.lower.slots_native import (
    assign,
    fits,
    forget,
    forget_all,
    forget_operands,
    fresh,
    is_temporary,
    may_overwrite,
    put_constant,
    release,
    sync,
    take,
    target_of,
    use,
    write_back,
    write_back_all,
    x_assign,
    x_forget,
    x_forget_all,
    x_sync,
    x_target,
    x_use,
    x_write_back,
    xmm_cell,
)
from cython.cimports.manor.engine.uop.uop import Uop

from manor.engine import env as _env

cython.declare(
    ops=cython.pointer(OpInfo), helpers=cython.pointer(HelperInfo), REGS=cython.int, TEMPORARIES_MASK=uint64_t,
    SCRATCH=cython.int, NO_STENCIL=uint32_t,
)  # fmt: skip
ops = op_table()
helpers = helper_table()
REGS = _env.OFFSETS["regs"]
TEMPORARIES_MASK = sum(1 << v for v in _env.TEMPORARY_VREGS)
SCRATCH = _env.OFFSETS["scratch"] + 8
NO_STENCIL = (1 << 32) - 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def emit_move(e: cython.pointer(Emitter), u: cython.pointer(Uop), last: cython.int) -> cython.void:
    slot: cython.int
    if u.d == u.a:
        return
    if e.place[u.a] == IS_CONSTANT:
        emit_constant(e, u.d, e.constant[u.a])
    else:
        slot = use(e, u.a)
        assign(e, u.d, slot)
    if last & LAST_A and is_temporary(u.a):
        forget(e, u.a)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def emit_constant(e: cython.pointer(Emitter), v: cython.int, value: int64_t) -> cython.void:
    forget(e, v)
    e.place[v] = IS_CONSTANT
    e.constant[v] = value
    e.dirty |= ONE << v


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def emit_unary(e: cython.pointer(Emitter), u: cython.pointer(Uop), info: cython.pointer(OpInfo), number: cython.int,
               last: cython.int) -> cython.void:  # fmt: skip
    slot: cython.int = use(e, u.a)
    target: cython.int
    if info.flags & OP_IN_PLACE:
        target = target_of(e, slot, u.a, last & LAST_A, u.d)
        put(e, first(number, FORM_RI) + target)
    else:
        target = fresh(e, slot, u.a, last & LAST_A, u.d)
        put(e, first(number, FORM_RR) + target * SLOT_COUNT + slot)
        if target == slot:
            release(e, u.a, u.d)
    assign(e, u.d, target)
    if last & LAST_A and u.a != u.d and is_temporary(u.a):
        forget(e, u.a)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def emit_binary_imm(e: cython.pointer(Emitter), u: cython.pointer(Uop), number: cython.int, imm: int64_t,
                    last: cython.int) -> cython.void:  # fmt: skip
    """d = f(a, imm), where the immediate is a constant that fits or has been put into a slot."""
    info: cython.pointer(OpInfo) = ops + number
    slot: cython.int
    if info.flags & OP_SHIFT_AMOUNT:
        imm &= info.modulus - 1
        if imm == 0:
            u.op = info.zero_shift
            if ops[u.op].kind == KIND_MOVE:
                emit_move(e, u, last)
            else:
                emit_unary(e, u, ops + u.op, u.op, last)
            return
    slot = use(e, u.a)
    if info.bits == 64 and not info.flags & OP_SHIFT_AMOUNT and not fits(imm):
        emit_wide_immediate(e, u, number, imm, slot, last)
        return
    slot = target_of(e, slot, u.a, last & LAST_A, u.d)
    e.imm = imm
    put(e, first(info.stencils, FORM_RI) + slot)
    assign(e, u.d, slot)
    if last & LAST_A and u.a != u.d and is_temporary(u.a):
        forget(e, u.a)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def emit_wide_immediate(e: cython.pointer(Emitter), u: cython.pointer(Uop), number: cython.int, imm: int64_t,
                        slot: cython.int, last: cython.int) -> cython.void:  # fmt: skip
    """d = f(a, imm) with an immediate beyond 32 bits: by the register form, which precedes in the table."""
    info: cython.pointer(OpInfo) = ops + number - 1
    other: cython.int
    target: cython.int
    form: uint32_t = first(info.stencils, FORM_RR)
    if form == NO_STENCIL:
        # The rare form takes b from memory: a scratch cell of env.
        e.imm = imm
        e.d = SCRATCH
        put(e, special_stencil(SPECIAL_STORE_CONST64))
        target = target_of(e, slot, u.a, last & LAST_A, u.d)
        e.b = SCRATCH
        put(e, first(info.stencils, FORM_RM) + target)
    else:
        other = take(e)
        put_constant(e, other, imm)
        if info.flags & OP_SWAP_OPERANDS:
            target = other
            put(e, form + target * SLOT_COUNT + slot)
        else:
            target = target_of(e, slot, u.a, last & LAST_A, u.d)
            put(e, form + target * SLOT_COUNT + other)
    assign(e, u.d, target)
    if last & LAST_A and u.a != u.d and is_temporary(u.a):
        forget(e, u.a)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def emit_binary(e: cython.pointer(Emitter), u: cython.pointer(Uop), info: cython.pointer(OpInfo),
                last: cython.int) -> cython.void:  # fmt: skip
    a: cython.int = u.a
    b: cython.int = u.b
    last_a: cython.bint = last & LAST_A
    last_b: cython.bint = last & LAST_B
    cell: cython.int
    slot_a: cython.int
    slot_b: cython.int
    target: cython.int
    form: uint32_t
    if info.flags & OP_COMMUTATIVE and e.place[a] == IS_CONSTANT and e.place[b] != IS_CONSTANT:
        a, b = b, a
        last_a, last_b = last_b, last_a
        u.a = a
        u.b = b
        last = (last & DEAD_D) | (LAST_A if last_a else 0) | (LAST_B if last_b else 0)
    if e.place[b] == IS_CONSTANT and info.imm_op >= 0:
        emit_binary_imm(e, u, info.imm_op, e.constant[b], last)
        if last_b and b != u.d and is_temporary(b):
            forget(e, b)
        return
    form = first(info.stencils, FORM_RR)
    if info.flags & OP_SWAP_OPERANDS:
        a, b = b, a
        last_a, last_b = last_b, last_a
    if form == NO_STENCIL:
        slot_a = use(e, a)
        cell = sync(e, b)
        target = target_of(e, slot_a, a, last_a, u.d)
        e.b = cell
        put(e, first(info.stencils, FORM_RM) + target)
    else:
        slot_a = use(e, a)
        slot_b = use(e, b)
        if (
            info.flags & OP_COMMUTATIVE
            and not may_overwrite(e, slot_a, a, last_a, u.d)
            and may_overwrite(e, slot_b, b, last_b, u.d)
        ):
            slot_a, slot_b = slot_b, slot_a
            a, b = b, a
            last_a, last_b = last_b, last_a
        target = target_of(e, slot_a, a, last_a, u.d)
        put(e, form + target * SLOT_COUNT + slot_b)
    assign(e, u.d, target)
    if last_a and a != u.d and is_temporary(a):
        forget(e, a)
    if last_b and b != u.d and is_temporary(b):
        forget(e, b)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def emit_update(e: cython.pointer(Emitter), u: cython.pointer(Uop), last: cython.int) -> cython.void:
    """d = f(d, a, b)."""
    slot_a: cython.int = use(e, u.a)
    slot_b: cython.int = use(e, u.b)
    slot_d: cython.int = use(e, u.d)
    slot_d = target_of(e, slot_d, u.d, True, u.d)
    put(e, first(u.op, FORM_RR) + (slot_d * SLOT_COUNT + slot_a) * SLOT_COUNT + slot_b)
    assign(e, u.d, slot_d)
    if last & LAST_A and u.a != u.d and is_temporary(u.a):
        forget(e, u.a)
    if last & LAST_B and u.b != u.d and is_temporary(u.b):
        forget(e, u.b)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def emit_vector(e: cython.pointer(Emitter), u: cython.pointer(Uop), info: cython.pointer(OpInfo),
                last: cython.int) -> cython.void:  # fmt: skip
    a: cython.int
    b: cython.int
    if info.rmw and emit_vector_slots(e, u, info, last):
        return
    a = sync(e, u.a) if info.flags & OP_A_IS_VREG else x_sync(e, u.a)
    b = sync(e, u.b) if info.flags & OP_B_IS_VREG else x_sync(e, u.b)
    if not info.flags & OP_D_IS_VREG:
        x_sync(e, u.d)
    e.a = a
    e.b = b
    e.d = REGS + 8 * u.d if info.flags & OP_D_IS_VREG else xmm_cell(u.d)
    e.imm = u.imm
    put(e, first(u.op, FORM_MEMORY))
    forget_operands(e, u, last)
    if info.flags & OP_D_IS_VREG:
        forget(e, u.d)
    elif u.d < XMM_REGISTERS:
        x_forget(e, u.d)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def emit_vector_slots(e: cython.pointer(Emitter), u: cython.pointer(Uop), info: cython.pointer(OpInfo),
                      last: cython.int) -> cython.bint:  # fmt: skip
    """A vector uop whose xmm operands are in slots; 0 if it has to be done in env."""
    shape: cython.int = info.rmw
    keeps: cython.bint = info.modulus
    number: uint32_t = first(u.op, FORM_X)
    x: cython.int
    y: cython.int
    e.imm = u.imm
    if shape == SHAPE_RA:
        if u.a >= XMM_REGISTERS:
            return 0
        x = x_use(e, u.a)
        y = take(e)
        e.imm = u.imm
        put(e, number + y * XSLOT_COUNT + x)
        assign(e, u.d, y)
        return 1
    if shape == SHAPE_AB or shape == SHAPE_AR:
        if u.a >= XMM_REGISTERS or (shape == SHAPE_AB and u.b >= XMM_REGISTERS):
            return 0
        x = x_use(e, u.a)
        y = x_use(e, u.b) if shape == SHAPE_AB else use(e, u.b)
        e.d = REGS + 8 * u.d
        put(e, number + x * (XSLOT_COUNT if shape == SHAPE_AB else SLOT_COUNT) + y)
        forget_operands(e, u, last)
        forget(e, u.d)
        return 1
    if u.d >= XMM_REGISTERS:
        return 0
    if shape == SHAPE_DB:
        if u.d != u.a or u.b >= XMM_REGISTERS:
            return 0
        y = x_use(e, u.b)
        x = x_use(e, u.d)
        number += x * XSLOT_COUNT + y
    elif shape == SHAPE_DA:
        if u.a >= XMM_REGISTERS:
            return 0
        y = x_use(e, u.a)
        x = x_target(e, u.d, keeps)
        number += x * XSLOT_COUNT + y
    elif shape == SHAPE_DR:
        y = use(e, u.a)
        x = x_target(e, u.d, keeps)
        number += x * SLOT_COUNT + y
    else:
        if keeps and u.d != u.a:
            return 0
        x = x_target(e, u.d, keeps)
        number += x
    e.imm = u.imm
    put(e, number)
    x_assign(e, u.d, x)
    forget_operands(e, u, last)
    return 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def emit_helper(e: cython.pointer(Emitter), u: cython.pointer(Uop), last: cython.int) -> cython.void:
    """Everything the helper may look at or leave alone is in env; slots survive the call."""
    h: cython.pointer(HelperInfo) = helpers + u.x
    wide: cython.bint = not fits(u.imm)
    a: cython.int = sync(e, u.a)
    b: cython.int = sync(e, u.b)
    slot: cython.int
    write_back(e, h.reads | h.writes)
    x_write_back(e, ~cython.cast(uint32_t, 0))
    x_forget_all(e)
    if h.faults:
        write_back(e, ~TEMPORARIES_MASK)
    slot = -1
    if not last & DEAD_D:
        slot = take(e)
    e.a = a
    e.b = b
    e.imm = u.imm
    e.callee = h.address
    if slot < 0:
        put(e, first(u.op, FORM_MEMORY_WIDE if wide else FORM_MEMORY))
    else:
        put(e, first(u.op, FORM_RI_WIDE if wide else FORM_RI) + slot)
    forget_all(e, h.writes)
    forget_operands(e, u, last)
    if slot >= 0:
        assign(e, u.d, slot)
    elif is_temporary(u.d):
        forget(e, u.d)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def emit_uop(e: cython.pointer(Emitter), u: cython.pointer(Uop), last: cython.int) -> cython.void:
    info: cython.pointer(OpInfo) = ops + u.op
    kind: cython.int = info.kind
    slot: cython.int
    if kind == KIND_MOVE:
        emit_move(e, u, last)
    elif kind == KIND_MOVE_IMM:
        emit_constant(e, u.d, u.imm)
    elif kind == KIND_BINARY:
        emit_binary(e, u, info, last)
    elif kind == KIND_BINARY_IMM:
        emit_binary_imm(e, u, u.op, u.imm, last)
    elif kind == KIND_UNARY:
        emit_unary(e, u, info, u.op, last)
    elif kind == KIND_LOAD:
        emit_load(e, u, info, last)
    elif kind == KIND_STORE:
        emit_store(e, u, info, last)
    elif kind == KIND_UPDATE:
        emit_update(e, u, last)
    elif kind == KIND_HELPER:
        emit_helper(e, u, last)
    elif kind == KIND_VECTOR:
        emit_vector(e, u, info, last)
    elif kind in (KIND_VECTOR_LOAD, KIND_VECTOR_STORE):
        emit_vector_memory(e, u, info, last)
    elif kind in (KIND_RMW, KIND_CMPXCHG):
        emit_locked(e, u, info, last)
    elif kind in (KIND_BRANCH, KIND_BRANCH_IMM):
        emit_branch(e, u, last)
    elif kind == KIND_JUMP:
        if not e.block.loops:
            write_back_all(e)
            e.exits[u.x].patch = put_jump(e)
    elif kind == KIND_JUMP_INDIRECT:
        slot = use(e, u.a)
        write_back_all(e)
        e.imm = u.imm
        put(e, first(u.op, FORM_RI) + slot)
    elif kind != KIND_NOP:
        write_back_all(e)
        put(e, special_stencil(SPECIAL_DISPATCH))
    if info.flags & OP_D_IS_VREG and last & DEAD_D and is_temporary(u.d):
        forget(e, u.d)
