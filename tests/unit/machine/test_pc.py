"""The machine `pc` as a guest sees it, with a Python guest in place of an engine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from manor.base.clock import FakeClock
from manor.base.errors import ConfigError
from manor.base.exits import Exit, Halt
from manor.base.units import MiB
from manor.devices.intc.lapic_timer import APIC_TIMER_HZ
from manor.devices.misc.power import RESET_VALUE, SLP_TYP_S5
from manor.machine.allocator import SlotAllocator
from manor.machine.builder import build
from manor.machine.host_side import HostSide
from manor.machine.pc import Machine
from manor.mem import layout
from manor.spec.machine import CRYSTAL_FREQUENCY_HZ, MachineSpec
from manor.testing.fake_accel import FakeAccel, FakeVcpu, Program
from manor.testing.fakes import FakeTimers
from manor.testing.kernel import ENTRY, kernel_file
from manor.trace import sink


class Line:
    """The far end of a console."""

    def __init__(self) -> None:
        self.output = b""
        self.is_full = False
        self.waits = 0

    def write(self, data: bytes) -> None:
        self.output += data

    def wait_room(self) -> None:
        self.waits += 1
        self.is_full = False


@dataclass
class Host:
    """Everything a machine gets from the VMM, as fakes."""

    serial: Line = field(default_factory=Line)
    console: Line = field(default_factory=Line)
    requests: list[str] = field(default_factory=list)
    woken: list[int] = field(default_factory=list)
    timers: FakeTimers = field(default_factory=lambda: FakeTimers(FakeClock()))

    def side(self) -> HostSide:
        def defer(callback: Callable[[], None]) -> None:
            self.timers.at(0, callback)

        return HostSide(
            clock=self.timers.clock,
            timers=self.timers,
            defer=defer,
            lock=threading.RLock(),
            serial=self.serial,
            console=self.console,
            power_off=lambda: self.requests.append("power-off"),
            reset=lambda: self.requests.append("reset"),
            wake=self.woken.append,
        )


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def make(tmp_path: Path, host: Host) -> Callable[..., Machine]:
    def make(*programs: Program, memory: int = 64 * MiB, append: str = "console=ttyS0") -> Machine:
        spec = MachineSpec(
            kernel=kernel_file(tmp_path), append=append, memory=memory, cpus=max(1, len(programs))
        )
        return build(spec, FakeAccel(*programs), host.side())

    return make


def run(machine: Machine, index: int = 0) -> Exit:
    return machine.vm.vcpus[index].run()


def test_guest_prints_and_powers_off(make: Callable[..., Machine], host: Host) -> None:
    def program(cpu: FakeVcpu) -> Generator[Exit, None, None]:
        cpu.print("hello\n")
        cpu.out(layout.ACPI_SLEEP_CONTROL, SLP_TYP_S5 << 2 | 1 << 5)
        yield Halt()

    machine = make(program)
    assert isinstance(run(machine), Halt)
    assert host.serial.output == b"hello\n"
    assert host.requests == ["power-off"]
    assert machine.exits_by_device() == {"serial": 6, "power": 1}


@pytest.mark.parametrize(
    ("port", "values"),
    [
        (layout.ACPI_RESET, [RESET_VALUE]),
        (layout.I8042_COMMAND, [0xFE]),
        (layout.RESET_CONTROL, [0x02, 0x06]),
    ],
)
def test_every_way_to_reset(
    make: Callable[..., Machine], host: Host, port: int, values: list[int]
) -> None:
    def program(cpu: FakeVcpu) -> Generator[Exit, None, None]:
        for value in values:
            cpu.out(port, value)
        yield Halt()

    run(make(program))
    assert host.requests == ["reset"]


def test_pci_devices_are_found_through_ecam_and_ports(make: Callable[..., Machine]) -> None:
    found: dict[str, list[tuple[int, int]]] = {"ecam": [], "ports": []}

    def program(cpu: FakeVcpu) -> Generator[Exit, None, None]:
        for slot in range(32):
            identity = cpu.load(layout.ECAM + (slot << 15))
            if identity != 0xFFFF_FFFF:
                found["ecam"].append((slot, identity))
            cpu.out(layout.PCI_CONFIG, 1 << 31 | slot << 11, 4)
            identity = cpu.in_(layout.PCI_CONFIG + 4, 4)
            if identity != 0xFFFF_FFFF:
                found["ports"].append((slot, identity))
        yield Halt()

    run(make(program))
    assert found["ecam"] == found["ports"]
    identities = dict(found["ecam"])
    assert set(identities) == {0, 1, 2, 3}
    assert identities[1] == 0x1043_1AF4  # virtio-console
    assert identities[2] == 0x1044_1AF4  # virtio-rng


def test_bars_lie_in_the_windows_and_answer(make: Callable[..., Machine]) -> None:
    queues: list[int] = []

    def program(cpu: FakeVcpu) -> Generator[Exit, None, None]:
        config = layout.ECAM + (1 << 15)
        cpu.store(config + 4, 0x6, 2)  # memory space, bus master
        low, high = cpu.load(config + 0x10), cpu.load(config + 0x14)
        bar = (low & ~0xF) | high << 32
        assert layout.MMIO32 <= bar < layout.ECAM or layout.MMIO64 <= bar < layout.MMIO64 + layout.MMIO64_SIZE
        queues.append(cpu.load(bar + 0x12, 2))
        yield Halt()

    machine = make(program)
    run(machine)
    assert queues == [2]
    assert "virtio-console virtio" in machine.exits_by_device()


def test_each_vcpu_sees_its_own_local_apic_and_an_ipi_wakes_the_other(
    make: Callable[..., Machine], host: Host
) -> None:
    ids: list[int] = []

    def boot(cpu: FakeVcpu) -> Generator[Exit, None, None]:
        ids.append(cpu.load(layout.LOCAL_APIC + 0x20) >> 24)
        cpu.store(layout.LOCAL_APIC + 0x310, 1 << 24)
        cpu.store(layout.LOCAL_APIC + 0x300, 0x4500)  # INIT
        cpu.store(layout.LOCAL_APIC + 0x300, 0x4600 | 0x9A)  # start-up at 0x9A000
        yield Halt()

    def second(cpu: FakeVcpu) -> Generator[Exit, None, None]:
        ids.append(cpu.load(layout.LOCAL_APIC + 0x20) >> 24)
        yield Halt()

    machine = make(boot, second)
    assert not machine.vm.vcpus[1].has_work()
    run(machine, 0)
    assert 1 in host.woken
    assert machine.vm.vcpus[1].get_state().rip == 0x9A000
    run(machine, 1)
    assert ids == [0, 1]
    assert machine.exits_by_device()["lapic"] == 5


def test_serial_input_interrupts_through_the_io_apic(make: Callable[..., Machine], host: Host) -> None:
    vectors: list[int | None] = []

    def program(cpu: FakeVcpu) -> Generator[Exit, None, None]:
        cpu.store(layout.LOCAL_APIC + 0xF0, 0x1FF)  # enable
        cpu.store(layout.IO_APIC, 0x10 + 2 * layout.COM1_IRQ)
        cpu.store(layout.IO_APIC + 0x10, 0x44)
        cpu.out(layout.COM1 + 4, 0x08)  # OUT2 lets interrupts out
        cpu.out(layout.COM1 + 1, 0x01)
        yield Halt()
        assert cpu.controller is not None
        vectors.append(cpu.controller.acknowledge())
        vectors.append(cpu.in_(layout.COM1))
        yield Halt()

    machine = make(program)
    run(machine)
    with machine.lock:
        machine.serial.receive(b"x")
    assert host.woken == [0]
    run(machine)
    assert vectors == [0x44, ord("x")]


def test_unmapped_accesses_read_as_ones_and_are_counted(make: Callable[..., Machine]) -> None:
    values: list[int] = []

    def program(cpu: FakeVcpu) -> Generator[Exit, None, None]:
        values.append(cpu.in_(0x1234, 2))
        values.append(cpu.load(0xFED0_0000, 4))
        cpu.store(0xFED0_0000, 1, 4)
        yield Halt()

    machine = make(program)
    run(machine)
    assert values == [0xFFFF, 0xFFFF_FFFF]
    assert machine.exits_by_device() == {"unmapped": 3}


def test_accesses_are_traced_with_the_device(make: Callable[..., Machine]) -> None:
    def program(cpu: FakeVcpu) -> Generator[Exit, None, None]:
        cpu.out(layout.COM1, 0x41)
        cpu.in_(layout.COM1 + 5)
        cpu.load(layout.LOCAL_APIC + 0x30)
        cpu.store(layout.ECAM, 0)
        yield Halt()

    ring = sink.RingSink()
    sink.enable("exit_*", ring)
    try:
        run(make(program))
    finally:
        sink.disable("*", ring)
    assert [(name, values[:2]) for name, values in ring.events] == [
        ("exit_pio_write", ("serial", layout.COM1)),
        ("exit_pio_read", ("serial", layout.COM1 + 5)),
        ("exit_mmio_read", (0, "lapic")),
        ("exit_mmio_write", (0, "pci-config")),
    ]


def test_guest_that_prints_too_fast_waits_for_its_reader(make: Callable[..., Machine], host: Host) -> None:
    def program(cpu: FakeVcpu) -> Generator[Exit, None, None]:
        cpu.print("a")
        yield Halt()

    machine = make(program)
    host.serial.is_full = True
    run(machine)
    assert host.serial.waits == 1


def test_kernel_starts_at_its_entry_with_tables_in_memory(make: Callable[..., Machine]) -> None:
    machine = make()
    assert machine.vm.vcpus[0].get_state().rip == ENTRY
    assert machine.memory.read(layout.ACPI_TABLES, 8) == b"RSD PTR "
    assert not make(_nothing, _nothing).vm.vcpus[1].get_state().runnable


def _nothing(cpu: FakeVcpu) -> Generator[Exit, None, None]:
    yield Halt()


def test_memory_above_the_hole(make: Callable[..., Machine]) -> None:
    machine = make(memory=layout.LOW_RAM_END + 16 * MiB)
    assert machine.memory.contains(layout.HIGH_RAM, 16 * MiB)
    assert not machine.memory.contains(layout.MMIO32, 1)


def test_errors_name_the_field(make: Callable[..., Machine], tmp_path: Path, host: Host) -> None:
    with pytest.raises(ConfigError, match="memory: .*too small"):
        make(memory=8 * MiB)
    spec = MachineSpec(kernel=tmp_path / "missing")
    with pytest.raises(ConfigError, match=r"kernel: .*missing does not exist"):
        build(spec, FakeAccel(), host.side())


def test_apic_timer_counts_at_the_announced_frequency() -> None:
    assert APIC_TIMER_HZ == CRYSTAL_FREQUENCY_HZ


def test_slots_run_out() -> None:
    slots = SlotAllocator()
    assert [slots.take("a") for _ in range(31)] == list(range(1, 32))
    with pytest.raises(ConfigError, match="no PCI slot is left for the-last"):
        slots.take("the-last")


def test_resizing_reaches_the_console(make: Callable[..., Machine]) -> None:
    machine = make()
    machine.resize_console(132, 43)
    assert (machine.console.columns, machine.console.rows) == (132, 43)
    machine.close()
