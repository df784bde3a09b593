"""The state of a machine's interrupt controllers as accelerator-neutral records.

The machine's own controllers and those in an accelerator fill and read the same, so a guest continues under either.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from manor.spec.cpu_state import CpuState
from manor.spec.timer_state import TimerState

_DIVIDERS: Final = (2, 4, 8, 16, 32, 64, 128, 1)
"""SDM volume 3, figure 11-10, by bits 3, 1, 0."""


def apic_divider(divide: int) -> int:
    """Divide configuration register to divider."""
    return _DIVIDERS[(divide & 3) | (divide >> 1) & 4]


@dataclass(frozen=True, slots=True)
class LapicState:
    """A local APIC. irr, isr, tmr: 256-bit numbers, bit n is vector n. timer_remaining_ns: None when stopped."""

    apic_id: int
    apic_base: int
    tpr: int
    ldr: int
    dfr: int
    svr: int
    esr: int
    esr_pending: int
    icr: int
    lvt: tuple[int, ...]
    irr: int
    isr: int
    tmr: int
    timer_mode: int
    timer_initial_count: int
    divide: int
    tsc_deadline: int
    timer_remaining_ns: int | None


@dataclass(frozen=True, slots=True)
class InterruptState:
    """Every interrupt controller of a machine. ioapic_index: of the register in its window. entries: the redirection
    entries. levels: of the I/O APIC's pins."""

    lapics: tuple[LapicState, ...]
    ioapic_index: int
    ioapic_id: int
    entries: tuple[int, ...]
    levels: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class VmState:
    """The processors of a machine with interrupt controllers and interval timer, between two instructions.

    clock_ns: of the accelerator's paravirtual clock, None if it has none; a guest that uses one can go on only where
    there is one.
    """

    vcpus: tuple[CpuState, ...]
    interrupts: InterruptState
    timer: TimerState
    clock_ns: int | None


def give_back(vcpu: CpuState, lapic: LapicState) -> tuple[CpuState, LapicState]:
    """An interrupt that was taken from the controller and not yet delivered goes back: from ISR to IRR."""
    vector = vcpu.events.interrupt
    if vector is None or vcpu.events.is_soft:
        return vcpu, lapic
    bit = 1 << vector
    events = replace(vcpu.events, interrupt=None)
    return replace(vcpu, events=events), replace(lapic, isr=lapic.isr & ~bit, irr=lapic.irr | bit)
