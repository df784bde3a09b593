"""The form of a domain that clients rely on: nothing that they look for is missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, TypeVar

from manor.base.errors import ConfigError
from manor.domain import names
from manor.domain.names import disk_index, generate_mac
from manor.domain.xml.character import UNSERVED, Character
from manor.domain.xml.common import Device
from manor.domain.xml.devices import Balloon, Controller, Devices
from manor.domain.xml.disk import Disk
from manor.domain.xml.domain import Boot, Domain
from manor.domain.xml.interface import Interface
from manor.domain.xml.tree import Node

D = TypeVar("D", bound=Device)

_BUS_OF_PREFIX: Final = {"vd": "virtio", "nvme": "nvme", "hd": "ide", "sd": "scsi", "fd": "fdc", "xvd": "xen",
                         "ubd": "uml"}  # fmt: skip
"""What a disk's target name says about its bus where the document does not."""
USER_ALIAS: Final = "ua-"
"""Names of devices that start so are the user's, and stay in definitions."""
GENERATED: Final = "vnet"
"""Interfaces of running domains are named so where nobody chose, and the name goes with the run. Source: libvirt,
"Domain XML format", Overriding the target element."""


def normalise(
    domain: Domain,
    *,
    emulator: str,
    machine: str | None = "pc",
    new_uuid: Callable[[], str] = names.new_uuid,
) -> Domain:
    """The definition as it is kept. Raises ConfigError for what cannot be completed.

    emulator: path of the program that makes machines, for documents that name none. machine: the one that all get;
    None keeps what the document asks for.
    """
    names.check_name(domain.name)
    if domain.memory <= 0:
        raise ConfigError("domain/memory", "it is 0; give for example <memory unit='MiB'>512</memory>")
    if domain.current_vcpus is not None and domain.current_vcpus > domain.vcpus:
        raise ConfigError(
            "domain/vcpu/@current", f"{domain.current_vcpus} is more than the {domain.vcpus} that there is room for"
        )
    uuid = domain.uuid or new_uuid()
    current = domain.current_memory or domain.memory
    domain = inactive(domain)
    return replace(
        domain,
        uuid=uuid,
        current_memory=min(current, domain.memory),
        current_vcpus=None if domain.current_vcpus == domain.vcpus else domain.current_vcpus,
        machine=machine or domain.machine,
        boot=_boot(domain),
        devices=_devices(domain.devices, uuid, emulator),
    )


def inactive(domain: Domain) -> Domain:
    """The document without what only a running domain has: its number, generated names, terminals."""
    devices = domain.devices

    def strip(device: D) -> D:
        keep = device.alias is None or device.alias.startswith(USER_ALIAS)
        return device if keep else replace(device, alias=None)

    def strip_interface(nic: Interface) -> Interface:
        is_generated = nic.type != "ethernet" and (nic.target or "").startswith(GENERATED)
        return replace(strip(nic), target=None) if is_generated else strip(nic)

    def strip_character(device: Character) -> Character:
        sources = () if device.type == "pty" else device.sources
        return replace(strip(device), tty=None, state=None, sources=sources)

    return replace(
        domain,
        id=None,
        devices=replace(
            devices,
            disks=tuple(map(strip, devices.disks)),
            controllers=tuple(map(strip, devices.controllers)),
            filesystems=tuple(map(strip, devices.filesystems)),
            interfaces=tuple(map(strip_interface, devices.interfaces)),
            serials=tuple(map(strip_character, devices.serials)),
            consoles=tuple(map(strip_character, devices.consoles)),
            channels=tuple(map(strip_character, devices.channels)),
            balloon=devices.balloon and strip(devices.balloon),
            rngs=tuple(map(strip, devices.rngs)),
            vsock=devices.vsock and strip(devices.vsock),
        ),
    )


def secure(domain: Domain) -> Domain:
    """The document without secrets: passwords of display servers."""
    extras = tuple(
        replace(extra, node=_without(extra.node, "passwd")) if extra.node.name == "graphics" else extra
        for extra in domain.devices.extras
    )
    return replace(domain, devices=replace(domain.devices, extras=extras))


def _without(node: Node, attribute: str) -> Node:
    return replace(node, attributes=tuple(one for one in node.attributes if one[0] != attribute))


def _boot(domain: Domain) -> tuple[Boot, ...]:
    ordered = [disk.boot_order for disk in domain.devices.disks if disk.boot_order]
    ordered += [nic.boot_order for nic in domain.devices.interfaces if nic.boot_order]
    if ordered and domain.boot:
        raise ConfigError("domain/os/boot", "the devices say their order themselves; remove <boot>, or their orders")
    if len(set(ordered)) != len(ordered):
        raise ConfigError("domain/devices", "two devices have the same boot order; give each its own")
    if domain.boot or ordered:
        return domain.boot
    return (Boot(dev="hd"),)


# ---------------------------------------------------------------------- devices
def _devices(devices: Devices, uuid: str, emulator: str) -> Devices:
    serials, consoles = _terminals(devices)
    channels = _channels(devices.channels)
    done = replace(
        devices,
        emulator=devices.emulator or emulator,
        disks=complete_disks(devices.disks),
        interfaces=complete_interfaces(devices.interfaces, uuid),
        serials=serials,
        consoles=consoles,
        channels=channels,
        balloon=devices.balloon or Balloon(),
    )
    return replace(done, controllers=_controllers(done))


def complete_disk(disk: Disk, where: str) -> Disk:
    """`disk` with bus, format and driver. Raises ConfigError, naming `where`."""
    assert disk.target is not None
    bus = disk.bus or next((bus for prefix, bus in _BUS_OF_PREFIX.items() if disk.target.startswith(prefix)), None)
    if bus is None or disk_index(disk.target) is None:
        raise ConfigError(f"{where}/target/@dev", f"{disk.target!r} is not the name of a disk; write for example vda")
    source = {"file": disk.file, "block": disk.dev, "network": disk.protocol, "volume": disk.volume}.get(disk.type, "-")
    if not source and disk.device == "disk":
        attribute = {"file": "file", "block": "dev", "network": "protocol", "volume": "volume"}[disk.type]
        raise ConfigError(f"{where}/source/@{attribute}", "it is missing; it says what the disk is")
    is_raw_by_default = disk.format is None and bool(source)
    return replace(
        disk,
        bus=bus,
        format="raw" if is_raw_by_default else disk.format,
        driver_name=disk.driver_name or ("qemu" if disk.format or is_raw_by_default else None),
        readonly=disk.readonly or disk.device == "cdrom",
    )


def complete_disks(disks: Sequence[Disk]) -> tuple[Disk, ...]:
    """All disks of a domain, complete. Raises ConfigError, also for two of one name."""
    targets: set[str] = set()
    done = []
    for where, disk in _numbered_paths("disk", disks):
        if disk.target in targets:
            raise ConfigError(f"{where}/target/@dev", f"another disk is {disk.target!r} too; give each its own name")
        targets.add(disk.target or "")
        done.append(complete_disk(disk, where))
    # The guest finds disks in this order, so that vda is the first one for it too.
    buses = [disk.bus for disk in done]
    return tuple(sorted(done, key=lambda disk: (buses.index(disk.bus), disk_index(disk.target or "") or 0)))


def complete_interfaces(interfaces: Sequence[Interface], uuid: str) -> tuple[Interface, ...]:
    """All interfaces of the domain `uuid`, each with an address and a model. Raises ConfigError."""
    taken = {nic.mac for nic in interfaces if nic.mac}
    done = []
    for position, (where, nic) in enumerate(_numbered_paths("interface", interfaces)):
        needed = {"network": ("network", nic.network), "bridge": ("bridge", nic.bridge), "direct": ("dev", nic.dev)}
        attribute, value = needed.get(nic.type, ("", "-"))
        if not value:
            raise ConfigError(f"{where}/source/@{attribute}", f"it is missing; type {nic.type} needs it")
        mac = nic.mac or generate_mac(uuid, position, [one for one in taken if one])
        taken.add(mac)
        done.append(replace(nic, mac=mac, model=nic.model or "virtio"))
    return tuple(done)


def _numbered_paths(name: str, devices: Sequence[D]) -> list[tuple[str, D]]:
    path = f"domain/devices/{name}"
    return [(f"{path}[{number}]" if len(devices) > 1 else path, one) for number, one in enumerate(devices, 1)]


def _terminals(devices: Devices) -> tuple[tuple[Character, ...], tuple[Character, ...]]:
    """Serial ports and consoles. The first serial port is the first console too, and clients expect both; a domain
    with neither gets them, since the console is the way into every machine here."""
    serials, consoles = list(devices.serials), list(devices.consoles)
    first = consoles[0] if consoles else None
    if first is None or first.target_type in (None, "serial"):
        if not serials:
            serials.append(replace(first or Character(type="pty"), target_type=None, target_port=None))
        mirror = replace(serials[0], target_type="serial", target_model=None, alias=None, address=None)
        consoles[:1] = [replace(mirror, extras=(), extra_attributes=())]
    serials = [
        replace(one, target_type=one.target_type or "isa-serial", target_port=port,
                target_model=one.target_model or ("isa-serial" if one.target_type in (None, "isa-serial") else None))
        for port, one in enumerate(serials)
    ]  # fmt: skip
    consoles = [
        replace(one, target_type=one.target_type or "serial", target_port=port) for port, one in enumerate(consoles)
    ]
    return tuple(serials), tuple(consoles)


def _channels(channels: Sequence[Character]) -> tuple[Character, ...]:
    for where, channel in _numbered_paths("channel", channels):
        if channel.target_type is None:
            raise ConfigError(f"{where}/target/@type", "it is missing; write type='virtio'")
    used = [one.target_name for one in channels if one.target_name and one.type not in UNSERVED]
    for name in used:
        if used.count(name) > 1:
            raise ConfigError("domain/devices/channel", f"two channels are called {name!r}; give each its own name")
    return tuple(channels)


def _controllers(devices: Devices) -> tuple[Controller, ...]:
    """Those of the document, and those that the devices need. Indices are filled in, a kind at a time."""
    found = list(devices.controllers)
    kinds = {one.type for one in found}
    if "pci" not in kinds:
        found.append(Controller(type="pci", index=0, model="pci-root"))
    virtio = [*devices.consoles, *devices.channels]
    if "virtio-serial" not in kinds and any(one.target_type == "virtio" for one in virtio):
        found.append(Controller(type="virtio-serial"))
    done: list[Controller] = []
    for one in found:
        # Companions of a USB controller share its index; the first one without an index starts at 0.
        used = [other.index or 0 for other in done if other.type == one.type]
        shares = one.type == "usb" and (one.model or "").startswith("ich9")
        index = one.index if one.index is not None else 0 if shares or not used else max(used) + 1
        done.append(replace(one, index=index, model=one.model or ("pci-root" if one.type == "pci" else None)))
    return tuple(done)
