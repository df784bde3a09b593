# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Segment descriptors, the hidden parts of segment registers, stacks, and the mode bits of the block key.

What loads, gates, interrupts and task switches have in common.
Source: SDM volume 3, 3.4 (segmentation), 5.5 to 5.8 (protection), 5.12 (stack faults).
"""

from __future__ import annotations

import cython
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.manor.engine.env import (
    FLAG_AC,
    FLAG_CODE32,
    FLAG_CODE64,
    FLAG_FLAT,
    FLAG_FPU_OFF,
    FLAG_FPU_TRAP,
    FLAG_IOPL_OK,
    FLAG_LIMITS,
    FLAG_MMU_SHIFT,
    FLAG_PROTECTED,
    FLAG_SSE_OFF,
    FLAG_STACK32,
    FLAG_TRACE,
    FLAG_VM86,
    MMU_SUPERVISOR,
    MMU_SUPERVISOR_NO_SMAP,
    MMU_USER,
    RSP,
    SEG_BASE,
    TRACE_BLOCKS,
    Env,
)
from cython.cimports.manor.engine.host import U32_MAX, U64_MAX
from cython.cimports.manor.engine.isa.x86.bits import (
    ATTR_BIG,
    ATTR_CODE,
    ATTR_DPL_SHIFT,
    ATTR_EXPAND_DOWN,
    ATTR_LONG,
    ATTR_PRESENT,
    ATTR_S,
    ATTR_WRITABLE,
    CR0_AM,
    CR0_EM,
    CR0_PE,
    CR0_TS,
    CR4_OSFXSR,
    CR4_SMAP,
    EFER_LMA,
    RF_AC,
    RF_IF,
    RF_VM,
    SEG_CS,
    SEG_DS,
    SEG_ES,
    SEG_LDT,
    SEG_SS,
    VEC_GP,
    VEC_NP,
    VEC_SS,
    VEC_TS,
    canonical,
)
from cython.cimports.manor.engine.softmmu_native import (
    MODE_STACK,
    clear_jump_cache,
    mode_read,
    mode_write,
    raise_fault,
    sys_read,
    sys_write,
)

# ------------------------------------------------------------------ modes


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def code64(env: cython.pointer[Env]) -> cython.int:
    """Whether 64-bit code runs."""
    return 1 if env.efer & EFER_LMA and env.seg_attributes[SEG_CS] & ATTR_LONG else 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def virtual8086(env: cython.pointer[Env]) -> cython.int:
    """Whether the CPU is in virtual-8086 mode."""
    return 1 if env.rflags & RF_VM and env.cr[0] & CR0_PE and not env.efer & EFER_LMA else 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def protected_mode(env: cython.pointer[Env]) -> cython.int:
    """Protected or IA-32e mode, but not virtual-8086."""
    return 1 if env.cr[0] & CR0_PE and not virtual8086(env) else 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def mmu_mode(env: cython.pointer[Env], cpl: uint32_t) -> uint32_t:
    """MMU_* of explicit accesses at a privilege level, by CR4.SMAP and RFLAGS.AC as they are."""
    if cpl == 3:
        return MMU_USER
    if env.cr[4] & CR4_SMAP and env.rflags & RF_AC:
        return MMU_SUPERVISOR_NO_SMAP
    return MMU_SUPERVISOR


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _unrestricted(env: cython.pointer[Env], seg: uint32_t) -> cython.bint:
    """Whether an access through this segment cannot fail a segment check."""
    attributes: uint32_t = env.seg_attributes[seg]
    if env.seg_limit[seg] != U32_MAX:
        return False
    if not protected_mode(env):
        return True
    if (attributes & (ATTR_PRESENT | ATTR_S | ATTR_WRITABLE)) != (ATTR_PRESENT | ATTR_S | ATTR_WRITABLE):
        return False
    return seg == SEG_CS or not attributes & (ATTR_CODE | ATTR_EXPAND_DOWN)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def update_block_flags(env: cython.pointer[Env]) -> cython.void:
    """Compose env.block_flags and the segment bases that code uses from the architectural state."""
    i: uint32_t
    flags: uint32_t = env.cpl | (mmu_mode(env, env.cpl) << FLAG_MMU_SHIFT)
    for i in range(6):
        env.regs[SEG_BASE + i] = env.seg_base[i]
    if code64(env):
        flags |= FLAG_CODE64 | FLAG_FLAT | FLAG_PROTECTED
        for i in range(4):
            env.regs[SEG_BASE + i] = 0
    else:
        if protected_mode(env):
            flags |= FLAG_PROTECTED
        elif virtual8086(env):
            flags |= FLAG_VM86
        if env.seg_attributes[SEG_CS] & ATTR_BIG:
            flags |= FLAG_CODE32
        if env.seg_attributes[SEG_SS] & ATTR_BIG:
            flags |= FLAG_STACK32
        if not (env.seg_base[SEG_ES] | env.seg_base[SEG_CS] | env.seg_base[SEG_SS] | env.seg_base[SEG_DS]):
            flags |= FLAG_FLAT
        for i in range(4):
            if not _unrestricted(env, i):
                flags |= FLAG_LIMITS
    if env.cr[0] & (CR0_EM | CR0_TS):
        flags |= FLAG_FPU_OFF | FLAG_SSE_OFF
    if not env.cr[4] & CR4_OSFXSR:
        flags |= FLAG_SSE_OFF
    if (env.mxcsr & 0x1F80) != 0x1F80:
        flags |= FLAG_FPU_TRAP
    if env.cpl <= ((env.rflags >> 12) & 3):
        flags |= FLAG_IOPL_OK
    if env.cpl == 3 and env.cr[0] & CR0_AM and env.rflags & RF_AC:
        flags |= FLAG_AC
    if env.trace & TRACE_BLOCKS:
        flags |= FLAG_TRACE
    env.block_flags = flags


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def notice_interrupts(env: cython.pointer[Env]) -> cython.void:
    """After RFLAGS.IF may have become set: look at pending interrupts at the next block head."""
    if env.rflags & RF_IF and env.irq_pending:
        env.interrupt = 1
    if env.nmi_pending and not env.nmi_blocked:
        env.interrupt = 1


# ------------------------------------------------------------------ descriptors


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def descriptor_base(d: uint64_t) -> uint64_t:
    """Base address, 32 bits."""
    return ((d >> 16) & 0xFFFFFF) | ((d >> 56) << 24)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def descriptor_limit(d: uint64_t) -> uint32_t:
    """Limit in bytes, granularity applied."""
    limit: uint32_t = cython.cast(uint32_t, (d & 0xFFFF) | ((d >> 32) & 0xF0000))
    if (d >> 55) & 1:
        limit = (limit << 12) | 0xFFF
    return limit


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def descriptor_attributes(d: uint64_t) -> uint32_t:
    """Descriptor bits 40-47 and 52-55, as env.seg_attributes holds them."""
    return cython.cast(uint32_t, (d >> 40) & 0xF0FF)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def descriptor_address(env: cython.pointer[Env], selector: uint32_t, size: uint32_t) -> uint64_t:
    """Linear address of a descriptor of 8 or 16 bytes; all ones when it is beyond its table."""
    offset: uint32_t = selector & 0xFFF8
    if selector & 4:
        if env.seg_selector[SEG_LDT] & 0xFFFC == 0 or offset + size - 1 > env.seg_limit[SEG_LDT]:
            return U64_MAX
        return env.seg_base[SEG_LDT] + offset
    if offset + size - 1 > env.gdt_limit:
        return U64_MAX
    return env.gdt_base + offset


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def read_descriptor(
    env: cython.pointer[Env], selector: uint32_t, vector: uint32_t, ext: uint32_t, d: cython.pointer[uint64_t]
) -> cython.int:
    """Read the 8-byte descriptor of a selector; 0 after raising (vector: beyond the table)."""
    address: uint64_t = descriptor_address(env, selector, 8)
    if address == U64_MAX:
        raise_fault(env, vector, (selector & 0xFFFC) | ext)
        return 0
    d[0] = sys_read(env, address, 8)
    return 1 if env.fault == 0 else 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def mark_accessed(env: cython.pointer[Env], selector: uint32_t, d: uint64_t) -> uint64_t:
    """Set the accessed bit of a code or data descriptor in memory; the descriptor with it set."""
    one: uint64_t = 1
    if d & (one << 40):
        return d
    d |= one << 40
    sys_write(env, descriptor_address(env, selector, 8) + 5, (d >> 40) & 0xFF, 1)
    return d


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def set_segment(
    env: cython.pointer[Env],
    seg: uint32_t,
    selector: uint32_t,
    base: uint64_t,
    limit: uint32_t,
    attributes: uint32_t,
) -> cython.void:
    """Load a segment register with its hidden part, unchecked."""
    env.seg_selector[seg] = selector & 0xFFFF
    if seg == SEG_CS and env.seg_base[SEG_CS] != base:
        clear_jump_cache(env)  # its keys are offsets in CS
    env.seg_base[seg] = base
    env.seg_limit[seg] = limit
    env.seg_attributes[seg] = attributes
    if seg < 6:
        # in 64-bit mode ES, CS, SS and DS count as based at zero
        env.regs[SEG_BASE + seg] = 0 if seg < 4 and code64(env) else base


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def set_from_descriptor(env: cython.pointer[Env], seg: uint32_t, selector: uint32_t, d: uint64_t) -> cython.void:
    """Load a segment register from its descriptor, unchecked."""
    set_segment(env, seg, selector, descriptor_base(d), descriptor_limit(d), descriptor_attributes(d))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def set_real_segment(env: cython.pointer[Env], seg: uint32_t, selector: uint32_t) -> cython.void:
    """Real mode: the base changes, limit and attributes stay. A far transfer makes CS writable data again."""
    selector &= 0xFFFF
    set_segment(env, seg, selector, selector << 4, env.seg_limit[seg], env.seg_attributes[seg])


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def set_v86_segment(env: cython.pointer[Env], seg: uint32_t, selector: uint32_t) -> cython.void:
    """Virtual-8086 mode: base = selector * 16, 64 KiB, writable, DPL 3."""
    selector &= 0xFFFF
    set_segment(env, seg, selector, selector << 4, 0xFFFF, 0xF3)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def load_data_segment(
    env: cython.pointer[Env], seg: uint32_t, selector: uint32_t, cpl: uint32_t, vector: uint32_t, ext: uint32_t
) -> cython.int:
    """Load ES, SS, DS, FS or GS in protected mode with all checks; 0 after raising.

    vector: #GP for instructions, #TS in a task switch or when an inner stack is loaded.
    """
    d: uint64_t = 0
    attributes: uint32_t
    dpl: uint32_t
    rpl: uint32_t = selector & 3
    error: uint32_t = (selector & 0xFFFC) | ext
    if selector & 0xFFFC == 0:
        if seg == SEG_SS:
            if not (code64(env) and cpl < 3 and rpl == cpl and vector != VEC_TS):
                raise_fault(env, vector, ext)
                return 0
            set_segment(env, seg, selector, 0, 0, cpl << ATTR_DPL_SHIFT)
            return 1
        set_segment(env, seg, selector, 0, 0, 0)
        return 1
    if not read_descriptor(env, selector, vector, ext, cython.address(d)):
        return 0
    attributes = descriptor_attributes(d)
    dpl = (attributes >> ATTR_DPL_SHIFT) & 3
    if not attributes & ATTR_S:
        raise_fault(env, vector, error)
        return 0
    if seg == SEG_SS:
        if attributes & ATTR_CODE or not attributes & ATTR_WRITABLE or rpl != cpl or dpl != cpl:
            raise_fault(env, vector, error)
            return 0
    else:
        if attributes & ATTR_CODE and not attributes & ATTR_WRITABLE:
            raise_fault(env, vector, error)
            return 0
        if not (attributes & ATTR_CODE and attributes & ATTR_EXPAND_DOWN) and (rpl > dpl or cpl > dpl):
            raise_fault(env, vector, error)
            return 0
    if not attributes & ATTR_PRESENT:
        raise_fault(env, VEC_SS if seg == SEG_SS else VEC_NP, error)
        return 0
    d = mark_accessed(env, selector, d)
    if env.fault:
        return 0
    set_from_descriptor(env, seg, selector, d)
    return 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def load_ldt(env: cython.pointer[Env], selector: uint32_t, vector: uint32_t) -> cython.int:
    """Load LDTR with all checks; 0 after raising."""
    d: uint64_t = 0
    high: uint64_t = 0
    address: uint64_t
    error: uint32_t = selector & 0xFFFC
    size: uint32_t = 16 if env.efer & EFER_LMA else 8
    if error == 0:
        set_segment(env, SEG_LDT, selector, 0, 0, 0)
        return 1
    address = U64_MAX if selector & 4 else descriptor_address(env, selector, size)
    if address == U64_MAX:
        raise_fault(env, vector, error)
        return 0
    d = sys_read(env, address, 8)
    if env.fault == 0 and size == 16:
        high = sys_read(env, address + 8, 8)
    if env.fault:
        return 0
    if (d >> 40) & 0x1F != 2:
        raise_fault(env, vector, error)
        return 0
    if not (d >> 47) & 1:
        raise_fault(env, VEC_NP, error)
        return 0
    set_from_descriptor(env, SEG_LDT, selector, d)
    if size == 16:
        env.seg_base[SEG_LDT] |= high << 32
        if not canonical(env.seg_base[SEG_LDT]):
            set_segment(env, SEG_LDT, 0, 0, 0, 0)
            raise_fault(env, vector, error)
            return 0
    return 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def limit_ok(limit: uint32_t, attributes: uint32_t, offset: uint64_t, size: uint32_t) -> cython.int:
    """Whether [offset, offset + size) lies in a segment; offset is below 4 GiB."""
    last: uint64_t = offset + size - 1
    if attributes & (ATTR_S | ATTR_CODE | ATTR_EXPAND_DOWN) == ATTR_S | ATTR_EXPAND_DOWN:
        return 1 if offset > limit and last <= (U32_MAX if attributes & ATTR_BIG else 0xFFFF) else 0
    return 1 if last <= limit else 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def check_access(
    env: cython.pointer[Env], seg: uint32_t, offset: uint64_t, size: uint32_t, write: cython.int
) -> cython.int:
    """Limit and type of a data access outside 64-bit mode; 0 after raising #GP(0) or #SS(0)."""
    attributes: uint32_t = env.seg_attributes[seg]
    bad: cython.bint = False
    if protected_mode(env):
        if not attributes & ATTR_PRESENT:
            bad = True  # null
        elif write:
            bad = (attributes & ATTR_CODE) != 0 or not attributes & ATTR_WRITABLE
        else:
            bad = (attributes & ATTR_CODE) != 0 and not attributes & ATTR_WRITABLE
        attributes |= ATTR_S
    else:
        attributes = ATTR_S | ATTR_WRITABLE
    if bad or not limit_ok(env.seg_limit[seg], attributes, offset & U32_MAX, size):
        raise_fault(env, VEC_SS if seg == SEG_SS else VEC_GP, 0)
        return 0
    return 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def elements_within(
    env: cython.pointer[Env], seg: uint32_t, offset: uint64_t, size: uint64_t, down: cython.int, mask: uint64_t
) -> uint64_t:
    """How many elements from `offset` on, outside 64-bit mode, need no check and no wrap-around at `mask`.

    0 also where the segment is not plain (not writable, expand-down): then check each element.
    """
    last: uint64_t = mask
    plain: uint32_t = ATTR_PRESENT | ATTR_WRITABLE
    if protected_mode(env):
        if env.seg_attributes[seg] & (plain | ATTR_CODE | ATTR_EXPAND_DOWN) != plain:
            return 0
    if env.seg_limit[seg] < last:
        last = env.seg_limit[seg]
    if offset + size - 1 > last:
        return 0
    return offset // size + 1 if down else (last - offset + 1) // size


# ------------------------------------------------------------------ stacks


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def current_stack(env: cython.pointer[Env], s: cython.pointer[Stack], size: uint32_t) -> cython.void:
    """The stack as SS:RSP has it, for accesses at the current privilege level."""
    s.sp = env.regs[RSP]
    s.size = size
    s.mode = mmu_mode(env, env.cpl) | MODE_STACK
    s.error = 0
    if code64(env):
        s.base = 0
        s.mask = U64_MAX
        s.limit = cython.cast(uint32_t, U32_MAX)
        s.attributes = 0
    else:
        s.base = env.seg_base[SEG_SS]
        s.mask = U32_MAX if env.seg_attributes[SEG_SS] & ATTR_BIG else 0xFFFF
        s.limit = env.seg_limit[SEG_SS]
        s.attributes = env.seg_attributes[SEG_SS] | ATTR_S


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _stack_address(
    env: cython.pointer[Env], s: cython.pointer[Stack], offset: uint64_t, address: cython.pointer[uint64_t]
) -> cython.int:
    if s.mask == U64_MAX:
        address[0] = offset
        return 1
    if not limit_ok(s.limit, s.attributes, offset, s.size):
        raise_fault(env, VEC_SS, s.error)
        return 0
    address[0] = (s.base + offset) & U32_MAX
    return 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def push(env: cython.pointer[Env], s: cython.pointer[Stack], value: uint64_t) -> cython.void:
    """Push on a stack not yet in RSP: commit with set_sp. Does nothing when a fault is pending."""
    address: uint64_t = 0
    if env.fault:
        return
    s.sp = (s.sp & ~s.mask) | ((s.sp - s.size) & s.mask)
    if _stack_address(env, s, s.sp & s.mask, cython.address(address)):
        mode_write(env, address, value, s.size, s.mode)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def pop(env: cython.pointer[Env], s: cython.pointer[Stack]) -> uint64_t:
    """Pop; 0 when a fault is pending."""
    address: uint64_t = 0
    value: uint64_t
    if env.fault or not _stack_address(env, s, s.sp & s.mask, cython.address(address)):
        return 0
    value = mode_read(env, address, s.size, s.mode)
    s.sp = (s.sp & ~s.mask) | ((s.sp + s.size) & s.mask)
    return value


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def set_sp(env: cython.pointer[Env], s: cython.pointer[Stack]) -> cython.void:
    """Commit the stack pointer: 16-bit stacks keep the upper bits, 32-bit ones clear them."""
    if s.mask == U64_MAX:
        env.regs[RSP] = s.sp
    elif s.mask == U32_MAX:
        env.regs[RSP] = s.sp & U32_MAX
    else:
        env.regs[RSP] = (env.regs[RSP] & ~s.mask) | (s.sp & s.mask)
