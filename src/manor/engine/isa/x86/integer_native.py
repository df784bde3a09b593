# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Integer helpers: division, rotates, string instructions, decimal adjustment, wide compare-exchange.

WHY NATIVE: called from generated code. SAFETY: state is reached through env only; guest memory
through the softmmu's functions, whose faults are checked after each call and before anything
is changed. Semantics: SDM volume 2, by mnemonic. Declared in `integer_helpers`.
"""

import cython
from cython.cimports.libc.stdint import (
    int8_t,
    int16_t,
    int32_t,
    int64_t,
    uint8_t,
    uint32_t,
    uint64_t,
)
from cython.cimports.libc.string import memcpy, memmove, memset
from cython.cimports.manor.engine.cache_native import sched_yield
from cython.cimports.manor.engine.env import Env
from cython.cimports.manor.engine.host import atomic_cas64, atomic_store64
from cython.cimports.manor.engine.isa.x86.descriptor_native import check_access, elements_within
from cython.cimports.manor.engine.isa.x86.exception_native import raise_exception
from cython.cimports.manor.engine.isa.x86.flags_native import (
    compute_eflags,
    low_bits,
    result_flags,
    set_eflags,
)
from cython.cimports.manor.engine.isa.x86.integer_native import (
    compare_exchange8,
    compare_exchange16,
    compare_exchange32,
    compare_exchange64,
    compare_exchange128,
    int128_t,
    uint128_t,
)
from cython.cimports.manor.engine.softmmu_native import (
    load_slow,
    mode_read,
    mode_write,
    operand_mode,
    probe,
    rmw_pointer,
    store_slow,
)
from cython.cimports.manor.engine.vm import Vm, helper_fn

from manor.engine import env as _env

EnvP = cython.typedef(cython.pointer(Env))
cython.declare(V_OP=cython.int, V_DST=cython.int, V_SRC=cython.int, V_DF=cython.int, V_COUNT=cython.int,
               V_SEG=cython.int, F_MMU=cython.int, F_CODE64=cython.int, F_STACK32=cython.int,
               F_LIMITS=cython.int,
               TLB_MASK=uint64_t, TLB_WORDS=cython.int, EXC_DE=cython.int, EXC_GP=cython.int)  # fmt: skip
V_OP = _env.CC_OP
V_DST = _env.CC_DST
V_SRC = _env.CC_SRC
V_DF = _env.DIRECTION
V_COUNT = _env.EA2
V_SEG = _env.SEG_BASE
F_MMU = _env.FLAG_MMU_SHIFT
F_CODE64 = _env.FLAG_CODE64
F_STACK32 = _env.FLAG_STACK32
F_LIMITS = _env.FLAG_LIMITS
TLB_MASK = _env.TLB_ENTRIES - 1
TLB_WORDS = _env.TLB_ENTRIES * 4
EXC_DE = 0
EXC_GP = 13
MASK32 = cython.declare(uint64_t, 0xFFFFFFFF)
FRAME = cython.declare(uint64_t, 0xFFFFFFFFFFFFF000)
cython.declare(RAX=cython.int, RCX=cython.int, RDX=cython.int, RBX=cython.int, RSP=cython.int, RBP=cython.int, RSI=cython.int, RDI=cython.int)
RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI = range(8)
cython.declare(CF=cython.int, PF=cython.int, AF=cython.int, ZF=cython.int, SF=cython.int, OF=cython.int)
CF, PF, AF, ZF, SF, OF = 1, 4, 16, 64, 128, 2048


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
@cython.inline
def sign(value: uint64_t, width: cython.int) -> int64_t:
    """Sign-extend from width bits."""
    if width == 8:
        return cython.cast(int8_t, value)
    if width == 16:
        return cython.cast(int16_t, value)
    if width == 32:
        return cython.cast(int32_t, value)
    return cython.cast(int64_t, value)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def write_reg(env: EnvP, reg: cython.int, value: uint64_t, size: cython.int) -> cython.void:
    """Write a general register at a size in bytes, by x86's rules."""
    if size == 8:
        env.regs[reg] = value
    elif size == 4:
        env.regs[reg] = value & MASK32
    elif size == 2:
        env.regs[reg] = (env.regs[reg] & ~cython.cast(uint64_t, 0xFFFF)) | (value & 0xFFFF)
    else:
        env.regs[reg] = (env.regs[reg] & ~cython.cast(uint64_t, 0xFF)) | (value & 0xFF)


# ---------------------------------------------------------------------- flags
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_eflags(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    return compute_eflags(env)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_rotate_flags(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    """Flags after ROL or ROR: CF from the result's end bit, OF as for a count of one."""
    width: cython.int = imm & 0xFF
    flags: uint64_t = compute_eflags(env)
    top: uint64_t = (a >> (width - 1)) & 1
    if b == 0:
        return flags
    flags &= ~cython.cast(uint64_t, CF | OF)
    if imm & 256:
        flags |= top | ((top ^ ((a >> (width - 2)) & 1)) << 11)
    else:
        flags |= (a & 1) | ((top ^ (a & 1)) << 11)
    return flags


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def rotate_carry(env: EnvP, a: uint64_t, b: uint64_t, width: cython.int, left: cython.int, want_flags: cython.int) -> uint64_t:
    """RCL and RCR as a rotation of width + 1 bits."""
    flags: uint64_t = compute_eflags(env)
    value: uint128_t = low_bits(a, width)
    bits: cython.int = width + 1
    count: cython.int = b % bits
    mask: uint128_t = (cython.cast(uint128_t, 1) << bits) - 1
    carry: uint64_t
    top: uint64_t
    value |= cython.cast(uint128_t, flags & 1) << width
    if count:
        if left:
            value = ((value << count) | (value >> (bits - count))) & mask
        else:
            value = ((value >> count) | (value << (bits - count))) & mask
    if not want_flags:
        return low_bits(cython.cast(uint64_t, value), width)
    if b == 0:
        return flags
    carry = cython.cast(uint64_t, value >> width) & 1
    top = cython.cast(uint64_t, value >> (width - 1)) & 1
    flags &= ~cython.cast(uint64_t, CF | OF)
    if left:
        return flags | carry | ((carry ^ top) << 11)
    return flags | carry | ((top ^ (cython.cast(uint64_t, value >> (width - 2)) & 1)) << 11)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_rcl(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    return rotate_carry(env, a, b, imm, 1, 0)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_rcl_flags(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    return rotate_carry(env, a, b, imm, 1, 1)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_rcr(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    return rotate_carry(env, a, b, imm, 0, 0)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_rcr_flags(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    return rotate_carry(env, a, b, imm, 0, 1)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def double_shift(env: EnvP, a: uint64_t, b: uint64_t, width: cython.int, right: cython.int, want_flags: cython.int) -> uint64_t:
    """SHLD and SHRD. For 16 bits and counts above 16 processors shift the pattern b:a:b."""
    count: cython.int = env.regs[V_COUNT]
    flags: uint64_t = 0
    wide: uint128_t
    result: uint64_t
    last: uint64_t
    a = low_bits(a, width)
    b = low_bits(b, width)
    if count == 0:
        return compute_eflags(env) if want_flags else a
    if right:
        wide = (cython.cast(uint128_t, b) << width) | a
        if width == 16:
            wide |= cython.cast(uint128_t, a) << 32
        result = low_bits(cython.cast(uint64_t, wide >> count), width)
        last = cython.cast(uint64_t, wide >> (count - 1)) & 1
    else:
        wide = (cython.cast(uint128_t, a) << width) | b
        if width == 16:
            wide = (wide << 16) | a
            result = low_bits(cython.cast(uint64_t, wide >> (32 - count)), 16)
            last = cython.cast(uint64_t, wide >> (48 - count)) & 1
        else:
            result = low_bits(cython.cast(uint64_t, wide >> (width - count)), width)
            last = cython.cast(uint64_t, wide >> (2 * width - count)) & 1
    if not want_flags:
        return result
    flags = result_flags(result, width) | last
    return flags | (((a ^ result) >> (width - 1)) & 1) << 11


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_double_shift(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    return double_shift(env, a, b, imm & 0xFF, imm >> 8, 0)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_double_shift_flags(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    return double_shift(env, a, b, imm & 0xFF, imm >> 8, 1)


# ---------------------------------------------------------------------- division
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def divide(env: EnvP, divisor: uint64_t, width: cython.int) -> cython.void:
    """DIV: unsigned double width by single width; #DE for zero or a quotient that does not fit."""
    dividend: uint128_t
    quotient: uint128_t
    divisor = low_bits(divisor, width)
    if width == 8:
        dividend = env.regs[RAX] & 0xFFFF
    else:
        dividend = (cython.cast(uint128_t, low_bits(env.regs[RDX], width)) << width) | low_bits(env.regs[RAX], width)
    if divisor == 0:
        raise_exception(env, EXC_DE, 0)
        return
    quotient = dividend // divisor
    if quotient >> width:
        raise_exception(env, EXC_DE, 0)
        return
    store_division(env, cython.cast(uint64_t, quotient), cython.cast(uint64_t, dividend % divisor), width)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def divide_signed(env: EnvP, value: uint64_t, width: cython.int) -> cython.void:
    """IDIV, by magnitudes: the remainder has the dividend's sign."""
    divisor: int64_t = sign(value, width)
    dividend: int128_t
    magnitude: uint128_t
    by: uint64_t
    quotient: uint128_t
    remainder: uint64_t
    negative: cython.int
    limit: uint128_t
    if width == 8:
        dividend = sign(env.regs[RAX], 16)
    elif width == 64:
        dividend = cython.cast(
            int128_t, (cython.cast(uint128_t, env.regs[RDX]) << 64) | cython.cast(uint128_t, env.regs[RAX])
        )
    else:
        dividend = cython.cast(int128_t, sign(env.regs[RDX], width)) * (cython.cast(int64_t, 1) << width)
        dividend += low_bits(env.regs[RAX], width)
    if divisor == 0:
        raise_exception(env, EXC_DE, 0)
        return
    magnitude = cython.cast(uint128_t, dividend)
    if dividend < 0:
        magnitude = 0 - magnitude
    by = cython.cast(uint64_t, divisor)
    if divisor < 0:
        by = 0 - by
    quotient = magnitude // by
    remainder = cython.cast(uint64_t, magnitude % by)
    negative = (dividend < 0) != (divisor < 0)
    limit = cython.cast(uint128_t, 1) << (width - 1)
    if quotient > limit or (quotient == limit and not negative):
        raise_exception(env, EXC_DE, 0)
        return
    store_division(
        env,
        0 - cython.cast(uint64_t, quotient) if negative else cython.cast(uint64_t, quotient),
        0 - remainder if dividend < 0 else remainder,
        width,
    )


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def store_division(env: EnvP, quotient: uint64_t, remainder: uint64_t, width: cython.int) -> cython.void:
    if width == 8:
        write_reg(env, RAX, (quotient & 0xFF) | ((remainder & 0xFF) << 8), 2)
    else:
        write_reg(env, RAX, quotient, width // 8)
        write_reg(env, RDX, remainder, width // 8)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_div8(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    divide(env, a, 8)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_div16(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    divide(env, a, 16)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_div32(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    divide(env, a, 32)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_div64(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    if env.regs[RDX] == 0 and a:
        quotient: uint64_t = env.regs[RAX] // a
        env.regs[RDX] = env.regs[RAX] % a
        env.regs[RAX] = quotient
        return 0
    divide(env, a, 64)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_idiv8(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    divide_signed(env, a, 8)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_idiv16(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    divide_signed(env, a, 16)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_idiv32(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    divide_signed(env, a, 32)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_idiv64(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    divide_signed(env, a, 64)
    return 0


# ---------------------------------------------------------------------- atomics
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
@cython.inline
def data_mode(env: EnvP) -> uint32_t:
    return (env.block_flags >> F_MMU) & 3


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def lock_split(env: EnvP) -> cython.void:
    """The lock of read-modify-writes that no host atomic can do (page-crossing, MMIO, 16 bytes)."""
    while not atomic_cas64(cython.address(cython.cast(cython.pointer(Vm), env.vm).rmw_lock), 0, 1):
        sched_yield()


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def unlock_split(env: EnvP) -> cython.void:
    atomic_store64(cython.address(cython.cast(cython.pointer(Vm), env.vm).rmw_lock), 0)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def exchange_if_equal(env: EnvP, gva: uint64_t, expected: uint64_t, new: uint64_t, size: cython.int,
                      mode: uint32_t) -> uint64_t:  # fmt: skip
    """Atomic compare-exchange of 1, 2, 4 or 8 bytes; returns the old value. Check env.fault."""
    pointer: cython.pointer(uint8_t) = rmw_pointer(env, gva, size, mode, env.rip)
    old: uint64_t
    if env.fault:
        return 0
    if pointer != cython.NULL:
        if size == 8:
            return compare_exchange64(pointer, expected, new)
        if size == 4:
            return compare_exchange32(pointer, expected, new)
        if size == 2:
            return compare_exchange16(pointer, expected, new)
        return compare_exchange8(pointer, expected, new)
    lock_split(env)
    old = load_slow(env, gva, size, mode, env.rip)
    if not env.fault:
        store_slow(env, gva, new if old == low_bits(expected, size * 8) else old, size, mode, env.rip)
    unlock_split(env)
    return old


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_lock_neg(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    old: uint64_t
    seen: uint64_t
    size: cython.int = imm & 0xFF
    mode: uint32_t = operand_mode(env, imm)
    probe(env, a, size, mode, 1)  # a fault is that of a write
    if env.fault:
        return 0
    old = mode_read(env, a, size, mode)
    while not env.fault:
        seen = exchange_if_equal(env, a, old, 0 - old, size, mode)
        if seen == old:
            break
        old = seen
    return old


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_cmpxchg8b(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    expected: uint64_t = (env.regs[RDX] << 32) | (env.regs[RAX] & MASK32)
    new: uint64_t = (env.regs[RCX] << 32) | (env.regs[RBX] & MASK32)
    old: uint64_t = exchange_if_equal(env, a, expected, new, 8, operand_mode(env, imm))
    if env.fault:
        return 0
    if old == expected:
        return 1
    env.regs[RAX] = old & MASK32
    env.regs[RDX] = old >> 32
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_cmpxchg16b(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    """#GP(0) unless 16-byte aligned, so it never crosses a page."""
    pointer: cython.pointer(uint8_t)
    mode: uint32_t = operand_mode(env, imm)
    low: uint64_t
    high: uint64_t
    if a & 15:
        raise_exception(env, EXC_GP, 0)
        return 0
    pointer = rmw_pointer(env, a, 16, mode, env.rip)
    if env.fault:
        return 0
    if pointer != cython.NULL:
        low = env.regs[RAX]
        high = env.regs[RDX]
        if compare_exchange128(pointer, cython.address(low), cython.address(high), env.regs[RBX], env.regs[RCX]):
            return 1
        env.regs[RAX] = low
        env.regs[RDX] = high
        return 0
    lock_split(env)
    low = load_slow(env, a, 8, mode, env.rip)
    high = load_slow(env, a + 8, 8, mode, env.rip)
    b = low == env.regs[RAX] and high == env.regs[RDX]
    if b and not env.fault:
        store_slow(env, a, env.regs[RBX], 8, mode, env.rip)
        store_slow(env, a + 8, env.regs[RCX], 8, mode, env.rip)
    unlock_split(env)
    if not b and not env.fault:
        env.regs[RAX] = low
        env.regs[RDX] = high
    return b


# ---------------------------------------------------------------------- small control helpers
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_unavailable(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    """#UD or #NM. Source: SDM volume 3, 2.5 (CR0.EM, CR0.TS) and 13.1."""
    if imm and (env.cr[0] & 4 or (imm == 1 and not env.cr[4] & 0x200)):
        raise_exception(env, 6, 0)
    else:
        raise_exception(env, 7, 0)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_set_rip(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    env.rip = imm
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_set_counter(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    write_reg(env, RCX, a, 2 if imm == 0xFFFF else (4 if imm == MASK32 else 8))
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def stack_address(env: EnvP, pointer: uint64_t) -> uint64_t:
    """Linear address of a stack pointer value at the stack's width."""
    if env.block_flags & F_CODE64:
        return pointer
    pointer &= MASK32 if env.block_flags & F_STACK32 else 0xFFFF
    return (pointer + env.regs[V_SEG + 2]) & MASK32


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def stack_allowed(env: EnvP, pointer: uint64_t, size: uint64_t, write: cython.int) -> cython.int:
    """Limit and type of the stack segment, where limits are in force; 0 after raising #SS(0)."""
    if env.block_flags & F_CODE64 or not env.block_flags & F_LIMITS:
        return 1
    return check_access(env, 2, pointer & (MASK32 if env.block_flags & F_STACK32 else 0xFFFF), size, write)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def stack_read(env: EnvP, pointer: uint64_t, size: uint64_t) -> uint64_t:
    """Read at a stack pointer value. Check env.fault."""
    if not stack_allowed(env, pointer, size, 0):
        return 0
    return mode_read(env, stack_address(env, pointer), size, data_mode(env) | 4)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def stack_write(env: EnvP, pointer: uint64_t, value: uint64_t, size: uint64_t) -> cython.void:
    if stack_allowed(env, pointer, size, 1):
        mode_write(env, stack_address(env, pointer), value, size, data_mode(env) | 4)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def set_stack_pointer(env: EnvP, value: uint64_t) -> cython.void:
    write_reg(env, RSP, value, 8 if env.block_flags & F_CODE64 else (4 if env.block_flags & F_STACK32 else 2))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_leave(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    frame: uint64_t = env.regs[RBP]
    value: uint64_t = stack_read(env, frame, imm)
    if env.fault:
        return 0
    set_stack_pointer(env, frame + imm)
    write_reg(env, RBP, value, imm)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_enter(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    """ENTER: push the frame pointer, then up to 31 outer ones, then make room for `a` bytes."""
    size: uint64_t = imm
    level: cython.int = b & 31
    pointer: uint64_t = env.regs[RSP] - size
    frame: uint64_t = pointer
    outer: uint64_t = env.regs[RBP]
    value: uint64_t
    index: cython.int
    if not env.block_flags & (F_CODE64 | F_STACK32):  # only SP moves: the frame pointer keeps the upper half of ESP
        frame = (env.regs[RSP] & ~cython.cast(uint64_t, 0xFFFF)) | (pointer & 0xFFFF)
    stack_write(env, pointer, env.regs[RBP], size)
    if env.fault:
        return 0
    if level:
        for index in range(1, level):
            outer -= size
            value = stack_read(env, outer, size)
            if env.fault:
                return 0
            pointer -= size
            stack_write(env, pointer, value, size)
            if env.fault:
                return 0
        pointer -= size
        stack_write(env, pointer, frame, size)
        if env.fault:
            return 0
    pointer -= a
    # The final stack pointer must be writable: a page fault comes before anything changes.
    if not stack_allowed(env, pointer, 1, 1):
        return 0
    probe(env, stack_address(env, pointer), 1, data_mode(env) | 4, 1)
    if env.fault:
        return 0
    write_reg(env, RBP, frame, size)
    set_stack_pointer(env, pointer)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_pusha(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    index: cython.int
    pointer: uint64_t = env.regs[RSP]
    for index in range(8):
        pointer -= imm
        stack_write(env, pointer, env.regs[index], imm)
        if env.fault:
            return 0
    set_stack_pointer(env, pointer)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_popa(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    values: uint64_t[8]
    index: cython.int
    pointer: uint64_t = env.regs[RSP]
    for index in range(8):
        values[index] = stack_read(env, pointer + index * imm, imm)
        if env.fault:
            return 0
    for index in range(8):
        if index != 3:
            write_reg(env, 7 - index, values[index], imm)
    set_stack_pointer(env, pointer + 8 * imm)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_xlat(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    value: uint64_t = string_read(
        env, env.regs[RBX] + (env.regs[RAX] & 0xFF), (imm & ~cython.cast(uint64_t, 0xFF)) | 1, (imm >> 32) & 7
    )
    if not env.fault:
        write_reg(env, RAX, value, 1)
    return 0


# ---------------------------------------------------------------------- string instructions
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def string_address(env: EnvP, offset: uint64_t, imm: uint64_t, segment: cython.int) -> uint64_t:
    """Linear address of a string operand: address size, then segment base."""
    size: cython.int = (imm >> 16) & 0xFF
    if size == 2:
        offset &= 0xFFFF
    elif size == 4:
        offset &= MASK32
    if env.block_flags & F_CODE64:
        return offset + env.regs[V_SEG + segment] if segment >= 4 else offset
    return (offset + env.regs[V_SEG + segment]) & MASK32


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def string_allowed(env: EnvP, offset: uint64_t, imm: uint64_t, segment: cython.int, write: cython.int) -> cython.int:
    """Limit and type of a string operand's segment outside 64-bit mode; 0 after raising."""
    if env.block_flags & F_CODE64 or not (env.block_flags & F_LIMITS or segment >= 4):
        return 1
    return check_access(env, segment, offset & string_mask(imm), imm & 0xFF, write)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def string_mask(imm: uint64_t) -> uint64_t:
    """The bits of an offset at the address size."""
    return 0xFFFF if (imm >> 16) & 0xFF == 2 else MASK32


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def string_room(env: EnvP, offset: uint64_t, imm: uint64_t, segment: cython.int, count: uint64_t) -> uint64_t:
    """Elements, at most `count`, that can be done without a limit check and without wrap-around."""
    room: uint64_t
    mask: uint64_t
    if env.one_insn:
        return 0  # element by element: traps and breakpoints come between
    if env.block_flags & F_CODE64:
        if (imm >> 16) & 0xFF != 4:
            return count
        mask = MASK32
        offset &= mask
        if cython.cast(int64_t, env.regs[V_DF]) < 0:
            room = offset // (imm & 0xFF) + 1
        else:
            room = (mask - offset + 1) // (imm & 0xFF)
    else:
        mask = string_mask(imm)
        offset &= mask
        room = elements_within(
            env, segment, offset, imm & 0xFF, cython.cast(int64_t, env.regs[V_DF]) < 0, mask
        )
    return room if room < count else count


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def string_read(env: EnvP, offset: uint64_t, imm: uint64_t, segment: cython.int) -> uint64_t:
    """Read one element. Check env.fault."""
    if not string_allowed(env, offset, imm, segment, 0):
        return 0
    return mode_read(env, string_address(env, offset, imm, segment), imm & 0xFF, data_mode(env))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def string_write(env: EnvP, value: uint64_t, imm: uint64_t) -> cython.void:
    """Write one element at ES:RDI."""
    if string_allowed(env, env.regs[RDI], imm, 0, 1):
        mode_write(env, string_address(env, env.regs[RDI], imm, 0), value, imm & 0xFF, data_mode(env))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def advance(env: EnvP, reg: cython.int, imm: uint64_t, count: uint64_t) -> cython.void:
    """Move RSI or RDI by `count` elements in the direction of DF."""
    write_reg(env, reg, env.regs[reg] + count * (imm & 0xFF) * env.regs[V_DF], (imm >> 16) & 0xFF)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def counter(env: EnvP, imm: uint64_t) -> uint64_t:
    """Elements to do. With 32-bit addresses Intel's processors have cleared the upper half of RCX when the first
    element faults; AMD's leave it."""
    size: cython.int = (imm >> 16) & 0xFF
    count: uint64_t = low_bits(env.regs[RCX], size * 8)
    if size == 4 and count:
        env.regs[RCX] = count
    return count


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def direct(env: EnvP, gva: uint64_t, tag: cython.int) -> cython.pointer(uint8_t):
    """Host address of a byte that the TLB lets be reached directly (tag 0: read, 1: write), else NULL."""
    entry: cython.pointer(uint64_t) = cython.address(
        env.tlb[data_mode(env) * TLB_WORDS + ((gva >> 12) & TLB_MASK) * 4]
    )
    if entry[tag] == (gva & FRAME):
        return cython.cast(cython.pointer(uint8_t), cython.cast(cython.p_void, gva + entry[2]))
    return cython.NULL


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def run_length(env: EnvP, gva: uint64_t, size: uint64_t, count: uint64_t) -> uint64_t:
    """Elements that lie in the page of `gva` in the direction of DF, at most `count`."""
    room: uint64_t
    if cython.cast(int64_t, env.regs[V_DF]) > 0:
        room = (0x1000 - (gva & 0xFFF)) // size
    else:
        if (gva & 0xFFF) + size > 0x1000:
            return 0
        room = (gva & 0xFFF) // size + 1
    return room if room < count else count


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def stos_once(env: EnvP, imm: uint64_t) -> cython.void:
    string_write(env, env.regs[RAX], imm)
    if not env.fault:
        advance(env, RDI, imm, 1)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def movs_once(env: EnvP, imm: uint64_t) -> cython.void:
    value: uint64_t = string_read(env, env.regs[RSI], imm, (imm >> 32) & 7)
    if env.fault:
        return
    string_write(env, value, imm)
    if not env.fault:
        advance(env, RSI, imm, 1)
        advance(env, RDI, imm, 1)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def lods_once(env: EnvP, imm: uint64_t) -> cython.void:
    value: uint64_t = string_read(env, env.regs[RSI], imm, (imm >> 32) & 7)
    if not env.fault:
        write_reg(env, RAX, value, imm & 0xFF)
        advance(env, RSI, imm, 1)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def set_compare(env: EnvP, left: uint64_t, right: uint64_t, size: cython.int) -> cython.void:
    """The flags of left - right."""
    env.regs[V_OP] = 12 + (0 if size == 1 else (1 if size == 2 else (2 if size == 4 else 3)))
    env.regs[V_DST] = left
    env.regs[V_SRC] = right


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def scas_once(env: EnvP, imm: uint64_t) -> cython.int:
    """Returns whether the elements were equal."""
    size: cython.int = imm & 0xFF
    value: uint64_t = string_read(env, env.regs[RDI], imm, 0)
    if env.fault:
        return 0
    set_compare(env, env.regs[RAX], value, size)
    advance(env, RDI, imm, 1)
    return low_bits(env.regs[RAX], size * 8) == value


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def cmps_once(env: EnvP, imm: uint64_t) -> cython.int:
    size: cython.int = imm & 0xFF
    # If both operands fault, Intel's processors report that of RDI, AMD's that of RSI.
    right: uint64_t = string_read(env, env.regs[RDI], imm, 0)
    left: uint64_t
    if env.fault:
        return 0
    left = string_read(env, env.regs[RSI], imm, (imm >> 32) & 7)
    if env.fault:
        return 0
    set_compare(env, left, right, size)
    advance(env, RSI, imm, 1)
    advance(env, RDI, imm, 1)
    return left == right


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_stos(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    stos_once(env, imm)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_movs(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    movs_once(env, imm)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_lods(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    lods_once(env, imm)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_scas(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    scas_once(env, imm)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_cmps(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    cmps_once(env, imm)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def count_down(env: EnvP, imm: uint64_t, count: uint64_t) -> cython.void:
    write_reg(env, RCX, env.regs[RCX] - count, (imm >> 16) & 0xFF)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def finish(env: EnvP, imm: uint64_t) -> cython.void:
    """RIP to the next instruction; a string instruction is as long as imm says."""
    env.rip += (imm >> 8) & 0xFF
    if not env.block_flags & F_CODE64:
        env.rip &= MASK32


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def stop_between(env: EnvP) -> cython.int:
    """Whether a repeated instruction pauses after this element: an interrupt, or a trap (SDM volume 3, 18.3)."""
    return env.interrupt or (env.one_insn and (env.rflags & 0x100 or env.exc_dr6))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def stos_run(env: EnvP, imm: uint64_t, count: uint64_t) -> uint64_t:
    """Fill elements within one page directly; returns how many were done (0: take the slow way)."""
    size: uint64_t = imm & 0xFF
    gva: uint64_t = string_address(env, env.regs[RDI], imm, 0)
    done: uint64_t = run_length(env, gva, size, string_room(env, env.regs[RDI], imm, 0, count))
    target: cython.pointer(uint8_t) = direct(env, gva, 1)
    value: uint64_t = env.regs[RAX]
    index: uint64_t
    if target == cython.NULL or done == 0:
        return 0
    if cython.cast(int64_t, env.regs[V_DF]) < 0:
        target -= (done - 1) * size
    if size == 1:
        memset(target, value & 0xFF, done)
    elif size == 8 and value == 0:
        memset(target, 0, done * 8)
    else:
        for index in range(done):
            memcpy(target + index * size, cython.address(value), size)
    advance(env, RDI, imm, done)
    return done


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def movs_run(env: EnvP, imm: uint64_t, count: uint64_t) -> uint64_t:
    """Copy elements within one page of each side directly; returns how many were done."""
    size: uint64_t = imm & 0xFF
    source_gva: uint64_t = string_address(env, env.regs[RSI], imm, (imm >> 32) & 7)
    target_gva: uint64_t = string_address(env, env.regs[RDI], imm, 0)
    done: uint64_t = run_length(env, source_gva, size, run_length(env, target_gva, size, count))
    done = string_room(env, env.regs[RSI], imm, (imm >> 32) & 7, done)
    done = string_room(env, env.regs[RDI], imm, 0, done)
    source: cython.pointer(uint8_t) = direct(env, source_gva, 0)
    target: cython.pointer(uint8_t) = direct(env, target_gva, 1)
    distance: int64_t
    index: uint64_t
    value: uint64_t = 0
    if source == cython.NULL or target == cython.NULL or done == 0:
        return 0
    distance = target - source
    if cython.cast(int64_t, env.regs[V_DF]) > 0:
        if 0 < distance < cython.cast(int64_t, done * size):
            # Overlap with the source behind: the copy repeats a pattern, element by element.
            for index in range(done):
                memcpy(cython.address(value), source + index * size, size)
                memcpy(target + index * size, cython.address(value), size)
        else:
            memmove(target, source, done * size)
    else:
        for index in range(done):
            memcpy(cython.address(value), source - index * size, size)
            memcpy(target - index * size, cython.address(value), size)
    advance(env, RSI, imm, done)
    advance(env, RDI, imm, done)
    return done


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_rep_stos(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    count: uint64_t = counter(env, imm)
    done: uint64_t
    while count:
        done = stos_run(env, imm, count)
        if done == 0:
            stos_once(env, imm)
            if env.fault:
                return 0
            done = 1
        count_down(env, imm, done)
        count -= done
        if count and stop_between(env):
            return 0
    finish(env, imm)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_rep_movs(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    count: uint64_t = counter(env, imm)
    done: uint64_t
    while count:
        done = movs_run(env, imm, count)
        if done == 0:
            movs_once(env, imm)
            if env.fault:
                return 0
            done = 1
        count_down(env, imm, done)
        count -= done
        if count and stop_between(env):
            return 0
    finish(env, imm)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_rep_lods(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    count: uint64_t = counter(env, imm)
    while count:
        lods_once(env, imm)
        if env.fault:
            return 0
        count_down(env, imm, 1)
        count -= 1
        if count and stop_between(env):
            return 0
    finish(env, imm)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def repeat_compare(env: EnvP, imm: uint64_t, compare: cython.int) -> cython.void:
    """REPE and REPNE with CMPS (compare = 1) or SCAS."""
    count: uint64_t = counter(env, imm)
    wanted: cython.int = ((imm >> 24) & 0xFF) == 0xF3
    equal: cython.int
    op: uint64_t = env.regs[V_OP]
    dst: uint64_t = env.regs[V_DST]
    src: uint64_t = env.regs[V_SRC]
    while count:
        equal = cmps_once(env, imm) if compare else scas_once(env, imm)
        if env.fault:
            # Processors report the flags from before the instruction.
            env.regs[V_OP] = op
            env.regs[V_DST] = dst
            env.regs[V_SRC] = src
            return
        count_down(env, imm, 1)
        count -= 1
        if equal != wanted:
            break
        if count and stop_between(env):
            return
    finish(env, imm)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_rep_cmps(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    repeat_compare(env, imm, 1)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_rep_scas(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    repeat_compare(env, imm, 0)
    return 0


# ---------------------------------------------------------------------- decimal
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def decimal_adjust(env: EnvP, subtract: cython.int) -> cython.void:
    """DAA and DAS."""
    flags: uint64_t = compute_eflags(env)
    al: cython.int = env.regs[RAX] & 0xFF
    old: cython.int = al
    result: cython.int = al
    carry: cython.int = 0
    out: uint64_t = 0
    if (al & 15) > 9 or flags & AF:
        result = result - 6 if subtract else result + 6
        carry = (flags & CF) != 0 or (al < 6 if subtract else al > 0xF9)
        out |= AF
    if old > 0x99 or flags & CF:
        result = result - 0x60 if subtract else result + 0x60
        carry = 1
    elif not subtract:
        carry = 0
    write_reg(env, RAX, result & 0xFF, 1)
    set_eflags(env, out | carry | result_flags(result & 0xFF, 8))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_daa(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    decimal_adjust(env, 0)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_das(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    decimal_adjust(env, 1)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def ascii_adjust(env: EnvP, subtract: cython.int) -> cython.void:
    """AAA and AAS."""
    flags: uint64_t = compute_eflags(env)
    ax: uint64_t = env.regs[RAX] & 0xFFFF
    out: uint64_t = 0
    if (ax & 15) > 9 or flags & AF:
        ax = ax - 0x106 if subtract else ax + 0x106
        out = AF | CF
    ax &= 0xFF0F
    write_reg(env, RAX, ax, 2)
    set_eflags(env, out | result_flags(ax & 0xFF, 8))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_aaa(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    ascii_adjust(env, 0)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_aas(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    ascii_adjust(env, 1)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_aam(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    base: cython.uint = imm & 0xFF
    al: cython.uint = env.regs[RAX] & 0xFF
    if base == 0:
        raise_exception(env, EXC_DE, 0)
        return 0
    write_reg(env, RAX, ((al // base) << 8) | (al % base), 2)
    set_eflags(env, result_flags(al % base, 8))
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_aad(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    ax: uint64_t = env.regs[RAX] & 0xFFFF
    al: uint64_t = ((ax & 0xFF) + (ax >> 8) * (imm & 0xFF)) & 0xFF
    write_reg(env, RAX, al, 2)
    set_eflags(env, result_flags(al, 8))
    return 0


@cython.cfunc
def address_of(function: helper_fn) -> object:
    return cython.cast(uint64_t, cython.cast(cython.p_void, function))


def addresses() -> dict[str, int]:
    """Helper name -> host address."""
    return {
        "eflags": address_of(h_eflags),
        "rotate_flags": address_of(h_rotate_flags),
        "rcl": address_of(h_rcl),
        "rcl_flags": address_of(h_rcl_flags),
        "rcr": address_of(h_rcr),
        "rcr_flags": address_of(h_rcr_flags),
        "double_shift": address_of(h_double_shift),
        "double_shift_flags": address_of(h_double_shift_flags),
        "div8": address_of(h_div8),
        "div16": address_of(h_div16),
        "div32": address_of(h_div32),
        "div64": address_of(h_div64),
        "idiv8": address_of(h_idiv8),
        "idiv16": address_of(h_idiv16),
        "idiv32": address_of(h_idiv32),
        "idiv64": address_of(h_idiv64),
        "lock_neg": address_of(h_lock_neg),
        "cmpxchg8b": address_of(h_cmpxchg8b),
        "cmpxchg16b": address_of(h_cmpxchg16b),
        "unavailable": address_of(h_unavailable),
        "set_rip": address_of(h_set_rip),
        "set_counter": address_of(h_set_counter),
        "leave": address_of(h_leave),
        "enter": address_of(h_enter),
        "pusha": address_of(h_pusha),
        "popa": address_of(h_popa),
        "xlat": address_of(h_xlat),
        "stos": address_of(h_stos),
        "movs": address_of(h_movs),
        "lods": address_of(h_lods),
        "scas": address_of(h_scas),
        "cmps": address_of(h_cmps),
        "rep_stos": address_of(h_rep_stos),
        "rep_movs": address_of(h_rep_movs),
        "rep_lods": address_of(h_rep_lods),
        "rep_cmps": address_of(h_rep_cmps),
        "rep_scas": address_of(h_rep_scas),
        "daa": address_of(h_daa),
        "das": address_of(h_das),
        "aaa": address_of(h_aaa),
        "aas": address_of(h_aas),
        "aam": address_of(h_aam),
        "aad": address_of(h_aad),
    }
