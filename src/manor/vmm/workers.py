"""Threads that wait for the host in place of vCPUs and the I/O loop (base.work.Work).

They are started when there is work for them, and stay until `close`. A job that a vCPU does itself waits in a list of
that vCPU's thread until it has left the device, and with it the machine lock.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from manor.base.work import Job

logger = logging.getLogger(__name__)

MAX_THREADS: Final = 256
"""Jobs beyond wait for one that ends. More than the disks of a machine use, each of which keeps to a limit of its own:
so one whose storage hangs takes no thread from another."""


class _Own(threading.local):
    """What a thread knows of itself. jobs: its short jobs; None if it serves no guest's accesses."""

    jobs: list[Job] | None = None


class Workers:
    """A pool of threads. on_error gets an exception that escaped a job, on the thread that ran it. Thread: any."""

    def __init__(self, on_error: Callable[[BaseException], None]) -> None:
        self._on_error = on_error
        self._condition = threading.Condition()
        self._jobs: deque[Job] = deque()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._is_closed = False
        self._own = _Own()

    # --- base.work.Work ---------------------------------------------------------------------------------------

    def submit(self, job: Job) -> None:
        """After `close` jobs are dropped: there is no machine any more that they could belong to."""
        with self._condition:
            if self._is_closed:
                return
            self._jobs.append(job)
            if self._idle >= len(self._jobs):
                self._condition.notify()
            elif len(self._threads) < MAX_THREADS:
                thread = threading.Thread(target=self._run, name=f"worker-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()

    def submit_short(self, job: Job) -> bool:
        jobs = self._own.jobs
        if jobs is None:
            return False
        jobs.append(job)
        return True

    # --- vCPUs' threads ---------------------------------------------------------------------------------------

    def enlist(self) -> None:
        """The calling thread is a vCPU's and calls `run_short` at the end of each access."""
        self._own.jobs = []

    def run_short(self) -> None:
        """Do the short jobs that the access caused. No lock is held."""
        jobs = self._own.jobs
        while jobs:
            jobs.pop(0)()

    # --- the end ----------------------------------------------------------------------------------------------

    def close(self, timeout: float | None = None) -> None:
        """Wait for the jobs there are, and stop the threads. Nothing happens the second time.

        timeout: seconds; what hangs longer is left behind.
        """
        limit = None if timeout is None else time.monotonic() + timeout
        with self._condition:
            self._is_closed = True
            self._condition.notify_all()
        for thread in self._threads:
            thread.join(None if limit is None else max(0.0, limit - time.monotonic()))

    def _run(self) -> None:
        while True:
            with self._condition:
                self._idle += 1
                while not self._jobs and not self._is_closed:
                    self._condition.wait()
                self._idle -= 1
                if not self._jobs:
                    return
                job = self._jobs.popleft()
            try:
                job()
            except Exception as error:  # the edge where a bug in a device ends its VM, not the process
                logger.exception("a worker's job failed")
                self._on_error(error)
