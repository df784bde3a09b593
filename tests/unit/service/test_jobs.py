"""Long operations: they live on, tell how far they are, can be stopped, and fail with a reason."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from manor.base.errors import ApiError, HostError
from manor.drivers.errors import Code
from manor.service import jobs as jobs_module
from manor.service.events import EventHub
from manor.service.jobs import Job, Jobs, Phase, Purpose
from manor.service.journal import Journal

COPY = Purpose("copy base", "ann", "pool default", "nothing", stops_alone=True)
UPLOAD = Purpose("upload to base", "ann", "pool default", "what has arrived")


def run(scenario: Callable[[Jobs, EventHub], Awaitable[None]]) -> None:
    async def inside() -> None:
        hub = EventHub(Journal())
        await scenario(Jobs(hub), hub)

    asyncio.run(inside())


async def slow(job: Job) -> str:
    job.progress(5, 10, "copying")
    await asyncio.sleep(30)
    return "done"


def test_a_job_outlives_the_one_who_waits() -> None:
    async def scenario(jobs: Jobs, hub: EventHub) -> None:
        started, go = asyncio.Event(), asyncio.Event()

        async def work(job: Job) -> str:
            started.set()
            await go.wait()
            return "result"

        waiter = asyncio.ensure_future(jobs.run(COPY, work))
        await started.wait()
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        (job,) = jobs.all()
        assert job.phase is Phase.RUNNING
        go.set()
        await job.over.wait()
        assert (job.phase, job.result) == (Phase.DONE, "result")
        assert await jobs.run(COPY, work) == "result"

    run(scenario)


def test_one_that_needs_its_client_ends_with_it() -> None:
    async def scenario(jobs: Jobs, hub: EventHub) -> None:
        waiter = asyncio.ensure_future(jobs.attend(UPLOAD, slow, 100))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        (job,) = jobs.all()
        assert job.total == 10  # the work knows better than what was announced
        waiter.cancel()
        await job.over.wait()
        assert job.phase is Phase.CANCELLED

    run(scenario)


def test_work_in_a_thread_stops_at_its_next_step_and_says_what_is_left() -> None:
    async def scenario(jobs: Jobs, hub: EventHub) -> None:
        def copy(job: Job) -> None:
            for step in range(10_000):
                job.progress(step, 10_000)
                time.sleep(0.001)

        job = jobs.start(COPY, lambda job: asyncio.to_thread(copy, job))
        waiter = asyncio.ensure_future(jobs.run(COPY, slow))
        while job.done < 3:
            await asyncio.sleep(0.001)
        jobs.cancel(job.id)
        await job.over.wait()
        assert job.phase is Phase.CANCELLED
        with pytest.raises(ApiError, match="is over: it is cancelled"):
            jobs.cancel(job.id)
        with pytest.raises(ApiError, match="there is no job 99"):
            jobs.cancel(99)
        waiter.cancel()

    run(scenario)


def test_who_waits_for_a_job_that_is_cancelled_is_told() -> None:
    async def scenario(jobs: Jobs, hub: EventHub) -> None:
        waiter = asyncio.ensure_future(jobs.run(UPLOAD, slow))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        jobs.cancel(jobs.all()[0].id)
        with pytest.raises(ApiError, match="upload to base was cancelled; it leaves what has arrived") as caught:
            await waiter
        assert caught.value.code == Code.OPERATION_ABORTED

    run(scenario)


def test_starts_and_ends_are_events_and_a_jobs_number_is_its_first_ones() -> None:
    async def scenario(jobs: Jobs, hub: EventHub) -> None:
        async def fail(job: Job) -> None:
            raise HostError("the disk is full; free some space", 28, "/x")

        async def bug(job: Job) -> None:
            raise ZeroDivisionError("no")

        with pytest.raises(HostError, match="disk is full"):
            await jobs.run(COPY, fail)
        with pytest.raises(ApiError, match="internal error: ZeroDivisionError"):
            await jobs.run(COPY, bug)
        found = [(each.sequence, each.what, each.detail) for each in hub.journal.since(0, 99)[1]]
        assert found[:3] == [
            (1, "started", "pool default"), (2, "failed", "job 1: the disk is full"), (3, "started", "pool default"),
        ]  # fmt: skip
        record = jobs.get(1).record()
        assert record.problem is not None
        assert record.problem.fix == ("free some space",)
        assert (record.phase, record.left) == ("failed", 0.0)

    run(scenario)


def test_progress_becomes_a_rate_and_a_time_that_is_left() -> None:
    job = Job(1, COPY, began=time.time() - 10)
    assert job.left == -1.0
    job.progress(1000, 4000)
    assert job.rate == pytest.approx(100, rel=0.1)
    assert job.left == pytest.approx(30, rel=0.1)


def test_only_the_latest_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(jobs: Jobs, hub: EventHub) -> None:
        async def nothing(job: Job) -> None:
            return

        for _ in range(jobs_module.KEPT + 5):
            await jobs.run(COPY, nothing)
        assert len(jobs.all()) == jobs_module.KEPT
        running = jobs.start(Purpose("save", "ann", "web1", "it runs on", bytes(16)), slow)
        done = jobs.of_domain(bytes(16))
        assert done is running
        await jobs.close()
        assert running.phase is Phase.CANCELLED
        assert jobs.of_domain(bytes(16)) is running
        assert jobs.of_domain(b"x" * 16) is None

    run(scenario)
