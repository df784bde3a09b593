"""Disks of a whole VM: opened once, kept across reboots, closed at the end; errors before anything starts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from manor.backends.block.api import BlockError
from manor.base.errors import ConfigError, HostError, StateError
from manor.base.exits import Exit, Halt
from manor.base.units import MiB
from manor.devices.block.disk import Disk, Kind, Request
from manor.mem import layout
from manor.spec.block import DiskSpec, Throttle
from manor.spec.machine import MachineSpec
from manor.testing.fake_accel import FakeAccel, FakeVcpu, Program
from manor.testing.guest_programs import echo, off, reboot
from manor.testing.kernel import kernel_file
from manor.testing.memory_disk import MemoryDisk
from manor.vmm.disks import OpenDisk, OpenDisks, resize_disk
from manor.vmm.lifecycle import Reason, State, VmEnd
from manor.vmm.vm import Vm, _describe_disks
from manor.vmm.workers import Workers


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(b"d" * 8192)
    return path


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Vm]:
    def make(*disks: DiskSpec, program: Program = echo, reboot: bool = True) -> Vm:
        spec = MachineSpec(kernel_file(tmp_path), memory=64 * MiB, disks=disks)
        return Vm(spec, FakeAccel(program), reboot)

    return make


def raw(path: Path, **fields: object) -> DiskSpec:
    return DiskSpec(str(path), "raw", **fields)  # type: ignore[arg-type]


# --- errors before anything starts --------------------------------------------------------------------------------


def test_missing_file(make: Callable[..., Vm], tmp_path: Path) -> None:
    vm = make(raw(tmp_path / "nothing"))
    with pytest.raises(HostError, match="nothing.*No such file"):
        vm.prepare()
    assert vm.state is State.ENDED


def test_directory(make: Callable[..., Vm], tmp_path: Path) -> None:
    with pytest.raises((ConfigError, HostError), match=str(tmp_path)):
        make(raw(tmp_path)).prepare()


def test_too_small(make: Callable[..., Vm], tmp_path: Path) -> None:
    path = tmp_path / "small"
    path.write_bytes(b"x" * 511)
    with pytest.raises(ConfigError, match=r"disk: .*511 bytes.*make it larger"):
        make(raw(path)).prepare()


def test_locked_by_another(make: Callable[..., Vm], image: Path) -> None:
    with make(raw(image)) as vm:
        vm.prepare()
        with pytest.raises(HostError, match="is using it"):
            make(raw(image)).prepare()
        vm.start()
    # After the end it is free again; and what failed has left nothing locked.
    with make(raw(image)) as vm:
        vm.start()


def test_second_disk_that_fails_frees_the_first(make: Callable[..., Vm], image: Path, tmp_path: Path) -> None:
    with pytest.raises(HostError):
        make(raw(image), raw(tmp_path / "nothing")).prepare()
    with make(raw(image)) as vm:
        vm.start()


def test_what_the_guest_wrote_last_may_be_lost_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    disks = OpenDisks([])
    first, second = MemoryDisk(512, name="a.img"), MemoryDisk(512, name="b.img")

    def fail() -> None:
        raise BlockError("no space left on device")

    monkeypatch.setattr(first, "close", fail)
    disks.all = [OpenDisk(disk.name, DiskSpec(disk.name), disk) for disk in (first, second)]
    with pytest.raises(HostError, match=r"a\.img may lack what the guest wrote last: no space"):
        disks.close()
    assert second.is_closed
    disks.close()


def test_image_that_is_none_of_its_format(make: Callable[..., Vm], image: Path) -> None:
    with pytest.raises(HostError, match="not a qcow2 image"):
        make(DiskSpec(str(image), "qcow2")).prepare()
    with pytest.raises(ConfigError, match="disk: .*there is no format 'nonsense'"):
        make(DiskSpec(str(image), "nonsense")).prepare()


def test_limits_are_kept_by_workers_not_by_vcpus(make: Callable[..., Vm], image: Path) -> None:
    with make(raw(image, throttle=Throttle(operations_per_second=1000))) as vm:
        vm.start()
        machine = vm._machine
        assert machine is not None
        disk = machine.disks[0]
        done = threading.Event()
        with machine.lock:
            vm._workers.enlist()
            buffer = memoryview(bytearray(512))
            disk.start([Request(Kind.READ, ((0, 512),), [buffer], lambda error: None)], done.set)
        assert done.wait(10)
        assert bytes(buffer) == b"d" * 512
        assert disk.statistics.short == 0


# --- life ---------------------------------------------------------------------------------------------------------


def test_disks_live_as_long_as_the_vm_and_not_as_the_machine(make: Callable[..., Vm], image: Path) -> None:
    turns: list[object] = []

    def program(cpu: FakeVcpu) -> Generator[Exit, None, None]:
        turns.append(vm._disks.backends[0])
        yield from (reboot if len(turns) < 3 else power_off)(cpu)

    def power_off(cpu: FakeVcpu) -> Generator[Exit, None, None]:
        off(cpu)
        yield Halt()

    with make(raw(image), program=program) as vm:
        vm.start()
        assert vm.wait(10) == VmEnd(Reason.POWER_OFF)
    assert len(turns) == 3
    assert len(set(map(id, turns))) == 1
    assert vm._disks.backends == []


def test_functions_follow_the_order_of_the_disks(make: Callable[..., Vm], image: Path) -> None:
    found: list[int] = []

    def program(cpu: FakeVcpu) -> Generator[Exit, None, None]:
        found.extend(cpu.load(layout.ECAM + (slot << 15)) for slot in range(1, 7))
        off(cpu)
        yield Halt()

    disks = (raw(image, read_only=True), raw(image, read_only=True, bus="nvme"))
    with make(*disks, program=program) as vm:
        vm.start()
        vm.wait(10)
    assert [each >> 16 for each in found] == [0x1043, 0x1044, 0x1045, 0x1042, 0x10F0, 0xFFFF]
    assert list(vm.statistics().disks) == ["disk0", "disk1"]
    assert vm.statistics().disks["disk0"]["read_requests"] == 0


def test_resize(make: Callable[..., Vm], image: Path) -> None:
    with make(raw(image)) as vm:
        with pytest.raises(StateError):
            vm.resize_disk(0, 16384)
        vm.start()
        vm.resize_disk(0, 16384)
        assert image.stat().st_size == 16384
        vm.resize_disk("disk0", 4096)
        assert image.stat().st_size == 4096
        with pytest.raises(ConfigError, match="no disk of this machine; there are: disk0"):
            vm.resize_disk("sda", 4096)
        with pytest.raises(ConfigError, match="no disk"):
            vm.resize_disk(1, 4096)
        with pytest.raises(ConfigError, match="no disk"):
            vm.resize_disk(-1, 4096)
        with pytest.raises(ConfigError, match="multiple of 512"):
            vm.resize_disk(0, 1000)


def test_refused_resize_is_an_error_of_the_host() -> None:
    backend = MemoryDisk(4096)
    backend.fail["resize"] = BlockError("a format that cannot")
    disk = Disk("disk0", backend, threading.RLock(), Workers(lambda error: None))
    with pytest.raises(HostError, match="a format that cannot"):
        resize_disk([disk], 0, 512)


def test_disks_of_the_python_api(tmp_path: Path) -> None:
    spec = DiskSpec("x")
    assert _describe_disks([spec, "y,bus=nvme", tmp_path]) == (
        spec, DiskSpec("y", bus="nvme"), DiskSpec(str(tmp_path)),
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"disks\[1\]"):
        _describe_disks(["a", 5])  # type: ignore[list-item]


def test_vm_that_was_never_started_lets_go_of_its_disks(make: Callable[..., Vm], image: Path) -> None:
    with make(raw(image)) as vm:
        vm.prepare()
    with make(raw(image)) as vm:
        vm.start()


def test_storage_that_hangs_does_not_keep_the_vm_from_ending(
    make: Callable[..., Vm], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = MemoryDisk(4096, name="hung.img")
    backend.gate.clear()
    monkeypatch.setattr("manor.vmm.vm._DRAIN_S", 0.2)
    monkeypatch.setattr("manor.vmm.disks.open_disk", lambda spec: backend)
    with make(DiskSpec("hung.img")) as vm:
        vm.start()
        machine = vm._machine
        assert machine is not None
        told: list[object] = []
        with machine.lock:
            machine.disks[0].start([Request(Kind.FLUSH, (), (), told.append)], lambda: told.append("after"))
        vm.power_off()
        assert vm.wait(10) == VmEnd(Reason.ERROR, "the host did not finish requests of disk0")
    backend.gate.set()
    vm._workers.close()
    assert told == []


def test_pause_waits_for_requests(make: Callable[..., Vm], monkeypatch: pytest.MonkeyPatch) -> None:
    backend = MemoryDisk(4096, name="slow.img")
    backend.gate.clear()
    monkeypatch.setattr("manor.vmm.vm.PAUSE_S", 0.3)
    monkeypatch.setattr("manor.vmm.disks.open_disk", lambda spec: backend)
    with make(DiskSpec("slow.img")) as vm:
        vm.start()
        vm.serial.wait_for("ready", 5)
        machine = vm._machine
        assert machine is not None
        told: list[object] = []
        with machine.lock:
            machine.disks[0].start([Request(Kind.FLUSH, (), (), told.append)], lambda: None)
        with pytest.raises(HostError, match="cannot pause: disk0 waits for the host's storage"):
            vm.pause()
        assert vm.state is State.RUNNING
        backend.gate.set()
        vm.pause()
        assert told == [None]
        vm.resume()


# --- workers ------------------------------------------------------------------------------------------------------


def test_workers_run_jobs_and_report_what_fails() -> None:
    errors: list[BaseException] = []
    workers = Workers(errors.append)
    done = threading.Event()

    def fail() -> None:
        raise ValueError("no")

    workers.submit(fail)
    workers.submit(done.set)
    assert done.wait(10)
    workers.close()
    workers.close()
    assert [str(error) for error in errors] == ["no"]
    workers.submit(fail)


def test_more_jobs_than_idle_threads_get_threads_of_their_own() -> None:
    workers = Workers(lambda error: None)
    barrier = threading.Barrier(4)
    for _ in range(4):
        workers.submit(lambda: (barrier.wait(10), None)[1])
    workers.close()
    assert not barrier.broken
    assert barrier.n_waiting == 0


def test_disks_whose_storage_hangs_do_not_hold_back_others() -> None:
    workers = Workers(lambda error: None)
    lock = threading.RLock()
    hung = [MemoryDisk(4096) for _ in range(4)]
    done = threading.Event()
    with lock:
        for backend in hung:
            backend.gate.clear()
            disk = Disk("hung", backend, lock, workers)
            for _ in range(20):
                disk.start([Request(Kind.FLUSH, (), (), lambda error: None)], lambda: None)
        Disk("well", MemoryDisk(4096), lock, workers).start(
            [Request(Kind.FLUSH, (), (), lambda error: None)], done.set
        )
    assert done.wait(10)
    for backend in hung:
        backend.gate.set()
    workers.close()


def test_short_jobs_are_for_threads_that_asked_for_them() -> None:
    workers = Workers(lambda error: None)
    ran: list[int] = []
    assert not workers.submit_short(lambda: ran.append(1))
    workers.enlist()
    assert workers.submit_short(lambda: ran.append(2))
    assert workers.submit_short(lambda: ran.append(3))
    assert ran == []
    workers.run_short()
    assert ran == [2, 3]


@pytest.mark.parametrize("is_quick", [True, False])
def test_no_request_is_forgotten_when_workers_come_and_go(is_quick: bool) -> None:
    """A worker that found nothing to do and one that adds a request at the same moment."""
    errors: list[BaseException] = []
    workers = Workers(errors.append)
    lock = threading.RLock()
    disk = Disk("disk0", MemoryDisk(1 << 20), lock, workers)
    disk._mean_ns = 0 if is_quick else 1 << 40
    for _ in range(3000):
        done = threading.Event()
        with lock:
            disk.start([Request(Kind.WRITE, ((0, 512),), [memoryview(bytes(512))], lambda error: None)], done.set)
        assert done.wait(10)
    disk.drain()
    workers.close()
    assert disk.in_flight == 0
    assert errors == []


def test_requests_of_a_bug_end_with_an_error_and_the_vm_hears_of_it() -> None:
    errors: list[BaseException] = []
    workers = Workers(errors.append)
    lock = threading.RLock()
    backend = MemoryDisk(4096)
    backend.fail["write"] = ZeroDivisionError("a bug")
    disk = Disk("disk0", backend, lock, workers)
    told: list[BlockError | None] = []
    with lock:
        disk.start([Request(Kind.WRITE, ((0, 512),), [memoryview(bytes(512))], told.append)], lambda: None)
    disk.drain()
    workers.close()
    assert isinstance(told[0], BlockError)
    assert [str(error) for error in errors] == ["a bug"]
