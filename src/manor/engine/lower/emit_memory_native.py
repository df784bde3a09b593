# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False

"""The host code of uops that access memory: the softMMU's look-up in line, its slow path out of the way.

WHY NATIVE: it is part of the translator's inner loop. SAFETY: as emit_native. Threads: under vm.lock.
"""

import cython
from cython.cimports.libc.stdint import int32_t, int64_t, uint64_t
from cython.cimports.manor.engine.lower.copy_native import first, put
from cython.cimports.manor.engine.lower.emitter import (
    FORM_MEMORY,
    FORM_MEMORY_COLD,
    FORM_RI,
    FORM_RI_COLD,
    FORM_RR,
    FORM_RR_COLD,
    FORM_X,
    FORM_X_COLD,
    IS_CONSTANT,
    LAST_A,
    LAST_B,
    META_ALIGNED,
    SLOT_COUNT,
    XMM_REGISTERS,
    Emitter,
)
from cython.cimports.manor.engine.lower.passes_native import (
    KIND_VECTOR_STORE,
    OP_MUST_ALIGN,
    OP_READS_D,
    OpInfo,
    add64_op,
)
from cython.cimports.manor.engine.lower.slots_native import (
    assign,
    fits,
    forget,
    forget_operands,
    fresh,
    is_temporary,
    put_cold,
    put_constant,
    put_hot,
    sync,
    take,
    use,
    x_assign,
    x_target,
    x_use,
    xmm_cell,
)
from cython.cimports.manor.engine.uop.uop import Uop

from manor.engine import env as _env

cython.declare(
    REGS=cython.int,
)  # fmt: skip
REGS = _env.OFFSETS["regs"]


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def memory_operand(e: cython.pointer(Emitter), u: cython.pointer(Uop)) -> cython.int:
    """The slot of the base register; e.imm is the displacement, or 0 if it had to be added before."""
    slot: cython.int
    scratch: cython.int
    address: uint64_t
    if e.place[u.a] == IS_CONSTANT:
        address = cython.cast(uint64_t, e.constant[u.a]) + cython.cast(uint64_t, u.imm)
        scratch = take(e)
        put_constant(e, scratch, cython.cast(int64_t, address))
        e.imm = 0
        return scratch
    slot = use(e, u.a)
    if fits(u.imm):
        e.imm = u.imm
        return slot
    scratch = take(e)
    put_constant(e, scratch, u.imm)
    put(e, first(add64_op(), FORM_RR) + scratch * SLOT_COUNT + slot)
    e.imm = 0
    return scratch


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def emit_load(e: cython.pointer(Emitter), u: cython.pointer(Uop), info: cython.pointer(OpInfo),
              last: cython.int) -> cython.void:  # fmt: skip
    base: cython.int = memory_operand(e, u)
    imm: int64_t = e.imm
    target: cython.int
    if base != e.place[u.a]:
        target = base
    else:
        target = fresh(e, base, u.a, last & LAST_A, u.d)
    e.imm = imm
    e.meta |= info.bits >> 3
    put_cold(e, first(u.op, FORM_RR_COLD) + target * SLOT_COUNT + base)
    put_hot(e, first(u.op, FORM_RR) + target * SLOT_COUNT + base)
    if target == e.place[u.a] and u.a != u.d:
        forget(e, u.a)
    assign(e, u.d, target)
    if last & LAST_A and u.a != u.d and is_temporary(u.a):
        forget(e, u.a)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def emit_store(e: cython.pointer(Emitter), u: cython.pointer(Uop), info: cython.pointer(OpInfo),
               last: cython.int) -> cython.void:  # fmt: skip
    base: cython.int = memory_operand(e, u)
    imm: int64_t = e.imm
    value: cython.int
    e.meta |= info.bits >> 3
    if e.place[u.b] == IS_CONSTANT and (info.bits < 64 or fits(e.constant[u.b])):
        e.value = cython.cast(int32_t, e.constant[u.b])
        put_cold(e, first(u.op, FORM_RI_COLD) + base)
        put_hot(e, first(u.op, FORM_RI) + base)
    else:
        value = use(e, u.b)
        e.imm = imm
        put_cold(e, first(u.op, FORM_RR_COLD) + value * SLOT_COUNT + base)
        put_hot(e, first(u.op, FORM_RR) + value * SLOT_COUNT + base)
    if last & LAST_A and is_temporary(u.a):
        forget(e, u.a)
    if last & LAST_B and is_temporary(u.b):
        forget(e, u.b)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def emit_vector_memory(e: cython.pointer(Emitter), u: cython.pointer(Uop), info: cython.pointer(OpInfo),
                       last: cython.int) -> cython.void:  # fmt: skip
    base: cython.int = memory_operand(e, u)
    imm: int64_t = e.imm
    store: cython.bint = info.kind == KIND_VECTOR_STORE
    slot: cython.int = 0
    in_slots: cython.bint = (u.b if store else u.d) < XMM_REGISTERS
    if in_slots:
        slot = x_use(e, u.b) if store else x_target(e, u.d, False)
        slot = slot * SLOT_COUNT + base
    e.imm = imm
    e.d = xmm_cell(u.d)
    e.b = xmm_cell(u.b)
    e.meta |= 16
    if info.flags & OP_MUST_ALIGN:
        e.meta |= META_ALIGNED
    put_cold(e, first(u.op, FORM_X_COLD) + slot if in_slots else first(u.op, FORM_RI_COLD) + base)
    put_hot(e, first(u.op, FORM_X) + slot if in_slots else first(u.op, FORM_RI) + base)
    if in_slots and not store:
        x_assign(e, u.d, slot // SLOT_COUNT)
    if last & LAST_A and is_temporary(u.a):
        forget(e, u.a)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def emit_locked(e: cython.pointer(Emitter), u: cython.pointer(Uop), info: cython.pointer(OpInfo),
                last: cython.int) -> cython.void:  # fmt: skip
    """RMW and CMPXCHG: operands and result in env."""
    a: cython.int = sync(e, u.a)
    b: cython.int = sync(e, u.b)
    d: cython.int = sync(e, u.d) if info.flags & OP_READS_D else REGS + 8 * u.d
    e.a = a
    e.b = b
    e.d = d
    e.meta |= info.bits >> 3 | cython.cast(int32_t, info.rmw) << 16
    put_cold(e, first(u.op, FORM_MEMORY_COLD))
    put_hot(e, first(u.op, FORM_MEMORY))
    forget_operands(e, u, last)
    forget(e, u.d)
