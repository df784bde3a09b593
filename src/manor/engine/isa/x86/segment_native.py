# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Helpers of the instructions on segment registers and descriptor tables.

Source: SDM volume 2, the pages of MOV, LGDT, LLDT, LTR, LAR, LSL, VERR, SWAPGS, WRFSBASE; volume 3, 5.4.1
(null selectors), 5.10 (pointer validation).
"""

from __future__ import annotations

import cython
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.manor.engine.env import FAULT_ONE_INSN, SEG_BASE, Env
from cython.cimports.manor.engine.host import U32_MAX, U64_MAX
from cython.cimports.manor.engine.isa.x86.bits import (
    ATTR_CODE,
    ATTR_DPL_SHIFT,
    ATTR_EXPAND_DOWN,
    ATTR_S,
    ATTR_WRITABLE,
    CR0_PE,
    CR4_FSGSBASE,
    EFER_LMA,
    RF_ZF,
    SEG_CS,
    SEG_FS,
    SEG_GS,
    SEG_LDT,
    SEG_SS,
    SEG_TR,
    VEC_GP,
    VEC_NP,
    VEC_UD,
    canonical,
)
from cython.cimports.manor.engine.isa.x86.descriptor_native import (
    check_access,
    code64,
    descriptor_address,
    descriptor_attributes,
    descriptor_limit,
    load_data_segment,
    load_ldt,
    protected_mode,
    set_real_segment,
    set_segment,
    set_v86_segment,
    update_block_flags,
    virtual8086,
)
from cython.cimports.manor.engine.isa.x86.flags_native import compute_eflags, set_eflags
from cython.cimports.manor.engine.softmmu_native import (
    mode_read,
    mode_write,
    operand_mode,
    probe,
    raise_fault,
    sys_read,
    sys_write,
)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_load_segment(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    seg: uint32_t = cython.cast(uint32_t, imm & 7)
    selector: uint32_t = cython.cast(uint32_t, a & 0xFFFF)
    if not env.cr[0] & CR0_PE:
        set_real_segment(env, seg, selector)
    elif virtual8086(env):
        set_v86_segment(env, seg, selector)
    elif not load_data_segment(env, seg, selector, env.cpl, VEC_GP, 0):
        return 0
    if seg == SEG_SS:
        env.shadow = 2  # also holds off #DB: SDM volume 3, 6.8.3
    if seg < SEG_FS or not code64(env):
        update_block_flags(env)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_read_segment(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    return env.seg_selector[imm & 7]


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_segment_check(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    seg: uint32_t = cython.cast(uint32_t, imm & 7)
    check_access(env, seg, a, cython.cast(uint32_t, b & 0xFFFF), 1 if b & 0x10000 else 0)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_code_limit(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    """At the head of a block: part of it may lie beyond the limit of CS. Then find the instruction that does."""
    if imm > env.seg_limit[SEG_CS]:
        if env.one_insn:
            raise_fault(env, VEC_GP, 0)
        elif env.fault == 0:
            env.fault = FAULT_ONE_INSN
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_target_check(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    if (imm or b) and (not canonical(a) or (a & U32_MAX) > env.seg_limit[SEG_CS]):
        raise_fault(env, VEC_GP, 0)
    return 0


# ------------------------------------------------------------------ descriptor-table registers


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _load_table(
    env: cython.pointer[Env], gva: uint64_t, imm: uint64_t, base: cython.pointer[uint64_t]
) -> uint32_t:
    """Read a pseudo-descriptor; the limit. Raises #GP outside CPL 0 and for a base that is not canonical."""
    limit: uint32_t
    size: uint32_t = cython.cast(uint32_t, imm & 0xFF)
    mode: uint32_t = operand_mode(env, imm)
    if env.cpl != 0:
        raise_fault(env, VEC_GP, 0)
        return 0
    limit = cython.cast(uint32_t, mode_read(env, gva, 2, mode))
    if env.fault:
        return 0
    base[0] = mode_read(env, gva + 2, 8 if size == 8 else 4, mode)
    if env.fault:
        return 0
    if size == 2:
        base[0] &= 0xFFFFFF
    elif size == 8 and not canonical(base[0]):
        raise_fault(env, VEC_GP, 0)
    return limit


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _store_table(
    env: cython.pointer[Env], gva: uint64_t, imm: uint64_t, base: uint64_t, limit: uint32_t
) -> cython.void:
    size: uint32_t = 8 if code64(env) else 4
    mode: uint32_t = operand_mode(env, imm)
    if probe(env, gva, 2 + size, mode, 1):
        mode_write(env, gva, limit, 2, mode)
    if env.fault == 0:
        mode_write(env, gva + 2, base, size, mode)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_lgdt(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    base: uint64_t = 0
    limit: uint32_t = _load_table(env, a, imm, cython.address(base))
    if env.fault == 0:
        env.gdt_base = base
        env.gdt_limit = limit
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_lidt(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    base: uint64_t = 0
    limit: uint32_t = _load_table(env, a, imm, cython.address(base))
    if env.fault == 0:
        env.idt_base = base
        env.idt_limit = limit
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_sgdt(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    _store_table(env, a, imm, env.gdt_base, env.gdt_limit)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_sidt(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    _store_table(env, a, imm, env.idt_base, env.idt_limit)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _system_register(env: cython.pointer[Env], privileged: cython.bint) -> cython.bint:
    """LLDT and its kind: #UD outside protected mode, #GP outside CPL 0. True = may go on."""
    if not protected_mode(env):
        raise_fault(env, VEC_UD, 0)
        return False
    if privileged and env.cpl != 0:
        raise_fault(env, VEC_GP, 0)
        return False
    return True


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_lldt(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    if _system_register(env, True):
        load_ldt(env, cython.cast(uint32_t, a & 0xFFFF), VEC_GP)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_ltr(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    d: uint64_t
    high: uint64_t = 0
    address: uint64_t
    base: uint64_t
    kind: uint32_t
    two: uint64_t = 2
    selector: uint32_t = cython.cast(uint32_t, a & 0xFFFF)
    long_mode: cython.bint = (env.efer & EFER_LMA) != 0
    if not _system_register(env, True):
        return 0
    if selector & 0xFFFC == 0:
        raise_fault(env, VEC_GP, 0)
        return 0
    address = U64_MAX if selector & 4 else descriptor_address(env, selector, 16 if long_mode else 8)
    if address == U64_MAX:
        raise_fault(env, VEC_GP, selector & 0xFFFC)
        return 0
    d = sys_read(env, address, 8)
    if env.fault == 0 and long_mode:
        high = sys_read(env, address + 8, 8)
    if env.fault:
        return 0
    kind = cython.cast(uint32_t, (d >> 40) & 0x1F)
    if kind != 9 and (kind != 1 or long_mode):
        raise_fault(env, VEC_GP, selector & 0xFFFC)
        return 0
    if not (d >> 47) & 1:
        raise_fault(env, VEC_NP, selector & 0xFFFC)
        return 0
    base = ((d >> 16) & 0xFFFFFF) | ((d >> 56) << 24) | (high << 32)
    if long_mode and not canonical(base):
        raise_fault(env, VEC_GP, selector & 0xFFFC)
        return 0
    d |= two << 40
    sys_write(env, address + 5, (d >> 40) & 0xFF, 1)
    if env.fault == 0:
        set_segment(env, SEG_TR, selector, base, descriptor_limit(d), descriptor_attributes(d))
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_sldt(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    return env.seg_selector[SEG_LDT] if _system_register(env, False) else 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_str(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    return env.seg_selector[SEG_TR] if _system_register(env, False) else 0


# ------------------------------------------------------------------ looking at descriptors


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _set_zf(env: cython.pointer[Env], zf: cython.bint) -> cython.void:
    flags: uint64_t = compute_eflags(env)
    set_eflags(env, flags | RF_ZF if zf else flags & ~RF_ZF)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _visible(env: cython.pointer[Env], selector: uint32_t, d: cython.pointer[uint64_t]) -> cython.bint:
    """Whether a selector names a descriptor that CPL and RPL may see; fills d."""
    address: uint64_t
    attributes: uint32_t
    dpl: uint32_t
    if selector & 0xFFFC == 0:
        return False
    address = descriptor_address(env, selector, 8)
    if address == U64_MAX:
        return False
    d[0] = sys_read(env, address, 8)
    if env.fault:
        return False
    attributes = descriptor_attributes(d[0])
    dpl = (attributes >> ATTR_DPL_SHIFT) & 3
    if (attributes & (ATTR_S | ATTR_CODE | ATTR_EXPAND_DOWN)) == (ATTR_S | ATTR_CODE | ATTR_EXPAND_DOWN):
        return True
    return dpl >= env.cpl and dpl >= (selector & 3)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _resized(value: uint64_t, old: uint64_t, size: uint64_t) -> uint64_t:
    """A destination register after a write of its low part: 16 bits keep the rest."""
    return (old & ~0xFFFF) | (value & 0xFFFF) if size & 0xFF == 2 else value


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_arpl(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    lower: cython.bint = (a & 3) < (b & 3)
    if not _system_register(env, False):
        return a
    _set_zf(env, lower)
    return (a & ~3) | (b & 3) if lower else a


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_arpl_memory(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    mode: uint32_t = operand_mode(env, imm)
    old: uint64_t
    new: uint64_t
    if not _system_register(env, False):
        return 0
    old = mode_read(env, a, 2, mode)
    if env.fault:
        return 0
    new = (old & ~3) | (b & 3)
    if (old & 3) < (b & 3):
        mode_write(env, a, new, 2, mode)
    if env.fault == 0:
        help_arpl(env, old, b, 0)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_lar(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    d: uint64_t = 0
    kind: uint32_t
    good: cython.bint
    if not _system_register(env, False):
        return b
    good = _visible(env, cython.cast(uint32_t, a & 0xFFFF), cython.address(d))
    if env.fault:
        return b
    kind = cython.cast(uint32_t, (d >> 40) & 0x1F)
    if good and not kind & ATTR_S:
        # system descriptors: LDT, 64- or 32-bit TSS, call gate; outside IA-32e mode 16-bit TSS, gates too
        if env.efer & EFER_LMA:
            good = kind == 2 or kind == 9 or kind == 11 or kind == 12
        else:
            good = kind == 1 or kind == 2 or kind == 3 or kind == 4 or kind == 5
            good = good or kind == 9 or kind == 11 or kind == 12
    _set_zf(env, good)
    return _resized((d >> 32) & 0x00F0FF00, b, imm) if good else b


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_lsl(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    d: uint64_t = 0
    kind: uint32_t
    good: cython.bint
    if not _system_register(env, False):
        return b
    good = _visible(env, cython.cast(uint32_t, a & 0xFFFF), cython.address(d))
    if env.fault:
        return b
    kind = cython.cast(uint32_t, (d >> 40) & 0x1F)
    if good and not kind & ATTR_S:
        good = kind == 2 or kind == 9 or kind == 11
        if not env.efer & EFER_LMA:
            good = good or kind == 1 or kind == 3
    _set_zf(env, good)
    return _resized(descriptor_limit(d), b, imm) if good else b


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_verr(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    d: uint64_t = 0
    attributes: uint32_t
    good: cython.bint
    if not _system_register(env, False):
        return 0
    good = _visible(env, cython.cast(uint32_t, a & 0xFFFF), cython.address(d))
    if env.fault:
        return 0
    attributes = descriptor_attributes(d)
    if good:
        good = (attributes & ATTR_S) != 0 and (not attributes & ATTR_CODE or attributes & ATTR_WRITABLE != 0)
    _set_zf(env, good)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_verw(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    d: uint64_t = 0
    attributes: uint32_t
    good: cython.bint
    if not _system_register(env, False):
        return 0
    good = _visible(env, cython.cast(uint32_t, a & 0xFFFF), cython.address(d))
    if env.fault:
        return 0
    attributes = descriptor_attributes(d)
    if good:
        good = (attributes & (ATTR_S | ATTR_CODE | ATTR_WRITABLE)) == (ATTR_S | ATTR_WRITABLE)
    _set_zf(env, good)
    return 0


# ------------------------------------------------------------------ FS and GS bases


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_swapgs(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    old: uint64_t = env.seg_base[SEG_GS]
    if not code64(env):
        raise_fault(env, VEC_UD, 0)
    elif env.cpl != 0:
        raise_fault(env, VEC_GP, 0)
    else:
        env.seg_base[SEG_GS] = env.kernel_gs_base
        env.regs[SEG_BASE + SEG_GS] = env.kernel_gs_base
        env.kernel_gs_base = old
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _read_base(env: cython.pointer[Env], seg: uint32_t, size: uint64_t) -> uint64_t:
    if not code64(env) or not env.cr[4] & CR4_FSGSBASE:
        raise_fault(env, VEC_UD, 0)
        return 0
    return env.seg_base[seg] if size == 8 else env.seg_base[seg] & U32_MAX


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _write_base(env: cython.pointer[Env], seg: uint32_t, value: uint64_t, size: uint64_t) -> cython.void:
    if not code64(env) or not env.cr[4] & CR4_FSGSBASE:
        raise_fault(env, VEC_UD, 0)
        return
    if size != 8:
        value &= U32_MAX
    if not canonical(value):
        raise_fault(env, VEC_GP, 0)
        return
    env.seg_base[seg] = value
    env.regs[SEG_BASE + seg] = value


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_rdfsbase(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    return _read_base(env, SEG_FS, imm & 0xFF)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_rdgsbase(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    return _read_base(env, SEG_GS, imm & 0xFF)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_wrfsbase(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    _write_base(env, SEG_FS, a, imm & 0xFF)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_wrgsbase(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    _write_base(env, SEG_GS, a, imm & 0xFF)
    return 0


def addresses() -> dict[str, int]:
    """Address of each helper, by name."""
    return {
        "load_segment": cython.cast(uint64_t, cython.cast(cython.p_void, help_load_segment)),
        "read_segment": cython.cast(uint64_t, cython.cast(cython.p_void, help_read_segment)),
        "code_limit": cython.cast(uint64_t, cython.cast(cython.p_void, help_code_limit)),
        "target_check": cython.cast(uint64_t, cython.cast(cython.p_void, help_target_check)),
        "segment_check": cython.cast(uint64_t, cython.cast(cython.p_void, help_segment_check)),
        "lgdt": cython.cast(uint64_t, cython.cast(cython.p_void, help_lgdt)),
        "lidt": cython.cast(uint64_t, cython.cast(cython.p_void, help_lidt)),
        "sgdt": cython.cast(uint64_t, cython.cast(cython.p_void, help_sgdt)),
        "sidt": cython.cast(uint64_t, cython.cast(cython.p_void, help_sidt)),
        "lldt": cython.cast(uint64_t, cython.cast(cython.p_void, help_lldt)),
        "ltr": cython.cast(uint64_t, cython.cast(cython.p_void, help_ltr)),
        "sldt": cython.cast(uint64_t, cython.cast(cython.p_void, help_sldt)),
        "str": cython.cast(uint64_t, cython.cast(cython.p_void, help_str)),
        "arpl": cython.cast(uint64_t, cython.cast(cython.p_void, help_arpl)),
        "arpl_memory": cython.cast(uint64_t, cython.cast(cython.p_void, help_arpl_memory)),
        "lar": cython.cast(uint64_t, cython.cast(cython.p_void, help_lar)),
        "lsl": cython.cast(uint64_t, cython.cast(cython.p_void, help_lsl)),
        "verr": cython.cast(uint64_t, cython.cast(cython.p_void, help_verr)),
        "verw": cython.cast(uint64_t, cython.cast(cython.p_void, help_verw)),
        "swapgs": cython.cast(uint64_t, cython.cast(cython.p_void, help_swapgs)),
        "rdfsbase": cython.cast(uint64_t, cython.cast(cython.p_void, help_rdfsbase)),
        "rdgsbase": cython.cast(uint64_t, cython.cast(cython.p_void, help_rdgsbase)),
        "wrfsbase": cython.cast(uint64_t, cython.cast(cython.p_void, help_wrfsbase)),
        "wrgsbase": cython.cast(uint64_t, cython.cast(cython.p_void, help_wrgsbase)),
    }
