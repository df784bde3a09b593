# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Decode guest instructions and expand their templates to uops.

WHY NATIVE: every guest instruction passes here once; at 1 us each a kernel boot spends a third
of a second in it (benchmarks/). SAFETY: reads guest bytes through the page pointer given by
the softmmu, never beyond the page; writes only the caller's Translator and uop buffer, whose
bounds MAX_UOPS and INSN_UOPS are checked before each instruction. Runs under vm.lock.

The tables come from `tables.serialize()`; encoding rules: SDM volume 2, chapter 2.
"""

import cython
from cython.cimports.libc.stdint import (
    int8_t,
    int16_t,
    int32_t,
    int64_t,
    uint8_t,
    uint16_t,
    uint32_t,
    uint64_t,
)
from cython.cimports.libc.string import memcpy
from cython.cimports.manor.engine.env import Env
from cython.cimports.manor.engine.isa.x86.bits import canonical
from cython.cimports.manor.engine.isa.x86.translate_native import (
    MAX_EXITS,
    Entry,
    HelperInfo,
    Item,
    Template,
    Translator,
)
from cython.cimports.manor.engine.softmmu_native import MODE_STACK, OPERAND_SHIFT, fetch_gpa, raise_fault
from cython.cimports.manor.engine.uop.uop import SIDE_EXIT, Uop
from cython.cimports.manor.engine.vm import Vm
from cython.cimports.manor.engine.walk_native import ram_pointer

from manor.engine import env as _env
from manor.engine.isa.x86 import flags as _flags
from manor.engine.isa.x86 import helper_catalog as _helpers
from manor.engine.isa.x86 import tables as _tables
from manor.engine.isa.x86 import template as _template
from manor.engine.uop import table as _uops
from manor.engine.uop.ops import BRANCHES as _BRANCHES
from manor.engine.uop.ops import TERMINALS as _TERMINALS

cython.declare(
    dispatch=cython.pointer(uint16_t), rm_tables=cython.pointer(uint16_t), modrm_flags=cython.pointer(uint8_t),
    entries=cython.pointer(Entry), templates=cython.pointer(Template), items=cython.pointer(Item),
    blob=object, name_list=list,
)  # fmt: skip


# numbers of the uops that the translator emits itself
cython.declare(
    U_MOV=cython.int, U_MOVI=cython.int, U_ADDI=cython.int, U_ADD=cython.int, U_ADDSL1=cython.int, U_SHLI=cython.int,
    U_ZEXT32=cython.int, U_ZEXT8=cython.int, U_EXTRACT8H=cython.int, U_INSERT8=cython.int, U_INSERT8H=cython.int,
    U_INSERT16=cython.int, U_ANDI=cython.int, U_HELPER=cython.int, U_EXIT=cython.int, U_JUMP=cython.int,
    U_XOR=cython.int, U_OR=cython.int, U_SHRI=cython.int, U_SUB32=cython.int, U_SUB64=cython.int, U_PARITY=cython.int,
    U_XORI=cython.int, U_SET=cython.int, U_SETI=cython.int, U_BR=cython.int, U_BRI=cython.int, U_SET_STEP=cython.int,
    H_EFLAGS=cython.int, H_RAISE=cython.int, H_INVALID=cython.int, H_UNAVAILABLE=cython.int, H_CHECK=cython.int,
    U_ZEXT16=cython.int, A_STACK=cython.int, A_EA=cython.int, A_WRITES=cython.int, H_CODE_LIMIT=cython.int,
    H_TARGET=cython.int,
)  # fmt: skip
_N = _uops.NUMBER
U_MOV = _N["mov"]
U_MOVI = _N["movi"]
U_ADDI = _N["add64i"]
U_ADD = _N["add64"]
U_ADDSL1 = _N["addsl1"]
U_SHLI = _N["shl64i"]
U_SHRI = _N["shr64i"]
U_ZEXT8 = _N["zext8"]
U_ZEXT16 = _N["zext16"]
U_ZEXT32 = _N["zext32"]
U_EXTRACT8H = _N["extract8h"]
U_INSERT8 = _N["insert8"]
U_INSERT8H = _N["insert8h"]
U_INSERT16 = _N["insert16"]
U_ANDI = _N["and64i"]
U_XOR = _N["xor64"]
U_XORI = _N["xor64i"]
U_OR = _N["or64"]
U_SUB32 = _N["sub32"]
U_SUB64 = _N["sub64"]
U_PARITY = _N["parity8"]
U_HELPER = _N["helper"]
U_EXIT = _N["exit"]
U_JUMP = _N["jump"]
# set_*, set_*i, br_*, br_*i follow each other in the table, relation by relation, width by width
U_SET = _N["set_eq8_"]
U_SETI = _N["set_eq8_i"]
U_BR = _N["br_eq8"]
U_BRI = _N["br_eq8i"]
U_SET_STEP = _N["set_eq16_"] - _N["set_eq8_"]
H_EFLAGS = _helpers.HELPER_NUMBER["eflags"]
H_RAISE = _helpers.HELPER_NUMBER["raise"]
H_INVALID = _helpers.HELPER_NUMBER["invalid_opcode"]
H_UNAVAILABLE = _helpers.HELPER_NUMBER["unavailable"]
H_CODE_LIMIT = _helpers.HELPER_NUMBER["code_limit"]
H_TARGET = _helpers.HELPER_NUMBER["target_check"]
H_CHECK = _helpers.HELPER_NUMBER["segment_check"]

# template codes (see template.py)
cython.declare(
    C_REG=cython.int, C_RM=cython.int, C_OPREG=cython.int, C_EABASE=cython.int, C_XREG=cython.int, C_XRM=cython.int,
    C_MREG=cython.int, C_MRM=cython.int, C_SEGBASE=cython.int, PSEUDO=cython.int,
    I_CONST=cython.int, I_IMM=cython.int, I_NEXT=cython.int, I_TARGET=cython.int, I_DISP=cython.int, I_IMM2=cython.int,
    I_PC=cython.int, I_REGNUM=cython.int, I_RMNUM=cython.int, I_LENGTH=cython.int, I_SEGMENT=cython.int,
    I_STACK_MASK=cython.int, I_ADDRESS_MASK=cython.int, I_OPREGNUM=cython.int, I_STRING=cython.int,
    I_FLAGS=cython.int, I_IMM_ZX32=cython.int, I_FOP=cython.int,
    P_READ8=cython.int, P_WRITE8=cython.int, P_CC=cython.int, P_CC_UNKNOWN=cython.int, P_SETCOND=cython.int,
    P_BRCOND=cython.int, P_CARRY=cython.int, P_EFLAGS=cython.int, P_EXITPC=cython.int, P_SET_SP=cython.int,
    P_UNLESS_ZERO=cython.int, I_COUNT32=cython.int, I_COUNT64=cython.int,
    P_BYIMM=cython.int, P_SEGMENT_CHECK=cython.int, P_BIT_ADDRESS=cython.int, P_TARGET_CHECK=cython.int,
    P_TARGET_CHECK_VALUE=cython.int,
)  # fmt: skip
A_STACK = _template.ACCESS_STACK
A_EA = _template.ACCESS_EA
A_WRITES = _template.ACCESS_WRITES
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
_P = _template.P
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
P_BYIMM = _P["BYIMM"]
P_UNLESS_ZERO = _P["UNLESS_ZERO"]
I_COUNT32 = _template.IMM_COUNT32
I_COUNT64 = _template.IMM_COUNT64
P_SEGMENT_CHECK = _P["SEGMENT_CHECK"]
P_BIT_ADDRESS = _P["BIT_ADDRESS"]
P_TARGET_CHECK = _P["TARGET_CHECK"]
P_TARGET_CHECK_VALUE = _P["TARGET_CHECK_VALUE"]

# entry flags and immediate kinds (see tables.py), flag kinds, virtual registers, block flags
cython.declare(
    E_DEFAULT64=cython.int, E_LOCK=cython.int, E_POP_EA=cython.int, E_LEA=cython.int, E_X87=cython.int,
    E_SSE=cython.int, E_MMX=cython.int, HF_WRITES_CC=cython.int, HF_OPERAND=cython.int,
    K_S8=cython.int, K_U16=cython.int, K_Z=cython.int, K_V=cython.int, K_ENTER=cython.int, K_REL8=cython.int,
    K_RELZ=cython.int, K_FAR=cython.int, K_MOFFS=cython.int, K_TWO8=cython.int,
    CC_EFLAGS=cython.int, CC_ADD=cython.int, CC_ADC=cython.int, CC_SUB=cython.int, CC_SBB=cython.int,
    CC_LOGIC=cython.int, CC_INC=cython.int, CC_DEC=cython.int, DYNAMIC=cython.int,
    V_OP=cython.int, V_DST=cython.int, V_SRC=cython.int, V_RSP=cython.int, V_EA=cython.int, V_EA2=cython.int,
    V_ZERO=cython.int, V_SEG=cython.int, V_S0=cython.int, V_S1=cython.int,
    F_CODE32=cython.int, F_CODE64=cython.int, F_STACK32=cython.int, F_FLAT=cython.int, F_FPU_OFF=cython.int,
    F_SSE_OFF=cython.int, F_ONE_INSN=cython.int, F_LIMITS=cython.int, F_FPU_TRAP=cython.int,
    E_RAISES_FP=cython.int, E_CPL0=cython.int, F_PROTECTED=cython.int, H_FP_BEGIN=cython.int, H_FP_CHECK=cython.int,
)  # fmt: skip
E_DEFAULT64 = _tables.ENTRY_DEFAULT64
E_LOCK = _tables.ENTRY_LOCK
E_POP_EA = _tables.ENTRY_POP_EA
E_LEA = _tables.ENTRY_LEA
E_X87 = _tables.ENTRY_X87
E_SSE = _tables.ENTRY_SSE
E_MMX = _tables.ENTRY_MMX
HF_WRITES_CC = _tables.HELPER_WRITES_CC
HF_OPERAND = _tables.HELPER_OPERAND
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
CC_EFLAGS, CC_ADD, CC_ADC, CC_SUB, CC_SBB, CC_LOGIC, CC_INC, CC_DEC = range(8)
DYNAMIC = _flags.CC_DYNAMIC
V_OP = _env.CC_OP
V_DST = _env.CC_DST
V_SRC = _env.CC_SRC
V_RSP = _env.RSP
V_EA = _env.EA
V_EA2 = _env.EA2
V_ZERO = _env.ZERO
V_SEG = _env.SEG_BASE
V_S0 = _env.SCRATCH0
V_S1 = _env.SCRATCH1
F_CODE32 = _env.FLAG_CODE32
F_CODE64 = _env.FLAG_CODE64
F_STACK32 = _env.FLAG_STACK32
F_FLAT = _env.FLAG_FLAT
F_FPU_OFF = _env.FLAG_FPU_OFF
F_SSE_OFF = _env.FLAG_SSE_OFF
F_ONE_INSN = _env.FLAG_ONE_INSN
F_LIMITS = _env.FLAG_LIMITS
F_FPU_TRAP = _env.FLAG_FPU_TRAP
E_RAISES_FP = _tables.ENTRY_RAISES_FP
E_CPL0 = _tables.ENTRY_CPL0
F_PROTECTED = _env.FLAG_PROTECTED
H_FP_BEGIN = _helpers.HELPER_NUMBER["sse_trap_begin"]
H_FP_CHECK = _helpers.HELPER_NUMBER["sse_trap_check"]

MASK32 = cython.declare(uint64_t, 0xFFFFFFFF)
PAGE_MASK = cython.declare(uint64_t, 0xFFF)
# relations in the order of uop.ops.RELATIONS
cython.declare(EQ=cython.int, NE=cython.int, ULT=cython.int, ULE=cython.int, UGT=cython.int, UGE=cython.int, SLT=cython.int, SLE=cython.int, SGT=cython.int, SGE=cython.int)
EQ, NE, ULT, ULE, UGT, UGE, SLT, SLE, SGT, SGE = range(10)


def load_tables(data: bytes) -> None:
    """Point the decoder at a blob made by `tables.serialize`; keeps a reference to it."""
    global blob, dispatch, rm_tables, modrm_flags, entries, templates, items, helper_info, name_list
    blob = data
    base: cython.p_uchar = data
    header: cython.pointer(uint64_t) = cython.cast(cython.pointer(uint64_t), base)
    dispatch = cython.cast(cython.pointer(uint16_t), base + header[0])
    rm_tables = cython.cast(cython.pointer(uint16_t), base + header[1])
    modrm_flags = cython.cast(cython.pointer(uint8_t), base + header[2])
    entries = cython.cast(cython.pointer(Entry), base + header[3])
    templates = cython.cast(cython.pointer(Template), base + header[4])
    items = cython.cast(cython.pointer(Item), base + header[5])
    helper_info = cython.cast(cython.pointer(HelperInfo), base + header[6])
    name_list = None


# ---------------------------------------------------------------------- emitting
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
@cython.inline
def emit(t: cython.pointer(Translator), op: cython.int, d: cython.int, a: cython.int, b: cython.int,
         imm: int64_t) -> cython.void:  # fmt: skip
    u: cython.pointer(Uop) = cython.address(t.out[t.count])
    u.op = op
    u.x = 0
    u.d = d
    u.a = a
    u.b = b
    u.insn = t.insn_count
    u.imm = imm
    u.pc = t.pc
    t.count += 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def emit_helper(t: cython.pointer(Translator), number: cython.int, d: cython.int, a: cython.int, b: cython.int,
                imm: int64_t) -> cython.void:  # fmt: skip
    emit(t, U_HELPER, d, a, b, imm)
    t.out[t.count - 1].x = number
    if helper_info[number].flags & HF_WRITES_CC:
        t.cc = DYNAMIC


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def emit_stop(t: cython.pointer(Translator), number: cython.int, imm: int64_t) -> cython.void:
    """A helper that raises, and the end of the block."""
    emit_helper(t, number, V_S0, V_ZERO, V_ZERO, imm)
    emit(t, U_EXIT, 0, 0, 0, 0)
    t.ended = 1


# ---------------------------------------------------------------------- reading guest bytes
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


# ---------------------------------------------------------------------- decoding
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


# ---------------------------------------------------------------------- effective addresses
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


# ---------------------------------------------------------------------- conditions
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def emit_relation(t: cython.pointer(Translator), branch: cython.int, d: cython.int, relation: cython.int,
                  width: cython.int, a: cython.int, b: cython.int, imm: int64_t) -> cython.void:  # fmt: skip
    """set or branch on a relation at width log2 index; b < 0: compare with imm."""
    step: cython.int = (relation * 4 + width) * U_SET_STEP
    if branch:
        emit(t, (U_BR if b >= 0 else U_BRI) + step, 0, a, b if b >= 0 else 0, imm)
    else:
        emit(t, (U_SET if b >= 0 else U_SETI) + step, d, a, b if b >= 0 else 0, imm)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def known_condition(t: cython.pointer(Translator), branch: cython.int, d: cython.int, condition: cython.int) -> cython.int:
    """A condition straight from the lazy cells; 0 if this kind of operation does not allow it."""
    if t.cc == DYNAMIC:
        return 0
    kind: cython.int = t.cc >> 2
    width: cython.int = t.cc & 3
    which: cython.int = condition >> 1
    negate: cython.int = condition & 1
    relation: cython.int = -1
    if kind == CC_SUB:
        if which == 1:
            relation = ULT
        elif which == 2:
            relation = EQ
        elif which == 3:
            relation = ULE
        elif which == 6:
            relation = SLT
        elif which == 7:
            relation = SLE
        elif which == 4:
            emit(t, U_SUB64 if width == 3 else U_SUB32, V_S0, V_DST, V_SRC, 0)
            emit_relation(t, branch, d, SGE if negate else SLT, width, V_S0, -1, 0)
            return 1
        if relation < 0:
            return 0
        if negate:
            relation = inverse(relation)
        emit_relation(t, branch, d, relation, width, V_DST, V_SRC, 0)
        return 1
    if kind == CC_EFLAGS or kind == CC_ADC or kind == CC_SBB:
        if kind == CC_EFLAGS or (which != 2 and which != 4):
            return 0
    if which == 2:
        relation = EQ
    elif which == 4:
        relation = SLT
    elif kind == CC_LOGIC:
        if which == 6:
            relation = SLT
        elif which == 7:
            relation = SLE
        elif which == 3:
            relation = EQ
        elif which == 1 or which == 0:
            # CF = OF = 0: never, or always
            emit_relation(t, branch, d, EQ if negate else NE, 3, V_ZERO, -1, 0)
            return 1
    elif kind == CC_ADD and which == 1:
        emit_relation(t, branch, d, UGE if negate else ULT, width, V_DST, V_SRC, 0)
        return 1
    elif (kind == CC_INC or kind == CC_DEC) and which == 1:
        emit_relation(t, branch, d, EQ if negate else NE, 3, V_SRC, -1, 0)
        return 1
    if which == 5:
        emit(t, U_PARITY, V_S0, V_DST, 0, 0)
        emit_relation(t, branch, d, EQ if negate else NE, 3, V_S0, -1, 0)
        return 1
    if relation < 0:
        return 0
    if negate:
        relation = inverse(relation)
    emit_relation(t, branch, d, relation, width, V_DST, -1, 0)
    return 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def inverse(relation: cython.int) -> cython.int:
    if relation == EQ:
        return NE
    if relation == ULT:
        return UGE
    if relation == ULE:
        return UGT
    if relation == SLT:
        return SGE
    return SGT  # of SLE


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def emit_condition(t: cython.pointer(Translator), branch: cython.int, d: cython.int, condition: cython.int) -> cython.void:
    """set d, or branch, on an x86 condition code. Source: SDM volume 2, appendix B.1.4.7."""
    if known_condition(t, branch, d, condition):
        return
    which: cython.int = condition >> 1
    negate: cython.int = condition & 1
    mask: int64_t = 0
    value: cython.int = V_SRC
    if t.cc == DYNAMIC or t.cc >> 2 != CC_EFLAGS:
        emit_helper(t, H_EFLAGS, V_S0, 0, 0, 0)
        value = V_S0
    if which == 0:
        mask = 0x800
    elif which == 1:
        mask = 1
    elif which == 2:
        mask = 0x40
    elif which == 3:
        mask = 0x41
    elif which == 4:
        mask = 0x80
    elif which == 5:
        mask = 4
    if which < 6:
        emit(t, U_ANDI, V_S0, value, 0, mask)
    else:
        # SF != OF: bring OF (bit 11) to SF's place (bit 7)
        emit(t, U_SHRI, V_S1, value, 0, 4)
        emit(t, U_XOR, V_S1, V_S1, value, 0)
        emit(t, U_ANDI, V_S1, V_S1, 0, 0x80)
        if which == 7:
            emit(t, U_ANDI, V_S0, value, 0, 0x40)
            emit(t, U_OR, V_S0, V_S0, V_S1, 0)
        else:
            emit(t, U_MOV, V_S0, V_S1, 0, 0)
    emit_relation(t, branch, d, EQ if negate else NE, 3, V_S0, -1, 0)


# ---------------------------------------------------------------------- templates
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


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
@cython.inline
def is_terminal(op: cython.int) -> cython.int:
    return terminal_flags[op]


cython.declare(terminal_flags=uint8_t[4096], branch_flags=uint8_t[4096])
for _number in range(4096):
    terminal_flags[_number] = _number < len(_uops.OPS) and _uops.OPS[_number].kind in _TERMINALS
    branch_flags[_number] = _number < len(_uops.OPS) and _uops.OPS[_number].kind in _BRANCHES


# ---------------------------------------------------------------------- one instruction
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def translate_insn(t: cython.pointer(Translator)) -> cython.int:
    """Decode one instruction at t.code and emit its uops. Returns -1 if it needs more bytes."""
    entry: cython.pointer(Entry)
    template: cython.pointer(Template)
    cell: cython.uint
    memory: cython.int = 0
    form: cython.int
    number: cython.int
    moffs: cython.int
    t.position = 0
    t.overrun = 0
    t.modrm = 0
    t.mod = 3
    t.reg = 0
    t.rm = 0
    t.imm = 0
    t.imm2 = 0
    t.ea_base = V_ZERO
    t.ea_disp = 0
    t.data_segment = 3
    decode_prefixes(t)
    if t.overrun:
        return too_long_or_more(t)
    if modrm_flags[(t.mode64 * 4 + t.map) * 256 + t.opcode]:
        decode_modrm(t)
        memory = t.mod != 3
    cell = dispatch[
        ((((t.mode64 * 4 + t.map) * 256 + t.opcode) * 4 + t.prefix) * 8 + ((t.modrm >> 3) & 7)) * 2 + memory
    ]
    if cell & 0x8000:
        cell = rm_tables[(cell & 0x7FFF) * 8 + (t.modrm & 7)]
    if t.overrun:
        return too_long_or_more(t)
    if cell == 0:
        t.next = t.pc + t.position
        emit_stop(t, H_INVALID, 0)
        return 0
    if t.map == 0 and t.opcode == 0x90 and t.rex & 1:
        # 90 with REX.B exchanges R8 and RAX; the plain one does nothing.
        cell = dispatch[(((t.mode64 * 4) * 256 + 0x91) * 4) * 16]
    entry = cython.address(entries[cell - 1])
    if entry.flags & E_DEFAULT64 and t.mode64 and t.opsize == 1:
        t.opsize = 2
    decode_immediates(t, entry.imm_kind, t.opsize)
    if t.overrun:
        return too_long_or_more(t)
    t.next = t.pc + t.position
    if not t.mode64:
        t.next &= MASK32  # also in 16-bit code: what follows 0xFFFF lies beyond the limit, or in a larger segment
    moffs = entry.imm_kind == K_MOFFS
    if moffs:
        memory = 1
    form = memory
    if t.lock:
        if not memory or not entry.flags & E_LOCK:
            emit_stop(t, H_INVALID, 0)
            return 0
        form = 2
    elif t.map == 0 and memory and (t.opcode == 0x86 or t.opcode == 0x87):
        form = 2  # XCHG with memory is always locked
    number = entry.templates[(t.mode64 * 3 + t.opsize) * 3 + form]
    if number == 0:
        emit_stop(t, H_INVALID, 0)
        return 0
    if entry.pad & E_CPL0 and t.flags & 3 and t.flags & F_PROTECTED:
        emit_stop(t, H_RAISE, 13)  # before the operand is read
        return 0
    if entry.flags & (E_X87 | E_MMX) and t.flags & F_FPU_OFF:
        emit_stop(t, H_UNAVAILABLE, 0 if entry.flags & E_X87 else 2)
        return 0
    if entry.flags & E_SSE and t.flags & F_SSE_OFF:
        emit_stop(t, H_UNAVAILABLE, 1)
        return 0
    template = cython.address(templates[number - 1])
    if memory:
        effective_address(
            t, moffs, entry.flags & E_LEA, (2 << t.opsize) if entry.flags & E_POP_EA else 0, template.access
        )
    if entry.pad & E_RAISES_FP and t.flags & F_FPU_TRAP:
        emit_helper(t, H_FP_BEGIN, V_S0, 0, 0, t.reg)
        expand(t, template)
        emit_helper(t, H_FP_CHECK, V_S0, 0, 0, t.reg)
        return 0
    expand(t, template)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def too_long_or_more(t: cython.pointer(Translator)) -> cython.int:
    """The bytes ran out: beyond 15 it is #GP(0), else the caller must supply the next page."""
    if t.available >= 15:
        emit_stop(t, H_RAISE, 13)
        return 0
    return -1


# ---------------------------------------------------------------------- exits
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def becomes_side_exit(t: cython.pointer(Translator)) -> cython.int:
    """Go on behind a conditional branch, if that is the way it will probably take: then it jumps forward.

    Behind a branch back lies what follows a loop. It is not worth being translated along with it.
    """
    u: cython.pointer(Uop) = cython.address(t.out[t.count - 1])
    if not branch_flags[u.op] or t.first_exit + 3 > MAX_EXITS or t.exit_pc[t.first_exit] < t.next:
        return 0
    u.x = t.first_exit
    u.d = SIDE_EXIT
    t.first_exit += 1
    t.ended = 0
    return 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def end_exits(t: cython.pointer(Translator), start: uint64_t) -> cython.void:
    """Number the exits of the terminal, which is complete."""
    u: cython.pointer(Uop) = cython.address(t.out[t.count - 1])
    t.exit_count = t.first_exit
    if branch_flags[u.op] or u.op == U_JUMP:
        u.x = t.first_exit
        t.exit_count += 2 if branch_flags[u.op] else 1
        t.loops = t.exit_pc[u.x] == start and not t.flags & F_ONE_INSN


# ---------------------------------------------------------------------- one block
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def translate(vm: cython.pointer(Vm), env: cython.pointer(Env), pc: uint64_t, linear: uint64_t, gpa: uint64_t,
              flags: uint32_t, t: cython.pointer(Translator)) -> cython.int:  # fmt: skip
    """Translate a block that begins at `pc` (linear address `linear`, physical `gpa`).

    Fills t.out, t.count, t.insn_count, t.exit_pc, t.exit_count and t.loops. Returns the block's size in guest bytes, or
    -1 with an exception pending, or none if there is no memory at gpa. Bit 30 of the result: the block's only instruction crosses into
    the next page, whose gpa is then in t.imm2. The caller has marked the page as code.
    """
    rom: cython.int = 0
    page: cython.pointer(uint8_t) = ram_pointer(vm, gpa & ~PAGE_MASK, cython.address(rom))
    offset: cython.uint = gpa & PAGE_MASK
    start: cython.uint = offset
    buffer: uint8_t[16]
    second: uint64_t
    other: cython.pointer(uint8_t)
    crossed: cython.int = 0
    kept: cython.int
    maximum: cython.int = 1 if flags & F_ONE_INSN else 48
    t.env = env
    t.count = 0
    t.insn_count = 0
    t.flags = flags
    t.mode64 = 1 if flags & F_CODE64 else 0
    t.cc = DYNAMIC
    t.ended = 0
    t.first_exit = 0
    t.exit_count = 0
    t.loops = 0
    t.pc = pc
    if page == cython.NULL:
        return -1
    limited: cython.int = flags & F_LIMITS and not t.mode64
    if limited:  # its immediate is the offset of the block's last byte, not known yet
        emit_helper(t, H_CODE_LIMIT, V_S0, 0, 0, 0)
    while True:
        t.code = page + offset
        t.available = 15 if 0x1000 - offset >= 15 else 0x1000 - offset
        kept = t.count
        if translate_insn(t) < 0:
            t.count = kept
            t.ended = 0
            if t.insn_count:
                break
            # The first instruction crosses the page: gather its bytes from both.
            if limited and pc + t.available > env.seg_limit[1]:
                raise_fault(env, 13, 0)
                return -1
            second = fetch_gpa(env, (linear & ~PAGE_MASK) + 0x1000)
            if env.fault:
                return -1
            other = ram_pointer(vm, second & ~PAGE_MASK, cython.address(rom))
            if other == cython.NULL:
                return -1
            memcpy(cython.address(buffer[0]), page + offset, t.available)
            memcpy(cython.address(buffer[0]) + t.available, other, 15 - t.available)
            t.code = cython.address(buffer[0])
            t.available = 15
            t.cc = DYNAMIC
            translate_insn(t)
            crossed = 1
            t.imm2 = second & ~PAGE_MASK
        offset += t.position
        t.insn_count += 1
        t.pc = t.next
        if t.insn_count >= maximum or offset >= 0x1000 or t.count > 1024 - 64 or crossed:
            break
        if t.ended and (limited or not becomes_side_exit(t)):
            break
    if not t.ended:
        t.exit_pc[t.first_exit] = t.pc
        emit(t, U_JUMP, 0, 0, 0, 0)
    end_exits(t, pc)
    if limited:
        t.out[0].imm = pc + (offset - start) - 1
    if crossed:
        return cython.cast(int32_t, (offset - start) | (1 << 30))
    return offset - start


__all__ = ["load_tables"]
