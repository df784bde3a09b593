# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False

"""Turn the uops of a block into host code by copying stencils.

Virtual registers live in slots (host registers) within a block: loaded when first read, written back at the
block's end, before helpers that look at them, and on the way to a slow path. A `mov` costs nothing: two
registers then share a slot. A constant has no slot until an operation needs one. Temporaries are never
written back, unless they are squeezed out of their slot.

Layout of a block: head, uops, exit stubs, cold paths. Exits are jumps whose displacement is aligned to four
bytes, so that linking is one atomic store. A *side exit* leaves from the middle: what it must write back is a
cold path. Code memory is not used again until `reset_emitter`, when no vCPU runs.

A block that jumps back to its own start is emitted twice, one copy behind the other: the first begins with every
register in its cell, the second with the registers where the first left them, and it comes back to itself so.

WHY NATIVE: it is the translator's inner loop. SAFETY: `emit_block` checks the room in the arena for the
largest code its uops can need; stencils come from the file made at build time, whose fingerprint is
checked. Threads: emit_block, link_block and unlink_block under vm.lock; run_code on the vCPU's thread.
"""

import cython
from cython.cimports.libc.stdint import int32_t, uint8_t, uint32_t, uint64_t
from cython.cimports.libc.string import memcpy, memset
from cython.cimports.manor.engine.env import FLAG_MMU_SHIFT, Env
from cython.cimports.manor.engine.lower.arena_native import executable_address, join_pages, trim_emitter
from cython.cimports.manor.engine.lower.copy_native import (
    align_block,
    largest_stencil,
    put,
    put_jump,
    set_jump,
    special_stencil,
)
from cython.cimports.manor.engine.lower.emit_exit_native import put_exit, put_exit_stub
from cython.cimports.manor.engine.lower.emit_uop_native import emit_uop
from cython.cimports.manor.engine.lower.emitter import (
    DEAD_D,
    EMIT_FULL,
    EMIT_MAX_UOPS,
    EMIT_OK,
    EMIT_TOO_LONG,
    IN_MEMORY,
    IS_CONSTANT,
    LAST_A,
    LAST_B,
    NO_WAY_BACK,
    SLOT_COUNT,
    SPECIAL_HEAD,
    ColdPath,
    Emitter,
    enter_fn,
    patch32,
)
from cython.cimports.manor.engine.lower.loop_native import begin_loop, close_loop
from cython.cimports.manor.engine.lower.passes_native import (
    KIND_CMPXCHG,
    KIND_HELPER,
    KIND_JUMP,
    KIND_LOAD,
    KIND_RMW,
    KIND_STORE,
    KIND_VECTOR_LOAD,
    KIND_VECTOR_STORE,
    ONE,
    OP_A_IS_VREG,
    OP_B_IS_VREG,
    OP_D_IS_VREG,
    OP_READS_D,
    HelperInfo,
    OpInfo,
    helper_table,
    op_table,
)
from cython.cimports.manor.engine.lower.slots_native import is_temporary, write_back_all, x_forget_scratch
from cython.cimports.manor.engine.uop.uop import Uop
from cython.cimports.manor.engine.vm import Block, Exit, Vm

from manor.engine import env as _env

cython.declare(
    ops=cython.pointer(OpInfo), helpers=cython.pointer(HelperInfo), TLB_BASE=cython.int, TLB_MODE_SIZE=cython.int,
    ZERO_VREG=cython.int, MEMORY_KINDS=uint64_t, ACCESS_UPDATE=cython.int, TRIM_SIZE=uint64_t,
)  # fmt: skip
ops = op_table()
helpers = helper_table()
TLB_BASE = _env.OFFSETS["tlb"]
TLB_MODE_SIZE = _env.TLB_ENTRIES * _env.TLB_ENTRY_SIZE
ZERO_VREG = _env.ZERO
MEMORY_KINDS = (
    1 << KIND_LOAD | 1 << KIND_STORE | 1 << KIND_RMW | 1 << KIND_CMPXCHG | 1 << KIND_VECTOR_LOAD | 1 << KIND_VECTOR_STORE
)
ACCESS_UPDATE = 8  # MODE_UPDATE of the softmmu
TRIM_SIZE = 1 << 20


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def find_last_reads(e: cython.pointer(Emitter), uops: cython.pointer(Uop), count: cython.int,
                    wanted: uint64_t) -> uint64_t:  # fmt: skip
    """Which operands are not read again, and which results are never read; and which registers are written.

    wanted: registers that are read after the block. Returns those that are read before they are written.
    """
    a: uint64_t
    b: uint64_t
    d: uint64_t
    bits: cython.int
    index: cython.int
    u: cython.pointer(Uop)
    info: cython.pointer(OpInfo)
    e.written = 0
    for index in range(count - 1, -1, -1):
        u = uops + index
        info = ops + u.op
        bits = 0
        if info.flags & OP_D_IS_VREG:
            d = ONE << u.d
            e.written |= d
            if not wanted & d:
                bits = DEAD_D if is_temporary(u.d) else 0
            if info.flags & OP_READS_D:
                wanted |= d
            else:
                wanted &= ~d
        a = ONE << u.a if info.flags & OP_A_IS_VREG else 0
        b = ONE << u.b if info.flags & OP_B_IS_VREG else 0
        if info.kind == KIND_HELPER:
            wanted |= helpers[u.x].reads
        if not wanted & a:
            bits |= LAST_A
        if not wanted & b:
            bits |= LAST_B
        wanted |= a | b
        e.last[index] = bits
    return wanted


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def emit_body(e: cython.pointer(Emitter), uops: cython.pointer(Uop), count: cython.int) -> cython.void:
    """Host code of all uops, from the registers' present places on."""
    index: cython.int
    mode_meta: int32_t = cython.cast(int32_t, (e.block.flags >> FLAG_MMU_SHIFT & 3) << 8)
    u: Uop
    for index in range(count):
        u = uops[index]  # a copy: it is changed
        e.pinned = 0
        e.xpinned = 0
        if index and u.insn != uops[index - 1].insn:
            x_forget_scratch(e)
        e.pc = u.pc
        e.meta = mode_meta
        e.tag_offset = 0
        if MEMORY_KINDS >> ops[u.op].kind & 1:
            # access bits: the mode argument of the slow path; a read-modify-write needs the write tag
            e.meta |= cython.cast(int32_t, u.x) << 8
            if u.x & ACCESS_UPDATE:
                e.tag_offset = 8
        e.count = e.block.insn_count - u.insn
        emit_uop(e, cython.address(u), e.last[index])


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def place_exits(e: cython.pointer(Emitter), cold_start: cython.pointer(uint8_t)) -> cython.void:
    """Exits whose code was in the cold buffer have moved to `cold_start`; stubs are named by where they run."""
    index: cython.int
    exit: cython.pointer(Exit)
    for index in range(e.block.exit_count * (2 if e.block.loops else 1)):
        exit = e.block.exits + index
        if e.cold_base <= exit.patch < e.cold_out:
            exit.patch = cold_start + (exit.patch - e.cold_base)
            exit.stub = cold_start + (exit.stub - e.cold_base)
        if exit.patch != cython.NULL:
            exit.stub = executable_address(e, exit.stub)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def emit_block(vm: cython.pointer(Vm), block: cython.pointer(Block), uops: cython.pointer(Uop),
               count: cython.int) -> cython.int:  # fmt: skip
    """Make host code of a block: sets code, code_size, and where its exits are. Returns EMIT_*.

    uops: already optimised. block.pc, flags, insn_count, exits (block, pc, no link), exit_count and loops must be set;
    there are twice exit_count exits if it loops. It must stay where it is until the arena is reset.
    """
    e: cython.pointer(Emitter) = cython.cast(cython.pointer(Emitter), vm.emitter)
    index: cython.int
    copies: uint64_t = 2 if block.loops else 1
    head_patch: cython.pointer(uint8_t)
    start: cython.pointer(uint8_t)
    loop_start: cython.pointer(uint8_t)
    cold_start: cython.pointer(uint8_t)
    c: cython.pointer(ColdPath)
    if count > EMIT_MAX_UOPS:
        return EMIT_TOO_LONG
    # hot code of a uop is at most three evictions and two stencils, a cold path at most 1 KiB
    if e.used + 8192 + copies * cython.cast(uint64_t, count) * (1024 + 512 + 2 * largest_stencil()) > e.size:
        return EMIT_FULL
    for index in range(block.exit_count * copies):
        block.exits[index].patch = cython.NULL
        block.exits[index].stub = cython.NULL
    e.block = block
    e.exits = block.exits
    e.out = e.base + e.used
    align_block(e)
    start = e.out
    e.cold_out = e.cold_base
    e.cold_count = 0
    e.dirty = 0
    e.clock = 0
    e.tlb = TLB_BASE + TLB_MODE_SIZE * cython.cast(int32_t, block.flags >> FLAG_MMU_SHIFT & 3)
    for index in range(SLOT_COUNT):
        e.holders[index] = 0
        e.stamp[index] = 0
    memset(e.place, IN_MEMORY, 64)
    memset(e.xplace, IN_MEMORY, 32)
    memset(e.xholder, -1, 8)
    memset(e.xstamp, 0, 32)
    e.xdirty = 0
    e.xpinned = 0
    e.place[ZERO_VREG] = IS_CONSTANT
    e.constant[ZERO_VREG] = 0
    if block.loops:
        find_last_reads(e, uops, count, find_last_reads(e, uops, count, 0))
    else:
        find_last_reads(e, uops, count, 0)
    e.count = block.insn_count
    put(e, special_stencil(SPECIAL_HEAD))
    head_patch = e.cold_patch
    emit_body(e, uops, count)
    if block.loops:
        loop_start = begin_loop(e)
        e.exits += block.exit_count
        emit_body(e, uops, count)
        if not close_loop(e, loop_start):
            write_back_all(e)
            e.exits[block.exit_count - 1 - (1 if ops[uops[count - 1].op].kind != KIND_JUMP else 0)].patch = put_jump(e)
    for index in range(block.exit_count * copies):
        if block.exits[index].patch != cython.NULL and block.exits[index].stub == cython.NULL:
            put_exit(e, block.exits + index)
    set_jump(head_patch, e.out)
    put_exit_stub(e, cython.cast(uint64_t, block) | 1)
    align_block(e)  # as the cold buffer is: the alignment of exits stays
    cold_start = e.out
    memcpy(cold_start, e.cold_base, e.cold_out - e.cold_base)
    e.out = cold_start + (e.cold_out - e.cold_base)
    for index in range(e.cold_count):
        c = e.cold + index
        set_jump(c.hot_patch, cold_start + c.start)
        if c.next_patch != NO_WAY_BACK:
            set_jump(cold_start + c.next_patch, c.back)
    place_exits(e, cold_start)
    block.code_size = cython.cast(uint32_t, e.out - start)
    e.used = e.out - e.base
    if e.used - e.trimmed > TRIM_SIZE:
        trim_emitter(e)
    join_pages(e)
    block.code = executable_address(e, start)
    return EMIT_OK


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def run_code(env: cython.pointer(Env), code: cython.pointer(uint8_t)) -> cython.pointer(Exit):
    """Run from the block at `code` until generated code leaves. Afterwards env.rip is exact.

    Returns the exit that was taken if it is not linked; NULL if code was left otherwise (interrupt, fault, indirect
    jump, helper's choice). Check env.fault.
    """
    vm: cython.pointer(Vm) = cython.cast(cython.pointer(Vm), env.vm)
    e: cython.pointer(Emitter) = cython.cast(cython.pointer(Emitter), vm.emitter)
    left: cython.pointer(Exit)
    env.block_exit = 0
    cython.cast(enter_fn, e.enter)(env, code)
    if env.block_exit == 0:
        return cython.NULL
    if env.block_exit & 1:
        env.rip = cython.cast(cython.pointer(Block), cython.cast(cython.p_void, env.block_exit - 1)).pc
        return cython.NULL
    left = cython.cast(cython.pointer(Exit), cython.cast(cython.p_void, env.block_exit))
    env.rip = left.pc
    return left


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def point_exit(e: cython.pointer(Emitter), exit: cython.pointer(Exit), target: cython.pointer(uint8_t)) -> cython.void:
    """Make an exit jump to an executable address. Other vCPUs may be running it: one aligned store."""
    patch32(exit.patch, cython.cast(int32_t, target - executable_address(e, exit.patch) - 4))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def link_block(vm: cython.pointer(Vm), source: cython.pointer(Exit), target: cython.pointer(Block)) -> cython.void:
    """Let an exit go straight to `target`. Under vm.lock. No effect if one of the blocks is invalid."""
    e: cython.pointer(Emitter) = cython.cast(cython.pointer(Emitter), vm.emitter)
    if (
        source.patch == cython.NULL
        or source.link != cython.NULL
        or target.code == cython.NULL
        or not source.block.valid
        or not target.valid
    ):
        return
    source.link = target
    source.next_incoming = target.incoming
    target.incoming = source
    point_exit(e, source, target.code)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def unlink_block(vm: cython.pointer(Vm), block: cython.pointer(Block)) -> cython.void:
    """Let no other block's exit reach this one any more. Under vm.lock; vCPUs may be running.

    Its own exits stay linked, so that a vCPU inside it gets on; they are unlinked when their targets go.
    """
    e: cython.pointer(Emitter) = cython.cast(cython.pointer(Emitter), vm.emitter)
    exit: cython.pointer(Exit) = block.incoming
    following: cython.pointer(Exit)
    block.incoming = cython.NULL
    while exit != cython.NULL:
        following = exit.next_incoming
        exit.next_incoming = cython.NULL
        exit.link = cython.NULL
        point_exit(e, exit, exit.stub)
        exit = following
