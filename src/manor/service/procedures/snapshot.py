"""Snapshots of domains."""

from __future__ import annotations

from typing import Any, Final

from manor.drivers.errors import no_snapshot
from manor.rpc.protocol.records import Snapshot
from manor.service.client import Client, cut, matches

ROOTS, DESCENDANTS = 1, 1
_LEAVES, _NO_LEAVES = 4, 8
_HALTED: Final = 32
"""virDomainSnapshotListFlags. Those of children and of all share the number 1 for different things."""


async def _named(client: Client, a: Any, flags: int, roots: bool) -> list[str]:
    uuid = a.domain.uuid
    names = [each.name for each in await client.driver.snapshots.all(uuid)]
    parents = {name: await client.driver.snapshots.parent(uuid, name) for name in names}
    found = []
    for name in names:
        is_parent = name in parents.values()
        if roots and flags & ROOTS and parents[name] is not None:
            continue
        leaves = ((_LEAVES, not is_parent), (_NO_LEAVES, is_parent))
        if matches(flags, leaves, ((16, False), (_HALTED, True), (64, False))):
            found.append(name)
    return found


async def _children(client: Client, snapshot: Snapshot, flags: int) -> list[str]:
    uuid = snapshot.domain.uuid
    await client.driver.snapshots.find(uuid, snapshot.name)
    names = [each.name for each in await client.driver.snapshots.all(uuid)]
    parents = {name: await client.driver.snapshots.parent(uuid, name) for name in names}

    def below(name: str) -> list[str]:
        direct = [each for each in names if parents[each] == name]
        return direct if not flags & DESCENDANTS else [got for each in direct for got in (each, *below(each))]

    return below(snapshot.name)


async def domain_list_all_snapshots(client: Client, a: Any) -> tuple[list[Snapshot], int]:
    found = [
        await client.driver.snapshots.find(a.domain.uuid, name) for name in await _named(client, a, a.flags, True)
    ]
    return (found if a.need_results else [], len(found))


async def domain_snapshot_num(client: Client, a: Any) -> int:
    return len(await _named(client, a, a.flags, True))


async def domain_snapshot_list_names(client: Client, a: Any) -> list[str]:
    return cut(await _named(client, a, a.flags, True), a.max_names)


async def domain_snapshot_list_all_children(client: Client, a: Any) -> tuple[list[Snapshot], int]:
    uuid = a.snapshot.domain.uuid
    found = [
        await client.driver.snapshots.find(uuid, name) for name in await _children(client, a.snapshot, a.flags)
    ]
    return (found if a.need_results else [], len(found))


async def domain_snapshot_num_children(client: Client, a: Any) -> int:
    return len(await _children(client, a.snapshot, a.flags))


async def domain_snapshot_list_children_names(client: Client, a: Any) -> list[str]:
    return cut(await _children(client, a.snapshot, a.flags), a.max_names)


async def domain_snapshot_lookup_by_name(client: Client, a: Any) -> Snapshot:
    return await client.driver.snapshots.find(a.domain.uuid, a.name)


async def domain_snapshot_create_xml(client: Client, a: Any) -> Snapshot:
    return await client.driver.snapshots.create(a.domain.uuid, a.xml, a.flags)


async def domain_snapshot_get_xml_desc(client: Client, a: Any) -> str:
    return await client.driver.snapshots.xml(a.snapshot.domain.uuid, a.snapshot.name)


async def domain_has_current_snapshot(client: Client, a: Any) -> int:
    return int(await client.driver.snapshots.current(a.domain.uuid) is not None)


async def domain_snapshot_current(client: Client, a: Any) -> Snapshot:
    name = await client.driver.snapshots.current(a.domain.uuid)
    if name is None:
        raise no_snapshot("(current)")
    return await client.driver.snapshots.find(a.domain.uuid, name)


async def domain_snapshot_get_parent(client: Client, a: Any) -> Snapshot:
    uuid = a.snapshot.domain.uuid
    name = await client.driver.snapshots.parent(uuid, a.snapshot.name)
    if name is None:
        raise no_snapshot(f"(parent of {a.snapshot.name})")
    return await client.driver.snapshots.find(uuid, name)


async def domain_snapshot_is_current(client: Client, a: Any) -> int:
    await client.driver.snapshots.find(a.snapshot.domain.uuid, a.snapshot.name)
    return int(await client.driver.snapshots.current(a.snapshot.domain.uuid) == a.snapshot.name)


async def domain_snapshot_has_metadata(client: Client, a: Any) -> int:
    await client.driver.snapshots.find(a.snapshot.domain.uuid, a.snapshot.name)
    return 1


async def domain_revert_to_snapshot(client: Client, a: Any) -> None:
    await client.driver.snapshots.revert(a.snapshot.domain.uuid, a.snapshot.name, a.flags)


async def domain_snapshot_delete(client: Client, a: Any) -> None:
    await client.driver.snapshots.delete(a.snapshot.domain.uuid, a.snapshot.name, a.flags)
