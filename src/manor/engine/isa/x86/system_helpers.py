"""The helpers of the system instructions: what each reads, writes and may raise.

Operands of each (a, b, imm) are in its `doc`. imm holds the operand size in bytes in bits 0-7 and the
instruction's length in bits 8-15 where it says "size" and "length". Those with `ends` semantics set env.rip.
"""

from __future__ import annotations

from typing import Final

from manor.engine.env import (
    CC_DST,
    CC_OP,
    CC_SRC,
    CC_SRC2,
    DIRECTION,
    RAX,
    RBX,
    RCX,
    RDX,
    SEG_BASE,
)
from manor.engine.uop.helper import ALL, Helper

CC: Final = (CC_OP, CC_DST, CC_SRC, CC_SRC2)
_BASES: Final = tuple(SEG_BASE + i for i in range(6))
_FS: Final = SEG_BASE + 4
_GS: Final = SEG_BASE + 5


def _control(name: str, doc: str) -> Helper:
    """A helper that may change anything: it delivers events or changes modes."""
    return Helper(name, reads=ALL, writes=ALL, faults=True, doc=doc)


def _checked(name: str, doc: str, reads: tuple[int, ...] = (), writes: tuple[int, ...] = ()) -> Helper:
    return Helper(name, reads=reads, writes=writes, faults=True, doc=doc)


def _at_operand(name: str, doc: str, reads: tuple[int, ...] = (), writes: tuple[int, ...] = ()) -> Helper:
    return Helper(name, reads=reads, writes=writes, faults=True, operand=True, doc=doc)


HELPERS: Final[tuple[Helper, ...]] = (
    # segment_native
    _checked("load_segment", "a = selector, imm = segment", writes=_BASES),
    Helper("read_segment", doc="imm = segment; returns the selector"),
    _checked("segment_check", "a = offset, b = size | write << 16, imm = segment"),
    _checked("code_limit", "imm = offset of the block's last byte"),
    _checked("target_check", "a = target, taken if imm or b"),
    _at_operand("lgdt", "a = address, imm = size"),
    _at_operand("lidt", "a = address, imm = size"),
    _at_operand("sgdt", "a = address"),
    _at_operand("sidt", "a = address"),
    _checked("lldt", "a = selector"),
    _checked("ltr", "a = selector"),
    _checked("sldt", "returns the selector"),
    _checked("str", "returns the selector"),
    _checked("lar", "a = selector, b = old destination, imm = size; returns the new one, sets ZF", CC, CC),
    _checked("lsl", "a = selector, b = old destination, imm = size; returns the new one, sets ZF", CC, CC),
    _checked("verr", "a = selector; sets ZF", CC, CC),
    _checked("verw", "a = selector; sets ZF", CC, CC),
    _checked("arpl", "a = selector, b = RPL to raise it to; returns the new selector, sets ZF", CC, CC),
    _at_operand("arpl_memory", "a = address of the selector, b = RPL to raise it to; sets ZF", CC, CC),
    _checked("swapgs", "", writes=(_GS,)),
    _checked("rdfsbase", "imm = size; returns the base"),
    _checked("rdgsbase", "imm = size; returns the base"),
    _checked("wrfsbase", "a = base, imm = size", writes=(_FS,)),
    _checked("wrgsbase", "a = base, imm = size", writes=(_GS,)),
    # transfer_native
    _control("far_jump", "a = selector, b = offset, imm = size, length; sets rip"),
    _control("far_call", "a = selector, b = offset, imm = size, length; sets rip"),
    _control("far_return", "imm = size, bytes to release << 16; sets rip"),
    _control("iret", "imm = size, length; sets rip"),
    # syscall_native
    _control("syscall", "imm = length; sets rip"),
    _control("sysret", "imm = size 4 or 8; sets rip"),
    _control("sysenter", "imm = length; sets rip"),
    _control("sysexit", "imm = size 4 or 8; sets rip"),
    # exception_native
    _checked("raise", "a = error code, imm = vector"),
    _checked("invalid_opcode", "#UD, traced"),
    _control("int_n", "a = vector, imm = length; sets rip"),
    _control("int3", "imm = length; sets rip"),
    _control("int1", "imm = length; sets rip"),
    _control("into", "imm = length; sets rip"),
    _at_operand("bound", "a = address of the bounds, b = index, imm = size"),
    # control_native
    _checked("read_cr", "imm = number; returns the value"),
    _control("write_cr", "a = value, imm = number"),
    _checked("clts", ""),
    _control("lmsw", "a = value"),
    Helper("smsw", doc="returns CR0"),
    _checked("invlpg", "a = address"),
    _checked("xgetbv", "", (RCX,), (RAX, RDX)),
    _checked("xsetbv", "", (RAX, RCX, RDX)),
    # debug_native
    _checked("read_dr", "imm = number; returns the value"),
    _checked("write_dr", "a = value, imm = number"),
    # system_native
    _checked("wbinvd", ""),
    _checked("invd", ""),
    _at_operand("clflush", "a = address"),
    _control("hlt", "imm = length; sets rip"),
    Helper("pause"),
    _checked("cli", ""),
    _checked("sti", ""),
    _checked("clac", ""),
    _checked("stac", ""),
    _checked("read_flags", "returns the image for PUSHF", (*CC, DIRECTION)),
    _checked("write_flags", "a = image, imm = size", (*CC, DIRECTION), (*CC, DIRECTION)),
    _checked("rdtsc", "", writes=(RAX, RDX)),
    _checked("rdtscp", "", writes=(RAX, RCX, RDX)),
    _checked("rdpmc", "", (RCX,), (RAX, RDX)),
    # io_native
    _checked("in_port", "a = port, imm = size; returns the value"),
    _checked("out_port", "a = port, b = value, imm = size"),
    _control("ins", "imm = size, length, address size << 16, repeat << 24; sets rip"),
    _control("outs", "imm = size, length, address size << 16, repeat << 24, segment << 32; sets rip"),
    # msr_native, cpuid_native
    _checked("rdmsr", "", (RCX,), (RAX, RDX)),
    _checked("wrmsr", "", (RAX, RCX, RDX), _BASES),
    Helper("cpuid", reads=(RAX, RCX), writes=(RAX, RBX, RCX, RDX)),
)
