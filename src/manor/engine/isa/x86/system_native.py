# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Flags, halting, cache control, time-stamp reads, and the state after RESET and INIT.

Source: SDM volume 2 by mnemonic; volume 3, table 10-1 (state after RESET and INIT).
"""

from __future__ import annotations

import cython
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.libc.string import memset
from cython.cimports.manor.engine.cache_native import sched_yield
from cython.cimports.manor.engine.env import DIRECTION, FAULT_HALT, RAX, RCX, RDX, Env
from cython.cimports.manor.engine.host import U32_MAX, monotonic_ns
from cython.cimports.manor.engine.isa.x86.bits import (
    CR0_CD,
    CR0_ET,
    CR0_NW,
    CR4_TSD,
    RF_AC,
    RF_AF,
    RF_CF,
    RF_DF,
    RF_ID,
    RF_IF,
    RF_IOPL,
    RF_NT,
    RF_OF,
    RF_ONE,
    RF_PF,
    RF_RF,
    RF_SF,
    RF_TF,
    RF_VM,
    RF_ZF,
    SEG_CS,
    SEG_LDT,
    SEG_TR,
    VEC_GP,
    VEC_UD,
)
from cython.cimports.manor.engine.isa.x86.cpuid_native import cpuid_signature
from cython.cimports.manor.engine.isa.x86.descriptor_native import (
    notice_interrupts,
    set_segment,
    update_block_flags,
    virtual8086,
)
from cython.cimports.manor.engine.isa.x86.flags_native import read_rflags, write_rflags
from cython.cimports.manor.engine.isa.x86.msr_native import read_tsc
from cython.cimports.manor.engine.softmmu_native import mode_read, operand_mode, raise_fault, tlb_flush
from cython.cimports.manor.engine.vm import Vm

# Waits this short are usual when all vCPUs run; a yield costs as much as some tens of them.
PAUSES_A_YIELD = cython.declare(uint32_t, 32)
# Memory types of the page attribute table after RESET: WB WT UC- UC, twice. SDM volume 3, 12.12.4.
_PAT = cython.declare(uint64_t, 0x0007040600070406)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_wbinvd(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    if env.cpl != 0:
        raise_fault(env, VEC_GP, 0)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_invd(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    if env.cpl != 0:
        raise_fault(env, VEC_GP, 0)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_clflush(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    mode_read(env, a, 1, operand_mode(env, imm))
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_hlt(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    if env.cpl != 0:
        raise_fault(env, VEC_GP, 0)
        return 0
    env.rip += (imm >> 8) & 0xFF
    env.halted = 1
    env.fault = FAULT_HALT
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_pause(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    # A lock whose owner's thread the host has put aside would be waited for until the host's next tick.
    env.pauses += 1
    if env.pauses % PAUSES_A_YIELD == 0 and cython.cast(cython.pointer[Vm], env.vm).cpu_count > 1:
        sched_yield()
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _io_privilege(env: cython.pointer[Env]) -> cython.bint:
    """CPL <= IOPL, else #GP. In virtual-8086 mode CPL is 3, in real mode 0: one rule for all."""
    if env.cpl > ((env.rflags >> 12) & 3):
        raise_fault(env, VEC_GP, 0)
        return False
    return True


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_cli(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    if _io_privilege(env):
        env.rflags &= ~RF_IF
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_sti(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    if _io_privilege(env) and not env.rflags & RF_IF:
        env.rflags |= RF_IF
        env.shadow = 1
        notice_interrupts(env)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_clac(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    if env.cpl != 0:
        raise_fault(env, VEC_UD, 0)
    else:
        env.rflags &= ~RF_AC
        update_block_flags(env)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_stac(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    if env.cpl != 0:
        raise_fault(env, VEC_UD, 0)
    else:
        env.rflags |= RF_AC
        update_block_flags(env)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_read_flags(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    if virtual8086(env) and not _io_privilege(env):
        return 0
    return read_rflags(env) & ~(RF_VM | RF_RF)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_write_flags(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    mask: uint64_t = RF_CF | RF_PF | RF_AF | RF_ZF | RF_SF | RF_TF | RF_DF | RF_OF | RF_NT | RF_AC | RF_ID
    if virtual8086(env) and not _io_privilege(env):
        return 0
    if env.cpl <= ((env.rflags >> 12) & 3):
        mask |= RF_IF
    if env.cpl == 0:
        mask |= RF_IOPL
    if imm & 0xFF == 2:
        mask &= 0xFFFF
    write_rflags(env, (read_rflags(env) & ~(mask | RF_RF)) | (a & mask) | RF_ONE)
    update_block_flags(env)
    notice_interrupts(env)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_rdtsc(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    tsc: uint64_t
    if env.cr[4] & CR4_TSD and env.cpl != 0:
        raise_fault(env, VEC_GP, 0)
        return 0
    tsc = read_tsc(env)
    env.regs[RAX] = tsc & U32_MAX
    env.regs[RDX] = tsc >> 32
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_rdtscp(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    help_rdtsc(env, a, b, imm)
    if env.fault == 0:
        env.regs[RCX] = env.tsc_aux & U32_MAX
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_rdpmc(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    # CPUID reports no performance counters, so no index is valid
    raise_fault(env, VEC_GP, 0)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def reset_cpu(env: cython.pointer[Env], init: cython.int) -> cython.void:
    """The state after RESET (init = 0) or INIT, which keeps MSRs, the FPU, the TSC and the caching bits of CR0."""
    vm: cython.pointer[Vm] = cython.cast(cython.pointer[Vm], env.vm)
    i: uint32_t
    caching: uint64_t = env.cr[0] & (CR0_CD | CR0_NW) if init else CR0_CD | CR0_NW
    memset(env.regs, 0, 16 * 8)
    env.regs[RDX] = cpuid_signature()
    env.regs[DIRECTION] = 1
    write_rflags(env, RF_ONE)
    env.rip = 0xFFF0
    for i in range(6):
        set_segment(env, i, 0, 0, 0xFFFF, 0x93)
    set_segment(env, SEG_CS, 0xF000, U32_MAX & ~0xFFFF, 0xFFFF, 0x9B)
    set_segment(env, SEG_LDT, 0, 0, 0xFFFF, 0x82)
    set_segment(env, SEG_TR, 0, 0, 0xFFFF, 0x8B)
    env.gdt_base = 0
    env.gdt_limit = 0xFFFF
    env.idt_base = 0
    env.idt_limit = 0xFFFF
    memset(env.cr, 0, 16 * 8)
    env.cr[0] = caching | CR0_ET
    env.efer = 0
    memset(env.dr, 0, 8 * 8)
    env.dr[6] = U32_MAX & ~0xF00F
    env.dr[7] = 0x400
    env.cpl = 0
    env.shadow = 0
    env.fault = 0
    env.exc_dr6 = 0
    env.halted = 0
    env.nmi_blocked = 0
    env.nmi_pending = 0
    if not init:
        memset(env.xmm, 0, 16 * 16)
        env.mxcsr = 0x1F80
        env.fpu_control = 0x40
        env.fpu_status = 0
        env.fpu_top = 0
        env.fpu_tag = 0
        memset(env.fpr, 0, 8 * 16)
        env.xcr0 = 1
        env.star = 0
        env.lstar = 0
        env.cstar = 0
        env.sfmask = 0
        env.kernel_gs_base = 0
        env.sysenter_cs = 0
        env.sysenter_esp = 0
        env.sysenter_eip = 0
        env.tsc_aux = 0
        env.pat = _PAT
        env.misc_enable = 0x1801  # fast strings; no branch trace store, no precise event sampling
        env.mtrr_def_type = 0
        memset(env.mtrr_fixed, 0, 11 * 8)
        memset(env.mtrr_var, 0, 16 * 8)
        # all time-stamp counters of a VM start together and are not reset one by one: Linux compares them
        if env.index != 0 and vm.cpus[0] != cython.NULL:
            env.tsc_offset = vm.cpus[0].tsc_offset
        elif env.tsc_offset == 0:
            env.tsc_offset = 0 - monotonic_ns()
    tlb_flush(env, 0)
    update_block_flags(env)


def addresses() -> dict[str, int]:
    """Address of each helper, by name."""
    return {
        "wbinvd": cython.cast(uint64_t, cython.cast(cython.p_void, help_wbinvd)),
        "invd": cython.cast(uint64_t, cython.cast(cython.p_void, help_invd)),
        "clflush": cython.cast(uint64_t, cython.cast(cython.p_void, help_clflush)),
        "hlt": cython.cast(uint64_t, cython.cast(cython.p_void, help_hlt)),
        "pause": cython.cast(uint64_t, cython.cast(cython.p_void, help_pause)),
        "cli": cython.cast(uint64_t, cython.cast(cython.p_void, help_cli)),
        "sti": cython.cast(uint64_t, cython.cast(cython.p_void, help_sti)),
        "clac": cython.cast(uint64_t, cython.cast(cython.p_void, help_clac)),
        "stac": cython.cast(uint64_t, cython.cast(cython.p_void, help_stac)),
        "read_flags": cython.cast(uint64_t, cython.cast(cython.p_void, help_read_flags)),
        "write_flags": cython.cast(uint64_t, cython.cast(cython.p_void, help_write_flags)),
        "rdtsc": cython.cast(uint64_t, cython.cast(cython.p_void, help_rdtsc)),
        "rdtscp": cython.cast(uint64_t, cython.cast(cython.p_void, help_rdtscp)),
        "rdpmc": cython.cast(uint64_t, cython.cast(cython.p_void, help_rdpmc)),
    }
