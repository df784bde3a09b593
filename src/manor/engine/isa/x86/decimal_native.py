# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Decimal adjustment: DAA, DAS, AAA, AAS, AAM, AAD.

WHY NATIVE: called from generated code. SAFETY: state is reached through env only; guest memory
through the softmmu's functions, whose faults are checked after each call and before anything
is changed. Semantics: SDM volume 2, by mnemonic. Declared in `integer_helpers`.
"""

import cython
from cython.cimports.libc.stdint import uint64_t
from cython.cimports.manor.engine.env import Env
from cython.cimports.manor.engine.isa.x86.exception_native import raise_exception
from cython.cimports.manor.engine.isa.x86.flags_native import compute_eflags, result_flags, set_eflags
from cython.cimports.manor.engine.isa.x86.register import write_reg
from cython.cimports.manor.engine.vm import helper_fn

EnvP = cython.typedef(cython.pointer(Env))
cython.declare(EXC_DE=cython.int)
EXC_DE = 0
cython.declare(RAX=cython.int)
RAX = 0
cython.declare(CF=cython.int, AF=cython.int)
CF = 1
AF = 16


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
        "daa": address_of(h_daa),
        "das": address_of(h_das),
        "aaa": address_of(h_aaa),
        "aas": address_of(h_aas),
        "aam": address_of(h_aam),
        "aad": address_of(h_aad),
    }
