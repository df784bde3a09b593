# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Decode guest instructions and expand their templates to uops.

WHY NATIVE: every guest instruction passes here once; at 1 us each a kernel boot spends a third
of a second in it (benchmarks/). SAFETY: reads guest bytes through the page pointer given by
the softmmu, never beyond the page; writes only the caller's Translator and uop buffer, whose
bounds MAX_UOPS and INSN_UOPS are checked before each instruction. Runs under vm.lock.

The tables come from `tables.serialize()`; encoding rules: SDM volume 2, chapter 2.
"""

import cython
from cython.cimports.libc.stdint import int32_t, uint8_t, uint32_t, uint64_t
from cython.cimports.libc.string import memcpy
from cython.cimports.manor.engine.env import Env
from cython.cimports.manor.engine.isa.x86.address_native import effective_address
from cython.cimports.manor.engine.isa.x86.decode_native import (
    decode_immediates,
    decode_modrm,
    decode_prefixes,
)
from cython.cimports.manor.engine.isa.x86.expand_native import expand
from cython.cimports.manor.engine.isa.x86.table_native import (
    dispatch,
    entries,
    modrm_flags,
    rm_tables,
    templates,
)
from cython.cimports.manor.engine.isa.x86.translator import MAX_EXITS, Entry, Template, Translator
from cython.cimports.manor.engine.isa.x86.uop_native import emit, emit_helper, emit_stop, is_branch
from cython.cimports.manor.engine.softmmu_native import fetch_gpa, raise_fault
from cython.cimports.manor.engine.uop.uop import SIDE_EXIT, Uop
from cython.cimports.manor.engine.vm import Vm
from cython.cimports.manor.engine.walk_native import ram_pointer

from manor.engine import env as _env
from manor.engine.isa.x86 import flags as _flags
from manor.engine.isa.x86 import helper_catalog as _helpers
from manor.engine.isa.x86 import tables as _tables
from manor.engine.uop import table as _uops

cython.declare(
    U_JUMP=cython.int, H_RAISE=cython.int, H_INVALID=cython.int, H_UNAVAILABLE=cython.int, H_CODE_LIMIT=cython.int,
    E_DEFAULT64=cython.int, E_LOCK=cython.int, E_POP_EA=cython.int, E_LEA=cython.int, E_X87=cython.int,
    E_SSE=cython.int, E_MMX=cython.int, K_MOFFS=cython.int, DYNAMIC=cython.int, V_ZERO=cython.int, V_S0=cython.int,
    F_CODE64=cython.int, F_FPU_OFF=cython.int, F_SSE_OFF=cython.int, F_ONE_INSN=cython.int, F_LIMITS=cython.int,
    F_FPU_TRAP=cython.int, E_RAISES_FP=cython.int, E_CPL0=cython.int, F_PROTECTED=cython.int, H_FP_BEGIN=cython.int,
    H_FP_CHECK=cython.int,
)  # fmt: skip
_N = _uops.NUMBER
U_JUMP = _N["jump"]
H_RAISE = _helpers.HELPER_NUMBER["raise"]
H_INVALID = _helpers.HELPER_NUMBER["invalid_opcode"]
H_UNAVAILABLE = _helpers.HELPER_NUMBER["unavailable"]
H_CODE_LIMIT = _helpers.HELPER_NUMBER["code_limit"]
E_DEFAULT64 = _tables.ENTRY_DEFAULT64
E_LOCK = _tables.ENTRY_LOCK
E_POP_EA = _tables.ENTRY_POP_EA
E_LEA = _tables.ENTRY_LEA
E_X87 = _tables.ENTRY_X87
E_SSE = _tables.ENTRY_SSE
E_MMX = _tables.ENTRY_MMX
K_MOFFS = _tables.IMM_MOFFS
DYNAMIC = _flags.CC_DYNAMIC
V_ZERO = _env.ZERO
V_S0 = _env.SCRATCH0
F_CODE64 = _env.FLAG_CODE64
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


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def becomes_side_exit(t: cython.pointer(Translator)) -> cython.int:
    """Go on behind a conditional branch, if that is the way it will probably take: then it jumps forward.

    Behind a branch back lies what follows a loop. It is not worth being translated along with it.
    """
    u: cython.pointer(Uop) = cython.address(t.out[t.count - 1])
    if not is_branch(u.op) or t.first_exit + 3 > MAX_EXITS or t.exit_pc[t.first_exit] < t.next:
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
    if is_branch(u.op) or u.op == U_JUMP:
        u.x = t.first_exit
        t.exit_count += 2 if is_branch(u.op) else 1
        t.loops = t.exit_pc[u.x] == start and not t.flags & F_ONE_INSN


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
