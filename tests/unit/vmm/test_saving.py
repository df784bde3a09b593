"""Saving a VM into a file, and going on with it: all of it, or the VM runs on as if nothing had been."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from manor.base import sections
from manor.base.errors import ConfigError, HostError, ManorError, ProtocolError, StateError
from manor.base.exits import Exit, Kicked
from manor.base.units import MiB
from manor.devices.pci.host import PciHost
from manor.machine.pc import Machine
from manor.mem import layout
from manor.spec import saved_vm
from manor.spec.block import DiskSpec
from manor.spec.machine import MachineSpec
from manor.spec.net import NicSpec
from manor.spec.share import ShareSpec
from manor.testing.fake_accel import FakeAccel, FakeVcpu
from manor.testing.kernel import kernel_file
from manor.trace import sink
from manor.vmm import saved as saved_module
from manor.vmm.lifecycle import Reason, State
from manor.vmm.saved import SavedVm
from manor.vmm.saving import SaveGivenUp, Saving
from manor.vmm.vm import Vm

Guest = Generator[Exit, None, None]
MARK = 0x1234
PAGES = 300


def counter(cpu: FakeVcpu) -> Guest:
    """Counts in memory and in RIP, and says on the serial line how it began."""
    if cpu.state.rip == MARK:
        cpu.print(f"goes on with {cpu.memory.read_u32(8 * MiB)}\n")
    else:
        cpu.state.rip = MARK
        for page in range(PAGES):
            cpu.memory.write_u32(16 * MiB + 4096 * page, page * 0x9E3779B1 & 0xFFFF_FFFF)
        cpu.memory.write_u32(8 * MiB, 1)
        cpu.out(layout.COM1 + 7, 0x5A)  # the scratch register
        cpu.print("began\n")
    while True:
        cpu.memory.write_u32(8 * MiB, cpu.memory.read_u32(8 * MiB) + 1)
        time.sleep(0.001)
        yield Kicked()


Make = Callable[..., Vm]


@pytest.fixture
def spec(tmp_path: Path) -> MachineSpec:
    (tmp_path / "disk").write_bytes(bytes(1 << 20))
    return MachineSpec(
        kernel_file(tmp_path), memory=64 * MiB, name="vm", disks=(DiskSpec(str(tmp_path / "disk"), "raw"),)
    )


@pytest.fixture
def make(spec: MachineSpec) -> Make:
    def make(saved: SavedVm | None = None, **changes: Any) -> Vm:
        return Vm(replace(spec, **changes), FakeAccel(counter), saved=saved)

    return make


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vm.state"


def save(vm: Vm, path: Path) -> None:
    vm.start()
    vm.serial.wait_for("began", 5)
    vm.save(path)


def test_it_goes_on_where_it_was(make: Make, path: Path) -> None:
    progress: list[tuple[int, int]] = []
    vm = make()
    vm.start()
    vm.serial.wait_for("began", 5)
    time.sleep(0.05)
    saving = Saving(path, lambda done, total: progress.append((done, total)), note="a note")
    vm.save(saving)
    end = vm.wait(5)
    assert (end.reason, end.detail) == (Reason.SAVED, str(path))
    assert saving.size == path.stat().st_size
    assert progress[-1][0] <= progress[-1][1]
    assert progress == sorted(progress)
    saved = SavedVm(path)
    assert (saved.head.note, saved.head.paused, saved.head.accel) == ("a note", False, "fake")
    seen: list[tuple[int, int]] = []
    saved.progress = lambda done, total: seen.append((done, total))
    with make(saved) as again:
        again.start()
        text = again.serial.wait_for("goes on with ", 5)
        assert "began" not in text
        assert int(again.serial.wait_for("\n", 5)) > 10
        again.pause()
        machine = again._machine
        assert machine is not None
        assert machine.pio.read(layout.COM1 + 7, 1) == 0x5A
        for page in range(PAGES):
            assert machine.memory.read_u32(16 * MiB + 4096 * page) == page * 0x9E3779B1 & 0xFFFF_FFFF
    assert seen[-1][0] <= path.stat().st_size


def test_time_stands_still_meanwhile(make: Make, path: Path) -> None:
    save(make(), path)
    then = SavedVm(path).head.clock_ns
    time.sleep(0.3)
    with make(SavedVm(path)) as vm:
        vm.prepare()
        assert vm._machine_clock.now_ns() == then
        vm.start()
        vm.serial.wait_for("goes on", 5)
        assert then < vm._machine_clock.now_ns() < then + 5 * 10**9


def test_a_paused_one_stays_paused(make: Make, path: Path) -> None:
    vm = make()
    vm.start()
    vm.serial.wait_for("began", 5)
    vm.pause()
    vm.save(path)
    assert vm.wait(5).reason is Reason.SAVED
    with make(SavedVm(path)) as vm:
        vm.start()
        assert vm.state is State.PAUSED
        time.sleep(0.05)
        assert vm.serial.text == ""
        vm.resume()
        vm.serial.wait_for("goes on", 5)
    with make(SavedVm(path)) as vm:
        vm.start(paused=False)
        vm.serial.wait_for("goes on", 5)


def test_a_fresh_one_that_begins_paused(make: Make) -> None:
    with make() as vm:
        vm.start(paused=True)
        time.sleep(0.05)
        assert (vm.state, vm.serial.text) == (State.PAUSED, "")
        vm.resume()
        vm.serial.wait_for("began", 5)


def test_saved_again(make: Make, path: Path) -> None:
    save(make(), path)
    vm = make(SavedVm(path))
    vm.start()
    vm.serial.wait_for("goes on", 5)
    vm.save(path)
    with make(SavedVm(path)) as vm:
        vm.start()
        vm.serial.wait_for("goes on", 5)


# --- what fails, and the VM goes on -----------------------------------------------------------------------------------


def assert_runs(vm: Vm) -> None:
    assert vm.state is State.RUNNING
    assert vm._machine is not None
    before = vm._machine.memory.read_u32(8 * MiB)
    limit = time.monotonic() + 5
    while vm._machine.memory.read_u32(8 * MiB) <= before + 3:
        assert time.monotonic() < limit
        time.sleep(0.005)


def test_a_full_disk(make: Make, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    left = [200_000]

    def full(fd: int, data: bytes) -> int:
        left[0] -= len(data)
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(fd, data)

    with make() as vm:
        vm.start()
        vm.serial.wait_for("began", 5)
        vm._machine.memory.write(20 * MiB, os.urandom(2 * MiB))  # type: ignore[union-attr]
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(HostError, match="cannot write .*No space left on device"):
            vm.save(path)
        monkeypatch.undo()
        assert_runs(vm)
        assert not path.exists()
        assert not list(path.parent.glob(".*.part"))
        vm.save(path)
        assert path.exists()


def test_cancelled(make: Make, path: Path) -> None:
    with make() as vm:
        vm.start()
        vm.serial.wait_for("began", 5)
        saving = Saving(path, lambda done, total: cancelled.append(saving.cancel()))
        cancelled: list[bool] = []
        with pytest.raises(SaveGivenUp, match="cancelled; the VM goes on"):
            vm.save(saving)
        assert cancelled[0]
        assert_runs(vm)
        assert not path.exists()
        vm.save(later := Saving(path))
        assert not later.cancel()


def test_an_end_that_is_asked_for_meanwhile(make: Make, path: Path) -> None:
    vm = make()
    vm.start()
    vm.serial.wait_for("began", 5)
    with pytest.raises(SaveGivenUp, match="the VM ends"):
        vm.save(Saving(path, lambda done, total: vm.power_off()))
    assert vm.wait(5).reason is Reason.STOPPED
    assert not path.exists()


def test_a_device_that_is_not_at_rest(make: Make, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with make() as vm:
        vm.start()
        vm.serial.wait_for("began", 5)
        assert vm._machine is not None

        def busy() -> None:
            raise StateError("save rng", "1 chains in flight")

        monkeypatch.setattr(vm._machine.console, "save", busy)
        with pytest.raises(StateError, match="chains in flight"):
            vm.save(path)
        assert_runs(vm)


def test_disks_that_cannot_be_closed_end_it(make: Make, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vm = make()
    vm.start()
    vm.serial.wait_for("began", 5)

    def broken() -> None:
        raise HostError("the medium is gone")

    monkeypatch.setattr(vm._disks, "close", broken)
    with pytest.raises(HostError, match="the medium is gone"):
        vm.save(path)
    end = vm.wait(5)
    assert end.reason is Reason.ERROR
    assert "the medium is gone" in end.detail
    assert not path.exists()


def test_what_cannot_be_saved(make: Make, path: Path, tmp_path: Path, spec: MachineSpec) -> None:
    vm = make()
    with pytest.raises(StateError, match="save is not allowed in state created"):
        vm.save(path)
    with make(disks=(replace(spec.disks[0], snapshot=True),)) as vm:
        vm.start()
        with pytest.raises(ConfigError, match=r"disks\[0\].snapshot: what the guest wrote"):
            vm.save(path)
        assert vm.state is State.RUNNING
    (tmp_path / "folder").mkdir()
    with make(shares=(ShareSpec(tmp_path / "folder", "photos"),)) as vm:
        vm.start()
        vm.serial.wait_for("began", 5)
        vm._services.shares[0]._server._is_open = True
        with pytest.raises(ConfigError, match="shared folder photos mounted.*unmount it"):
            vm.save(path)
        vm._services.shares[0]._server._is_open = False
        vm.save(path)
        with pytest.raises(StateError):
            vm.save(path)
        with pytest.raises(StateError, match="resume is not allowed"):
            vm.resume()


def test_nobody_resumes_what_is_being_saved(make: Make, path: Path) -> None:
    with make() as vm:
        vm.start()
        vm.serial.wait_for("began", 5)
        results: list[ManorError] = []

        def resume() -> None:
            try:
                vm.resume()
            except ManorError as error:
                results.append(error)

        helper = threading.Thread(target=resume)
        vm.save(Saving(path, lambda done, total: helper.ident is None and helper.start()))  # type: ignore[arg-type]
        helper.join(5)
        assert len(results) == 1
        assert vm.wait(5).reason is Reason.SAVED


# --- what does not fit ------------------------------------------------------------------------------------------------


def test_another_machine_accelerator_or_version(make: Make, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(make(), path)
    with pytest.raises(ConfigError, match="memory: the saved machine had"):
        make(SavedVm(path), memory=128 * MiB).prepare()
    saved = SavedVm(path)
    with pytest.raises(ConfigError, match="saved under the accelerator fake and cannot go on under dbt"):
        saved.check(saved.head.machine, "dbt")
    monkeypatch.setattr(saved_module, "__version__", "99")
    with pytest.raises(ProtocolError, match=r"written by Manor .*, this is 99"):
        SavedVm(path)


def test_a_disk_that_was_written_since(make: Make, path: Path, spec: MachineSpec) -> None:
    save(make(), path)
    os.utime(spec.disks[0].source)
    with pytest.raises(HostError, match="has changed since the VM was saved"):
        make(SavedVm(path)).prepare()


@pytest.mark.parametrize("kind", [saved_vm.STATE, saved_vm.HOST, saved_vm.PAGES, saved_vm.DISKS])
def test_a_file_that_lies(make: Make, path: Path, kind: bytes) -> None:
    """Whole, with right checksums, and nonsense in one section."""
    save(make(), path)
    reader = saved_vm.open_saved(path)
    found = list(reader.sections())
    reader.close()
    for nonsense in (b"", b"null", b"{}", b"[3]", b'{"devices": {}, "vm": 3}', bytes(16), b"\xff" * 40):
        writer = sections.SectionWriter(path, saved_vm.MAGIC, saved_vm.VERSION)
        for this, payload in found:
            writer.add(this, nonsense if this == kind else payload)
        writer.finish()
        vm = make(SavedVm(path))
        with pytest.raises(ProtocolError):
            vm.prepare()
        assert vm.end is not None


def test_pieces_of_memory_that_lie(make: Make, path: Path) -> None:
    import zstandard

    save(make(), path)
    reader = saved_vm.open_saved(path)
    found = list(reader.sections())
    reader.close()
    bomb = zstandard.ZstdCompressor().compress(bytes(64 << 20))
    for address, size, how, data in (
        (0, 4096, saved_vm.ZSTD, bomb),
        (0, 64 << 20, saved_vm.ZSTD, bomb),
        (0, 4096, saved_vm.ZSTD, b"no frame"),
        (0, 4096, 7, bytes(4096)),
        (0, 4096, saved_vm.STORED, bytes(4095)),
        (1 << 40, 4096, saved_vm.STORED, bytes(4096)),
    ):
        writer = sections.SectionWriter(path, saved_vm.MAGIC, saved_vm.VERSION)
        for this, payload in found[:-1]:
            writer.add(this, payload)
        writer.add(saved_vm.PAGES, saved_vm.PAGE_HEAD.pack(address, size, how) + data)
        writer.add(*found[-1])
        writer.finish()
        with pytest.raises(ProtocolError, match="the VM cannot go on"):
            make(SavedVm(path)).prepare()


def test_a_truncated_file(make: Make, path: Path) -> None:
    save(make(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ProtocolError, match="is damaged"):
        SavedVm(path)


def test_traces(make: Make, path: Path) -> None:
    seen: list[tuple[str, tuple[object, ...]]] = []

    class Sink:
        def emit(self, event: Any, values: tuple[object, ...]) -> None:
            seen.append((event.name, values))

    sink.enable("vm_*", one := Sink())
    try:
        save(make(), path)
        with make(SavedVm(path)) as vm:
            vm.start()
    finally:
        sink.disable("vm_*", one)
    size = path.stat().st_size
    assert [each for each in seen if each[0] in ("vm_save", "vm_restore")] == [
        ("vm_save", (str(path), size)), ("vm_restore", (str(path), size)),
    ]  # fmt: skip


def test_the_state_is_readable(make: Make, path: Path) -> None:
    save(make(), path)
    reader = saved_vm.open_saved(path)
    state = json.loads(dict(reader.sections())[saved_vm.STATE])
    reader.close()
    assert state["devices"]["serial"]["registers"]
    assert state["vm"]["vcpus"][0]["rip"] == MARK




# --- devices that came and went ---------------------------------------------------------------------------------------


def places(machine: Machine) -> object:
    """What is in which slot."""
    return next(device for device in machine.devices if isinstance(device, PciHost)).save().places


def slots(vm: Vm) -> dict[str, int]:
    return {device.name: device.slot for device in vm.devices.all()}


def test_devices_that_came_and_went_while_it_ran(make: Make, path: Path, tmp_path: Path) -> None:
    for name in ("b", "c"):
        (tmp_path / name).write_bytes(bytes(1 << 20))
    vm = make(nics=(NicSpec("none"),), agent=True)
    vm.start()
    vm.serial.wait_for("began", 5)
    vm.devices.add_disk(DiskSpec(str(tmp_path / "b"), "raw"))
    vm.devices.add_disk(DiskSpec(str(tmp_path / "c"), "raw"))
    machine = vm._machine
    assert machine is not None
    assert machine.hotplug is not None
    # The guest gives back an interface, before which others keep their slots, and a disk between two others.
    for name in ("net0", "disk1"):
        with machine.lock:
            machine.hotplug._eject(slots(vm)[name])
    limit = time.monotonic() + 5
    while set(slots(vm)) != {"disk0", "disk2"}:
        assert time.monotonic() < limit
        time.sleep(0.01)
    before = slots(vm)
    vm.save(path)
    assert vm.wait(5).reason is Reason.SAVED
    saved = SavedVm(path)
    assert [disk.source for disk in saved.head.machine.disks] == [vm.spec.disks[0].source, str(tmp_path / "c")]
    with Vm(saved.head.machine, FakeAccel(counter), saved=saved) as again:
        again.start()
        again.serial.wait_for("goes on", 5)
        assert slots(again) == before
        assert again._machine is not None
        assert places(again._machine) == places(machine)
    # Who describes the machine anew, without those names and slots, means the same.
    plain = replace(
        saved.head.machine, disks=tuple(replace(disk, id="", slot=0) for disk in saved.head.machine.disks)
    )
    with Vm(plain, FakeAccel(counter), saved=SavedVm(path)) as again:
        again.start(paused=True)
        assert slots(again) == before


def test_a_device_that_is_just_going(make: Make, path: Path) -> None:
    with make() as vm:
        vm.start()
        vm.serial.wait_for("began", 5)
        assert vm._machine is not None
        hotplug = vm._machine.hotplug
        assert hotplug is not None
        plugged = next(iter(hotplug.plugged.values()))
        plugged.is_ejected = True
        with pytest.raises(StateError, match="a device or a vCPU is just going"):
            vm.save(path)
        plugged.is_ejected = False
        assert_runs(vm)
