"""Devices of a running QEMU that come, go and change.

Source: QEMU 7.2, "QMP Reference Manual": device_add, device_del, DEVICE_DELETED, blockdev-add, netdev_add.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final, Protocol

from manor.base.errors import ManorError
from manor.domain.xml import changes
from manor.domain.xml.changes import NamedDevice
from manor.domain.xml.common import Device
from manor.domain.xml.disk import Disk
from manor.domain.xml.domain import Domain
from manor.domain.xml.interface import Interface
from manor.domain.xml.live import named
from manor.domain.xml.to_spec import Resolvers
from manor.drivers.errors import failed, unsupported
from manor.drivers.qemu.block import Buses, disk_parts
from manor.drivers.qemu.command import HOTPLUG_PORTS
from manor.drivers.qemu.monitor import CALL_TIMEOUT
from manor.drivers.qemu.network import nic_parts
from manor.drivers.qemu.qmp import QmpError
from manor.drivers.qemu.words import Part


class Executor(Protocol):
    """A monitor, or what looks like one."""

    async def execute(self, command: str, timeout: float = CALL_TIMEOUT, /, **arguments: object) -> Any: ...


LEAVE_SECONDS: Final = 5.0
"""For a guest to let go of a device while the caller waits; after that an event tells."""
_PCI: Final = ("virtio-blk-pci", "nvme", "virtio-scsi-pci")


async def attach(monitor: Executor, live: Domain, device: NamedDevice, resolvers: Resolvers) -> Domain:
    """Plug in; the live document with it. Raises ApiError, ConfigError, QmpError; then nothing is left of it."""
    new = named(changes.attach(live, device))
    before = {one.alias for one in changes.all_devices(live)}
    added = next(one for one in changes.all_devices(new) if one.alias not in before)
    if isinstance(added, Disk):
        await _attach_disk(monitor, new, added, resolvers)
    elif isinstance(added, Interface):
        index = new.devices.interfaces.index(added)
        if not added.target and added.type != "ethernet":
            nics = [replace(nic, target=f"vnet{index}") if nic is added else nic for nic in new.devices.interfaces]
            new = replace(new, devices=replace(new.devices, interfaces=tuple(nics)))
        parts = nic_parts(added, index, "interface", None, resolvers.network)
        await monitor.execute("netdev_add", **parts.netdev)
        try:
            await _add_device(monitor, new, parts.device)
        except BaseException:
            with suppress(ManorError):
                await monitor.execute("netdev_del", id=parts.netdev["id"])
            raise
        if parts.is_down:
            await monitor.execute("set_link", name=added.alias, up=False)
    else:
        raise unsupported(f"<{device.name}> of a running domain cannot be added; use --config, and start it again")
    return new


async def _attach_disk(monitor: Executor, live: Domain, disk: Disk, resolvers: Resolvers) -> None:
    buses = Buses("q35" in live.machine)
    for one in live.devices.disks:
        if one is not disk:
            buses.place(one, "disk")
    controllers = len(buses.controllers)
    place = buses.place(disk, "disk")
    if len(buses.controllers) > controllers:
        raise unsupported(f"the running domain has no controller for bus='{disk.bus}'; use virtio, or --config")
    parts = disk_parts(disk, "disk", place, None, resolvers.volume)
    try:
        for each in parts.objects:
            await monitor.execute("object-add", **each)
        for node in parts.nodes:
            await monitor.execute("blockdev-add", **node)
        await _add_device(monitor, live, parts.device)
    except BaseException:
        await clear_away(monitor, disk.alias or "")
        raise


async def _add_device(monitor: Executor, live: Domain, device: Part) -> None:
    """Into a free slot. Raises QmpError, ApiError."""
    is_pci = device["driver"].startswith(("virtio-net", "e1000", "rtl8139", "vmxnet3")) or device["driver"] in _PCI
    if not is_pci or "q35" not in live.machine:
        await monitor.execute("device_add", **device)
        return
    # The root bus of a q35 takes nothing while it runs: ports were left for that.
    for number in range(HOTPLUG_PORTS):
        try:
            await monitor.execute("device_add", **device, bus=f"hotplug{number}")
        except QmpError as error:
            if "in use" not in error.description and "not available" not in error.description:
                raise
        else:
            return
    raise failed(f"all {HOTPLUG_PORTS} ports for devices that come later are taken; detach one")


async def detach(
    monitor: Executor, leaving: dict[str, asyncio.Future[bool]], live: Domain, device: NamedDevice
) -> Domain | None:
    """Unplug; the live document without it, or None while the guest takes its time. Raises ApiError, QmpError."""
    alias = device.device.alias or ""
    if not isinstance(device.device, (Disk, Interface)):
        raise unsupported(f"<{device.name}> of a running domain cannot be removed; use --config, and start it again")
    future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    leaving[alias] = future
    try:
        await monitor.execute("device_del", id=alias)
        is_done = await asyncio.wait_for(future, LEAVE_SECONDS)
    except TimeoutError:
        return None
    finally:
        leaving.pop(alias, None)
    if not is_done:
        raise failed(f"the guest does not let go of the device {alias}")
    await clear_away(monitor, alias)
    return changes.detach_alias(live, alias)


async def clear_away(monitor: Executor, alias: str) -> None:
    """Remove what stood behind a device, as far as it is there."""
    for suffix in ("throttle", "format", "storage"):
        with suppress(ManorError):
            await monitor.execute("blockdev-del", **{"node-name": f"{alias}-{suffix}"})
    with suppress(ManorError):
        await monitor.execute("object-del", id=f"{alias}-limits")
    with suppress(ManorError):
        await monitor.execute("netdev_del", id=f"host{alias}")


async def update(monitor: Executor, live: Domain, device: NamedDevice, resolvers: Resolvers) -> Domain:
    """Another medium, or the cable in or out. Raises ApiError, ConfigError, QmpError."""
    new = _with_targets(named(changes.update(live, device)), live)
    # Each stays in its place. A serial port and its console share a name.
    for before, after in zip(changes.all_devices(live), changes.all_devices(new), strict=True):
        if before != after:
            await _update(monitor, live, before, after, resolvers)
    return new


def _with_targets(new: Domain, old: Domain) -> Domain:
    """`new` with the names that interfaces have on the host, where the caller did not say them."""
    both = zip(new.devices.interfaces, old.devices.interfaces, strict=True)
    nics = tuple(nic if nic.target else replace(nic, target=before.target) for nic, before in both)
    return replace(new, devices=replace(new.devices, interfaces=nics))


async def _update(monitor: Executor, live: Domain, old: Device, new: Device, resolvers: Resolvers) -> None:
    alias = new.alias or ""
    if isinstance(new, Interface) and isinstance(old, Interface):
        if replace(new, link=old.link) != old:
            raise unsupported("of a running domain's interface only the link's state can be changed; use --config")
        await monitor.execute("set_link", name=alias, up=new.link != "down")
        return
    if not isinstance(new, Disk) or not isinstance(old, Disk) or new.device != "cdrom":
        raise unsupported("this device of a running domain cannot be changed; use --config, and start it again")
    buses = Buses("q35" in live.machine)
    # A drive that was empty has no device for a fixed medium: only real drives open.
    parts = disk_parts(new, "disk", buses.place(new, "disk"), None, resolvers.volume)
    if not parts.device["driver"].endswith("-cd"):
        raise unsupported("the medium of a virtio disk cannot be changed; use a drive on bus='sata' or 'scsi'")
    await monitor.execute("blockdev-open-tray", id=alias, force=True)
    with suppress(QmpError):  # it was empty
        await monitor.execute("blockdev-remove-medium", id=alias)
    await clear_away(monitor, alias)
    for node in parts.nodes:
        await monitor.execute("blockdev-add", **node)
    if parts.node:
        await monitor.execute("blockdev-insert-medium", **{"id": alias, "node-name": parts.node})
    await monitor.execute("blockdev-close-tray", id=alias)


async def set_vcpus(monitor: Executor, count: int) -> None:
    """Plug in vCPUs up to `count`. Raises ApiError, QmpError."""
    rows: Any = await monitor.execute("query-hotpluggable-cpus")
    present = [row for row in rows if "qom-path" in row]
    free = [row for row in rows if "qom-path" not in row]
    if count < len(present):
        raise unsupported(f"vCPUs are not taken from a running domain, which has {len(present)}; use --config")
    for row in reversed(free):
        if len(present) >= count:
            return
        properties = {name: value for name, value in row["props"].items() if isinstance(value, int)}
        await monitor.execute("device_add", driver=row["type"], id=f"vcpu{len(present)}", **properties)
        present.append(row)
    if len(present) < count:
        raise failed(f"the domain has room for {len(present)} vCPUs; raise <vcpu> and start it again")


class Trial:
    """What the changes would do (DeviceChanges): the same documents and refusals, as far as QEMU need not be asked."""

    def __init__(self, monitor: Executor, resolvers: Resolvers) -> None:
        self._monitor = monitor
        self._resolvers = resolvers
        self._leaving: dict[str, asyncio.Future[bool]] = {}

    async def execute(self, command: str, timeout: float = CALL_TIMEOUT, /, **arguments: object) -> Any:
        """In the monitor's place: questions are asked, and nothing is done."""
        if command.startswith("query-"):
            return await self._monitor.execute(command, timeout, **arguments)
        if command == "device_del":
            self._leaving[str(arguments["id"])].set_result(True)
        return {}

    async def attach(self, uuid: bytes, live: Domain, device: NamedDevice) -> Domain:
        return await attach(self, live, device, self._resolvers)

    async def detach(self, uuid: bytes, live: Domain, device: NamedDevice) -> Domain | None:
        return await detach(self, self._leaving, live, device)

    async def update(self, uuid: bytes, live: Domain, device: NamedDevice) -> Domain:
        return await update(self, live, device, self._resolvers)

    async def set_vcpus(self, uuid: bytes, count: int) -> None:
        await set_vcpus(self, count)
