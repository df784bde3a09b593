"""Long operations: where they are, how fast, and how to stop one. They live on when their client goes."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, TypeVar

from manor.base.errors import ApiError, ManorError
from manor.drivers.api import Cancelled
from manor.drivers.errors import Code, Origin
from manor.rpc.protocol.own_records import EventEntry, JobRecord, Problem
from manor.service.events import EventHub
from manor.service.problem import problem_of

T = TypeVar("T")
KEPT: Final = 200
"""Jobs that are over and can still be asked about."""


class Phase(Enum):
    """Where a job is."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Purpose:
    """What a job is for. title: `copy base.qcow2`. subject: what it works on, by name.

    leaves: what a cancelled one leaves behind, in words. domain: UUID, where it works on one. operation:
    virDomainJobOperation, for libvirt's clients. stops_alone: the work looks at `Job.progress` and stops there; other
    work is cancelled where it waits.
    """

    title: str
    who: str
    subject: str
    leaves: str
    domain: bytes | None = None
    operation: int = 0
    stops_alone: bool = False


@dataclass(slots=True, eq=False)
class Job:
    """One operation. id: the number of the event of its start, so that it is never used again. done, total: bytes, 0
    where they are not known. problem: why it failed."""

    id: int
    purpose: Purpose
    began: float = field(default_factory=time.time)
    ended: float = 0.0
    phase: Phase = Phase.RUNNING
    step: str = ""
    done: int = 0
    total: int = 0
    problem: Problem | None = None
    result: Any = None
    is_unwanted: bool = False
    over: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def rate(self) -> float:
        """Bytes a second, over the whole job."""
        seconds = (self.ended or time.time()) - self.began
        return self.done / seconds if seconds > 0 else 0.0

    @property
    def left(self) -> float:
        """Seconds until the end at this rate, -1 if it is not known."""
        if self.phase is not Phase.RUNNING:
            return 0.0
        return (self.total - self.done) / self.rate if self.total >= self.done > 0 and self.rate > 0 else -1.0

    def progress(self, done: int, total: int = 0, step: str = "") -> None:
        """How far it is (drivers.api.Progress). Thread: any. Raises Cancelled if nobody wants it any more."""
        if self.is_unwanted:
            raise Cancelled(f"{self.purpose.title} was cancelled; it leaves {self.purpose.leaves}")
        self.done = done
        self.total = total or self.total
        self.step = step or self.step

    def record(self) -> JobRecord:
        """As it goes over the wire."""
        purpose = self.purpose
        return JobRecord(
            self.id, purpose.title, purpose.who, purpose.subject, purpose.domain, self.phase.value, self.step,
            self.done, self.total, self.rate, self.left, self.began, self.ended, purpose.leaves, self.problem,
        )  # fmt: skip


class Jobs:
    """All jobs of one daemon. Their starts and ends are events."""

    def __init__(self, events: EventHub) -> None:
        self._events = events
        self._running: dict[int, tuple[Job, asyncio.Future[Any]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._over: deque[Job] = deque(maxlen=KEPT)

    def start(self, purpose: Purpose, work: Callable[[Job], Awaitable[object]]) -> Job:
        """Begin `work`; it goes on whoever waits for it, or does not."""
        job = Job(self._note(purpose, "started", purpose.subject), purpose)
        # Two tasks: one that is cancelled before it has begun would tell nobody.
        working = asyncio.ensure_future(work(job))
        self._running[job.id] = (job, working)
        task = asyncio.ensure_future(self._run(job, working))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return job

    async def run(self, purpose: Purpose, work: Callable[[Job], Awaitable[T]]) -> T:
        """Begin `work`, and wait for what it gives. Raises what it raises, ApiError if it was cancelled.

        It goes on if the one who waits is cancelled.
        """
        job = self.start(purpose, work)
        await job.over.wait()
        if isinstance(job.result, ManorError):
            raise job.result
        found: T = job.result
        return found

    async def attend(self, purpose: Purpose, work: Callable[[Job], Awaitable[object]], total: int = 0) -> None:
        """Begin `work` that needs its client: it ends with the one who waits. Raises as `run`. total: bytes."""
        job = self.start(purpose, work)
        job.total = total
        try:
            await job.over.wait()
        except asyncio.CancelledError:
            self._stop(job)
            raise
        if isinstance(job.result, ManorError):
            raise job.result

    def all(self) -> list[Job]:
        """Those that run, and the latest that are over."""
        return [job for job, _ in self._running.values()] + list(reversed(self._over))

    def get(self, number: int) -> Job:
        """One of them. Raises ApiError."""
        found = next((job for job in self.all() if job.id == number), None)
        if found is None:
            raise ApiError(
                Code.INVALID_ARG, Origin.NONE,
                f"invalid argument: there is no job {number}, or it was over long ago; `jobs` lists what there is",
            )  # fmt: skip
        return found

    def of_domain(self, uuid: bytes) -> Job | None:
        """What runs on a domain, or was the last to run on it."""
        found = [job for job in self.all() if job.purpose.domain == uuid]
        return next((job for job in found if job.phase is Phase.RUNNING), found[0] if found else None)

    def cancel(self, number: int) -> None:
        """Stop a job. Raises ApiError if it does not run."""
        job = self.get(number)
        if number not in self._running:
            raise ApiError(
                Code.OPERATION_INVALID, Origin.NONE,
                f"Requested operation is not valid: job {number} is over: it is {job.phase.value}",
            )  # fmt: skip
        self._stop(job)

    async def close(self) -> None:
        """Stop all, and wait until they have."""
        for number in list(self._running):
            self.cancel(number)
        await asyncio.gather(*self._tasks)

    def _stop(self, job: Job) -> None:
        running = self._running.get(job.id)
        if running is not None:
            job.is_unwanted = True
            if not job.purpose.stops_alone:
                running[1].cancel()

    async def _run(self, job: Job, working: asyncio.Future[object]) -> None:
        try:
            job.result = await working
            job.phase = Phase.DONE
        except (asyncio.CancelledError, Cancelled):
            job.phase = Phase.CANCELLED
            job.result = ApiError(
                Code.OPERATION_ABORTED, Origin.NONE,
                f"operation aborted: {job.purpose.title} was cancelled; it leaves {job.purpose.leaves}",
            )  # fmt: skip
        except ManorError as error:
            job.phase, job.result, job.problem = Phase.FAILED, error, problem_of(error)
        except Exception as error:  # noqa: BLE001 - a bug in the work ends the job, and is told
            told = ApiError(Code.INTERNAL_ERROR, Origin.NONE, f"internal error: {error!r}")
            job.phase, job.result, job.problem = Phase.FAILED, told, problem_of(told)
        finally:
            job.ended = time.time()
            self._running.pop(job.id, None)
            self._over.append(job)
            why = f": {job.problem.cause}" if job.problem else ""
            self._note(job.purpose, job.phase.value, f"job {job.id}{why}")
            job.over.set()

    def _note(self, purpose: Purpose, what: str, detail: str) -> int:
        """An event; its number."""
        return self._events.note(
            EventEntry(0, time.time(), "", "job", purpose.title, purpose.domain, "job", what, detail)
        )
