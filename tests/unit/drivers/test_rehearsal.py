"""What a change of a running VM's devices would do is told by the code that does it, without a VM."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from manor.base.errors import ApiError, ConfigError, ManorError
from manor.domain.definition import Platform, complete
from manor.domain.xml import changes
from manor.domain.xml import domain as domain_xml
from manor.domain.xml.domain import Domain
from manor.domain.xml.live import live
from manor.domain.xml.to_spec import Resolvers
from manor.drivers.hypervisor import DeviceChanges
from manor.drivers.live_devices import LiveDevices, Names, TrialCall
from manor.drivers.memory import MemoryDriver
from manor.drivers.rehearsal import RehearsalHypervisor, rehearse

DOMAIN = """
<domain type='qemu'>
  <name>web1</name><uuid>6695eb01-f6a4-8304-79aa-97f2502e193f</uuid><memory unit='MiB'>64</memory>
  <vcpu current='2'>4</vcpu>
  <os><type>hvm</type><kernel>/k</kernel></os>
  <devices>
    <disk type='file'><source file='/a'/><target dev='vda' bus='virtio'/></disk>
    <disk type='file' device='cdrom'><source file='/iso'/><target dev='vdb' bus='virtio'/></disk>
    <interface type='user'><mac address='52:54:00:00:00:01'/></interface>
  </devices>
</domain>
"""
CHANGES = (
    ("attach", "<disk type='file'><source file='/new'/><target dev='vdc' bus='virtio'/></disk>"),
    ("attach", "<interface type='user'><mac address='52:54:00:00:00:02'/></interface>"),
    ("attach", "<disk type='file'><source file='/new'/><target dev='vda' bus='virtio'/></disk>"),
    ("attach", "<serial type='pty'/>"),
    ("detach", "<disk type='file'><source file='/a'/><target dev='vda' bus='virtio'/></disk>"),
    ("detach", "<interface type='user'><mac address='52:54:00:00:00:01'/></interface>"),
    ("detach", "<disk type='file'><source file='/a'/><target dev='vdx' bus='virtio'/></disk>"),
    ("update", "<disk type='file' device='cdrom'><source file='/iso2'/><target dev='vdb' bus='virtio'/></disk>"),
    ("update", "<disk type='file'><source file='/b'/><target dev='vda' bus='virtio'/></disk>"),
    ("update", "<interface type='user'><mac address='52:54:00:00:00:01'/><link state='down'/></interface>"),
)


class Machine:
    """A VM that does what it is told, and notes that (Call)."""

    def __init__(self, names: Names) -> None:
        self.names = names
        self.told: list[str] = []

    async def __call__(self, uuid: bytes, command: str, timeout: float, /, **arguments: Any) -> dict[str, Any]:
        if command not in ("devices", "cpus"):
            self.told.append(command)
        if command == "device-add":
            return {"slot": 9}
        if command == "device-remove":
            self.names.take({"event": "device-removed", "device": arguments["device"]})
        if command == "devices":
            return {"devices": [{"name": name, "slot": 9} for name in ("disk0", "disk1", *self.names.disks)]}
        return {"count": arguments.get("count", 0)}


def running() -> tuple[Domain, Names]:
    document = live(complete(DOMAIN, Platform("/usr/bin/manor")), 1)
    names = Names()
    names.note(document)
    return document, names


def resolvers() -> Resolvers:
    def none(*names: str) -> Any:
        raise ConfigError("source", f"there is no {names}")

    return Resolvers(none, none)


class Real:
    """Of a hypervisor, what a rehearsal asks."""

    platform = Platform("/usr/bin/manor")

    def __init__(self, names: Names) -> None:
        self._names = names

    def trial(self, uuid: bytes) -> DeviceChanges:
        trial = Names(self._names.disks, self._names.nics)
        return LiveDevices(TrialCall(trial), lambda _: trial, resolvers())


async def result(devices: Any, how: str, document: Domain, xml: str) -> str:
    """The document without what only a machine gives; or why it was refused."""
    try:
        after = await getattr(devices, how)(bytes(16), document, changes.parse_device(xml))
    except ManorError as error:
        return str(error)
    return re.sub(r" *<(address [^>]*|target dev='vnet\d+')/>\n", "", domain_xml.format(after))


@pytest.mark.parametrize(("how", "xml"), CHANGES)
def test_a_rehearsal_says_what_the_change_does(how: str, xml: str) -> None:
    async def scenario() -> None:
        document, names = running()
        real: Any = Real(names)
        said = await result(RehearsalHypervisor(real), how, document, xml)
        machine = Machine(names)
        assert said == await result(LiveDevices(machine, lambda _: names, resolvers()), how, document, xml)

    asyncio.run(scenario())


def test_what_a_rehearsal_must_not_touch_it_refuses() -> None:
    async def scenario() -> None:
        driver = MemoryDriver(lambda _: None)
        await driver.start()
        trial = rehearse(driver, None)
        books: tuple[Any, ...] = (trial.pools, trial.networks, trial.snapshots, trial.records)
        for book in books:
            with pytest.raises(ApiError, match="cannot be told beforehand"):
                book.all  # noqa: B018
        domain = await trial.domains.find_name("test")
        for work in (
            trial.domains.destroy(domain.uuid, False), trial.domains.suspend(domain.uuid),
            trial.domains.console(domain.uuid, None, False), trial.domains.reset(domain.uuid),
        ):  # fmt: skip
            with pytest.raises(ApiError, match="cannot be told beforehand"):
                await work
        assert (await driver.domains.flags(domain.uuid)).active
        await driver.close()

    asyncio.run(scenario())
