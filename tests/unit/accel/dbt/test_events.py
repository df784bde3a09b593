"""Events that other threads send to a vCPU of the binary-translation engine, and what stops all vCPUs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from manor.accel.dbt.accel import DbtVcpu, DbtVm
from manor.accel.dbt.state import Fields
from manor.base.address import Gpa
from manor.base.exits import Halt, Kicked, WaitForSipi
from manor.mem.guest_memory import GuestMemory, Region
from manor.spec.cpu_state import CpuState, Segment

CODE = 0x1000
HLT = b"\xf4"
LOOP = b"\xeb\xfe"
PAUSE_LOOP = bytes.fromhex("f390ebfc")


class NoDevices:
    """An ExitHandler of a machine without devices."""

    def pio_read(self, port: int, size: int) -> int:
        return 0

    def pio_write(self, port: int, size: int, value: int) -> None:
        pass

    def mmio_read(self, vcpu_index: int, gpa: int, size: int) -> int:
        return 0

    def mmio_write(self, vcpu_index: int, gpa: int, size: int, value: int) -> None:
        pass


class Controller:
    """An InterruptController with one interrupt."""

    def __init__(self, vector: int) -> None:
        self.vector: int | None = vector

    def acknowledge(self) -> int | None:
        vector, self.vector = self.vector, None
        return vector

    def read_msr(self, index: int) -> int | None:
        return None

    def write_msr(self, index: int, value: int) -> bool:
        return False

    def get_tpr(self) -> int:
        return 0

    def set_tpr(self, value: int) -> None:
        pass

    def set_tsc_offset(self, offset: int) -> None:
        pass


@pytest.fixture
def memory() -> GuestMemory:
    return GuestMemory([Region(Gpa(0), 1 << 20, "ram")])


@pytest.fixture
def vm(memory: GuestMemory) -> Iterator[DbtVm]:
    machine = DbtVm(memory, NoDevices(), 2)
    yield machine
    machine.close()


def start(vcpu: DbtVcpu, rflags: int = 2) -> None:
    """Real mode at CODE."""
    state = CpuState(rip=CODE, cs=Segment(0, 0, 0xFFFF, 0x9B), rflags=rflags)
    state.gpr[4] = 0x8000
    vcpu.set_state(state)


def where(vcpu: DbtVcpu) -> int:
    return vcpu.get_state().cs.base + vcpu.get_state().rip


def test_init_and_startup_sent_together_are_taken_in_order(vm: DbtVm, memory: GuestMemory) -> None:
    memory.write(CODE, HLT)
    memory.write(0x12000, HLT)
    vcpu = vm.vcpus[1]
    start(vcpu)  # it runs, so a start-up IPI that overtook the INIT would be lost
    vcpu.init()
    vcpu.sipi(0x12)
    assert vcpu.run() == Halt()
    assert where(vcpu) == 0x12001


def test_init_takes_an_unused_startup_away(vm: DbtVm) -> None:
    vcpu = vm.vcpus[1]
    vcpu.sipi(0x12)
    vcpu.init()
    assert vcpu.run() == WaitForSipi()
    assert not vcpu.has_work()


def test_startup_without_init_has_no_effect_and_is_forgotten(vm: DbtVm, memory: GuestMemory) -> None:
    memory.write(CODE, HLT)
    vcpu = vm.vcpus[0]
    start(vcpu)
    vcpu.sipi(0x12)
    assert vcpu.run() == Halt()
    assert where(vcpu) == CODE + 1


def test_init_restarts_the_boot_processor_at_the_reset_vector_and_makes_others_wait(
    vm: DbtVm, memory: GuestMemory
) -> None:
    boot, other = vm.vcpus
    start(boot)
    start(other)
    boot.init()
    other.init()
    assert other.run() == WaitForSipi()
    boot.kick()
    boot.run()
    assert where(boot) == 0xFFFF_FFF0


def test_second_startup_is_ignored(vm: DbtVm, memory: GuestMemory) -> None:
    memory.write(0x12000, HLT)
    vcpu = vm.vcpus[1]
    assert vcpu.run() == WaitForSipi()
    vcpu.sipi(0x12)
    assert vcpu.has_work()
    assert vcpu.run() == Halt()
    vcpu.sipi(0x13)
    assert not vcpu.has_work()
    assert vcpu.run() == Halt()
    assert where(vcpu) == 0x12001


def test_interrupt_wakes_from_halt_only_if_it_may_be_taken(vm: DbtVm, memory: GuestMemory) -> None:
    memory.write(CODE, HLT)
    memory.write(0x2000, b"\x90\xf4")
    memory.write(0x40 * 4, (0x2000).to_bytes(4, "little"))
    vcpu = vm.vcpus[0]
    vcpu.set_interrupt_controller(Controller(0x40))
    start(vcpu)
    assert vcpu.run() == Halt()
    vcpu.interrupt_pending(True)
    assert not vcpu.has_work()  # RFLAGS.IF is clear: it goes on sleeping
    start(vcpu, rflags=0x202)
    assert vcpu.has_work()
    assert vcpu.run() == Halt()
    assert where(vcpu) == 0x2002


@pytest.mark.parametrize("code", [LOOP, PAUSE_LOOP])
def test_kick_ends_a_spinning_vcpu(vm: DbtVm, memory: GuestMemory, code: bytes) -> None:
    memory.write(CODE, code)
    vcpu = vm.vcpus[0]
    start(vcpu)
    timer = threading.Timer(0.01, vcpu.kick)
    timer.start()
    assert vcpu.run() == Kicked()
    timer.join()
    pauses = Fields(vm.engine.cpus[0].state).get("pauses", code="I")
    assert (pauses > 0) == (code is PAUSE_LOOP)


def test_translations_are_dropped_while_vcpus_run(vm: DbtVm, memory: GuestMemory) -> None:
    memory.write(CODE, LOOP)
    vcpu = vm.vcpus[0]
    start(vcpu)
    stopped = threading.Event()

    def run() -> None:
        while not stopped.is_set():
            vcpu.run()

    thread = threading.Thread(target=run)
    thread.start()
    before = vcpu.statistics()["blocks_translated"]
    try:
        for _ in range(5):
            vm.gate.run_alone(vm.engine.empty_cache)
            time.sleep(0.002)
    finally:
        stopped.set()
        vcpu.kick()
        thread.join()
    assert vcpu.statistics()["cache_flushes"] == 5
    assert vcpu.statistics()["blocks_translated"] > before


def test_store_of_another_vcpu_ends_a_loop(vm: DbtVm, memory: GuestMemory) -> None:
    # vCPU 0 spins; vCPU 1 writes HLT over the loop with its own store.
    memory.write(CODE, LOOP)
    memory.write(0x3000, bytes.fromhex("c7060010f4f4 f4".replace(" ", "")))  # mov word [0x1000], 0xf4f4; hlt
    first, second = vm.vcpus
    start(first)
    result: list[object] = []
    thread = threading.Thread(target=lambda: result.append(first.run()))
    thread.start()
    while not first.statistics()["blocks_translated"]:
        time.sleep(0.001)
    state = CpuState(rip=0x3000, cs=Segment(0, 0, 0xFFFF, 0x9B))
    second.set_state(state)
    assert second.run() == Halt()
    thread.join(5)
    assert result == [Halt()]


def test_block_that_crosses_pages_sees_a_write_to_its_second_page(vm: DbtVm, memory: GuestMemory) -> None:
    # mov ax, 0x1111 with its immediate in the next page
    memory.write(0x1FFF, b"\xb8\x11\x11\xf4")
    vcpu = vm.vcpus[0]
    for value in (0x1111, 0x2222):
        memory.write(0x2000, value.to_bytes(2, "little"))
        state = CpuState(rip=0x1FFF, cs=Segment(0, 0, 0xFFFF, 0x9B))
        vcpu.set_state(state)
        assert vcpu.run() == Halt()
        assert vcpu.get_state().gpr[0] == value


@pytest.mark.parametrize("spin", [LOOP, PAUSE_LOOP])
def test_interrupt_that_waited_for_sti_is_taken_in_the_loop_behind_it(
    vm: DbtVm, memory: GuestMemory, spin: bytes
) -> None:
    memory.write(CODE, b"\xfb\x90" + spin)  # sti; nop; a loop that never leaves generated code by itself
    memory.write(0x2000, HLT)
    memory.write(0x40 * 4, (0x2000).to_bytes(4, "little"))
    vcpu = vm.vcpus[0]
    vcpu.set_interrupt_controller(Controller(0x40))
    for pending, end in (False, Kicked()), (True, Halt()):  # first without it, so that the blocks are chained
        start(vcpu)
        vcpu.interrupt_pending(pending)
        timer = threading.Timer(5 if pending else 0.01, vcpu.kick)
        timer.start()
        assert vcpu.run() == end
        timer.cancel()
    assert where(vcpu) == 0x2001
