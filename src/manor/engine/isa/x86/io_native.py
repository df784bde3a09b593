# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""IN, OUT, INS, OUTS with the I/O permission bitmap. Source: SDM volume 1, 19.5; volume 2 by mnemonic."""

from __future__ import annotations

import cython
from cython.cimports.libc.stdint import uint8_t, uint32_t, uint64_t
from cython.cimports.manor.engine.callback_native import callback_pio_read, callback_pio_write
from cython.cimports.manor.engine.env import (
    DIRECTION,
    FLAG_CODE64,
    FLAG_LIMITS,
    FLAG_MMU_SHIFT,
    RCX,
    RDI,
    RDX,
    RSI,
    SEG_BASE,
    Env,
)
from cython.cimports.manor.engine.host import U32_MAX, U64_MAX, guest_store
from cython.cimports.manor.engine.isa.x86.bits import CR0_PE, RF_VM, SEG_ES, SEG_FS, SEG_TR, VEC_GP
from cython.cimports.manor.engine.isa.x86.debug_native import io_breakpoint
from cython.cimports.manor.engine.isa.x86.segment_native import help_segment_check
from cython.cimports.manor.engine.softmmu_native import mem_read, mem_write, raise_fault, rmw_pointer, sys_read


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _allowed(env: cython.pointer[Env], port: uint32_t, size: uint32_t) -> cython.bint:
    """Privilege check and I/O breakpoints; False after setting env.fault."""
    offset: uint64_t
    bits: uint64_t
    if env.cr[0] & CR0_PE and (env.cpl > ((env.rflags >> 12) & 3) or env.rflags & RF_VM):
        if not env.seg_attributes[SEG_TR] & 8 or env.seg_limit[SEG_TR] < 103:
            raise_fault(env, VEC_GP, 0)
            return False
        offset = sys_read(env, env.seg_base[SEG_TR] + 102, 2)
        if env.fault:
            return False
        offset += port >> 3
        # two bytes are read whatever the port: SDM volume 1, 19.5.2
        if offset + 1 > env.seg_limit[SEG_TR]:
            raise_fault(env, VEC_GP, 0)
            return False
        bits = sys_read(env, env.seg_base[SEG_TR] + offset, 2)
        if env.fault:
            return False
        if (bits >> (port & 7)) & ((1 << size) - 1):
            raise_fault(env, VEC_GP, 0)
            return False
    return not io_breakpoint(env, port, size)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_in_port(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    port: uint32_t = cython.cast(uint32_t, a & 0xFFFF)
    size: uint32_t = cython.cast(uint32_t, imm & 0xFF)
    if not _allowed(env, port, size):
        return 0
    return callback_pio_read(env, port, size)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_out_port(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    port: uint32_t = cython.cast(uint32_t, a & 0xFFFF)
    size: uint32_t = cython.cast(uint32_t, imm & 0xFF)
    if _allowed(env, port, size):
        callback_pio_write(env, port, size, b & (U32_MAX >> (32 - 8 * size)))
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _address_mask(size: uint32_t) -> uint64_t:
    if size == 2:
        return 0xFFFF
    return U32_MAX if size == 4 else U64_MAX


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _add(env: cython.pointer[Env], number: uint32_t, delta: uint64_t, size: uint32_t) -> cython.void:
    """Add to a register at an address size: 16 bits keep the rest, 32 clear the upper half."""
    value: uint64_t = env.regs[number] + delta
    if size == 2:
        env.regs[number] = (env.regs[number] & ~0xFFFF) | (value & 0xFFFF)
    elif size == 4:
        env.regs[number] = value & U32_MAX
    else:
        env.regs[number] = value


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _operand(
    env: cython.pointer[Env], number: uint32_t, seg: uint32_t, size: uint32_t, address_size: uint32_t, write: uint64_t
) -> uint64_t:
    """Linear address of the memory operand, after the segment checks that apply."""
    offset: uint64_t = env.regs[number] & _address_mask(address_size)
    if env.block_flags & FLAG_CODE64:
        return offset + (env.regs[SEG_BASE + seg] if seg >= SEG_FS else 0)
    if env.block_flags & FLAG_LIMITS or seg >= SEG_FS:
        help_segment_check(env, offset, size | write, seg)
    return (offset + env.regs[SEG_BASE + seg]) & U32_MAX


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _string(env: cython.pointer[Env], imm: uint64_t, output: cython.bint) -> cython.void:
    """INS and OUTS, with or without REP; leaves rip here when an interrupt waits between iterations."""
    size: uint32_t = cython.cast(uint32_t, imm & 0xFF)
    address_size: uint32_t = cython.cast(uint32_t, (imm >> 16) & 0xFF)
    repeat: cython.bint = ((imm >> 24) & 0xFF) != 0
    seg: uint32_t = cython.cast(uint32_t, (imm >> 32) & 7) if output else SEG_ES
    port: uint32_t = cython.cast(uint32_t, env.regs[RDX] & 0xFFFF)
    mask: uint64_t = _address_mask(address_size)
    number: uint32_t = RSI if output else RDI
    gva: uint64_t
    value: uint64_t
    minus_one: uint64_t = U64_MAX
    host: cython.pointer[uint8_t]
    if not _allowed(env, port, size):
        return
    while not repeat or env.regs[RCX] & mask:
        gva = _operand(env, number, seg, size, address_size, 0 if output else 0x10000)
        if env.fault:
            return
        if output:
            value = mem_read(env, gva, size)
            if env.fault:
                return
            callback_pio_write(env, port, size, value)
        else:
            # the store is checked first: reading the port twice would lose a value
            host = rmw_pointer(env, gva, size, (env.block_flags >> FLAG_MMU_SHIFT) & 3, env.rip)
            if env.fault:
                return
            value = callback_pio_read(env, port, size)
            if host != cython.NULL:
                guest_store(host, value, size)
            else:
                mem_write(env, gva, value, size)
        if env.fault:
            return
        _add(env, number, env.regs[DIRECTION] * size, address_size)
        if not repeat:
            break
        _add(env, RCX, minus_one, address_size)
        if (env.interrupt or (env.one_insn and (env.rflags & 0x100 or env.exc_dr6))) and env.regs[RCX] & mask:
            return
    env.rip += (imm >> 8) & 0xFF
    if not env.block_flags & FLAG_CODE64:
        env.rip &= U32_MAX


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_ins(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    _string(env, imm, False)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_outs(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    _string(env, imm, True)
    return 0


def addresses() -> dict[str, int]:
    """Address of each helper, by name."""
    return {
        "in_port": cython.cast(uint64_t, cython.cast(cython.p_void, help_in_port)),
        "out_port": cython.cast(uint64_t, cython.cast(cython.p_void, help_out_port)),
        "ins": cython.cast(uint64_t, cython.cast(cython.p_void, help_ins)),
        "outs": cython.cast(uint64_t, cython.cast(cython.p_void, help_outs)),
    }
