"""Storage pools and volumes."""

from __future__ import annotations

from typing import Any, Final

from manor.drivers.errors import invalid_argument
from manor.rpc.protocol.records import StoragePool, StorageVol
from manor.rpc.session import Answer, Session, SessionStream
from manor.service.client import Client, cut, matches
from manor.service.jobs import Job, Purpose
from manor.service.procedures.network import is_wanted
from manor.service.streams import receive_all, send_all

SPARSE: Final = 1
"""virStorageVolDownloadFlags."""
BUILD: Final = 7
"""virStoragePoolCreateFlags: any of the three asks for building."""


async def connect_list_all_storage_pools(client: Client, a: Any) -> tuple[list[StoragePool], int]:
    is_kind = ((64, True), *((1 << bit, False) for bit in range(7, 20)))
    found = [
        pool for pool, flags in await client.driver.pools.all()
        if is_wanted(a.flags, flags) and matches(a.flags, is_kind)
    ]  # fmt: skip
    return (found if a.need_results else [], len(found))


async def connect_num_of_storage_pools(client: Client, a: Any) -> int:
    return sum(flags.active for _, flags in await client.driver.pools.all())


async def connect_list_storage_pools(client: Client, a: Any) -> list[str]:
    return cut([each.name for each, flags in await client.driver.pools.all() if flags.active], a.max_names)


async def connect_num_of_defined_storage_pools(client: Client, a: Any) -> int:
    return sum(not flags.active for _, flags in await client.driver.pools.all())


async def connect_list_defined_storage_pools(client: Client, a: Any) -> list[str]:
    return cut([each.name for each, flags in await client.driver.pools.all() if not flags.active], a.max_names)


async def storage_pool_lookup_by_name(client: Client, a: Any) -> StoragePool:
    return await client.driver.pools.find_name(a.name)


async def storage_pool_lookup_by_uuid(client: Client, a: Any) -> StoragePool:
    return await client.driver.pools.find(a.uuid)


async def storage_pool_lookup_by_volume(client: Client, a: Any) -> StoragePool:
    return await client.driver.pools.find_name(a.volume.pool)


async def storage_pool_lookup_by_target_path(client: Client, a: Any) -> StoragePool:
    return await client.driver.pools.find_target(a.path)


async def storage_pool_define_xml(client: Client, a: Any) -> StoragePool:
    return await client.driver.pools.define(a.xml, client.who)


async def storage_pool_create_xml(client: Client, a: Any) -> StoragePool:
    return await client.driver.pools.create_xml(a.xml, bool(a.flags & BUILD))


async def storage_pool_create(client: Client, a: Any) -> None:
    await client.driver.pools.start(a.pool.uuid, bool(a.flags & BUILD))


async def storage_pool_build(client: Client, a: Any) -> None:
    await client.driver.pools.build(a.pool.uuid)


async def storage_pool_destroy(client: Client, a: Any) -> None:
    await client.driver.pools.stop(a.pool.uuid)


async def storage_pool_delete(client: Client, a: Any) -> None:
    await client.driver.pools.delete(a.pool.uuid)


async def storage_pool_undefine(client: Client, a: Any) -> None:
    await client.driver.pools.undefine(a.pool.uuid, client.who)


async def storage_pool_refresh(client: Client, a: Any) -> None:
    await client.driver.pools.refresh(a.pool.uuid)


async def storage_pool_get_info(client: Client, a: Any) -> tuple[int, int, int, int]:
    info = await client.driver.pools.info(a.pool.uuid)
    return info.state, info.capacity, info.allocation, info.available


async def storage_pool_get_xml_desc(client: Client, a: Any) -> str:
    return await client.driver.pools.xml(a.pool.uuid)


async def storage_pool_get_autostart(client: Client, a: Any) -> int:
    return int((await client.driver.pools.flags(a.pool.uuid)).autostart)


async def storage_pool_set_autostart(client: Client, a: Any) -> None:
    await client.driver.pools.set_autostart(a.pool.uuid, bool(a.autostart))


async def storage_pool_is_active(client: Client, a: Any) -> int:
    return int((await client.driver.pools.flags(a.pool.uuid)).active)


async def storage_pool_is_persistent(client: Client, a: Any) -> int:
    return int((await client.driver.pools.flags(a.pool.uuid)).persistent)


# --- volumes ----------------------------------------------------------------------------------------------------------


async def storage_pool_list_all_volumes(client: Client, a: Any) -> tuple[list[StorageVol], int]:
    found = list(await client.driver.pools.volumes(a.pool.uuid))
    return (found if a.need_results else [], len(found))


async def storage_pool_num_of_volumes(client: Client, a: Any) -> int:
    return len(await client.driver.pools.volumes(a.pool.uuid))


async def storage_pool_list_volumes(client: Client, a: Any) -> list[str]:
    return cut([each.name for each in await client.driver.pools.volumes(a.pool.uuid)], a.max_names)


async def storage_vol_lookup_by_name(client: Client, a: Any) -> StorageVol:
    return await client.driver.pools.find_volume(a.pool.uuid, a.name)


async def storage_vol_lookup_by_key(client: Client, a: Any) -> StorageVol:
    return await client.driver.pools.find_volume_path(a.key)


async def storage_vol_lookup_by_path(client: Client, a: Any) -> StorageVol:
    return await client.driver.pools.find_volume_path(a.path)


async def storage_vol_get_info(client: Client, a: Any) -> tuple[int, int, int]:
    info = await client.driver.pools.volume_info(a.volume.pool, a.volume.name)
    return info.type, info.capacity, info.allocation


async def storage_vol_get_info_flags(client: Client, a: Any) -> tuple[int, int, int]:
    return await storage_vol_get_info(client, a)


async def storage_vol_get_xml_desc(client: Client, a: Any) -> str:
    return await client.driver.pools.volume_xml(a.volume.pool, a.volume.name)


async def storage_vol_get_path(client: Client, a: Any) -> str:
    pool = await client.driver.pools.find_name(a.volume.pool)
    return (await client.driver.pools.find_volume(pool.uuid, a.volume.name)).key


async def storage_vol_create_xml(client: Client, a: Any) -> StorageVol:
    return await client.driver.pools.create_volume(a.pool.uuid, a.xml, None, a.flags)


async def storage_vol_create_xml_from(client: Client, a: Any) -> StorageVol:
    pools = client.driver.pools

    async def work(job: Job) -> StorageVol:
        return await pools.create_volume(a.pool.uuid, a.xml, a.source, a.flags, job.progress)

    return await client.service.jobs.run(create_purpose(client, a.pool, a.source), work)


def create_purpose(client: Client, pool: StoragePool, source: StorageVol | None) -> Purpose:
    """Of the job that makes a volume."""
    title = "make a volume" if source is None else f"copy {source.name}"
    return Purpose(title, client.who, f"pool {pool.name}", "nothing: a part of a copy is deleted", stops_alone=True)


def wipe_purpose(client: Client, volume: StorageVol) -> Purpose:
    """Of the job that overwrites a volume."""
    return Purpose(
        f"wipe {volume.name}", client.who, f"pool {volume.pool}", "a volume that is wiped in part", stops_alone=True
    )


async def storage_vol_delete(client: Client, a: Any) -> None:
    await client.driver.pools.delete_volume(a.volume.pool, a.volume.name)


async def storage_vol_resize(client: Client, a: Any) -> None:
    async def work(job: Job) -> None:
        await client.driver.pools.resize_volume(a.volume.pool, a.volume.name, a.capacity, a.flags)

    purpose = Purpose(
        f"resize {a.volume.name}", client.who, f"pool {a.volume.pool}", "the old size or the new one", stops_alone=True
    )
    await client.service.jobs.run(purpose, work)


async def storage_vol_wipe(client: Client, a: Any) -> None:
    async def work(job: Job) -> None:
        await client.driver.pools.wipe_volume(a.volume.pool, a.volume.name, job.progress)

    await client.service.jobs.run(wipe_purpose(client, a.volume), work)


async def storage_vol_wipe_pattern(client: Client, a: Any) -> None:
    if a.algorithm:
        raise invalid_argument("volumes are wiped with zeros alone; algorithm 0")
    await storage_vol_wipe(client, a)


async def storage_vol_upload(client: Client, a: Any) -> Answer:
    target = await client.driver.pools.upload(a.volume.pool, a.volume.name, a.offset, a.length)

    async def take(session: Session, stream: SessionStream | None) -> None:
        assert stream is not None
        purpose = Purpose(
            f"upload to {a.volume.name}", client.who, f"pool {a.volume.pool}", "what has arrived, in the volume"
        )
        await client.service.jobs.attend(purpose, lambda job: receive_all(stream, target, job.progress), a.length)

    return Answer(None, (), take)


async def storage_vol_download(client: Client, a: Any) -> Answer:
    pools = client.driver.pools
    source = await pools.download(a.volume.pool, a.volume.name, a.offset, a.length)

    async def give(session: Session, stream: SessionStream | None) -> None:
        assert stream is not None
        purpose = Purpose(f"download {a.volume.name}", client.who, f"pool {a.volume.pool}", "nothing here")
        size = a.length or max(0, (await pools.volume_info(a.volume.pool, a.volume.name)).capacity - a.offset)
        find_hole = source.hole if a.flags & SPARSE else None
        await client.service.jobs.attend(purpose, lambda job: send_all(stream, source, job.progress, find_hole), size)

    return Answer(None, (), give)
