"""Domains that run: started, stopped, paused, and what they do by themselves.

Every change of a domain's state is a step of the table in domain.model.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from manor.base.errors import ManorError
from manor.domain.definition import Definition, definition_of
from manor.domain.model import Cause, Life, allows
from manor.domain.state import PausedReason, ShutoffReason
from manor.drivers.api import Kind, Notice
from manor.drivers.domains.changing import Changing
from manor.drivers.domains.record import Record
from manor.drivers.domains.table import logger, need
from manor.drivers.errors import not_running
from manor.drivers.hypervisor import (
    AgentChanged,
    Crashed,
    End,
    Ended,
    Happening,
    Paused,
    Rebooted,
    Removed,
    Resumed,
    ShuttingDown,
)
from manor.rpc.protocol.records import Domain

AGENT: Final = 2
"""virDomainShutdownFlagValues and virDomainRebootFlagValues: ask the agent."""
_CAUSES: Final = {
    End.POWER_OFF: Cause.POWERED_OFF,
    End.REBOOT: Cause.POWERED_OFF,
    End.STOPPED: Cause.DESTROY,
    End.SAVED: Cause.SAVE,
    End.CRASH: Cause.PANICKED_OFF,
    End.LOST: Cause.PROCESS_LOST,
    End.FAILED: Cause.VMM_FAILED,
}
REASONS: Final = {
    End.POWER_OFF: ShutoffReason.SHUTDOWN,
    End.REBOOT: ShutoffReason.SHUTDOWN,
    End.STOPPED: ShutoffReason.DESTROYED,
    End.SAVED: ShutoffReason.SAVED,
    End.CRASH: ShutoffReason.CRASHED,
    End.LOST: ShutoffReason.CRASHED,
    End.FAILED: ShutoffReason.FAILED,
}
"""For a domain that is found to have ended."""


class Running(Changing):
    """A driver's domains: their life."""

    # --- requests -----------------------------------------------------------------------------------------------------

    async def create_xml(self, xml: str, paused: bool) -> Domain:
        document = self._complete(xml)
        self._check(document)
        definition = definition_of(document)
        self._check_unique(definition)
        record = self._records.get(definition.uuid)
        if record is None:
            record = Record(Life.ABSENT, None, definition)
            self._add(record)
        try:
            await self._start(record, definition, Cause.CREATE_PAUSED if paused else Cause.CREATE)
        except BaseException:
            if record.life is Life.ABSENT:
                self._forget(record)
            raise
        return record.reference()

    async def start(self, uuid: bytes, paused: bool) -> Domain:
        record = self.record(uuid)
        need(record, Cause.START)
        await self._start(record, self._config(record), Cause.START_PAUSED if paused else Cause.START)
        return record.reference()

    async def start_marked(self) -> None:
        """Start what is marked for autostart, and does not run. Failures are logged."""
        for record in list(self._records.values()):
            if record.autostart and not record.is_active and record.config is not None:
                try:
                    await self.start(record.config.uuid, False)
                except ManorError as error:
                    logger.error("the autostart of %s failed: %s", record.definition.name, error)

    async def _start(
        self, record: Record, definition: Definition, cause: Cause, saved: Path | None = None
    ) -> None:
        """saved: what it goes on with, instead of booting."""
        async with record.lock:
            need(record, cause)
            number, self._next = self._next, self._next + 1
            try:
                is_paused = cause in (Cause.START_PAUSED, Cause.CREATE_PAUSED, Cause.RESTORE_PAUSED)
                live = await self._hypervisor.start(definition.read(), number, is_paused, saved)
            except ManorError:
                if allows(record.life, Cause.START_FAILED):
                    self._step(record, Cause.START_FAILED)
                raise
            record.live, record.number = definition_of(live), number
            self._step(record, cause)

    async def destroy(self, uuid: bytes, graceful: bool) -> None:
        record = self.record(uuid)
        async with record.lock:
            need(record, Cause.DESTROY)
            record.is_stopping = True
            try:
                await self._hypervisor.stop(uuid)
            finally:
                record.is_stopping, record.missed = False, None
            self._end(record, Cause.DESTROY)

    async def shutdown(self, uuid: bytes, flags: int) -> None:
        await self._ask(uuid, Cause.SHUTDOWN, self._hypervisor.shutdown, flags)

    async def reboot(self, uuid: bytes, flags: int) -> None:
        record = await self._ask(uuid, Cause.REBOOT, self._hypervisor.reboot, flags)
        self._notify(Notice(Kind.REBOOT, record.reference()))

    async def reset(self, uuid: bytes) -> None:
        record = self.record(uuid)
        async with record.lock:
            need(record, Cause.RESET)
            await self._hypervisor.reset(uuid)
        self._notify(Notice(Kind.REBOOT, record.reference()))

    async def suspend(self, uuid: bytes) -> None:
        await self._pause(uuid, Cause.SUSPEND, self._hypervisor.suspend, Life.PAUSED, Life.TRANSIENT_PAUSED)

    async def resume(self, uuid: bytes) -> None:
        await self._pause(uuid, Cause.RESUME, self._hypervisor.resume, Life.RUNNING, Life.TRANSIENT_RUNNING)

    async def _pause(self, uuid: bytes, cause: Cause, how: Callable[[bytes], Awaitable[None]], *already: Life) -> None:
        record = self.record(uuid)
        async with record.lock:
            need(record, cause)
            if record.life in already:
                return
            await how(uuid)
            if not record.is_active:
                raise not_running()
            self._step(record, cause)

    async def _ask(
        self, uuid: bytes, cause: Cause, how: Callable[[bytes, bool], Awaitable[None]], flags: int
    ) -> Record:
        """Ask the guest, by whatever is there, or by its agent alone. It may take its time: no lock is held."""
        record = self.record(uuid)
        need(record, cause)
        await how(uuid, bool(flags & AGENT))
        return record

    # --- what happens by itself ---------------------------------------------------------------------------------------

    def _happened(self, happening: Happening) -> None:
        """Called by the hypervisor. What the driver itself is about to do to a domain is told by that."""
        record = self._records.get(happening.uuid)
        if record is None or not record.is_active:
            return
        if record.is_stopping:
            record.missed = happening if isinstance(happening, Ended) else record.missed
            return
        match happening:
            case Ended(how=how, detail=detail):
                if detail:
                    logger.warning("%s ended: %s", record.definition.name, detail)
                self._end(record, _CAUSES[how])
            case Crashed(detail=detail):
                logger.warning("%s crashed, and is preserved: %s", record.definition.name, detail)
                self._step_if_allowed(record, Cause.PANICKED)
            case Paused(reason=reason):
                self._step_if_allowed(record, Cause.IO_ERROR if reason is PausedReason.IO_ERROR else Cause.SUSPEND)
            case Resumed():
                self._step_if_allowed(record, Cause.RESUME)
            case ShuttingDown():
                self._step_if_allowed(record, Cause.SHUTTING_DOWN)
            case Rebooted():
                self._step_if_allowed(record, Cause.REBOOTED)
                self._notify(Notice(Kind.REBOOT, record.reference()))
            case Removed(alias=alias, is_done=is_done):
                self._removed(record, alias, is_done)
            case AgentChanged(is_connected=is_connected):
                # virConnectDomainEventAgentLifecycleState: 1 connected, 2 disconnected; reason 2: the channel.
                self._notify(Notice(Kind.AGENT, record.reference(), (1 if is_connected else 2, 2)))

    def _catch_up(self, record: Record) -> None:
        """It ended by itself while the driver was about to end it, and not as the driver wanted."""
        missed, record.missed = record.missed, None
        if missed is not None and missed.how is not End.SAVED:
            self._happened(missed)

    def _step_if_allowed(self, record: Record, cause: Cause) -> None:
        """What comes from another process may come too late."""
        if allows(record.life, cause):
            self._step(record, cause)

    def _end(self, record: Record, cause: Cause) -> None:
        """It does not run any more."""
        if not record.is_active:
            return
        self._step(record, cause)
        if record.life is Life.ABSENT:
            self._forget(record)
        else:
            record.live = None
        record.number = -1
