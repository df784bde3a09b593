"""The thread of a vCPU: every exit, sleeping and waking, stopping."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator

import pytest

from manor.base.exits import Debug, Exit, Fault, Halt, Shutdown
from manor.mem.guest_memory import GuestMemory, Region
from manor.testing.fake_accel import FakeVcpu, Program
from manor.trace import sink
from manor.vmm.lifecycle import Reason, VmEnd
from manor.vmm.vcpu_loop import VcpuLoop


class NoDevices:
    """An ExitHandler for guests that touch nothing."""

    def pio_read(self, port: int, size: int) -> int:
        raise AssertionError(port)

    def pio_write(self, port: int, size: int, value: int) -> None:
        raise AssertionError(port)

    def mmio_read(self, vcpu_index: int, gpa: int, size: int) -> int:
        raise AssertionError(gpa)

    def mmio_write(self, vcpu_index: int, gpa: int, size: int, value: int) -> None:
        raise AssertionError(gpa)


def vcpu(program: Program | None) -> FakeVcpu:
    return FakeVcpu(0, GuestMemory([Region(0, 4096, "ram")]), NoDevices(), program)  # type: ignore[arg-type]


def end_of(*exits: Exit) -> VmEnd:
    """How a VM ends whose guest leaves with `exits`."""

    def program(cpu: FakeVcpu) -> Generator[Exit, None, None]:
        yield from exits

    ends: list[VmEnd] = []
    done = threading.Event()
    loop = VcpuLoop(vcpu(program), lambda end: (ends.append(end), done.set())[1])
    loop.start()
    assert done.wait(5)
    loop.request_stop()
    loop.join()
    assert len(ends) == 1
    return ends[0]


def test_shutdown_is_a_triple_fault() -> None:
    assert end_of(Shutdown("no IDT")) == VmEnd(Reason.TRIPLE_FAULT, "no IDT")


def test_place_of_a_death_has_the_kernels_name() -> None:
    for last in (Shutdown("no IDT at 0x1004", 0x1004), Fault("cannot go on at 0x1004", rip=0x1004)):

        def program(cpu: FakeVcpu, last: Exit = last) -> Generator[Exit, None, None]:
            yield last

        ends: list[VmEnd] = []
        loop = VcpuLoop(vcpu(program), ends.append, name_of=lambda address: f"start+{address - 0x1000:#x}")
        loop.start()
        loop.join()
        assert [end.detail for end in ends] == [f"{last.reason} (start+0x4)"]


def test_fault_of_the_accelerator_ends_the_vm_with_its_reason() -> None:
    assert end_of(Fault("cannot go on at 0x1000")) == VmEnd(Reason.ERROR, "cannot go on at 0x1000")


def test_debug_without_a_debugger_is_an_error() -> None:
    assert end_of(Debug(0x1234)).reason is Reason.ERROR


def test_bug_in_a_device_ends_the_vm_with_a_log(caplog: pytest.LogCaptureFixture) -> None:
    def program(cpu: FakeVcpu) -> Generator[Exit, None, None]:
        cpu.out(1, 2)
        yield Halt()

    ends: list[VmEnd] = []
    loop = VcpuLoop(vcpu(program), ends.append)
    loop.start()
    loop.join()
    assert ends[0].reason is Reason.ERROR
    assert "AssertionError" in ends[0].detail
    assert "vCPU 0 failed" in caplog.text


def test_halted_vcpu_sleeps_until_an_interrupt_and_counts_it() -> None:
    steps: list[str] = []
    done = threading.Event()

    def program(cpu: FakeVcpu) -> Generator[Exit, None, None]:
        steps.append("before")
        yield Halt()
        steps.append("after")
        cpu.interrupt_pending(False)
        done.set()
        yield Halt()

    cpu = vcpu(program)
    loop = VcpuLoop(cpu, lambda end: None)
    loop.start()
    deadline = time.monotonic() + 5
    while loop.halts == 0 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert steps == ["before"]
    loop.wake()  # without work: goes back to sleep
    cpu.interrupt_pending(True)
    loop.wake()
    assert done.wait(5)
    assert steps == ["before", "after"]
    loop.request_stop()
    loop.join()
    assert loop.halts == 2


def test_no_wake_up_is_lost_between_looking_and_sleeping() -> None:
    """Work comes at the worst moment: just after the vCPU has looked for some."""
    done = threading.Event()

    def program(cpu: FakeVcpu) -> Generator[Exit, None, None]:
        for _ in range(3):
            yield Halt()
            cpu.interrupt_pending(False)
        done.set()
        yield Halt()

    cpu = vcpu(program)
    loop = VcpuLoop(cpu, lambda end: pytest.fail(str(end)))
    look = cpu.has_work

    def look_too_early() -> bool:
        answer = look()
        if not answer and not done.is_set():
            cpu.interrupt_pending(True)
            loop.wake()
            loop.wake()  # twice is as good as once
        return answer

    cpu.has_work = look_too_early  # type: ignore[method-assign]
    loop.start()
    assert done.wait(5)
    loop.request_stop()
    loop.join()
    assert loop.halts == 4


def test_wake_ups_of_a_vcpu_that_is_awake_do_not_keep_it_awake() -> None:
    looked: list[bool] = []

    def program(cpu: FakeVcpu) -> Generator[Exit, None, None]:
        for _ in range(100):
            loop.wake()
        yield Halt()

    cpu = vcpu(program)
    look = cpu.has_work
    cpu.has_work = lambda: (looked.append(True), look())[1]  # type: ignore[method-assign]
    loop = VcpuLoop(cpu, lambda end: pytest.fail(str(end)))
    loop.start()
    time.sleep(0.05)
    assert 1 <= len(looked) <= 2
    loop.request_stop()
    loop.join()


def test_vcpu_that_waits_for_a_start_up_message_can_be_stopped() -> None:
    loop = VcpuLoop(vcpu(None), lambda end: pytest.fail(str(end)))
    loop.start()
    loop.request_stop()
    loop.join()


def test_loop_never_started_can_be_stopped() -> None:
    loop = VcpuLoop(vcpu(None), lambda end: pytest.fail(str(end)))
    loop.request_stop()
    loop.join()


def test_exits_are_traced() -> None:
    ring = sink.RingSink()
    sink.enable("vcpu_exit", ring)
    try:
        end_of(Shutdown("x"))
    finally:
        sink.disable("*", ring)
    assert ring.events == type(ring.events)([("vcpu_exit", (0, "Shutdown(reason='x', rip=None)"))])
