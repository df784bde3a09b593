"""The domains of one driver: all jobs together, and the start and the end of the driver.

A domain has a configuration (kept, edited at any time) or a live description (while it runs), or both. Changes of one
domain happen one after the other; reading waits for nothing.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from manor.base.errors import ConfigError
from manor.domain.definition import Definition, definition_of, read_kept, recall
from manor.domain.model import Life
from manor.domain.state import CrashedReason, DomainState, PausedReason, RunningReason, ShutoffReason
from manor.domain.xml import domain as domain_xml
from manor.drivers.domains.asking import Asking
from manor.drivers.domains.defining import Defining
from manor.drivers.domains.record import Record
from manor.drivers.domains.running import REASONS
from manor.drivers.domains.saving import Saving
from manor.drivers.domains.table import logger
from manor.drivers.hypervisor import Found


class DomainBook(Saving, Defining, Asking):
    """The domains of one driver (api.Domains)."""

    async def open(self) -> None:
        """Read what is kept, and find what runs."""
        for stored in await self._keeper.load("domains"):
            try:
                definition = recall(stored.xml) if stored.is_own else None
                if definition is None:
                    definition = read_kept(stored.xml, self._hypervisor.platform)
            except ConfigError as error:
                await self._keeper.set_aside(stored, str(error))
                continue
            if definition.name in self._names or definition.uuid in self._records:
                await self._keeper.set_aside(stored, "another has the same name or UUID")
                continue
            if stored.is_known and definition.text != stored.xml:  # an older version wrote it
                await self._keeper.save("domains", definition.uuid, definition.name, definition.text, "manord")
            kept = Record(Life.OFF, definition, autostart=stored.autostart)
            if self._saves.exists(definition.uuid):
                kept.life, kept.reason = Life.SAVED, ShutoffReason.SAVED
            self._add(kept)
        found, ended = await self._hypervisor.recover(self._happened)
        for each in found:
            self._recover(each)
            # An earlier daemon may have ended between the start and this.
            self._saves.forget_older(each.uuid, each.started_ns)
        for end in ended:
            record = self._records.get(end.uuid)
            if record is not None and not record.is_active:
                record.reason = REASONS[end.how]
                logger.warning("%s ended while nobody watched: %s", record.definition.name, end.detail or end.how.value)

    def _recover(self, found: Found) -> None:
        record = self._records.get(found.uuid)
        try:
            live: Definition | None = definition_of(domain_xml.parse(found.live))
        except ConfigError as error:
            live = None if record is None else record.config
            logger.error("the live description of a VM that runs cannot be read: %s", error)
        if live is None:
            return
        if record is None:
            record = Record(Life.TRANSIENT_RUNNING, None, live)
            self._add(record)
        record.live, record.number = live, found.number
        if found.has_crashed:
            record.life = Life.CRASHED if record.config is not None else Life.TRANSIENT_CRASHED
            record.state, record.reason = DomainState.CRASHED, CrashedReason.PANICKED
        elif found.is_paused:
            record.life = Life.PAUSED if record.config is not None else Life.TRANSIENT_PAUSED
            record.state, record.reason = DomainState.PAUSED, PausedReason.USER
        else:
            record.life = Life.RUNNING if record.config is not None else Life.TRANSIENT_RUNNING
            record.state, record.reason = DomainState.RUNNING, RunningReason.UNKNOWN
        self._next = max(self._next, found.number + 1)

    def rehearsal(self, uuid: bytes | None, is_off: bool) -> DomainBook:
        """A book in which one domain can be changed, or a new one defined: no VM, disk or client hears of it.

        is_off: as if that domain did not run.
        """
        from manor.drivers.rehearsal import RehearsalHypervisor, SilentKeeper

        book = DomainBook(RehearsalHypervisor(self._hypervisor), SilentKeeper(), lambda _: None)
        # The others are there to be looked at: their names and UUIDs are taken.
        book._records, book._names = self._records.copy(), self._names.copy()
        record = None if uuid is None else self._records.get(uuid)
        if record is None or uuid is None:
            return book
        if not is_off or not record.is_active:
            book._records[uuid] = replace(record, lock=asyncio.Lock())
        elif record.config is not None:
            book._records[uuid] = Record(
                Life.OFF, record.config, autostart=record.autostart, snapshots=record.snapshots
            )
        else:
            book._forget(record)
        return book

    async def close(self) -> None:
        """VMs live on."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._hypervisor.close()
        self._saves.close()
