# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Effective and linear addresses, and the checks of segments that belong to them.

WHY NATIVE: it is part of the translator's inner loop. SAFETY: writes only the caller's Translator. Threads: under
vm.lock. Source: SDM volume 1, 3.7.5; volume 3, 5.3.
"""

import cython
from cython.cimports.libc.stdint import int64_t, uint64_t
from cython.cimports.manor.engine.isa.x86.bits import canonical
from cython.cimports.manor.engine.isa.x86.translator import Translator
from cython.cimports.manor.engine.isa.x86.uop_native import emit, emit_helper

from manor.engine import env as _env
from manor.engine.isa.x86 import helper_catalog as _helpers
from manor.engine.isa.x86 import template as _template
from manor.engine.uop import table as _uops

cython.declare(
    U_MOVI=cython.int, U_ADDI=cython.int, U_ADD=cython.int, U_ADDSL1=cython.int, U_SHLI=cython.int,
    U_ZEXT32=cython.int, U_SUB64=cython.int, H_CHECK=cython.int, U_ZEXT16=cython.int, A_WRITES=cython.int,
    H_TARGET=cython.int, V_EA=cython.int, V_EA2=cython.int, V_ZERO=cython.int, V_SEG=cython.int, V_S0=cython.int,
    F_FLAT=cython.int, F_LIMITS=cython.int,
)  # fmt: skip
_N = _uops.NUMBER
U_MOVI = _N["movi"]
U_ADDI = _N["add64i"]
U_ADD = _N["add64"]
U_ADDSL1 = _N["addsl1"]
U_SHLI = _N["shl64i"]
U_ZEXT32 = _N["zext32"]
U_SUB64 = _N["sub64"]
H_CHECK = _helpers.HELPER_NUMBER["segment_check"]
U_ZEXT16 = _N["zext16"]
A_WRITES = _template.ACCESS_WRITES
H_TARGET = _helpers.HELPER_NUMBER["target_check"]
V_EA = _env.EA
V_EA2 = _env.EA2
V_ZERO = _env.ZERO
V_SEG = _env.SEG_BASE
V_S0 = _env.SCRATCH0
F_FLAT = _env.FLAG_FLAT
F_LIMITS = _env.FLAG_LIMITS


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def address16(t: cython.pointer(Translator)) -> cython.int:
    """16-bit addressing into EA; returns the default segment. Source: SDM volume 2, table 2-1."""
    form: cython.int = t.modrm & 7
    segment: cython.int = 3
    first: cython.int = -1
    second: cython.int = -1
    if form == 6 and t.mod == 0:
        emit(t, U_MOVI, V_EA, 0, 0, t.displacement & 0xFFFF)
        return segment
    if form == 0 or form == 1 or form == 7:
        first = 3
    elif form == 2 or form == 3 or form == 6:
        first = 5
        segment = 2
    elif form == 4:
        first = 6
    else:
        first = 7
    if form == 0 or form == 2:
        second = 6
    elif form == 1 or form == 3:
        second = 7
    emit(t, U_ADDI, V_EA, first, 0, t.displacement)
    if second >= 0:
        emit(t, U_ADD, V_EA, V_EA, second, 0)
    emit(t, U_ZEXT16, V_EA, V_EA, 0, 0)
    return segment


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def segment_checked(t: cython.pointer(Translator), segment: cython.int, access: cython.int) -> cython.int:
    """Whether an access outside 64-bit mode needs its segment's limit and type checked."""
    return not t.mode64 and (t.flags & F_LIMITS or segment >= 4 or (segment == 1 and access & A_WRITES))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def emit_segment_check(t: cython.pointer(Translator), offset: cython.int, segment: cython.int,
                       access: cython.int) -> cython.void:  # fmt: skip
    emit(t, U_MOVI, V_EA2, 0, 0, (access & (A_WRITES - 1)) | (0x10000 if access & A_WRITES else 0))
    emit_helper(t, H_CHECK, V_S0, offset, V_EA2, segment)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def bit_address(t: cython.pointer(Translator), reg: cython.int, access: cython.int) -> cython.void:
    """A bit offset moved a linear address: bring it back to the address size within its segment."""
    if t.address_size == 8:
        return
    based: cython.int = not t.mode64 or t.data_segment >= 4
    if based:
        emit(t, U_SUB64, reg, reg, V_SEG + t.data_segment, 0)
    if t.address_size == 4:
        emit(t, U_ZEXT32, reg, reg, 0, 0)
    else:
        emit(t, U_ZEXT16, reg, reg, 0, 0)
    if segment_checked(t, t.data_segment, access):
        emit_segment_check(t, reg, t.data_segment, access)
    if based:
        emit(t, U_ADD, reg, reg, V_SEG + t.data_segment, 0)
        if not t.mode64:
            emit(t, U_ZEXT32, reg, reg, 0, 0)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def cannot_reach(t: cython.pointer(Translator), target: int64_t) -> cython.bint:
    """Whether a near transfer to a known offset may fault: by the limit of CS, or for sure if it is not canonical."""
    if t.mode64:
        return not canonical(cython.cast(uint64_t, target))
    return (t.flags & F_LIMITS) != 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def emit_target_check(t: cython.pointer(Translator), target: int64_t, taken: cython.int) -> cython.void:
    """A near transfer to a known offset; taken: a register that is not zero when it happens, or ZERO: always."""
    emit(t, U_MOVI, V_EA2, 0, 0, target)
    emit_helper(t, H_TARGET, V_S0, V_EA2, taken, 1 if taken == V_ZERO else 0)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def effective_address(t: cython.pointer(Translator), moffs: cython.int, lea: cython.int, pop_size: cython.int,
                      access: cython.int) -> cython.void:  # fmt: skip
    """Set ea_base and ea_disp, emitting what the address needs. Linear: segment bases are added."""
    base: cython.int = -1
    index: cython.int = -1
    scale: cython.int = 0
    segment: cython.int = 3
    displacement: int64_t = t.displacement
    if moffs:
        t.ea_base = V_EA
        emit(t, U_MOVI, V_EA, 0, 0, displacement)
    elif t.address_size == 2:
        segment = address16(t)
        t.ea_base = V_EA
        displacement = 0
    else:
        if t.sib >= 0:
            base = (t.sib & 7) | ((t.rex & 1) << 3)
            index = ((t.sib >> 3) & 7) | ((t.rex & 2) << 2)
            scale = t.sib >> 6
            if index == 4:
                index = -1
            if (t.sib & 7) == 5 and t.mod == 0:
                base = -1
        elif (t.modrm & 7) == 5 and t.mod == 0:
            if t.mode64:
                displacement += t.next
                base = -2
        else:
            base = t.rm
        if base == 4 or base == 5:
            segment = 2
        if base == 4 and pop_size:
            displacement += pop_size
        if base == -2:
            emit(t, U_MOVI, V_EA, 0, 0, displacement)
            t.ea_base = V_EA
            displacement = 0
        elif index >= 0:
            if base < 0:
                emit(t, U_SHLI, V_EA, index, 0, scale)
            elif scale == 0:
                emit(t, U_ADD, V_EA, base, index, 0)
            else:
                emit(t, U_ADDSL1 + 2 * (scale - 1), V_EA, base, index, 0)
            t.ea_base = V_EA
        elif base >= 0:
            t.ea_base = base
        else:
            t.ea_base = V_ZERO
    if t.segment >= 0:
        segment = t.segment
    t.data_segment = segment
    if t.mode64:
        if t.address_size == 4 and not moffs:
            emit(t, U_ADDI, V_EA, t.ea_base, 0, displacement)
            emit(t, U_ZEXT32, V_EA, V_EA, 0, 0)
            t.ea_base = V_EA
            displacement = 0
        elif moffs:
            displacement = 0
        if segment >= 4 and not lea:
            emit(t, U_ADD, V_EA, t.ea_base, V_SEG + segment, 0)
            t.ea_base = V_EA
        t.ea_disp = displacement
        return
    if moffs:
        displacement = 0
    elif t.address_size == 4:
        if displacement:
            emit(t, U_ADDI, V_EA, t.ea_base, 0, displacement)
            emit(t, U_ZEXT32, V_EA, V_EA, 0, 0)
        else:
            emit(t, U_ZEXT32, V_EA, t.ea_base, 0, 0)
        displacement = 0
    t.ea_base = V_EA
    t.ea_disp = 0
    if lea:
        return
    if access and segment_checked(t, segment, access):
        emit_segment_check(t, V_EA, segment, access)
    if segment >= 4 or not t.flags & F_FLAT:
        emit(t, U_ADD, V_EA, V_EA, V_SEG + segment, 0)
        emit(t, U_ZEXT32, V_EA, V_EA, 0, 0)
