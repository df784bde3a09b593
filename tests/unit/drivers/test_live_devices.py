"""Devices of a running domain: documents in, commands of the control socket out, what the guest does in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from manor.base.errors import ApiError, ConfigError, HostError, ManorError
from manor.domain.definition import Platform, complete
from manor.domain.xml import domain as domain_xml
from manor.domain.xml.changes import parse_device
from manor.domain.xml.domain import Domain
from manor.domain.xml.live import live
from manor.domain.xml.network import Network
from manor.domain.xml.to_spec import Resolvers, to_spec
from manor.drivers import live_devices as module
from manor.drivers.live_devices import LiveDevices, Names, with_names, without_gone
from manor.spec.control import Json

UUID = bytes(16)
DOCUMENT = """
<domain type='qemu'>
  <name>vm</name><uuid>6695eb01-f6a4-8304-79aa-97f2502e193f</uuid>
  <memory unit='MiB'>64</memory><vcpu current='1'>4</vcpu>
  <os><type>hvm</type><kernel>/k</kernel></os>
  <devices>
    <disk type='file'><driver type='raw'/><source file='/a'/><target dev='vda'/></disk>
    <disk type='file' device='cdrom'><driver type='raw'/><source file='/iso'/><target dev='sda' bus='sata'/></disk>
    <disk type='file' device='cdrom'><target dev='sdb' bus='sata'/></disk>
    <interface type='user'><mac address='52:54:00:00:00:01'/></interface>
  </devices>
</domain>
"""
RESOLVERS = Resolvers(network=lambda name: Network(name=name, forward="nat"), volume=lambda pool, volume: pool / volume)  # type: ignore[operator]
DISK = "<disk type='file'><driver type='raw'/><source file='/new'/><target dev='vdb'/></disk>"


def running() -> Domain:
    return live(complete(DOCUMENT, Platform("/manor")), 1)


class Vm:
    """A VM that answers, and whose guest gives back at once what it is asked for, unless it `keeps`."""

    def __init__(self) -> None:
        self.names = Names()
        self.names.note(running())
        self.calls: list[tuple[str, Json]] = []
        self.keeps = False
        self.is_silent = False
        self.cpus = 1
        self.fails: ManorError | None = None
        self.devices = LiveDevices(self.call, lambda uuid: self.names, RESOLVERS)
        self.later: list[str | None] = []

    async def call(self, uuid: bytes, command: str, timeout: float, /, **arguments: object) -> Json:
        assert uuid == UUID
        assert timeout > 0
        self.calls.append((command, arguments))
        if self.fails is not None:
            raise self.fails
        if command == "device-remove" and not self.keeps:
            self.later.append(self.names.take({"event": "device-removed", "device": arguments["device"]}))
        if command == "cpus":
            count = arguments.get("count", self.cpus)
            assert isinstance(count, int)
            if count > self.cpus or not self.keeps:
                self.cpus = count
            elif "count" in arguments and not self.is_silent:
                self.names.take({"event": "device-kept", "device": "cpu1"})
            return {"count": self.cpus, "max": 4}
        if command == "devices":
            return {"devices": [{"name": "sata-disk0", "slot": 6}, {"name": "sata-disk1", "slot": 9}]}
        return {"device": "x", "slot": 9}


@pytest.fixture
def vm() -> Vm:
    return Vm()


def run(work: Callable[[], object]) -> Domain | None:
    async def inside() -> object:
        return await work()  # type: ignore[misc]

    result = asyncio.run(inside())
    assert result is None or isinstance(result, Domain)
    return result


def attached(vm: Vm, xml: str) -> Domain:
    after = run(lambda: vm.devices.attach(UUID, running(), parse_device(xml)))
    assert after is not None
    return after


def test_machine_has_the_names_and_slots_of_the_document() -> None:
    spec = with_names(to_spec(complete(DOCUMENT, Platform("/manor")), RESOLVERS).spec, running())
    assert [(one.id, one.slot) for one in spec.disks] == [("virtio-disk0", 5), ("sata-disk0", 6)]
    assert [(one.id, one.slot) for one in spec.nics] == [("net0", 4)]
    assert (spec.cpus, spec.max_cpus) == (1, 4)


def test_disk_comes(vm: Vm) -> None:
    after = attached(vm, DISK)
    ((command, arguments),) = vm.calls
    assert command == "device-add"
    assert (arguments["disk"]["source"], arguments["disk"]["id"]) == ("/new", "virtio-disk1")
    (new,) = [one for one in after.devices.disks if one.target == "vdb"]
    assert new.alias == "virtio-disk1"
    assert new.address is not None
    assert new.address.slot == 9
    assert vm.names.disks == ("virtio-disk0", "virtio-disk1", "sata-disk0")
    assert domain_xml.parse(domain_xml.format(after)) == after


def test_interface_comes_with_an_address_and_a_name_of_its_own(vm: Vm) -> None:
    after = attached(vm, "<interface type='network'><source network='lan'/></interface>")
    ((_, arguments),) = vm.calls
    new = after.devices.interfaces[-1]
    assert arguments["nic"]["mac"] == new.mac
    assert (new.alias, new.target) == ("net1", "vnet1")
    assert vm.names.nics == ("net0", "net1")


def test_empty_drive_comes_and_goes_without_the_vm(vm: Vm) -> None:
    drive = "<disk type='file' device='cdrom'><target dev='sdc' bus='sata'/></disk>"
    after = attached(vm, drive)
    assert run(lambda: vm.devices.detach(UUID, after, parse_device(drive))) is not None
    assert vm.calls == []


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        ("<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>", "only disks and interfaces come"),
        ("<disk type='file' device='floppy'><source file='/f'/><target dev='fda'/></disk>", "no floppy drive"),
    ],
)
def test_device_that_cannot_come(vm: Vm, xml: str, message: str) -> None:
    with pytest.raises((ApiError, ConfigError), match=message):
        attached(vm, xml)
    assert vm.calls == []


def test_refusal_of_the_vm_changes_nothing(vm: Vm) -> None:
    vm.fails = HostError("no such file")
    before = vm.names.disks
    with pytest.raises(HostError, match="no such file"):
        attached(vm, DISK)
    assert vm.names.disks == before


def test_disk_goes_at_once(vm: Vm) -> None:
    device = parse_device("<disk type='file'><target dev='vda'/></disk>")
    after = run(lambda: vm.devices.detach(UUID, running(), device))
    assert after is not None
    assert [one.target for one in after.devices.disks] == ["sda", "sdb"]
    assert vm.calls == [("device-remove", {"device": "virtio-disk0"})]
    assert vm.later == [None], "who waited for it tells of it"


def test_disk_goes_later(vm: Vm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DETACH_SECONDS", 0.01)
    vm.keeps = True
    device = parse_device("<interface type='user'><mac address='52:54:00:00:00:01'/></interface>")
    assert run(lambda: vm.devices.detach(UUID, running(), device)) is None
    assert vm.names.take({"event": "device-removed", "device": "net0"}) == "net0"


def updated(vm: Vm, xml: str) -> Domain:
    after = run(lambda: vm.devices.update(UUID, running(), parse_device(xml)))
    assert after is not None
    return after


CD = "<disk type='file' device='cdrom'><driver type='raw'/>{}<target dev='{}' bus='sata'/><readonly/></disk>"


@pytest.mark.parametrize(
    ("source", "target", "slot"),
    [("<source file='/other'/>", "sda", 6), ("<source file='/other'/>", "sdb", 9), ("", "sda", None)],
)
def test_medium_changes(vm: Vm, source: str, target: str, slot: int | None) -> None:
    after = updated(vm, CD.format(source, target))
    (drive,) = [one for one in after.devices.disks if one.target == target]
    assert (drive.file, None if drive.address is None else drive.address.slot) == ("/other" if source else None, slot)
    command, arguments = vm.calls[0]
    assert (command, arguments["device"]) == ("device-change", drive.alias)
    assert ("disk" in arguments) == bool(source)


def test_medium_that_is_there_already_or_no_medium_for_none(vm: Vm) -> None:
    updated(vm, CD.format("<source file='/iso'/>", "sda"))
    updated(vm, CD.format("", "sdb"))
    assert vm.calls == []


@pytest.mark.parametrize(("state", "is_up"), [("down", False), ("up", True)])
def test_cable_of_an_interface(vm: Vm, state: str, is_up: bool) -> None:
    after = updated(
        vm, f"<interface type='user'><mac address='52:54:00:00:00:01'/><link state='{state}'/></interface>"
    )
    assert vm.calls == [("link", {"nic": "net0", "up": is_up})]
    before = running().devices.interfaces[0]
    assert after.devices.interfaces == (replace(before, link=state),)


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        ("<disk type='file'><driver type='raw'/><source file='/b'/><target dev='vda'/></disk>", "only drives"),
        (CD.format("<source file='/iso'/><serial>1</serial>", "sda").replace("<readonly/>", ""), "only the medium"),
        ("<interface type='null'><mac address='52:54:00:00:00:01'/></interface>", "only the link's state"),
        ("<memballoon model='virtio'/>", "cannot be changed; use --config"),
    ],
)
def test_update_that_is_refused(vm: Vm, xml: str, message: str) -> None:
    with pytest.raises(ApiError, match=message):
        updated(vm, xml)
    assert vm.calls == []


def test_vcpus(vm: Vm, monkeypatch: pytest.MonkeyPatch) -> None:
    run(lambda: vm.devices.set_vcpus(UUID, 3))
    run(lambda: vm.devices.set_vcpus(UUID, 2))
    assert vm.cpus == 2
    vm.keeps = True
    with pytest.raises(ApiError, match="the guest keeps its vCPUs"):
        run(lambda: vm.devices.set_vcpus(UUID, 1))
    monkeypatch.setattr(module, "VCPU_SECONDS", 0.01)
    vm.is_silent = True
    with pytest.raises(ApiError, match="vcpu unplug request timed out"):
        run(lambda: vm.devices.set_vcpus(UUID, 1))


def test_vm_found_again_has_lost_devices() -> None:
    document = without_gone(running(), {"sata-disk0": 6})
    assert [one.target for one in document.devices.disks] == ["sda", "sdb"], "an empty drive is nothing to lose"
    assert document.devices.interfaces == ()
