"""Virtual networks."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

from manor.base.errors import ApiError
from manor.domain.xml import domain as domain_xml
from manor.domain.xml import network as network_xml
from manor.domain.xml.metadata import application_element, read_application, with_application_element
from manor.drivers.api import ObjectFlags
from manor.drivers.errors import Code, Origin, invalid, invalid_argument, reading
from manor.rpc.protocol.records import DhcpLease, Network
from manor.service.client import Client, cut, matches
from manor.service.network_update import update

DESCRIPTION, TITLE, ELEMENT = range(3)
"""virDomainMetadataType, whose numbers those of networks share."""


def is_wanted(flags: int, found: ObjectFlags) -> bool:
    """Whether an object passes a list's filter. Source: libvirt API reference, virConnectListAllNetworksFlags, whose
    numbers those of pools share."""
    return matches(
        flags,
        ((1, not found.active), (2, found.active)),
        ((4, found.persistent), (8, not found.persistent)),
        ((16, found.autostart), (32, not found.autostart)),
    )


async def connect_list_all_networks(client: Client, a: Any) -> tuple[list[Network], int]:
    found = [network for network, flags in await client.driver.networks.all() if is_wanted(a.flags, flags)]
    return (found if a.need_results else [], len(found))


async def connect_num_of_networks(client: Client, a: Any) -> int:
    return sum(flags.active for _, flags in await client.driver.networks.all())


async def connect_list_networks(client: Client, a: Any) -> list[str]:
    return cut([each.name for each, flags in await client.driver.networks.all() if flags.active], a.max_names)


async def connect_num_of_defined_networks(client: Client, a: Any) -> int:
    return sum(not flags.active for _, flags in await client.driver.networks.all())


async def connect_list_defined_networks(client: Client, a: Any) -> list[str]:
    return cut([each.name for each, flags in await client.driver.networks.all() if not flags.active], a.max_names)


async def network_lookup_by_name(client: Client, a: Any) -> Network:
    return await client.driver.networks.find_name(a.name)


async def network_lookup_by_uuid(client: Client, a: Any) -> Network:
    return await client.driver.networks.find(a.uuid)


async def network_define_xml(client: Client, a: Any) -> Network:
    return await client.driver.networks.define(a.xml, client.who)


async def network_define_xml_flags(client: Client, a: Any) -> Network:
    return await client.driver.networks.define(a.xml, client.who)


async def network_create_xml(client: Client, a: Any) -> Network:
    return await client.driver.networks.create_xml(a.xml)


async def network_create_xml_flags(client: Client, a: Any) -> Network:
    return await client.driver.networks.create_xml(a.xml)


async def network_create(client: Client, a: Any) -> None:
    await client.driver.networks.start(a.network.uuid)


async def network_destroy(client: Client, a: Any) -> None:
    await client.driver.networks.stop(a.network.uuid)


async def network_undefine(client: Client, a: Any) -> None:
    await client.driver.networks.undefine(a.network.uuid, client.who)


async def network_get_xml_desc(client: Client, a: Any) -> str:
    return await client.driver.networks.xml(a.network.uuid)


async def network_get_bridge_name(client: Client, a: Any) -> str:
    return await client.driver.networks.bridge(a.network.uuid)


async def network_get_autostart(client: Client, a: Any) -> int:
    return int((await client.driver.networks.flags(a.network.uuid)).autostart)


async def network_set_autostart(client: Client, a: Any) -> None:
    await client.driver.networks.set_autostart(a.network.uuid, bool(a.autostart))


async def network_is_active(client: Client, a: Any) -> int:
    return int((await client.driver.networks.flags(a.network.uuid)).active)


async def network_is_persistent(client: Client, a: Any) -> int:
    return int((await client.driver.networks.flags(a.network.uuid)).persistent)


async def network_get_dhcp_leases(client: Client, a: Any) -> tuple[list[DhcpLease], int]:
    """Each VM's interface has a server of its own: the leases are those of the domains that run on the network."""
    network = await client.driver.networks.find(a.network.uuid)
    if not (await client.driver.networks.flags(network.uuid)).active:
        raise invalid(f"network '{network.name}' is not active", Origin.NETWORK)
    found = []
    for domain, flags in await client.driver.domains.all():
        if not flags.active:
            continue
        with suppress(ApiError):  # it has just ended
            document = domain_xml.parse(await client.driver.domains.xml(domain.uuid, False, False))
            macs = {nic.mac for nic in document.devices.interfaces if nic.network == network.name}
            for interface in await client.driver.domains.addresses(domain.uuid, 0):
                if interface.hardware_address in macs and a.mac in (None, interface.hardware_address):
                    found += [
                        DhcpLease(interface.name, 0, each.type, interface.hardware_address, None, each.address,
                                  each.prefix, domain.name, None)
                        for each in interface.addresses
                    ]  # fmt: skip
    return (found if a.need_results else [], len(found))


# --- changes of a description -----------------------------------------------------------------------------------------


async def network_update(client: Client, a: Any) -> None:
    await client.driver.networks.find(a.network.uuid)
    await client.driver.networks.edit(
        a.network.uuid, lambda text: update(text, a.command, a.section, a.parent_index, a.xml), client.who
    )


async def network_get_metadata(client: Client, a: Any) -> str:
    document = network_xml.parse(await client.driver.networks.xml(a.network.uuid))
    if a.type == ELEMENT:
        found = application_element(document, a.uri or "")
    else:
        found = document.title if a.type == TITLE else document.description
    if not found:
        raise ApiError(
            Code.NO_NETWORK_METADATA, Origin.NETWORK,
            "network metadata not found: Requested metadata element is not present",
        )  # fmt: skip
    return found


async def network_set_metadata(client: Client, a: Any) -> None:
    element = None
    if a.type not in (DESCRIPTION, TITLE, ELEMENT):
        raise invalid_argument(f"unknown metadata type {a.type}", Origin.NETWORK)
    if a.type == TITLE and a.metadata and "\n" in a.metadata:
        raise invalid_argument("Network title can't contain newlines", Origin.NETWORK)
    if a.type == ELEMENT:
        if not a.uri:
            raise invalid_argument("an element of metadata needs a namespace", Origin.NETWORK)
        if a.metadata:
            with reading(Origin.NETWORK):
                element = read_application(a.metadata)

    def change(text: str) -> str:
        document = network_xml.parse(text)
        if a.type == ELEMENT:
            document = with_application_element(document, a.uri, a.key, element)
        elif a.type == TITLE:
            document = replace(document, title=a.metadata or None)
        else:
            document = replace(document, description=a.metadata or None)
        return network_xml.format(document)

    await client.driver.networks.edit(a.network.uuid, change, client.who)
