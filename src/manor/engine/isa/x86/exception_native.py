# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Exceptions and interrupts: raising them, and delivering them through the IDT.

Source: SDM volume 3, chapter 6 "Interrupt and Exception Handling" (6.12 protected mode, 6.14 IA-32e mode,
6.15 the exceptions), 20.1.4 (real mode), 20.2.2 and 20.3 (virtual-8086), volume 2, INT n (the pseudo-code).
"""

from __future__ import annotations

import cython
from cython.cimports.libc.stdint import int32_t, int64_t, uint32_t, uint64_t
from cython.cimports.manor.engine.callback_native import callback_acknowledge, callback_trace
from cython.cimports.manor.engine.env import (
    FAULT_EXCEPTION,
    FAULT_NONE,
    FAULT_SHUTDOWN,
    STAT_EXCEPTIONS,
    STAT_INTERRUPTS,
    TRACE_INTERRUPTS,
    TRACE_INVALID,
    Env,
)
from cython.cimports.manor.engine.env import RSP as REG_SP
from cython.cimports.manor.engine.host import U32_MAX, U64_MAX, atomic_exchange32
from cython.cimports.manor.engine.isa.x86.bits import (
    ATTR_BIG,
    ATTR_CODE,
    ATTR_DPL_SHIFT,
    ATTR_LONG,
    ATTR_PRESENT,
    ATTR_S,
    ATTR_WRITABLE,
    CR0_PE,
    EFER_LMA,
    NO_STEP,
    RF_AC,
    RF_IF,
    RF_NT,
    RF_OF,
    RF_RF,
    RF_TF,
    RF_VM,
    SEG_CS,
    SEG_DS,
    SEG_ES,
    SEG_FS,
    SEG_GS,
    SEG_SS,
    SEG_TR,
    VEC_BP,
    VEC_BR,
    VEC_DB,
    VEC_DF,
    VEC_GP,
    VEC_NMI,
    VEC_NP,
    VEC_OF,
    VEC_PF,
    VEC_SS,
    VEC_TS,
    VEC_UD,
    canonical,
)
from cython.cimports.manor.engine.isa.x86.descriptor_native import (
    Stack,
    current_stack,
    descriptor_attributes,
    descriptor_base,
    descriptor_limit,
    limit_ok,
    mark_accessed,
    mmu_mode,
    push,
    read_descriptor,
    set_from_descriptor,
    set_real_segment,
    set_segment,
    set_sp,
    update_block_flags,
    virtual8086,
)
from cython.cimports.manor.engine.isa.x86.flags_native import compute_eflags, read_rflags
from cython.cimports.manor.engine.isa.x86.task_native import TASK_EVENT, task_switch
from cython.cimports.manor.engine.softmmu_native import MODE_STACK, mode_read, operand_mode, raise_fault, sys_read

# The vectors of fault class: 0, 5 to 7, 10 to 14, 16, 17, 19, 21.
_FAULTS = cython.declare(uint32_t, 0x002B7CE1)

# ------------------------------------------------------------------ raising


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def raise_exception(env: cython.pointer[Env], vector: uint32_t, error: uint32_t) -> cython.void:
    """Make an exception pending at env.rip; the error code counts only for vectors that have one."""
    raise_fault(env, vector, error)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def raise_debug(env: cython.pointer[Env], dr6_bits: uint64_t) -> cython.void:
    """Make a #DB pending with these DR6 bits. For a trap env.rip is the next instruction already."""
    if env.fault == 0:
        env.exc_dr6 = dr6_bits
    raise_fault(env, VEC_DB, 0)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _contributory(vector: uint32_t) -> cython.bint:
    return vector == 0 or (vector >= VEC_TS and vector <= VEC_GP)


# ------------------------------------------------------------------ delivery


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _clear_flags(env: cython.pointer[Env], gate: uint32_t) -> cython.void:
    """TF, NT, RF and VM are cleared on entry; IF too by an interrupt gate."""
    env.rflags &= ~(RF_TF | RF_NT | RF_RF | RF_VM)
    if not gate & 1:
        env.rflags &= ~RF_IF
    env.shadow = 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _deliver_real(env: cython.pointer[Env], vector: uint32_t, next_rip: uint64_t) -> cython.void:
    """Real mode: the interrupt vector table."""
    s: Stack
    vector_cell: uint64_t
    flags: uint64_t = read_rflags(env)
    if vector * 4 + 3 > env.idt_limit:
        raise_fault(env, VEC_GP, 0)
        return
    vector_cell = sys_read(env, env.idt_base + vector * 4, 4)
    current_stack(env, cython.address(s), 2)
    push(env, cython.address(s), flags & 0xFFFF)
    push(env, cython.address(s), env.seg_selector[SEG_CS])
    push(env, cython.address(s), next_rip & 0xFFFF)
    if env.fault:
        return
    set_sp(env, cython.address(s))
    set_real_segment(env, SEG_CS, cython.cast(uint32_t, vector_cell >> 16))
    env.rip = vector_cell & 0xFFFF
    env.rflags &= ~(RF_IF | RF_TF | RF_AC | RF_RF)
    env.shadow = 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _read_target(
    env: cython.pointer[Env], selector: uint32_t, ext: uint32_t, d: cython.pointer[uint64_t]
) -> cython.int:
    """Descriptor of the handler's code segment, with the checks that all modes share."""
    attributes: uint32_t
    error: uint32_t = (selector & 0xFFFC) | ext
    if selector & 0xFFFC == 0:
        raise_fault(env, VEC_GP, ext)
        return 0
    if not read_descriptor(env, selector, VEC_GP, ext, d):
        return 0
    attributes = descriptor_attributes(d[0])
    if (
        not attributes & ATTR_S
        or not attributes & ATTR_CODE
        or ((attributes >> ATTR_DPL_SHIFT) & 3) > env.cpl
        or (env.efer & EFER_LMA and (attributes & (ATTR_LONG | ATTR_BIG)) != ATTR_LONG)
    ):
        raise_fault(env, VEC_GP, error)
        return 0
    if not attributes & ATTR_PRESENT:
        raise_fault(env, VEC_NP, error)
        return 0
    return 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _deliver_long(
    env: cython.pointer[Env],
    vector: uint32_t,
    software: cython.int,
    error: uint32_t,
    has_error: cython.int,
    next_rip: uint64_t,
    flags: uint64_t,
) -> cython.void:
    """IA-32e mode: 64-bit gates, interrupt stack table."""
    s: Stack
    low: uint64_t
    high: uint64_t
    target: uint64_t
    d: uint64_t = 0
    ext: uint32_t = 0 if software else 1
    gate_error: uint32_t = vector * 8 + 2 + ext
    gate: uint32_t
    ist: uint32_t
    dpl: uint32_t
    selector: uint32_t
    offset: uint32_t
    if vector * 16 + 15 > env.idt_limit:
        raise_fault(env, VEC_GP, gate_error)
        return
    low = sys_read(env, env.idt_base + vector * 16, 8)
    high = sys_read(env, env.idt_base + vector * 16 + 8, 8)
    if env.fault:
        return
    gate = cython.cast(uint32_t, (low >> 40) & 0x1F)
    if gate != 14 and gate != 15:
        raise_fault(env, VEC_GP, gate_error)
        return
    if software and ((low >> 45) & 3) < env.cpl:
        raise_fault(env, VEC_GP, gate_error)
        return
    if not (low >> 47) & 1:
        raise_fault(env, VEC_NP, gate_error)
        return
    selector = cython.cast(uint32_t, (low >> 16) & 0xFFFF)
    target = (low & 0xFFFF) | ((low >> 48) << 16) | (high << 32)
    ist = cython.cast(uint32_t, (low >> 32) & 7)
    if not _read_target(env, selector, ext, cython.address(d)):
        return
    dpl = cython.cast(uint32_t, (d >> 45) & 3)
    if (d >> 42) & 1:
        dpl = env.cpl  # conforming
    s.sp = env.regs[REG_SP]
    if ist or dpl < env.cpl:
        offset = 0x1C + 8 * ist if ist else 4 + 8 * dpl
        if offset + 7 > env.seg_limit[SEG_TR]:
            raise_fault(env, VEC_TS, (env.seg_selector[SEG_TR] & 0xFFFC) | ext)
            return
        s.sp = sys_read(env, env.seg_base[SEG_TR] + offset, 8)
        if env.fault:
            return
        if not canonical(s.sp):
            raise_fault(env, VEC_SS, ext)
            return
    if not canonical(target):
        raise_fault(env, VEC_GP, ext)
        return
    s.sp &= ~0xF
    s.base = 0
    s.mask = U64_MAX
    s.limit = 0
    s.attributes = 0
    s.size = 8
    s.error = ext
    s.mode = mmu_mode(env, dpl) | MODE_STACK
    push(env, cython.address(s), env.seg_selector[SEG_SS])
    push(env, cython.address(s), env.regs[REG_SP])
    push(env, cython.address(s), flags)
    push(env, cython.address(s), env.seg_selector[SEG_CS])
    push(env, cython.address(s), next_rip)
    if has_error:
        push(env, cython.address(s), error)
    if env.fault == 0:
        d = mark_accessed(env, selector, d)
    if env.fault:
        return
    if dpl < env.cpl:
        set_segment(env, SEG_SS, dpl, 0, 0, dpl << ATTR_DPL_SHIFT)
    env.cpl = dpl
    set_from_descriptor(env, SEG_CS, (selector & 0xFFFC) | dpl, d)
    env.regs[REG_SP] = s.sp
    env.rip = target
    _clear_flags(env, gate)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def inner_stack(env: cython.pointer[Env], s: cython.pointer[Stack], level: uint32_t, ext: uint32_t,
                 selector: cython.pointer[uint32_t], d: cython.pointer[uint64_t]) -> cython.int:  # fmt: skip
    """The stack of an inner privilege level from the TSS, with all checks; 0 after raising."""
    attributes: uint32_t
    offset: uint32_t
    error: uint32_t
    wide: cython.bint = (env.seg_attributes[SEG_TR] & 8) != 0
    offset = 4 + 8 * level if wide else 2 + 4 * level
    if offset + (5 if wide else 3) > env.seg_limit[SEG_TR]:
        raise_fault(env, VEC_TS, (env.seg_selector[SEG_TR] & 0xFFFC) | ext)
        return 0
    s.sp = sys_read(env, env.seg_base[SEG_TR] + offset, 4 if wide else 2)
    selector[0] = cython.cast(uint32_t, sys_read(env, env.seg_base[SEG_TR] + offset + (4 if wide else 2), 2))
    if env.fault:
        return 0
    error = (selector[0] & 0xFFFC) | ext
    if selector[0] & 0xFFFC == 0:
        raise_fault(env, VEC_TS, ext)
        return 0
    if not read_descriptor(env, selector[0], VEC_TS, ext, d):
        return 0
    attributes = descriptor_attributes(d[0])
    if (
        (selector[0] & 3) != level
        or ((attributes >> ATTR_DPL_SHIFT) & 3) != level
        or (attributes & (ATTR_S | ATTR_CODE | ATTR_WRITABLE)) != (ATTR_S | ATTR_WRITABLE)
    ):
        raise_fault(env, VEC_TS, error)
        return 0
    if not attributes & ATTR_PRESENT:
        raise_fault(env, VEC_SS, error)
        return 0
    s.base = descriptor_base(d[0])
    s.limit = descriptor_limit(d[0])
    s.attributes = attributes
    s.mask = U32_MAX if attributes & ATTR_BIG else 0xFFFF
    s.mode = mmu_mode(env, level) | MODE_STACK
    s.error = error
    return 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _deliver_protected(
    env: cython.pointer[Env],
    vector: uint32_t,
    software: cython.int,
    error: uint32_t,
    has_error: cython.int,
    next_rip: uint64_t,
    flags: uint64_t,
) -> cython.void:
    """Protected and virtual-8086 mode: interrupt, trap and task gates of 16 and 32 bits."""
    s: Stack
    cell: uint64_t
    d: uint64_t = 0
    stack_d: uint64_t = 0
    stack_selector: uint32_t = 0
    ext: uint32_t = 0 if software else 1
    gate_error: uint32_t = vector * 8 + 2 + ext
    gate: uint32_t
    selector: uint32_t
    dpl: uint32_t
    target: uint64_t
    inner: cython.bint
    old_vm: cython.bint = virtual8086(env) != 0
    i: cython.int
    if vector * 8 + 7 > env.idt_limit:
        raise_fault(env, VEC_GP, gate_error)
        return
    cell = sys_read(env, env.idt_base + vector * 8, 8)
    if env.fault:
        return
    gate = cython.cast(uint32_t, (cell >> 40) & 0x1F)
    if gate != 5 and gate != 6 and gate != 7 and gate != 14 and gate != 15:
        raise_fault(env, VEC_GP, gate_error)
        return
    if software and ((cell >> 45) & 3) < env.cpl:
        raise_fault(env, VEC_GP, gate_error)
        return
    if not (cell >> 47) & 1:
        raise_fault(env, VEC_NP, gate_error)
        return
    selector = cython.cast(uint32_t, (cell >> 16) & 0xFFFF)
    if gate == 5:
        if not task_switch(env, selector, TASK_EVENT, next_rip, ext):
            return
        if has_error:
            current_stack(env, cython.address(s), 4 if env.seg_attributes[SEG_TR] & 8 else 2)
            push(env, cython.address(s), error)
            if env.fault == 0:
                set_sp(env, cython.address(s))
        return
    if not _read_target(env, selector, ext, cython.address(d)):
        return
    target = cell & 0xFFFF
    if gate & 8:
        target |= (cell >> 48) << 16
    dpl = cython.cast(uint32_t, (d >> 45) & 3)
    inner = not (d >> 42) & 1 and dpl < env.cpl
    if old_vm and (not inner or dpl != 0):
        raise_fault(env, VEC_GP, (selector & 0xFFFC) | ext)
        return
    if inner:
        if not inner_stack(env, cython.address(s), dpl, ext, cython.address(stack_selector), cython.address(stack_d)):
            return
        s.size = 4 if gate & 8 else 2
    else:
        dpl = env.cpl
        current_stack(env, cython.address(s), 4 if gate & 8 else 2)
        s.error = ext
    if not limit_ok(descriptor_limit(d), 0, target, 1):
        raise_fault(env, VEC_GP, ext)
        return
    if inner:
        if old_vm:
            push(env, cython.address(s), env.seg_selector[SEG_GS])
            push(env, cython.address(s), env.seg_selector[SEG_FS])
            push(env, cython.address(s), env.seg_selector[SEG_DS])
            push(env, cython.address(s), env.seg_selector[SEG_ES])
        push(env, cython.address(s), env.seg_selector[SEG_SS])
        push(env, cython.address(s), env.regs[REG_SP])
    push(env, cython.address(s), flags)
    push(env, cython.address(s), env.seg_selector[SEG_CS])
    push(env, cython.address(s), next_rip)
    if has_error:
        push(env, cython.address(s), error)
    if env.fault == 0:
        d = mark_accessed(env, selector, d)
        if inner and env.fault == 0:
            stack_d = mark_accessed(env, stack_selector, stack_d)
    if env.fault:
        return
    if old_vm:
        for i in range(4):
            set_segment(env, SEG_ES if i == 0 else SEG_DS + i - 1, 0, 0, 0, 0)
    if inner:
        set_from_descriptor(env, SEG_SS, stack_selector, stack_d)
    env.cpl = dpl
    set_from_descriptor(env, SEG_CS, (selector & 0xFFFC) | dpl, d)
    set_sp(env, cython.address(s))
    env.rip = target
    _clear_flags(env, gate)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def deliver(
    env: cython.pointer[Env],
    vector: uint32_t,
    software: cython.int,
    error: uint32_t,
    has_error: cython.int,
    next_rip: uint64_t,
) -> cython.void:
    """Enter the handler of a vector. When env.fault is set afterwards nothing but memory was changed.

    software: INT n, INT3 and INTO, whose gate's DPL is checked. next_rip: the return address.
    """
    flags: uint64_t = read_rflags(env)
    if env.trace & TRACE_INTERRUPTS:
        callback_trace(env, "interrupt", vector, error, env.rip, env.cpl)
    if not env.cr[0] & CR0_PE:
        _deliver_real(env, vector, next_rip)
    else:
        # SDM volume 3, 17.3.1.1: the image of a fault has RF set, so that a breakpoint at the restarted
        # instruction does not hit twice
        if not software and vector < 32 and (_FAULTS >> vector) & 1:
            flags |= RF_RF
        if env.efer & EFER_LMA:
            _deliver_long(env, vector, software, error, has_error, next_rip, flags)
        else:
            _deliver_protected(env, vector, software, error, has_error, next_rip, flags)
    if env.fault == FAULT_NONE:
        update_block_flags(env)
        if software and env.one_insn:
            env.exc_dr6 |= NO_STEP


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def deliver_event(env: cython.pointer[Env]) -> cython.void:
    """Deliver the pending exception, with double and triple faults.

    Afterwards env.fault is 0, or FAULT_SHUTDOWN, or FAULT_HOST. Call it outside blocks only.
    """
    block: uint64_t = env.current_block
    one_insn: uint32_t = env.one_insn
    vector: uint32_t
    second: uint32_t
    env.current_block = 0
    while env.fault == FAULT_EXCEPTION:
        vector = env.exc_vector
        env.fault = FAULT_NONE
        env.stats[STAT_EXCEPTIONS] += 1
        if vector == VEC_DB:
            env.dr[6] = (env.dr[6] & ~0xF) | env.exc_dr6
            env.dr[7] &= ~0x2000
        env.exc_dr6 = 0
        env.one_insn = 1  # data breakpoints do not apply to the delivery
        deliver(
            env,
            vector,
            env.exc_software,
            env.exc_error,
            env.exc_has_error,
            env.rip,
        )
        env.one_insn = one_insn
        env.exc_dr6 = 0 if env.fault != FAULT_EXCEPTION or env.exc_vector != VEC_DB else env.exc_dr6
        if env.fault != FAULT_EXCEPTION:
            break
        second = env.exc_vector
        if vector == VEC_DF:
            env.fault = FAULT_SHUTDOWN
        elif (_contributory(vector) and _contributory(second)) or (
            vector == VEC_PF and (second == VEC_PF or _contributory(second))
        ):
            env.exc_vector = VEC_DF
            env.exc_error = 0
            env.exc_has_error = 1
            env.exc_software = 0
    env.current_block = block


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def deliver_interrupt(env: cython.pointer[Env], vector: uint32_t) -> cython.void:
    """Deliver an external interrupt at env.rip; faults on the way are delivered too."""
    block: uint64_t = env.current_block
    one_insn: uint32_t = env.one_insn
    env.stats[STAT_INTERRUPTS] += 1
    env.current_block = 0
    env.one_insn = 1
    deliver(env, vector, 0, 0, 0, env.rip)
    env.current_block = block
    env.one_insn = one_insn
    env.exc_dr6 = 0
    if env.fault == FAULT_EXCEPTION:
        deliver_event(env)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def deliver_nmi(env: cython.pointer[Env]) -> cython.void:
    """Deliver an NMI; further ones wait until IRET."""
    env.nmi_blocked = 1
    deliver_interrupt(env, VEC_NMI)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def service_events(env: cython.pointer[Env]) -> cython.int:
    """At an instruction boundary: take an NMI or a maskable interrupt if one may be taken; 1 = rip changed."""
    vector: int32_t
    if env.shadow:
        return 0
    if env.nmi_pending and not env.nmi_blocked:
        atomic_exchange32(cython.address(env.nmi_pending), 0)
        env.halted = 0
        deliver_nmi(env)
        return 1
    if env.irq_pending and env.rflags & RF_IF:
        vector = callback_acknowledge(env)
        if vector >= 0 and env.fault == FAULT_NONE:
            env.halted = 0
            deliver_interrupt(env, vector)
            return 1
    return 0


# ------------------------------------------------------------------ helpers


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_raise(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    raise_fault(env, cython.cast(uint32_t, imm & 0xFF), cython.cast(uint32_t, a))
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_invalid_opcode(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    if env.trace & TRACE_INVALID:
        callback_trace(env, "invalid", env.rip, env.cpl, 0, 0)
    raise_fault(env, VEC_UD, 0)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_int_n(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    # without CR4.VME: INT n is IOPL-sensitive in virtual-8086 mode
    if virtual8086(env) and ((env.rflags >> 12) & 3) < 3:
        raise_fault(env, VEC_GP, 0)
    else:
        deliver(env, cython.cast(uint32_t, a & 0xFF), 1, 0, 0, env.rip + ((imm >> 8) & 0xFF))
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_int3(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    deliver(env, VEC_BP, 1, 0, 0, env.rip + ((imm >> 8) & 0xFF))
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_int1(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    # INT1 is a trap without gate-privilege check; DR6 is not changed
    deliver(env, VEC_DB, 0, 0, 0, env.rip + ((imm >> 8) & 0xFF))
    if env.one_insn:
        env.exc_dr6 |= NO_STEP
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_into(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    if compute_eflags(env) & RF_OF:
        deliver(env, VEC_OF, 1, 0, 0, env.rip + ((imm >> 8) & 0xFF))
    else:
        env.rip += (imm >> 8) & 0xFF
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_bound(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    size: uint32_t = cython.cast(uint32_t, imm & 0xFF)
    shift: uint32_t = 64 - 8 * size
    mode: uint32_t = operand_mode(env, imm)
    index: int64_t = cython.cast(int64_t, b << shift) >> shift
    low: int64_t = cython.cast(int64_t, mode_read(env, a, size, mode) << shift) >> shift
    high: int64_t
    if env.fault:
        return 0
    high = cython.cast(int64_t, mode_read(env, a + size, size, mode) << shift) >> shift
    if env.fault == 0 and (index < low or index > high):
        raise_fault(env, VEC_BR, 0)
    return 0


def addresses() -> dict[str, int]:
    """Address of each helper, by name."""
    return {
        "raise": cython.cast(uint64_t, cython.cast(cython.p_void, help_raise)),
        "invalid_opcode": cython.cast(uint64_t, cython.cast(cython.p_void, help_invalid_opcode)),
        "int_n": cython.cast(uint64_t, cython.cast(cython.p_void, help_int_n)),
        "int3": cython.cast(uint64_t, cython.cast(cython.p_void, help_int3)),
        "int1": cython.cast(uint64_t, cython.cast(cython.p_void, help_int1)),
        "into": cython.cast(uint64_t, cython.cast(cython.p_void, help_into)),
        "bound": cython.cast(uint64_t, cython.cast(cython.p_void, help_bound)),
    }
