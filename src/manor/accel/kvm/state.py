"""Between KVM's structures of a vCPU and the accelerator-neutral record.

Source: Linux KVM API, the section of each structure in `abi`. KVM orders some of it: system registers before XCR0, XCR0
before the floating-point state, all of it before pending events.
"""

from __future__ import annotations

from typing import Final

from manor.accel.kvm import abi, ioctl, msr
from manor.accel.kvm.handle import Handle
from manor.spec.cpu_state import CpuState, DescriptorTable, PendingEvents, Segment

_GPR: Final = (
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
)  # fmt: skip
_SEGMENTS: Final = {"es": "es", "cs": "cs", "ss": "ss", "ds": "ds", "fs": "fs", "gs": "gs", "ldtr": "ldt", "tr": "tr"}
"""Field of CpuState -> field of struct kvm_sregs."""
_CONTROL: Final = ("cr0", "cr2", "cr3", "cr4", "cr8", "efer")
FXSAVE_SIZE: Final = 512
_X87_SSE: Final = 3
"""Components 0 and 1 of XSAVE, which the FXSAVE image holds. Source: SDM volume 1, 13.1."""
_XSTATE_BV: Final = slice(512, 520)
MSR_TSC: Final = 0x10


def get_state(vcpu: Handle, msrs: tuple[int, ...], xsave_size: int) -> CpuState:
    """Read a vCPU that is not running. Raises KvmError."""
    regs, sregs, debug, mp, events = abi.Regs(), abi.Sregs(), abi.DebugRegs(), abi.MpState(), abi.VcpuEvents()
    vcpu.call(ioctl.GET_REGS, regs, "cannot read a vCPU's registers")
    vcpu.call(ioctl.GET_SREGS, sregs, "cannot read a vCPU's system registers")
    vcpu.call(ioctl.GET_DEBUGREGS, debug, "cannot read a vCPU's debug registers")
    vcpu.call(ioctl.GET_MP_STATE, mp, "cannot read whether a vCPU runs")
    vcpu.call(ioctl.GET_VCPU_EVENTS, events, "cannot read a vCPU's pending events")
    values = msr.read(vcpu, (*msrs, MSR_TSC))
    fpu, rest = _split_xsave(_read_xsave(vcpu, xsave_size))
    state = CpuState(
        gpr=[getattr(regs, name) for name in _GPR],
        rip=regs.rip,
        rflags=regs.rflags,
        gdtr=DescriptorTable(sregs.gdt.base, sregs.gdt.limit),
        idtr=DescriptorTable(sregs.idt.base, sregs.idt.limit),
        xcr0=_read_xcr0(vcpu),
        fpu=fpu,
        xsave=rest,
        dr=list(debug.db),
        dr6=debug.dr6,
        dr7=debug.dr7,
        tsc=values.pop(MSR_TSC, None),
        msrs=values,
        runnable=mp.mp_state in (abi.MP_RUNNABLE, abi.MP_HALTED),
        halted=mp.mp_state == abi.MP_HALTED,
        events=_events(events),
    )
    for name in _CONTROL:
        setattr(state, name, getattr(sregs, name))
    for name, kernel_name in _SEGMENTS.items():
        setattr(state, name, _segment(getattr(sregs, kernel_name)))
    return state


def set_state(vcpu: Handle, state: CpuState, xsave_size: int) -> None:
    """Load a vCPU that is not running. Raises KvmError, naming the MSR that KVM refused."""
    sregs = abi.Sregs()
    vcpu.call(ioctl.GET_SREGS, sregs, "cannot read a vCPU's system registers")
    for name in _CONTROL:
        setattr(sregs, name, getattr(state, name))
    for name, kernel_name in _SEGMENTS.items():
        setattr(sregs, kernel_name, _kernel_segment(getattr(state, name)))
    sregs.gdt.base, sregs.gdt.limit = state.gdtr.base, state.gdtr.limit & 0xFFFF
    sregs.idt.base, sregs.idt.limit = state.idtr.base, state.idtr.limit & 0xFFFF
    for index in range(len(sregs.interrupt_bitmap)):
        sregs.interrupt_bitmap[index] = 0
    vcpu.call(ioctl.SET_SREGS, sregs, "cannot set a vCPU's system registers")
    xcrs = abi.Xcrs(nr_xcrs=1)
    xcrs.xcrs[0].value = state.xcr0
    vcpu.call(ioctl.SET_XCRS, xcrs, "cannot set XCR0")
    if state.fpu:
        vcpu.call(ioctl.SET_XSAVE, _join_xsave(state.fpu, state.xsave, xsave_size), "cannot set a vCPU's FPU")
    values = state.msrs if state.tsc is None else state.msrs | {MSR_TSC: state.tsc}
    msr.write(vcpu, values)
    debug = abi.DebugRegs(dr6=state.dr6, dr7=state.dr7)
    for index, value in enumerate(state.dr):
        debug.db[index] = value
    vcpu.call(ioctl.SET_DEBUGREGS, debug, "cannot set a vCPU's debug registers")
    regs = abi.Regs(rip=state.rip, rflags=state.rflags)
    for name, value in zip(_GPR, state.gpr, strict=True):
        setattr(regs, name, value)
    vcpu.call(ioctl.SET_REGS, regs, "cannot set a vCPU's registers")
    vcpu.call(ioctl.SET_VCPU_EVENTS, _kernel_events(state.events), "cannot set a vCPU's pending events")
    activity = abi.MP_HALTED if state.halted else abi.MP_RUNNABLE
    mp = abi.MpState(activity if state.runnable else abi.MP_UNINITIALIZED)
    vcpu.call(ioctl.SET_MP_STATE, mp, "cannot set whether a vCPU runs")


def _segment(reg: abi.SegmentReg) -> Segment:
    present = reg.present and not reg.unusable
    attributes = reg.type | reg.s << 4 | reg.dpl << 5 | present << 7
    attributes |= reg.avl << 12 | reg.l << 13 | reg.db << 14 | reg.g << 15
    return Segment(reg.selector, reg.base, reg.limit, attributes)


def _kernel_segment(segment: Segment) -> abi.SegmentReg:
    a = segment.attributes
    present = a >> 7 & 1
    return abi.SegmentReg(
        segment.base, segment.limit, segment.selector, a & 0xF, present, a >> 5 & 3, a >> 14 & 1, a >> 4 & 1,
        a >> 13 & 1, a >> 15 & 1, a >> 12 & 1, 1 - present,
    )  # fmt: skip


def _events(events: abi.VcpuEvents) -> PendingEvents:
    exception = events.exception
    has_exception = exception.injected or exception.pending
    return PendingEvents(
        exception=exception.nr if has_exception else None,
        error_code=exception.error_code if has_exception and exception.has_error_code else None,
        interrupt=events.interrupt.nr if events.interrupt.injected else None,
        is_soft=bool(events.interrupt.injected and events.interrupt.soft),
        nmi_pending=bool(events.nmi.pending or events.nmi.injected),
        nmi_blocked=bool(events.nmi.masked),
        shadow=bool(events.interrupt.shadow),
    )


def _kernel_events(pending: PendingEvents) -> abi.VcpuEvents:
    events = abi.VcpuEvents(flags=abi.VCPUEVENT_VALID_NMI_PENDING | abi.VCPUEVENT_VALID_SHADOW)
    if pending.exception is not None:
        events.exception.injected, events.exception.nr = 1, pending.exception
        if pending.error_code is not None:
            events.exception.has_error_code, events.exception.error_code = 1, pending.error_code
    if pending.interrupt is not None:
        events.interrupt.injected, events.interrupt.nr, events.interrupt.soft = 1, pending.interrupt, pending.is_soft
    events.interrupt.shadow = abi.SHADOW_STI if pending.shadow else 0
    events.nmi.pending, events.nmi.masked = pending.nmi_pending, pending.nmi_blocked
    return events


def _read_xcr0(vcpu: Handle) -> int:
    xcrs = abi.Xcrs()
    vcpu.call(ioctl.GET_XCRS, xcrs, "cannot read XCR0")
    for entry in xcrs.xcrs[: xcrs.nr_xcrs]:
        if entry.xcr == 0:
            return int(entry.value)
    return 1


def _read_xsave(vcpu: Handle, size: int) -> bytes:
    area = bytearray(size)
    # KVM_GET_XSAVE knows only areas of 4 KiB; with more, the newer request must be used.
    request = ioctl.GET_XSAVE if size == abi.XSAVE_SIZE else ioctl.GET_XSAVE2
    vcpu.call(request, area, "cannot read a vCPU's FPU")
    return bytes(area)


def _split_xsave(area: bytes) -> tuple[bytes, bytes]:
    """(FXSAVE image, the rest). The rest is empty if only x87 and SSE are in use."""
    in_use = int.from_bytes(area[_XSTATE_BV], "little")
    return area[:FXSAVE_SIZE], area[FXSAVE_SIZE:] if in_use & ~_X87_SSE else b""


def _join_xsave(fpu: bytes, rest: bytes, size: int) -> bytearray:
    area = bytearray(size)
    area[:FXSAVE_SIZE] = fpu
    if rest:
        area[FXSAVE_SIZE : FXSAVE_SIZE + len(rest)] = rest
    else:
        area[_XSTATE_BV] = _X87_SSE.to_bytes(8, "little")
    return area
