"""A whole VM in its process, with a Python guest in place of an engine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

import manor
from manor.base.errors import ConfigError, StateError
from manor.base.exits import Exit, Halt, Shutdown
from manor.base.units import MiB
from manor.devices.misc.power import RESET_VALUE
from manor.mem import layout
from manor.spec.machine import MachineSpec
from manor.testing.fake_accel import NO_KVM, FakeAccel, FakeVcpu, Program
from manor.testing.guest_programs import echo, off
from manor.testing.kernel import kernel_file
from manor.vmm.lifecycle import Reason, State, VmEnd
from manor.vmm.vm import Vm

Guest = Generator[Exit, None, None]


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Vm]:
    def make(*programs: Program, reboot: bool = True) -> Vm:
        spec = MachineSpec(kernel_file(tmp_path), memory=64 * MiB, cpus=max(1, len(programs)))
        return Vm(spec, FakeAccel(*programs), reboot)

    return make


def test_conversation_with_a_guest(make: Callable[..., Vm]) -> None:
    with make(echo) as vm:
        vm.start()
        assert vm.serial.wait_for("ready\n", 5) == "ready\n"
        vm.serial.send("hello\n")
        assert vm.serial.wait_for("<hello>", 5) == "<hello>"
        vm.serial.send("off\n")
        assert vm.wait(5) == VmEnd(Reason.POWER_OFF)
    assert vm.state is State.ENDED
    statistics = vm.statistics()
    assert statistics.exits["serial"] > 10
    assert statistics.accel == {"guest_programs": 1}
    assert statistics.halts >= 1
    assert vm.statistics() is statistics


def test_leaving_the_with_block_ends_the_vm(make: Callable[..., Vm]) -> None:
    with make(echo) as vm:
        vm.start()
        vm.serial.wait_for("ready", 5)
    assert vm.end == VmEnd(Reason.STOPPED)
    with pytest.raises(manor.TextNotSeen, match="before the VM ended"):
        vm.serial.wait_for("more", 5)


def test_wait_gives_up_in_time(make: Callable[..., Vm]) -> None:
    with make(echo) as vm:
        vm.start()
        with pytest.raises(TimeoutError):
            vm.wait(0.01)


def test_end_is_told_also_to_those_who_come_late(make: Callable[..., Vm]) -> None:
    told = threading.Event()
    with make(echo) as vm:
        vm.start()
        vm.on_end(told.set)
        vm.power_off()
        vm.wait(5)
    assert told.wait(5)
    late = threading.Event()
    vm.on_end(late.set)
    assert late.is_set()


def test_reboot_builds_the_machine_anew_and_keeps_the_consoles(make: Callable[..., Vm]) -> None:
    boots: list[int] = []

    def program(cpu: FakeVcpu) -> Guest:
        boots.append(1)
        cpu.print(f"boot {len(boots)}\n")
        cpu.memory.write_u32(0x1000, cpu.memory.read_u32(0x1000) + 1)
        assert cpu.memory.read_u32(0x1000) == 1  # memory is new
        if len(boots) < 3:
            cpu.out(layout.ACPI_RESET, RESET_VALUE)
        else:
            off(cpu)
        yield Halt()

    with make(program) as vm:
        vm.start()
        assert vm.wait(5).reason is Reason.POWER_OFF
    assert vm.serial.text == "boot 1\nboot 2\nboot 3\n"


def test_reboot_ends_the_vm_if_it_shall(make: Callable[..., Vm]) -> None:
    def program(cpu: FakeVcpu) -> Guest:
        cpu.out(layout.ACPI_RESET, RESET_VALUE)
        yield Halt()

    with make(program, reboot=False) as vm:
        vm.start()
        assert vm.wait(5) == VmEnd(Reason.REBOOT)


def test_reset_after_a_panic_is_a_panic(make: Callable[..., Vm]) -> None:
    def program(cpu: FakeVcpu) -> Guest:
        cpu.print("[ 1.0] Kernel panic - not syncing: Attempted to kill init!\n")
        cpu.out(layout.ACPI_RESET, RESET_VALUE)
        yield Halt()

    with make(program) as vm:
        vm.start()
        assert vm.wait(5).reason is Reason.PANIC


def test_a_crashed_guest_is_kept_paused_if_it_shall(make: Callable[..., Vm]) -> None:
    def program(cpu: FakeVcpu) -> Guest:
        cpu.print("[ 1.0] Kernel panic - not syncing: Attempted to kill init!\n")
        cpu.out(layout.ACPI_RESET, RESET_VALUE)
        while True:
            yield Halt()

    told: list[str] = []
    has_crashed = threading.Event()
    with make(program) as vm:
        vm.preserve_crash()
        vm.listen(told.append)
        vm.listen(lambda event: has_crashed.set())
        vm.start()
        assert has_crashed.wait(5)
        assert (vm.state, vm.has_crashed, told) == (State.PAUSED, True, ["crash"])
        vm.power_off()
        assert vm.wait(5).reason is Reason.STOPPED


def test_a_reset_from_outside_starts_the_machine_anew_and_is_told(make: Callable[..., Vm]) -> None:
    told: list[str] = []
    with make(echo) as vm:
        vm.listen(told.append)
        vm.start()
        vm.serial.wait_for("ready\n", 5)
        vm.reset()
        vm.serial.wait_for("ready\n", 5)
        vm.serial.send("off\n")
        assert vm.wait(5) == VmEnd(Reason.POWER_OFF)
    assert told == ["reboot"]
    with make(echo, reboot=False) as vm:
        vm.start()
        with pytest.raises(StateError, match="reset is not allowed"):
            vm.reset()


def test_a_guest_that_minds_its_power_button_ends_or_starts_anew(make: Callable[..., Vm]) -> None:
    with make(echo) as vm:
        with pytest.raises(StateError, match="press the power button is not allowed in state created"):
            vm.press_power_button()
        vm.start()
        for then_reboot in (True, False):
            vm.serial.wait_for("ready\n", 5)
            vm.press_power_button(then_reboot)
            vm.serial.send("off\n")
        assert vm.wait(5) == VmEnd(Reason.POWER_OFF)
    with make(echo, reboot=False) as vm:
        vm.start()
        with pytest.raises(StateError, match="reboot is not allowed"):
            vm.press_power_button(then_reboot=True)


def test_triple_fault_of_any_vcpu_ends_the_vm(make: Callable[..., Vm]) -> None:
    def boot(cpu: FakeVcpu) -> Guest:
        cpu.store(layout.LOCAL_APIC + 0x310, 1 << 24)
        cpu.store(layout.LOCAL_APIC + 0x300, 0x4500)
        cpu.store(layout.LOCAL_APIC + 0x300, 0x4601)
        while True:
            yield Halt()

    def second(cpu: FakeVcpu) -> Guest:
        yield Shutdown("double fault while delivering #DF")

    with make(boot, second) as vm:
        vm.start()
        assert vm.wait(5) == VmEnd(Reason.TRIPLE_FAULT, "double fault while delivering #DF")


def test_timer_of_the_machine_wakes_a_halted_vcpu(make: Callable[..., Vm]) -> None:
    def program(cpu: FakeVcpu) -> Guest:
        cpu.store(layout.LOCAL_APIC + 0xF0, 0x1FF)
        cpu.store(layout.LOCAL_APIC + 0x320, 0x50)  # one-shot
        cpu.store(layout.LOCAL_APIC + 0x3E0, 0xB)  # divide by 1
        cpu.store(layout.LOCAL_APIC + 0x380, 2_000_000)
        yield Halt()
        assert cpu.controller is not None
        assert cpu.controller.acknowledge() == 0x50
        off(cpu)
        yield Halt()

    with make(program) as vm:
        vm.start()
        assert vm.wait(5).reason is Reason.POWER_OFF


def test_machine_that_cannot_be_built_leaves_nothing_running(tmp_path: Path) -> None:
    before = threading.active_count()
    vm = Vm(MachineSpec(tmp_path / "missing"), FakeAccel())
    with pytest.raises(ConfigError, match="kernel: .*missing does not exist"):
        vm.start()
    assert vm.state is State.ENDED
    assert vm.wait(0).reason is Reason.ERROR
    assert threading.active_count() == before


def test_machine_that_cannot_be_built_again_ends_with_the_reason(make: Callable[..., Vm]) -> None:
    def program(cpu: FakeVcpu) -> Guest:
        assert vm.spec.kernel is not None
        vm.spec.kernel.unlink()
        cpu.out(layout.ACPI_RESET, RESET_VALUE)
        yield Halt()

    with make(program) as vm:
        vm.start()
        end = vm.wait(5)
    assert end.reason is Reason.ERROR
    assert "after the reboot: kernel: " in end.detail


def test_vm_starts_only_once(make: Callable[..., Vm]) -> None:
    with make(echo) as vm:
        vm.start()
        with pytest.raises(StateError):
            vm.start()
        vm.power_off()
        vm.wait(5)
        with pytest.raises(StateError):
            vm.start()


def test_statistics_before_the_start_are_zero(make: Callable[..., Vm]) -> None:
    statistics = make(echo).statistics()
    assert statistics.wall_ns == 0
    assert statistics.as_dict()["exits"] == {}


def test_window_size_survives_a_reboot(make: Callable[..., Vm]) -> None:
    sizes: list[tuple[int, int]] = []
    rebooted: list[int] = []

    def program(cpu: FakeVcpu) -> Guest:
        cpu.store(layout.ECAM + (1 << 15) + 4, 0x2, 2)
        bar = cpu.load(layout.ECAM + (1 << 15) + 0x10, 4) & ~0xF
        bar |= cpu.load(layout.ECAM + (1 << 15) + 0x14, 4) << 32
        size = cpu.load(bar + 0x2000, 4)
        sizes.append((size & 0xFFFF, size >> 16))
        if rebooted:
            off(cpu)
        else:
            rebooted.append(1)
            cpu.out(layout.ACPI_RESET, RESET_VALUE)
        yield Halt()

    with make(program) as vm:
        vm.resize(100, 40)
        vm.start()
        vm.wait(5)
    assert sizes == [(100, 40), (100, 40)]


# --- manor.start ------------------------------------------------------------------------------------------------


def test_start_from_a_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("manor.accel.choose._load_dbt", lambda: FakeAccel(echo))
    monkeypatch.setattr("manor.accel.choose.probe", lambda: NO_KVM)
    with manor.start(kernel=str(kernel_file(tmp_path)), memory="64M", append="console=ttyS0") as vm:
        vm.serial.wait_for("ready", 5)
        assert vm.spec.memory == 64 * MiB


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"memory": "abc"}, "memory: .*not a size"),
        ({"memory": 1024}, "memory: .*too little"),
        ({"cpus": 0}, "cpus: 0 is not"),
        ({"accel": "tcg"}, "accel: 'tcg' is unknown; give one of auto, dbt, kvm"),
        ({"console": "vga"}, "console: 'vga' is unknown"),
        ({"kernel": None, "initrd": "x"}, "initrd: it needs a kernel"),
        ({"memory": 1.5}, "memory: 1.5 is not a number of bytes or text"),
        ({"memory": None}, "memory: None is not"),
        ({"cpus": "2"}, "cpus: '2' is not a whole number"),
        ({"cpus": True}, "cpus: True is not"),
        ({"kernel": b"x"}, "kernel: b'x' is not a path"),
        ({"append": ["quiet"]}, "append: .* is not text"),
    ],
)
def test_start_refuses_nonsense_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, object], message: str
) -> None:
    monkeypatch.setattr("manor.accel.choose._load_dbt", FakeAccel)
    monkeypatch.setattr("manor.accel.choose.probe", lambda: NO_KVM)
    all_arguments: dict[str, object] = {"kernel": kernel_file(tmp_path), **arguments}
    with pytest.raises(ConfigError, match=message):
        manor.start(**all_arguments)  # type: ignore[arg-type]


def test_every_public_name_exists() -> None:
    for name in manor.__all__:
        assert getattr(manor, name) is not None
    with pytest.raises(AttributeError):
        _ = manor.nothing
