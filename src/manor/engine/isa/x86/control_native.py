# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Control registers: reading, writing with all checks, what a write flushes; mode switches; XCR0.

Source: SDM volume 3, 2.5 (control registers), 2.6 (XCR0), 4.1.2 (paging-mode switches), 4.10.4 (invalidation),
10.8.5 (IA-32e mode).
"""

from __future__ import annotations

import cython
from cython.cimports.libc.stdint import uint64_t
from cython.cimports.manor.engine.callback_native import callback_get_tpr, callback_set_tpr
from cython.cimports.manor.engine.env import RAX, RCX, RDX, Env
from cython.cimports.manor.engine.host import U32_MAX
from cython.cimports.manor.engine.isa.x86.bits import (
    ATTR_LONG,
    CR0_CD,
    CR0_ET,
    CR0_NW,
    CR0_PE,
    CR0_PG,
    CR0_TS,
    CR0_WP,
    CR4_DE,
    CR4_FSGSBASE,
    CR4_MCE,
    CR4_OSFXSR,
    CR4_OSXMMEXCPT,
    CR4_OSXSAVE,
    CR4_PAE,
    CR4_PCE,
    CR4_PGE,
    CR4_PSE,
    CR4_SMAP,
    CR4_SMEP,
    CR4_TSD,
    EFER_LMA,
    EFER_LME,
    PHYSICAL_BITS,
    SEG_CS,
    VEC_GP,
    VEC_UD,
)
from cython.cimports.manor.engine.isa.x86.descriptor_native import code64, update_block_flags
from cython.cimports.manor.engine.isa.x86.paging_native import load_pdptes
from cython.cimports.manor.engine.softmmu_native import raise_fault, tlb_flush, tlb_flush_page


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _write_cr0(env: cython.pointer[Env], value: uint64_t) -> cython.void:
    old: uint64_t = env.cr[0]
    changed: uint64_t
    paging: uint64_t = CR0_PG
    bad: cython.bint = value > U32_MAX
    value = (value & (paging | CR0_CD | CR0_NW | 0x5003F)) | CR0_ET
    changed = old ^ value
    if value & CR0_PG and not value & CR0_PE:
        bad = True
    if value & CR0_NW and not value & CR0_CD:
        bad = True
    if changed & CR0_PG:
        if value & CR0_PG:
            if env.efer & EFER_LME:
                if not env.cr[4] & CR4_PAE or env.seg_attributes[SEG_CS] & ATTR_LONG:
                    bad = True
        elif code64(env):
            bad = True
    if bad:
        raise_fault(env, VEC_GP, 0)
        return
    if value & CR0_PG and env.cr[4] & CR4_PAE and not env.efer & EFER_LME:
        if changed & (paging | CR0_CD | CR0_NW) and not load_pdptes(env, env.cr[3]):
            raise_fault(env, VEC_GP, 0)
            return
    env.cr[0] = value
    if changed & CR0_PG:
        if value & CR0_PG and env.efer & EFER_LME:
            env.efer |= EFER_LMA
        else:
            env.efer &= ~EFER_LMA
    if changed & CR0_PE:
        env.cpl = 0
    if changed & (paging | CR0_PE | CR0_WP):
        tlb_flush(env, 0)
    update_block_flags(env)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _write_cr3(env: cython.pointer[Env], value: uint64_t) -> cython.void:
    if env.efer & EFER_LMA:
        if value >> PHYSICAL_BITS:
            raise_fault(env, VEC_GP, 0)
            return
    else:
        value &= U32_MAX
        if env.cr[0] & CR0_PG and env.cr[4] & CR4_PAE and not load_pdptes(env, value):
            raise_fault(env, VEC_GP, 0)
            return
    env.cr[3] = value
    tlb_flush(env, 1 if env.cr[4] & CR4_PGE else 0)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _write_cr4(env: cython.pointer[Env], value: uint64_t) -> cython.void:
    supported: uint64_t = (
        CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_MCE | CR4_PGE | CR4_PCE | CR4_OSFXSR | CR4_OSXMMEXCPT
        | CR4_FSGSBASE | CR4_OSXSAVE | CR4_SMEP | CR4_SMAP
    )  # fmt: skip
    changed: uint64_t = env.cr[4] ^ value
    if value & ~supported or (env.efer & EFER_LMA and not value & CR4_PAE):
        raise_fault(env, VEC_GP, 0)
        return
    if env.cr[0] & CR0_PG and value & CR4_PAE and not env.efer & EFER_LMA:
        if changed & (CR4_PGE | CR4_PSE | CR4_PAE | CR4_SMEP) and not load_pdptes(env, env.cr[3]):
            raise_fault(env, VEC_GP, 0)
            return
    env.cr[4] = value
    if changed & (CR4_PGE | CR4_PSE | CR4_PAE | CR4_SMEP | CR4_SMAP):
        tlb_flush(env, 0)
    update_block_flags(env)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _privileged(env: cython.pointer[Env]) -> cython.bint:
    """#GP outside CPL 0; True = may go on."""
    if env.cpl != 0:
        raise_fault(env, VEC_GP, 0)
        return False
    return True


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_read_cr(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    number: uint64_t = imm & 0xFF
    if number != 0 and number != 2 and number != 3 and number != 4 and number != 8:
        raise_fault(env, VEC_UD, 0)
        return 0
    if not _privileged(env):
        return 0
    if number == 8:
        return callback_get_tpr(env)
    return env.cr[number]


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_write_cr(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    number: uint64_t = imm & 0xFF
    if number != 0 and number != 2 and number != 3 and number != 4 and number != 8:
        raise_fault(env, VEC_UD, 0)
        return 0
    if not _privileged(env):
        return 0
    if not code64(env):
        a &= U32_MAX
    if number == 0:
        _write_cr0(env, a)
    elif number == 2:
        env.cr[2] = a
    elif number == 3:
        _write_cr3(env, a)
    elif number == 4:
        _write_cr4(env, a)
    elif a > 15:
        raise_fault(env, VEC_GP, 0)
    else:
        callback_set_tpr(env, a)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_clts(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    if _privileged(env):
        env.cr[0] &= ~CR0_TS
        update_block_flags(env)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_lmsw(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    # PE, MP, EM and TS; PE can be set but not cleared
    if _privileged(env):
        _write_cr0(env, (env.cr[0] & ~0xE) | (a & 0xF))
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_smsw(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    return env.cr[0]


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_invlpg(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    if _privileged(env):
        tlb_flush_page(env, a)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_xgetbv(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    if not env.cr[4] & CR4_OSXSAVE:
        raise_fault(env, VEC_UD, 0)
    elif env.regs[RCX] & U32_MAX:
        raise_fault(env, VEC_GP, 0)
    else:
        env.regs[RAX] = env.xcr0 & U32_MAX
        env.regs[RDX] = env.xcr0 >> 32
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_xsetbv(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    value: uint64_t = (env.regs[RDX] << 32) | (env.regs[RAX] & U32_MAX)
    if not env.cr[4] & CR4_OSXSAVE:
        raise_fault(env, VEC_UD, 0)
    elif env.cpl != 0 or env.regs[RCX] & U32_MAX or not value & 1 or value & ~3:
        raise_fault(env, VEC_GP, 0)
    else:
        env.xcr0 = value
    return 0


def addresses() -> dict[str, int]:
    """Address of each helper, by name."""
    return {
        "read_cr": cython.cast(uint64_t, cython.cast(cython.p_void, help_read_cr)),
        "write_cr": cython.cast(uint64_t, cython.cast(cython.p_void, help_write_cr)),
        "clts": cython.cast(uint64_t, cython.cast(cython.p_void, help_clts)),
        "lmsw": cython.cast(uint64_t, cython.cast(cython.p_void, help_lmsw)),
        "smsw": cython.cast(uint64_t, cython.cast(cython.p_void, help_smsw)),
        "invlpg": cython.cast(uint64_t, cython.cast(cython.p_void, help_invlpg)),
        "xgetbv": cython.cast(uint64_t, cython.cast(cython.p_void, help_xgetbv)),
        "xsetbv": cython.cast(uint64_t, cython.cast(cython.p_void, help_xsetbv)),
    }
