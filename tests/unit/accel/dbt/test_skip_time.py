"""A pause is taken out of each vCPU's TSC, and the local APIC still reckons with the machine's time."""

from __future__ import annotations

import time

from manor.accel.dbt.accel import DbtVm
from manor.base.address import Gpa
from manor.bus.bus import Bus
from manor.machine.pc import PcExits
from manor.mem.guest_memory import GuestMemory, Region


def test_tsc_stands_still_over_a_pause() -> None:
    memory = GuestMemory([Region(Gpa(0), 1 << 20)])
    vm = DbtVm(memory, PcExits(Bus("pio"), Bus("mmio"), [], []), 2)
    for vcpu in vm.vcpus:
        state = vcpu.get_state()
        state.tsc = 10**15
        vcpu.set_state(state)
    offsets = [vcpu._callbacks.tsc_offset() for vcpu in vm.vcpus]
    started = time.monotonic_ns()
    vm.skip_time(3 * 10**9)
    vm.skip_time(10**9)
    for vcpu in vm.vcpus:
        tsc = vcpu.get_state().tsc
        assert tsc is not None
        elapsed = time.monotonic_ns() - started
        assert -(10**9) < tsc - 10**15 + 4 * 10**9 < elapsed + 10**9
    # In the machine's time, which lacks the pauses as well, nothing changed.
    assert [vcpu._callbacks.tsc_offset() for vcpu in vm.vcpus] == offsets
    vm.close()


def test_states_of_several_vcpus_show_one_moment() -> None:
    memory = GuestMemory([Region(Gpa(0), 1 << 20)])
    vm = DbtVm(memory, PcExits(Bus("pio"), Bus("mmio"), [], []), 2)
    with vm.time_held():
        states = [vcpu.get_state() for vcpu in vm.vcpus]
        assert states[0].tsc == states[1].tsc
        for vcpu in reversed(vm.vcpus):
            time.sleep(0.001)
            vcpu.set_state(states[vcpu.index])
    offsets = [vcpu._callbacks.tsc_offset() for vcpu in vm.vcpus]
    assert offsets[0] == offsets[1]
    vm.close()
