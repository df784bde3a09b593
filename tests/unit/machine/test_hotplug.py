"""Slots of a machine as its guest and its accelerator see them: addresses, doorbells and interrupts come and go."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from manor.accel.api import Doorbells
from manor.base.clock import FakeClock
from manor.base.errors import ConfigError
from manor.base.units import MiB
from manor.devices.misc.hotplug import PCI_EJECT, PCI_UP
from manor.machine.allocator import SlotAllocator
from manor.machine.builder import build
from manor.machine.host_side import HostSide
from manor.machine.pc import Machine
from manor.mem import layout
from manor.spec.block import DiskSpec
from manor.spec.machine import CpuModel, MachineSpec
from manor.testing.fake_accel import FakeAccel, FakeVm
from manor.testing.fakes import FakeTimers
from manor.testing.kernel import kernel_file
from manor.testing.memory_disk import MemoryDisk
from manor.testing.pci_driver import FoundFunction, VirtioPciDriver, enumerate_functions


class Line:
    """A console that swallows everything."""

    is_full = False

    def write(self, data: bytes) -> None:
        pass

    def wait_room(self) -> None:
        pass


class Work:
    """Workers that do at once what they are given."""

    def submit(self, job: Callable[[], None]) -> None:
        job()

    def submit_short(self, job: Callable[[], None]) -> bool:
        return False

    def run_short(self) -> None:
        pass


class Bells(Doorbells):
    """What the accelerator was told: address to descriptor."""

    def __init__(self) -> None:
        self.attached: dict[int, int] = {}

    def attach(self, fd: int, address: int, is_port: bool) -> None:
        assert not is_port
        self.attached[address] = fd

    def detach(self, fd: int, address: int, is_port: bool) -> None:
        assert self.attached.pop(address) == fd


class Readers:
    """The I/O loop's descriptors."""

    def __init__(self) -> None:
        self.watched: dict[int, Callable[[], None]] = {}

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        self.watched[fd] = callback

    def unwatch(self, fd: int, then: Callable[[], None]) -> None:
        del self.watched[fd]
        then()


class BellAccel(FakeAccel):
    """An accelerator with doorbells, as KVM has them."""

    def __init__(self) -> None:
        super().__init__()
        self.bells = Bells()

    def create_vm(self, memory: object, handler: object, cpus: int, cpu_model: CpuModel = "max") -> FakeVm:
        vm = super().create_vm(memory, handler, cpus, cpu_model)  # type: ignore[arg-type]
        vm.doorbells = self.bells  # type: ignore[assignment]
        return vm


class Made:
    """A machine with one disk, and the other ends of all that it touches."""

    def __init__(self, folder: Path, **fields: object) -> None:
        self.accel = BellAccel()
        self.readers = Readers()
        self.ejected: list[str] = []
        timers = FakeTimers(FakeClock())
        host = HostSide(
            clock=timers.clock, timers=timers, defer=lambda callback: callback(), lock=threading.RLock(),
            serial=Line(), console=Line(), power_off=lambda: None, reset=lambda: None, wake=lambda index: None,
            readers=self.readers, work=Work(), disks=[MemoryDisk(MiB)], ejected=self.ejected.append,
        )  # fmt: skip
        spec = MachineSpec(kernel_file(folder), memory=64 * MiB, disks=(DiskSpec("first"),), **fields)  # type: ignore[arg-type]
        self.machine: Machine = build(spec, self.accel, host)
        assert self.machine.hotplug is not None
        self.hotplug = self.machine.hotplug

    def function(self, slot: int) -> FoundFunction | None:
        return next((one for one in enumerate_functions(self.machine.mmio, layout.ECAM) if one.slot == slot), None)

    def mapped(self) -> list[str]:
        return [name for _, _, name in self.machine.mmio.ranges()]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path)


def place(function: FoundFunction) -> None:
    """Give a function that arrived its addresses, as Linux does."""
    function.size_bars()
    address = layout.MMIO32 + 64 * MiB
    for bar in function.bars.values():
        assert bar.address == 0, "nobody but the guest chooses it"
        address = (address + bar.size - 1) & -bar.size
        function.write(0x10 + 4 * bar.index, 4, address)
        address += bar.size
    function.size_bars()
    function.enable()


def test_disk_arrives_works_and_leaves_nothing_behind(made: Made) -> None:
    machine, hotplug = made.machine, made.hotplug
    before = made.mapped()
    bells = dict(made.accel.bells.attached)
    with machine.lock:
        plugged, _ = hotplug.add_disk(DiskSpec("second"), "data", MemoryDisk(MiB))
    assert machine.pio.read(layout.HOTPLUG + PCI_UP.offset, 4) == 1 << plugged.slot
    function = made.function(plugged.slot)
    assert function is not None
    place(function)
    driver = VirtioPciDriver(function)
    driver.negotiate(1 << 32)
    assert {"data virtio", "data msix"} <= set(made.mapped())
    rings = set(made.accel.bells.attached) - set(bells)
    assert len(rings) == 1, "its one queue"
    descriptors = {made.accel.bells.attached[address] for address in rings}
    with machine.lock:
        hotplug.ask("data")
    machine.pio.write(layout.HOTPLUG + PCI_EJECT.offset, 4, 1 << plugged.slot)
    assert made.ejected == ["data"]
    assert made.function(plugged.slot) is None
    assert made.mapped() == before
    assert made.accel.bells.attached == bells
    assert descriptors.isdisjoint(made.readers.watched)
    for descriptor in descriptors:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


def test_device_that_is_gone_interrupts_nobody(made: Made) -> None:
    with made.machine.lock:
        plugged, disk = made.hotplug.add_disk(DiskSpec("second"), "data", MemoryDisk(MiB))
    function = made.function(plugged.slot)
    assert function is not None
    place(function)
    function.program_msix(0xFEE0_0000, 0x40)
    made.machine.pio.write(layout.HOTPLUG + PCI_EJECT.offset, 4, 1 << plugged.slot)
    with made.machine.lock:
        plugged.function.set_intx(True)
        assert plugged.function.msix is not None
        plugged.function.msix.notify(0)
        disk.on_resize()
    assert made.function(plugged.slot) is None


def test_second_ejection_is_the_guests_mistake(made: Made) -> None:
    slot = made.hotplug.find("disk0").slot
    for _ in range(2):
        made.machine.pio.write(layout.HOTPLUG + PCI_EJECT.offset, 4, 1 << slot)
    assert made.ejected == ["disk0"]
    with pytest.raises(ConfigError, match="no PCI slot|is in no slot"):
        made.hotplug.find("moon")


def test_slots_of_what_stays_have_no_method(made: Made) -> None:
    tables = made.hotplug.tables()
    assert tables.slots == tuple(range(4, 32))
    assert tables.cpus == ()


def test_vcpus_that_may_come_are_told_of(tmp_path: Path) -> None:
    made = Made(tmp_path, cpus=2, max_cpus=4)
    assert made.hotplug.tables().cpus == (1, 2, 3)
    assert len(made.machine.vm.vcpus) == 4
    assert made.hotplug.controller.cpu_enabled == 0b11


def test_places_that_are_asked_for(tmp_path: Path) -> None:
    slots = SlotAllocator(reserved=[2])
    assert [slots.take("a"), slots.take("b")] == [1, 3]
    assert slots.take("c", 2) == 2
    with pytest.raises(ConfigError, match="PCI slot 2 is not free for d"):
        slots.take("d", 2)
    for slot in (32, -1):
        with pytest.raises(ConfigError, match="is not free"):
            slots.take("d", slot)
    slots.give_back(2)
    assert slots.take("e") == 2
