"""Devices and vCPUs that come and go in a whole VM, whose guest is a Python program that does what the DSDT says."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from manor.base.errors import ConfigError, HostError, StateError
from manor.devices.misc.hotplug import CPU_KEPT
from manor.instances.client import ControlClient
from manor.mem import layout
from manor.spec.block import DiskSpec
from manor.spec.machine import MachineSpec
from manor.spec.net import NicSpec
from manor.testing.fake_accel import FakeAccel
from manor.testing.guest_programs import hotplug
from manor.testing.kernel import kernel_file
from manor.testing.pci_driver import enumerate_functions
from manor.trace import sink
from manor.vmm import hotplug as hotplug_module
from manor.vmm.control import ControlServer, listen
from manor.vmm.control_commands import VmControl
from manor.vmm.hotplug import DeviceEvent
from manor.vmm.lifecycle import Reason
from manor.vmm.saved import SavedVm
from manor.vmm.vm import Vm

SIZE = 1 << 20
SECONDS = 10


class Events:
    """What the VM told."""

    def __init__(self) -> None:
        self.all: list[DeviceEvent] = []
        self._changed = threading.Condition()

    def note(self, event: DeviceEvent) -> None:
        with self._changed:
            self.all.append(event)
            self._changed.notify_all()

    def wait(self, what: str, device: str) -> DeviceEvent:
        def found() -> DeviceEvent | None:
            return next((each for each in self.all if (each.what, each.device) == (what, device)), None)

        with self._changed:
            assert self._changed.wait_for(lambda: found() is not None, SECONDS), (what, device, self.all)
            event = found()
            assert event is not None
            return event


@pytest.fixture
def image(tmp_path: Path) -> Callable[[str], DiskSpec]:
    def make(name: str) -> DiskSpec:
        path = tmp_path / name
        path.write_bytes(bytes(SIZE))
        return DiskSpec(str(path), format="raw")

    return make


Start = Callable[..., tuple[Vm, Events]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    made: list[Vm] = []

    def start(**fields: object) -> tuple[Vm, Events]:
        spec = MachineSpec(kernel_file(tmp_path), memory=64 << 20, **fields)  # type: ignore[arg-type]
        vm = Vm(spec, FakeAccel(hotplug))
        made.append(vm)
        events = Events()
        vm.devices.listen(events.note)
        vm.start()
        vm.serial.wait_for("ready\n", SECONDS)
        return vm, events

    yield start
    for vm in made:
        with vm:
            pass


def slots(vm: Vm) -> dict[int, int]:
    """Slot to device ID, as a guest finds them."""
    assert vm._machine is not None
    return {found.slot: found.device_id for found in enumerate_functions(vm._machine.mmio, layout.ECAM)}


def open_files(path: str) -> int:
    """How many descriptors of this process are that file."""
    count = 0
    for entry in os.listdir("/proc/self/fd"):
        try:
            count += os.readlink(f"/proc/self/fd/{entry}") == path
        except OSError:
            continue
    return count


def test_disk_comes_and_goes(start: Start, image: Callable[[str], DiskSpec]) -> None:
    vm, events = start()
    before = slots(vm)
    spec = image("a.raw")
    assert vm.devices.add_disk(spec) == "disk0"
    vm.serial.wait_for("slot 4 arrives\n", SECONDS)
    assert slots(vm) == before | {4: 0x1042}
    assert events.wait("added", "disk0")
    (told,) = vm.devices.all()
    assert (told.name, told.kind, told.slot, told.is_leaving, told.source) == ("disk0", "disk", 4, False, spec.source)
    assert vm.spec.disks == (DiskSpec(spec.source, format="raw", queues=1, id="disk0", slot=4),)
    assert open_files(spec.source) == 1
    assert "disk0" in vm.statistics().disks
    vm.devices.remove("disk0")
    vm.serial.wait_for("slot 4 shall go\n", SECONDS)
    assert events.wait("removed", "disk0").error == ""
    assert slots(vm) == before
    assert open_files(spec.source) == 0
    assert vm.devices.all() == []
    assert len(vm.spec.disks) == 0
    assert vm.statistics().disks == {}
    assert vm._machine is not None
    assert "disk0" not in [device.name for device in vm._machine.devices]
    vm.devices.add_disk(image("b.raw"))
    vm.serial.wait_for("slot 4 arrives\n", SECONDS)


def test_interface_comes_and_goes(start: Start) -> None:
    vm, events = start(nics=(NicSpec("none"),), name="web")
    assert vm.devices.add_nic(NicSpec("user", reach="none")) == "net1"
    vm.serial.wait_for("slot 5 arrives\n", SECONDS)
    assert [nic.name for nic in vm.nics] == ["net0", "net1"]
    first = vm.nics[1].mac
    assert set(vm.statistics().nics) == {"net0", "net1"}
    vm.nics[1].set_link(False)
    vm.devices.remove("net1")
    events.wait("removed", "net1")
    assert [nic.name for nic in vm.nics] == ["net0"]
    assert [nic.id for nic in vm.spec.nics] == ["net0"]
    assert vm.devices.add_nic(NicSpec("none")) == "net1"
    assert vm.nics[1].mac == first, "the same place, the same address"
    vm.devices.remove("net0")
    events.wait("removed", "net0")
    vm.pause()
    vm.resume()


def test_guest_that_never_answers_keeps_the_device(start: Start, image: Callable[[str], DiskSpec]) -> None:
    vm, events = start(disks=(image("a.raw"),))
    vm.serial.send("keep\n")
    vm.serial.wait_for("<keep>", SECONDS)
    vm.devices.remove("disk0")
    vm.serial.wait_for("slot 4 shall go", SECONDS)
    with pytest.raises(HostError, match="has not given disk0 back within 0.05 seconds; it may still do so"):
        vm.devices.remove_and_wait("disk0", 0.05)
    (told,) = vm.devices.all()
    assert told.is_leaving
    assert told.is_in_guest
    assert slots(vm)[4] == 0x1042
    assert events.all == []


def test_reboot_ends_what_the_guest_did_not_answer(start: Start, image: Callable[[str], DiskSpec]) -> None:
    spec = image("a.raw")
    vm, events = start(disks=(spec, image("b.raw")), nics=(NicSpec("none"),))
    vm.serial.send("keep\n")
    vm.serial.wait_for("<keep>", SECONDS)
    vm.devices.add_nic(NicSpec("none", id="lan"))
    vm.serial.wait_for("slot 7 arrives", SECONDS)
    vm.devices.remove("disk0")
    vm.serial.wait_for("slot 5 shall go", SECONDS)
    vm.serial.send("reboot\n")
    vm.serial.wait_for("ready\n", SECONDS)
    events.wait("removed", "disk0")
    assert open_files(spec.source) == 0
    assert {each.name: each.slot for each in vm.devices.all()} == {"net0": 4, "disk1": 6, "lan": 7}
    assert slots(vm).keys() == {0, 1, 2, 3, 4, 6, 7}
    vm.devices.remove("disk1")
    events.wait("removed", "disk1")


def test_guest_gives_back_what_nobody_asked_for(start: Start, image: Callable[[str], DiskSpec]) -> None:
    vm, events = start(disks=(image("a.raw"),))
    vm.serial.send("eject 4\n")
    events.wait("removed", "disk0")
    assert 4 not in slots(vm)


def test_guest_that_ejects_what_stays_or_is_not_there_harms_nobody(start: Start) -> None:
    vm, events = start()
    ring = sink.RingSink()
    sink.enable("guest_error", ring)
    try:
        for slot in (0, 1, 4, 31):
            vm.serial.send(f"eject {slot}\n")
            vm.serial.wait_for(f"<eject {slot}>", SECONDS)
    finally:
        sink.disable("*", ring)
    assert [values[1] for _, values in ring.events] == [
        f"ejection of slot {slot}, in which nothing is that may go" for slot in (0, 1, 4, 31)
    ]
    assert slots(vm).keys() == {0, 1, 2, 3}
    assert events.all == []


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (DiskSpec("/nonexistent/disk"), "/nonexistent/disk"),
        (DiskSpec("/dev/null", id="a b"), "'a b' is no name for a device"),
        (DiskSpec(""), "it names no file"),
    ],
)
def test_disk_that_cannot_be_had_changes_nothing(start: Start, spec: DiskSpec, message: str) -> None:
    vm, events = start()
    with pytest.raises((ConfigError, HostError), match=message):
        vm.devices.add_disk(spec)
    assert vm.devices.all() == []
    assert events.all == []


def test_names_and_slots_run_out(start: Start, image: Callable[[str], DiskSpec]) -> None:
    vm, _ = start()
    vm.devices.add_nic(NicSpec("none", id="lan"))
    with pytest.raises(ConfigError, match="there is a device called 'lan' already"):
        vm.devices.add_nic(NicSpec("none", id="lan"))
    with pytest.raises(ConfigError, match="'moon' is no device that can be removed; there are: lan"):
        vm.devices.remove("moon")
    vm.devices.add_nic(NicSpec("none", mac="02:00:00:00:00:01"))
    with pytest.raises(ConfigError, match="two interfaces have the MAC address"):
        vm.devices.add_nic(NicSpec("none", mac="02:00:00:00:00:01"))
    for number in range(26):
        vm.devices.add_disk(image(f"{number}.raw"))
    last = image("last.raw")
    with pytest.raises(ConfigError, match="no PCI slot is left for disk26"):
        vm.devices.add_disk(last)
    assert open_files(last.source) == 0


def test_nothing_is_plugged_into_a_vm_that_does_not_run(start: Start, image: Callable[[str], DiskSpec]) -> None:
    vm, _ = start()
    vm.power_off()
    vm.wait(SECONDS)
    spec = image("a.raw")
    with pytest.raises(StateError, match="add a disk"):
        vm.devices.add_disk(spec)
    assert open_files(spec.source) == 0
    with pytest.raises(StateError):
        vm.devices.add_nic(NicSpec("none"))
    with pytest.raises(StateError):
        vm.devices.remove("disk0")
    with pytest.raises(StateError):
        vm.devices.set_cpus(1)
    assert vm.devices.all() == []


def test_removing_while_paused_waits_for_the_guest(start: Start, image: Callable[[str], DiskSpec]) -> None:
    vm, events = start(disks=(image("a.raw"),))
    vm.pause()
    vm.devices.add_disk(image("b.raw"))
    vm.devices.remove("disk0")
    time.sleep(0.05)
    assert [event.what for event in events.all] == ["added"]
    vm.resume()
    events.wait("removed", "disk0")


def test_drive_gets_another_medium(start: Start, image: Callable[[str], DiskSpec]) -> None:
    old, new = image("old.iso"), image("new.iso")
    vm, events = start(disks=(image("root.raw"), DiskSpec(old.source, read_only=True, id="cd0")))
    slot = next(each.slot for each in vm.devices.all() if each.name == "cd0")
    vm.devices.change_disk("cd0", DiskSpec(new.source, read_only=True), SECONDS)
    assert [(each.what, each.device) for each in events.all] == [("removed", "cd0"), ("added", "cd0")]
    assert [(each.slot, each.source) for each in vm.devices.all() if each.name == "cd0"] == [(slot, new.source)]
    assert open_files(old.source) == 0
    vm.devices.change_disk("cd0", None, SECONDS)
    assert [each.name for each in vm.devices.all()] == ["disk0"]
    vm.devices.change_disk("cd0", DiskSpec(old.source, read_only=True), SECONDS)
    assert [disk.id for disk in vm.spec.disks] == ["disk0", "cd0"]
    with pytest.raises(HostError, match="nowhere"):
        vm.devices.change_disk("cd0", DiskSpec("/nowhere"), SECONDS)
    assert len(vm.devices.all()) == 2, "the old medium stays when the new one cannot be had"
    with pytest.raises(ConfigError, match="there is no disk 'dvd'"):
        vm.devices.change_disk("dvd", None, SECONDS)


def test_loss_of_data_is_told(
    start: Start, image: Callable[[str], DiskSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    def close(disk: object) -> None:
        raise HostError("it may lack what the guest wrote last: no space")

    vm, events = start(disks=(image("a.raw"),))
    with monkeypatch.context() as patched:
        patched.setattr(hotplug_module, "close_disk", close)
        vm.devices.remove("disk0")
        assert "no space" in events.wait("removed", "disk0").error


def test_vm_that_ends_while_a_device_leaves(start: Start, image: Callable[[str], DiskSpec]) -> None:
    spec = image("a.raw")
    vm, _ = start(disks=(spec,))
    vm.devices.remove("disk0")
    vm.power_off()
    assert vm.wait(SECONDS).reason is Reason.STOPPED
    assert open_files(spec.source) == 0


def test_devices_are_traced(start: Start, image: Callable[[str], DiskSpec]) -> None:
    vm, events = start()
    ring = sink.RingSink()
    sink.enable("device_*", ring)
    try:
        vm.devices.add_disk(image("a.raw"))
        vm.devices.remove("disk0")
        events.wait("removed", "disk0")
    finally:
        sink.disable("*", ring)
    assert list(ring.events) == [("device_added", ("disk0", 4)), ("device_removed", ("disk0", ""))]


def test_vcpus_come_and_go(start: Start) -> None:
    vm, events = start(max_cpus=3)
    assert vm.devices.cpus == 1
    vm.devices.set_cpus(3)
    vm.serial.wait_for("cpu 2 arrives\n", SECONDS)
    assert (vm.devices.cpus, vm.spec.cpus) == (3, 3)
    vm.pause()
    vm.resume()
    vm.devices.set_cpus(2)
    events.wait("removed", "cpu2")
    assert (vm.devices.cpus, vm.spec.cpus) == (2, 2)
    assert "vcpu-2" not in {thread.name for thread in threading.enumerate()}
    vm.pause()
    vm.devices.set_cpus(3)
    vm.resume()
    vm.serial.wait_for("cpu 2 arrives\n", SECONDS)
    vm.serial.send("keep\n")
    vm.serial.wait_for("<keep>", SECONDS)
    vm.devices.set_cpus(1)
    assert events.wait("kept", "cpu2")
    assert vm.devices.cpus == 3
    assert vm._machine is not None
    for _ in range(100):
        with vm._machine.lock:
            vm._machine.pio.write(layout.HOTPLUG + CPU_KEPT.offset, 4, 0b110)
    for count in (0, 4):
        with pytest.raises(ConfigError, match=f"{count} vCPUs do not work; give 1 to 3"):
            vm.devices.set_cpus(count)
    vm.serial.send("reboot\n")
    vm.serial.wait_for("ready\n", SECONDS)
    assert vm.devices.cpus == 3
    kept = [event.device for event in events.all if event.what == "kept"]
    assert sorted(kept) == ["cpu1", "cpu2"], "one answer to each question, however often the guest says it"


@pytest.mark.parametrize("seed", range(4))
def test_whatever_comes_and_goes_nothing_is_left_behind(
    start: Start, image: Callable[[str], DiskSpec], seed: int
) -> None:
    dice = random.Random(seed)
    vm, _ = start(max_cpus=3)
    fixed = set(slots(vm))
    used: list[str] = []

    def one_step(number: int) -> None:
        there = [each for each in vm.devices.all() if each.is_in_guest]
        match dice.choice(("disk", "nic", "remove", "remove", "eject", "pause", "cpus", "reboot")):
            case "disk":
                spec = image(f"{number}.raw")
                used.append(spec.source)
                vm.devices.add_disk(spec)
            case "nic":
                vm.devices.add_nic(NicSpec(dice.choice(("none", "user")), reach="all"))
            case "remove" if there:
                vm.devices.remove(dice.choice(there).name)
            case "eject" if there:
                vm.serial.send(f"eject {dice.choice(there).slot}\n")
            case "pause":
                vm.pause()
                vm.resume()
            case "cpus":
                vm.devices.set_cpus(dice.randint(1, 3))
            case "reboot" if dice.random() < 0.5:
                vm.serial.send("reboot\n")
                vm.serial.wait_for("ready\n", SECONDS)

    for number in range(25):
        # The guest may be quicker than the question.
        with suppress(ConfigError):
            one_step(number)
    limit = time.monotonic() + SECONDS
    while any(each.is_leaving for each in vm.devices.all()) or _releasing():
        assert time.monotonic() < limit, vm.devices.all()
        time.sleep(0.01)
    there = {each.name: each.slot for each in vm.devices.all()}
    assert set(slots(vm)) == fixed | set(there.values())
    described: list[DiskSpec | NicSpec] = [*vm.spec.disks, *vm.spec.nics]
    assert {each.id: each.slot for each in described} == there
    assert {path for path in used if open_files(path)} == {disk.source for disk in vm.spec.disks}
    assert set(vm.statistics().disks) | set(vm.statistics().nics) == set(there)


def test_saved_vm_goes_on_with_what_came_and_without_what_went(
    start: Start, image: Callable[[str], DiskSpec], tmp_path: Path
) -> None:
    vm, events = start(disks=(image("a.raw"), image("b.raw")), nics=(NicSpec("none"),), max_cpus=3)
    vm.devices.add_disk(image("c.raw"))
    vm.devices.remove("disk0")
    events.wait("removed", "disk0")
    vm.devices.add_nic(NicSpec("none", id="lan"))
    vm.devices.set_cpus(2)
    vm.serial.wait_for("cpu 1 arrives\n", SECONDS)
    there = {each.name: each.slot for each in vm.devices.all()}
    found = slots(vm)
    vm.save(tmp_path / "state")
    assert vm.wait(SECONDS).reason is Reason.SAVED
    saved = SavedVm(tmp_path / "state")
    spec = saved.head.machine
    # However whoever restores it lists them.
    asked = replace(spec, disks=spec.disks[::-1], nics=spec.nics[::-1])
    with Vm(asked, FakeAccel(hotplug), saved=saved) as again:
        again.start()
        assert {each.name: each.slot for each in again.devices.all()} == there
        assert slots(again) == found
        assert again.devices.cpus == 2
        assert [disk.id for disk in again.spec.disks] == ["disk1", "disk2"]
    with pytest.raises(ConfigError, match="disks: the saved machine had 2 of them, this one has 1"):
        Vm(replace(spec, disks=spec.disks[:1]), FakeAccel(hotplug), saved=saved).prepare()


def _releasing() -> bool:
    return any(thread.name.startswith("release-") for thread in threading.enumerate())


def test_control_socket(start: Start, image: Callable[[str], DiskSpec], tmp_path: Path) -> None:
    vm, _ = start(max_cpus=2, nics=(NicSpec("none"),))
    control = VmControl(vm, "a fake")
    server = ControlServer(vm.loop, listen(tmp_path / "control"), "web", control.commands())
    control.connect(server)
    server.start()
    a, b = image("a.raw"), image("b.raw")
    with ControlClient(tmp_path / "control") as client:
        client.call("subscribe", topic="devices")
        assert client.call("device-add", disk=f"{a.source},format=raw,id=data") == {"device": "data", "slot": 5}
        assert client.next_event(SECONDS) == {"event": "device-added", "device": "data"}
        assert client.call("device-add", nic={"kind": "none"}, id="lan") == {"device": "lan", "slot": 6}
        assert client.next_event(SECONDS) == {"event": "device-added", "device": "lan"}
        found = client.call("devices")["devices"]
        assert [(each["name"], each["kind"]) for each in found] == [("net0", "nic"), ("data", "disk"), ("lan", "nic")]
        assert client.call("link", nic="lan", up=False) == {}
        assert [nic["name"] for nic in client.call("nics")["nics"]] == ["net0", "lan"]
        with pytest.raises(ConfigError, match="'moon' is no interface; there are: net0, lan"):
            client.call("link", nic="moon", up=False)
        assert client.call("device-remove", device="lan") == {}
        assert client.next_event(SECONDS) == {"event": "device-removed", "device": "lan"}
        assert client.call("device-change", device="data", disk={"source": b.source}, seconds=5) == {}
        assert [client.next_event(SECONDS) for _ in range(2)] == [
            {"event": "device-removed", "device": "data"}, {"event": "device-added", "device": "data"},
        ]  # fmt: skip
        assert client.call("cpus", count=2) == {"count": 2, "max": 2}
        assert client.next_event(SECONDS) == {"event": "device-added", "device": "cpu1"}
        assert client.call("status")["max_cpus"] == 2
        for arguments, message in (
            ({}, "either a disk or a nic"),
            ({"disk": a.source, "nic": "user"}, "either a disk or a nic"),
            ({"disk": {"source": 7}}, "disk.source: 7 is not of type str"),
            ({"nic": {"colour": "red"}}, "nic: it is not an object of"),
            ({"nic": "carrier-pigeon"}, "carrier-pigeon"),
        ):
            with pytest.raises(ConfigError, match=message):
                client.call("device-add", **arguments)
        with pytest.raises(ConfigError, match="0 seconds; give more than 0"):
            client.call("device-change", device="data", seconds=0)
    vm.power_off()
    vm.wait(SECONDS)
    server.close()
