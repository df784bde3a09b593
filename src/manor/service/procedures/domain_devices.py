"""Changes of a domain's hardware and description: devices, memory, vCPUs, metadata."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from manor.base.errors import ApiError
from manor.domain.xml import domain as domain_xml
from manor.domain.xml.domain import Domain as Document
from manor.domain.xml.metadata import application_element, read_application, with_application_element
from manor.drivers.api import Kind, Notice
from manor.drivers.errors import Code, Origin, invalid_argument, reading
from manor.service.client import Client, affected, impact

MAXIMUM: Final = 4
"""virDomainVcpuFlags and virDomainMemoryModFlags."""
_DESCRIPTION, _TITLE, _ELEMENT = range(3)
"""virDomainMetadataType."""


# --- devices ----------------------------------------------------------------------------------------------------------


async def domain_attach_device(client: Client, a: Any) -> None:
    await domain_attach_device_flags(client, a)


async def domain_attach_device_flags(client: Client, a: Any) -> None:
    await client.driver.domains.attach(a.domain.uuid, a.xml, *await impact(client, a), client.who)


async def domain_detach_device(client: Client, a: Any) -> None:
    await domain_detach_device_flags(client, a)


async def domain_detach_device_flags(client: Client, a: Any) -> None:
    await client.driver.domains.detach(a.domain.uuid, a.xml, *await impact(client, a), client.who)


async def domain_detach_device_alias(client: Client, a: Any) -> None:
    await client.driver.domains.detach_alias(a.domain.uuid, a.alias, *await impact(client, a), client.who)


async def domain_update_device_flags(client: Client, a: Any) -> None:
    await client.driver.domains.update(a.domain.uuid, a.xml, *await impact(client, a), client.who)


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
    document = domain_xml.parse(await client.driver.domains.xml(a.domain.uuid, bool(a.flags & 2), False))
    found = {_DESCRIPTION: document.description, _TITLE: document.title}.get(a.type)
    if a.type == _ELEMENT and a.uri:
        found = application_element(document, a.uri)
    if not found:
        raise ApiError(
            Code.NO_DOMAIN_METADATA, Origin.DOMAIN, "metadata not found: Requested metadata element is not present"
        )
    return found


async def domain_set_metadata(client: Client, a: Any) -> None:
    if a.type not in (_DESCRIPTION, _TITLE, _ELEMENT):
        raise invalid_argument(f"unknown metadata type {a.type}")
    if a.type == _TITLE and a.metadata and "\n" in a.metadata:
        raise invalid_argument("Domain title can't contain newlines")
    if a.type == _ELEMENT and not a.uri:
        raise invalid_argument("an element of metadata needs a namespace")
    element = None
    if a.type == _ELEMENT and a.metadata:
        with reading():
            element = read_application(a.metadata)

    def change(document: Document) -> Document:
        if a.type == _ELEMENT:
            return with_application_element(document, a.uri, a.key, element)
        if a.type == _TITLE:
            return replace(document, title=a.metadata or None)
        return replace(document, description=a.metadata or None)

    await client.driver.domains.edit(a.domain.uuid, change, *await impact(client, a), client.who)
    domain = await client.driver.domains.find(a.domain.uuid)
    client.service.events.publish(client.driver.uri, Notice(Kind.METADATA, domain, (a.type, a.uri)))
