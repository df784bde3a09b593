"""What was deleted and can come back: for a week, or until its pool has little room left."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from manor.base.errors import ApiError, ManorError
from manor.domain.xml import snapshot as snapshot_xml
from manor.drivers.api import Driver
from manor.drivers.archive import TRASH_SECONDS, VOLUMES, Trashed
from manor.drivers.errors import Code, invalid
from manor.drivers.snapshots import REDEFINE
from manor.rpc.protocol.own_records import TrashEntry

logger = logging.getLogger(__name__)

LOW: Final = 0.1
"""Of a pool that must be free; below that its oldest volumes in the trash go first."""
BOOKS: Final[Mapping[str, str]] = {"domains": "domains", "networks": "networks", "pools": "pools"}
"""Kind in the archive -> the driver's attribute."""


def record(found: Trashed) -> TrashEntry:
    """As it goes over the wire."""
    return TrashEntry(
        found.id, found.kind, found.name, UUID(found.uuid).bytes, found.time, found.time + TRASH_SECONDS, found.who,
        found.place,
    )  # fmt: skip


async def put_volume(driver: Driver, pool: str, volume: str, who: str) -> int:
    """Move a volume to the trash; its number there."""
    pools = driver.pools
    owner = await pools.find_name(pool)
    place = await pools.trash_place(pool, volume)
    xml = await pools.volume_xml(pool, volume)
    # The entry first: a death between the two leaves an entry without a file, which the next start forgets.
    number = await driver.records.put(VOLUMES, owner.uuid, volume, xml, who, place)
    try:
        await pools.set_aside_volume(pool, volume, place)
    except BaseException:
        await driver.records.forget(number)
        raise
    return number


async def restore(driver: Driver, number: int, who: str) -> Trashed:
    """Bring something back. Raises ApiError if its name or UUID is in use meanwhile, HostError if it is not there."""
    found = await driver.records.trashed(number)
    uuid = UUID(found.uuid).bytes
    if found.kind == VOLUMES:
        await driver.pools.bring_back_volume(uuid, found.place, found.name)
    else:
        book: Any = getattr(driver, BOOKS[found.kind])
        try:
            there = await book.find(uuid)
        except ApiError as error:
            if error.code not in (Code.NO_DOMAIN, Code.NO_NETWORK, Code.NO_STORAGE_POOL):
                raise
        else:
            if (await book.flags(uuid)).persistent:
                raise invalid(f"'{there.name}' is defined with this UUID already; undefine it first")
        await book.define(found.xml, who)
        if found.autostart:
            await book.set_autostart(uuid, True)
        for text in _parents_first(found.snapshots):
            await driver.snapshots.create(uuid, text, REDEFINE)
    await driver.records.forget(number)
    return found


def _parents_first(texts: Sequence[str]) -> Sequence[str]:
    """Descriptions of snapshots in the order of their making."""
    return sorted(texts, key=lambda text: snapshot_xml.parse(text).creation_time or 0)


async def purge(driver: Driver, number: int) -> None:
    """Delete something for good. Raises HostError if it is not there."""
    await _discard(driver, await driver.records.trashed(number))


async def sweep(driver: Driver) -> None:
    """Delete for good what has been there long enough, or whose room is needed."""
    for found in await driver.records.expired():
        try:
            await _discard(driver, found)
        except ManorError as error:
            logger.warning("%s stays in the trash: %s", found.name, error)
    volumes = [found for found in reversed(await driver.records.trash()) if found.kind == VOLUMES]
    for found in volumes:
        uuid = UUID(found.uuid).bytes
        try:
            info = await driver.pools.info(uuid)
            if info.capacity and info.available < LOW * info.capacity:
                logger.info("the pool of %s is nearly full; it is deleted from the trash", found.name)
                await _discard(driver, found)
        except ManorError as error:
            logger.warning("%s stays in the trash: %s", found.name, error)


async def _discard(driver: Driver, found: Trashed) -> None:
    if found.kind == VOLUMES:
        await driver.pools.discard_volume(UUID(found.uuid).bytes, found.place)
    await driver.records.forget(found.id)
