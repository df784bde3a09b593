"""Storage pools and the volumes in them."""

from __future__ import annotations

from manor.client.handle import Handle, UuidHandle
from manor.client.results import PoolInfo, VolumeInfo
from manor.client.stream import Stream
from manor.rpc.protocol import records


class StoragePool(UuidHandle[records.StoragePool]):
    """A storage pool."""

    __slots__ = ()

    async def create(self, flags: int = 0) -> None:
        """Start it."""
        await self._call("storage_pool_create", flags)

    async def build(self, flags: int = 0) -> None:
        """Make what is below it: the directory, the file system."""
        await self._call("storage_pool_build", flags)

    async def destroy(self) -> None:
        """Stop it; its data stays."""
        await self._call("storage_pool_destroy")

    async def delete(self, flags: int = 0) -> None:
        """Delete its data."""
        await self._call("storage_pool_delete", flags)

    async def undefine(self) -> None:
        """Forget its definition."""
        await self._call("storage_pool_undefine")

    async def refresh(self, flags: int = 0) -> None:
        """Look anew at what volumes there are."""
        await self._call("storage_pool_refresh", flags)

    async def info(self) -> PoolInfo:
        """State and sizes."""
        return PoolInfo(*await self._call("storage_pool_get_info"))

    async def xml(self, flags: int = 0) -> str:
        """Its description. flags: 1 the inactive one."""
        xml: str = await self._call("storage_pool_get_xml_desc", flags)
        return xml

    async def is_active(self) -> bool:
        """Whether it runs."""
        return bool(await self._call("storage_pool_is_active"))

    async def is_persistent(self) -> bool:
        """Whether it has a definition."""
        return bool(await self._call("storage_pool_is_persistent"))

    async def autostart(self) -> bool:
        """Whether it starts with the host."""
        return bool(await self._call("storage_pool_get_autostart"))

    async def set_autostart(self, wanted: bool) -> None:
        """Start it with the host, or no longer."""
        await self._call("storage_pool_set_autostart", int(wanted))

    async def volume_count(self) -> int:
        """How many volumes it has."""
        count: int = await self._call("storage_pool_num_of_volumes")
        return count

    async def volumes(self, flags: int = 0) -> list[Volume]:
        """Its volumes."""
        found, _ = await self._call("storage_pool_list_all_volumes", 1, flags)
        return [Volume(self.connection, record) for record in found]

    async def volume(self, name: str) -> Volume:
        """The volume of that name."""
        return Volume(self.connection, await self._call("storage_vol_lookup_by_name", name))

    async def create_volume(self, xml: str, flags: int = 0) -> Volume:
        """Make a volume."""
        return Volume(self.connection, await self._call("storage_vol_create_xml", xml, flags))

    async def clone_volume(self, xml: str, source: Volume, flags: int = 0) -> Volume:
        """Make a volume with the data of another one."""
        return Volume(self.connection, await self._call("storage_vol_create_xml_from", xml, source.record, flags))


class Volume(Handle[records.StorageVol]):
    """A volume: an image that can be a disk."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """Its name in the pool."""
        return self.record.name

    @property
    def key(self) -> str:
        """Its name on the host."""
        return self.record.key

    @property
    def pool_name(self) -> str:
        """The name of its pool."""
        return self.record.pool

    @property
    def _key(self) -> str:
        return self.record.key

    async def pool(self) -> StoragePool:
        """Its pool."""
        return StoragePool(self.connection, await self._call("storage_pool_lookup_by_volume"))

    async def path(self) -> str:
        """Where it is on the host."""
        path: str = await self._call("storage_vol_get_path")
        return path

    async def info(self, flags: int = 0) -> VolumeInfo:
        """Type and sizes. flags: 1 the physical size instead of the allocation."""
        if flags:
            return VolumeInfo(*await self._call("storage_vol_get_info_flags", flags))
        return VolumeInfo(*await self._call("storage_vol_get_info"))

    async def xml(self, flags: int = 0) -> str:
        """Its description."""
        xml: str = await self._call("storage_vol_get_xml_desc", flags)
        return xml

    async def resize(self, capacity: int, flags: int = 0) -> None:
        """capacity: bytes. flags: 1 allocate, 2 by that much more, 4 shrink."""
        await self._call("storage_vol_resize", capacity, flags)

    async def delete(self, flags: int = 0) -> None:
        """Delete it."""
        await self._call("storage_vol_delete", flags)

    async def wipe(self, algorithm: int | None = None, flags: int = 0) -> None:
        """Overwrite its data. algorithm: libvirt's virStorageVolWipeAlgorithm; None is zeros."""
        if algorithm is None:
            await self._call("storage_vol_wipe", flags)
        else:
            await self._call("storage_vol_wipe_pattern", algorithm, flags)

    async def upload(self, offset: int = 0, size: int = 0, flags: int = 0) -> Stream:
        """A stream to write its data to. size: bytes, 0 is without limit; flags: 1 sparse."""
        _, stream = await self.connection.open_stream("storage_vol_upload", self.record, offset, size, flags)
        return stream

    async def download(self, offset: int = 0, size: int = 0, flags: int = 0) -> Stream:
        """A stream to read its data from. size: bytes, 0 is to the end; flags: 1 sparse."""
        _, stream = await self.connection.open_stream("storage_vol_download", self.record, offset, size, flags)
        return stream
