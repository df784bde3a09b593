# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Templates to uops: what an instruction's declaration says, with the operands that were decoded.

WHY NATIVE: it is part of the translator's inner loop. SAFETY: INSN_UOPS bounds what one template becomes. Threads: under
vm.lock.
"""

import cython
from cython.cimports.libc.stdint import int64_t, uint64_t
from cython.cimports.manor.engine.isa.x86.address_native import (
    bit_address,
    cannot_reach,
    emit_segment_check,
    emit_target_check,
    segment_checked,
)
from cython.cimports.manor.engine.isa.x86.condition_native import emit_condition
from cython.cimports.manor.engine.isa.x86.table_native import helper_info, items
from cython.cimports.manor.engine.isa.x86.translator import Item, Template, Translator
from cython.cimports.manor.engine.isa.x86.uop_native import emit, emit_helper, is_terminal
from cython.cimports.manor.engine.softmmu_native import MODE_STACK, OPERAND_SHIFT

from manor.engine import env as _env
from manor.engine.isa.x86 import flags as _flags
from manor.engine.isa.x86 import helper_catalog as _helpers
from manor.engine.isa.x86 import tables as _tables
from manor.engine.isa.x86 import template as _template
from manor.engine.uop import table as _uops

cython.declare(
    U_MOV=cython.int, U_MOVI=cython.int, U_ZEXT32=cython.int, U_ZEXT8=cython.int, U_EXTRACT8H=cython.int,
    U_INSERT8=cython.int, U_INSERT8H=cython.int, U_INSERT16=cython.int, U_HELPER=cython.int, H_EFLAGS=cython.int,
    A_STACK=cython.int, A_EA=cython.int, H_TARGET=cython.int, C_REG=cython.int, C_RM=cython.int, C_OPREG=cython.int,
    C_EABASE=cython.int, C_XREG=cython.int, C_XRM=cython.int, C_MREG=cython.int, C_MRM=cython.int,
    C_SEGBASE=cython.int, PSEUDO=cython.int, I_CONST=cython.int, I_IMM=cython.int, I_NEXT=cython.int,
    I_TARGET=cython.int, I_DISP=cython.int, I_IMM2=cython.int, I_PC=cython.int, I_REGNUM=cython.int,
    I_RMNUM=cython.int, I_LENGTH=cython.int, I_SEGMENT=cython.int, I_STACK_MASK=cython.int, I_ADDRESS_MASK=cython.int,
    I_OPREGNUM=cython.int, I_STRING=cython.int, I_FLAGS=cython.int, I_IMM_ZX32=cython.int, I_FOP=cython.int,
    P_READ8=cython.int, P_WRITE8=cython.int, P_CC=cython.int, P_CC_UNKNOWN=cython.int, P_SETCOND=cython.int,
    P_BRCOND=cython.int, P_CARRY=cython.int, P_EFLAGS=cython.int, P_EXITPC=cython.int, P_SET_SP=cython.int,
    P_UNLESS_ZERO=cython.int, I_COUNT32=cython.int, I_COUNT64=cython.int, P_BYIMM=cython.int,
    P_SEGMENT_CHECK=cython.int, P_BIT_ADDRESS=cython.int, P_TARGET_CHECK=cython.int, P_TARGET_CHECK_VALUE=cython.int,
    HF_OPERAND=cython.int, CC_EFLAGS=cython.int, DYNAMIC=cython.int, V_OP=cython.int, V_SRC=cython.int,
    V_RSP=cython.int, V_SEG=cython.int, V_S0=cython.int, F_STACK32=cython.int, F_LIMITS=cython.int,
)  # fmt: skip
_N = _uops.NUMBER
_P = _template.P
U_MOV = _N["mov"]
U_MOVI = _N["movi"]
U_ZEXT32 = _N["zext32"]
U_ZEXT8 = _N["zext8"]
U_EXTRACT8H = _N["extract8h"]
U_INSERT8 = _N["insert8"]
U_INSERT8H = _N["insert8h"]
U_INSERT16 = _N["insert16"]
U_HELPER = _N["helper"]
H_EFLAGS = _helpers.HELPER_NUMBER["eflags"]
A_STACK = _template.ACCESS_STACK
A_EA = _template.ACCESS_EA
H_TARGET = _helpers.HELPER_NUMBER["target_check"]
C_REG = _template.REG
C_RM = _template.RM
C_OPREG = _template.OPREG
C_EABASE = _template.EABASE
C_XREG = _template.XREG
C_XRM = _template.XRM
C_MREG = _template.MREG
C_MRM = _template.MRM
C_SEGBASE = _template.SEGREG_BASE
PSEUDO = _template.PSEUDO
I_CONST = _template.IMM_CONST
I_IMM = _template.IMM_IMM
I_NEXT = _template.IMM_NEXT
I_TARGET = _template.IMM_TARGET
I_DISP = _template.IMM_DISP
I_IMM2 = _template.IMM_IMM2
I_PC = _template.IMM_PC
I_REGNUM = _template.IMM_REGNUM
I_RMNUM = _template.IMM_RMNUM
I_LENGTH = _template.IMM_LENGTH
I_SEGMENT = _template.IMM_SEGMENT
I_STACK_MASK = _template.IMM_STACK_MASK
I_ADDRESS_MASK = _template.IMM_ADDRESS_MASK
I_OPREGNUM = _template.IMM_OPREGNUM
I_STRING = _template.IMM_STRING
I_FLAGS = _template.IMM_FLAGS
I_IMM_ZX32 = _template.IMM_IMM_ZX32
I_FOP = _template.IMM_FOP
P_READ8 = _P["READ8"]
P_WRITE8 = _P["WRITE8"]
P_CC = _P["CC"]
P_CC_UNKNOWN = _P["CC_UNKNOWN"]
P_SETCOND = _P["SETCOND"]
P_BRCOND = _P["BRCOND"]
P_CARRY = _P["CARRY"]
P_EFLAGS = _P["EFLAGS"]
P_EXITPC = _P["EXITPC"]
P_SET_SP = _P["SET_SP"]
P_UNLESS_ZERO = _P["UNLESS_ZERO"]
I_COUNT32 = _template.IMM_COUNT32
I_COUNT64 = _template.IMM_COUNT64
P_BYIMM = _P["BYIMM"]
P_SEGMENT_CHECK = _P["SEGMENT_CHECK"]
P_BIT_ADDRESS = _P["BIT_ADDRESS"]
P_TARGET_CHECK = _P["TARGET_CHECK"]
P_TARGET_CHECK_VALUE = _P["TARGET_CHECK_VALUE"]
HF_OPERAND = _tables.HELPER_OPERAND
DYNAMIC = _flags.CC_DYNAMIC
V_OP = _env.CC_OP
V_SRC = _env.CC_SRC
V_RSP = _env.RSP
V_SEG = _env.SEG_BASE
V_S0 = _env.SCRATCH0
F_STACK32 = _env.FLAG_STACK32
F_LIMITS = _env.FLAG_LIMITS
CC_EFLAGS = 0
MASK32 = cython.declare(uint64_t, 0xFFFFFFFF)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
@cython.inline
def operand(t: cython.pointer(Translator), code: cython.int) -> cython.int:
    if code < 64:
        return code
    if code == C_REG:
        return t.reg
    if code == C_RM:
        return t.rm
    if code == C_OPREG:
        return (t.opcode & 7) | ((t.rex & 1) << 3)
    if code == C_EABASE:
        return t.ea_base
    if code == C_XREG:
        return t.reg
    if code == C_XRM:
        return t.rm
    if code == C_MREG:
        return 32 + (t.reg & 7)
    if code == C_MRM:
        return 32 + (t.rm & 7)
    if code == C_SEGBASE:
        return V_SEG + (t.segment if t.segment >= 0 else 3)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def immediate(t: cython.pointer(Translator), item: cython.pointer(Item)) -> int64_t:
    code: cython.int = item.imm_code
    value: int64_t = 0
    if code == I_CONST:
        return item.constant
    if code == I_IMM:
        value = t.imm
    elif code == I_DISP:
        value = t.ea_disp
    elif code == I_NEXT:
        value = t.next
    elif code == I_TARGET:
        value = t.next + t.imm
        if not t.mode64:
            value = value & 0xFFFF if t.opsize == 0 else value & MASK32
    elif code == I_IMM_ZX32:
        value = t.imm & MASK32
    elif code == I_COUNT32:
        value = t.imm & 31
    elif code == I_COUNT64:
        value = t.imm & 63
    elif code == I_IMM2:
        value = t.imm2
    elif code == I_PC:
        value = t.pc
    elif code == I_REGNUM:
        value = t.reg
    elif code == I_RMNUM:
        value = t.rm
    elif code == I_OPREGNUM:
        value = t.opcode & 7
    elif code == I_LENGTH:
        value = t.position
    elif code == I_SEGMENT:
        value = t.segment if t.segment >= 0 else 3
    elif code == I_STACK_MASK:
        value = MASK32 if t.flags & F_STACK32 else 0xFFFF
    elif code == I_ADDRESS_MASK:
        value = -1 if t.address_size == 8 else (MASK32 if t.address_size == 4 else 0xFFFF)
    elif code == I_STRING:
        value = (
            (cython.cast(int64_t, t.position) << 8)
            | (cython.cast(int64_t, t.address_size) << 16)
            | (cython.cast(int64_t, t.repeat) << 24)
            | (cython.cast(int64_t, t.segment if t.segment >= 0 else 3) << 32)
        )
    elif code == I_FOP:
        value = ((t.opcode & 7) << 8) | t.modrm
    elif code == I_FLAGS:
        value = t.flags
    return (value << item.shift) + item.constant


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def byte_register(t: cython.pointer(Translator), code: cython.int) -> cython.int:
    """Register number of an encoded byte register; high bytes (AH CH DH BH) are 64 + number."""
    number: cython.int = operand(t, code)
    if t.rex == 0 and 4 <= number < 8:
        return 64 + number - 4
    return number


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def expand_pseudo(t: cython.pointer(Translator), item: cython.pointer(Item)) -> cython.void:
    op: cython.int = item.op
    d: cython.int
    number: cython.int
    if op == P_READ8:
        d = operand(t, item.d)
        number = byte_register(t, item.a)
        if number >= 64:
            emit(t, U_EXTRACT8H, d, number - 64, 0, 0)
        else:
            emit(t, U_ZEXT8, d, number, 0, 0)
    elif op == P_WRITE8:
        number = byte_register(t, item.d)
        if number >= 64:
            emit(t, U_INSERT8H, number - 64, number - 64, operand(t, item.a), 0)
        else:
            emit(t, U_INSERT8, number, number, operand(t, item.a), 0)
    elif op == P_CC:
        t.cc = item.constant
        emit(t, U_MOVI, V_OP, 0, 0, item.constant)
    elif op == P_CC_UNKNOWN:
        t.cc = DYNAMIC
    elif op == P_SETCOND:
        emit_condition(t, 0, operand(t, item.d), item.constant)
    elif op == P_BRCOND:
        if cannot_reach(t, t.exit_pc[t.first_exit]):
            emit_condition(t, 0, V_S0, item.constant)
            emit_target_check(t, t.exit_pc[t.first_exit], V_S0)
        emit_condition(t, 1, 0, item.constant)
        t.ended = 1
    elif op == P_CARRY:
        emit_condition(t, 0, operand(t, item.d), 2)
    elif op == P_EFLAGS:
        if t.cc != DYNAMIC and t.cc >> 2 == CC_EFLAGS:
            emit(t, U_MOV, operand(t, item.d), V_SRC, 0, 0)
        else:
            emit_helper(t, H_EFLAGS, operand(t, item.d), 0, 0, 0)
    elif op == P_EXITPC:
        t.exit_pc[t.first_exit + item.x] = immediate(t, item)
    elif op == P_SET_SP:
        if t.flags & F_STACK32:
            emit(t, U_ZEXT32, V_RSP, operand(t, item.a), 0, 0)
        else:
            emit(t, U_INSERT16, V_RSP, V_RSP, operand(t, item.a), 0)
    elif op == P_SEGMENT_CHECK:
        if segment_checked(t, item.constant, item.x):
            emit_segment_check(t, operand(t, item.a), item.constant, item.x)
    elif op == P_BIT_ADDRESS:
        bit_address(t, operand(t, item.a), item.x)
    elif op == P_TARGET_CHECK:
        if cannot_reach(t, immediate(t, item)):
            emit_target_check(t, immediate(t, item), item.d)
    elif op == P_TARGET_CHECK_VALUE:
        if t.flags & F_LIMITS:
            emit_helper(t, H_TARGET, V_S0, operand(t, item.a), 0, 1)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def expand(t: cython.pointer(Translator), template: cython.pointer(Template)) -> cython.void:
    item: cython.pointer(Item)
    index: cython.int
    op: cython.int
    variant: int64_t = 0
    value: int64_t
    skipped: cython.int = 0
    for index in range(template.count):
        if skipped:
            skipped -= 1
            continue
        item = cython.address(items[template.start + index])
        op = item.op
        if op == P_UNLESS_ZERO:
            if t.imm & item.x == 0:
                skipped = item.constant
            continue
        if op == P_BYIMM:  # the next uop exists once for each immediate byte
            variant = t.imm & item.x
            if variant > item.constant:
                variant = item.constant
            continue
        if op >= PSEUDO:
            expand_pseudo(t, item)
            continue
        if op == U_HELPER:
            value = immediate(t, item)
            if t.data_segment == 2 and helper_info[item.x].flags & HF_OPERAND:
                value |= cython.cast(int64_t, MODE_STACK) << OPERAND_SHIFT
            emit_helper(t, item.x, operand(t, item.d), operand(t, item.a), operand(t, item.b), value)
            continue
        emit(
            t, op + cython.cast(cython.int, variant), operand(t, item.d), operand(t, item.a), operand(t, item.b),
            immediate(t, item),
        )  # fmt: skip
        variant = 0
        t.out[t.count - 1].x = item.x & ~A_EA
        if (item.a == C_EABASE or item.x & A_EA) and t.data_segment == 2:
            t.out[t.count - 1].x |= A_STACK
        if is_terminal(op):
            t.ended = 1
