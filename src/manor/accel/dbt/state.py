"""Between the engine's memory layout of a vCPU and the accelerator-neutral record."""

from __future__ import annotations

import struct
from typing import Final, Protocol

from manor.engine.env import OFFSETS, SEGMENT_FIELDS
from manor.spec.cpu_state import CpuState, DescriptorTable, PendingEvents, Segment

CR0, CR2, CR3, CR4 = 0, 2, 3, 4
DIRECT_MSRS: Final[dict[int, str]] = {
    0xC0000081: "star",
    0xC0000082: "lstar",
    0xC0000083: "cstar",
    0xC0000084: "sfmask",
    0xC0000102: "kernel_gs_base",
    0xC0000103: "tsc_aux",
    0x174: "sysenter_cs",
    0x175: "sysenter_esp",
    0x176: "sysenter_eip",
    0x1A0: "misc_enable",
    0x277: "pat",
    0x2FF: "mtrr_def_type",
}
"""MSR index -> field of the env that holds it. Source: SDM volume 4, table 2-2."""

_SEGMENT_NAMES: Final = dict(zip(SEGMENT_FIELDS, ("es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr"), strict=True))
_CODE_LONG: Final = 1 << 13
_EFER_LMA: Final = 1 << 10
_PROTECTED: Final = 1


DR6, DR7 = 6, 7
_U64: Final = (1 << 64) - 1
_TRAPS: Final = (1, 3, 4)
"""#DB, #BP, #OF: RIP is behind the instruction. Source: SDM volume 3, table 6-1."""


class EngineCpu(Protocol):
    """The part of `engine.cpu_native.Cpu` that is needed here."""

    @property
    def state(self) -> memoryview: ...
    def flags(self) -> int: ...
    def set_flags(self, value: int) -> None: ...
    def fpu_image(self) -> bytes: ...
    def load_fpu_image(self, image: bytes) -> None: ...
    def changed(self) -> None: ...


class Fields:
    """Typed access to the fields of an env by name."""

    def __init__(self, view: memoryview) -> None:
        self._view = view

    def get(self, name: str, index: int = 0, code: str = "Q") -> int:
        size = struct.calcsize(code)
        value: int = struct.unpack_from("<" + code, self._view, OFFSETS[name] + index * size)[0]
        return value

    def set(self, name: str, value: int, index: int = 0, code: str = "Q") -> None:
        size = struct.calcsize(code)
        struct.pack_into("<" + code, self._view, OFFSETS[name] + index * size, value & (1 << 8 * size) - 1)


def _unsupported(state: CpuState) -> str:
    """What in `state` the engine cannot hold, for people; empty if it can hold all."""
    for msr, value in state.msrs.items():
        if msr not in DIRECT_MSRS and value:
            return f"MSR {msr:#x} is not part of the engine's state"
    if state.xsave:
        return "the engine keeps x87 and SSE, not the rest of an XSAVE area"
    if state.events.exception in _TRAPS:
        return f"trap {state.events.exception} is in flight; let the vCPU run on a little"
    if state.events.interrupt is not None and not state.events.is_soft:
        return f"interrupt {state.events.interrupt:#x} is in flight; give it back to its controller"
    return ""


def get_state(cpu: EngineCpu, now_ns: int) -> CpuState:
    """Read a vCPU that is not running. now_ns: monotonic time of the host that its time-stamp counter shows."""
    f = Fields(cpu.state)
    state = CpuState(
        gpr=[f.get("regs", i) for i in range(16)],
        rip=f.get("rip"),
        rflags=cpu.flags(),
        gdtr=DescriptorTable(f.get("gdt_base"), f.get("gdt_limit", code="I")),
        idtr=DescriptorTable(f.get("idt_base"), f.get("idt_limit", code="I")),
        cr0=f.get("cr", CR0),
        cr2=f.get("cr", CR2),
        cr3=f.get("cr", CR3),
        cr4=f.get("cr", CR4),
        efer=f.get("efer"),
        xcr0=f.get("xcr0"),
        msrs={index: f.get(name) for index, name in DIRECT_MSRS.items()},
        fpu=cpu.fpu_image(),
        dr=[f.get("dr", i) for i in range(4)],
        dr6=f.get("dr", DR6),
        dr7=f.get("dr", DR7),
        tsc=(now_ns + f.get("tsc_offset")) & _U64,
        runnable=not f.get("wait_sipi", code="I"),
        halted=bool(f.get("halted", code="I")),
        events=PendingEvents(
            nmi_pending=bool(f.get("nmi_pending", code="i")),
            nmi_blocked=bool(f.get("nmi_blocked", code="I")),
            shadow=bool(f.get("shadow", code="I")),
        ),
    )
    for index, name in enumerate(_SEGMENT_NAMES.values()):
        segment = Segment(
            f.get("seg_selector", index, "H"),
            f.get("seg_base", index),
            f.get("seg_limit", index, "I"),
            f.get("seg_attributes", index, "I"),
        )
        setattr(state, name, segment)
    return state


def set_state(cpu: EngineCpu, state: CpuState, now_ns: int) -> None:
    """Load a vCPU that is not running. now_ns: as above.

    Raises ValueError for what the engine does not keep: an MSR that is not 0, a part of XSAVE, a trap in flight. A
    fault or INT n in flight is dropped: RIP is still at its instruction, which raises it again.
    """
    refused = _unsupported(state)
    if refused:
        raise ValueError(refused)
    f = Fields(cpu.state)
    for index, value in enumerate(state.gpr):
        f.set("regs", value, index)
    f.set("rip", state.rip)
    for index, name in enumerate(_SEGMENT_NAMES.values()):
        segment: Segment = getattr(state, name)
        f.set("seg_selector", segment.selector, index, "H")
        f.set("seg_base", segment.base, index)
        f.set("seg_limit", segment.limit, index, "I")
        f.set("seg_attributes", segment.attributes, index, "I")
    f.set("gdt_base", state.gdtr.base)
    f.set("gdt_limit", state.gdtr.limit, code="I")
    f.set("idt_base", state.idtr.base)
    f.set("idt_limit", state.idtr.limit, code="I")
    f.set("cr", state.cr0, CR0)
    f.set("cr", state.cr2, CR2)
    f.set("cr", state.cr3, CR3)
    f.set("cr", state.cr4, CR4)
    f.set("efer", state.efer)
    f.set("xcr0", state.xcr0)
    # CPL is the DPL of SS. Source: SDM volume 3, 5.5.
    f.set("cpl", (state.ss.attributes >> 5) & 3 if state.cr0 & _PROTECTED else 0, code="I")
    f.set("wait_sipi", 0 if state.runnable else 1, code="I")
    f.set("halted", state.halted, code="I")
    for index, value in enumerate(state.dr):
        f.set("dr", value, index)
    f.set("dr", state.dr6, DR6)
    f.set("dr", state.dr7, DR7)
    if state.tsc is not None:
        f.set("tsc_offset", state.tsc - now_ns)
    f.set("nmi_pending", state.events.nmi_pending, code="i")
    f.set("nmi_blocked", state.events.nmi_blocked, code="I")
    f.set("shadow", state.events.shadow, code="I")
    for msr, value in state.msrs.items():
        if msr in DIRECT_MSRS:
            f.set(DIRECT_MSRS[msr], value)
    if state.fpu:
        cpu.load_fpu_image(state.fpu)
    cpu.set_flags(state.rflags)
    cpu.changed()
