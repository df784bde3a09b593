"""What a daemon does by itself: it looks at the counters of VMs, writes down what is kept, empties the trash."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from manor.base.errors import ManorError
from manor.drivers.api import Driver
from manor.service import trash
from manor.service.history import FINE_STEP, MIDDLE_STEP, Counters

if TYPE_CHECKING:
    from manor.service.service import Service

logger = logging.getLogger(__name__)

SHARE: Final = 0.05
"""Of one processor that looking at counters may take; with very many VMs it is done more slowly."""
BREATH: Final = 0.005
"""Seconds of work in a row after which others get their turn."""
SAVE_SECONDS: Final = 60.0
TRASH_SECONDS: Final = 3600.0


class Keeping:
    """The tasks of one service."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin. Thread: the loop's."""
        looking = (self._sample(False, MIDDLE_STEP), self._sample(True, FINE_STEP))
        for work in (*looking, self._save(), self._sweep()):
            self._tasks.append(asyncio.ensure_future(work))

    async def close(self) -> None:
        """End, and write down what there is."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        await self.save()

    async def sample(self, watched_only: bool) -> None:
        """Look at the counters of all VMs that run, or of those that somebody watches."""
        history = self._service.history
        watched = set(history.watched(time.time()))
        if watched_only and not watched:
            return
        there: list[bytes] = []
        for driver in list(self._service.drivers.values()):
            rows = await driver.domains.all()
            there += [domain.uuid for domain, _ in rows]
            wanted = [
                domain.uuid for domain, flags in rows if flags.active and (not watched_only or domain.uuid in watched)
            ]
            await self._look(driver, wanted)
        if not watched_only:
            history.forget(there)

    async def _look(self, driver: Driver, wanted: Iterable[bytes]) -> None:
        began = time.thread_time()
        for uuid in wanted:
            try:
                found = await driver.domains.statistics(uuid)
            except ManorError:
                self._service.history.stopped(uuid)  # it has just ended, or does not answer
            else:
                self._service.history.add(uuid, Counters.of(time.time(), found))
            # All that the loop did meanwhile is counted: a daemon that is busy looks more slowly.
            used = time.thread_time() - began
            if used >= BREATH:
                await asyncio.sleep(used / SHARE)
                began = time.thread_time()

    async def save(self) -> None:
        """Write down coarse statistics, and bring events to the disk."""
        await self._service.history_file.save(self._service.history.take_pending())
        await self._service.events.journal.checkpoint()

    async def _sample(self, watched_only: bool, interval: float) -> None:
        while True:
            began = time.monotonic()
            with suppress(ManorError):
                await self.sample(watched_only)
            await asyncio.sleep(max(0.05, began + interval - time.monotonic()))

    async def _save(self) -> None:
        while True:
            await asyncio.sleep(SAVE_SECONDS)
            await self.save()

    async def _sweep(self) -> None:
        while True:
            for uri, driver in list(self._service.drivers.items()):
                try:
                    await trash.sweep(driver)
                except (ManorError, OSError) as error:
                    logger.error("the trash of %s is not emptied: %s", uri, error)
            await asyncio.sleep(TRASH_SECONDS)
