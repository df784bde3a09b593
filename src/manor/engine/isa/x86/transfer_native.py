# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Far jumps, calls and returns, and IRET, in every mode.

Source: SDM volume 2, the pseudo-code of JMP, CALL, RET, IRET; volume 3, 5.8 (transfers between code segments,
call gates), 5.14 (64-bit mode), 6.12.1.2 and 20.2 (virtual-8086).
"""

from __future__ import annotations

import cython
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.manor.engine.env import RSP, Env
from cython.cimports.manor.engine.host import U32_MAX, U64_MAX
from cython.cimports.manor.engine.isa.x86.bits import (
    ATTR_BIG,
    ATTR_CODE,
    ATTR_DPL_SHIFT,
    ATTR_EXPAND_DOWN,
    ATTR_LONG,
    ATTR_PRESENT,
    ATTR_S,
    ATTR_WRITABLE,
    CR0_PE,
    EFER_LMA,
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
    RF_VIF,
    RF_VIP,
    RF_VM,
    RF_ZF,
    SEG_CS,
    SEG_DS,
    SEG_ES,
    SEG_FS,
    SEG_GS,
    SEG_SS,
    SEG_TR,
    VEC_GP,
    VEC_NP,
    VEC_SS,
    VEC_TS,
    canonical,
)
from cython.cimports.manor.engine.isa.x86.descriptor_native import (
    Stack,
    code64,
    current_stack,
    descriptor_address,
    descriptor_attributes,
    descriptor_limit,
    mark_accessed,
    mmu_mode,
    notice_interrupts,
    pop,
    push,
    read_descriptor,
    set_from_descriptor,
    set_real_segment,
    set_segment,
    set_sp,
    set_v86_segment,
    update_block_flags,
    virtual8086,
)
from cython.cimports.manor.engine.isa.x86.exception_native import inner_stack
from cython.cimports.manor.engine.isa.x86.flags_native import read_rflags, write_rflags
from cython.cimports.manor.engine.isa.x86.task_native import TASK_CALL, TASK_JUMP, TASK_RETURN, task_switch
from cython.cimports.manor.engine.softmmu_native import MODE_STACK, raise_fault, sys_read


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _mask(size: uint32_t) -> uint64_t:
    """Which bits an instruction pointer of an operand size has."""
    if size == 2:
        return 0xFFFF
    return U32_MAX if size == 4 else U64_MAX


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _target_ok(env: cython.pointer[Env], d: uint64_t, rip: uint64_t) -> cython.bint:
    """Whether rip lies in the code segment: canonical for 64-bit code, else below the limit."""
    if env.efer & EFER_LMA and descriptor_attributes(d) & ATTR_LONG:
        if canonical(rip):
            return True
    elif rip <= descriptor_limit(d):
        return True
    raise_fault(env, VEC_GP, 0)
    return False


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _code_ok(env: cython.pointer[Env], d: uint64_t, selector: uint32_t) -> cython.bint:
    """Privilege and type checks of a direct far jump or call to a code segment."""
    attributes: uint32_t = descriptor_attributes(d)
    dpl: uint32_t = (attributes >> ATTR_DPL_SHIFT) & 3
    bad: cython.bint
    if attributes & ATTR_EXPAND_DOWN:  # conforming
        bad = dpl > env.cpl
    else:
        bad = dpl != env.cpl or (selector & 3) > env.cpl
    if env.efer & EFER_LMA and attributes & ATTR_LONG and attributes & ATTR_BIG:
        bad = True
    if bad:
        raise_fault(env, VEC_GP, selector & 0xFFFC)
        return False
    if not attributes & ATTR_PRESENT:
        raise_fault(env, VEC_NP, selector & 0xFFFC)
        return False
    return True


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _enter_code(env: cython.pointer[Env], selector: uint32_t, d: uint64_t, cpl: uint32_t, rip: uint64_t) -> cython.void:
    """Commit CS:RIP and the privilege level."""
    env.cpl = cpl
    set_from_descriptor(env, SEG_CS, (selector & 0xFFFC) | cpl, d)
    env.rip = rip


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _gate_target(
    env: cython.pointer[Env], gate_selector: uint32_t, gate: uint64_t, call: cython.bint,
    selector: cython.pointer[uint32_t], d: cython.pointer[uint64_t], rip: cython.pointer[uint64_t],
) -> cython.bint:  # fmt: skip
    """Follow a call gate: the code segment's selector and descriptor, and the entry point."""
    attributes: uint32_t
    dpl: uint32_t
    high: uint64_t = 0
    long_mode: cython.bint = (env.efer & EFER_LMA) != 0
    if not (gate >> 47) & 1:
        raise_fault(env, VEC_NP, gate_selector & 0xFFFC)
        return False
    selector[0] = cython.cast(uint32_t, (gate >> 16) & 0xFFFF)
    rip[0] = gate & 0xFFFF
    if (gate >> 40) & 8:
        rip[0] |= (gate >> 48) << 16
    if long_mode:
        if descriptor_address(env, gate_selector, 16) == U64_MAX:
            raise_fault(env, VEC_GP, gate_selector & 0xFFFC)
            return False
        high = sys_read(env, descriptor_address(env, gate_selector, 16) + 8, 8)
        if env.fault:
            return False
        if (high >> 40) & 0x1F:
            raise_fault(env, VEC_GP, gate_selector & 0xFFFC)
            return False
        rip[0] |= high << 32
    if selector[0] & 0xFFFC == 0:
        raise_fault(env, VEC_GP, 0)
        return False
    if not read_descriptor(env, selector[0], VEC_GP, 0, d):
        return False
    attributes = descriptor_attributes(d[0])
    dpl = (attributes >> ATTR_DPL_SHIFT) & 3
    if (
        (attributes & (ATTR_S | ATTR_CODE)) != (ATTR_S | ATTR_CODE)
        or dpl > env.cpl
        or (not call and not attributes & ATTR_EXPAND_DOWN and dpl != env.cpl)
        or (long_mode and (attributes & (ATTR_LONG | ATTR_BIG)) != ATTR_LONG)
    ):
        raise_fault(env, VEC_GP, selector[0] & 0xFFFC)
        return False
    if not attributes & ATTR_PRESENT:
        raise_fault(env, VEC_NP, selector[0] & 0xFFFC)
        return False
    return _target_ok(env, d[0], rip[0])


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _call_through_gate(
    env: cython.pointer[Env], gate: uint64_t, selector: uint32_t, d: uint64_t, rip: uint64_t, next_rip: uint64_t
) -> cython.void:
    """CALL through a call gate, with a stack switch when the target is more privileged."""
    s: Stack
    old: Stack
    stack_d: uint64_t = 0
    stack_selector: uint32_t = 0
    parameters: uint64_t[32]
    count: uint32_t = cython.cast(uint32_t, (gate >> 32) & 0x1F)
    dpl: uint32_t = cython.cast(uint32_t, (d >> 45) & 3)
    size: uint32_t
    i: uint32_t
    long_mode: cython.bint = (env.efer & EFER_LMA) != 0
    inner: cython.bint = not (d >> 42) & 1 and dpl < env.cpl
    size = 8 if long_mode else (4 if (gate >> 40) & 8 else 2)
    current_stack(env, cython.address(old), size)
    s = old
    if inner:
        if long_mode:
            if 4 + 8 * dpl + 7 > env.seg_limit[SEG_TR]:
                raise_fault(env, VEC_TS, env.seg_selector[SEG_TR] & 0xFFFC)
                return
            s.sp = sys_read(env, env.seg_base[SEG_TR] + 4 + 8 * dpl, 8)
            if env.fault == 0 and not canonical(s.sp):
                raise_fault(env, VEC_SS, 0)
            s.base = 0
            s.mask = U64_MAX
            s.mode = mmu_mode(env, dpl) | MODE_STACK
        else:
            inner_stack(env, cython.address(s), dpl, 0, cython.address(stack_selector), cython.address(stack_d))
            s.size = size
        if env.fault:
            return
        if not long_mode:
            for i in range(count):
                parameters[i] = pop(env, cython.address(old))
        push(env, cython.address(s), env.seg_selector[SEG_SS])
        push(env, cython.address(s), env.regs[RSP])
        if not long_mode:
            for i in range(count):
                push(env, cython.address(s), parameters[count - 1 - i])
    else:
        dpl = env.cpl
        if long_mode:
            s.base = 0
            s.mask = U64_MAX
    push(env, cython.address(s), env.seg_selector[SEG_CS])
    push(env, cython.address(s), next_rip)
    if env.fault == 0:
        d = mark_accessed(env, selector, d)
    if inner and not long_mode and env.fault == 0:
        stack_d = mark_accessed(env, stack_selector, stack_d)
    if env.fault:
        return
    if inner:
        if long_mode:
            set_segment(env, SEG_SS, dpl, 0, 0, dpl << ATTR_DPL_SHIFT)
        else:
            set_from_descriptor(env, SEG_SS, stack_selector, stack_d)
    _enter_code(env, selector, d, dpl, rip)
    set_sp(env, cython.address(s))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _far(
    env: cython.pointer[Env], selector: uint32_t, offset: uint64_t, imm: uint64_t, call: cython.bint
) -> cython.void:
    """JMP and CALL to another code segment."""
    s: Stack
    d: uint64_t = 0
    gate: uint64_t
    rip: uint64_t = 0
    kind: uint32_t
    dpl: uint32_t
    size: uint32_t = cython.cast(uint32_t, imm & 0xFF)
    next_rip: uint64_t = env.rip + ((imm >> 8) & 0xFF)
    target: uint32_t = 0
    offset &= _mask(size)
    current_stack(env, cython.address(s), size)
    if not env.cr[0] & CR0_PE or virtual8086(env):
        if offset > env.seg_limit[SEG_CS]:
            raise_fault(env, VEC_GP, 0)
            return
        if call:
            push(env, cython.address(s), env.seg_selector[SEG_CS])
            push(env, cython.address(s), next_rip)
            if env.fault:
                return
            set_sp(env, cython.address(s))
        if virtual8086(env):
            set_v86_segment(env, SEG_CS, selector)
        else:
            set_real_segment(env, SEG_CS, selector)
        env.rip = offset
        update_block_flags(env)
        return
    if selector & 0xFFFC == 0:
        raise_fault(env, VEC_GP, 0)
        return
    if not read_descriptor(env, selector, VEC_GP, 0, cython.address(d)):
        return
    kind = cython.cast(uint32_t, (d >> 40) & 0x1F)
    dpl = cython.cast(uint32_t, (d >> 45) & 3)
    if kind & ATTR_S:
        if not kind & ATTR_CODE:
            raise_fault(env, VEC_GP, selector & 0xFFFC)
            return
        if not _code_ok(env, d, selector) or not _target_ok(env, d, offset):
            return
        if call:
            push(env, cython.address(s), env.seg_selector[SEG_CS])
            push(env, cython.address(s), next_rip)
        if env.fault == 0:
            d = mark_accessed(env, selector, d)
        if env.fault:
            return
        if call:
            set_sp(env, cython.address(s))
        _enter_code(env, selector, d, env.cpl, offset)
        update_block_flags(env)
        return
    # call gates in every mode; task gates and task-state segments outside IA-32e mode
    if kind != 12 and (env.efer & EFER_LMA or (kind != 1 and kind != 4 and kind != 5 and kind != 9)):
        raise_fault(env, VEC_GP, selector & 0xFFFC)
        return
    if dpl < env.cpl or dpl < (selector & 3):
        raise_fault(env, VEC_GP, selector & 0xFFFC)
        return
    if kind == 1 or kind == 9:
        task_switch(env, selector, TASK_CALL if call else TASK_JUMP, next_rip, 0)
        return
    if kind == 5:
        if not (d >> 47) & 1:
            raise_fault(env, VEC_NP, selector & 0xFFFC)
            return
        task_switch(env, (d >> 16) & 0xFFFF, TASK_CALL if call else TASK_JUMP, next_rip, 0)
        return
    gate = d
    if not _gate_target(
        env, selector, gate, call, cython.address(target), cython.address(d), cython.address(rip)
    ):
        return
    if call:
        _call_through_gate(env, gate, target, d, rip, next_rip)
    else:
        d = mark_accessed(env, target, d)
        if env.fault == 0:
            _enter_code(env, target, d, env.cpl, rip)
    if env.fault == 0:
        update_block_flags(env)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_far_jump(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    _far(env, cython.cast(uint32_t, a & 0xFFFF), b, imm, False)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_far_call(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    _far(env, cython.cast(uint32_t, a & 0xFFFF), b, imm, True)
    return 0


# ------------------------------------------------------------------ returns


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _hide_segment(env: cython.pointer[Env], seg: uint32_t) -> cython.void:
    """A return to an outer level nulls data segments that it must not see."""
    attributes: uint32_t = env.seg_attributes[seg]
    if (attributes & (ATTR_CODE | ATTR_EXPAND_DOWN)) == (ATTR_CODE | ATTR_EXPAND_DOWN):
        return
    if ((attributes >> ATTR_DPL_SHIFT) & 3) < env.cpl:
        # FS and GS bases survive, as on real processors: Linux relies on neither
        set_segment(env, seg, 0, env.seg_base[seg] if seg >= SEG_FS else 0, 0, 0)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _restore_flags(env: cython.pointer[Env], flags: uint64_t, size: uint32_t, cpl: uint32_t) -> cython.void:
    """RFLAGS from an IRET image, as far as the old privilege level may change them."""
    mask: uint64_t = RF_CF | RF_PF | RF_AF | RF_ZF | RF_SF | RF_TF | RF_DF | RF_OF | RF_NT | RF_RF | RF_AC | RF_ID
    old: uint64_t = read_rflags(env)
    if cpl == 0:
        mask |= RF_IOPL | RF_VIF | RF_VIP
    if cpl <= ((env.rflags >> 12) & 3):
        mask |= RF_IF
    if size == 2:
        mask &= 0xFFFF
    if not env.dr[7] & 0xFF:
        flags &= ~RF_RF  # RF matters to instruction breakpoints only, and lasts one instruction
    write_rflags(env, (old & ~mask) | (flags & mask) | RF_ONE)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _return_protected(
    env: cython.pointer[Env], size: uint32_t, release: uint32_t, interrupt: cython.bint
) -> cython.void:
    """RETF and IRET in protected and IA-32e mode."""
    s: Stack
    d: uint64_t = 0
    stack_d: uint64_t = 0
    flags: uint64_t = 0
    new_sp: uint64_t
    rip: uint64_t
    selector: uint32_t
    stack_selector: uint32_t
    attributes: uint32_t
    rpl: uint32_t
    dpl: uint32_t
    old_cpl: uint32_t = env.cpl
    i: uint32_t
    segment: uint32_t[6]
    from64: cython.bint = code64(env) != 0
    current_stack(env, cython.address(s), size)
    rip = pop(env, cython.address(s))
    selector = cython.cast(uint32_t, pop(env, cython.address(s)) & 0xFFFF)
    if interrupt:
        flags = pop(env, cython.address(s))
    if env.fault:
        return
    if interrupt and flags & RF_VM and size == 4 and env.cpl == 0 and not env.efer & EFER_LMA:
        # to virtual-8086 mode
        new_sp = pop(env, cython.address(s))
        segment[SEG_SS] = cython.cast(uint32_t, pop(env, cython.address(s)))
        segment[SEG_ES] = cython.cast(uint32_t, pop(env, cython.address(s)))
        segment[SEG_DS] = cython.cast(uint32_t, pop(env, cython.address(s)))
        segment[SEG_FS] = cython.cast(uint32_t, pop(env, cython.address(s)))
        segment[SEG_GS] = cython.cast(uint32_t, pop(env, cython.address(s)))
        segment[SEG_CS] = selector
        if env.fault:
            return
        write_rflags(env, (flags & 0x3F7FD7) | RF_ONE)
        for i in range(6):
            set_v86_segment(env, i, segment[i])
        env.cpl = 3
        env.regs[RSP] = new_sp
        env.rip = rip & 0xFFFF
        return
    rpl = selector & 3
    if selector & 0xFFFC == 0:
        raise_fault(env, VEC_GP, 0)
        return
    if not read_descriptor(env, selector, VEC_GP, 0, cython.address(d)):
        return
    attributes = descriptor_attributes(d)
    dpl = (attributes >> ATTR_DPL_SHIFT) & 3
    if (
        (attributes & (ATTR_S | ATTR_CODE)) != (ATTR_S | ATTR_CODE)
        or rpl < env.cpl
        or (dpl > rpl if attributes & ATTR_EXPAND_DOWN else dpl != rpl)
        or (env.efer & EFER_LMA and attributes & ATTR_LONG and attributes & ATTR_BIG)
    ):
        raise_fault(env, VEC_GP, selector & 0xFFFC)
        return
    if not attributes & ATTR_PRESENT:
        raise_fault(env, VEC_NP, selector & 0xFFFC)
        return
    s.sp = (s.sp & ~s.mask) | ((s.sp + release) & s.mask)
    if rpl == env.cpl and not (interrupt and from64):
        if not _target_ok(env, d, rip):
            return
        d = mark_accessed(env, selector, d)
        if env.fault:
            return
        if interrupt:
            _restore_flags(env, flags, size, old_cpl)
        set_sp(env, cython.address(s))
        _enter_code(env, selector, d, rpl, rip)
        return
    new_sp = pop(env, cython.address(s))
    stack_selector = cython.cast(uint32_t, pop(env, cython.address(s)) & 0xFFFF)
    if env.fault:
        return
    if stack_selector & 0xFFFC == 0:
        # a null SS may be returned to in 64-bit code of levels 0 to 2
        if not (env.efer & EFER_LMA and attributes & ATTR_LONG and rpl != 3 and (stack_selector & 3) == rpl):
            raise_fault(env, VEC_GP, 0)
            return
    else:
        if not read_descriptor(env, stack_selector, VEC_GP, 0, cython.address(stack_d)):
            return
        attributes = descriptor_attributes(stack_d)
        if (
            (stack_selector & 3) != rpl
            or ((attributes >> ATTR_DPL_SHIFT) & 3) != rpl
            or (attributes & (ATTR_S | ATTR_CODE | ATTR_WRITABLE)) != (ATTR_S | ATTR_WRITABLE)
        ):
            raise_fault(env, VEC_GP, stack_selector & 0xFFFC)
            return
        if not attributes & ATTR_PRESENT:
            raise_fault(env, VEC_SS, stack_selector & 0xFFFC)
            return
    if not _target_ok(env, d, rip):
        return
    d = mark_accessed(env, selector, d)
    if stack_selector & 0xFFFC and env.fault == 0:
        stack_d = mark_accessed(env, stack_selector, stack_d)
    if env.fault:
        return
    if interrupt:
        _restore_flags(env, flags, size, old_cpl)
    _enter_code(env, selector, d, rpl, rip)
    if stack_selector & 0xFFFC:
        set_from_descriptor(env, SEG_SS, stack_selector, stack_d)
    else:
        set_segment(env, SEG_SS, stack_selector, 0, 0, rpl << ATTR_DPL_SHIFT)
    if code64(env):
        env.regs[RSP] = new_sp + release
    elif env.seg_attributes[SEG_SS] & ATTR_BIG:
        env.regs[RSP] = (new_sp + release) & U32_MAX
    else:
        env.regs[RSP] = (env.regs[RSP] & ~0xFFFF) | ((new_sp + release) & 0xFFFF)
    if rpl > old_cpl:
        _hide_segment(env, SEG_ES)
        _hide_segment(env, SEG_DS)
        _hide_segment(env, SEG_FS)
        _hide_segment(env, SEG_GS)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_far_return(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    s: Stack
    rip: uint64_t
    selector: uint32_t
    size: uint32_t = cython.cast(uint32_t, imm & 0xFF)
    release: uint32_t = cython.cast(uint32_t, (imm >> 16) & 0xFFFF)
    if env.cr[0] & CR0_PE and not virtual8086(env):
        _return_protected(env, size, release, False)
    else:
        current_stack(env, cython.address(s), size)
        rip = pop(env, cython.address(s))
        selector = cython.cast(uint32_t, pop(env, cython.address(s)))
        if env.fault:
            return 0
        if rip > env.seg_limit[SEG_CS]:
            raise_fault(env, VEC_GP, 0)
            return 0
        s.sp = (s.sp & ~s.mask) | ((s.sp + release) & s.mask)
        set_sp(env, cython.address(s))
        if virtual8086(env):
            set_v86_segment(env, SEG_CS, selector)
        else:
            set_real_segment(env, SEG_CS, selector)
        env.rip = rip
    if env.fault == 0:
        update_block_flags(env)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _iret_real(env: cython.pointer[Env], size: uint32_t) -> cython.void:
    """IRET in real mode, and in virtual-8086 mode with IOPL 3."""
    s: Stack
    rip: uint64_t
    selector: uint32_t
    flags: uint64_t
    mask: uint64_t = U32_MAX & ~(RF_VM | RF_VIF | RF_VIP) if size == 4 else 0xFFFF
    v86: cython.bint = virtual8086(env) != 0
    current_stack(env, cython.address(s), size)
    rip = pop(env, cython.address(s))
    selector = cython.cast(uint32_t, pop(env, cython.address(s)))
    flags = pop(env, cython.address(s))
    if env.fault:
        return
    if rip > env.seg_limit[SEG_CS]:
        raise_fault(env, VEC_GP, 0)
        return
    if v86:
        mask &= ~RF_IOPL
    mask &= 0x3F7FD7
    if not env.dr[7] & 0xFF:
        flags &= ~RF_RF
    write_rflags(env, (read_rflags(env) & ~mask) | (flags & mask) | RF_ONE)
    set_sp(env, cython.address(s))
    if v86:
        set_v86_segment(env, SEG_CS, selector)
    else:
        set_real_segment(env, SEG_CS, selector)
    env.rip = rip


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_iret(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    link: uint32_t
    size: uint32_t = cython.cast(uint32_t, imm & 0xFF)
    # NMIs are unblocked even when IRET faults: SDM volume 3, 6.7.1
    env.nmi_blocked = 0
    if not env.cr[0] & CR0_PE:
        _iret_real(env, size)
    elif virtual8086(env):
        if ((env.rflags >> 12) & 3) < 3:
            raise_fault(env, VEC_GP, 0)
            return 0
        _iret_real(env, size)
    elif env.rflags & RF_NT:
        if env.efer & EFER_LMA:
            raise_fault(env, VEC_GP, 0)
            return 0
        link = cython.cast(uint32_t, sys_read(env, env.seg_base[SEG_TR], 2))
        if env.fault == 0:
            task_switch(env, link, TASK_RETURN, env.rip + ((imm >> 8) & 0xFF), 0)
    else:
        _return_protected(env, size, 0, True)
    if env.fault == 0:
        update_block_flags(env)
        notice_interrupts(env)
    return 0


def addresses() -> dict[str, int]:
    """Address of each helper, by name."""
    return {
        "far_jump": cython.cast(uint64_t, cython.cast(cython.p_void, help_far_jump)),
        "far_call": cython.cast(uint64_t, cython.cast(cython.p_void, help_far_call)),
        "far_return": cython.cast(uint64_t, cython.cast(cython.p_void, help_far_return)),
        "iret": cython.cast(uint64_t, cython.cast(cython.p_void, help_iret)),
    }
