"""KVM's page of a local APIC to the neutral record and back.

Source: Linux KVM API, section 4.57; offsets from SDM volume 3, table 11-1. KVM's timer counts at 1 GHz, as the
machine's.
"""

from __future__ import annotations

from typing import Final

from manor.accel.kvm import abi, ioctl, msr
from manor.accel.kvm.handle import Handle
from manor.spec.interrupt_state import LapicState, apic_divider

_ID, _TPR, _LDR, _DFR, _SVR, _ISR, _TMR, _IRR = 0x20, 0x80, 0xD0, 0xE0, 0xF0, 0x100, 0x180, 0x200
_ESR, _ICR_LOW, _ICR_HIGH, _INITIAL, _CURRENT, _DIVIDE = 0x280, 0x300, 0x310, 0x380, 0x390, 0x3E0
_LVT: Final = (0x320, 0x330, 0x340, 0x350, 0x360, 0x370)
"""Timer, thermal, performance, LINT0, LINT1, error."""
_TSC_DEADLINE_MSR: Final = 0x6E0
_TSC_MSR: Final = 0x10
_DEADLINE_MODE: Final = 2
_U32: Final = 0xFFFF_FFFF


def read(vcpu: Handle, apic_id: int) -> LapicState:
    """The local APIC of a vCPU that is not running. Raises KvmError."""
    page, sregs = abi.LapicRegs(), abi.Sregs()
    vcpu.call(ioctl.GET_LAPIC, page, "cannot read a local APIC")
    vcpu.call(ioctl.GET_SREGS, sregs, "cannot read a vCPU's system registers")
    data = bytes(page.regs)

    def word(offset: int) -> int:
        return int.from_bytes(data[offset : offset + 4], "little")

    def bits(offset: int) -> int:
        return sum(word(offset + 16 * index) << 32 * index for index in range(8))

    mode = word(_LVT[0]) >> 17 & 3
    deadline = msr.read(vcpu, (_TSC_DEADLINE_MSR,)).get(_TSC_DEADLINE_MSR, 0) if mode == _DEADLINE_MODE else 0
    remaining: int | None = None
    if deadline:
        remaining = _until(vcpu, deadline)
    elif word(_CURRENT):
        remaining = word(_CURRENT) * apic_divider(word(_DIVIDE))
    return LapicState(
        apic_id, sregs.apic_base, word(_TPR), word(_LDR), word(_DFR), word(_SVR), word(_ESR), 0,
        word(_ICR_LOW) | word(_ICR_HIGH) << 32, tuple(word(offset) for offset in _LVT), bits(_IRR), bits(_ISR),
        bits(_TMR), mode, word(_INITIAL), word(_DIVIDE), deadline, remaining,
    )  # fmt: skip


def write(vcpu: Handle, state: LapicState) -> None:
    """Load the local APIC of a vCPU that is not running. Raises KvmError."""
    page, sregs = abi.LapicRegs(), abi.Sregs()
    vcpu.call(ioctl.GET_SREGS, sregs, "cannot read a vCPU's system registers")
    sregs.apic_base = state.apic_base
    vcpu.call(ioctl.SET_SREGS, sregs, "cannot set a vCPU's system registers")
    vcpu.call(ioctl.GET_LAPIC, page, "cannot read a local APIC")
    data = bytearray(page.regs)

    def put(offset: int, value: int) -> None:
        data[offset : offset + 4] = (value & _U32).to_bytes(4, "little")

    for offset, value in (
        (_TPR, state.tpr), (_LDR, state.ldr), (_DFR, state.dfr), (_SVR, state.svr), (_ESR, state.esr),
        (_ICR_LOW, state.icr), (_ICR_HIGH, state.icr >> 32), (_INITIAL, state.timer_initial_count),
        (_DIVIDE, state.divide), *zip(_LVT, state.lvt, strict=True),
    ):  # fmt: skip
        put(offset, value)
    for offset, vectors in ((_ISR, state.isr), (_TMR, state.tmr), (_IRR, state.irr)):
        for index in range(8):
            put(offset + 16 * index, vectors >> 32 * index)
    remaining = state.timer_remaining_ns or 0
    put(_CURRENT, 0 if state.tsc_deadline else remaining // apic_divider(state.divide))
    page = abi.LapicRegs((abi.U8 * abi.LAPIC_SIZE)(*data))
    vcpu.call(ioctl.SET_LAPIC, page, "cannot set a local APIC")
    if state.tsc_deadline:
        # In this vCPU's own TSC, which need not be that of the machine that saved it: what counts is the time left.
        now = msr.read(vcpu, (_TSC_MSR,))[_TSC_MSR]
        msr.write(vcpu, {_TSC_DEADLINE_MSR: now + remaining * _tsc_khz(vcpu) // 1_000_000})


def _until(vcpu: Handle, deadline: int) -> int:
    """Nanoseconds until the vCPU's TSC reaches `deadline`."""
    now = msr.read(vcpu, (_TSC_MSR,))[_TSC_MSR]
    return max(0, deadline - now) * 1_000_000 // max(1, _tsc_khz(vcpu))


def _tsc_khz(vcpu: Handle) -> int:
    return vcpu.call(ioctl.GET_TSC_KHZ, 0, "cannot ask for the frequency of a vCPU's TSC")
