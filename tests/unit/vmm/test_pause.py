"""Pausing and resuming: no instruction, no timer and no deferred call in between."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from manor.base.errors import HostError, StateError
from manor.base.exits import Exit, Halt, Kicked
from manor.base.units import MiB
from manor.devices.misc.power import RESET_VALUE
from manor.mem import layout
from manor.spec.machine import MachineSpec
from manor.testing.fake_accel import FakeAccel, FakeVcpu, Program
from manor.testing.guest_programs import echo
from manor.testing.kernel import kernel_file
from manor.vmm import vm as vm_module
from manor.vmm.lifecycle import Event, Reason, State
from manor.vmm.vm import Vm

Guest = Generator[Exit, None, None]
Make = Callable[..., tuple[Vm, FakeAccel]]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def make(*programs: Program) -> tuple[Vm, FakeAccel]:
        accel = FakeAccel(*programs)
        return Vm(MachineSpec(kernel_file(tmp_path), memory=64 * MiB, cpus=len(programs)), accel), accel

    return make


def count_for_ever(counts: list[int]) -> Program:
    def program(cpu: FakeVcpu) -> Guest:
        while True:
            counts[0] += 1
            time.sleep(0.0005)
            yield Kicked()

    return program


def wait_until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.002)


def test_no_vcpu_runs_while_paused(make: Make) -> None:
    counts = [0]
    vm, accel = make(count_for_ever(counts))
    with vm:
        vm.start()
        wait_until(lambda: counts[0] > 3)
        vm.pause()
        assert vm.state.value == "paused"
        before = counts[0]
        time.sleep(0.03)
        assert counts[0] == before
        vm.resume()
        assert vm.state is State.RUNNING
        wait_until(lambda: counts[0] > before + 3)
        assert 25e6 < accel.vms[0].skipped_ns < 5e9


def test_what_is_typed_while_paused_is_read_afterwards(make: Make) -> None:
    vm, _ = make(echo)
    with vm:
        vm.start()
        vm.serial.wait_for("ready", 5)
        vm.pause()
        vm.serial.send("hello\n")
        time.sleep(0.03)
        assert "hello" not in vm.serial.text
        vm.resume()
        vm.serial.wait_for("<hello>", 5)


def test_timers_are_late_by_the_pause(make: Make) -> None:
    fired: list[float] = []

    def program(cpu: FakeVcpu) -> Guest:
        cpu.store(layout.LOCAL_APIC + 0xF0, 0x1FF)
        cpu.store(layout.LOCAL_APIC + 0x320, 0x40)
        cpu.store(layout.LOCAL_APIC + 0x3E0, 0xB)  # divide by one
        cpu.store(layout.LOCAL_APIC + 0x380, 60_000_000)
        cpu.print("armed")
        assert cpu.controller is not None
        while cpu.controller.acknowledge() != 0x40:
            yield Halt()
        fired.append(time.monotonic())
        while True:
            yield Halt()

    vm, _ = make(program)
    with vm:
        vm.start()
        vm.serial.wait_for("armed", 5)
        armed = time.monotonic()
        vm.pause()
        time.sleep(0.15)
        assert not fired
        vm.resume()
        resumed = time.monotonic()
        wait_until(lambda: bool(fired))
        assert fired[0] - armed > 0.15
        assert fired[0] - resumed > 0.01


def test_states_that_do_not_allow_it(make: Make) -> None:
    vm, _ = make(echo)
    with pytest.raises(StateError):
        vm.pause()
    with vm:
        vm.start()
        with pytest.raises(StateError, match="allowed in: paused"):
            vm.resume()
        vm.pause()
        with pytest.raises(StateError):
            vm.pause()
        vm.power_off()
        assert vm.wait(5).reason is Reason.STOPPED
    with pytest.raises(StateError):
        vm.pause()


def test_reboot_waits_for_the_end_of_the_pause(make: Make) -> None:
    go = threading.Event()

    def program(cpu: FakeVcpu) -> Guest:
        cpu.print("up\n")
        while not go.is_set():
            yield Kicked()
        go.clear()
        cpu.out(layout.ACPI_RESET, RESET_VALUE)
        while True:
            yield Halt()

    vm, _ = make(program)
    with vm:
        vm.start()
        vm.serial.wait_for("up", 5)
        with vm._changing:  # the supervisor comes too late
            go.set()
            wait_until(lambda: vm._requested is not None)
            vm._lifecycle.advance(Event.PAUSE)
        time.sleep(0.02)
        assert vm.state is State.PAUSED
        assert vm.serial.text == "up\n"
        with vm._changing:
            vm._go_on()
        vm.serial.wait_for("up", 5)


def test_vcpu_that_waits_for_a_reader_keeps_the_vm_running(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        is_full = False
        released = threading.Event()

        def write(self, data: bytes) -> None:
            self.is_full = not self.released.is_set()

        def wait_room(self) -> None:
            self.released.wait(10)

        def release(self) -> None:
            self.is_full = False
            self.released.set()

    monkeypatch.setattr(vm_module, "PAUSE_S", 0.05)
    vm, _ = make(echo)
    with vm:
        vm.serial.show_on(Full())
        vm.start()
        wait_until(lambda: bool(vm.serial.text))
        with pytest.raises(HostError, match="vCPU 0 waits"):
            vm.pause()
        assert vm.state is State.RUNNING
