"""The state of one x86 vCPU as an accelerator-neutral record.

Boot code fills it, accelerators load and save it. Registers carry the names of the
Intel 64 and IA-32 Architectures Software Developer's Manual (SDM), volume 3.
"""

from __future__ import annotations

from dataclasses import dataclass, field

RFLAGS_RESERVED_ONE = 0x2
"""Bit 1 of RFLAGS always reads as one. Source: SDM volume 1, 3.4.3."""


@dataclass(slots=True)
class Segment:
    """One segment register with its hidden part.

    attributes: bits 0-7 are descriptor bits 40-47 (type, S, DPL, P), bits 12-15 are
    descriptor bits 52-55 (AVL, L, D/B, G). limit is in bytes, granularity applied.
    Source: SDM volume 3, 3.4.5 "Segment Descriptors".
    """

    selector: int = 0
    base: int = 0
    limit: int = 0xFFFF
    attributes: int = 0x93


@dataclass(slots=True)
class DescriptorTable:
    """GDTR or IDTR: linear base and limit in bytes."""

    base: int = 0
    limit: int = 0xFFFF


@dataclass(slots=True)
class PendingEvents:
    """What is in flight between two instructions.

    exception: vector of a fault or trap whose delivery has begun; error_code: its error code, if it has one.
    interrupt: vector that was taken from the interrupt controller and is not delivered yet; is_soft: it comes from
    INT n. nmi_blocked: between an NMI's delivery and its IRET. shadow: interrupts are held off for one instruction
    (STI, MOV SS).
    """

    exception: int | None = None
    error_code: int | None = None
    interrupt: int | None = None
    is_soft: bool = False
    nmi_pending: bool = False
    nmi_blocked: bool = False
    shadow: bool = False


@dataclass(slots=True)
class CpuState:
    """Everything a vCPU needs to start or continue. The defaults are the state after RESET.

    gpr: rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8 to r15.
    fpu: FXSAVE image (512 bytes) or empty for the power-on FPU.
    xsave: what follows the FXSAVE image in an XSAVE area of standard format, from the header on; empty if nothing but
    x87 and SSE is in use. tsc: time-stamp counter, None to leave it as it is. dr: DR0 to DR3.
    halted: stopped by HLT until an interrupt. runnable: False for an application processor that waits for INIT/SIPI.
    Source: SDM volume 3, table 9-1 "IA-32 and Intel 64 Processor States Following Power-up".
    """

    gpr: list[int] = field(default_factory=lambda: [0] * 16)
    rip: int = 0xFFF0
    rflags: int = RFLAGS_RESERVED_ONE
    es: Segment = field(default_factory=Segment)
    cs: Segment = field(default_factory=lambda: Segment(0xF000, 0xFFFF0000, 0xFFFF, 0x9B))
    ss: Segment = field(default_factory=Segment)
    ds: Segment = field(default_factory=Segment)
    fs: Segment = field(default_factory=Segment)
    gs: Segment = field(default_factory=Segment)
    ldtr: Segment = field(default_factory=lambda: Segment(0, 0, 0xFFFF, 0x82))
    tr: Segment = field(default_factory=lambda: Segment(0, 0, 0xFFFF, 0x8B))
    gdtr: DescriptorTable = field(default_factory=DescriptorTable)
    idtr: DescriptorTable = field(default_factory=DescriptorTable)
    cr0: int = 0x60000010
    cr2: int = 0
    cr3: int = 0
    cr4: int = 0
    cr8: int = 0
    efer: int = 0
    xcr0: int = 1
    msrs: dict[int, int] = field(default_factory=dict)
    fpu: bytes = b""
    xsave: bytes = b""
    dr: list[int] = field(default_factory=lambda: [0] * 4)
    dr6: int = 0xFFFF0FF0
    dr7: int = 0x400
    tsc: int | None = None
    runnable: bool = True
    halted: bool = False
    events: PendingEvents = field(default_factory=PendingEvents)
