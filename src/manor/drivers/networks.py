"""Virtual networks: descriptions whose guests get user-mode NAT of their own, or share an isolated segment."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Sequence
from typing import Final
from xml.etree.ElementTree import Element

from manor.drivers.api import Change, Kind, Notice, Notify, ObjectFlags
from manor.drivers.errors import Code, Origin, no_network, unsupported_config, xml_error
from manor.drivers.keeper import Keeper
from manor.drivers.life import Life
from manor.drivers.objects import Manner, Object, ObjectTable
from manor.drivers.xml import child, format_xml, parse, take_name, take_uuid
from manor.rpc.protocol.records import Network
from manor.spec.net import NicSpec

MODES: Final = ("nat", "bridge", "open", "route")
DEFAULT: Final = """
<network>
  <name>default</name>
  <forward mode='nat'/>
  <ip address='10.0.2.2' netmask='255.255.255.0'>
    <dhcp><range start='10.0.2.15' end='10.0.2.254'/></dhcp>
  </ip>
</network>
"""
"""What every driver has from the start: user-mode NAT, which needs no rights."""


def read_network(text: str) -> tuple[str, bytes, str]:
    """(name, UUID, normalised XML). Raises ApiError."""
    root = parse(text, "network", Origin.NETWORK)
    for name in ("id", "connections"):
        root.attrib.pop(name, None)
    name = take_name(root, Origin.NETWORK)
    uuid = take_uuid(root, "name", Origin.NETWORK)
    forward = root.find("forward")
    if forward is not None:
        forward.set("mode", forward.get("mode", "nat"))
        if forward.get("mode") not in MODES:
            raise unsupported_config(
                f"forward: mode='{forward.get('mode')}'; there are {', '.join(MODES)}, or none for an isolated network",
                Origin.NETWORK,
            )
    for ip in root.iterfind("ip"):
        _check_ip(ip)
    if forward is None or forward.get("mode") != "bridge":
        bridge = root.find("bridge")
        if bridge is None:
            bridge = Element("bridge")
            place = [i for i, each in enumerate(root) if each.tag in ("name", "uuid", "forward", "metadata")]
            root.insert(max(place) + 1, bridge)
        if not bridge.get("name"):
            # No such interface is made: it names the network where clients want one word for it.
            bridge.set("name", f"virm{hashlib.sha256(uuid).hexdigest()[:6]}")
        bridge.set("stp", bridge.get("stp", "on"))
        bridge.set("delay", bridge.get("delay", "0"))
    return name, uuid, format_xml(root)


MANNER: Final = Manner("networks", "network", Origin.NETWORK, read_network, no_network, Code.OPERATION_FAILED, True)


class NetworkBook:
    """The networks of one driver (api.Networks)."""

    def __init__(self, keeper: Keeper, notify: Notify) -> None:
        self._table = ObjectTable(MANNER, keeper)
        self._notify = notify

    async def open(self, with_default: bool) -> None:
        """with_default: define and start `default` where there is no network at all."""
        await self._table.load()
        if with_default and not list(self._table):
            made, _ = await self._table.define(DEFAULT, "first start")
            await self._table.set_autostart(made.uuid, True)
        for each in self._table:
            # A network is nothing but its description: what runs on it may have outlived the daemon.
            each.is_active = each.autostart

    async def all(self) -> Sequence[tuple[Network, ObjectFlags]]:
        return [(_reference(each), each.flags()) for each in self._table]

    async def find(self, uuid: bytes) -> Network:
        return _reference(self._table.get(uuid))

    async def find_name(self, name: str) -> Network:
        return _reference(self._table.named(name))

    async def flags(self, uuid: bytes) -> ObjectFlags:
        return self._table.get(uuid).flags()

    async def xml(self, uuid: bytes) -> str:
        return self._table.get(uuid).xml

    async def bridge(self, uuid: bytes) -> str:
        found = self._table.get(uuid)
        name = child(parse(found.xml, "network", Origin.NETWORK), "bridge").get("name")
        if not name:
            raise xml_error(f"network '{found.name}' does not have a bridge name.", Origin.NETWORK)
        return name

    async def define(self, xml: str, who: str) -> Network:
        found, _ = await self._table.define(xml, who)
        self._tell(found, Life.DEFINED)
        return _reference(found)

    async def create_xml(self, xml: str) -> Network:
        found = self._table.create(xml)
        self._table.need(found, False)
        found.is_active = True
        self._tell(found, Life.STARTED)
        return _reference(found)

    async def start(self, uuid: bytes) -> None:
        found = self._table.get(uuid)
        self._table.need(found, False)
        found.is_active = True
        self._tell(found, Life.STARTED)

    async def stop(self, uuid: bytes) -> None:
        found = self._table.get(uuid)
        self._table.need(found, True)
        found.is_active = False
        self._table.drop(found)
        self._tell(found, Life.STOPPED)

    async def undefine(self, uuid: bytes, who: str) -> None:
        self._tell(await self._table.undefine(uuid, who), Life.UNDEFINED)

    async def set_autostart(self, uuid: bytes, on: bool) -> None:
        await self._table.set_autostart(uuid, on)

    async def edit(self, uuid: bytes, change: Change, who: str) -> None:
        """Change the description, also of a network that is active: domains that start from then on see it."""
        found = await self._table.edit(uuid, change, who)
        if found.is_persistent:
            self._tell(found, Life.DEFINED)

    def interface(self, name: str) -> NicSpec:
        """How a guest is attached to a network. Raises ApiError if there is none, or it is not active."""
        found = self._table.named(name)
        self._table.need(found, True)
        root = parse(found.xml, "network", Origin.NETWORK)
        forward = root.find("forward")
        if forward is None:
            return NicSpec("isolated", found.name)
        if forward.get("mode") == "bridge":
            return NicSpec("bridge", child(root, "bridge").get("name", ""))
        return NicSpec("user")

    def _tell(self, found: Object, event: Life) -> None:
        self._notify(Notice(Kind.NETWORK, _reference(found), (int(event), 0)))


def _reference(found: Object) -> Network:
    return Network(found.name, found.uuid)


def _check_ip(ip: Element) -> None:
    address = ip.get("address", "")
    mask = ip.get("netmask") or ip.get("prefix") or ("128" if ":" in address else "32")
    try:
        network = ipaddress.ip_interface(f"{address}/{mask}").network
        for each in ip.iterfind("dhcp/range"):
            for key in ("start", "end"):
                if ipaddress.ip_address(each.get(key, "")) not in network:
                    raise xml_error(f"<range>: {key} {each.get(key)} is not in the network {network}", Origin.NETWORK)
    except ValueError as error:
        raise xml_error(f"<ip>: {error}", Origin.NETWORK) from error
