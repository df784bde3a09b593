"""A domain's description as drivers need it: normalised text, and the few properties that are asked for all the time.

The text is kept and parsed again when more is wanted: a thousand parsed documents take ten times the memory.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, cast
from xml.etree.ElementTree import Element

from manor.base.errors import ConfigError
from manor.drivers.errors import Origin, unsupported_config, xml_error
from manor.drivers.xml import bytes_of, child, format_xml, integer, parse, take_name, take_uuid, text_of
from manor.spec.block import DiskSpec
from manor.spec.firmware import SmbiosSpec
from manor.spec.machine import MAX_CPUS, MachineSpec
from manor.spec.net import NicKind, NicSpec

MAX_MEMORY: Final = 1 << 50
"""Bytes; more than any host has, and its KiB fit every client's integers."""
_ORDER: Final = (
    "name", "uuid", "genid", "title", "description", "metadata", "maxMemory", "memory", "currentMemory",
    "memoryBacking", "vcpu", "vcpus", "iothreads", "cputune", "numatune", "resource", "sysinfo", "os", "features",
    "cpu", "clock", "on_poweroff", "on_reboot", "on_crash", "pm", "perf", "devices",
)  # fmt: skip
"""The order in which libvirt writes a domain's elements; new ones are put in their place."""
_ACTIONS: Final = (("on_poweroff", "destroy"), ("on_reboot", "restart"), ("on_crash", "destroy"))


@dataclass(frozen=True, slots=True)
class Definition:
    """One domain's description. memory, current: KiB."""

    text: str
    name: str
    uuid: bytes
    memory: int
    current: int
    vcpus: int
    max_vcpus: int
    os_type: str

    def root(self) -> Element:
        """The document; the caller's own copy."""
        return parse(self.text, "domain")


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk as the description has it. source: "" for an empty drive."""

    target: str
    source: str
    device: str


@dataclass(frozen=True, slots=True)
class Nic:
    """An interface. target: the host's name of it, or one made of its position."""

    target: str
    mac: str
    kind: str
    source: str
    model: str


def read_definition(text: str) -> Definition:
    """Check and normalise a client's document. Raises ApiError."""
    return normalise(parse(text, "domain"))


def normalise(root: Element) -> Definition:
    """The description in `root`, which is changed. Raises ApiError."""
    root.attrib.pop("id", None)
    if not root.get("type"):
        raise xml_error("<domain>: missing domain type attribute; write <domain type='kvm'>")
    name = take_name(root, Origin.DOMAIN)
    uuid = take_uuid(root, "name", Origin.DOMAIN)
    memory, current = _memory(root)
    vcpus, max_vcpus = _vcpus(root)
    os_type = _os(root)
    for tag, default in (("clock", None), *_ACTIONS):
        if root.find(tag) is None:
            element = _ordered(root, tag)
            if default is None:
                element.set("offset", "utc")
            else:
                element.text = default
    _devices(root)
    return Definition(format_xml(root), name, uuid, memory, current, vcpus, max_vcpus, os_type)


def disks(root: Element) -> Iterator[Disk]:
    """In the order of the document."""
    for each in root.iterfind("devices/disk"):
        source, target = each.find("source"), each.find("target")
        yield Disk(
            "" if target is None else target.get("dev", ""),
            "" if source is None else next((source.get(key, "") for key in ("file", "dev", "name", "dir")
                                            if source.get(key)), ""),
            each.get("device", "disk"),
        )  # fmt: skip


def nics(root: Element) -> Iterator[Nic]:
    """In the order of the document."""
    for index, each in enumerate(root.iterfind("devices/interface")):
        mac, source, target, model = (each.find(tag) for tag in ("mac", "source", "target", "model"))
        names = ("network", "bridge", "dev", "name")
        yield Nic(
            f"vnet{index}" if target is None else target.get("dev", f"vnet{index}"),
            "" if mac is None else mac.get("address", ""),
            each.get("type", "user"),
            "" if source is None else next((source.get(key, "") for key in names if source.get(key)), ""),
            "" if model is None else model.get("type", ""),
        )


def live_root(definition: Definition, number: int) -> Element:
    """The document of a running domain: with its number, and an alias at each device."""
    root = definition.root()
    attributes = {**root.attrib, "id": str(number)}
    root.attrib.clear()
    root.attrib.update(attributes)
    counts: dict[str, int] = {}
    devices = root.find("devices")
    for device in [] if devices is None else list(devices):
        if device.tag == "emulator" or device.find("alias") is not None:
            continue
        prefix = {"interface": "net", "memballoon": "balloon"}.get(device.tag, device.tag)
        index = counts.get(prefix, 0)
        counts[prefix] = index + 1
        child(device, "alias").set("name", f"{prefix}{index}")
    return root


def without_secrets(text: str) -> str:
    """The document as one may read it who may not read secrets."""
    if "passwd" not in text:
        return text
    root = parse(text, "domain")
    for each in root.iterfind("devices/graphics"):
        each.attrib.pop("passwd", None)
    return format_xml(root)


ResolveNetwork = Callable[[str], NicSpec]
"""Name of a network -> an interface on it. Raises ApiError if the network cannot be used."""


def to_spec(definition: Definition, resolve: ResolveNetwork | None = None) -> MachineSpec:
    """The machine to run. Raises ApiError naming what cannot be had. resolve: None takes any network for NAT."""
    root = definition.root()
    os_element = root.find("os")
    assert os_element is not None
    arch = (os_element.find("type") or Element("type")).get("arch", "x86_64")
    if arch != "x86_64":
        raise unsupported_config(f"os.type arch='{arch}': only x86_64 guests run here")
    loader = os_element.find("loader")
    if loader is not None:
        raise unsupported_config("os.loader: firmware is not available; boot a kernel, or a disk with one on it")
    kernel = text_of(os_element, "kernel")
    initrd = text_of(os_element, "initrd")
    disk_specs = tuple(_disk_specs(root))
    if not kernel and not disk_specs:
        raise unsupported_config("os: there is neither a <kernel> nor a disk to boot from; add one")
    return MachineSpec(
        Path(kernel) if kernel else None,
        Path(initrd) if initrd else None,
        text_of(os_element, "cmdline"),
        definition.memory << 10,
        definition.max_vcpus,
        name=definition.name,
        disks=disk_specs,
        nics=tuple(_nic_spec(nic, resolve) for nic in nics(root)),
        smbios=SmbiosSpec(text_of(root, "uuid"), text_of(root, "uuid")),
        agent=any(
            target.get("name") == "org.qemu.guest_agent.0" for target in root.iterfind("devices/channel/target")
        ),
    )


def _disk_specs(root: Element) -> Iterator[DiskSpec]:
    for element, disk in zip(root.iterfind("devices/disk"), disks(root), strict=True):
        if not disk.source:
            continue  # an empty drive
        if disk.device not in ("disk", "cdrom"):
            raise unsupported_config(f"devices.disk[{disk.target}]: device='{disk.device}'; disk and cdrom are there")
        driver = element.find("driver")
        kind = None if driver is None else driver.get("type")
        cache = None if driver is None else driver.get("cache")
        target = element.find("target")
        bus = "" if target is None else target.get("bus", "")
        yield DiskSpec(
            disk.source,
            format=kind,
            bus="nvme" if bus == "nvme" else "virtio",
            read_only=element.find("readonly") is not None or disk.device == "cdrom",
            snapshot=element.find("transient") is not None,
            serial=text_of(element, "serial"),
            cache="direct" if cache in ("none", "directsync") else "writeback",
        )


def _nic_spec(nic: Nic, resolve: ResolveNetwork | None) -> NicSpec:
    if nic.kind == "network" and resolve is not None:
        return replace(resolve(nic.source), mac=nic.mac)
    kinds = {"user": "user", "network": "user", "bridge": "bridge", "ethernet": "tap", "direct": "macvtap",
             "internal": "isolated"}  # fmt: skip
    kind = kinds.get(nic.kind)
    if kind is None:
        raise unsupported_config(f"devices.interface: type='{nic.kind}'; there are {', '.join(kinds)}")
    name = nic.target if kind == "tap" else "" if kind == "user" else nic.source
    return NicSpec(cast(NicKind, kind), name, nic.mac)


def _memory(root: Element) -> tuple[int, int]:
    size = bytes_of(root.find("memory"), "KiB")
    if size is None:
        size = bytes_of(root.find("currentMemory"), "KiB")
    if not size:
        raise xml_error("<memory>: a domain needs some; write <memory unit='MiB'>512</memory>")
    if size > MAX_MEMORY:
        raise xml_error(f"<memory>: {size} bytes are more than {MAX_MEMORY}")
    memory = (size + 1023) >> 10
    current_bytes = bytes_of(root.find("currentMemory"), "KiB")
    current = memory if not current_bytes else min(memory, (current_bytes + 1023) >> 10)
    for tag, value in (("memory", memory), ("currentMemory", current)):
        element = _ordered(root, tag)
        element.attrib.clear()
        element.set("unit", "KiB")
        element.text = str(value)
    return memory, current


def _vcpus(root: Element) -> tuple[int, int]:
    element = _ordered(root, "vcpu")
    if not (element.text or "").strip():
        element.text = "1"
    maximum = integer(element)
    if not 1 <= maximum <= MAX_CPUS:
        raise xml_error(f"<vcpu>: {maximum} vCPUs; give 1 to {MAX_CPUS}")
    element.text = str(maximum)
    current = element.get("current", "")
    count = int(current) if current.isdecimal() and 1 <= int(current) <= maximum else maximum
    element.set("placement", element.get("placement", "static"))
    if count == maximum:
        element.attrib.pop("current", None)
    return count, maximum


def _os(root: Element) -> str:
    element = _ordered(root, "os")
    kind = child(element, "type")
    if not kind.text:
        kind.text = "hvm"
    if kind.text not in ("hvm", "linux", "xen", "exe"):
        raise xml_error(f"<os><type>: '{kind.text}' is unknown; write hvm")
    kind.set("arch", kind.get("arch", "x86_64"))
    kind.set("machine", kind.get("machine", "pc"))
    if not any(element.find(tag) is not None for tag in ("kernel", "boot")) and root.find(".//boot") is None:
        child(element, "boot").set("dev", "hd")
    return kind.text


def _devices(root: Element) -> None:
    devices = _ordered(root, "devices")
    for disk in devices.iterfind("disk"):
        disk.set("type", disk.get("type", "file"))
        disk.set("device", disk.get("device", "disk"))
        target = disk.find("target")
        if target is None or not target.get("dev"):
            raise xml_error("<disk>: missing <target dev='...'>; write for example <target dev='vda' bus='virtio'/>")
        if not target.get("bus"):
            target.set("bus", _bus(target.get("dev", "")))
        if disk.get("device") == "cdrom" and disk.find("readonly") is None:
            child(disk, "readonly")
    targets = [each.get("dev") for each in devices.iterfind("disk/target")]
    for each in targets:
        if targets.count(each) > 1:
            raise xml_error(f"<disk>: target '{each}' duplicated; give each disk a name of its own")
    for nic in devices.iterfind("interface"):
        mac = nic.find("mac")
        if mac is None:
            mac = Element("mac")
            nic.insert(0, mac)
        if not mac.get("address"):
            mac.set("address", "52:54:00:" + ":".join(f"{byte:02x}" for byte in secrets.token_bytes(3)))
    _consoles(devices)
    if devices.find("memballoon") is None:
        child(devices, "memballoon").set("model", "virtio")


def _consoles(devices: Element) -> None:
    """A serial line and a console are one thing: clients look for either."""
    serial, console = devices.find("serial"), devices.find("console")
    if console is None and serial is not None:
        console = Element("console")
        devices.insert(list(devices).index(serial) + 1, console)
        console.set("type", serial.get("type", "pty"))
        child(console, "target").set("type", "serial")
    elif console is not None:
        target = child(console, "target")
        target.set("type", target.get("type", "serial"))
        if serial is None and target.get("type") == "serial":
            serial = Element("serial")
            devices.insert(list(devices).index(console), serial)
            serial.set("type", console.get("type", "pty"))
    for each in (serial, console):
        if each is not None:
            child(each, "target").set("port", "0")


def _bus(name: str) -> str:
    return {"vd": "virtio", "sd": "scsi", "hd": "ide", "xv": "xen", "fd": "fdc", "nv": "nvme"}.get(name[:2], "virtio")


def _ordered(root: Element, tag: str) -> Element:
    """The root's `tag`; a new one is put where libvirt writes it."""
    found = root.find(tag)
    if found is not None:
        return found
    made = Element(tag)
    rank = _ORDER.index(tag)
    place = next(
        (i for i, each in enumerate(root) if each.tag in _ORDER and _ORDER.index(each.tag) > rank), len(root)
    )
    root.insert(place, made)
    return made


def check_spec(spec: MachineSpec) -> None:
    """Raise ApiError for what the machine cannot be, in words."""
    from manor.spec.check import check_disk

    try:
        for index, disk in enumerate(spec.disks):
            check_disk(disk, f"devices.disk[{index}]")
    except ConfigError as error:
        raise unsupported_config(str(error)) from error
