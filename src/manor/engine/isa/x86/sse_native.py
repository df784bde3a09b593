# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""SSE instructions too rare, or with too many immediates, for a uop of their own.

WHY NATIVE: called from generated code. SAFETY: xmm numbers come from the translator and are 0 to 17;
guest memory only through the softmmu. Thread: the vCPU's. Declared in `fpu_helpers`.
Source: SDM volume 2, by mnemonic; 4.1 (imm8 of the string instructions).
"""

import cython
from cython.cimports.libc.stdint import int8_t, int16_t, uint8_t, uint16_t, uint32_t, uint64_t
from cython.cimports.libc.string import memcpy
from cython.cimports.manor.engine.env import (
    FLAG_CODE64,
    FLAG_LIMITS,
    FLAG_MMU_SHIFT,
    RAX,
    RCX,
    RDI,
    RDX,
    SEG_BASE,
    XMM_SCRATCH,
    Env,
)
from cython.cimports.manor.engine.host import U32_MAX, fence
from cython.cimports.manor.engine.isa.x86.descriptor_native import check_access
from cython.cimports.manor.engine.isa.x86.fpu_native import host_stmxcsr
from cython.cimports.manor.engine.isa.x86.sse_native import crc_8, crc_16, crc_32, crc_64
from cython.cimports.manor.engine.softmmu_native import mem_write, probe
from cython.cimports.manor.engine.vector_interp import v_addpd, v_haddps, v_mulpd, v_mulps


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def cell(env: cython.pointer[Env], number: uint64_t) -> cython.pointer[uint8_t]:
    """The 16 bytes of an xmm register."""
    return cython.cast(cython.pointer[uint8_t], cython.address(env.xmm[2 * (number & 0x1F)]))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def pblendw(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    d: cython.pointer[uint16_t] = cython.cast(cython.pointer[uint16_t], cell(env, a))
    s: cython.pointer[uint16_t] = cython.cast(cython.pointer[uint16_t], cell(env, b))
    i: cython.int
    for i in range(8):
        if (imm >> i) & 1:
            d[i] = s[i]
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def insertps(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    d: cython.pointer[uint32_t] = cython.cast(cython.pointer[uint32_t], cell(env, a))
    s: cython.pointer[uint32_t] = cython.cast(cython.pointer[uint32_t], cell(env, b))
    i: cython.int
    d[(imm >> 4) & 3] = s[0 if b >= XMM_SCRATCH else (imm >> 6) & 3]
    for i in range(4):
        if (imm >> i) & 1:
            d[i] = 0
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _stop(env: cython.pointer[Env]) -> cython.bint:
    """After one step of a dot product: an unmasked exception ends it, and `sse_trap_check` raises it.

    "Exceptions are determined separately for each add and multiply operation" (SDM volume 2, DPPS).
    """
    return host_stmxcsr() & ~(env.mxcsr >> 7) & 0x3F != 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def dpps(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    """Lanes that are not selected are multiplied as zeros, so they raise nothing."""
    x: uint32_t[4]
    y: uint32_t[4]
    d: cython.pointer[uint32_t] = cython.cast(cython.pointer[uint32_t], cell(env, a))
    i: cython.int
    memcpy(x, d, 16)
    memcpy(y, cell(env, b), 16)
    for i in range(4):
        if not (imm >> (4 + i)) & 1:
            x[i] = y[i] = 0
    p: cython.pointer[uint8_t] = cython.cast(cython.pointer[uint8_t], cython.address(x[0]))
    v_mulps(p, p, cython.cast(cython.pointer[uint8_t], cython.address(y[0])), 0, 0, 0)
    if _stop(env):
        return 0
    v_haddps(p, p, p, 0, 0, 0)
    if _stop(env):
        return 0
    v_haddps(p, p, p, 0, 0, 0)
    for i in range(4):
        d[i] = x[0] if (imm >> i) & 1 else 0
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def dppd(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    x: uint64_t[2]
    y: uint64_t[2]
    d: cython.pointer[uint64_t] = cython.cast(cython.pointer[uint64_t], cell(env, a))
    i: cython.int
    memcpy(x, d, 16)
    memcpy(y, cell(env, b), 16)
    for i in range(2):
        if not (imm >> (4 + i)) & 1:
            x[i] = y[i] = 0
    p: cython.pointer[uint8_t] = cython.cast(cython.pointer[uint8_t], cython.address(x[0]))
    q: cython.pointer[uint8_t] = cython.cast(cython.pointer[uint8_t], cython.address(y[0]))
    v_mulpd(p, p, q, 0, 0, 0)
    if _stop(env):
        return 0
    # Each lane adds the other product to its own: of two NaNs the lane's own wins, as on the host.
    y[0] = x[1]
    y[1] = x[0]
    v_addpd(p, p, q, 0, 0, 0)
    for i in range(2):
        d[i] = x[i] if (imm >> i) & 1 else 0
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def mpsadbw(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    x: uint8_t[16]
    result: uint16_t[8]
    d: cython.pointer[uint8_t] = cell(env, a)
    s: cython.pointer[uint8_t] = cell(env, b) + 4 * (imm & 3)
    start: cython.int = 4 if imm & 4 else 0
    i: cython.int
    j: cython.int
    total: cython.int
    difference: cython.int
    memcpy(x, d, 16)
    for i in range(8):
        total = 0
        for j in range(4):
            difference = cython.cast(cython.int, x[start + i + j]) - s[j]
            total += -difference if difference < 0 else difference
        result[i] = total
    memcpy(d, result, 16)
    return 0


# ------------------------------------------------------------------ string instructions
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _element(p: cython.pointer[uint8_t], i: cython.int, format: cython.int) -> cython.int:
    """Element i: unsigned or signed bytes or words by bits 1:0 of imm8."""
    if format & 1:
        word: uint16_t = cython.cast(cython.pointer[uint16_t], p)[i]
        if format & 2:
            return cython.cast(int16_t, word)
        return word
    if format & 2:
        return cython.cast(int8_t, p[i])
    return p[i]


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _implicit(p: cython.pointer[uint8_t], count: cython.int, format: cython.int) -> cython.int:
    """Elements before the first zero."""
    i: cython.int
    for i in range(count):
        if _element(p, i, format) == 0:
            return i
    return count


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _explicit(value: uint64_t, wide: cython.bint, count: cython.int) -> cython.int:
    """Absolute value of EAX or EDX (RAX, RDX with REX.W), at most the number of elements."""
    if not wide:
        value &= U32_MAX
        if value >> 31:
            value = (0 - value) & U32_MAX
    elif value >> 63:
        value = 0 - value
    return count if value > cython.cast(uint64_t, count) else value


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _aggregate(
    x: cython.pointer[uint8_t], y: cython.pointer[uint8_t], nx: cython.int, ny: cython.int, control: cython.int
) -> uint32_t:
    """IntRes2: one bit for each element of the second operand (y)."""
    count: cython.int = 8 if control & 1 else 16
    result: uint32_t = 0
    i: cython.int
    j: cython.int
    value: cython.int
    hit: cython.bint
    operation: cython.int = (control >> 2) & 3
    for j in range(count):
        value = _element(y, j, control)
        hit = False
        if operation == 0:  # equal any
            if j < ny:
                for i in range(nx):
                    if _element(x, i, control) == value:
                        hit = True
        elif operation == 1:  # ranges
            if j < ny:
                i = 0
                while i + 1 < nx:
                    if _element(x, i, control) <= value and value <= _element(x, i + 1, control):
                        hit = True
                    i += 2
        elif operation == 2:  # equal each; beyond both ends is equal, beyond one is not
            hit = (j >= nx and j >= ny) or (j < nx and j < ny and _element(x, j, control) == value)
        else:  # equal ordered: x begins at j; what reaches past the register counts as equal
            hit = True
            i = 0
            while i < nx and i + j < count:
                if i + j >= ny or _element(x, i, control) != _element(y, i + j, control):
                    hit = False
                i += 1
        if hit:
            result |= cython.cast(uint32_t, 1) << j
    if control & 0x10:
        if control & 0x20:  # masked: only valid elements of the second operand are negated
            result ^= (cython.cast(uint32_t, 1) << ny) - 1
        else:
            result ^= (cython.cast(uint32_t, 1) << count) - 1
    return result


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _compare_strings(
    env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t, explicit: cython.bint, mask: cython.bint
) -> uint64_t:
    control: cython.int = imm & 0x7F
    count: cython.int = 8 if control & 1 else 16
    x: cython.pointer[uint8_t] = cell(env, a)
    y: cython.pointer[uint8_t] = cell(env, b & 0xFF)
    nx: cython.int
    ny: cython.int
    i: cython.int
    if explicit:
        nx = _explicit(env.regs[RAX], (b >> 8) & 1, count)
        ny = _explicit(env.regs[RDX], (b >> 8) & 1, count)
    else:
        nx = _implicit(x, count, control)
        ny = _implicit(y, count, control)
    result: uint32_t = _aggregate(x, y, nx, ny, control)
    flags: uint64_t = 0
    if result:
        flags |= 1  # CF
    if ny < count:
        flags |= 0x40  # ZF
    if nx < count:
        flags |= 0x80  # SF
    if result & 1:
        flags |= 0x800  # OF
    if not mask:
        i = 0
        if control & 0x40:  # most significant
            i = count - 1
            while i >= 0 and not (result >> i) & 1:
                i -= 1
            if i < 0:
                i = count
        else:
            while i < count and not (result >> i) & 1:
                i += 1
        env.regs[RCX] = i
        return flags
    if control & 0x40:  # as a mask of elements, else of bits
        for i in range(16):
            env_byte: uint32_t = (result >> (i >> 1 if control & 1 else i)) & 1
            cell(env, 0)[i] = 0xFF if env_byte else 0
    else:
        env.xmm[0] = result
        env.xmm[1] = 0
    return flags


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def pcmpestri(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    return _compare_strings(env, a, b, imm, True, False)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def pcmpestrm(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    return _compare_strings(env, a, b, imm, True, True)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def pcmpistri(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    return _compare_strings(env, a, b, imm, False, False)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def pcmpistrm(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    return _compare_strings(env, a, b, imm, False, True)


# ------------------------------------------------------------------ masked stores, CRC, fence
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _masked_store(
    env: cython.pointer[Env],
    data: cython.pointer[uint8_t],
    mask: cython.pointer[uint8_t],
    size: cython.int,
    imm: uint64_t,
) -> uint64_t:
    """imm: IMM_STRING (address size and segment). Faults are those of the whole operand, as if it were written."""
    offset: uint64_t = env.regs[RDI]
    address_size: cython.int = (imm >> 16) & 0xFF
    i: cython.int
    if address_size == 4:
        offset &= U32_MAX
    elif address_size == 2:
        offset &= 0xFFFF
    seg: uint32_t = cython.cast(uint32_t, (imm >> 32) & 7)
    address: uint64_t = offset + env.regs[SEG_BASE + seg]
    if not env.block_flags & FLAG_CODE64:
        address &= U32_MAX
        if (env.block_flags & FLAG_LIMITS or seg >= 4) and not check_access(env, seg, offset, size, 1):
            return 0
    for i in range(size):
        if mask[i] & 0x80:
            break
    else:
        return 0
    if not probe(env, address, size, (env.block_flags >> FLAG_MMU_SHIFT) & 3, 1):
        return 0
    for i in range(size):
        if mask[i] & 0x80:
            mem_write(env, address + i, data[i], 1)
            if env.fault:
                return 0
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def maskmovdqu(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    return _masked_store(env, cell(env, a), cell(env, b), 16, imm)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def maskmovq(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    """a, b: the values themselves."""
    return _masked_store(
        env,
        cython.cast(cython.pointer[uint8_t], cython.address(a)),
        cython.cast(cython.pointer[uint8_t], cython.address(b)),
        8,
        imm,
    )


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def crc32(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    """CRC-32C of `imm` bytes."""
    if imm == 1:
        return crc_8(cython.cast(uint32_t, a), cython.cast(uint8_t, b))
    if imm == 2:
        return crc_16(cython.cast(uint32_t, a), cython.cast(uint16_t, b))
    if imm == 4:
        return crc_32(cython.cast(uint32_t, a), cython.cast(uint32_t, b))
    return crc_64(a & U32_MAX, b)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def memory_fence(env: cython.pointer[Env], a: uint64_t, b: uint64_t, imm: uint64_t) -> uint64_t:
    fence()
    return 0


def addresses() -> dict[str, int]:
    """Helper name -> address of its code."""
    return {
        "pblendw": cython.cast(uint64_t, cython.cast(cython.p_void, pblendw)),
        "insertps": cython.cast(uint64_t, cython.cast(cython.p_void, insertps)),
        "dpps": cython.cast(uint64_t, cython.cast(cython.p_void, dpps)),
        "dppd": cython.cast(uint64_t, cython.cast(cython.p_void, dppd)),
        "mpsadbw": cython.cast(uint64_t, cython.cast(cython.p_void, mpsadbw)),
        "pcmpestri": cython.cast(uint64_t, cython.cast(cython.p_void, pcmpestri)),
        "pcmpestrm": cython.cast(uint64_t, cython.cast(cython.p_void, pcmpestrm)),
        "pcmpistri": cython.cast(uint64_t, cython.cast(cython.p_void, pcmpistri)),
        "pcmpistrm": cython.cast(uint64_t, cython.cast(cython.p_void, pcmpistrm)),
        "maskmovdqu": cython.cast(uint64_t, cython.cast(cython.p_void, maskmovdqu)),
        "maskmovq": cython.cast(uint64_t, cython.cast(cython.p_void, maskmovq)),
        "crc32": cython.cast(uint64_t, cython.cast(cython.p_void, crc32)),
        "memory_fence": cython.cast(uint64_t, cython.cast(cython.p_void, memory_fence)),
    }
