# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""RDMSR, WRMSR and the time-stamp counter.

The table of `isa.x86.msr` is copied into a C array when the module is loaded; registers with behaviour are
handled here, those of the local APIC by the interrupt controller. Source: SDM volume 4, chapter 2; volume 3,
2.2.1 (EFER), 18.17 (TSC).
"""

from __future__ import annotations

import cython
from cython.cimports.libc.stdint import uint8_t, uint32_t, uint64_t
from cython.cimports.manor.engine.callback_native import callback_read_msr, callback_trace, callback_write_msr
from cython.cimports.manor.engine.env import RAX, RCX, RDX, SEG_BASE, TRACE_INVALID, Env
from cython.cimports.manor.engine.host import U32_MAX, monotonic_ns
from cython.cimports.manor.engine.isa.x86.bits import (
    CR0_PG,
    EFER_LMA,
    EFER_LME,
    EFER_NXE,
    EFER_SCE,
    SEG_FS,
    SEG_GS,
    VEC_GP,
    canonical,
)
from cython.cimports.manor.engine.softmmu_native import raise_fault, tlb_flush

from manor.engine.isa.x86 import msr as _msr

_FIXED = cython.declare(uint32_t, _msr.MSR_FIXED)
_IGNORED = cython.declare(uint32_t, _msr.MSR_IGNORED)
_CANONICAL = cython.declare(uint32_t, _msr.MSR_CANONICAL)
_PAT = cython.declare(uint32_t, _msr.MSR_PAT)
_EFER = cython.declare(uint32_t, 0xC0000080)
_FS_BASE = cython.declare(uint32_t, 0xC0000100)
_GS_BASE = cython.declare(uint32_t, 0xC0000101)
_TSC = cython.declare(uint32_t, 0x10)


def _install() -> None:
    global msr_count
    for number, entry in enumerate(_msr.TABLE):
        msr_table[number].index = entry.index
        msr_table[number].kind = entry.kind
        msr_table[number].offset = entry.offset
        msr_table[number].value = entry.value
        msr_table[number].writable = entry.writable
    msr_count = len(_msr.TABLE)


if len(_msr.TABLE) > 96:
    raise ValueError("the MSR table is longer than its native array")
_install()


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def read_tsc(env: cython.pointer[Env]) -> uint64_t:
    """The time-stamp counter: one tick a nanosecond of the host's monotonic clock."""
    return monotonic_ns() + env.tsc_offset


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _apic_register(index: uint32_t) -> cython.bint:
    """APIC_BASE, TSC_DEADLINE and the x2APIC range belong to the interrupt controller."""
    return index == 0x1B or index == 0x6E0 or (index >= 0x800 and index < 0x900)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _find(index: uint32_t) -> cython.pointer[MsrEntry]:
    i: uint32_t
    for i in range(msr_count):
        if msr_table[i].index == index:
            return cython.address(msr_table[i])
    return cython.NULL


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _field(env: cython.pointer[Env], entry: cython.pointer[MsrEntry]) -> cython.pointer[uint64_t]:
    return cython.cast(cython.pointer[uint64_t], cython.cast(cython.pointer[uint8_t], env) + entry.offset)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def read_msr(env: cython.pointer[Env], index: uint32_t, value: cython.pointer[uint64_t]) -> cython.int:
    """Read an MSR; 0: there is none of that number."""
    entry: cython.pointer[MsrEntry]
    if index == _EFER:
        value[0] = env.efer
        return 1
    if index == _FS_BASE:
        value[0] = env.seg_base[SEG_FS]
        return 1
    if index == _GS_BASE:
        value[0] = env.seg_base[SEG_GS]
        return 1
    if index == _TSC:
        value[0] = read_tsc(env)
        return 1
    if _apic_register(index):
        return callback_read_msr(env, index, value)
    entry = _find(index)
    if entry == cython.NULL:
        return 0
    if entry.kind == _FIXED or entry.kind == _IGNORED:
        value[0] = entry.value
    else:
        value[0] = _field(env, entry)[0]
    return 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _write_efer(env: cython.pointer[Env], value: uint64_t) -> cython.int:
    if value & ~(EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE):
        return 0
    if (value ^ env.efer) & EFER_LME and env.cr[0] & CR0_PG:
        return 0
    value = (value & ~EFER_LMA) | (env.efer & EFER_LMA)
    if (value ^ env.efer) & EFER_NXE:
        env.efer = value
        tlb_flush(env, 0)
    env.efer = value
    return 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def write_msr(env: cython.pointer[Env], index: uint32_t, value: uint64_t) -> cython.int:
    """Write an MSR; 0: no such register, or a value it does not take."""
    entry: cython.pointer[MsrEntry]
    field: cython.pointer[uint64_t]
    i: cython.int
    kind: uint64_t
    if index == _EFER:
        return _write_efer(env, value)
    if index == _FS_BASE or index == _GS_BASE:
        if not canonical(value):
            return 0
        i = SEG_FS if index == _FS_BASE else SEG_GS
        env.seg_base[i] = value
        env.regs[SEG_BASE + i] = value
        return 1
    if index == _TSC:
        env.tsc_offset = value - monotonic_ns()
        return 1
    if _apic_register(index):
        return callback_write_msr(env, index, value)
    entry = _find(index)
    if entry == cython.NULL or entry.kind == _FIXED:
        return 0
    if entry.kind == _IGNORED:
        return 1
    field = _field(env, entry)
    if entry.kind == _CANONICAL:
        if not canonical(value):
            return 0
    elif entry.kind == _PAT:
        for i in range(8):
            kind = (value >> (8 * i)) & 0xFF
            if kind > 7 or kind == 2 or kind == 3:
                return 0
    elif (value ^ field[0]) & ~entry.writable:
        return 0
    field[0] = value
    return 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _refused(env: cython.pointer[Env], value: uint64_t, write: uint64_t) -> cython.void:
    if env.trace & TRACE_INVALID:
        callback_trace(env, "invalid_msr", env.regs[RCX] & U32_MAX, value, write, env.rip)
    raise_fault(env, VEC_GP, 0)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_rdmsr(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    value: uint64_t = 0
    if env.cpl != 0:
        raise_fault(env, VEC_GP, 0)
    elif not read_msr(env, cython.cast(uint32_t, env.regs[RCX] & U32_MAX), cython.address(value)):
        _refused(env, 0, 0)
    else:
        env.regs[RAX] = value & U32_MAX
        env.regs[RDX] = value >> 32
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def help_wrmsr(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    value: uint64_t = (env.regs[RDX] << 32) | (env.regs[RAX] & U32_MAX)
    if env.cpl != 0:
        raise_fault(env, VEC_GP, 0)
    elif not write_msr(env, cython.cast(uint32_t, env.regs[RCX] & U32_MAX), value):
        _refused(env, value, 1)
    return 0


def addresses() -> dict[str, int]:
    """Address of each helper, by name."""
    return {
        "rdmsr": cython.cast(uint64_t, cython.cast(cython.p_void, help_rdmsr)),
        "wrmsr": cython.cast(uint64_t, cython.cast(cython.p_void, help_wrmsr)),
    }
