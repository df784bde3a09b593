"""Virtual networks: descriptions whose guests get user-mode NAT of their own, or share an isolated segment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final
from uuid import UUID

from manor.domain.xml import network as network_xml
from manor.domain.xml.network import Network as Document
from manor.domain.xml.network import normal_network
from manor.domain.xml.to_spec import refuse
from manor.drivers.activity import Activity
from manor.drivers.api import Kind, Notice, Notify, ObjectFlags
from manor.drivers.errors import Code, Origin, judging, no_network, reading, xml_error
from manor.drivers.keeper import Keeper
from manor.drivers.life import Life
from manor.drivers.objects import Described, Manner, Object, ObjectTable
from manor.rpc.protocol.records import Network

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


def read_network(text: str) -> Described:
    """What a client's document says, checked and completed. Raises ApiError."""
    with reading(Origin.NETWORK):
        document = normal_network(network_xml.parse(text))
    with judging(Origin.NETWORK):
        refuse(network_xml.check(document))
    assert document.uuid is not None
    uuid = UUID(document.uuid).bytes
    return Described(document.name, uuid, network_xml.format(document), document.bridge or "")


MANNER: Final = Manner("networks", "network", Origin.NETWORK, read_network, no_network, Code.OPERATION_FAILED, True)


class NetworkBook:
    """The networks of one driver (api.Networks)."""

    def __init__(self, keeper: Keeper, notify: Notify, activity: Activity | None = None) -> None:
        """activity: what is active over restarts; None for a driver that keeps nothing."""
        self._table = ObjectTable(MANNER, keeper, activity or Activity(None))
        self._notify = notify

    async def open(self, with_default: bool) -> None:
        """with_default: define and start `default` where there is no network at all."""
        await self._table.load()
        if with_default and not list(self._table):
            made, _ = await self._table.define(DEFAULT, "first start")
            await self._table.set_autostart(made.uuid, True)
        for each in self._table:
            # A network is nothing but its description: what runs on it may have outlived the daemon.
            if each.autostart or each.was_active:
                await self._table.activate(each)

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
        if not found.place:
            raise xml_error(f"network '{found.name}' does not have a bridge name.", Origin.NETWORK)
        return found.place

    async def define(self, xml: str, who: str) -> Network:
        found, _ = await self._table.define(xml, who)
        self._tell(found, Life.DEFINED)
        return _reference(found)

    async def create_xml(self, xml: str) -> Network:
        found = self._table.create(xml)
        self._table.need(found, False)
        await self._table.activate(found)
        self._tell(found, Life.STARTED)
        return _reference(found)

    async def start(self, uuid: bytes) -> None:
        found = self._table.get(uuid)
        self._table.need(found, False)
        await self._table.activate(found)
        self._tell(found, Life.STARTED)

    async def stop(self, uuid: bytes) -> None:
        found = self._table.get(uuid)
        self._table.need(found, True)
        await self._table.deactivate(found)
        self._tell(found, Life.STOPPED)

    async def undefine(self, uuid: bytes, who: str) -> None:
        self._tell(await self._table.undefine(uuid, who), Life.UNDEFINED)

    async def set_autostart(self, uuid: bytes, on: bool) -> None:
        await self._table.set_autostart(uuid, on)

    async def edit(self, uuid: bytes, change: Callable[[str], str], who: str) -> None:
        """Change the description, also of a network that is active: domains that start from then on see it."""
        found = await self._table.edit(uuid, change, who)
        if found.is_persistent:
            self._tell(found, Life.DEFINED)

    def network(self, name: str) -> Document:
        """The description of an active network, for who attaches a guest to it. Raises ApiError."""
        found = self._table.named(name)
        self._table.need(found, True)
        return network_xml.parse(found.xml)

    def _tell(self, found: Object, event: Life) -> None:
        self._notify(Notice(Kind.NETWORK, _reference(found), (int(event), 0)))


def _reference(found: Object) -> Network:
    return Network(found.name, found.uuid)
