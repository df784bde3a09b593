# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False

"""The host code of branches and of the ways out of a block.

An exit is a jump to a stub that tells the run loop where the block was left, until it is linked to the next block. A
*side exit* leaves from the middle: what it must write back is a cold path.

WHY NATIVE: it is part of the translator's inner loop. SAFETY: as emit_native. Threads: under vm.lock.
"""

import cython
from cython.cimports.libc.stdint import int64_t, uint8_t, uint64_t
from cython.cimports.manor.engine.isa.x86.bits import canonical
from cython.cimports.manor.engine.lower.copy_native import (
    first,
    negate_jump,
    put,
    put_branch,
    put_jump,
    set_jump,
    special_stencil,
)
from cython.cimports.manor.engine.lower.emitter import (
    FORM_RI,
    FORM_RR,
    IS_CONSTANT,
    NO_WAY_BACK,
    SLOT_COUNT,
    SPECIAL_EXIT_STUB,
    SPECIAL_UNCOUNT,
    ColdPath,
    Emitter,
)
from cython.cimports.manor.engine.lower.passes_native import (
    KIND_BRANCH,
    KIND_BRANCH_IMM,
    OP_SWAP_EXITS,
    OP_SWAP_OPERANDS,
    OpInfo,
    op_table,
)
from cython.cimports.manor.engine.lower.slots_native import (
    begin_cold,
    fits,
    forget_operands,
    put_constant,
    store_dirty,
    take,
    use,
    write_back_all,
)
from cython.cimports.manor.engine.uop.uop import SIDE_EXIT, Uop
from cython.cimports.manor.engine.vm import Exit

from manor.engine.uop.table import NUMBER as _NUMBER

cython.declare(
    ops=cython.pointer(OpInfo), JUMP_INDIRECT=cython.int,
)  # fmt: skip
ops = op_table()
JUMP_INDIRECT = _NUMBER["jump_indirect"]


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def compare_and_jump(e: cython.pointer(Emitter), u: cython.pointer(Uop), at_end: cython.bint) -> cython.pointer(uint8_t):
    """The comparison of a branch uop and a jump that is taken if it holds: returns its displacement's place.

    at_end: every register is written back before.
    """
    info: cython.pointer(OpInfo) = ops + u.op
    slot_a: cython.int
    slot_b: cython.int
    imm: int64_t = u.imm
    fall: cython.int
    jump: cython.pointer(uint8_t)
    if info.kind == KIND_BRANCH and e.place[u.b] == IS_CONSTANT and (
        ops[info.imm_op].bits < 64 or fits(e.constant[u.b])
    ):
        imm = e.constant[u.b]
        info = ops + info.imm_op
    slot_a = use(e, u.a)
    if info.kind == KIND_BRANCH_IMM and (info.bits < 64 or fits(imm)):
        if at_end:
            write_back_all(e)
        e.imm = imm
        fall = put_branch(e, first(info.stencils, FORM_RI) + slot_a)
    else:
        if info.kind == KIND_BRANCH_IMM:
            slot_b = take(e)
            put_constant(e, slot_b, imm)
            info -= 1
        else:
            slot_b = use(e, u.b)
        if at_end:
            write_back_all(e)
        if info.flags & OP_SWAP_OPERANDS:
            slot_a, slot_b = slot_b, slot_a
        fall = put_branch(e, first(info.stencils, FORM_RR) + slot_a * SLOT_COUNT + slot_b)
    jump = e.exit_patch[1 - fall]
    if (1 - fall) ^ (1 if info.flags & OP_SWAP_EXITS else 0):
        negate_jump(jump)
    return jump


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def emit_branch(e: cython.pointer(Emitter), u: cython.pointer(Uop), last: cython.int) -> cython.void:
    """A side exit, or the end: exit x if the condition holds, exit x + 1 if not."""
    jump: cython.pointer(uint8_t)
    if u.d == SIDE_EXIT:
        leave_by(e, u.x, compare_and_jump(e, u, False), u.insn)
        forget_operands(e, u, last)
    elif e.block.loops:
        jump = compare_and_jump(e, u, False)
        negate_jump(jump)
        leave_by(e, u.x + 1, jump, u.insn)
        forget_operands(e, u, last)
    else:
        e.exits[u.x].patch = compare_and_jump(e, u, True)
        e.exits[u.x + 1].patch = put_jump(e)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def leave_by(e: cython.pointer(Emitter), number: cython.int, jump: cython.pointer(uint8_t),
             insn: cython.int) -> cython.void:  # fmt: skip
    """Let a jump leave by an exit, behind guest instruction `insn`; what is to be done before is a cold path."""
    c: cython.pointer(ColdPath) = begin_cold(e)
    hot: cython.pointer(uint8_t) = e.out
    e.out = e.cold_out
    store_dirty(e)
    e.count = e.block.insn_count - insn - 1
    if e.count:
        put(e, special_stencil(SPECIAL_UNCOUNT))
    e.exits[number].patch = put_jump(e)
    put_exit(e, e.exits + number)
    e.cold_out = e.out
    e.out = hot
    c.hot_patch = jump
    c.next_patch = NO_WAY_BACK
    e.cold_count += 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def put_exit_stub(e: cython.pointer(Emitter), left: uint64_t) -> cython.void:
    """Tell the run loop how the block was left: by which Exit, or Block | 1 at its head."""
    e.imm = cython.cast(int64_t, left)
    put(e, special_stencil(SPECIAL_EXIT_STUB))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def put_exit(e: cython.pointer(Emitter), exit: cython.pointer(Exit)) -> cython.void:
    """What an exit's jump leads to as long as it is not linked."""
    set_jump(exit.patch, e.out)
    if (exit.pc ^ e.block.pc) >> 12 and canonical(exit.pc):
        # Another page may be mapped elsewhere when we come back: never linked, found through the jump cache.
        exit.patch = cython.NULL
        put_constant(e, 0, cython.cast(int64_t, exit.pc))
        put(e, first(JUMP_INDIRECT, FORM_RI))
    else:
        exit.stub = e.out
        put_exit_stub(e, cython.cast(uint64_t, exit))
