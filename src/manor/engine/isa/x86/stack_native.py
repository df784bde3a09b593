# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Stack helpers: ENTER, LEAVE, PUSHA, POPA.

WHY NATIVE: called from generated code. SAFETY: state is reached through env only; guest memory
through the softmmu's functions, whose faults are checked after each call and before anything
is changed. Semantics: SDM volume 2, by mnemonic. Declared in `integer_helpers`.
"""

import cython
from cython.cimports.libc.stdint import uint64_t
from cython.cimports.manor.engine.env import Env
from cython.cimports.manor.engine.isa.x86.descriptor_native import check_access
from cython.cimports.manor.engine.isa.x86.register import data_mode, write_reg
from cython.cimports.manor.engine.softmmu_native import mode_read, mode_write, probe
from cython.cimports.manor.engine.vm import helper_fn

from manor.engine import env as _env

EnvP = cython.typedef(cython.pointer(Env))
cython.declare(V_SEG=cython.int, F_CODE64=cython.int, F_STACK32=cython.int, F_LIMITS=cython.int)
V_SEG = _env.SEG_BASE
F_CODE64 = _env.FLAG_CODE64
F_STACK32 = _env.FLAG_STACK32
F_LIMITS = _env.FLAG_LIMITS
MASK32 = cython.declare(uint64_t, 0xFFFFFFFF)
cython.declare(RSP=cython.int, RBP=cython.int)
RSP = 4
RBP = 5


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def stack_address(env: EnvP, pointer: uint64_t) -> uint64_t:
    """Linear address of a stack pointer value at the stack's width."""
    if env.block_flags & F_CODE64:
        return pointer
    pointer &= MASK32 if env.block_flags & F_STACK32 else 0xFFFF
    return (pointer + env.regs[V_SEG + 2]) & MASK32


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def stack_allowed(env: EnvP, pointer: uint64_t, size: uint64_t, write: cython.int) -> cython.int:
    """Limit and type of the stack segment, where limits are in force; 0 after raising #SS(0)."""
    if env.block_flags & F_CODE64 or not env.block_flags & F_LIMITS:
        return 1
    return check_access(env, 2, pointer & (MASK32 if env.block_flags & F_STACK32 else 0xFFFF), size, write)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def stack_read(env: EnvP, pointer: uint64_t, size: uint64_t) -> uint64_t:
    """Read at a stack pointer value. Check env.fault."""
    if not stack_allowed(env, pointer, size, 0):
        return 0
    return mode_read(env, stack_address(env, pointer), size, data_mode(env) | 4)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def stack_write(env: EnvP, pointer: uint64_t, value: uint64_t, size: uint64_t) -> cython.void:
    if stack_allowed(env, pointer, size, 1):
        mode_write(env, stack_address(env, pointer), value, size, data_mode(env) | 4)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def set_stack_pointer(env: EnvP, value: uint64_t) -> cython.void:
    write_reg(env, RSP, value, 8 if env.block_flags & F_CODE64 else (4 if env.block_flags & F_STACK32 else 2))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_leave(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    frame: uint64_t = env.regs[RBP]
    value: uint64_t = stack_read(env, frame, imm)
    if env.fault:
        return 0
    set_stack_pointer(env, frame + imm)
    write_reg(env, RBP, value, imm)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_enter(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    """ENTER: push the frame pointer, then up to 31 outer ones, then make room for `a` bytes."""
    size: uint64_t = imm
    level: cython.int = b & 31
    pointer: uint64_t = env.regs[RSP] - size
    frame: uint64_t = pointer
    outer: uint64_t = env.regs[RBP]
    value: uint64_t
    index: cython.int
    if not env.block_flags & (F_CODE64 | F_STACK32):  # only SP moves: the frame pointer keeps the upper half of ESP
        frame = (env.regs[RSP] & ~cython.cast(uint64_t, 0xFFFF)) | (pointer & 0xFFFF)
    stack_write(env, pointer, env.regs[RBP], size)
    if env.fault:
        return 0
    if level:
        for index in range(1, level):
            outer -= size
            value = stack_read(env, outer, size)
            if env.fault:
                return 0
            pointer -= size
            stack_write(env, pointer, value, size)
            if env.fault:
                return 0
        pointer -= size
        stack_write(env, pointer, frame, size)
        if env.fault:
            return 0
    pointer -= a
    # The final stack pointer must be writable: a page fault comes before anything changes.
    if not stack_allowed(env, pointer, 1, 1):
        return 0
    probe(env, stack_address(env, pointer), 1, data_mode(env) | 4, 1)
    if env.fault:
        return 0
    write_reg(env, RBP, frame, size)
    set_stack_pointer(env, pointer)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_pusha(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    index: cython.int
    pointer: uint64_t = env.regs[RSP]
    for index in range(8):
        pointer -= imm
        stack_write(env, pointer, env.regs[index], imm)
        if env.fault:
            return 0
    set_stack_pointer(env, pointer)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_popa(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    values: uint64_t[8]
    index: cython.int
    pointer: uint64_t = env.regs[RSP]
    for index in range(8):
        values[index] = stack_read(env, pointer + index * imm, imm)
        if env.fault:
            return 0
    for index in range(8):
        if index != 3:
            write_reg(env, 7 - index, values[index], imm)
    set_stack_pointer(env, pointer + 8 * imm)
    return 0


@cython.cfunc
def address_of(function: helper_fn) -> object:
    return cython.cast(uint64_t, cython.cast(cython.p_void, function))


def addresses() -> dict[str, int]:
    """Helper name -> host address."""
    return {
        "leave": address_of(h_leave),
        "enter": address_of(h_enter),
        "pusha": address_of(h_pusha),
        "popa": address_of(h_popa),
    }
