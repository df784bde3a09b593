"""Changes of a domain's hardware and description: devices, memory, vCPUs, metadata."""

from __future__ import annotations

from typing import Any, Final
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from manor.base.errors import ApiError
from manor.drivers.api import Change, Kind, Notice
from manor.drivers.errors import Code, Origin, invalid, invalid_argument, xml_error
from manor.drivers.xml import MAX_XML, child, format_xml, parse
from manor.service import metadata
from manor.service.client import Client, affected

MAXIMUM: Final = 4
"""virDomainVcpuFlags and virDomainMemoryModFlags."""
_KEYS: Final = {"disk": ("target", "dev"), "interface": ("mac", "address"), "filesystem": ("target", "dir")}
"""What one of a kind is known by."""


async def _change(client: Client, a: Any, change: Change, is_hardware: bool = True) -> None:
    domains = client.driver.domains
    flags = await domains.flags(a.domain.uuid)
    live, config = affected(getattr(a, "flags", 0), flags.active)
    if not flags.persistent and config:
        raise invalid("cannot modify device on transient domain")
    await domains.edit(a.domain.uuid, change, live, config, client.who, is_hardware)


def _device(text: str) -> Element:
    if len(text) > MAX_XML or "<!" in text:
        raise xml_error("(device_definition): a device is one element without a document type")
    try:
        return ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise xml_error(f"(device_definition): {error}") from error


def _find(devices: Element, wanted: Element) -> Element:
    """The device that a client's description means. Raises ApiError."""
    same = devices.findall(wanted.tag)
    alias = wanted.find("alias")
    if alias is not None:
        same = [each for each in same if (each.find("alias") or Element("x")).get("name") == alias.get("name")] or same
    if wanted.tag in _KEYS:
        tag, key = _KEYS[wanted.tag]
        element = wanted.find(tag)
        if element is not None and element.get(key):
            same = [each for each in same if _key(each, tag, key) == str(element.get(key)).lower()]
    if not same:
        raise ApiError(Code.DEVICE_MISSING, Origin.DOMAIN, f"device not found: no {wanted.tag} like that")
    if len(same) > 1:
        raise invalid(f"more than one {wanted.tag} matches; name its target, MAC address or alias")
    return same[0]


def _key(element: Element, tag: str, key: str) -> str:
    found = element.find(tag)
    return "" if found is None else found.get(key, "").lower()


async def domain_attach_device_flags(client: Client, a: Any) -> None:
    device = _device(a.xml)

    def attach(text: str) -> str:
        root = parse(text, "domain")
        devices = child(root, "devices")
        if device.tag in _KEYS:
            tag, key = _KEYS[device.tag]
            mine = _key(device, tag, key)
            if mine and any(_key(each, tag, key) == mine for each in devices.findall(device.tag)):
                raise ApiError(Code.OPERATION_FAILED, Origin.DOMAIN, f"operation failed: target {mine} already exists")
        same = [index for index, each in enumerate(devices) if each.tag == device.tag]
        devices.insert(same[-1] + 1 if same else len(devices), device)
        return format_xml(root)

    await _change(client, a, attach)


async def domain_attach_device(client: Client, a: Any) -> None:
    await domain_attach_device_flags(client, a)


async def domain_detach_device_flags(client: Client, a: Any) -> None:
    device = _device(a.xml)

    def detach(text: str) -> str:
        root = parse(text, "domain")
        devices = child(root, "devices")
        devices.remove(_find(devices, device))
        return format_xml(root)

    await _change(client, a, detach)


async def domain_detach_device(client: Client, a: Any) -> None:
    await domain_detach_device_flags(client, a)


async def domain_detach_device_alias(client: Client, a: Any) -> None:
    def detach(text: str) -> str:
        root = parse(text, "domain")
        devices = child(root, "devices")
        for each in devices:
            alias = each.find("alias")
            if alias is not None and alias.get("name") == a.alias:
                devices.remove(each)
                return format_xml(root)
        raise ApiError(Code.DEVICE_MISSING, Origin.DOMAIN, f"device not found: no device with alias {a.alias}")

    await _change(client, a, detach)


async def domain_update_device_flags(client: Client, a: Any) -> None:
    device = _device(a.xml)

    def update(text: str) -> str:
        root = parse(text, "domain")
        devices = child(root, "devices")
        old = _find(devices, device)
        devices[list(devices).index(old)] = device
        return format_xml(root)

    await _change(client, a, update)


# --- memory and vCPUs -------------------------------------------------------------------------------------------------


async def _memory(client: Client, a: Any, flags: int) -> None:
    domains = client.driver.domains
    live, config = affected(flags, (await domains.flags(a.domain.uuid)).active)
    await domains.set_memory(a.domain.uuid, a.memory, live, config, bool(flags & MAXIMUM))


async def domain_set_memory(client: Client, a: Any) -> None:
    await _memory(client, a, 1)


async def domain_set_max_memory(client: Client, a: Any) -> None:
    await _memory(client, a, MAXIMUM)


async def domain_set_memory_flags(client: Client, a: Any) -> None:
    await _memory(client, a, a.flags)


async def _vcpus(client: Client, a: Any, flags: int) -> None:
    domains = client.driver.domains
    if not 1 <= a.vcpus <= 64:
        raise invalid_argument(f"{a.vcpus} vCPUs; give 1 to 64")
    live, config = affected(flags, (await domains.flags(a.domain.uuid)).active)
    await domains.set_vcpus(a.domain.uuid, a.vcpus, live, config, bool(flags & MAXIMUM))


async def domain_set_vcpus(client: Client, a: Any) -> None:
    await _vcpus(client, a, 1)


async def domain_set_vcpus_flags(client: Client, a: Any) -> None:
    await _vcpus(client, a, a.flags)


async def domain_block_resize(client: Client, a: Any) -> None:
    # virDomainBlockResizeFlags: 1 says bytes, otherwise KiB.
    size = a.size if a.flags & 1 else a.size << 10
    await client.driver.domains.block_resize(a.domain.uuid, a.disk, size)


# --- metadata ---------------------------------------------------------------------------------------------------------


async def domain_get_metadata(client: Client, a: Any) -> str:
    root = parse(await client.driver.domains.xml(a.domain.uuid, bool(a.flags & 2), False), "domain")
    found = metadata.read(root, a.type, a.uri)
    if found is None:
        raise ApiError(
            Code.NO_DOMAIN_METADATA, Origin.DOMAIN, "metadata not found: Requested metadata element is not present"
        )
    return found


async def domain_set_metadata(client: Client, a: Any) -> None:
    change = metadata.writer("domain", a.type, a.metadata, a.key, a.uri)
    await _change(client, a, change, is_hardware=False)
    domain = await client.driver.domains.find(a.domain.uuid)
    client.service.events.publish(client.driver.uri, Notice(Kind.METADATA, domain, (a.type, a.uri)))
