"""Devices and vCPUs of a VM that come and go while it runs: libvirt's documents to commands of the control socket.

A device is called by its alias, in the VM as in the document. To remove one asks the guest: what it does is waited for
a little, as clients look at the document at once; what it does later comes as `Removed`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, Protocol, TypeVar

from manor.base.errors import ConfigError
from manor.domain.xml import changes
from manor.domain.xml import domain as domain_xml
from manor.domain.xml.changes import NamedDevice
from manor.domain.xml.common import Address, Device
from manor.domain.xml.disk import Disk
from manor.domain.xml.domain import Domain
from manor.domain.xml.interface import Interface
from manor.domain.xml.live import has_medium, live, machine_order, named
from manor.domain.xml.property import Finding
from manor.domain.xml.to_spec import Resolvers, disk_spec, nic_spec, refuse
from manor.drivers.errors import failed, unsupported
from manor.spec.control import Json
from manor.spec.machine import MachineSpec
from manor.spec.machine_json import part_to_json

DETACH_SECONDS: Final = 5.0
"""For a guest to give a device back, before the caller is told that it was asked."""
CHANGE_SECONDS: Final = 10.0
"""For a guest to give an old medium back, before the change of the medium is refused."""
VCPU_SECONDS: Final = 10.0
"""For a guest to give vCPUs back, before the caller is told that it has not."""
_MEDIUM: Final = ("type", "file", "dev", "protocol", "export", "pool", "volume", "hosts", "format")
"""Fields of a disk that say what medium is in the drive."""
_NOTHING: Final = ("tray", "startup_policy", "driver_name", "address")
"""Fields of a disk that mean nothing to a machine that runs."""
_NO_DRIVE: Final = "only drives (device='cdrom') get other media; detach the disk, and attach another one"


T = TypeVar("T", bound=Device)
D = TypeVar("D", Disk, Interface)


class Call(Protocol):
    """Runs a command of the control socket."""

    async def __call__(self, uuid: bytes, command: str, timeout: float, /, **arguments: object) -> Json: ...


@dataclass(slots=True)
class Names:
    """What the devices of one VM are called, in the order of its document; and what is being waited for."""

    disks: tuple[str, ...] = ()
    nics: tuple[str, ...] = ()
    leaving: dict[str, asyncio.Future[None]] = field(default_factory=dict)
    cpu_kept: bool = False
    cpu_changed: asyncio.Event = field(default_factory=asyncio.Event)

    def note(self, document: Domain) -> None:
        """Take over the names of a live document."""
        devices = document.devices
        self.disks = tuple(devices.disks[index].alias or "" for index in machine_order(devices))
        self.nics = tuple(nic.alias or "" for nic in devices.interfaces)

    def take(self, event: Json) -> str | None:
        """An event of the VM. The alias of a device that is gone, if nobody waits for that."""
        name = str(event.get("device"))
        if name.startswith("cpu"):
            self.cpu_kept |= event.get("event") == "device-kept"
            self.cpu_changed.set()
        elif event.get("event") == "device-removed":
            waiting = self.leaving.get(name)
            if waiting is None:
                return name
            if not waiting.done():
                waiting.set_result(None)
        return None

    @contextmanager
    def waiting_for(self, alias: str) -> Iterator[asyncio.Future[None]]:
        """The going of a device is the caller's business; done when it is gone."""
        future = self.leaving[alias] = asyncio.get_running_loop().create_future()
        try:
            yield future
        finally:
            self.leaving.pop(alias, None)


def with_names(spec: MachineSpec, running: Domain) -> MachineSpec:
    """`spec`, made of the document that `running` is the live one of, with the names and slots of that."""
    devices = running.devices
    disks = [devices.disks[index] for index in machine_order(devices)]
    return replace(
        spec,
        disks=tuple(
            replace(one, id=disk.alias or "", slot=_slot(disk.address))
            for one, disk in zip(spec.disks, disks, strict=True)
        ),
        nics=tuple(
            replace(one, id=nic.alias or "", slot=_slot(nic.address))
            for one, nic in zip(spec.nics, devices.interfaces, strict=True)
        ),
    )


def as_saved(running: Domain, asked: Domain, saved: MachineSpec) -> Domain:
    """The live document of `asked`, which goes on with a saved machine: what has a slot there has it again, and the
    name that it had."""
    names = {disk.slot: disk.id for disk in saved.disks} | {nic.slot: nic.id for nic in saved.nics}
    names.pop(0, None)

    def put(shown: tuple[D, ...], given: tuple[D, ...]) -> tuple[D, ...]:
        slots = [_slot(one.address) for one in given]
        return tuple(
            replace(one, alias=names[slot], address=_address(slot)) if slot in names else one
            for one, slot in zip(shown, slots, strict=True)
        )

    devices = running.devices
    disks = put(devices.disks, asked.devices.disks)
    nics = put(devices.interfaces, asked.devices.interfaces)
    return replace(running, devices=replace(devices, disks=disks, interfaces=nics))


def without_gone(document: Domain, present: Mapping[str, int]) -> Domain:
    """The live document without disks and interfaces that the VM has no more. present: names of those it has."""
    devices = document.devices
    disks = tuple(
        disk for index, disk in enumerate(devices.disks) if not has_medium(devices, index) or disk.alias in present
    )
    nics = tuple(nic for nic in devices.interfaces if nic.alias in present)
    return replace(document, devices=replace(devices, disks=disks, interfaces=nics))


class LiveDevices:
    """Changes of VMs that run. Raises ApiError, ConfigError, HostError."""

    def __init__(self, call: Call, names: Callable[[bytes], Names], resolvers: Resolvers) -> None:
        self._call = call
        self._names = names
        self._resolvers = resolvers

    async def attach(self, uuid: bytes, running: Domain, device: NamedDevice) -> Domain:
        """As Hypervisor.attach."""
        before = {one.alias for one in changes.all_devices(running)}
        after = named(changes.attach(running, device))
        refuse(domain_xml.check(after))
        new = next(one for one in changes.all_devices(after) if one.alias not in before)
        if isinstance(new, Interface) and new.target is None:
            # The name under which clients ask for its counters.
            new = _live_interface(after, new)
        if _is_empty(new):
            return _with(after, new)
        answer = await self._call(uuid, "device-add", 30.0, **self._described(after, new))
        new = replace(new, address=_address(int(answer["slot"])))  # type: ignore[call-arg]
        return self._done(uuid, _with(after, new))

    async def detach(self, uuid: bytes, running: Domain, device: NamedDevice) -> Domain | None:
        """As Hypervisor.detach."""
        old = _found(running, device)
        after = changes.detach(running, device)
        if _is_empty(old):
            return after
        names = self._names(uuid)
        with names.waiting_for(_alias(old)) as gone:
            await self._call(uuid, "device-remove", 30.0, device=_alias(old))
            try:
                await asyncio.wait_for(asyncio.shield(gone), DETACH_SECONDS)
            except TimeoutError:
                return None
        return self._done(uuid, after)

    async def update(self, uuid: bytes, running: Domain, device: NamedDevice) -> Domain:
        """As Hypervisor.update."""
        old = _found(running, device)
        after = named(changes.update(running, device))
        refuse(domain_xml.check(after))
        new = _found(after, NamedDevice(device.name, old))
        if isinstance(old, Disk) and isinstance(new, Disk):
            new = await self._update_disk(uuid, after, old, new)
        elif isinstance(old, Interface) and isinstance(new, Interface):
            new = await self._update_interface(uuid, old, new)
        else:
            raise unsupported(f"a <{device.name}> of a running domain cannot be changed; use --config")
        return self._done(uuid, _with(after, new))

    async def set_vcpus(self, uuid: bytes, count: int) -> None:
        """As Hypervisor.set_vcpus."""
        names = self._names(uuid)
        names.cpu_kept = False
        answer = await self._call(uuid, "cpus", 30.0, count=count)
        limit = asyncio.get_running_loop().time() + VCPU_SECONDS
        while answer["count"] > count and not names.cpu_kept:
            left = limit - asyncio.get_running_loop().time()
            names.cpu_changed.clear()
            answer = await self._call(uuid, "cpus", 30.0)
            if answer["count"] <= count or left <= 0:
                break
            try:
                await asyncio.wait_for(names.cpu_changed.wait(), left)
            except TimeoutError:
                continue
        if answer["count"] > count:
            raise failed(
                "vcpu unplug request timed out: the guest has not given all of them back, and may still do so"
                if not names.cpu_kept
                else "the guest keeps its vCPUs"
            )

    async def _update_disk(self, uuid: bytes, after: Domain, old: Disk, new: Disk) -> Disk:
        new = _completed(new, old, _MEDIUM)
        same = {name: getattr(old, name) for name in _MEDIUM}
        if replace(new, **same, **{name: getattr(old, name) for name in _NOTHING}) != old:
            raise unsupported(f"of a disk of a running domain only the medium can be changed; {_NO_DRIVE}")
        new = replace(new, address=old.address)
        if all(getattr(new, name) == value for name, value in same.items()):
            return new
        if old.device != "cdrom":
            raise unsupported(_NO_DRIVE)
        alias = _alias(old)
        if _is_empty(old) and _is_empty(new):
            return new
        described = {} if _is_empty(new) else {"disk": self._described(after, new)["disk"]}
        with self._names(uuid).waiting_for(alias):
            timeout = CHANGE_SECONDS + 30.0
            await self._call(uuid, "device-change", timeout, device=alias, seconds=CHANGE_SECONDS, **described)
        if _is_empty(new):
            return replace(new, address=None)
        slots = await present(self._call, uuid)
        return replace(new, address=_address(slots[alias]))

    async def _update_interface(self, uuid: bytes, old: Interface, new: Interface) -> Interface:
        new = replace(_completed(new, old), address=old.address)
        if replace(new, link=old.link) != old:
            raise unsupported("of an interface of a running domain only the link's state can be changed; use --config")
        await self._call(uuid, "link", 30.0, nic=_alias(old), up=new.link != "down")
        return new

    def _described(self, document: Domain, device: Device) -> dict[str, Any]:
        """Arguments of `device-add`."""
        if isinstance(device, Disk):
            disk = replace(disk_spec(device, self._resolvers), id=_alias(device))
            return {"disk": part_to_json(disk)}
        if isinstance(device, Interface):
            warnings: list[Finding] = []
            nic = nic_spec(device, "interface", document.name, self._resolvers, warnings)
            return {"nic": part_to_json(replace(nic, id=_alias(device)))}
        raise unsupported("only disks and interfaces come and go while a domain runs; use --config, and start it again")

    def _done(self, uuid: bytes, document: Domain) -> Domain:
        self._names(uuid).note(document)
        return document


class TrialCall:
    """Answers as a VM that does at once what it is told, and is none (Call). names: of the devices that it has."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._changed: list[str] = []

    async def __call__(self, uuid: bytes, command: str, timeout: float, /, **arguments: object) -> Json:
        name = str(arguments.get("device"))
        match command:
            case "device-add":
                return {"slot": 0}
            case "device-remove":
                self._names.leaving[name].set_result(None)
            case "device-change":
                self._changed.append(name)
            case "devices":
                present = (*self._names.disks, *self._names.nics, *self._changed)
                return {"devices": [{"name": each, "slot": 0} for each in present]}
            case "cpus":
                return {"count": arguments["count"]}
        return {}


async def present(call: Call, uuid: bytes) -> dict[str, int]:
    """Name to slot of the disks and interfaces that a VM has."""
    answer = await call(uuid, "devices", 30.0)
    return {str(each["name"]): int(each["slot"]) for each in answer["devices"]}


def _found(document: Domain, device: NamedDevice) -> Device:
    """The device of the document that is meant."""
    alias = device.device.alias
    if alias is not None:
        return changes.by_alias(document, alias).device
    without = changes.detach(document, device)
    kept = [one.alias for one in changes.all_devices(without)]
    return next(one for one in changes.all_devices(document) if one.alias not in kept)


def _with(document: Domain, device: Device) -> Domain:
    """`document` with `device` in the place of the one with its alias."""
    devices = document.devices

    def put(all_: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(device if one.alias == device.alias else one for one in all_)

    if isinstance(device, Disk):
        return replace(document, devices=replace(devices, disks=put(devices.disks)))
    if isinstance(device, Interface):
        return replace(document, devices=replace(devices, interfaces=put(devices.interfaces)))
    return document


def _completed(new: T, old: T, but: Collection[str] = ()) -> T:
    """`new`, with what it does not say (of fields other than `but`) as it was."""
    unsaid = [one.name for one in fields(new) if one.name not in but and getattr(new, one.name) is None]
    return replace(new, **{name: getattr(old, name) for name in unsaid})


def _live_interface(document: Domain, nic: Interface) -> Interface:
    """`nic` with the target that a live document gives it, if no other has that."""
    shown = live(document, 1).devices.interfaces
    found = next(one for one in shown if one.alias == nic.alias)
    taken = {one.target for one in document.devices.interfaces}
    number = 0
    while found.target in taken:
        found = replace(found, target=f"vnet{number}")
        number += 1
    return replace(nic, target=found.target)


def _is_empty(device: Device) -> bool:
    """Whether it is a drive without a medium, which the machine does not have."""
    return isinstance(device, Disk) and not (device.file or device.dev or device.protocol or device.volume)


def _alias(device: Device) -> str:
    if device.alias is None:
        raise ConfigError("alias", "a device of a running domain without an alias")
    return device.alias


def _address(slot: int) -> Address:
    return Address(type="pci", domain=0, bus=0, slot=slot, function=0)


def _slot(address: Address | None) -> int:
    return 0 if address is None or address.slot is None else address.slot
