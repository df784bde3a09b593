"""Secrets, and network filters with their bindings."""

from __future__ import annotations

import uuid

from manor.client.handle import Handle, UuidHandle
from manor.rpc.protocol import records


class Secret(Handle[records.Secret]):
    """A secret, such as the passphrase of a volume."""

    __slots__ = ()

    @property
    def uuid(self) -> uuid.UUID:
        """The UUID."""
        return uuid.UUID(bytes=self.record.uuid)

    @property
    def usage_type(self) -> int:
        """What it is for: 0 nothing said, 1 volume, 2 Ceph, 3 iSCSI, 4 TLS, 5 vTPM."""
        return self.record.usage_type

    @property
    def usage_id(self) -> str:
        """Which of them it is for."""
        return self.record.usage_id

    @property
    def _key(self) -> bytes:
        return self.record.uuid

    async def xml(self, flags: int = 0) -> str:
        """Its description, without the value."""
        xml: str = await self._call("secret_get_xml_desc", flags)
        return xml

    async def value(self, flags: int = 0) -> bytes:
        """Its value, unless it is private."""
        value: bytes = await self._call("secret_get_value", flags)
        return value

    async def set_value(self, value: bytes, flags: int = 0) -> None:
        """Give it a value."""
        await self._call("secret_set_value", value, flags)

    async def undefine(self) -> None:
        """Forget it."""
        await self._call("secret_undefine")


class Nwfilter(UuidHandle[records.Nwfilter]):
    """A network filter."""

    __slots__ = ()

    async def xml(self, flags: int = 0) -> str:
        """Its rules."""
        xml: str = await self._call("nwfilter_get_xml_desc", flags)
        return xml

    async def undefine(self) -> None:
        """Forget it."""
        await self._call("nwfilter_undefine")


class NwfilterBinding(Handle[records.NwfilterBinding]):
    """A network filter in use at a port."""

    __slots__ = ()

    @property
    def port_device(self) -> str:
        """The host's device."""
        return self.record.port_dev

    @property
    def filter_name(self) -> str:
        """The filter."""
        return self.record.filter_name

    async def xml(self, flags: int = 0) -> str:
        """Its description."""
        xml: str = await self._call("nwfilter_binding_get_xml_desc", flags)
        return xml

    async def delete(self) -> None:
        """Take the filter away."""
        await self._call("nwfilter_binding_delete")
