# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False

"""A block that jumps back to its own start is emitted twice, one copy behind the other: the first begins with every
register in its cell, the second with the registers where the first left them, and it comes back to itself so.

Here is the beginning of the second copy, and its end, which moves the registers to where they were at its beginning.

WHY NATIVE: it is part of the translator's inner loop. SAFETY: as emit_native. Threads: under vm.lock.
"""

import cython
from cython.cimports.libc.stdint import uint8_t, uint32_t, uint64_t
from cython.cimports.libc.string import memcpy
from cython.cimports.manor.engine.lower.copy_native import put, put_jump, set_jump, special_stencil
from cython.cimports.manor.engine.lower.emit_exit_native import put_exit_stub
from cython.cimports.manor.engine.lower.emitter import (
    IN_MEMORY,
    IS_CONSTANT,
    NO_WAY_BACK,
    SLOT_COUNT,
    SPECIAL_HEAD,
    SPECIAL_LOAD_SLOT,
    SPECIAL_LOAD_X,
    SPECIAL_MOVE,
    XMM_REGISTERS,
    ColdPath,
    Emitter,
)
from cython.cimports.manor.engine.lower.passes_native import ONE, ctz64
from cython.cimports.manor.engine.lower.slots_native import (
    begin_cold,
    forget_all,
    is_temporary,
    store_dirty,
    write_back,
    x_forget_scratch,
    x_write_back,
    xmm_cell,
)

from manor.engine import env as _env

cython.declare(
    REGS=cython.int, TEMPORARIES_MASK=uint64_t,
)  # fmt: skip
REGS = _env.OFFSETS["regs"]
TEMPORARIES_MASK = sum(1 << v for v in _env.TEMPORARY_VREGS)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def begin_loop(e: cython.pointer(Emitter)) -> cython.pointer(uint8_t):
    """The point that a loop comes back to: remembers where the registers are. Returns its address."""
    place: cython.pointer(uint8_t)
    rest: uint64_t
    v: cython.int
    head: cython.pointer(ColdPath)
    x_forget_scratch(e)
    forget_all(e, TEMPORARIES_MASK)
    # What the loop writes and keeps in a slot will be out of date in its cell when we come back.
    rest = e.written & ~e.dirty
    while rest:
        v = ctz64(rest)
        rest &= rest - 1
        if e.place[v] >= 0:
            e.dirty |= ONE << v
    memcpy(e.loop.place, e.place, 64)
    memcpy(e.loop.constant, e.constant, 64 * 8)
    memcpy(e.loop.xplace, e.xplace, 32)
    e.loop.dirty = e.dirty
    e.loop.xdirty = e.xdirty
    place = e.out
    head = begin_cold(e)
    e.out = e.cold_out
    store_dirty(e)
    put_exit_stub(e, cython.cast(uint64_t, e.block) | 1)
    e.cold_out = e.out
    e.out = place
    e.count = e.block.insn_count
    put(e, special_stencil(SPECIAL_HEAD))
    head.hot_patch = e.cold_patch
    head.next_patch = NO_WAY_BACK
    e.cold_count += 1
    return place


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
@cython.inline
def stays(e: cython.pointer(Emitter), v: cython.int) -> cython.bint:
    """Whether a register is where it was when the loop began."""
    if e.place[v] != e.loop.place[v]:
        return False
    return e.place[v] != IS_CONSTANT or e.constant[v] == e.loop.constant[v]


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def move_back(e: cython.pointer(Emitter)) -> cython.void:
    """Move registers to the slots they had when the loop began, as far as no other one is in the way."""
    v: cython.int
    slot: cython.int
    source: cython.int
    moved: cython.bint = True
    rest: uint64_t
    while moved:
        moved = False
        for v in range(64):
            slot = e.loop.place[v]
            source = e.place[v]
            if slot < 0 or source < 0 or slot == source or wanted_in_slots(e, slot):
                continue
            put(e, special_stencil(SPECIAL_MOVE) + slot * SLOT_COUNT + source)
            rest = e.holders[source]
            while rest:
                v = ctz64(rest)
                rest &= rest - 1
                if e.loop.place[v] == slot:
                    e.holders[source] &= ~(ONE << v)
                    e.holders[slot] |= ONE << v
                    e.place[v] = slot
            moved = True
            break
        if not moved:
            moved = break_cycle(e)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def break_cycle(e: cython.pointer(Emitter)) -> cython.bint:
    """Take what stands in another register's way to a free slot; 0 if there is nothing to move or no slot.

    Whoever belongs there can then move: each turn brings at least one register to its place.
    """
    v: cython.int
    free: cython.int = -1
    source: cython.int
    for v in range(SLOT_COUNT):
        if e.holders[v] == 0:
            free = v
    if free < 0:
        return False
    for source in range(SLOT_COUNT):
        if stands_in_the_way(e, source):
            put(e, special_stencil(SPECIAL_MOVE) + free * SLOT_COUNT + source)
            e.holders[free] = e.holders[source]
            e.holders[source] = 0
            for v in range(64):
                if e.place[v] == source:
                    e.place[v] = free
            return True
    return False


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def stands_in_the_way(e: cython.pointer(Emitter), slot: cython.int) -> cython.bint:
    """Whether another register belongs into a slot, and none that is there does."""
    v: cython.int
    wanted: cython.bint = False
    for v in range(64):
        if e.loop.place[v] == slot and e.place[v] >= 0:
            if e.place[v] == slot:
                return False
            wanted = True
    return wanted


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def wanted_in_slots(e: cython.pointer(Emitter), slot: cython.int) -> cython.bint:
    """Whether a slot holds what the loop's beginning has in a slot; else it is emptied."""
    rest: uint64_t = e.holders[slot]
    while rest:
        if e.loop.place[ctz64(rest)] >= 0:
            return True
        rest &= rest - 1
    write_back(e, e.holders[slot])
    forget_all(e, e.holders[slot])
    return False


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def close_loop(e: cython.pointer(Emitter), start: cython.pointer(uint8_t)) -> cython.bint:
    """Put the registers where they were when the loop began, and go there. 0: that is not possible."""
    v: cython.int
    for v in range(64):
        if e.loop.place[v] == IS_CONSTANT and not is_temporary(v) and not stays(e, v):
            return 0
    x_forget_scratch(e)
    forget_all(e, TEMPORARIES_MASK)
    # first out of the slots, then from slot to slot, then into them
    for v in range(64):
        if e.place[v] != IN_MEMORY and not (e.loop.place[v] != IN_MEMORY and (e.loop.dirty >> v) & 1):
            write_back(e, ONE << v)
    for v in range(XMM_REGISTERS):
        if e.xplace[v] != IN_MEMORY and not (e.xplace[v] == e.loop.xplace[v] and (e.loop.xdirty >> v) & 1):
            x_write_back(e, cython.cast(uint32_t, 1) << v)
    move_back(e)
    for v in range(64):
        if e.loop.place[v] >= 0 and not stays(e, v):
            write_back(e, ONE << v)
    for v in range(64):
        if e.loop.place[v] >= 0 and not stays(e, v):
            e.a = REGS + 8 * v
            put(e, special_stencil(SPECIAL_LOAD_SLOT) + e.loop.place[v])
    for v in range(XMM_REGISTERS):
        if e.loop.xplace[v] >= 0 and e.xplace[v] != e.loop.xplace[v]:
            e.a = xmm_cell(v)
            put(e, special_stencil(SPECIAL_LOAD_X) + e.loop.xplace[v])
    set_jump(put_jump(e), start)
    return 1
