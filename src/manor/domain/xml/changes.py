"""Changes of a domain: devices that come and go, and what of a new definition takes effect when."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Final

from manor.base.errors import ConfigError
from manor.domain.names import generate_mac
from manor.domain.xml import reader, tree, writer
from manor.domain.xml.common import Device
from manor.domain.xml.devices import KINDS, Devices
from manor.domain.xml.disk import Disk
from manor.domain.xml.domain import Domain
from manor.domain.xml.interface import Interface
from manor.domain.xml.normal import complete_disk, complete_disks, complete_interfaces
from manor.domain.xml.property import Element, Property, schema
from manor.domain.xml.tree import Node

_ROOT: Final = "domain/devices"


class When(Enum):
    """When a change takes effect."""

    LIVE = "live"
    NEXT_BOOT = "at next boot"
    OFF = "only when off"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Change:
    """One difference. path: `domain/devices/disk[vda]/source/@file`. before, after: as written; None: absent."""

    path: str
    before: str | None
    after: str | None
    when: When
    text: str = ""


class NoDevice(ConfigError):
    """The domain has no such device."""


class DeviceExists(ConfigError):
    """The domain has a device already whose place the new one would take."""


# ---------------------------------------------------------------------- devices
def _class_of(field: str) -> type[Element] | None:
    return next(one.cls for one in schema(Devices).properties if one.name == field)


@dataclass(frozen=True, slots=True)
class NamedDevice:
    """A device with the name of its element, which tells a serial port from a channel."""

    name: str
    device: Device


def parse_device(text: str) -> NamedDevice:
    """The device of a document such as <disk>...</disk>. Raises ConfigError."""
    node = tree.read_any(text, "device")
    name = node.name
    if name not in KINDS:
        raise ConfigError("device", f"<{name}> is no device that can come or go; give one of {', '.join(KINDS)}")
    cls = _class_of(KINDS[name])
    assert cls is not None
    device = reader.read_element(cls, node, name)
    assert isinstance(device, Device)
    return NamedDevice(name, device)


def format_device(named: NamedDevice) -> str:
    return tree.write(writer.write_element(named.device, named.name))


def attach(domain: Domain, named: NamedDevice) -> Domain:
    """`domain` with one device more, completed as in a definition. Raises ConfigError if there is no room for it."""
    devices = domain.devices
    device = named.device
    if isinstance(device, Disk):
        if any(one.target == device.target for one in devices.disks):
            raise DeviceExists("disk/target/@dev", f"target {device.target} already exists; give the disk another name")
        return replace(domain, devices=replace(devices, disks=complete_disks((*devices.disks, device))))
    if isinstance(device, Interface):
        taken = {nic.mac for nic in devices.interfaces}
        if device.mac in taken and device.mac is not None:
            raise DeviceExists(
                "interface/mac/@address", f"an interface with {device.mac} already exists; give it another address"
            )
        if device.mac is None:
            mac = generate_mac(domain.uuid or domain.name, len(devices.interfaces), [one for one in taken if one])
            device = replace(device, mac=mac)
        all_ = complete_interfaces((*devices.interfaces, device), domain.uuid or domain.name)
        return replace(domain, devices=replace(devices, interfaces=all_))
    field = KINDS[named.name]
    before = getattr(devices, field)
    new: Any = device
    if isinstance(before, tuple):
        new = (*before, device)
    elif before is not None:
        raise DeviceExists(named.name, "the domain has one already; there can be no second")
    return replace(domain, devices=replace(devices, **{field: new}))


def detach(domain: Domain, named: NamedDevice) -> Domain:
    """`domain` without the device that `named` means. Raises ConfigError if there is none, or more than one."""
    return _put(domain, named.name, find(domain, named), None)


def update(domain: Domain, named: NamedDevice) -> Domain:
    """`domain` with the device that `named` means replaced by it. Raises ConfigError."""
    index = find(domain, named)
    old = _all(domain, named.name)[index]
    device = named.device
    if isinstance(device, Disk) and isinstance(old, Disk):
        device = replace(complete_disk(device, "disk"), alias=device.alias or old.alias)
    elif isinstance(device, Interface) and isinstance(old, Interface):
        device = replace(device, mac=device.mac or old.mac, model=device.model or old.model)
        device = replace(complete_interfaces((device,), domain.uuid or domain.name)[0], alias=device.alias or old.alias)
    return _put(domain, named.name, index, device)


def detach_alias(domain: Domain, alias: str) -> Domain:
    """`domain` without the device of that alias. Raises NoDevice if there is none."""
    return detach(domain, by_alias(domain, alias))


def by_alias(domain: Domain, alias: str) -> NamedDevice:
    """The device of that alias. Raises NoDevice if there is none."""
    for name in KINDS:
        for device in _all(domain, name):
            if device.alias == alias:
                return NamedDevice(name, device)
    raise NoDevice(_ROOT, f"no device has the alias {alias!r}; `virsh dumpxml` shows those there are")


def find(domain: Domain, named: NamedDevice) -> int:
    """Index, among the domain's devices of its kind, of the one that `named` means: by alias, else by what tells such
    devices apart (a disk's target, an interface's MAC address), else by all that it says. Raises ConfigError."""
    present = _all(domain, named.name)
    wanted = named.device
    found = [index for index, one in enumerate(present) if _means(wanted, one)]
    if len(found) == 1:
        return found[0]
    identity = identity_of(wanted) or "what was given"
    if not found:
        raise NoDevice(named.name, f"the domain has no such device ({identity}); `virsh dumpxml` shows those it has")
    raise ConfigError(named.name, f"{len(found)} devices are meant by {identity}; say which, for example by its alias")


def identity_of(device: Element) -> str | None:
    """What tells `device` from others of its kind, where one value does."""
    for name in ("target", "mac", "target_name", "alias", "name"):
        value = getattr(device, name, None)
        # The tap behind an interface is the host's business.
        if isinstance(value, str) and not (name == "target" and isinstance(device, Interface)):
            return value
    return None


def _means(wanted: Device, present: Device) -> bool:
    if wanted.alias is not None and present.alias is not None:
        return wanted.alias == present.alias
    if isinstance(wanted, Disk) and isinstance(present, Disk):
        return wanted.target == present.target
    if isinstance(wanted, Interface) and isinstance(present, Interface) and wanted.mac:
        return wanted.mac == present.mac
    for declared in schema(type(wanted)).properties:
        value = getattr(wanted, declared.name)
        if declared.name in ("alias", "address") or value is None or value == () or value == declared.default:
            continue
        if value != getattr(present, declared.name):
            return False
    return True


def all_devices(domain: Domain) -> Iterator[Device]:
    """Those that can have an alias, a kind at a time."""
    for name in KINDS:
        yield from _all(domain, name)


def _all(domain: Domain, name: str) -> tuple[Device, ...]:
    value = getattr(domain.devices, KINDS[name])
    if isinstance(value, tuple):
        return value
    return () if value is None else (value,)


def _put(domain: Domain, name: str, index: int, device: Device | None) -> Domain:
    field = KINDS[name]
    new: Any
    if isinstance(getattr(domain.devices, field), tuple):
        all_ = list(_all(domain, name))
        all_[index : index + 1] = [] if device is None else [device]
        new = tuple(all_)
    else:
        new = device
    return replace(domain, devices=replace(domain.devices, **{field: new}))


# ---------------------------------------------------------------------- definitions
AT_ONCE: Final = ("domain/title", "domain/description", "domain/metadata", "domain/currentMemory")
"""What a running machine takes. A driver that can do more says so."""
IDENTITY: Final = ("domain/uuid", "domain/name")
"""What no new definition changes: another UUID is another domain, and a name is changed by a rename."""


def differences(before: Domain, after: Domain, live: Collection[str] = AT_ONCE) -> tuple[Change, ...]:
    """What makes `after` of `before`, value by value, and when each takes effect in a domain that runs.

    live: paths, as in the declarations, of what can be changed at once.
    """
    return tuple(
        replace(change, when=_when(change.path, live)) for change in _compare(before, after, "domain") if change
    )


def _when(path: str, live: Collection[str]) -> When:
    plain = re.sub(r"\[[^\]]*\]", "", path)
    if plain in IDENTITY:
        return When.REFUSED if plain == "domain/uuid" else When.OFF
    if any(plain == one or plain.startswith(f"{one}/") for one in live):
        return When.LIVE
    return When.NEXT_BOOT


def _compare(before: Element, after: Element, path: str) -> Iterator[Change]:
    for declared in schema(type(before)).properties:
        old, new = getattr(before, declared.name), getattr(after, declared.name)
        if old == new:
            continue
        full = path if declared.path == "." else f"{path}/{declared.path}"
        if declared.cls:
            yield from _compare_parts(declared, old, new, full)
        else:
            yield Change(full, _shown(declared, old), _shown(declared, new), When.NEXT_BOOT)
    for one in (before, after):
        other = after if one is before else before
        for extra in one.extras:
            if extra not in other.extras and extra.node not in [each.node for each in other.extras]:
                text = tree.write(extra.node)
                full = "/".join((path, *extra.where, extra.node.name))
                old_text, new_text = (text, None) if one is before else (None, text)
                yield Change(full, old_text, new_text, When.NEXT_BOOT)


def _compare_parts(declared: Property, old: Any, new: Any, path: str) -> Iterator[Change]:
    name = declared.steps[-1]
    olds = _keyed(old if declared.many else (old,))
    news = _keyed(new if declared.many else (new,))
    for key in [*olds, *(key for key in news if key not in olds)]:
        here = f"{path}[{key}]" if declared.many else path
        one, other = olds.get(key), news.get(key)
        if one is not None and other is not None:
            yield from _compare(one, other, here)
        else:
            yield Change(here, _written(one, name), _written(other, name), When.NEXT_BOOT)


def _keyed(elements: tuple[Element | None, ...]) -> dict[str, Element]:
    """Elements by what tells them apart, or by position."""
    found: dict[str, Element] = {}
    for number, one in enumerate(elements, 1):
        if one is not None:
            key = identity_of(one)
            found[str(number) if key is None or key in found else key] = one
    return found


def _written(element: Element | None, name: str) -> str | None:
    return None if element is None else tree.write(writer.write_element(element, name))


def _shown(declared: Property, value: Any) -> str | None:
    if value is None or value is False:
        return None
    if isinstance(value, Node):
        return tree.write(value)
    assert declared.kind is not None
    return declared.kind.show(value)
