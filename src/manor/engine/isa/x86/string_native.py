# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""String instructions, with and without repeat prefixes, and XLAT.

WHY NATIVE: called from generated code. SAFETY: state is reached through env only; guest memory
through the softmmu's functions, whose faults are checked after each call and before anything
is changed. Semantics: SDM volume 2, by mnemonic. Declared in `integer_helpers`.
"""

import cython
from cython.cimports.libc.stdint import int64_t, uint8_t, uint64_t
from cython.cimports.libc.string import memcpy, memmove, memset
from cython.cimports.manor.engine.env import Env
from cython.cimports.manor.engine.isa.x86.descriptor_native import check_access, elements_within
from cython.cimports.manor.engine.isa.x86.flags_native import low_bits
from cython.cimports.manor.engine.isa.x86.register import data_mode, write_reg
from cython.cimports.manor.engine.softmmu_native import mode_read, mode_write
from cython.cimports.manor.engine.vm import helper_fn

from manor.engine import env as _env

EnvP = cython.typedef(cython.pointer(Env))
cython.declare(V_OP=cython.int, V_DST=cython.int, V_SRC=cython.int, V_DF=cython.int, V_SEG=cython.int, F_CODE64=cython.int, F_LIMITS=cython.int, TLB_MASK=uint64_t, TLB_WORDS=cython.int)  # fmt: skip
V_OP = _env.CC_OP
V_DST = _env.CC_DST
V_SRC = _env.CC_SRC
V_DF = _env.DIRECTION
V_SEG = _env.SEG_BASE
F_CODE64 = _env.FLAG_CODE64
F_LIMITS = _env.FLAG_LIMITS
TLB_MASK = _env.TLB_ENTRIES - 1
TLB_WORDS = _env.TLB_ENTRIES * 4
MASK32 = cython.declare(uint64_t, 0xFFFFFFFF)
FRAME = cython.declare(uint64_t, 0xFFFFFFFFFFFFF000)
cython.declare(RAX=cython.int, RCX=cython.int, RBX=cython.int, RSI=cython.int, RDI=cython.int)
RAX = 0
RCX = 1
RBX = 3
RSI = 6
RDI = 7


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def string_address(env: EnvP, offset: uint64_t, imm: uint64_t, segment: cython.int) -> uint64_t:
    """Linear address of a string operand: address size, then segment base."""
    size: cython.int = (imm >> 16) & 0xFF
    if size == 2:
        offset &= 0xFFFF
    elif size == 4:
        offset &= MASK32
    if env.block_flags & F_CODE64:
        return offset + env.regs[V_SEG + segment] if segment >= 4 else offset
    return (offset + env.regs[V_SEG + segment]) & MASK32


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def string_allowed(env: EnvP, offset: uint64_t, imm: uint64_t, segment: cython.int, write: cython.int) -> cython.int:
    """Limit and type of a string operand's segment outside 64-bit mode; 0 after raising."""
    if env.block_flags & F_CODE64 or not (env.block_flags & F_LIMITS or segment >= 4):
        return 1
    return check_access(env, segment, offset & string_mask(imm), imm & 0xFF, write)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def string_mask(imm: uint64_t) -> uint64_t:
    """The bits of an offset at the address size."""
    return 0xFFFF if (imm >> 16) & 0xFF == 2 else MASK32


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def string_room(env: EnvP, offset: uint64_t, imm: uint64_t, segment: cython.int, count: uint64_t) -> uint64_t:
    """Elements, at most `count`, that can be done without a limit check and without wrap-around."""
    room: uint64_t
    mask: uint64_t
    if env.one_insn:
        return 0  # element by element: traps and breakpoints come between
    if env.block_flags & F_CODE64:
        if (imm >> 16) & 0xFF != 4:
            return count
        mask = MASK32
        offset &= mask
        if cython.cast(int64_t, env.regs[V_DF]) < 0:
            room = offset // (imm & 0xFF) + 1
        else:
            room = (mask - offset + 1) // (imm & 0xFF)
    else:
        mask = string_mask(imm)
        offset &= mask
        room = elements_within(
            env, segment, offset, imm & 0xFF, cython.cast(int64_t, env.regs[V_DF]) < 0, mask
        )
    return room if room < count else count


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def string_read(env: EnvP, offset: uint64_t, imm: uint64_t, segment: cython.int) -> uint64_t:
    """Read one element. Check env.fault."""
    if not string_allowed(env, offset, imm, segment, 0):
        return 0
    return mode_read(env, string_address(env, offset, imm, segment), imm & 0xFF, data_mode(env))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def string_write(env: EnvP, value: uint64_t, imm: uint64_t) -> cython.void:
    """Write one element at ES:RDI."""
    if string_allowed(env, env.regs[RDI], imm, 0, 1):
        mode_write(env, string_address(env, env.regs[RDI], imm, 0), value, imm & 0xFF, data_mode(env))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def advance(env: EnvP, reg: cython.int, imm: uint64_t, count: uint64_t) -> cython.void:
    """Move RSI or RDI by `count` elements in the direction of DF."""
    write_reg(env, reg, env.regs[reg] + count * (imm & 0xFF) * env.regs[V_DF], (imm >> 16) & 0xFF)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def counter(env: EnvP, imm: uint64_t) -> uint64_t:
    """Elements to do. With 32-bit addresses Intel's processors have cleared the upper half of RCX when the first
    element faults; AMD's leave it."""
    size: cython.int = (imm >> 16) & 0xFF
    count: uint64_t = low_bits(env.regs[RCX], size * 8)
    if size == 4 and count:
        env.regs[RCX] = count
    return count


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def direct(env: EnvP, gva: uint64_t, tag: cython.int) -> cython.pointer(uint8_t):
    """Host address of a byte that the TLB lets be reached directly (tag 0: read, 1: write), else NULL."""
    entry: cython.pointer(uint64_t) = cython.address(
        env.tlb[data_mode(env) * TLB_WORDS + ((gva >> 12) & TLB_MASK) * 4]
    )
    if entry[tag] == (gva & FRAME):
        return cython.cast(cython.pointer(uint8_t), cython.cast(cython.p_void, gva + entry[2]))
    return cython.NULL


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def run_length(env: EnvP, gva: uint64_t, size: uint64_t, count: uint64_t) -> uint64_t:
    """Elements that lie in the page of `gva` in the direction of DF, at most `count`."""
    room: uint64_t
    if cython.cast(int64_t, env.regs[V_DF]) > 0:
        room = (0x1000 - (gva & 0xFFF)) // size
    else:
        if (gva & 0xFFF) + size > 0x1000:
            return 0
        room = (gva & 0xFFF) // size + 1
    return room if room < count else count


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def stos_once(env: EnvP, imm: uint64_t) -> cython.void:
    string_write(env, env.regs[RAX], imm)
    if not env.fault:
        advance(env, RDI, imm, 1)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def movs_once(env: EnvP, imm: uint64_t) -> cython.void:
    value: uint64_t = string_read(env, env.regs[RSI], imm, (imm >> 32) & 7)
    if env.fault:
        return
    string_write(env, value, imm)
    if not env.fault:
        advance(env, RSI, imm, 1)
        advance(env, RDI, imm, 1)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def lods_once(env: EnvP, imm: uint64_t) -> cython.void:
    value: uint64_t = string_read(env, env.regs[RSI], imm, (imm >> 32) & 7)
    if not env.fault:
        write_reg(env, RAX, value, imm & 0xFF)
        advance(env, RSI, imm, 1)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def set_compare(env: EnvP, left: uint64_t, right: uint64_t, size: cython.int) -> cython.void:
    """The flags of left - right."""
    env.regs[V_OP] = 12 + (0 if size == 1 else (1 if size == 2 else (2 if size == 4 else 3)))
    env.regs[V_DST] = left
    env.regs[V_SRC] = right


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def scas_once(env: EnvP, imm: uint64_t) -> cython.int:
    """Returns whether the elements were equal."""
    size: cython.int = imm & 0xFF
    value: uint64_t = string_read(env, env.regs[RDI], imm, 0)
    if env.fault:
        return 0
    set_compare(env, env.regs[RAX], value, size)
    advance(env, RDI, imm, 1)
    return low_bits(env.regs[RAX], size * 8) == value


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def cmps_once(env: EnvP, imm: uint64_t) -> cython.int:
    size: cython.int = imm & 0xFF
    # If both operands fault, Intel's processors report that of RDI, AMD's that of RSI.
    right: uint64_t = string_read(env, env.regs[RDI], imm, 0)
    left: uint64_t
    if env.fault:
        return 0
    left = string_read(env, env.regs[RSI], imm, (imm >> 32) & 7)
    if env.fault:
        return 0
    set_compare(env, left, right, size)
    advance(env, RSI, imm, 1)
    advance(env, RDI, imm, 1)
    return left == right


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_stos(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    stos_once(env, imm)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_movs(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    movs_once(env, imm)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_lods(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    lods_once(env, imm)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_scas(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    scas_once(env, imm)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_cmps(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    cmps_once(env, imm)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def count_down(env: EnvP, imm: uint64_t, count: uint64_t) -> cython.void:
    write_reg(env, RCX, env.regs[RCX] - count, (imm >> 16) & 0xFF)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def finish(env: EnvP, imm: uint64_t) -> cython.void:
    """RIP to the next instruction; a string instruction is as long as imm says."""
    env.rip += (imm >> 8) & 0xFF
    if not env.block_flags & F_CODE64:
        env.rip &= MASK32


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def stop_between(env: EnvP) -> cython.int:
    """Whether a repeated instruction pauses after this element: an interrupt, or a trap (SDM volume 3, 18.3)."""
    return env.interrupt or (env.one_insn and (env.rflags & 0x100 or env.exc_dr6))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def stos_run(env: EnvP, imm: uint64_t, count: uint64_t) -> uint64_t:
    """Fill elements within one page directly; returns how many were done (0: take the slow way)."""
    size: uint64_t = imm & 0xFF
    gva: uint64_t = string_address(env, env.regs[RDI], imm, 0)
    done: uint64_t = run_length(env, gva, size, string_room(env, env.regs[RDI], imm, 0, count))
    target: cython.pointer(uint8_t) = direct(env, gva, 1)
    value: uint64_t = env.regs[RAX]
    index: uint64_t
    if target == cython.NULL or done == 0:
        return 0
    if cython.cast(int64_t, env.regs[V_DF]) < 0:
        target -= (done - 1) * size
    if size == 1:
        memset(target, value & 0xFF, done)
    elif size == 8 and value == 0:
        memset(target, 0, done * 8)
    else:
        for index in range(done):
            memcpy(target + index * size, cython.address(value), size)
    advance(env, RDI, imm, done)
    return done


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def movs_run(env: EnvP, imm: uint64_t, count: uint64_t) -> uint64_t:
    """Copy elements within one page of each side directly; returns how many were done."""
    size: uint64_t = imm & 0xFF
    source_gva: uint64_t = string_address(env, env.regs[RSI], imm, (imm >> 32) & 7)
    target_gva: uint64_t = string_address(env, env.regs[RDI], imm, 0)
    done: uint64_t = run_length(env, source_gva, size, run_length(env, target_gva, size, count))
    done = string_room(env, env.regs[RSI], imm, (imm >> 32) & 7, done)
    done = string_room(env, env.regs[RDI], imm, 0, done)
    source: cython.pointer(uint8_t) = direct(env, source_gva, 0)
    target: cython.pointer(uint8_t) = direct(env, target_gva, 1)
    distance: int64_t
    index: uint64_t
    value: uint64_t = 0
    if source == cython.NULL or target == cython.NULL or done == 0:
        return 0
    distance = target - source
    if cython.cast(int64_t, env.regs[V_DF]) > 0:
        if 0 < distance < cython.cast(int64_t, done * size):
            # Overlap with the source behind: the copy repeats a pattern, element by element.
            for index in range(done):
                memcpy(cython.address(value), source + index * size, size)
                memcpy(target + index * size, cython.address(value), size)
        else:
            memmove(target, source, done * size)
    else:
        for index in range(done):
            memcpy(cython.address(value), source - index * size, size)
            memcpy(target - index * size, cython.address(value), size)
    advance(env, RSI, imm, done)
    advance(env, RDI, imm, done)
    return done


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_rep_stos(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    count: uint64_t = counter(env, imm)
    done: uint64_t
    while count:
        done = stos_run(env, imm, count)
        if done == 0:
            stos_once(env, imm)
            if env.fault:
                return 0
            done = 1
        count_down(env, imm, done)
        count -= done
        if count and stop_between(env):
            return 0
    finish(env, imm)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_rep_movs(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    count: uint64_t = counter(env, imm)
    done: uint64_t
    while count:
        done = movs_run(env, imm, count)
        if done == 0:
            movs_once(env, imm)
            if env.fault:
                return 0
            done = 1
        count_down(env, imm, done)
        count -= done
        if count and stop_between(env):
            return 0
    finish(env, imm)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_rep_lods(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    count: uint64_t = counter(env, imm)
    while count:
        lods_once(env, imm)
        if env.fault:
            return 0
        count_down(env, imm, 1)
        count -= 1
        if count and stop_between(env):
            return 0
    finish(env, imm)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def repeat_compare(env: EnvP, imm: uint64_t, compare: cython.int) -> cython.void:
    """REPE and REPNE with CMPS (compare = 1) or SCAS."""
    count: uint64_t = counter(env, imm)
    wanted: cython.int = ((imm >> 24) & 0xFF) == 0xF3
    equal: cython.int
    op: uint64_t = env.regs[V_OP]
    dst: uint64_t = env.regs[V_DST]
    src: uint64_t = env.regs[V_SRC]
    while count:
        equal = cmps_once(env, imm) if compare else scas_once(env, imm)
        if env.fault:
            # Processors report the flags from before the instruction.
            env.regs[V_OP] = op
            env.regs[V_DST] = dst
            env.regs[V_SRC] = src
            return
        count_down(env, imm, 1)
        count -= 1
        if equal != wanted:
            break
        if count and stop_between(env):
            return
    finish(env, imm)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_rep_cmps(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    repeat_compare(env, imm, 1)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_rep_scas(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    repeat_compare(env, imm, 0)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def h_xlat(env: EnvP, a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    value: uint64_t = string_read(
        env, env.regs[RBX] + (env.regs[RAX] & 0xFF), (imm & ~cython.cast(uint64_t, 0xFF)) | 1, (imm >> 32) & 7
    )
    if not env.fault:
        write_reg(env, RAX, value, 1)
    return 0


@cython.cfunc
def address_of(function: helper_fn) -> object:
    return cython.cast(uint64_t, cython.cast(cython.p_void, function))


def addresses() -> dict[str, int]:
    """Helper name -> host address."""
    return {
        "xlat": address_of(h_xlat),
        "stos": address_of(h_stos),
        "movs": address_of(h_movs),
        "lods": address_of(h_lods),
        "scas": address_of(h_scas),
        "cmps": address_of(h_cmps),
        "rep_stos": address_of(h_rep_stos),
        "rep_movs": address_of(h_rep_movs),
        "rep_lods": address_of(h_rep_lods),
        "rep_cmps": address_of(h_rep_cmps),
        "rep_scas": address_of(h_rep_scas),
    }
