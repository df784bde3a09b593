# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""SYSCALL, SYSRET, SYSENTER, SYSEXIT as Intel processors do them.

Source: SDM volume 2, the pages of the four; volume 3, 5.8.7 and 5.8.8.
"""

from __future__ import annotations

import cython
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.manor.engine.callback_native import callback_trace, callback_trace_syscall
from cython.cimports.manor.engine.env import RAX, RCX, RDX, RSP, STAT_SYSCALLS, TRACE_SYSCALLS, Env
from cython.cimports.manor.engine.host import U32_MAX
from cython.cimports.manor.engine.isa.x86.bits import (
    CR0_PE,
    DR6_BS,
    EFER_LMA,
    EFER_SCE,
    NO_STEP,
    RF_IF,
    RF_ONE,
    RF_RF,
    RF_TF,
    RF_VM,
    SEG_CS,
    SEG_SS,
    VEC_GP,
    VEC_UD,
    canonical,
)
from cython.cimports.manor.engine.isa.x86.descriptor_native import (
    code64,
    notice_interrupts,
    set_segment,
    update_block_flags,
)
from cython.cimports.manor.engine.isa.x86.exception_native import raise_debug
from cython.cimports.manor.engine.isa.x86.flags_native import read_rflags, write_rflags
from cython.cimports.manor.engine.softmmu_native import raise_fault


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _flat(env: cython.pointer[Env], selector: uint32_t, cpl: uint32_t, long_code: cython.bint) -> cython.void:
    """CS = selector, SS = the stack selector given by the caller later: flat, as these instructions fix them."""
    limit: uint32_t = cython.cast(uint32_t, U32_MAX)
    env.cpl = cpl
    set_segment(env, SEG_CS, selector, 0, limit, (0xA09B if long_code else 0xC09B) | (cpl << 5))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _flat_stack(env: cython.pointer[Env], selector: uint32_t, cpl: uint32_t) -> cython.void:
    limit: uint32_t = cython.cast(uint32_t, U32_MAX)
    set_segment(env, SEG_SS, selector, 0, limit, 0xC093 | (cpl << 5))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_syscall(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    flags: uint64_t
    selector: uint32_t
    if not env.efer & EFER_SCE or not code64(env):
        raise_fault(env, VEC_UD, 0)
        return 0
    env.stats[STAT_SYSCALLS] += 1
    if env.trace & TRACE_SYSCALLS:
        callback_trace_syscall(env)
        if env.fault:
            return 0
    flags = read_rflags(env)
    selector = cython.cast(uint32_t, (env.star >> 32) & 0xFFFC)
    env.regs[RCX] = env.rip + ((imm >> 8) & 0xFF)
    env.regs[11] = flags & ~RF_RF
    write_rflags(env, (flags & ~(env.sfmask | RF_RF)) | RF_ONE)
    _flat(env, selector, 0, True)
    _flat_stack(env, selector + 8, 0)
    env.rip = env.lstar
    update_block_flags(env)
    if env.one_insn and not env.rflags & RF_TF:
        env.exc_dr6 |= NO_STEP  # TF counts as it is after the instruction
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_sysret(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    long_code: cython.bint = (imm & 0xFF) == 8
    base: uint32_t = cython.cast(uint32_t, (env.star >> 48) & 0xFFFF)
    if not env.efer & EFER_SCE or not code64(env):
        raise_fault(env, VEC_UD, 0)
        return 0
    if env.cpl != 0 or (long_code and not canonical(env.regs[RCX])):
        raise_fault(env, VEC_GP, 0)
        return 0
    if env.trace & TRACE_SYSCALLS:
        callback_trace(env, "sysret", env.regs[RAX], env.regs[RCX], 0, 0)
        if env.fault:
            return 0
    env.rip = env.regs[RCX] if long_code else env.regs[RCX] & U32_MAX
    write_rflags(env, (env.regs[11] & 0x3C7FD7) | RF_ONE)
    _flat(env, (base + 16 if long_code else base) | 3, 3, long_code)
    _flat_stack(env, (base + 8) | 3, 3)
    update_block_flags(env)
    notice_interrupts(env)
    if env.rflags & RF_TF:
        # as if the system call in the program had just completed
        raise_debug(env, DR6_BS)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_sysenter(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    long_mode: cython.bint = (env.efer & EFER_LMA) != 0
    selector: uint32_t = cython.cast(uint32_t, env.sysenter_cs & 0xFFFC)
    if not env.cr[0] & CR0_PE or selector == 0:
        raise_fault(env, VEC_GP, 0)
        return 0
    env.stats[STAT_SYSCALLS] += 1
    env.rflags &= ~(RF_VM | RF_IF | RF_RF)
    _flat(env, selector, 0, long_mode)
    _flat_stack(env, selector + 8, 0)
    env.regs[RSP] = env.sysenter_esp if long_mode else env.sysenter_esp & U32_MAX
    env.rip = env.sysenter_eip if long_mode else env.sysenter_eip & U32_MAX
    update_block_flags(env)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_sysexit(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    long_code: cython.bint = (imm & 0xFF) == 8
    selector: uint32_t = cython.cast(uint32_t, env.sysenter_cs & 0xFFFC)
    if not env.cr[0] & CR0_PE or selector == 0 or env.cpl != 0:
        raise_fault(env, VEC_GP, 0)
        return 0
    if long_code and not (canonical(env.regs[RCX]) and canonical(env.regs[RDX])):
        raise_fault(env, VEC_GP, 0)
        return 0
    env.regs[RSP] = env.regs[RCX] if long_code else env.regs[RCX] & U32_MAX
    env.rip = env.regs[RDX] if long_code else env.regs[RDX] & U32_MAX
    _flat(env, (selector + (32 if long_code else 16)) | 3, 3, long_code)
    _flat_stack(env, (selector + (40 if long_code else 24)) | 3, 3)
    update_block_flags(env)
    return 0


def addresses() -> dict[str, int]:
    """Address of each helper, by name."""
    return {
        "syscall": cython.cast(uint64_t, cython.cast(cython.p_void, help_syscall)),
        "sysret": cython.cast(uint64_t, cython.cast(cython.p_void, help_sysret)),
        "sysenter": cython.cast(uint64_t, cython.cast(cython.p_void, help_sysenter)),
        "sysexit": cython.cast(uint64_t, cython.cast(cython.p_void, help_sysexit)),
    }
