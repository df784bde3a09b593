"""The memory layout of one translated vCPU, declared once.

Generated code, the interpreter and every helper reach the guest's state through one
pointer, `env`. This table is the only place that knows the layout: the build writes
`env.pxd` (a C struct for the compiled modules) from it, and the stencils take their
offsets from `OFFSETS`.

Virtual registers are the 64-bit cells of `regs`: guest registers, lazy flags, segment
bases and temporaries share one index space so that the register allocator treats them alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# ------------------------------------------------------------------ virtual registers
RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI = range(8)
CC_OP: Final = 16
"""Which operation set the flags last (see `isa.x86.flags`)."""
CC_DST: Final = 17
CC_SRC: Final = 18
CC_SRC2: Final = 19
T0: Final = 20
"""First of eight temporaries; dead at the end of each guest instruction."""
TEMPORARIES: Final = 8
SEG_BASE: Final = 28
"""First of six segment bases in the encoding's order: ES CS SS DS FS GS."""
DIRECTION: Final = 34
"""RFLAGS.DF as an increment: 1 or -1 (as unsigned 64-bit)."""
ZERO: Final = 35
"""Always zero: the base of an absolute address."""
EA: Final = 36
"""The effective address of the current instruction, when it is not base + displacement."""
EA2: Final = 37
SCRATCH0: Final = 38
SCRATCH1: Final = 39
"""The translator's own temporaries (conditions)."""
VREG_COUNT: Final = 40

TEMPORARY_VREGS: Final = frozenset({*range(T0, T0 + TEMPORARIES), EA, EA2, SCRATCH0, SCRATCH1})
"""Dead at the end of each guest instruction."""

VREG_NAMES: Final[dict[int, str]] = (
    dict(enumerate(("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{i}" for i in range(8, 16)))))
    | {CC_OP: "cc_op", CC_DST: "cc_dst", CC_SRC: "cc_src", CC_SRC2: "cc_src2"}
    | {T0 + i: f"t{i}" for i in range(TEMPORARIES)}
    | {SEG_BASE + i: f"{s}_base" for i, s in enumerate(("es", "cs", "ss", "ds", "fs", "gs"))}
    | {DIRECTION: "df", ZERO: "zero", EA: "ea", EA2: "ea2", SCRATCH0: "s0", SCRATCH1: "s1"}
)

XMM_COUNT: Final = 20
"""xmm0 to xmm15 and four scratch registers (16 to 19) for memory operands and intermediate values."""
XMM_SCRATCH: Final = 16

# ------------------------------------------------------------------ softmmu
MMU_SUPERVISOR: Final = 0
"""CPL 0-2, SMAP enforced (CR4.SMAP set and RFLAGS.AC clear)."""
MMU_USER: Final = 1
"""CPL 3."""
MMU_SUPERVISOR_NO_SMAP: Final = 2
"""CPL 0-2 and user pages may be touched."""
MMU_MODES: Final = 3
TLB_BITS: Final = 12
TLB_ENTRIES: Final = 1 << TLB_BITS
TLB_ENTRY_SIZE: Final = 32
"""tag_read, tag_write, addend, gpa: four 64-bit cells.

A tag is the page's GVA when an access may go straight to host memory at GVA + addend;
else it carries flag bits below bit 12 and so never compares equal.
"""
TLB_INVALID: Final = 0x800
TLB_MMIO: Final = 0x400
TLB_CODE: Final = 0x200
"""In tag_write only: the page holds translated code, stores take the slow path."""
TLB_WATCH: Final = 0x100
"""A data breakpoint of the guest lies in the page."""
JUMP_CACHE_BITS: Final = 14
JUMP_CACHE_ENTRIES: Final = 1 << JUMP_CACHE_BITS
JUMP_KEY_SHIFT: Final = 46
"""Entries of {key: rip ^ (block flags << JUMP_KEY_SHIFT), code: host code or Block pointer}, index by `jump_slot`."""
JUMP_HASH_SHIFT: Final = 13
"""The index is the low bits of rip ^ (rip >> JUMP_HASH_SHIFT): functions begin at multiples of 16, so that without the
upper bits a sixteenth of the entries would hold all of them."""
EXEC_TLB_BITS: Final = 10
EXEC_TLB_ENTRIES: Final = 1 << EXEC_TLB_BITS

# ------------------------------------------------------------------ why code left the translated world (env.fault)
FAULT_NONE: Final = 0
FAULT_EXCEPTION: Final = 1
"""An exception is pending in exc_*; rip is the faulting instruction (or the next one for a trap)."""
FAULT_RETRY: Final = 2
"""Start again at rip through the dispatcher (code was changed, mode was changed)."""
FAULT_ONE_INSN: Final = 3
"""Run the instruction at rip alone: it stores into its own block."""
FAULT_HALT: Final = 4
FAULT_SHUTDOWN: Final = 5
FAULT_FLUSH: Final = 7
"""The code cache is full: every vCPU must leave before it is emptied."""
FAULT_HOST: Final = 6
"""A callback raised a Python exception; it is kept beside the callbacks object."""

# ------------------------------------------------------------------ env.startup_pending
STARTUP_VECTOR: Final = 0xFF
STARTUP_SIPI: Final = 0x100
STARTUP_INIT: Final = 0x200
"""The INIT is older than the SIPI beside it: a newer INIT takes an unused SIPI away."""


@dataclass(frozen=True, slots=True)
class EnvField:
    """One field: C type, name, count (0 for a scalar) and what it holds."""

    type: str
    name: str
    count: int
    doc: str


_SIZES: Final = {"uint64_t": 8, "int64_t": 8, "uint32_t": 4, "int32_t": 4, "uint16_t": 2, "uint8_t": 1}

SEGMENT_FIELDS: Final = ("es", "cs", "ss", "ds", "fs", "gs", "ldt", "tr")


def _f(type: str, name: str, count: int = 0, doc: str = "") -> EnvField:
    return EnvField(type, name, count, doc)


FIELDS: Final[tuple[EnvField, ...]] = (
    _f("uint64_t", "regs", VREG_COUNT, "virtual registers"),
    _f("uint64_t", "rip", 0, "current RIP; exact whenever a helper that may fault runs"),
    _f("int32_t", "interrupt", 0, "non-zero: leave at the next block head (any thread sets it)"),
    _f("uint32_t", "fault", 0, "FAULT_*: set by helpers, checked after each"),
    _f("uint64_t", "insn_count", 0, "guest instructions executed"),
    _f("uint64_t", "block_exit", 0, "chaining: the Exit that was taken, Block | 1 if left at its head, else 0"),
    _f("uint64_t", "host_sp", 0, "host stack pointer of the run loop, for generated code's own use"),
    _f("uint64_t", "scratch", 8, "spill cells of generated code"),
    _f("uint64_t", "thunks", 16, "addresses of slow-path thunks, for generated code (see lower)"),
    _f("uint64_t", "xmm", XMM_COUNT * 2, "xmm registers, two 64-bit halves each, low first"),
    _f("uint32_t", "mxcsr", 0, "guest MXCSR (sticky flags may be newer in the host's MXCSR)"),
    _f("uint32_t", "block_flags", 0, "mode bits of the block key, see FLAG_*"),
    # system state
    _f("uint64_t", "rflags", 0, "RFLAGS without CF PF AF ZF SF OF DF: those live in cc_* and df"),
    _f("uint64_t", "cr", 16, "CR0, CR2, CR3, CR4, (CR8 is asked of the interrupt controller)"),
    _f("uint64_t", "pdpte", 4, "PAE page-directory-pointer registers, loaded with CR3"),
    _f("uint64_t", "dr", 8, "debug registers"),
    _f("uint64_t", "efer", 0, ""),
    _f("uint64_t", "xcr0", 0, ""),
    _f("uint64_t", "seg_base", 8, "hidden bases: es cs ss ds fs gs ldt tr (first six mirror regs[SEG_BASE])"),
    _f("uint32_t", "seg_limit", 8, "hidden limits in bytes"),
    _f("uint32_t", "seg_attributes", 8, "descriptor bits 40-47 in 0-7 and 52-55 in 12-15"),
    _f("uint16_t", "seg_selector", 8, ""),
    _f("uint64_t", "gdt_base", 0, ""),
    _f("uint64_t", "idt_base", 0, ""),
    _f("uint32_t", "gdt_limit", 0, ""),
    _f("uint32_t", "idt_limit", 0, ""),
    _f("uint32_t", "cpl", 0, "current privilege level"),
    _f("uint32_t", "shadow", 0, "1: interrupts are held off for one instruction (STI, MOV SS)"),
    # pending exception
    _f("uint32_t", "exc_vector", 0, ""),
    _f("uint32_t", "exc_error", 0, ""),
    _f("uint32_t", "exc_has_error", 0, ""),
    _f("uint32_t", "exc_software", 0, "1: INT n, INT3, INTO (return address is the next instruction)"),
    _f("uint64_t", "exc_dr6", 0, "DR6 bits of a pending #DB"),
    # pending events, written by other threads
    _f("int32_t", "irq_pending", 0, "interrupt controller has a deliverable interrupt"),
    _f("int32_t", "nmi_pending", 0, ""),
    _f("int32_t", "startup_pending", 0, "STARTUP_*: INIT and SIPI in one cell, so that their order is kept"),
    _f("uint32_t", "pauses", 0, "PAUSE instructions executed; the host's processor is offered to others now and then"),
    _f("int32_t", "kick_pending", 0, "leave run() with Kicked"),
    _f("int32_t", "tlb_flush_pending", 0, "another thread asks for a full TLB flush"),
    _f("uint32_t", "nmi_blocked", 0, "between NMI delivery and IRET"),
    _f("uint32_t", "halted", 0, ""),
    _f("uint32_t", "wait_sipi", 0, "after INIT: only SIPI wakes it"),
    _f("uint32_t", "one_insn", 0, "the dispatcher runs single instructions (TF, breakpoints, self-store)"),
    _f("uint32_t", "trace", 0, "TRACE_* bits: what the helpers report"),
    _f("uint32_t", "index", 0, "vCPU index"),
    # MSRs
    _f("uint64_t", "star", 0, ""),
    _f("uint64_t", "lstar", 0, ""),
    _f("uint64_t", "cstar", 0, ""),
    _f("uint64_t", "sfmask", 0, ""),
    _f("uint64_t", "kernel_gs_base", 0, ""),
    _f("uint64_t", "sysenter_cs", 0, ""),
    _f("uint64_t", "sysenter_esp", 0, ""),
    _f("uint64_t", "sysenter_eip", 0, ""),
    _f("uint64_t", "tsc_offset", 0, "guest TSC = host nanoseconds + offset"),
    _f("uint64_t", "tsc_aux", 0, ""),
    _f("uint64_t", "pat", 0, ""),
    _f("uint64_t", "misc_enable", 0, ""),
    _f("uint64_t", "mtrr_def_type", 0, ""),
    _f("uint64_t", "mtrr_fixed", 11, ""),
    _f("uint64_t", "mtrr_var", 16, ""),
    # x87
    _f("uint64_t", "fpr", 16, "eight physical x87 registers, 16 bytes each: mantissa, sign+exponent"),
    _f("uint32_t", "fpu_control", 0, ""),
    _f("uint32_t", "fpu_status", 0, "status word without TOP"),
    _f("uint32_t", "fpu_top", 0, ""),
    _f("uint32_t", "fpu_tag", 0, "bit i set: physical register i is empty"),
    _f("uint32_t", "fpu_opcode", 0, ""),
    _f("uint32_t", "fpu_cs", 0, ""),
    _f("uint32_t", "fpu_ds", 0, ""),
    _f("uint32_t", "fpu_pad", 0, ""),
    _f("uint64_t", "fpu_ip", 0, ""),
    _f("uint64_t", "fpu_dp", 0, ""),
    # pointers to the world
    _f("uint64_t", "vm", 0, "struct Vm: memory, code cache, all vCPUs"),
    _f("uint64_t", "callbacks", 0, "borrowed PyObject*: EngineCallbacks of this vCPU"),
    _f("uint64_t", "current_block", 0, "Block being executed (interpreter and one-insn mode)"),
    # statistics
    _f("uint64_t", "stats", 32, "see STAT_*"),
    # what the softmmu remembers about the TLBs' contents, to flush no more than needed
    _f("uint64_t", "large_pages", 4, "filter over the 2 MiB regions and 1 GiB regions mapped by large pages"),
    _f("uint32_t", "tlb_used_count", 0, "entries of tlb_used; above its size: the list overflowed"),
    _f("uint16_t", "tlb_used", TLB_ENTRIES, "slots of data TLB entries that a CR3 write removes"),
    _f("uint32_t", "jump_used_count", 0, "entries of jump_used; above its size: the list overflowed"),
    _f("uint16_t", "jump_used", 1024, "jump cache entries that a CR3 write removes"),
    _f("uint64_t", "jump_pages", 64, "filter over the pages whose code may be in the jump cache"),
    # exec TLB, jump cache, data TLBs come last: generated code reaches them with 32-bit displacements
    _f("uint64_t", "exec_tlb", EXEC_TLB_ENTRIES * 2, "tag (page GVA | user bit), gpa of the page"),
    _f("uint64_t", "jump_cache", JUMP_CACHE_ENTRIES * 2, ""),
    _f("uint64_t", "tlb", MMU_MODES * TLB_ENTRIES * (TLB_ENTRY_SIZE // 8), "indexed by mode, then page"),
)


def _layout() -> tuple[dict[str, int], int]:
    offsets: dict[str, int] = {}
    position = 0
    for f in FIELDS:
        size = _SIZES[f.type]
        position = (position + size - 1) // size * size
        offsets[f.name] = position
        position += size * max(1, f.count)
    return offsets, (position + 63) // 64 * 64


OFFSETS, ENV_SIZE = _layout()
"""Byte offset of each field, and the size of the whole (asserted against the compiler's by a test)."""


def vreg_offset(vreg: int) -> int:
    """Byte offset of a virtual register."""
    return OFFSETS["regs"] + 8 * vreg


# ------------------------------------------------------------------ block flags: everything that changes a translation
FLAG_CPL_SHIFT: Final = 0
FLAG_CODE32: Final = 1 << 2
"""CS.D: 32-bit code (in 64-bit mode clear)."""
FLAG_CODE64: Final = 1 << 3
FLAG_STACK32: Final = 1 << 4
"""SS.B: 32-bit stack pointer outside 64-bit mode."""
FLAG_FLAT: Final = 1 << 5
"""ES, CS, SS and DS bases are zero: no segment arithmetic outside FS and GS."""
FLAG_MMU_SHIFT: Final = 6
"""Two bits: MMU_* mode of data accesses."""
FLAG_FPU_OFF: Final = 1 << 8
"""CR0.EM or CR0.TS: x87 instructions raise #NM."""
FLAG_SSE_OFF: Final = 1 << 9
"""SSE instructions raise: #NM if CR0.TS else #UD (CR0.EM set or CR4.OSFXSR clear)."""
FLAG_ONE_INSN: Final = 1 << 10
FLAG_PROTECTED: Final = 1 << 11
"""CR0.PE set and not virtual-8086."""
FLAG_FPU_TRAP: Final = 1 << 12
"""An SSE exception is unmasked in MXCSR: check after each SSE floating-point instruction."""
FLAG_IOPL_OK: Final = 1 << 13
"""CPL <= IOPL: CLI, STI, IN, OUT need no further check."""
FLAG_TRACE: Final = 1 << 14
FLAG_LIMITS: Final = 1 << 15
"""Outside 64-bit mode a segment limit below 4 GiB is in force: check it."""
FLAG_VM86: Final = 1 << 16
FLAG_AC: Final = 1 << 17
"""CR0.AM, RFLAGS.AC and CPL 3: alignment is checked (#AC)."""

# ------------------------------------------------------------------ statistics
STATS: Final = (
    "blocks_translated", "insns_translated", "uops_translated", "host_bytes", "translate_ns",
    "blocks_invalidated", "tlb_fills", "tlb_flushes", "slow_loads", "slow_stores", "mmio_exits", "pio_exits",
    "exceptions", "interrupts", "syscalls", "halts", "dispatches", "code_stores", "cache_flushes", "page_walks",
)  # fmt: skip
"""Names of the cells of env.stats, in order."""

# ------------------------------------------------------------------ trace bits
TRACE_SYSCALLS: Final = 1
TRACE_INTERRUPTS: Final = 2
TRACE_EXITS: Final = 4
TRACE_BLOCKS: Final = 8
TRACE_INVALID: Final = 16


def render_pxd() -> str:
    """The C struct for the compiled modules, as a Cython declaration file."""
    constants = {
        name: value
        for name, value in globals().items()
        if name.isupper() and isinstance(value, int) and not name.startswith("_")
    }
    lines = [
        "# Generated by manor.engine.env from its table; do not edit.",
        "from libc.stdint cimport uint64_t, int64_t, uint32_t, int32_t, uint16_t, uint8_t",
        "",
        "cdef struct Env:",
    ]
    for f in FIELDS:
        suffix = f"[{f.count}]" if f.count else ""
        lines.append(f"    {f.type} {f.name}{suffix}")
    lines += ["", "cdef enum:"]
    lines += [f"    {name} = {value}" for name, value in constants.items() if value < 1 << 31]
    lines += [f"    STAT_{name.upper()} = {i}" for i, name in enumerate(STATS)]
    return "\n".join(lines) + "\n"
