"""Virtual networks and their ports."""

from __future__ import annotations

import uuid

from manor.client.handle import Handle, UuidHandle
from manor.client.params import Params, Value, from_params, to_params
from manor.rpc.protocol import records


class Network(UuidHandle[records.Network]):
    """A virtual network."""

    __slots__ = ()

    async def create(self) -> None:
        """Start it."""
        await self._call("network_create")

    async def destroy(self) -> None:
        """Stop it."""
        await self._call("network_destroy")

    async def undefine(self) -> None:
        """Forget its definition."""
        await self._call("network_undefine")

    async def xml(self, flags: int = 0) -> str:
        """Its description. flags: 1 the inactive one."""
        xml: str = await self._call("network_get_xml_desc", flags)
        return xml

    async def update(self, command: int, section: int, xml: str, parent_index: int = -1, flags: int = 0) -> None:
        """Change a part. command: 1 modify, 2 delete, 3 add last, 4 add first; section: libvirt's."""
        await self._call("network_update", command, section, parent_index, xml, flags)

    async def is_active(self) -> bool:
        """Whether it runs."""
        return bool(await self._call("network_is_active"))

    async def is_persistent(self) -> bool:
        """Whether it has a definition."""
        return bool(await self._call("network_is_persistent"))

    async def autostart(self) -> bool:
        """Whether it starts with the host."""
        return bool(await self._call("network_get_autostart"))

    async def set_autostart(self, wanted: bool) -> None:
        """Start it with the host, or no longer."""
        await self._call("network_set_autostart", int(wanted))

    async def bridge_name(self) -> str:
        """The host's bridge of it."""
        name: str = await self._call("network_get_bridge_name")
        return name

    async def dhcp_leases(self, mac: str | None = None, flags: int = 0) -> list[records.DhcpLease]:
        """Leases that its DHCP server has given, of one MAC or all."""
        leases, _ = await self._call("network_get_dhcp_leases", mac, 1, flags)
        return list(leases)

    async def metadata(self, kind: int, uri: str | None = None, flags: int = 0) -> str:
        """kind: 0 description, 1 title, 2 the element of the namespace `uri`."""
        text: str = await self._call("network_get_metadata", kind, uri, flags)
        return text

    async def set_metadata(
        self, kind: int, text: str | None, key: str | None = None, uri: str | None = None, flags: int = 0
    ) -> None:
        """The inverse; None removes it."""
        await self._call("network_set_metadata", kind, text, key, uri, flags)

    async def ports(self, flags: int = 0) -> list[NetworkPort]:
        """Its ports."""
        found, _ = await self._call("network_list_all_ports", 1, flags)
        return [NetworkPort(self.connection, record) for record in found]

    async def port(self, port: uuid.UUID) -> NetworkPort:
        """The port of that UUID."""
        return NetworkPort(self.connection, await self._call("network_port_lookup_by_uuid", port.bytes))

    async def create_port(self, xml: str, flags: int = 0) -> NetworkPort:
        """Make a port."""
        return NetworkPort(self.connection, await self._call("network_port_create_xml", xml, flags))


class NetworkPort(Handle[records.NetworkPort]):
    """A port of a virtual network."""

    __slots__ = ()

    @property
    def uuid(self) -> uuid.UUID:
        """The UUID."""
        return uuid.UUID(bytes=self.record.uuid)

    async def xml(self, flags: int = 0) -> str:
        """Its description."""
        xml: str = await self._call("network_port_get_xml_desc", flags)
        return xml

    async def params(self, flags: int = 0) -> dict[str, Value]:
        """Bandwidth."""
        _, count = await self._call("network_port_get_parameters", 0, flags)
        params, _ = await self._call("network_port_get_parameters", count, flags)
        return from_params(params)

    async def set_params(self, params: Params, flags: int = 0) -> None:
        """The inverse."""
        await self._call("network_port_set_parameters", to_params(params), flags)

    async def delete(self, flags: int = 0) -> None:
        """Remove it."""
        await self._call("network_port_delete", flags)
