"""Work that may wait for the host, as devices see it. The VMM implements this; tests use `testing.fakes.FakeWork`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

Job = Callable[[], None]


class Work(Protocol):
    """Runs jobs with no lock held. Jobs take the locks they need themselves."""

    def submit(self, job: Job) -> None:
        """Run `job` soon on a thread that may wait. Thread: any, with any device lock held."""

    def submit_short(self, job: Job) -> bool:
        """Run `job`, which takes microseconds, on the calling thread as soon as that holds no device lock: a guest's
        access that needs its result then needs no other thread. False, and nothing happens, where the calling thread
        is not serving an access of a guest. Thread: any, with any device lock held."""

    def run_short(self) -> None:
        """Do the short jobs of the calling thread; it serves an access of a guest, and holds no lock any more."""
