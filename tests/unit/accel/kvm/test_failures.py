"""Every request to KVM fails once: a typed error says which, and nothing stays open."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from manor.accel.kvm import cpuid_table, ioctl
from manor.accel.kvm.accel import KvmAccel
from manor.accel.kvm.errors import (
    DeviceBusy,
    EmulationFailure,
    EntryFailure,
    KvmError,
    NoDevice,
    NoPermission,
    SlotRefused,
    TooOld,
    UnexpectedExit,
    VcpuFailure,
)
from manor.accel.kvm.run_page import ExitReason, RunPage
from manor.accel.kvm.vcpu import KvmVcpu
from manor.accel.kvm.vm import KvmVm
from manor.base.address import Gpa
from manor.base.exits import Fault, Halt, Kicked, Shutdown
from manor.mem.guest_memory import GuestMemory, Region
from manor.spec.cpu_state import CpuState
from manor.testing.fake_kvm import FakeKernel, data_of, write_exit, write_port_access
from manor.trace import sink


class Ports:
    """An ExitHandler that remembers."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int, int, int]] = []

    def pio_read(self, port: int, size: int) -> int:
        self.seen.append(("in", port, size, 0))
        return 0x8877_6655 & (1 << 8 * size) - 1

    def pio_write(self, port: int, size: int, value: int) -> None:
        self.seen.append(("out", port, size, value))

    def mmio_read(self, vcpu_index: int, gpa: int, size: int) -> int:
        self.seen.append(("load", gpa, size, 0))
        return 0x11

    def mmio_write(self, vcpu_index: int, gpa: int, size: int, value: int) -> None:
        self.seen.append(("store", gpa, size, value))


@pytest.fixture
def kernel() -> FakeKernel:
    return FakeKernel()


def create(kernel: FakeKernel, handler: Ports | None = None) -> KvmVm:
    memory = GuestMemory([Region(Gpa(0), 0x4000), Region(Gpa(0x10_0000), 0x1000, "rom")])
    return KvmAccel(kernel).create_vm(memory, handler or Ports(), 1)


def exercise(kernel: FakeKernel) -> None:
    """Do everything that this package can do, on a machine of its own."""
    vm = create(kernel)
    try:
        vcpu = vm.vcpus[0]
        state = vcpu.get_state()
        state.fpu = bytes(512)
        state.tsc = 1
        vcpu.set_state(state)
        result = vcpu.run()
        if isinstance(result, Fault):
            assert result.error is not None
            raise result.error
        vcpu.set_single_step(True)
        vcpu.translate(0)
        vcpu.nmi()
        cpuid_table.read_back(vcpu.handle)
        vm.interrupts.set_level(4, True)
        vm.interrupts.attach_line(5, 4)
        vm.interrupts.detach_message(5, vm.interrupts.attach_message(5, 0xFEE0_0000, 0x40))
        vm.interrupts.add_timer()
        vm.interrupts.load_timer(vm.interrupts.save_timer())
        saved = vm.interrupts.save()
        lapic = replace(saved.lapics[0], tsc_deadline=5, timer_remaining_ns=10)
        vm.interrupts.load(replace(saved, lapics=(lapic,)))
        vm.doorbells.attach(5, 0x1000, is_port=False)
        vm.dirty_log.start()
        vm.dirty_log.take()
        vm.set_clock(vm.get_clock())
    finally:
        vm.close()


def exercise_both_sizes(kernel: FakeKernel) -> None:
    exercise(kernel)
    kernel.xsave_size = 8192
    exercise(kernel)


def test_every_request_is_made(kernel: FakeKernel) -> None:
    exercise_both_sizes(kernel)
    assert set(ioctl.REQUESTS) - set(kernel.calls) == set()
    assert kernel.open_fds == set()


@pytest.mark.parametrize("name", [*ioctl.REQUESTS, "open", "map"])
def test_failure_is_typed_and_leaves_nothing_open(kernel: FakeKernel, name: str) -> None:
    kernel.failing[name] = errno.EIO
    with pytest.raises((KvmError, VcpuFailure)) as raised:
        exercise_both_sizes(kernel)
    assert "Input/output error" in str(raised.value)
    if isinstance(raised.value, KvmError) and name.startswith("KVM_"):
        assert raised.value.request == name
    assert kernel.open_fds == set()


@pytest.mark.parametrize(
    ("request_", "number", "kind", "advice"),
    [
        ("open", errno.ENOENT, NoDevice, "modprobe"),
        ("open", errno.EACCES, NoPermission, "usermod -aG kvm"),
        ("KVM_CREATE_VM", errno.EBUSY, DeviceBusy, "other hypervisor"),
        ("KVM_CREATE_VM", errno.ENODEV, NoDevice, "modprobe"),
        ("KVM_CREATE_VM", errno.ENOMEM, KvmError, "free some memory"),
        ("KVM_CREATE_VM", errno.EMFILE, KvmError, "ulimit"),
        ("KVM_SET_USER_MEMORY_REGION", errno.ENOMEM, SlotRefused, "--memory"),
    ],
)
def test_error_says_what_to_do(
    kernel: FakeKernel, request_: str, number: int, kind: type[KvmError], advice: str
) -> None:
    kernel.failing[request_] = number
    with pytest.raises(kind, match=advice):
        create(kernel)
    assert kernel.open_fds == set()


def test_old_kvm_is_refused_by_what_it_lacks(kernel: FakeKernel) -> None:
    kernel.absent = {32}
    with pytest.raises(TooOld, match="lacks IRQFD"):
        create(kernel)
    kernel.absent = set()
    kernel.api_version = 11
    with pytest.raises(TooOld, match="version 11"):
        create(kernel)


def test_msr_that_kvm_refuses_is_named(kernel: FakeKernel) -> None:
    vm = create(kernel)
    original = kernel.ioctl

    def refuse(fd: int, number: int, argument: object) -> int:
        return 0 if number == ioctl.SET_MSRS.number else original(fd, number, argument)  # type: ignore[arg-type]

    kernel.ioctl = refuse
    with pytest.raises(KvmError, match="refuses 0x5 in MSR 0x277"):
        vm.vcpus[0].set_state(CpuState(msrs={0x277: 5}))
    vm.close()


# --- exits ------------------------------------------------------------------------------------------------------


def run_script(kernel: FakeKernel, *steps: object) -> tuple[KvmVm, KvmVcpu, Ports]:
    """A machine whose KVM_RUN does one step a time, then halts. A step writes into the run page, or is an exception."""
    left = list(steps)

    def enter(page: RunPage) -> None:
        step = left.pop(0) if left else None
        if isinstance(step, OSError):
            raise step
        if callable(step):
            step(page)
        else:
            write_exit(page, ExitReason.HLT)

    kernel._enter = enter
    ports = Ports()
    vm = create(kernel, ports)
    return vm, vm.vcpus[0], ports


def test_accesses_go_to_the_handler_and_answers_to_the_guest(kernel: FakeKernel) -> None:
    answers: list[bytes] = []

    def read_back(page: RunPage) -> None:
        answers.append(data_of(page, 6))
        write_exit(page, ExitReason.HLT)

    vm, vcpu, ports = run_script(
        kernel,
        lambda page: write_port_access(page, 0x80, 2, True, b"\x34\x12"),
        lambda page: write_port_access(page, 0x81, 4, True, b"\x78\x56\x34\x12"),
        lambda page: write_port_access(page, 0x82, 1, False, b""),
        lambda page: write_port_access(page, 0x83, 4, False, b""),
        lambda page: write_port_access(page, 0x84, 2, True, b"\1\0\2\0", count=2),
        lambda page: write_port_access(page, 0x85, 2, False, b"", count=3),
        read_back,
    )
    assert vcpu.run() == Halt()
    assert ports.seen == [
        ("out", 0x80, 2, 0x1234),
        ("out", 0x81, 4, 0x1234_5678),
        ("in", 0x82, 1, 0),
        ("in", 0x83, 4, 0),
        ("out", 0x84, 2, 1),
        ("out", 0x84, 2, 2),
        *[("in", 0x85, 2, 0)] * 3,
    ]
    assert answers == [b"\x55\x66" * 3]
    vm.close()


def test_interrupted_run_is_a_kick_and_a_retry_is_none(kernel: FakeKernel) -> None:
    vm, vcpu, _ = run_script(kernel, OSError(errno.EAGAIN, ""), OSError(errno.EINTR, ""))
    assert vcpu.run() == Kicked()
    assert vcpu.statistics()["entries"] == 2
    vm.close()


def test_emulation_failure_carries_the_instruction(kernel: FakeKernel) -> None:
    def fail(page: RunPage) -> None:
        write_exit(page, ExitReason.INTERNAL_ERROR, at_32=1 | 4 << 32, at_40=1)
        page.bytes[48:52] = b"\x03\xdb\xe3\x90"  # with the byte behind it

    vm, vcpu, _ = run_script(kernel, fail)
    result = vcpu.run()
    assert isinstance(result, Fault)
    assert isinstance(result.error, EmulationFailure)
    assert result.error.code == b"\xdb\xe3"
    assert result.reason == (
        "KVM cannot emulate `fninit` (db e3) at vCPU 0, ring 0, real mode, rip 0x0000000000000000"
    )
    vm.close()


def test_entry_failure_shows_the_state_and_the_processors_reason(kernel: FakeKernel) -> None:
    vm, vcpu, _ = run_script(kernel, lambda page: write_exit(page, ExitReason.FAIL_ENTRY, at_32=0x8000_0021))
    result = vcpu.run()
    assert isinstance(result, Fault)
    assert isinstance(result.error, EntryFailure)
    assert "reason 0x80000021: cr0=0x0" in result.reason
    vm.close()


@pytest.mark.parametrize(
    ("reason", "words", "text"),
    [
        (ExitReason.INTERNAL_ERROR, {"at_32": 3}, "an event could not be delivered"),
        (ExitReason.HYPERCALL, {}, "unexpected exit HYPERCALL"),
        (60, {}, "unexpected exit 60"),
    ],
)
def test_what_nobody_handles_is_said(kernel: FakeKernel, reason: int, words: dict[str, int], text: str) -> None:
    vm, vcpu, _ = run_script(kernel, lambda page: write_exit(page, reason, **words))
    result = vcpu.run()
    assert isinstance(result, Fault)
    assert isinstance(result.error, UnexpectedExit)
    assert text in result.reason
    vm.close()


def test_shutdown_says_where(kernel: FakeKernel) -> None:
    vm, vcpu, _ = run_script(kernel, lambda page: write_exit(page, ExitReason.SHUTDOWN))
    assert vcpu.run() == Shutdown("triple fault at vCPU 0, ring 0, real mode, rip 0x0000000000000000", 0)
    vm.close()


# --- traces -----------------------------------------------------------------------------------------------------


def test_exits_and_interrupts_can_be_traced(kernel: FakeKernel) -> None:
    ring = sink.RingSink()
    for name in ("exit_kvm", "interrupt_line", "interrupt_message"):
        sink.enable(name, ring)
    try:
        vm, vcpu, _ = run_script(kernel, lambda page: write_port_access(page, 0x80, 1, True, b"a"))
        vcpu.run()
        vm.interrupts.set_level(4, True)
        vm.interrupts.send(0xFEE0_0000, 0x31)
        vm.close()
    finally:
        sink.disable("*", ring)
    assert list(ring.events) == [
        ("exit_kvm", (0, "io", 0)),
        ("exit_kvm", (0, "hlt", 0)),
        ("interrupt_line", (4, True)),
        ("interrupt_message", (0xFEE0_0000, 0x31)),
    ]
