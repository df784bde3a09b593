# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""RFLAGS from the lazy cells, and back. See `flags` for what the cells hold.

WHY NATIVE: every PUSHF, interrupt and unfused condition comes here. SAFETY: touches only env.
Flag definitions: SDM volume 1, 3.4.3.1, and the "Flags Affected" of each instruction.
"""

import cython
from cython.cimports.libc.stdint import int64_t, uint64_t
from cython.cimports.manor.engine.env import Env
from cython.cimports.manor.engine.isa.x86.flags_native import multiply_overflow

from manor.engine import env as _env

cython.declare(V_OP=cython.int, V_DST=cython.int, V_SRC=cython.int, V_SRC2=cython.int, V_DF=cython.int)
V_OP = _env.CC_OP
V_DST = _env.CC_DST
V_SRC = _env.CC_SRC
V_SRC2 = _env.CC_SRC2
V_DF = _env.DIRECTION
cython.declare(CF=cython.int, PF=cython.int, AF=cython.int, ZF=cython.int, SF=cython.int, OF=cython.int)
CF, PF, AF, ZF, SF, OF = 1, 4, 16, 64, 128, 2048


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def low_bits(value: uint64_t, width: cython.int) -> uint64_t:
    if width == 64:
        return value
    return value & ((cython.cast(uint64_t, 1) << width) - 1)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def result_flags(result: uint64_t, width: cython.int) -> uint64_t:
    """ZF, SF and PF of a result."""
    flags: uint64_t = 0
    parity: uint64_t = result & 0xFF
    if low_bits(result, width) == 0:
        flags |= ZF
    if (result >> (width - 1)) & 1:
        flags |= SF
    parity ^= parity >> 4
    parity ^= parity >> 2
    parity ^= parity >> 1
    if not parity & 1:
        flags |= PF
    return flags


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def top_bit(value: uint64_t, width: cython.int) -> uint64_t:
    return (value >> (width - 1)) & 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def sign_extended(value: uint64_t, width: cython.int) -> uint64_t:
    return cython.cast(int64_t, value << (64 - width)) >> (64 - width)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def product_overflows(a: uint64_t, b: uint64_t, width: cython.int) -> cython.bint:
    """Whether the signed product of the low `width` bits needs more than that."""
    unused: cython.int = 64 - width
    product: int64_t
    # with one factor moved to the top, the product overflows 64 bits just when it does `width` bits
    return multiply_overflow(
        cython.cast(int64_t, a << unused), cython.cast(int64_t, b << unused) >> unused, cython.address(product)
    )


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def compute_eflags(env: cython.pointer(Env)) -> uint64_t:
    """CF PF AF ZF SF OF at their places."""
    op: cython.int = env.regs[V_OP] & 0xFF
    kind: cython.int = op >> 2
    width: cython.int = 8 << (op & 3)
    dst: uint64_t = env.regs[V_DST]
    src: uint64_t = env.regs[V_SRC]
    src2: uint64_t = env.regs[V_SRC2]
    left: uint64_t
    result: uint64_t
    flags: uint64_t = 0
    if kind == 0:
        return src & 0x8D5
    if kind == 1 or kind == 2:  # ADD, ADC
        carry: uint64_t = src2 if kind == 2 else 0
        left = low_bits(dst - src - carry, width)
        src = low_bits(src, width)
        result = low_bits(dst, width)
        if result < left or (carry and result == left):
            flags |= CF
        flags |= (left ^ src ^ result) & AF
        flags |= top_bit((left ^ result) & (src ^ result), width) << 11
        return flags | result_flags(result, width)
    if kind == 3 or kind == 4:  # SUB, SBB
        if kind == 3:
            left = low_bits(dst, width)
            src = low_bits(src, width)
            result = low_bits(left - src, width)
            if left < src:
                flags |= CF
        else:
            left = low_bits(dst + src + src2, width)
            src = low_bits(src, width)
            result = low_bits(dst, width)
            if left < src or (src2 and left == src):
                flags |= CF
        flags |= (left ^ src ^ result) & AF
        flags |= top_bit((left ^ src) & (left ^ result), width) << 11
        return flags | result_flags(result, width)
    result = low_bits(dst, width)
    flags = result_flags(result, width)
    if kind == 6:  # INC
        flags |= src & 1
        if result & 15 == 0:
            flags |= AF
        if result == cython.cast(uint64_t, 1) << (width - 1):
            flags |= OF
    elif kind == 7:  # DEC
        flags |= src & 1
        if result & 15 == 15:
            flags |= AF
        if result == (cython.cast(uint64_t, 1) << (width - 1)) - 1:
            flags |= OF
    elif kind == 8:  # SHL
        flags |= top_bit(src, width)
        flags |= top_bit(src ^ dst, width) << 11
    elif kind == 9:  # SHR, SAR
        flags |= src & 1
        flags |= top_bit(src ^ dst, width) << 11
    elif kind == 10:  # MUL
        if src:
            flags |= CF | OF
    elif kind == 11:  # IMUL
        if product_overflows(src, src2, width):
            flags |= CF | OF
    elif kind == 12:  # SHLI
        src <<= src2 - 1
        flags |= top_bit(src, width)
        flags |= top_bit(src ^ dst, width) << 11
    elif kind == 13 or kind == 14:  # SHRI, SARI
        src = low_bits(src, width) if kind == 13 else sign_extended(src, width)
        src = src >> (src2 - 1) if kind == 13 else cython.cast(int64_t, src) >> (src2 - 1)
        flags |= src & 1
        flags |= top_bit(src ^ dst, width) << 11
    return flags


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def set_eflags(env: cython.pointer(Env), value: uint64_t) -> cython.void:
    env.regs[V_OP] = 0
    env.regs[V_SRC] = value & 0x8D5


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def read_rflags(env: cython.pointer(Env)) -> uint64_t:
    """The whole of RFLAGS."""
    value: uint64_t = env.rflags | compute_eflags(env) | 2
    if cython.cast(int64_t, env.regs[V_DF]) < 0:
        value |= 0x400
    return value


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def write_rflags(env: cython.pointer(Env), value: uint64_t) -> cython.void:
    """Set the whole of RFLAGS; the caller masks what may not change."""
    set_eflags(env, value)
    env.regs[V_DF] = cython.cast(uint64_t, -1) if value & 0x400 else 1
    env.rflags = (value & 0x3FF300) | 2
