"""Long operations: where they are, how fast, and how to stop one. They live on when their client goes."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from manor.base.errors import ManorError
from manor.service.problem import Problem, problem_of

KEPT: Final = 200
"""Jobs that are over and can still be asked about."""


class Phase(Enum):
    """Where a job is."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(slots=True)
class Job:
    """One operation. total, done: bytes, 0 where they are not known. leaves: what a cancelled one leaves behind."""

    id: int
    title: str
    who: str
    subject: str
    leaves: str
    began: float = field(default_factory=time.time)
    ended: float | None = None
    phase: Phase = Phase.RUNNING
    step: str = ""
    done: int = 0
    total: int = 0
    problem: Problem | None = None

    @property
    def rate(self) -> float:
        """Bytes a second, over the whole job."""
        seconds = (self.ended or time.time()) - self.began
        return self.done / seconds if seconds > 0 else 0.0

    def progress(self, done: int, total: int = 0, step: str = "") -> None:
        """How far it is."""
        self.done = done
        self.total = total or self.total
        self.step = step or self.step


class Jobs:
    """All jobs of one daemon."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._running: dict[int, tuple[Job, asyncio.Task[None]]] = {}
        self._over: deque[Job] = deque(maxlen=KEPT)

    def start(
        self, title: str, who: str, subject: str, leaves: str, work: Callable[[Job], Awaitable[None]]
    ) -> tuple[Job, asyncio.Task[None]]:
        """Begin `work`; it goes on whoever waits for the task, or does not."""
        job = Job(next(self._numbers), title, who, subject, leaves)
        task = asyncio.ensure_future(self._run(job, work))
        self._running[job.id] = (job, task)
        return job, task

    def all(self) -> list[Job]:
        """Those that run, and the latest that are over."""
        return [job for job, _ in self._running.values()] + list(reversed(self._over))

    def get(self, number: int) -> Job | None:
        """One of them."""
        return next((job for job in self.all() if job.id == number), None)

    def cancel(self, number: int) -> bool:
        """Stop a job; False if it does not run."""
        found = self._running.get(number)
        return found is not None and found[1].cancel()

    async def close(self) -> None:
        """Stop all."""
        tasks = [task for _, task in self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, job: Job, work: Callable[[Job], Awaitable[None]]) -> None:
        try:
            await work(job)
            job.phase = Phase.DONE
        except asyncio.CancelledError:
            job.phase = Phase.CANCELLED
            raise
        except ManorError as error:
            job.phase = Phase.FAILED
            job.problem = problem_of(error)
            raise
        finally:
            job.ended = time.time()
            if job.phase is Phase.RUNNING:
                job.phase = Phase.FAILED
            self._running.pop(job.id, None)
            self._over.append(job)
