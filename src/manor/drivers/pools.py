"""Storage pools: descriptions, and the volumes that their backends find."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final
from uuid import UUID

from manor.base.errors import ApiError, ManorError
from manor.domain.xml import storage
from manor.domain.xml.storage import normal_pool, with_sizes
from manor.domain.xml.to_spec import refuse
from manor.drivers.activity import Activity
from manor.drivers.api import (
    Kind,
    Notice,
    Notify,
    ObjectFlags,
    PoolInfo,
    Progress,
    VolumeInfo,
    VolumeStream,
    unwatched,
)
from manor.drivers.errors import Code, Origin, judging, no_pool, no_volume, reading
from manor.drivers.keeper import Keeper
from manor.drivers.life import Life
from manor.drivers.objects import Described, Manner, Object, ObjectTable
from manor.drivers.volumes import Volume, VolumeBackend, read_volume, volume_exists, volume_xml
from manor.rpc.protocol.records import StoragePool, StorageVol

logger = logging.getLogger(__name__)

_INACTIVE, _RUNNING = 0, 2
"""Source: libvirt API reference, virStoragePoolState."""
RESIZE_DELTA, RESIZE_SHRINK = 2, 4
"""Source: libvirt API reference, virStorageVolResizeFlags."""


def read_pool(text: str) -> Described:
    """What a client's document says, checked and completed. Raises ApiError."""
    with reading(Origin.STORAGE):
        pool = normal_pool(storage.parse(text))
    with judging(Origin.STORAGE):
        refuse(storage.check(pool))
    assert pool.uuid is not None
    assert pool.path is not None
    return Described(pool.name, UUID(pool.uuid).bytes, storage.format(pool), pool.path)


MANNER: Final = Manner("pools", "storage pool", Origin.STORAGE, read_pool, no_pool, Code.OPERATION_FAILED)
MakeBackend = Callable[[str], VolumeBackend]
"""Path of a `dir` pool -> its volumes."""


class PoolBook:
    """The pools of one driver (api.Pools)."""

    def __init__(
        self, keeper: Keeper, notify: Notify, make_backend: MakeBackend, activity: Activity | None = None
    ) -> None:
        """activity: what is active over restarts; None for a driver that keeps nothing."""
        self._table = ObjectTable(MANNER, keeper, activity or Activity(None))
        self._notify = notify
        self._make_backend = make_backend
        self._backends: dict[bytes, VolumeBackend] = {}
        self._volumes: dict[bytes, dict[str, Volume]] = {}
        self._space: dict[bytes, tuple[int, int]] = {}
        self._being_made: set[tuple[bytes, str]] = set()

    async def open(self) -> None:
        """Read what is kept; start what is marked or was active, and can be."""
        await self._table.load()
        for each in self._table:
            if each.autostart or each.was_active:
                try:
                    await self.start(each.uuid, False)
                except (ManorError, OSError):
                    await self._table.deactivate(each)
                    logger.warning("the pool %s cannot be started", each.name, exc_info=True)

    # --- pools --------------------------------------------------------------------------------------------------------

    async def all(self) -> Sequence[tuple[StoragePool, ObjectFlags]]:
        return [(_reference(each), each.flags()) for each in self._table]

    async def find(self, uuid: bytes) -> StoragePool:
        return _reference(self._table.get(uuid))

    async def find_name(self, name: str) -> StoragePool:
        return _reference(self._table.named(name))

    async def find_target(self, path: str) -> StoragePool:
        wanted = path.rstrip("/") or "/"
        for each in self._table:
            if each.place == wanted:
                return _reference(each)
        raise no_pool(f"with matching target path '{path}'")

    async def flags(self, uuid: bytes) -> ObjectFlags:
        return self._table.get(uuid).flags()

    async def info(self, uuid: bytes) -> PoolInfo:
        found = self._table.get(uuid)
        if not found.is_active:
            return PoolInfo(_INACTIVE, 0, 0, 0)
        capacity, available = self._space[uuid] = await self._backends[uuid].space()
        return PoolInfo(_RUNNING, capacity, capacity - available, available)

    async def xml(self, uuid: bytes) -> str:
        found = self._table.get(uuid)
        info = await self.info(uuid)
        return storage.format(with_sizes(storage.parse(found.xml), info.capacity, info.allocation, info.available))

    async def define(self, xml: str, who: str) -> StoragePool:
        found, _ = await self._table.define(xml, who)
        self._tell(found, Life.DEFINED)
        return _reference(found)

    async def create_xml(self, xml: str, build: bool) -> StoragePool:
        found = self._table.create(xml)
        self._table.need(found, False)
        try:
            await self.start(found.uuid, build)
        except BaseException:
            self._table.drop(found)
            raise
        return _reference(found)

    async def build(self, uuid: bytes) -> None:
        found = self._table.get(uuid)
        self._table.need(found, False)
        await self._make_backend(found.place).build()
        self._tell(found, Life.CREATED)

    async def start(self, uuid: bytes, build: bool) -> None:
        found = self._table.get(uuid)
        self._table.need(found, False)
        backend = self._make_backend(found.place)
        if build:
            await backend.build()
        await backend.open()
        self._backends[uuid] = backend
        await self._table.activate(found)
        await self._look(uuid)
        self._tell(found, Life.STARTED)

    async def stop(self, uuid: bytes) -> None:
        found = self._table.get(uuid)
        self._table.need(found, True)
        del self._backends[uuid], self._volumes[uuid]
        await self._table.deactivate(found)
        self._tell(found, Life.STOPPED)

    async def delete(self, uuid: bytes) -> None:
        found = self._table.get(uuid)
        self._table.need(found, False)
        await self._make_backend(found.place).remove()
        self._tell(found, Life.DELETED)

    async def undefine(self, uuid: bytes, who: str) -> None:
        found = self._table.get(uuid)
        self._table.need(found, False)
        self._tell(await self._table.undefine(uuid, who), Life.UNDEFINED)

    async def refresh(self, uuid: bytes) -> None:
        found = self._table.get(uuid)
        self._table.need(found, True)
        await self._look(uuid)
        self._notify(Notice(Kind.POOL_REFRESH, _reference(found)))

    async def set_autostart(self, uuid: bytes, on: bool) -> None:
        await self._table.set_autostart(uuid, on)

    # --- volumes ------------------------------------------------------------------------------------------------------

    async def volumes(self, uuid: bytes) -> Sequence[StorageVol]:
        found = self._active(uuid)
        return [StorageVol(found.name, each.name, each.path) for each in self._volumes[uuid].values()]

    async def find_volume(self, uuid: bytes, name: str) -> StorageVol:
        found = self._active(uuid)
        volume = self._volumes[uuid].get(name)
        if volume is None:
            raise no_volume(f"with matching name '{name}'")
        return StorageVol(found.name, volume.name, volume.path)

    async def find_volume_path(self, path: str) -> StorageVol:
        for each in self._table:
            if each.is_active:
                for volume in self._volumes[each.uuid].values():
                    if volume.path == path:
                        return StorageVol(each.name, volume.name, volume.path)
        raise no_volume(f"with matching path '{path}'")

    async def volume_info(self, pool: str, volume: str) -> VolumeInfo:
        _, found = await self._fresh(pool, volume)
        return VolumeInfo(2 if found.is_directory else 0, found.capacity, found.allocation)

    async def volume_xml(self, pool: str, volume: str) -> str:
        return volume_xml((await self._fresh(pool, volume))[1])

    async def create_volume(
        self, uuid: bytes, xml: str, source: StorageVol | None, flags: int, progress: Progress = unwatched
    ) -> StorageVol:
        found = self._active(uuid)
        plan = read_volume(xml)
        backend = self._backends[uuid]
        await self._look(uuid)
        # A copy may take long: its name is taken meanwhile, and nobody waits for anything else.
        taken = (uuid, plan.name)
        if plan.name in self._volumes[uuid] or taken in self._being_made:
            raise volume_exists(plan.name)
        self._being_made.add(taken)
        try:
            origin = None
            if source is not None:
                _, origin = self._volume(source.pool, source.name)
                if plan.capacity is not None and plan.capacity < origin.capacity:
                    plan = replace(plan, capacity=origin.capacity)
            await backend.create(plan, origin, progress)
        finally:
            self._being_made.discard(taken)
        await self._look(uuid)
        return await self.find_volume(found.uuid, plan.name)

    async def delete_volume(self, pool: str, volume: str) -> None:
        uuid, found = self._volume(pool, volume)
        await self._backends[uuid].delete(found)
        self._volumes[uuid].pop(volume, None)

    async def resize_volume(self, pool: str, volume: str, size: int, flags: int) -> None:
        uuid, found = await self._fresh(pool, volume)
        shrink = bool(flags & RESIZE_SHRINK)
        if flags & RESIZE_DELTA:
            size = found.capacity - size if shrink else found.capacity + size
        if size < 0:
            raise ApiError(Code.INVALID_ARG, Origin.STORAGE, "invalid argument: the size would be less than nothing")
        if size < found.capacity and not shrink:
            raise ApiError(
                Code.INVALID_ARG,
                Origin.STORAGE,
                "invalid argument: Can't shrink capacity below current capacity unless shrink flag explicitly "
                "specified",
            )
        await self._backends[uuid].resize(found, size, shrink)
        await self._look(uuid)

    async def wipe_volume(self, pool: str, volume: str, progress: Progress = unwatched) -> None:
        uuid, found = self._volume(pool, volume)
        await self._backends[uuid].wipe(found, progress)

    async def trash_place(self, pool: str, volume: str) -> str:
        uuid, found = self._volume(pool, volume)
        return self._backends[uuid].trash_place(found)

    async def set_aside_volume(self, pool: str, volume: str, place: str) -> None:
        uuid, found = self._volume(pool, volume)
        await self._backends[uuid].set_aside(found, place)
        self._volumes[uuid].pop(volume, None)

    async def bring_back_volume(self, uuid: bytes, place: str, name: str) -> StorageVol:
        self._active(uuid)
        await self._backends[uuid].bring_back(place, name)
        await self._look(uuid)
        return await self.find_volume(uuid, name)

    async def discard_volume(self, uuid: bytes, place: str) -> None:
        self._active(uuid)
        await self._backends[uuid].discard(place)

    async def upload(self, pool: str, volume: str, offset: int, length: int) -> VolumeStream:
        uuid, found = self._volume(pool, volume)
        return await self._backends[uuid].upload(found, offset, length)

    async def download(self, pool: str, volume: str, offset: int, length: int) -> VolumeStream:
        uuid, found = self._volume(pool, volume)
        return await self._backends[uuid].download(found, offset, length)

    def volume_path(self, pool: str, volume: str) -> Path:
        """Of a volume that a domain names. Raises ApiError if there is none, or its pool is not active."""
        return Path(self._volume(pool, volume)[1].path)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _active(self, uuid: bytes) -> Object:
        found = self._table.get(uuid)
        self._table.need(found, True)
        return found

    def _volume(self, pool: str, volume: str) -> tuple[bytes, Volume]:
        found = self._table.named(pool)
        self._table.need(found, True)
        result = self._volumes[found.uuid].get(volume)
        if result is None:
            raise no_volume(f"with matching name '{volume}'")
        return found.uuid, result

    async def _fresh(self, pool: str, volume: str) -> tuple[bytes, Volume]:
        """As it is now: guests write to volumes."""
        uuid, _ = self._volume(pool, volume)
        await self._look(uuid)
        return self._volume(pool, volume)

    async def _look(self, uuid: bytes) -> None:
        self._volumes[uuid] = {
            each.name: each for each in await self._backends[uuid].all() if (uuid, each.name) not in self._being_made
        }

    def _tell(self, found: Object, event: Life) -> None:
        self._notify(Notice(Kind.POOL, _reference(found), (event, 0)))


def _reference(found: Object) -> StoragePool:
    return StoragePool(found.name, found.uuid)
