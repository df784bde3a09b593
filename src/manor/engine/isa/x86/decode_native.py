# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Guest bytes to the parts of an instruction: prefixes, opcode, ModRM, SIB, displacement, immediates.

WHY NATIVE: every guest instruction passes here once. SAFETY: reads guest bytes through the page pointer given by the
softmmu, never beyond the page. Threads: under vm.lock. Source: SDM volume 2, chapter 2.
"""

import cython
from cython.cimports.libc.stdint import int8_t, int16_t, int32_t, int64_t, uint64_t
from cython.cimports.libc.string import memcpy
from cython.cimports.manor.engine.isa.x86.translator import Translator

from manor.engine import env as _env
from manor.engine.isa.x86 import tables as _tables

cython.declare(
    K_S8=cython.int, K_U16=cython.int, K_Z=cython.int, K_V=cython.int, K_ENTER=cython.int, K_REL8=cython.int,
    K_RELZ=cython.int, K_FAR=cython.int, K_MOFFS=cython.int, K_TWO8=cython.int, F_CODE32=cython.int,
)  # fmt: skip
K_S8 = _tables.IMM_S8
K_U16 = _tables.IMM_U16
K_Z = _tables.IMM_Z
K_V = _tables.IMM_V
K_ENTER = _tables.IMM_ENTER
K_REL8 = _tables.IMM_REL8
K_RELZ = _tables.IMM_RELZ
K_FAR = _tables.IMM_FAR
K_MOFFS = _tables.IMM_MOFFS
K_TWO8 = _tables.IMM_TWO8
F_CODE32 = _env.FLAG_CODE32


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
@cython.inline
def take8(t: cython.pointer(Translator)) -> cython.uint:
    if t.position >= t.available:
        t.overrun = 1
        return 0
    value: cython.uint = t.code[t.position]
    t.position += 1
    return value


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def take(t: cython.pointer(Translator), size: cython.int) -> uint64_t:
    """`size` bytes, little-endian, zero-extended."""
    value: uint64_t = 0
    if t.position + size > t.available:
        t.overrun = 1
        return 0
    memcpy(cython.address(value), t.code + t.position, size)
    t.position += size
    return value


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def take_signed(t: cython.pointer(Translator), size: cython.int) -> int64_t:
    value: uint64_t = take(t, size)
    if size == 1:
        return cython.cast(int8_t, value)
    if size == 2:
        return cython.cast(int16_t, value)
    if size == 4:
        return cython.cast(int32_t, value)
    return cython.cast(int64_t, value)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def decode_prefixes(t: cython.pointer(Translator)) -> cython.void:
    """Prefixes, REX, opcode map and opcode. Source: SDM volume 2, 2.1.1 and 2.2.1."""
    byte: cython.uint
    operand16: cython.int = 0
    address: cython.int = 0
    t.rex = 0
    t.repeat = 0
    t.lock = 0
    t.segment = -1
    while True:
        byte = take8(t)
        if t.overrun:
            return
        if byte == 0x66:
            operand16 = 1
        elif byte == 0x67:
            address = 1
        elif byte == 0xF2 or byte == 0xF3:
            t.repeat = byte
        elif byte == 0xF0:
            t.lock = 1
        elif byte == 0x2E or byte == 0x36 or byte == 0x3E or byte == 0x26:
            if not t.mode64:
                t.segment = 1 if byte == 0x2E else (2 if byte == 0x36 else (3 if byte == 0x3E else 0))
        elif byte == 0x64 or byte == 0x65:
            t.segment = byte - 0x60
        elif t.mode64 and (byte & 0xF0) == 0x40:
            t.rex = byte
            continue
        else:
            break
        t.rex = 0
    t.map = 0
    if byte == 0x0F:
        t.map = 1
        byte = take8(t)
        if byte == 0x38:
            t.map = 2
            byte = take8(t)
        elif byte == 0x3A:
            t.map = 3
            byte = take8(t)
    t.opcode = byte
    t.prefix = (2 if t.repeat == 0xF3 else 3) if t.repeat else operand16
    if t.mode64:
        t.opsize = 2 if t.rex & 8 else (0 if operand16 else 1)
        t.address_size = 4 if address else 8
    else:
        wide: cython.int = 1 if t.flags & F_CODE32 else 0
        t.opsize = wide ^ operand16
        t.address_size = 4 if wide ^ address else 2


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def decode_modrm(t: cython.pointer(Translator)) -> cython.void:
    """ModRM, SIB and displacement bytes. Source: SDM volume 2, 2.1.3 to 2.1.5."""
    t.modrm = take8(t)
    t.mod = t.modrm >> 6
    t.reg = ((t.modrm >> 3) & 7) | ((t.rex & 4) << 1)
    t.rm = (t.modrm & 7) | ((t.rex & 1) << 3)
    t.sib = -1
    t.displacement = 0
    if t.map == 1 and t.opcode & 0xFC == 0x20:
        t.mod = 3  # MOV to and from control and debug registers ignores the field
    if t.mod == 3:
        return
    if t.address_size == 2:
        if t.mod == 1:
            t.displacement = take_signed(t, 1)
        elif t.mod == 2 or (t.modrm & 7) == 6:
            t.displacement = take_signed(t, 2)
        return
    base: cython.int = t.modrm & 7
    if base == 4:
        t.sib = take8(t)
        base = t.sib & 7
    if t.mod == 1:
        t.displacement = take_signed(t, 1)
    elif t.mod == 2 or base == 5:
        t.displacement = take_signed(t, 4)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def decode_immediates(t: cython.pointer(Translator), kind: cython.int, opsize: cython.int) -> cython.void:
    size: cython.int = 2 if opsize == 0 else 4
    if kind == K_S8 or kind == K_REL8:
        t.imm = take_signed(t, 1)
    elif kind == K_U16:
        t.imm = take(t, 2)
    elif kind == K_Z:
        t.imm = take_signed(t, size)
    elif kind == K_V:
        t.imm = take_signed(t, 8 if opsize == 2 else size)
    elif kind == K_RELZ:
        t.imm = take_signed(t, 4 if t.mode64 else size)
    elif kind == K_ENTER:
        t.imm = take(t, 2)
        t.imm2 = take(t, 1)
    elif kind == K_TWO8:
        t.imm = take(t, 1)
        t.imm2 = take(t, 1)
    elif kind == K_FAR:
        t.imm = take(t, size)
        t.imm2 = take(t, 2)
    elif kind == K_MOFFS:
        t.displacement = take(t, t.address_size)
