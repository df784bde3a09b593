# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Debug registers, breakpoints and single-stepping. Source: SDM volume 3, chapter 17.2 and 17.3."""

from __future__ import annotations

import cython
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.manor.engine.env import FAULT_ONE_INSN, Env
from cython.cimports.manor.engine.host import U32_MAX
from cython.cimports.manor.engine.isa.x86.bits import (
    CR4_DE,
    DR6_BD,
    DR6_BS,
    NO_STEP,
    RF_RF,
    RF_TF,
    SEG_CS,
    VEC_GP,
    VEC_UD,
)
from cython.cimports.manor.engine.isa.x86.descriptor_native import code64
from cython.cimports.manor.engine.isa.x86.exception_native import raise_debug
from cython.cimports.manor.engine.softmmu_native import raise_fault, tlb_flush

_DR6_ONES = cython.declare(uint64_t, 0xFFFF0FF0)
_DR7_BITS = cython.declare(uint64_t, 0xFFFF23FF)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def needs_single_step(env: cython.pointer[Env]) -> cython.int:
    """Whether instructions must run alone: TF, or a breakpoint on instructions is enabled."""
    i: cython.int
    if env.rflags & RF_TF:
        return 1
    if env.dr[7] & 0xFF:
        for i in range(4):
            if (env.dr[7] >> (2 * i)) & 3 and (env.dr[7] >> (16 + 4 * i)) & 3 == 0:
                return 1
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def before_instruction(env: cython.pointer[Env]) -> cython.int:
    """1: a breakpoint on the instruction at CS:RIP was raised as a #DB fault. RF holds it off once."""
    i: cython.int
    hits: uint64_t = 0
    address: uint64_t = env.rip
    if not code64(env):
        address = (address + env.seg_base[SEG_CS]) & U32_MAX
    if env.rflags & RF_RF:
        env.rflags &= ~RF_RF
        return 0
    for i in range(4):
        if (env.dr[7] >> (2 * i)) & 3 and (env.dr[7] >> (16 + 4 * i)) & 15 == 0 and env.dr[i] == address:
            hits |= cython.cast(uint64_t, 1) << i
    if hits == 0:
        return 0
    raise_debug(env, hits)
    return 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def after_instruction(env: cython.pointer[Env], tf_before: cython.int) -> cython.void:
    """Raise the #DB trap of the instruction that just ran alone without a fault, if one is due.

    tf_before: whether TF was set when it began. Data breakpoints that it hit are in exc_dr6.
    """
    bits: uint64_t = env.exc_dr6
    if env.shadow == 2:
        return  # after MOV SS and POP SS: held off until the next instruction ends
    env.exc_dr6 = 0
    if tf_before and not bits & NO_STEP:
        bits |= DR6_BS
    bits &= 0xE00F
    if bits:
        raise_debug(env, bits)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def io_breakpoint(env: cython.pointer[Env], port: uint32_t, size: uint32_t) -> cython.int:
    """Breakpoints on I/O ports (CR4.DE). 1: run the instruction alone first; else a hit is noted."""
    i: cython.int
    hits: uint64_t = 0
    length: uint64_t
    start: uint64_t
    if not env.cr[4] & CR4_DE or not env.dr[7] & 0xFF:
        return 0
    for i in range(4):
        if (env.dr[7] >> (2 * i)) & 3 and (env.dr[7] >> (16 + 4 * i)) & 3 == 2:
            length = ((env.dr[7] >> (18 + 4 * i)) & 3) + 1
            start = env.dr[i] & ~(length - 1)
            if port < start + length and start < port + size:
                hits |= cython.cast(uint64_t, 1) << i
    if hits:
        if not env.one_insn:
            env.fault = FAULT_ONE_INSN
            return 1
        env.exc_dr6 |= hits
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _register(env: cython.pointer[Env], number: uint64_t) -> cython.int:
    """Which register MOV DR means, -1 after raising."""
    if number == 4 or number == 5:
        if env.cr[4] & CR4_DE:
            raise_fault(env, VEC_UD, 0)
            return -1
        number += 2
    if number > 7:
        raise_fault(env, VEC_UD, 0)
        return -1
    if env.cpl != 0:
        raise_fault(env, VEC_GP, 0)
        return -1
    if env.dr[7] & 0x2000:
        raise_debug(env, DR6_BD)
        return -1
    return cython.cast(cython.int, number)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_read_dr(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    number: cython.int = _register(env, imm & 0xFF)
    return env.dr[number] if number >= 0 else 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_write_dr(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    number: cython.int = _register(env, imm & 0xFF)
    old: uint64_t
    if number < 0:
        return 0
    if not code64(env):
        a &= U32_MAX
    if number >= 6 and a > U32_MAX:
        raise_fault(env, VEC_GP, 0)
        return 0
    if number == 6:
        env.dr[6] = (a & 0xE00F) | _DR6_ONES
        return 0
    old = env.dr[7]
    if number == 7:
        a = (a & _DR7_BITS) | 0x400
    env.dr[number] = a
    if (old | env.dr[7]) & 0xFF:
        tlb_flush(env, 0)  # TLB entries carry which pages are watched
        env.interrupt = 1  # and the run loop asks whether to go on instruction by instruction
    return 0


def addresses() -> dict[str, int]:
    """Address of each helper, by name."""
    return {
        "read_dr": cython.cast(uint64_t, cython.cast(cython.p_void, help_read_dr)),
        "write_dr": cython.cast(uint64_t, cython.cast(cython.p_void, help_write_dr)),
    }
