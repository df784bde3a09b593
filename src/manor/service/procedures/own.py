"""Manor's own program, but for consoles: plans, jobs, events, statistics over time, revisions, the trash."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from manor.drivers.archive import Revision, diff, find
from manor.drivers.errors import invalid_argument
from manor.rpc.protocol.own_records import EventEntry, JobRecord, Plan, Problem, RevisionInfo, Series, TrashEntry
from manor.rpc.protocol.records import StorageVol
from manor.service import trash
from manor.service.client import Client
from manor.service.history import COARSE_STEP, FINE_STEP, MIDDLE_STEP, SERIES, answer, columns
from manor.service.jobs import Job, Phase
from manor.service.procedures.storage import create_purpose, wipe_purpose

MAX_EVENTS: Final = 1000
"""Of one answer."""
MAX_WAIT: Final = 3600.0
KINDS: Final = ("domains", "networks", "pools")
SECURE: Final = 1
"""Flag of revisions: passwords too."""


def manor_explain(client: Client, a: Any) -> Problem | None:
    return client.explain(a.code, a.message)


async def manor_plan(client: Client, a: Any) -> Plan:
    from manor.service.plan import plan

    return await plan(client, a.procedure, a.arguments)


# --- jobs -------------------------------------------------------------------------------------------------------------


def manor_jobs(client: Client, a: Any) -> list[JobRecord]:
    return [job.record() for job in client.service.jobs.all()]


def manor_job(client: Client, a: Any) -> JobRecord:
    return client.service.jobs.get(a.id).record()


async def manor_job_wait(client: Client, a: Any) -> JobRecord:
    job = client.service.jobs.get(a.id)
    if job.phase is Phase.RUNNING and a.timeout > 0:
        with suppress(TimeoutError):  # the record says that it runs
            await asyncio.wait_for(job.over.wait(), min(a.timeout, MAX_WAIT))
    return job.record()


def manor_job_cancel(client: Client, a: Any) -> None:
    client.service.jobs.cancel(a.id)


async def manor_volume_create_job(client: Client, a: Any) -> int:
    pools = client.driver.pools

    async def work(job: Job) -> StorageVol:
        return await pools.create_volume(a.pool.uuid, a.xml, a.source, a.flags, job.progress)

    return client.service.jobs.start(create_purpose(client, a.pool, a.source), work).id


async def manor_volume_wipe_job(client: Client, a: Any) -> int:
    pools = client.driver.pools
    await pools.volume_info(a.volume.pool, a.volume.name)

    async def work(job: Job) -> None:
        await pools.wipe_volume(a.volume.pool, a.volume.name, job.progress)

    return client.service.jobs.start(wipe_purpose(client, a.volume), work).id


# --- events -----------------------------------------------------------------------------------------------------------


def manor_events(client: Client, a: Any) -> tuple[int, int, list[EventEntry]]:
    journal = client.service.events.journal
    is_complete, found = journal.since(a.since, min(a.limit or MAX_EVENTS, MAX_EVENTS))
    return int(is_complete), journal.latest, found


def manor_event_watch(client: Client, a: Any) -> int:
    client.service.events.watch(client.session)
    return client.service.events.journal.latest


def manor_event_unwatch(client: Client, a: Any) -> None:
    client.service.events.unwatch(client.session)


# --- statistics -------------------------------------------------------------------------------------------------------


async def manor_statistics_history(client: Client, a: Any) -> tuple[int, Sequence[float], list[Series]]:
    uuid = (await client.driver.domains.find(a.domain.uuid)).uuid
    service = client.service
    start, end = a.start, a.end or time.time()
    if not (0 <= start <= end < 1e12):
        raise invalid_argument("the time of the statistics ends before it starts, or is no time")
    if a.step and a.step < MIDDLE_STEP:
        service.history.watch(uuid, time.time())
    level = service.history.level(uuid, a.step or _fitting(time.time() - start))
    if level is not None:
        found = answer(level.step, level.buckets(start, end), a.step)
    else:
        saved = {each.number: each for each in await service.history_file.buckets(uuid, start, end)}
        fresh = service.history.unsaved(uuid)
        saved.update({each.number: each for each in fresh if start <= each.number * COARSE_STEP <= end})
        found = answer(COARSE_STEP, [saved[number] for number in sorted(saved)], a.step)
    table = columns(found)
    return found.step, found.times, [Series(name, unit, *table[name]) for name, unit in SERIES]


def _fitting(age: float) -> int:
    """The level that reaches so far back, in seconds."""
    return FINE_STEP if age <= 600 else MIDDLE_STEP if age <= 6 * 3600 else COARSE_STEP


# --- revisions --------------------------------------------------------------------------------------------------------


def _kind(number: int) -> str:
    if not 0 <= number < len(KINDS):
        raise invalid_argument(f"there is no kind {number} of descriptions; give 0 to {len(KINDS) - 1}")
    return KINDS[number]


async def _revisions(client: Client, a: Any) -> Sequence[Revision]:
    return await client.driver.records.revisions(_kind(a.kind), a.uuid)


def _shown(client: Client, revision: Revision, a: Any) -> Revision:
    if a.flags & SECURE or a.kind != 0:
        return revision
    from manor.domain.definition import without_secrets

    return Revision(revision.number, revision.time, revision.who, revision.name, without_secrets(revision.xml))


async def manor_revisions(client: Client, a: Any) -> list[RevisionInfo]:
    found = await _revisions(client, a)
    book: Any = getattr(client.driver, trash.BOOKS[_kind(a.kind)])
    is_there = any(one.uuid == a.uuid and flags.persistent for one, flags in await book.all())
    return [
        RevisionInfo(each.number, each.time, each.who, each.name, int(is_there and each is found[-1])) for each in found
    ]


async def manor_revision(client: Client, a: Any) -> str:
    return _shown(client, find(await _revisions(client, a), a.number), a).xml


async def manor_revision_diff(client: Client, a: Any) -> str:
    found = await _revisions(client, a)
    return diff([_shown(client, find(found, number), a) for number in (a.old, a.new)], a.old, a.new)


async def manor_revision_revert(client: Client, a: Any) -> None:
    """Define what was; names are not changed by that, so the present one is kept."""
    found = find(await _revisions(client, a), a.number)
    book: Any = getattr(client.driver, trash.BOOKS[_kind(a.kind)])
    present = await book.find(a.uuid)
    if found.name != present.name:
        raise invalid_argument(
            f"revision {a.number} is of a time when it was called '{found.name}'; rename it to that first"
        )
    await book.define(found.xml, f"{client.who} (revert to {a.number})")


# --- trash ------------------------------------------------------------------------------------------------------------


async def manor_trash(client: Client, a: Any) -> list[TrashEntry]:
    return [trash.record(each) for each in await client.driver.records.trash()]


async def manor_trash_restore(client: Client, a: Any) -> TrashEntry:
    return trash.record(await trash.restore(client.driver, a.id, client.who))


async def manor_trash_purge(client: Client, a: Any) -> None:
    await trash.purge(client.driver, a.id)


async def manor_trash_volume(client: Client, a: Any) -> int:
    return await trash.put_volume(client.driver, a.volume.pool, a.volume.name, client.who)
