"""The job that works on a domain, as libvirt's clients know it: at most one, or the last that did."""

from __future__ import annotations

import time
from typing import Any, Final

from manor.drivers.errors import invalid
from manor.rpc.protocol.records import ParamType, TypedParam
from manor.service.client import Client
from manor.service.jobs import Job, Phase

_NONE, _BOUNDED, _UNBOUNDED = 0, 1, 2
"""virDomainJobType."""
_TYPES: Final = {Phase.DONE: 3, Phase.FAILED: 4, Phase.CANCELLED: 5}
COMPLETED: Final = 1
"""virDomainGetJobStatsFlags."""


def _job(client: Client, uuid: bytes, completed: bool) -> Job | None:
    found = client.service.jobs.of_domain(uuid)
    return found if found is not None and (found.phase is not Phase.RUNNING) == completed else None


def _type(job: Job) -> int:
    return _TYPES.get(job.phase, _BOUNDED if job.total else _UNBOUNDED)


def _milliseconds(job: Job) -> tuple[int, int]:
    """(elapsed, left)."""
    return int(((job.ended or time.time()) - job.began) * 1000), max(0, int(job.left * 1000))


async def domain_get_job_info(client: Client, a: Any) -> tuple[int, ...]:
    await client.driver.domains.find(a.domain.uuid)
    job = _job(client, a.domain.uuid, False)
    if job is None:
        return (_NONE,) + (0,) * 11
    sizes = (job.total, job.done, max(0, job.total - job.done))
    return (_type(job), *_milliseconds(job), *sizes, 0, 0, 0, *sizes)


async def domain_get_job_stats(client: Client, a: Any) -> tuple[int, list[TypedParam]]:
    await client.driver.domains.find(a.domain.uuid)
    job = _job(client, a.domain.uuid, bool(a.flags & COMPLETED))
    if job is None:
        return _NONE, []
    elapsed, left = _milliseconds(job)
    numbers = {
        "time_elapsed": elapsed, "time_remaining": left, "data_total": job.total, "data_processed": job.done,
        "data_remaining": max(0, job.total - job.done), "disk_bps": int(job.rate),
    }  # fmt: skip
    found = [TypedParam("operation", int(ParamType.INT), job.purpose.operation)]
    found += [TypedParam(name, int(ParamType.ULLONG), value) for name, value in numbers.items()]
    if job.phase is not Phase.RUNNING:
        found.append(TypedParam("success", int(ParamType.BOOLEAN), job.phase is Phase.DONE))
    if job.problem is not None:
        found.append(TypedParam("errmsg", int(ParamType.STRING), job.problem.cause))
    return _type(job), found


async def domain_abort_job(client: Client, a: Any) -> None:
    await client.driver.domains.find(a.domain.uuid)
    job = _job(client, a.domain.uuid, False)
    if job is None:
        raise invalid("no job is active on the domain")
    client.service.jobs.cancel(job.id)


async def domain_abort_job_flags(client: Client, a: Any) -> None:
    # The only flag is of migrations, which there are none of.
    await domain_abort_job(client, a)
