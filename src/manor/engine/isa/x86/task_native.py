# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Hardware task switches through 16-bit and 32-bit task-state segments.

Source: SDM volume 3, chapter 8 "Task Management": 8.2 (structures), 8.3 (switching), table 8-1 (checks).
"""

from __future__ import annotations

import cython
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.manor.engine.env import Env
from cython.cimports.manor.engine.host import U32_MAX, U64_MAX
from cython.cimports.manor.engine.isa.x86.bits import (
    ATTR_CODE,
    ATTR_DPL_SHIFT,
    ATTR_EXPAND_DOWN,
    ATTR_PRESENT,
    ATTR_S,
    CR0_PG,
    CR0_TS,
    CR4_PAE,
    DR6_BT,
    RF_NT,
    RF_ONE,
    RF_VM,
    SEG_CS,
    SEG_DS,
    SEG_ES,
    SEG_FS,
    SEG_GS,
    SEG_SS,
    SEG_TR,
    VEC_DB,
    VEC_GP,
    VEC_NP,
    VEC_TS,
)
from cython.cimports.manor.engine.isa.x86.descriptor_native import (
    descriptor_address,
    descriptor_attributes,
    descriptor_base,
    descriptor_limit,
    limit_ok,
    load_data_segment,
    load_ldt,
    mark_accessed,
    read_descriptor,
    set_from_descriptor,
    set_segment,
    set_v86_segment,
    update_block_flags,
)
from cython.cimports.manor.engine.isa.x86.flags_native import read_rflags, write_rflags
from cython.cimports.manor.engine.isa.x86.paging_native import load_pdptes
from cython.cimports.manor.engine.softmmu_native import probe, raise_fault, sys_read, sys_write, tlb_flush


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _set_busy(env: cython.pointer[Env], selector: uint32_t, busy: cython.bint) -> cython.void:
    """Set or clear the busy bit of a TSS descriptor in the GDT."""
    address: uint64_t = descriptor_address(env, selector, 8)
    value: uint64_t
    if address == U64_MAX:
        return
    value = sys_read(env, address + 5, 1)
    sys_write(env, address + 5, value | 2 if busy else value & ~2, 1)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _save(env: cython.pointer[Env], wide: cython.bint, rip: uint64_t, flags: uint64_t) -> cython.void:
    """Store the outgoing task's registers into its TSS."""
    i: uint32_t
    base: uint64_t = env.seg_base[SEG_TR]
    if wide:
        sys_write(env, base + 0x20, rip, 4)
        sys_write(env, base + 0x24, flags, 4)
        for i in range(8):
            sys_write(env, base + 0x28 + 4 * i, env.regs[i] & U32_MAX, 4)
        for i in range(6):
            sys_write(env, base + 0x48 + 4 * i, env.seg_selector[i], 2)
    else:
        sys_write(env, base + 0x0E, rip, 2)
        sys_write(env, base + 0x10, flags, 2)
        for i in range(8):
            sys_write(env, base + 0x12 + 2 * i, env.regs[i] & 0xFFFF, 2)
        for i in range(4):
            sys_write(env, base + 0x22 + 2 * i, env.seg_selector[i], 2)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _load_code(env: cython.pointer[Env], selector: uint32_t, ext: uint32_t) -> cython.int:
    """Load CS of the incoming task; errors are #TS."""
    d: uint64_t = 0
    attributes: uint32_t
    dpl: uint32_t
    rpl: uint32_t = selector & 3
    error: uint32_t = (selector & 0xFFFC) | ext
    if selector & 0xFFFC == 0:
        raise_fault(env, VEC_TS, error)
        return 0
    if not read_descriptor(env, selector, VEC_TS, ext, cython.address(d)):
        return 0
    attributes = descriptor_attributes(d)
    dpl = (attributes >> ATTR_DPL_SHIFT) & 3
    if not attributes & ATTR_S or not attributes & ATTR_CODE:
        raise_fault(env, VEC_TS, error)
        return 0
    if dpl > rpl if attributes & ATTR_EXPAND_DOWN else dpl != rpl:
        raise_fault(env, VEC_TS, error)
        return 0
    if not attributes & ATTR_PRESENT:
        raise_fault(env, VEC_NP, error)
        return 0
    d = mark_accessed(env, selector, d)
    if env.fault:
        return 0
    set_from_descriptor(env, SEG_CS, selector, d)
    return 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def task_switch(
    env: cython.pointer[Env], selector: uint32_t, how: cython.int, next_rip: uint64_t, ext: uint32_t
) -> cython.int:
    """Switch to the task of a TSS selector; 1 = done, 0 = an exception was raised.

    Faults found before the switch leave the old task as it was. Those found while the new task's segments
    are loaded are raised in the new task, as the manual demands.
    """
    d: uint64_t = 0
    base: uint64_t
    limit: uint32_t
    kind: uint32_t
    wide: cython.bint
    old_wide: cython.bint = (env.seg_attributes[SEG_TR] & 8) != 0
    old_selector: uint32_t = env.seg_selector[SEG_TR]
    flags: uint64_t = read_rflags(env)
    error: uint32_t = (selector & 0xFFFC) | ext
    vector: uint32_t = VEC_TS if how == TASK_RETURN else VEC_GP
    value: uint64_t[8]
    segment: uint32_t[6]
    ldt: uint32_t
    rip: uint64_t
    cr3: uint64_t = 0
    trap: uint64_t = 0
    i: uint32_t

    if selector & 4 or selector & 0xFFFC == 0:
        raise_fault(env, vector, error)
        return 0
    if not read_descriptor(env, selector, vector, ext, cython.address(d)):
        return 0
    kind = descriptor_attributes(d) & 0x1F
    wide = (kind & 8) != 0
    if (kind & ~8) != (3 if how == TASK_RETURN else 1):
        raise_fault(env, vector, error)
        return 0
    if not descriptor_attributes(d) & ATTR_PRESENT:
        raise_fault(env, VEC_NP, error)
        return 0
    base = descriptor_base(d)
    limit = descriptor_limit(d)
    if limit < (0x67 if wide else 0x2B):
        raise_fault(env, VEC_TS, error)
        return 0

    # everything that may still fault in the old task: both task-state segments must be mapped
    if not probe(env, env.seg_base[SEG_TR], 0x68 if old_wide else 0x2C, 0, 1):
        return 0
    if not probe(env, base, 0x68 if wide else 0x2C, 0, 1):
        return 0
    if wide:
        cr3 = sys_read(env, base + 0x1C, 4)
        rip = sys_read(env, base + 0x20, 4)
        value[0] = sys_read(env, base + 0x24, 4)
        trap = sys_read(env, base + 0x64, 2) & 1
        for i in range(6):
            segment[i] = cython.cast(uint32_t, sys_read(env, base + 0x48 + 4 * i, 2))
        ldt = cython.cast(uint32_t, sys_read(env, base + 0x60, 2))
    else:
        rip = sys_read(env, base + 0x0E, 2)
        value[0] = sys_read(env, base + 0x10, 2)
        for i in range(4):
            segment[i] = cython.cast(uint32_t, sys_read(env, base + 0x22 + 2 * i, 2))
        segment[4] = 0
        segment[5] = 0
        ldt = cython.cast(uint32_t, sys_read(env, base + 0x2A, 2))
    if env.fault:
        return 0

    if how == TASK_JUMP or how == TASK_RETURN:
        _set_busy(env, old_selector, False)
    if how == TASK_RETURN:
        flags &= ~RF_NT
    _save(env, old_wide, next_rip, flags)
    if how == TASK_CALL or how == TASK_EVENT:
        sys_write(env, base, old_selector, 2)
        value[0] |= RF_NT
    if how != TASK_RETURN:
        _set_busy(env, selector, True)
    if env.fault:
        return 0

    set_segment(env, SEG_TR, selector, base, limit, descriptor_attributes(d) | 2)
    env.cr[0] |= CR0_TS
    for i in range(8):
        if wide:
            env.regs[i] = sys_read(env, base + 0x28 + 4 * i, 4)
        else:
            env.regs[i] = sys_read(env, base + 0x12 + 2 * i, 2) | (U32_MAX & ~0xFFFF)
    if wide and env.cr[0] & CR0_PG and cr3 != env.cr[3]:
        env.cr[3] = cr3
        if env.cr[4] & CR4_PAE:
            load_pdptes(env, cr3)
        tlb_flush(env, 1)
    env.rip = rip
    write_rflags(env, (value[0] & (U32_MAX if wide else 0xFFFF)) | RF_ONE)
    # From here the new task runs: selectors are loaded first, then checked, as table 8-1 orders.
    for i in range(6):
        set_segment(env, i, segment[i], 0, 0, 0)
    if wide and env.rflags & RF_VM:
        env.cpl = 3
        for i in range(6):
            set_v86_segment(env, i, segment[i])
        load_ldt(env, ldt, VEC_TS)
    else:
        env.cpl = segment[SEG_CS] & 3
        if (
            load_ldt(env, ldt, VEC_TS)
            and _load_code(env, segment[SEG_CS], ext)
            and load_data_segment(env, SEG_SS, segment[SEG_SS], env.cpl, VEC_TS, ext)
            and load_data_segment(env, SEG_DS, segment[SEG_DS], env.cpl, VEC_TS, ext)
            and load_data_segment(env, SEG_ES, segment[SEG_ES], env.cpl, VEC_TS, ext)
            and load_data_segment(env, SEG_FS, segment[SEG_FS], env.cpl, VEC_TS, ext)
        ):
            load_data_segment(env, SEG_GS, segment[SEG_GS], env.cpl, VEC_TS, ext)
    update_block_flags(env)
    env.dr[7] &= ~0x155
    if env.fault:
        return 0
    if not limit_ok(env.seg_limit[SEG_CS], 0, rip, 1):
        raise_fault(env, VEC_GP, ext)
        return 0
    if trap and how != TASK_EVENT:
        env.exc_dr6 = DR6_BT
        raise_fault(env, VEC_DB, 0)
    return 1
