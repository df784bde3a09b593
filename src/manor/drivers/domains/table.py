"""All domains of a driver by UUID and by name, and the one way in which a domain's state changes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable
from typing import Any, Final

from manor.base.errors import ApiError
from manor.domain.definition import Definition, complete, definition_of
from manor.domain.model import Cause, Life, allows, is_active, is_persistent, keeps_state, step
from manor.domain.xml.domain import Domain as Document
from manor.domain.xml.property import Finding
from manor.drivers.api import Kind, Notice, Notify
from manor.drivers.domains.record import Record
from manor.drivers.errors import Code, Origin, invalid, judging, no_domain, not_running, reading, uuid_text
from manor.drivers.hypervisor import Hypervisor
from manor.drivers.keeper import Keeper

logger = logging.getLogger("manor.drivers.domains")

_NEED_DEFINITION: Final = {
    Cause.UNDEFINE: "cannot undefine transient domain",
    Cause.UNDEFINE_SAVED: "cannot undefine transient domain",
    Cause.AUTOSTART: "cannot set autostart for transient domain",
    Cause.MANAGED_SAVE: "cannot do managed save for transient domain",
    Cause.CHANGE_CONFIG: "cannot change persistent config of a transient domain",
    Cause.RENAME: "cannot rename a transient domain",
}
"""What a domain without a definition cannot, in libvirt's words."""
_NEED_OFF: Final = {
    Cause.START: "domain is already running",
    Cause.START_PAUSED: "domain is already running",
    Cause.START_FORCED: "domain is already running",
    Cause.CREATE: "domain is already running",
    Cause.CREATE_PAUSED: "domain is already running",
    Cause.RESTORE: "domain is already running",
    Cause.RESTORE_PAUSED: "domain is already running",
    Cause.RENAME: "cannot rename active domain",
}


def need(record: Record, cause: Cause) -> None:
    """Raise ApiError, in the words that clients look for, unless `cause` is allowed now."""
    life = record.life
    if allows(life, cause):
        return
    if cause in _NEED_DEFINITION and not is_persistent(life):
        raise invalid(_NEED_DEFINITION[cause])
    if cause in _NEED_OFF and is_active(life):
        raise invalid(_NEED_OFF[cause])
    if life is Life.ABSENT:  # another client was faster
        raise no_domain(f"with matching uuid '{uuid_text(record.definition.uuid)}'")
    if life is Life.SAVED and cause is Cause.UNDEFINE:
        raise invalid("Refusing to undefine while domain managed save image exists; remove it, or ask for that too")
    if life is Life.SAVED and cause is Cause.RENAME:
        raise invalid("cannot rename a domain with a managed save image; remove it first")
    if life is Life.SAVED and cause in (Cause.RESTORE, Cause.RESTORE_PAUSED):
        raise invalid("the domain has a managed save image; start it, or remove the image first")
    if cause is Cause.MANAGED_SAVE_REMOVE:
        raise invalid("the domain has no managed save image")
    if not is_active(life):
        raise not_running()
    if life in (Life.PAUSED, Life.TRANSIENT_PAUSED):
        raise invalid("domain is paused; resume it first")
    if life in (Life.CRASHED, Life.TRANSIENT_CRASHED):
        raise invalid("domain has crashed; destroy it first")
    raise invalid("domain is shutting down; wait, or destroy it")


class DomainTable:
    """What all jobs on domains share."""

    def __init__(self, hypervisor: Hypervisor, keeper: Keeper, notify: Notify) -> None:
        self._hypervisor = hypervisor
        self._keeper = keeper
        self._notify = notify
        self._records: dict[bytes, Record] = {}
        self._names: dict[str, bytes] = {}
        self._next = 1
        self._tasks: set[asyncio.Task[None]] = set()

    def record(self, uuid: bytes) -> Record:
        """Raises ApiError if there is none."""
        found = self._records.get(uuid)
        if found is None:
            raise no_domain(f"with matching uuid '{uuid_text(uuid)}'")
        return found

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        """Do what follows from something that happened; `close` waits for it, or stops it."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("what follows from an event failed", exc_info=task.exception())

    # --- descriptions -------------------------------------------------------------------------------------------------

    def _complete(self, xml: str) -> Document:
        """A client's document as it would be kept. Raises ApiError."""
        with reading():
            return complete(xml, self._hypervisor.platform)

    def _check(self, document: Document) -> Iterable[Finding]:
        """What of it will have no effect. Raises ApiError for what cannot be had."""
        with judging():
            return self._hypervisor.check(document)

    def _check_unique(self, definition: Definition) -> None:
        holder = self._names.get(definition.name)
        if holder is not None and holder != definition.uuid:
            raise _exists(definition.name, "already exists with uuid", holder)
        record = self._records.get(definition.uuid)
        if record is not None and record.definition.name != definition.name:
            raise _exists(record.definition.name, "is already defined with uuid", definition.uuid)

    @staticmethod
    def _config(record: Record) -> Definition:
        need(record, Cause.CHANGE_CONFIG)
        assert record.config is not None
        return record.config

    async def _save_config(self, record: Record, definition: Definition, who: str) -> None:
        """Give it another configuration; its lock is held."""
        await self._keeper.save("domains", definition.uuid, definition.name, definition.text, who)
        record.is_updated = record.is_active and (record.config is None or record.config.text != definition.text)
        record.config = definition

    async def _set_live(self, record: Record, document: Document) -> None:
        """Give it another live description; its lock is held."""
        definition = definition_of(document)
        record.live = definition
        await self._hypervisor.keep_live(definition.uuid, definition.text)

    async def _forget_saved(self, record: Record) -> None:
        """Remove what the next start would go on with, if there is anything; its lock is held."""

    # --- coming and going ---------------------------------------------------------------------------------------------

    def _add(self, record: Record) -> None:
        found = record.definition
        self._records[found.uuid] = record
        self._names[found.name] = found.uuid

    def _forget(self, record: Record) -> None:
        found = record.definition
        self._records.pop(found.uuid, None)
        self._names.pop(found.name, None)

    def _step(self, record: Record, cause: Cause) -> None:
        """Take a step that has happened: the new life, state and reason, and events for all who want them."""
        before = record.life
        outcome = step(before, cause)
        record.life = outcome.life
        if not keeps_state(before, cause):
            record.state, record.reason = outcome.state, outcome.reason
        reference = record.reference()
        for told in outcome.events:
            self._notify(Notice(Kind.LIFECYCLE, reference, (int(told.event), int(told.detail))))


def _exists(name: str, how: str, uuid: bytes) -> ApiError:
    return ApiError(Code.OPERATION_FAILED, Origin.DOMAIN, f"operation failed: domain '{name}' {how} {uuid_text(uuid)}")
