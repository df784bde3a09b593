# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Integer helpers: flags, rotates, division, locked instructions.

WHY NATIVE: called from generated code. SAFETY: state is reached through env only; guest memory
through the softmmu's functions, whose faults are checked after each call and before anything
is changed. Semantics: SDM volume 2, by mnemonic. Declared in `integer_helpers`.
"""

import cython
from cython.cimports.libc.stdint import int64_t, uint8_t, uint32_t, uint64_t
from cython.cimports.manor.engine.env import Env
from cython.cimports.manor.engine.isa.x86.exception_native import raise_exception
from cython.cimports.manor.engine.isa.x86.flags_native import compute_eflags, low_bits, result_flags
from cython.cimports.manor.engine.isa.x86.integer_native import (
    compare_exchange8,
    compare_exchange16,
    compare_exchange32,
    compare_exchange64,
    compare_exchange128,
    int128_t,
    uint128_t,
)
from cython.cimports.manor.engine.isa.x86.register import sign, write_reg
from cython.cimports.manor.engine.softmmu_native import (
    load_slow,
    lock_split,
    mode_read,
    operand_mode,
    probe,
    rmw_pointer,
    store_slow,
    unlock_split,
)
from cython.cimports.manor.engine.vm import helper_fn

from manor.engine import env as _env

EnvP = cython.typedef(cython.pointer(Env))
cython.declare(V_COUNT=cython.int, EXC_DE=cython.int, EXC_GP=cython.int)
V_COUNT = _env.EA2
EXC_DE = 0
EXC_GP = 13
MASK32 = cython.declare(uint64_t, 0xFFFFFFFF)
cython.declare(RAX=cython.int, RCX=cython.int, RDX=cython.int, RBX=cython.int)
RAX = 0
RCX = 1
RDX = 2
RBX = 3
cython.declare(CF=cython.int, OF=cython.int)
CF = 1
OF = 2048


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


# ---------------------------------------------------------------------- locked instructions
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
    }
