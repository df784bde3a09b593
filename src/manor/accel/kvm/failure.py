"""A vCPU that cannot go on: what KVM says about it, as a typed error with the place in the guest.

Source: Linux KVM API, section 5, KVM_EXIT_FAIL_ENTRY and KVM_EXIT_INTERNAL_ERROR.
"""

from __future__ import annotations

from typing import Final

from manor.accel.kvm import abi, ioctl
from manor.accel.kvm.errors import EmulationFailure, EntryFailure, Place, UnexpectedExit, VcpuFailure
from manor.accel.kvm.handle import Handle
from manor.accel.kvm.run_page import ExitReason, RunPage

_EMULATION: Final = 1
_HAS_BYTES: Final = 1
_SUBERRORS: Final = {
    2: "an exception came while it emulated one",
    3: "an event could not be delivered",
    4: "the processor left the guest for a reason that KVM does not know",
}
_SUBERROR, _DATA_COUNT, _FLAGS, _LENGTH, _BYTES = 32, 36, 40, 48, 49
_HARDWARE_REASON: Final = 32
_MAX_INSN: Final = 15
_PROTECTED, _LMA, _VM86 = 1, 1 << 10, 1 << 17


def explain(vcpu: Handle, index: int, page: RunPage) -> VcpuFailure:
    """The error for the exit in `page`. Raises KvmError if not even the registers can be read."""
    regs, sregs = abi.Regs(), abi.Sregs()
    vcpu.call(ioctl.GET_REGS, regs, "cannot read a vCPU's registers")
    vcpu.call(ioctl.GET_SREGS, sregs, "cannot read a vCPU's system registers")
    place = place_of(index, regs, sregs)
    reason = page.exit_reason
    if reason == ExitReason.FAIL_ENTRY:
        return EntryFailure(place, page.u64[_HARDWARE_REASON // 8], _registers(regs, sregs))
    if reason == ExitReason.INTERNAL_ERROR:
        suberror = page.u32[_SUBERROR // 4]
        if suberror == _EMULATION:
            return EmulationFailure(place, *_disassemble(_instruction(page), place))
        return UnexpectedExit(f"KVM gave up: {_SUBERRORS.get(suberror, f'internal error {suberror}')}", place)
    name = ExitReason(reason).name if reason in ExitReason.__members__.values() else str(reason)
    return UnexpectedExit(f"unexpected exit {name}", place)


def place_of(index: int, regs: abi.Regs, sregs: abi.Sregs) -> Place:
    """Where a vCPU is. Its privilege level is that of SS. Source: SDM volume 3, 5.5."""
    if not sregs.cr0 & _PROTECTED:
        mode = "real"
    elif sregs.efer & _LMA:
        mode = "long" if sregs.cs.l else "compatibility"
    else:
        mode = "protected"
    ring = 0 if mode == "real" else 3 if regs.rflags & _VM86 else sregs.ss.dpl
    return Place(index, regs.rip, ring, mode)


def read_place(vcpu: Handle, index: int) -> Place:
    """Where a vCPU that is not running is. Raises KvmError."""
    regs, sregs = abi.Regs(), abi.Sregs()
    vcpu.call(ioctl.GET_REGS, regs, "cannot read a vCPU's registers")
    vcpu.call(ioctl.GET_SREGS, sregs, "cannot read a vCPU's system registers")
    return place_of(index, regs, sregs)


def _instruction(page: RunPage) -> bytes:
    if page.u32[_DATA_COUNT // 4] < 1 or not page.u64[_FLAGS // 8] & _HAS_BYTES:
        return b""
    length = min(page.bytes[_LENGTH], _MAX_INSN)
    return bytes(page.bytes[_BYTES : _BYTES + length])


def _disassemble(code: bytes, place: Place) -> tuple[bytes, str]:
    """The first instruction of `code`, which may hold some more, and its text."""
    from manor.engine.disassemble import decode
    from manor.engine.env import FLAG_CODE32, FLAG_CODE64

    # In real mode, and for 16-bit code, no flag is set; protected mode is taken to be 32-bit code.
    flags = {"long": FLAG_CODE64, "real": 0}.get(place.mode, FLAG_CODE32)
    line = decode(code, place.rip, flags) if code else None
    return (code, "(unknown)") if line is None else (code[: line.size], line.text)


def _registers(regs: abi.Regs, sregs: abi.Sregs) -> str:
    """The registers that decide whether a processor accepts a state."""
    return (
        f"cr0={sregs.cr0:#x} cr3={sregs.cr3:#x} cr4={sregs.cr4:#x} efer={sregs.efer:#x} rflags={regs.rflags:#x} "
        f"cs={sregs.cs.selector:#x}/{sregs.cs.type:#x} ss={sregs.ss.selector:#x}/{sregs.ss.type:#x} "
        f"tr={sregs.tr.selector:#x}/{sregs.tr.type:#x}"
    )
