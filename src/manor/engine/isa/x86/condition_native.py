# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Conditions of Jcc, SETcc and CMOVcc: by the operation that set the flags where that is known, else from EFLAGS.

WHY NATIVE: it is part of the translator's inner loop. SAFETY: writes only the caller's Translator. Threads: under
vm.lock. Source: SDM volume 1, appendix B.
"""

import cython
from cython.cimports.libc.stdint import int64_t
from cython.cimports.manor.engine.isa.x86.translator import Translator
from cython.cimports.manor.engine.isa.x86.uop_native import emit, emit_helper

from manor.engine import env as _env
from manor.engine.isa.x86 import flags as _flags
from manor.engine.isa.x86 import helper_catalog as _helpers
from manor.engine.uop import table as _uops

cython.declare(
    U_MOV=cython.int, U_ANDI=cython.int, U_XOR=cython.int, U_OR=cython.int, U_SHRI=cython.int, U_SUB32=cython.int,
    U_SUB64=cython.int, U_PARITY=cython.int, U_SET=cython.int, U_SETI=cython.int, U_BR=cython.int, U_BRI=cython.int,
    U_SET_STEP=cython.int, H_EFLAGS=cython.int, CC_EFLAGS=cython.int, CC_ADD=cython.int, CC_ADC=cython.int,
    CC_SUB=cython.int, CC_SBB=cython.int, CC_LOGIC=cython.int, CC_INC=cython.int, CC_DEC=cython.int,
    DYNAMIC=cython.int, V_DST=cython.int, V_SRC=cython.int, V_ZERO=cython.int, V_S0=cython.int, V_S1=cython.int,
    EQ=cython.int, NE=cython.int, ULT=cython.int, ULE=cython.int, UGT=cython.int, UGE=cython.int, SLT=cython.int,
    SLE=cython.int, SGT=cython.int, SGE=cython.int,
)  # fmt: skip
_N = _uops.NUMBER
U_MOV = _N["mov"]
U_ANDI = _N["and64i"]
U_XOR = _N["xor64"]
U_OR = _N["or64"]
U_SHRI = _N["shr64i"]
U_SUB32 = _N["sub32"]
U_SUB64 = _N["sub64"]
U_PARITY = _N["parity8"]
U_SET = _N["set_eq8_"]
U_SETI = _N["set_eq8_i"]
U_BR = _N["br_eq8"]
U_BRI = _N["br_eq8i"]
U_SET_STEP = _N["set_eq16_"] - _N["set_eq8_"]
H_EFLAGS = _helpers.HELPER_NUMBER["eflags"]
DYNAMIC = _flags.CC_DYNAMIC
V_DST = _env.CC_DST
V_SRC = _env.CC_SRC
V_ZERO = _env.ZERO
V_S0 = _env.SCRATCH0
V_S1 = _env.SCRATCH1
# relations in the order of uop.ops.RELATIONS
EQ = 0
NE = 1
ULT = 2
ULE = 3
UGT = 4
UGE = 5
SLT = 6
SLE = 7
SGT = 8
SGE = 9
CC_EFLAGS = 0
CC_ADD = 1
CC_ADC = 2
CC_SUB = 3
CC_SBB = 4
CC_LOGIC = 5
CC_INC = 6
CC_DEC = 7


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
