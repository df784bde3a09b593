# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""x87 and MMX helpers: stack, tags, exceptions; the arithmetic itself is the host FPU's (`x87_host`).

An exception that the guest has not masked sets ES and stays pending until the next waiting
instruction, which raises #MF; invalid operation, denormal operand and division by zero then leave the
operands alone. (CR0.NE is taken as set: there is no FERR line.)

env.fpu_status has no TOP and no B; bit i of env.fpu_tag set = physical register i is empty.

WHY NATIVE: called from generated code. SAFETY: register numbers are taken modulo 8; guest memory only
through the softmmu, checked before state changes. Thread: the vCPU's. Declared in `fpu_helpers`.
Source: SDM volume 1, chapters 8 and 9; volume 2, the instruction pages.
"""

import cython
from cython.cimports.libc.stdint import uint16_t, uint32_t, uint64_t
from cython.cimports.manor.engine.env import FLAG_PROTECTED, Env
from cython.cimports.manor.engine.isa.x86.bits import CR0_MP, CR0_TS, VEC_MF, VEC_NM
from cython.cimports.manor.engine.isa.x86.fpu_native import host_stmxcsr
from cython.cimports.manor.engine.isa.x86.x87_host import (
    KIND_ARITHMETIC,
    KIND_ARITHMETIC_MEMORY,
    KIND_BINARY,
    KIND_BINARY_POP,
    KIND_COMPARE,
    KIND_COMPARE_FLAGS,
    KIND_COMPARE_MEMORY,
    KIND_CONSTANT,
    KIND_FCMOV,
    KIND_FDECSTP,
    KIND_FFREE,
    KIND_FINCSTP,
    KIND_FLD,
    KIND_FST,
    KIND_FSTPNCE,
    KIND_FXAM,
    KIND_FXCH,
    KIND_LOAD,
    KIND_LOAD_80,
    KIND_LOAD_BCD,
    KIND_STORE_80,
    KIND_STORE_BCD,
    KIND_TEST,
    KIND_UNARY,
    KIND_UNARY_PUSH,
    SHIFT_KIND,
    SHIFT_OP,
    SHIFT_POPS,
    SHIFT_SIZE,
    TO_STI,
    X87_FCOS,
    X87_FPREM,
    X87_FPREM1,
    X87_FPTAN,
    X87_FSIN,
    X87_FSINCOS,
    X87Frame,
    X87Value,
    x87_execute,
)
from cython.cimports.manor.engine.isa.x86.x87_native import INDEFINITE_MANTISSA
from cython.cimports.manor.engine.softmmu_native import mode_read, mode_write, operand_mode, probe, raise_fault

cython.declare(
    IE=uint32_t, DE=uint32_t, ZE=uint32_t, SF=uint32_t, ES=uint32_t, C0=uint32_t, C1=uint32_t, C2=uint32_t,
    C3=uint32_t, HIGH_ONES=uint32_t, CONDITIONS=uint32_t, EXCEPTIONS=uint32_t,
)  # fmt: skip
IE = 1
DE = 2
ZE = 4
SF = 0x40
ES = 0x80
C0 = 0x100
C1 = 0x200
C2 = 0x400
C3 = 0x4000
HIGH_ONES = 0xFFFF0000
CONDITIONS = 0x4700
EXCEPTIONS = 0x3F


# ------------------------------------------------------------------ state words
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def status_word(env: cython.pointer[Env]) -> uint32_t:
    """FSW: with TOP, and B = ES."""
    value: uint32_t = (env.fpu_status & 0x47FF) | ((env.fpu_top & 7) << 11)
    return value | 0x8000 if value & ES else value


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _summarize(env: cython.pointer[Env]) -> cython.void:
    """ES follows the unmasked flags."""
    if env.fpu_status & ~env.fpu_control & EXCEPTIONS:
        env.fpu_status |= ES
    else:
        env.fpu_status &= ~ES


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def load_status(env: cython.pointer[Env], value: uint32_t) -> cython.void:
    """FSW from memory; the control word comes first."""
    env.fpu_top = (value >> 11) & 7
    env.fpu_status = value & 0x477F
    _summarize(env)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def load_control(env: cython.pointer[Env], value: uint32_t) -> cython.void:
    """FCW; bit 6 always reads as one, reserved bits as zero."""
    env.fpu_control = (value & 0x1F3F) | 0x40
    _summarize(env)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def tag_word(env: cython.pointer[Env]) -> uint32_t:
    """The 16-bit tag word: 0 valid, 1 zero, 2 special, 3 empty."""
    result: uint32_t = 0
    tag: uint32_t
    exponent: uint32_t
    i: cython.int
    for i in range(8):
        exponent = cython.cast(uint32_t, env.fpr[2 * i + 1]) & 0x7FFF
        if (env.fpu_tag >> i) & 1:
            tag = 3
        elif exponent == 0 and env.fpr[2 * i] == 0:
            tag = 1
        elif exponent == 0 or exponent == 0x7FFF or not env.fpr[2 * i] >> 63:
            tag = 2
        else:
            tag = 0
        result |= tag << (2 * i)
    return result


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def x87_reset(env: cython.pointer[Env]) -> cython.void:
    """FNINIT: the registers keep their contents, but are empty."""
    env.fpu_control = 0x37F
    env.fpu_status = 0
    env.fpu_top = 0
    env.fpu_tag = 0xFF
    env.fpu_ip = 0
    env.fpu_dp = 0
    env.fpu_opcode = 0


# ------------------------------------------------------------------ the register stack
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _pending(env: cython.pointer[Env]) -> cython.int:
    """#MF if an unmasked exception waits."""
    if env.fpu_status & ES:
        raise_fault(env, VEC_MF, 0)
        return 1
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _get(env: cython.pointer[Env], r: cython.int, value: cython.pointer[X87Value]) -> cython.void:
    value.low = env.fpr[2 * r]
    value.high = cython.cast(uint16_t, env.fpr[2 * r + 1])


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _put(env: cython.pointer[Env], r: cython.int, value: cython.pointer[X87Value]) -> cython.void:
    env.fpr[2 * r] = value.low
    env.fpr[2 * r + 1] = value.high
    env.fpu_tag &= ~(cython.cast(uint32_t, 1) << r)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _put_indefinite(env: cython.pointer[Env], r: cython.int) -> cython.void:
    env.fpr[2 * r] = INDEFINITE_MANTISSA
    env.fpr[2 * r + 1] = 0xFFFF
    env.fpu_tag &= ~(cython.cast(uint32_t, 1) << r)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _empty(env: cython.pointer[Env], r: cython.int) -> cython.int:
    return (env.fpu_tag >> r) & 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _pop(env: cython.pointer[Env], count: cython.int) -> cython.void:
    while count > 0:
        env.fpu_tag |= cython.cast(uint32_t, 1) << env.fpu_top
        env.fpu_top = (env.fpu_top + 1) & 7
        count -= 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _raise_flags(env: cython.pointer[Env], flags: uint32_t, conditions: uint32_t, mask: uint32_t) -> uint32_t:
    """Set exception flags, and the condition bits that `mask` names; returns the unmasked exceptions."""
    unmasked: uint32_t = flags & ~env.fpu_control & EXCEPTIONS
    if unmasked & (IE | DE | ZE):  # found before anything was computed
        flags &= IE | DE | ZE | SF
        if not flags & SF:
            conditions &= ~C1
    env.fpu_status = (env.fpu_status & ~mask) | (conditions & mask) | flags
    if unmasked:
        env.fpu_status |= ES
    return unmasked


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _stack_fault(env: cython.pointer[Env], overflow: cython.int) -> uint32_t:
    """Invalid operation of the stack; non-zero if not masked."""
    return _raise_flags(env, IE | SF, C1 if overflow else 0, C1)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _push_slot(env: cython.pointer[Env]) -> cython.int:
    return (env.fpu_top + 7) & 7


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _push(env: cython.pointer[Env], value: cython.pointer[X87Value]) -> cython.void:
    """Push into a slot that is known to be empty."""
    env.fpu_top = _push_slot(env)
    _put(env, env.fpu_top, value)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _push_overflow(env: cython.pointer[Env]) -> cython.void:
    """Stack overflow: masked, the indefinite value is pushed over what is there."""
    if not _stack_fault(env, 1):
        env.fpu_top = _push_slot(env)
        _put_indefinite(env, env.fpu_top)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _execute(env: cython.pointer[Env], frame: cython.pointer[X87Frame], op: cython.int) -> cython.void:
    """Under the guest's control word. Of the masks only overflow's and underflow's are the guest's: unmasked,
    they change the result (its exponent is biased). The host never traps: its flags are cleared at once."""
    frame.cw = (env.fpu_control & 0x0F18) | 0x67
    x87_execute(frame, op)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _too_large_angle(value: cython.pointer[X87Value]) -> cython.int:
    """Whether FPTAN and FSINCOS refuse the operand: finite and 2**63 or more. (Without its integer bit a number of
    this size is none: invalid.)"""
    exponent: cython.int = value.high & 0x7FFF
    return value.low >> 63 and exponent >= 0x3FFF + 63 and exponent != 0x7FFF


# ------------------------------------------------------------------ instructions
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _compare(
    env: cython.pointer[Env], frame: cython.pointer[X87Frame], op: cython.int, missing: cython.int, pops: cython.int
) -> uint32_t:
    """Condition bits of a comparison; missing: an operand's register is empty."""
    if missing:
        if _raise_flags(env, IE | SF, C0 | C2 | C3, CONDITIONS) == 0:
            _pop(env, pops)
        return C0 | C2 | C3
    _execute(env, frame, op)
    if _raise_flags(env, frame.sw & EXCEPTIONS, frame.sw & ~C1, CONDITIONS) & (IE | DE) == 0:
        _pop(env, pops)
    return frame.sw


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _x87_run(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    """Everything that needs no memory of its own. a: memory operand's value, or FCMOV's condition."""
    if _pending(env):
        return 0
    kind: cython.int = (imm >> SHIFT_KIND) & 0x1F
    op: cython.int = (imm >> SHIFT_OP) & 0xFF
    pops: cython.int = (imm >> SHIFT_POPS) & 3
    st0: cython.int = env.fpu_top & 7
    sti: cython.int = (env.fpu_top + (imm & 7)) & 7
    target: cython.int = sti if imm & TO_STI else st0
    unmasked: uint32_t
    conditions: uint32_t
    missing: cython.int
    mask: uint32_t
    frame: X87Frame
    env.fpu_ip = env.rip
    frame.m = a

    if kind == KIND_ARITHMETIC or kind == KIND_ARITHMETIC_MEMORY:
        if kind == KIND_ARITHMETIC_MEMORY:
            env.fpu_dp = b
            sti = st0
        if _empty(env, st0) or _empty(env, sti):
            if not _stack_fault(env, 0):
                _put_indefinite(env, target)
                _pop(env, pops)
            return 0
        _get(env, target, cython.address(frame.a))
        _get(env, st0 if target == sti else sti, cython.address(frame.b))
        _execute(env, cython.address(frame), op)
        unmasked = _raise_flags(env, frame.sw & EXCEPTIONS, frame.sw, C1)
        if not unmasked & (IE | DE | ZE):
            _put(env, target, cython.address(frame.r))
            _pop(env, pops)
    elif kind == KIND_COMPARE or kind == KIND_COMPARE_FLAGS:
        _get(env, st0, cython.address(frame.a))
        _get(env, sti, cython.address(frame.b))
        conditions = env.fpu_status
        missing = _empty(env, st0) | _empty(env, sti)
        unmasked = _compare(env, cython.address(frame), op, missing, pops)
        if kind == KIND_COMPARE_FLAGS:
            # FCOMI leaves the condition bits alone, but for C1 when a register is empty.
            if missing:
                conditions &= ~C1
            env.fpu_status = (env.fpu_status & ~CONDITIONS) | (conditions & CONDITIONS)
            return ((unmasked >> 8) & 1) | ((unmasked >> 8) & 4) | ((unmasked >> 8) & 0x40)
    elif kind == KIND_COMPARE_MEMORY:
        env.fpu_dp = b
        _get(env, st0, cython.address(frame.a))
        _compare(env, cython.address(frame), op, _empty(env, st0), pops)
    elif kind == KIND_TEST:
        _get(env, st0, cython.address(frame.a))
        _compare(env, cython.address(frame), op, _empty(env, st0), 0)
    elif kind == KIND_UNARY or kind == KIND_UNARY_PUSH:
        mask = C1 | C2 if op == X87_FSIN or op == X87_FCOS or op == X87_FPTAN or op == X87_FSINCOS else C1
        if _empty(env, st0):
            env.fpu_status &= ~mask
            if not _stack_fault(env, 0):
                _put_indefinite(env, st0)
                if kind == KIND_UNARY_PUSH:
                    env.fpu_top = _push_slot(env)
                    _put_indefinite(env, env.fpu_top)
            return 0
        _get(env, st0, cython.address(frame.a))
        if kind == KIND_UNARY_PUSH:
            if not _empty(env, _push_slot(env)):
                env.fpu_status &= ~mask
                if not _stack_fault(env, 1):
                    _put_indefinite(env, st0)
                    env.fpu_top = _push_slot(env)
                    _put_indefinite(env, env.fpu_top)
                return 0
            if (op == X87_FPTAN or op == X87_FSINCOS) and _too_large_angle(cython.address(frame.a)):
                env.fpu_status = (env.fpu_status & ~C1) | C2
                return 0
        _execute(env, cython.address(frame), op)
        unmasked = _raise_flags(env, frame.sw & EXCEPTIONS, frame.sw, mask)
        if not unmasked & (IE | DE | ZE):
            _put(env, st0, cython.address(frame.r))
            if kind == KIND_UNARY_PUSH:
                _push(env, cython.address(frame.r2))
    elif kind == KIND_BINARY or kind == KIND_BINARY_POP:
        sti = (env.fpu_top + 1) & 7
        target = sti if kind == KIND_BINARY_POP else st0
        partial: cython.bint = op == X87_FPREM or op == X87_FPREM1
        if _empty(env, st0) or _empty(env, sti):
            if partial:
                env.fpu_status &= ~C2
            if not _stack_fault(env, 0):
                _put_indefinite(env, target)
                _pop(env, 1 if kind == KIND_BINARY_POP else 0)
            return 0
        _get(env, st0, cython.address(frame.a))
        _get(env, sti, cython.address(frame.b))
        _execute(env, cython.address(frame), op)
        # FPREM reports the quotient in C0, C1 and C3 and "not finished" in C2.
        mask = C1
        if partial:
            mask = CONDITIONS
            if frame.sw & ~env.fpu_control & (IE | DE | ZE):  # no result: there is no quotient, its bits stay
                mask = C1 | C2
                frame.sw &= ~C2
            elif (frame.r.high & 0x7FFF) == 0x7FFF:  # nor has a NaN
                mask = C1 | C2
        unmasked = _raise_flags(env, frame.sw & EXCEPTIONS, frame.sw, mask)
        if not unmasked & (IE | DE | ZE):
            _put(env, target, cython.address(frame.r))
            _pop(env, 1 if kind == KIND_BINARY_POP else 0)
    elif kind == KIND_LOAD or kind == KIND_CONSTANT:
        if kind == KIND_LOAD:
            env.fpu_dp = b
        if not _empty(env, _push_slot(env)):
            _push_overflow(env)
            return 0
        _execute(env, cython.address(frame), op)
        unmasked = _raise_flags(env, frame.sw & EXCEPTIONS, 0, C1)
        if not unmasked & IE:  # an unmasked denormal operand is loaded all the same
            _push(env, cython.address(frame.r))
    elif kind == KIND_FLD:
        if _empty(env, sti):  # comes before an overflow
            if not _stack_fault(env, 0):
                env.fpu_top = _push_slot(env)
                _put_indefinite(env, env.fpu_top)
        elif not _empty(env, _push_slot(env)):
            _push_overflow(env)
        else:
            _get(env, sti, cython.address(frame.a))
            env.fpu_status &= ~C1
            _push(env, cython.address(frame.a))
    elif kind == KIND_FXCH:
        env.fpu_status &= ~C1
        if _empty(env, st0) or _empty(env, sti):
            if _stack_fault(env, 0):
                return 0
            if _empty(env, st0):
                _put_indefinite(env, st0)
            if _empty(env, sti):
                _put_indefinite(env, sti)
        _get(env, st0, cython.address(frame.a))
        _get(env, sti, cython.address(frame.b))
        _put(env, st0, cython.address(frame.b))
        _put(env, sti, cython.address(frame.a))
    elif kind == KIND_FST or kind == KIND_FSTPNCE:
        if kind == KIND_FSTPNCE and _empty(env, st0):
            env.fpu_status &= ~C1  # stores nothing and complains of nothing
        elif _empty(env, st0):
            if _stack_fault(env, 0):
                return 0
            _put_indefinite(env, sti)
        else:
            env.fpu_status &= ~C1
            _get(env, st0, cython.address(frame.a))
            _put(env, sti, cython.address(frame.a))
        _pop(env, pops)
    elif kind == KIND_FFREE:
        env.fpu_status &= ~C1
        env.fpu_tag |= cython.cast(uint32_t, 1) << sti
        if pops:
            _pop(env, 1)
    elif kind == KIND_FINCSTP:
        env.fpu_status &= ~C1
        env.fpu_top = (env.fpu_top + 1) & 7
    elif kind == KIND_FDECSTP:
        env.fpu_status &= ~C1
        env.fpu_top = (env.fpu_top + 7) & 7
    elif kind == KIND_FXAM:
        _get(env, st0, cython.address(frame.a))
        conditions = C3 | C0
        if not _empty(env, st0):
            _execute(env, cython.address(frame), op)
            conditions = frame.sw & (C0 | C2 | C3)
        if frame.a.high & 0x8000:
            conditions |= C1
        env.fpu_status = (env.fpu_status & ~CONDITIONS) | conditions
    elif kind == KIND_FCMOV:
        if _empty(env, st0) or _empty(env, sti):
            if not _stack_fault(env, 0):
                _put_indefinite(env, st0)
        elif a:
            _get(env, sti, cython.address(frame.a))
            _put(env, st0, cython.address(frame.a))
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _x87_memory_run(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    """Stores of all kinds, and loads of 80 bits; a = address."""
    if _pending(env):
        return 0
    kind: cython.int = (imm >> SHIFT_KIND) & 0x1F
    op: cython.int = (imm >> SHIFT_OP) & 0xFF
    pops: cython.int = (imm >> SHIFT_POPS) & 3
    size: cython.int = (imm >> SHIFT_SIZE) & 15
    mode: uint32_t = operand_mode(env, imm)
    st0: cython.int = env.fpu_top & 7
    flags: uint32_t = 0
    frame: X87Frame

    if kind == KIND_LOAD_80 or kind == KIND_LOAD_BCD:
        frame.r.low = mode_read(env, a, 8, mode)
        if env.fault:
            return 0
        frame.r.high = cython.cast(uint16_t, mode_read(env, a + 8, 2, mode))
        if env.fault:
            return 0
        env.fpu_ip = env.rip
        env.fpu_dp = a
        if not _empty(env, _push_slot(env)):
            _push_overflow(env)
            return 0
        if kind == KIND_LOAD_BCD:
            frame.a = frame.r
            _execute(env, cython.address(frame), op)
        env.fpu_status &= ~C1
        _push(env, cython.address(frame.r))
        return 0

    frame.sw = 0
    frame.m = 0
    _get(env, st0, cython.address(frame.a))
    if _empty(env, st0):
        flags = IE | SF
        frame.a.low = INDEFINITE_MANTISSA
        frame.a.high = 0xFFFF
    if kind == KIND_STORE_80:
        frame.r = frame.a
    else:
        _execute(env, cython.address(frame), op)
        flags |= frame.sw & EXCEPTIONS
    # Unmasked, all but the inexact exception keep the store (and the pop) from happening.
    if flags & ~env.fpu_control & 0x1F:
        env.fpu_ip = env.rip
        env.fpu_dp = a
        _raise_flags(env, flags & (0x1F | SF), 0, C1)
        return 0
    if kind == KIND_STORE_80 or kind == KIND_STORE_BCD:
        if not probe(env, a, 10, mode, 1):
            return 0
        mode_write(env, a, frame.r.low, 8, mode)
        if env.fault:
            return 0
        mode_write(env, a + 8, frame.r.high, 2, mode)
    else:
        mode_write(env, a, frame.m, size, mode)
    if env.fault:
        return 0
    env.fpu_ip = env.rip
    env.fpu_dp = a
    _raise_flags(env, flags, 0 if flags & SF else frame.sw, C1)
    _pop(env, pops)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _note_opcode(env: cython.pointer[Env], imm: uint64_t) -> cython.void:
    """FOP is that of the last instruction that incurred an unmasked exception (SDM volume 1, 8.1.9.1)."""
    if env.fpu_status & ES and env.fault == 0:
        env.fpu_opcode = imm & 0x7FF


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def x87(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    result: uint64_t = _x87_run(env, a, b, imm)
    _note_opcode(env, imm)
    return result


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def x87_memory(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    _x87_memory_run(env, a, b, imm)
    _note_opcode(env, imm)
    return 0


# ------------------------------------------------------------------ control
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def x87_status(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    return status_word(env)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def x87_control(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    return env.fpu_control


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def fldcw(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    if not _pending(env):
        load_control(env, cython.cast(uint32_t, a))
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def fnclex(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    env.fpu_status &= CONDITIONS
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def fninit(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    x87_reset(env)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def fwait(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    if (env.cr[0] & (CR0_MP | CR0_TS)) == (CR0_MP | CR0_TS):
        raise_fault(env, VEC_NM, 0)
    else:
        _pending(env)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _store_environment(
    env: cython.pointer[Env], address: uint64_t, size: uint32_t, mode: uint32_t
) -> cython.void:
    """The seven words of FNSTENV, 2 or 4 bytes each. Selectors read as zero, as on processors of today."""
    real: cython.bint = not env.block_flags & FLAG_PROTECTED
    ip: uint32_t = cython.cast(uint32_t, env.fpu_ip)
    dp: uint32_t = cython.cast(uint32_t, env.fpu_dp)
    words: uint32_t[7]
    i: cython.int
    words[0] = env.fpu_control
    words[1] = status_word(env)
    words[2] = tag_word(env)
    words[3] = ip
    words[4] = (env.fpu_opcode & 0x7FF) << 16
    words[5] = dp
    words[6] = 0
    if size == 2:
        words[4] = ((ip >> 4) & 0xF000) | (env.fpu_opcode & 0x7FF) if real else 0
        words[6] = (dp >> 4) & 0xF000 if real else 0
    elif real:
        words[3] = ip & 0xFFFF
        words[4] = ((ip >> 16) << 12) | (env.fpu_opcode & 0x7FF)
        words[5] = dp & 0xFFFF
        words[6] = (dp >> 16) << 12
    if size == 4:
        words[0] |= HIGH_ONES
        words[1] |= HIGH_ONES
        words[2] |= HIGH_ONES
        if not real:
            words[6] |= HIGH_ONES
    for i in range(7):
        mode_write(env, address + size * i, words[i] if size == 4 else words[i] & 0xFFFF, size, mode)
        if env.fault:
            return


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def fnstenv(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    """Stores the environment, then masks all exceptions."""
    size: uint32_t = cython.cast(uint32_t, imm & 0xFF)
    mode: uint32_t = operand_mode(env, imm)
    if not probe(env, a, 7 * size, mode, 1):
        return 0
    _store_environment(env, a, size, mode)
    if not env.fault:
        env.fpu_control |= EXCEPTIONS
        _summarize(env)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _load_environment(env: cython.pointer[Env], words: cython.pointer[uint32_t], size: uint64_t) -> cython.void:
    real: cython.bint = not env.block_flags & FLAG_PROTECTED
    i: cython.int
    load_control(env, words[0])
    load_status(env, words[1])
    env.fpu_tag = 0
    for i in range(8):
        if ((words[2] >> (2 * i)) & 3) == 3:
            env.fpu_tag |= cython.cast(uint32_t, 1) << i
    env.fpu_ip = words[3]
    env.fpu_dp = words[5]
    env.fpu_opcode = (words[4] >> 16) & 0x7FF
    if size == 2:
        env.fpu_opcode = words[4] & 0x7FF if real else 0
        if real:
            env.fpu_ip = words[3] | ((words[4] & 0xF000) << 4)
            env.fpu_dp = words[5] | ((words[6] & 0xF000) << 4)
    elif real:
        env.fpu_opcode = words[4] & 0x7FF
        env.fpu_ip = (words[3] & 0xFFFF) | ((words[4] >> 12) << 16)
        env.fpu_dp = (words[5] & 0xFFFF) | ((words[6] >> 12) << 16)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def fldenv(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    words: uint32_t[7]
    size: uint32_t = cython.cast(uint32_t, imm & 0xFF)
    mode: uint32_t = operand_mode(env, imm)
    i: cython.int
    if _pending(env):
        return 0
    for i in range(7):
        words[i] = cython.cast(uint32_t, mode_read(env, a + size * i, size, mode))
        if env.fault:
            return 0
    _load_environment(env, words, size)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def fnsave(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    i: cython.int
    r: cython.int
    size: uint32_t = cython.cast(uint32_t, imm & 0xFF)
    mode: uint32_t = operand_mode(env, imm)
    at: uint64_t = a + 7 * size
    if not probe(env, a, 7 * size + 80, mode, 1):
        return 0
    _store_environment(env, a, size, mode)
    for i in range(8):
        if env.fault:
            return 0
        r = (env.fpu_top + i) & 7
        mode_write(env, at + 10 * i, env.fpr[2 * r], 8, mode)
        if env.fault:
            return 0
        mode_write(env, at + 10 * i + 8, env.fpr[2 * r + 1] & 0xFFFF, 2, mode)
    if not env.fault:
        x87_reset(env)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def frstor(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    words: uint32_t[7]
    low: uint64_t[8]
    high: uint64_t[8]
    size: uint32_t = cython.cast(uint32_t, imm & 0xFF)
    mode: uint32_t = operand_mode(env, imm)
    at: uint64_t = a + 7 * size
    i: cython.int
    r: cython.int
    if _pending(env):
        return 0
    for i in range(7):
        words[i] = cython.cast(uint32_t, mode_read(env, a + size * i, size, mode))
        if env.fault:
            return 0
    for i in range(8):
        low[i] = mode_read(env, at + 10 * i, 8, mode)
        if env.fault:
            return 0
        high[i] = mode_read(env, at + 10 * i + 8, 2, mode)
        if env.fault:
            return 0
    _load_environment(env, words, size)
    for i in range(8):
        r = (env.fpu_top + i) & 7
        env.fpr[2 * r] = low[i]
        env.fpr[2 * r + 1] = high[i]
    return 0


# ------------------------------------------------------------------ MMX
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def mmx_enter(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    """What every MMX instruction does to the x87 state."""
    if not _pending(env):
        env.fpu_top = 0
        env.fpu_tag = 0
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def mmx_peek(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    """The register's value for a store that may yet fault: only afterwards it enters MMX mode (mmx_enter)."""
    _pending(env)
    return env.fpr[2 * (imm & 7)]


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def mmx_get(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    mmx_enter(env, 0, 0, 0)
    return env.fpr[2 * (imm & 7)]


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def mmx_put(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    """Writing an mmx register sets sign and exponent of the x87 register to ones."""
    env.fpr[2 * (imm & 7)] = a
    env.fpr[2 * (imm & 7) + 1] = 0xFFFF
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def mmx_put_converted(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    """The same for the result of an SSE conversion, unless `sse_trap_check` is about to raise #XM for it."""
    if not host_stmxcsr() & ~(env.mxcsr >> 7) & 0x3F:
        mmx_put(env, a, b, imm)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def emms(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    if not _pending(env):
        env.fpu_top = 0
        env.fpu_tag = 0xFF
    return 0


def addresses() -> dict[str, int]:
    """Helper name -> address of its code."""
    return {
        "x87": cython.cast(uint64_t, cython.cast(cython.p_void, x87)),
        "x87_memory": cython.cast(uint64_t, cython.cast(cython.p_void, x87_memory)),
        "x87_status": cython.cast(uint64_t, cython.cast(cython.p_void, x87_status)),
        "x87_control": cython.cast(uint64_t, cython.cast(cython.p_void, x87_control)),
        "fldcw": cython.cast(uint64_t, cython.cast(cython.p_void, fldcw)),
        "fnclex": cython.cast(uint64_t, cython.cast(cython.p_void, fnclex)),
        "fninit": cython.cast(uint64_t, cython.cast(cython.p_void, fninit)),
        "fwait": cython.cast(uint64_t, cython.cast(cython.p_void, fwait)),
        "fnstenv": cython.cast(uint64_t, cython.cast(cython.p_void, fnstenv)),
        "fldenv": cython.cast(uint64_t, cython.cast(cython.p_void, fldenv)),
        "fnsave": cython.cast(uint64_t, cython.cast(cython.p_void, fnsave)),
        "frstor": cython.cast(uint64_t, cython.cast(cython.p_void, frstor)),
        "mmx_enter": cython.cast(uint64_t, cython.cast(cython.p_void, mmx_enter)),
        "mmx_peek": cython.cast(uint64_t, cython.cast(cython.p_void, mmx_peek)),
        "mmx_get": cython.cast(uint64_t, cython.cast(cython.p_void, mmx_get)),
        "mmx_put": cython.cast(uint64_t, cython.cast(cython.p_void, mmx_put)),
        "mmx_put_converted": cython.cast(uint64_t, cython.cast(cython.p_void, mmx_put_converted)),
        "emms": cython.cast(uint64_t, cython.cast(cython.p_void, emms)),
    }
