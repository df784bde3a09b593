"""Rules about a whole domain that no single declaration can say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from manor.domain.xml.character import AGENT_PORT, UNSERVED
from manor.domain.xml.disk import OTHER_BUSES
from manor.domain.xml.property import Finding
from manor.domain.xml.values import Support
from manor.spec.check import MAX_SERIAL
from manor.spec.machine import MAX_CPUS, MIN_MEMORY
from manor.spec.share import TAG

if TYPE_CHECKING:
    from manor.domain.xml.domain import Domain

_FIELDS = ("serial", "uuid")
"""Texts of the system that reach the guest's tables."""


def domain_rules(domain: Domain) -> Iterator[Finding]:
    """What contradicts itself, or is impossible, in `domain`."""
    yield from _size(domain)
    yield from _tables(domain)
    yield from _disks(domain)
    yield from _interfaces(domain)
    yield from _characters(domain)
    yield from _folders(domain)


def _refused(path: str, text: str, fix: str) -> Finding:
    return Finding(f"domain/{path}", Support.REFUSED, text, fix)


def _ignored(path: str, text: str, fix: str = "") -> Finding:
    return Finding(f"domain/{path}", Support.IGNORED, text, fix)


def _path(name: str, index: int, count: int) -> str:
    return f"devices/{name}[{index + 1}]" if count > 1 else f"devices/{name}"


def _size(domain: Domain) -> Iterator[Finding]:
    running = domain.current_vcpus or domain.vcpus
    if running > MAX_CPUS:
        yield _refused("vcpu", f"{running} vCPUs are too many", f"give at most {MAX_CPUS}")
    elif running < domain.vcpus and domain.vcpus > MAX_CPUS:
        yield _ignored("vcpu", f"there is room for {MAX_CPUS} vCPUs while the machine runs")
    if domain.memory < MIN_MEMORY:
        yield _refused("memory", f"{domain.memory} bytes are too little", "give for example <memory unit='MiB'>512")
    if domain.initrd and not domain.kernel:
        yield _refused("os/initrd", "there is no kernel to go with it", "give <kernel>, or remove <initrd>")
    if domain.cmdline and not domain.kernel:
        yield _ignored("os/cmdline", "there is no kernel to go with it; the disk's own command line is used")
    if domain.on_poweroff in ("restart", "rename-restart") and domain.on_reboot == "destroy":
        # Source: libvirt, "Domain XML format", Events configuration.
        yield _refused("on_reboot", "a guest that is started again when it powers off cannot be stopped by a reboot",
                       "write <on_reboot>restart</on_reboot>, or <on_poweroff>destroy</on_poweroff>")  # fmt: skip
    devices = domain.devices
    if not domain.kernel and not any(one.device == "disk" for one in devices.disks):
        yield _refused("os", "there is nothing to boot", "give a disk with a system, or <kernel> and <initrd>")
    if len(devices.rngs) > 1:
        yield _ignored("devices/rng[2]", "there is one random number generator")


def _tables(domain: Domain) -> Iterator[Finding]:
    for index, info in enumerate(domain.sysinfo):
        where = f"sysinfo[{index + 1}]" if len(domain.sysinfo) > 1 else "sysinfo"
        if info.type == "smbios" and domain.smbios_mode != "sysinfo":
            yield _ignored(where, "<os> does not ask for it", "write <smbios mode='sysinfo'/> inside <os>")
        for number, entry in enumerate(info.system):
            place = f"{where}/system/entry[{number + 1}]" if len(info.system) > 1 else f"{where}/system/entry"
            if entry.name not in _FIELDS:
                yield _ignored(place, f"{entry.name!r} is the machine's own; `serial` and `uuid` reach the guest")
            elif entry.name == "uuid" and domain.uuid and _digits(entry.value) != _digits(domain.uuid):
                yield _refused(place, "it is not the domain's UUID", f"write {domain.uuid}, or remove the entry")


def _digits(uuid: str) -> str:
    return uuid.replace("-", "").lower()


def _disks(domain: Domain) -> Iterator[Finding]:
    disks = domain.devices.disks
    for index, disk in enumerate(disks):
        where = _path("disk", index, len(disks))
        if disk.bus in OTHER_BUSES and disk.device != "cdrom":
            yield _refused(f"{where}/target/@bus", f"the machine has no {disk.bus} disks",
                           "write bus='virtio' and a target such as vda")  # fmt: skip
        if disk.serial is not None and len(disk.serial) > MAX_SERIAL:
            yield _refused(f"{where}/serial", f"{len(disk.serial)} characters do not reach the guest",
                           f"give at most {MAX_SERIAL}")  # fmt: skip
        if disk.transient and disk.readonly:
            yield _refused(f"{where}/transient", "a disk that is not written has nothing to throw away",
                           "remove <transient/> or <readonly/>")  # fmt: skip
        if disk.startup_policy in ("requisite", "optional"):
            yield _ignored(f"{where}/source/@startupPolicy", "a missing file is an error")
        if disk.type == "network" and len(disk.hosts) != 1:
            yield _refused(f"{where}/source/host", f"{len(disk.hosts)} servers are named", "name one")
        for host in disk.hosts:
            if host.transport == "unix" and not host.socket:
                yield _refused(f"{where}/source/host/@socket", "it is missing", "give the path of the server's socket")
            elif host.transport != "unix" and not host.name:
                yield _refused(f"{where}/source/host/@name", "it is missing", "give the server's name or address")
        tune = disk.iotune
        if tune and tune.total_bytes_max and not tune.total_bytes:
            yield _refused(f"{where}/iotune/total_bytes_sec_max", "there is no limit that it goes beyond",
                           "give total_bytes_sec too")  # fmt: skip
        if tune and tune.total_iops_max and not tune.total_iops:
            yield _refused(f"{where}/iotune/total_iops_sec_max", "there is no limit that it goes beyond",
                           "give total_iops_sec too")  # fmt: skip


def _interfaces(domain: Domain) -> Iterator[Finding]:
    nics = domain.devices.interfaces
    addresses = Counter(nic.mac for nic in nics if nic.mac)
    for index, nic in enumerate(nics):
        where = _path("interface", index, len(nics))
        if nic.mac and addresses[nic.mac] > 1:
            yield _refused(f"{where}/mac/@address", f"another interface has {nic.mac} too", "give each its own")
        if nic.type == "ethernet" and not nic.target:
            yield _refused(f"{where}/target/@dev", "it is missing", "name the tap that the host has for the domain")
        if nic.forwards and nic.type not in ("user", "network"):
            yield _refused(f"{where}/portForward", "ports are forwarded by the user-mode network only",
                           "write type='user'")  # fmt: skip
        for number, forward in enumerate(nic.forwards):
            place = f"{where}/portForward[{number + 1}]" if len(nic.forwards) > 1 else f"{where}/portForward"
            if not any(not one.exclude for one in forward.ranges):
                yield _refused(place, "it names no ports", "name them: <range start='2222' to='22'/>")
        if nic.inbound and nic.outbound and nic.inbound.average != nic.outbound.average:
            yield _ignored(f"{where}/bandwidth", "both directions have one limit; the lower one is taken")


def _characters(domain: Domain) -> Iterator[Finding]:
    devices = domain.devices
    for index in range(1, len(devices.serials)):
        yield _refused(f"devices/serial[{index + 1}]", "there is one serial port", "remove it, or use a vsock")
    for index, console in enumerate(devices.consoles[1:], 1):
        if not (console.target_type == "virtio" and index == 1):
            yield _refused(f"devices/console[{index + 1}]", "there are two consoles, serial and virtio", "remove it")
    for index, channel in enumerate(devices.channels):
        if channel.target_type == "virtio" and channel.target_name != AGENT_PORT and channel.type not in UNSERVED:
            yield _refused(
                f"{_path('channel', index, len(devices.channels))}/target/@name",
                f"{channel.target_name!r} is not a port that the machine has",
                f"the agent's port is {AGENT_PORT}; for others use a vsock",
            )


def _folders(domain: Domain) -> Iterator[Finding]:
    folders = domain.devices.filesystems
    tags = Counter(one.target for one in folders)
    for index, one in enumerate(folders):
        where = _path("filesystem", index, len(folders))
        if one.driver is None:
            yield _refused(where, "without a driver it is a 9p folder, which is not made",
                           "write <driver type='virtiofs'/>, and `mount -t virtiofs` in the guest")  # fmt: skip
        if not one.dir:
            yield _refused(f"{where}/source/@dir", "it is missing", "give the folder of the host")
        if not TAG.fullmatch(one.target or ""):
            yield _refused(f"{where}/target/@dir", f"{one.target!r} is no tag",
                           "give up to 36 letters, digits, `_`, `.` and `-`")  # fmt: skip
        elif tags[one.target] > 1:
            yield _refused(f"{where}/target/@dir", f"another folder is {one.target!r} too", "give each its own tag")
