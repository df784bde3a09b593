# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Writing uops down, one after the other.

WHY NATIVE: it is the translator's inner loop. SAFETY: `translate` has checked the room before each instruction.
Threads: under vm.lock.
"""

import cython
from cython.cimports.libc.stdint import int64_t, uint8_t
from cython.cimports.manor.engine.isa.x86.table_native import helper_info
from cython.cimports.manor.engine.isa.x86.translator import Translator
from cython.cimports.manor.engine.uop.uop import Uop

from manor.engine import env as _env
from manor.engine.isa.x86 import flags as _flags
from manor.engine.isa.x86 import tables as _tables
from manor.engine.uop import table as _uops
from manor.engine.uop.ops import BRANCHES as _BRANCHES
from manor.engine.uop.ops import TERMINALS as _TERMINALS

cython.declare(
    U_HELPER=cython.int, U_EXIT=cython.int, HF_WRITES_CC=cython.int, DYNAMIC=cython.int, V_ZERO=cython.int,
    V_S0=cython.int,
)  # fmt: skip
_N = _uops.NUMBER
U_HELPER = _N["helper"]
U_EXIT = _N["exit"]
HF_WRITES_CC = _tables.HELPER_WRITES_CC
DYNAMIC = _flags.CC_DYNAMIC
V_ZERO = _env.ZERO
V_S0 = _env.SCRATCH0


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


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def is_terminal(op: cython.int) -> cython.bint:
    """Whether a uop ends its block."""
    return terminal_flags[op]


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def is_branch(op: cython.int) -> cython.bint:
    """Whether a uop has two exits."""
    return branch_flags[op]


cython.declare(terminal_flags=uint8_t[4096], branch_flags=uint8_t[4096])
for _number in range(4096):
    terminal_flags[_number] = _number < len(_uops.OPS) and _uops.OPS[_number].kind in _TERMINALS
    branch_flags[_number] = _number < len(_uops.OPS) and _uops.OPS[_number].kind in _BRANCHES
