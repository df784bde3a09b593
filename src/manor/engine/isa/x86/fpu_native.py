# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""SSE control state and the FXSAVE and XSAVE areas.

While guest code runs, the host's MXCSR holds the guest's rounding and denormal modes, all exceptions
masked: `fpu_enter` and `fpu_leave` bracket that. Sticky flags gather in the host's MXCSR and are
merged into env.mxcsr whenever someone looks.

WHY NATIVE: called from generated code. SAFETY: images are built in buffers of our own; guest memory is
read completely before state changes and checked for writing before it is written. Thread: the vCPU's.
Source: SDM volume 1, 10.5 (FXSAVE), 13 (XSAVE), 11.6.4; volume 2, FXSAVE, XSAVE, XRSTOR, LDMXCSR.
"""

import cython
from cython.cimports.libc.stdint import uint8_t, uint16_t, uint32_t, uint64_t
from cython.cimports.libc.string import memcpy, memset
from cython.cimports.manor.engine.env import (
    FLAG_CODE64,
    RAX,
    RDX,
    XMM_SCRATCH,
    Env,
)
from cython.cimports.manor.engine.host import U32_MAX
from cython.cimports.manor.engine.isa.x86.bits import (
    CR0_TS,
    CR4_OSXMMEXCPT,
    CR4_OSXSAVE,
    VEC_GP,
    VEC_NM,
    VEC_UD,
    VEC_XM,
)
from cython.cimports.manor.engine.isa.x86.descriptor_native import update_block_flags
from cython.cimports.manor.engine.isa.x86.flags_native import compute_eflags, set_eflags
from cython.cimports.manor.engine.isa.x86.fpu_native import host_ldmxcsr, host_stmxcsr
from cython.cimports.manor.engine.isa.x86.x87_native import (
    load_control,
    load_status,
    status_word,
    x87_reset,
)
from cython.cimports.manor.engine.softmmu_native import mode_read, mode_write, operand_mode, probe, raise_fault

cython.declare(PART_X87=cython.int, PART_SSE=cython.int, PART_MXCSR=cython.int)
PART_X87 = 1
PART_SSE = 2
PART_MXCSR = 4
cython.declare(MXCSR_UM=uint32_t, MXCSR_FTZ=uint32_t)
MXCSR_UM = 1 << 11
MXCSR_FTZ = 1 << 15


# ------------------------------------------------------------------ MXCSR
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def fpu_enter(env: cython.pointer[Env]) -> cython.void:
    """Guest code begins: the guest's modes with all exceptions masked and no flags yet."""
    host_ldmxcsr((env.mxcsr & 0xFFC0) | 0x1F80)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def fpu_leave(env: cython.pointer[Env]) -> cython.void:
    """Guest code ends: keep the flags it raised, give the host's code its own modes."""
    env.mxcsr |= host_stmxcsr() & 0x3F
    host_ldmxcsr(0x1F80)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _merge(env: cython.pointer[Env]) -> uint32_t:
    """The guest's MXCSR, complete."""
    env.mxcsr |= host_stmxcsr() & 0x3F
    return env.mxcsr


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _set_mxcsr(env: cython.pointer[Env], value: uint32_t) -> cython.void:
    env.mxcsr = value
    fpu_enter(env)
    update_block_flags(env)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def ldmxcsr(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    if a >> 16:
        raise_fault(env, VEC_GP, 0)
        return 0
    _set_mxcsr(env, cython.cast(uint32_t, a))
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def stmxcsr(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    return _merge(env)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def sse_trap_begin(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    """Before an SSE instruction in a block with FLAG_FPU_TRAP: whatever it may write goes to scratch cells."""
    number: uint64_t = imm & 15
    save: cython.pointer[uint64_t] = cython.address(env.xmm[2 * (XMM_SCRATCH + 2)])
    save[0] = env.xmm[2 * number]
    save[1] = env.xmm[2 * number + 1]
    save[2] = env.regs[number]
    save[3] = compute_eflags(env)
    _merge(env)
    fpu_enter(env)
    if not env.mxcsr & MXCSR_UM:  # an exact tiny result counts too, and flushing is what reports it with UM set
        host_ldmxcsr(host_stmxcsr() | MXCSR_FTZ)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def sse_trap_check(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    """After it: an unmasked exception undoes it and is raised. (With an unmasked underflow, PE is always set.)"""
    number: uint64_t = imm & 15
    save: cython.pointer[uint64_t] = cython.address(env.xmm[2 * (XMM_SCRATCH + 2)])
    flags: uint32_t = host_stmxcsr() & 0x3F
    if not env.mxcsr & MXCSR_UM:
        host_ldmxcsr((host_stmxcsr() & ~MXCSR_FTZ) | (env.mxcsr & MXCSR_FTZ))
    if flags & ~(env.mxcsr >> 7) & 7:  # found before anything was computed
        flags &= 7
        host_ldmxcsr((host_stmxcsr() & 0xFFC0) | flags)
    env.mxcsr |= flags
    if not flags & ~(env.mxcsr >> 7):
        return 0
    env.xmm[2 * number] = save[0]
    env.xmm[2 * number + 1] = save[1]
    env.regs[number] = save[2]
    set_eflags(env, save[3])
    raise_fault(env, VEC_XM if env.cr[4] & CR4_OSXMMEXCPT else VEC_UD, 0)
    return 0


# ------------------------------------------------------------------ FXSAVE images
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def fxsave_image(
    env: cython.pointer[Env], image: cython.pointer[uint8_t], form64: cython.int, xmm_count: cython.int
) -> cython.void:
    """The first 416 bytes of an FXSAVE area (form64: with 64-bit pointers). env.mxcsr must be complete."""
    words: cython.pointer[uint16_t] = cython.cast(cython.pointer[uint16_t], image)
    longs: cython.pointer[uint32_t] = cython.cast(cython.pointer[uint32_t], image)
    quads: cython.pointer[uint64_t] = cython.cast(cython.pointer[uint64_t], image)
    i: cython.int
    r: cython.int
    memset(image, 0, 416)
    words[0] = env.fpu_control
    words[1] = status_word(env)
    words[2] = ~env.fpu_tag & 0xFF
    words[3] = env.fpu_opcode & 0x7FF
    if form64:
        quads[1] = env.fpu_ip
        quads[2] = env.fpu_dp
    else:
        longs[2] = cython.cast(uint32_t, env.fpu_ip)
        longs[4] = cython.cast(uint32_t, env.fpu_dp)
    longs[6] = env.mxcsr
    longs[7] = 0xFFFF
    for i in range(8):
        r = (env.fpu_top + i) & 7
        quads[4 + 2 * i] = env.fpr[2 * r]
        quads[5 + 2 * i] = env.fpr[2 * r + 1] & 0xFFFF
    memcpy(image + 160, cython.address(env.xmm[0]), 16 * xmm_count)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def fxrstor_image(
    env: cython.pointer[Env],
    image: cython.pointer[cython.const[uint8_t]],
    form64: cython.int,
    xmm_count: cython.int,
    parts: cython.int,
) -> cython.void:
    """Load the parts (PART_X87, PART_SSE) of an image. MXCSR is the caller's."""
    words: cython.pointer[cython.const[uint16_t]] = cython.cast(cython.pointer[cython.const[uint16_t]], image)
    longs: cython.pointer[cython.const[uint32_t]] = cython.cast(cython.pointer[cython.const[uint32_t]], image)
    quads: cython.pointer[cython.const[uint64_t]] = cython.cast(cython.pointer[cython.const[uint64_t]], image)
    i: cython.int
    r: cython.int
    if parts & PART_X87:
        load_control(env, words[0])
        load_status(env, words[1])
        env.fpu_tag = ~words[2] & 0xFF
        env.fpu_opcode = words[3] & 0x7FF
        env.fpu_ip = quads[1] if form64 else longs[2]
        env.fpu_dp = quads[2] if form64 else longs[4]
        for i in range(8):
            r = (env.fpu_top + i) & 7
            env.fpr[2 * r] = quads[4 + 2 * i]
            env.fpr[2 * r + 1] = quads[5 + 2 * i] & 0xFFFF
    if parts & PART_SSE:
        memcpy(cython.address(env.xmm[0]), image + 160, 16 * xmm_count)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _xmm_count(env: cython.pointer[Env]) -> cython.int:
    return 16 if env.block_flags & FLAG_CODE64 else 8


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _write(
    env: cython.pointer[Env],
    address: uint64_t,
    image: cython.pointer[uint8_t],
    start: cython.int,
    end: cython.int,
    mode: uint32_t,
) -> cython.void:
    """Bytes [start, end) of an image, multiples of 8; the range was probed."""
    quads: cython.pointer[uint64_t] = cython.cast(cython.pointer[uint64_t], image)
    i: cython.int
    for i in range(start // 8, end // 8):
        mode_write(env, address + 8 * i, quads[i], 8, mode)
        if env.fault:
            return


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _read(
    env: cython.pointer[Env], address: uint64_t, image: cython.pointer[uint8_t], size: cython.int, mode: uint32_t
) -> cython.int:
    quads: cython.pointer[uint64_t] = cython.cast(cython.pointer[uint64_t], image)
    i: cython.int
    for i in range(size // 8):
        quads[i] = mode_read(env, address + 8 * i, 8, mode)
        if env.fault:
            return 0
    return 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def fxsave(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    image: uint64_t[64]
    mode: uint32_t = operand_mode(env, imm)
    if a & 15:
        raise_fault(env, VEC_GP, 0)
        return 0
    if not probe(env, a, 512, mode, 1):
        return 0
    _merge(env)
    area: cython.pointer[uint8_t] = cython.cast(cython.pointer[uint8_t], cython.address(image[0]))
    fxsave_image(env, area, imm & 1, _xmm_count(env))
    _write(env, a, area, 0, 160 + 16 * _xmm_count(env), mode)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def fxrstor(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    image: uint64_t[64]
    mode: uint32_t = operand_mode(env, imm)
    if a & 15:
        raise_fault(env, VEC_GP, 0)
        return 0
    area: cython.pointer[uint8_t] = cython.cast(cython.pointer[uint8_t], cython.address(image[0]))
    if not _read(env, a, area, 512, mode):
        return 0
    mxcsr: uint32_t = cython.cast(uint32_t, image[3])
    if mxcsr >> 16:
        raise_fault(env, VEC_GP, 0)
        return 0
    fxrstor_image(env, area, imm & 1, _xmm_count(env), PART_X87 | PART_SSE)
    _set_mxcsr(env, mxcsr)
    return 0


# ------------------------------------------------------------------ XSAVE areas
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _xsave_allowed(env: cython.pointer[Env], address: uint64_t) -> cython.int:
    if not env.cr[4] & CR4_OSXSAVE:
        raise_fault(env, VEC_UD, 0)
        return 0
    if env.cr[0] & CR0_TS:
        raise_fault(env, VEC_NM, 0)
        return 0
    if address & 63:
        raise_fault(env, VEC_GP, 0)
        return 0
    return 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _requested(env: cython.pointer[Env]) -> uint64_t:
    """EDX:EAX and XCR0."""
    return ((env.regs[RDX] << 32) | (env.regs[RAX] & U32_MAX)) & env.xcr0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def xsave(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    image: uint64_t[72]
    mode: uint32_t = operand_mode(env, imm)
    if not _xsave_allowed(env, a) or not probe(env, a, 576, mode, 1):
        return 0
    request: uint64_t = _requested(env)
    present: uint64_t = mode_read(env, a + 512, 8, mode)
    if env.fault:
        return 0
    _merge(env)
    area: cython.pointer[uint8_t] = cython.cast(cython.pointer[uint8_t], cython.address(image[0]))
    fxsave_image(env, area, imm & 1, _xmm_count(env))
    if request & PART_X87:
        _write(env, a, area, 0, 24, mode)
        _write(env, a, area, 32, 160, mode)
    if request & PART_SSE:
        _write(env, a, area, 24, 32, mode)
        _write(env, a, area, 160, 160 + 16 * _xmm_count(env), mode)
    mode_write(env, a + 512, (present & ~request) | request, 8, mode)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def xrstor(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    image: uint64_t[72]
    mode: uint32_t = operand_mode(env, imm)
    i: cython.int
    if not _xsave_allowed(env, a):
        return 0
    area: cython.pointer[uint8_t] = cython.cast(cython.pointer[uint8_t], cython.address(image[0]))
    if not _read(env, a, area, 576, mode):
        return 0
    request: uint64_t = _requested(env)
    present: uint64_t = image[64]
    # XCOMP_BV and the following eight bytes must be zero: there is no compacted form here.
    if present & ~env.xcr0 or image[65] or image[66]:
        raise_fault(env, VEC_GP, 0)
        return 0
    mxcsr: uint32_t = cython.cast(uint32_t, image[3])
    if request & PART_SSE and mxcsr >> 16:
        raise_fault(env, VEC_GP, 0)
        return 0
    if request & PART_X87:
        if present & PART_X87:
            fxrstor_image(env, area, imm & 1, 0, PART_X87)
        else:
            x87_reset(env)
            for i in range(16):
                env.fpr[i] = 0
    if request & PART_SSE:
        if present & PART_SSE:
            fxrstor_image(env, area, 0, _xmm_count(env), PART_SSE)
        else:
            memset(cython.address(env.xmm[0]), 0, 16 * _xmm_count(env))
        _set_mxcsr(env, mxcsr)
    return 0


def addresses() -> dict[str, int]:
    """Helper name -> address of its code; those of `sse_native` and `x87_native` too."""
    from manor.engine.isa.x86 import sse_native, x87_native

    return {
        **sse_native.addresses(),
        **x87_native.addresses(),
        "ldmxcsr": cython.cast(uint64_t, cython.cast(cython.p_void, ldmxcsr)),
        "stmxcsr": cython.cast(uint64_t, cython.cast(cython.p_void, stmxcsr)),
        "sse_trap_begin": cython.cast(uint64_t, cython.cast(cython.p_void, sse_trap_begin)),
        "sse_trap_check": cython.cast(uint64_t, cython.cast(cython.p_void, sse_trap_check)),
        "fxsave": cython.cast(uint64_t, cython.cast(cython.p_void, fxsave)),
        "fxrstor": cython.cast(uint64_t, cython.cast(cython.p_void, fxrstor)),
        "xsave": cython.cast(uint64_t, cython.cast(cython.p_void, xsave)),
        "xrstor": cython.cast(uint64_t, cython.cast(cython.p_void, xrstor)),
    }
