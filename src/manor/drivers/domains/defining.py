"""Descriptions that are kept: defined, renamed, undefined, and what is said about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from manor.domain import names
from manor.domain.definition import definition_of
from manor.domain.model import Cause, Life
from manor.domain.xml.property import Finding
from manor.drivers.domains.record import Record
from manor.drivers.domains.table import DomainTable, logger, need
from manor.drivers.errors import invalid, reading
from manor.rpc.protocol.records import Domain

MANAGED_SAVE, SNAPSHOTS_METADATA = 1, 2
"""virDomainUndefineFlagsValues: what goes with the definition."""


class Defining(DomainTable):
    """A driver's domains: their definitions."""

    async def check(self, xml: str) -> None:
        """Raise what `define` would."""
        document = self._complete(xml)
        self._check(document)
        self._check_unique(definition_of(document))

    async def completed(self, xml: str) -> str:
        """The description as it would be kept. Raises ApiError for what cannot be had."""
        document = self._complete(xml)
        self._check(document)
        return definition_of(document).text

    async def define(self, xml: str, who: str) -> Domain:
        document = self._complete(xml)
        warnings = self._check(document)
        definition = definition_of(document)
        while True:
            self._check_unique(definition)
            record = self._records.get(definition.uuid)
            if record is None:
                record = Record(Life.ABSENT, definition)
                self._add(record)  # before the wait, so that the name is taken
            async with record.lock:
                if self._records.get(definition.uuid) is not record:
                    continue  # undefined meanwhile
                self._check_unique(definition)  # it may have been renamed
                need(record, Cause.DEFINE)
                try:
                    await self._save_config(record, definition, who)
                except BaseException:
                    if record.life is Life.ABSENT:
                        self._forget(record)
                    raise
                self._step(record, Cause.DEFINE)
                break
        for warning in warnings:
            logger.warning("%s: %s", definition.name, warning)
        return record.reference()

    async def undefine(self, uuid: bytes, who: str, flags: int) -> None:
        record = self.record(uuid)
        async with record.lock:
            cause = Cause.UNDEFINE_SAVED if flags & MANAGED_SAVE else Cause.UNDEFINE
            need(record, cause)
            config = self._config(record)
            if record.snapshots and not flags & SNAPSHOTS_METADATA:
                raise invalid(f"cannot delete inactive domain with {record.snapshots} snapshots")
            await self._keeper.remove("domains", uuid, config.name, config.text, who)
            if record.snapshots:
                await self._keeper.remove_snapshot(uuid, None)
                record.snapshots = 0
            record.autostart = False
            await self._forget_saved(record)
            self._step(record, cause)
            if record.life is Life.ABSENT:
                self._forget(record)
            else:
                record.config = None

    async def rename(self, uuid: bytes, name: str, who: str) -> None:
        record = self.record(uuid)
        async with record.lock:
            need(record, Cause.RENAME)
            config = self._config(record)
            if record.snapshots:
                raise invalid("cannot rename domain with snapshots: they name it; delete them first")
            with reading():
                names.check_name(name)
            if name in self._names:
                raise invalid(f"domain with name '{name}' already exists")
            new = definition_of(replace(config.read(), name=name))
            self._names[name] = uuid  # before the wait, so that it is taken
            try:
                await self._keeper.rename("domains", uuid, config.name, name, new.text, who)
            except BaseException:
                del self._names[name]
                raise
            del self._names[config.name]
            record.config = new
            self._step(record, Cause.RENAME)

    async def set_autostart(self, uuid: bytes, on: bool) -> None:
        record = self.record(uuid)
        async with record.lock:
            need(record, Cause.AUTOSTART)
            await self._keeper.set_autostart("domains", self._config(record).name, on)
            record.autostart = on

    async def replace_config(self, record: Record, xml: str, who: str) -> None:
        """Give it another configuration, one that it had before; its lock is held."""
        document = self._complete(xml)
        self._check(document)
        await self._save_config(record, definition_of(document), who)

    async def messages(self, uuid: bytes) -> Sequence[str]:
        record = self.record(uuid)
        found = self._check((record.config or record.definition).read())
        # A running domain's addresses are the machine's own: nobody asked for them.
        return [
            message_of(one) for one in found if record.config is not None or not one.path.endswith("/address")
        ]


def message_of(finding: Finding) -> str:
    """What `virsh dominfo` shows of an element without effect."""
    return f"ignored configuration: {finding}"
