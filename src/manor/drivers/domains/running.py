"""Domains that run: started, stopped, paused, and what they do by themselves.

Every change of a domain's state is a step of the table in domain.model.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from manor.base.errors import ManorError
from manor.domain.definition import Definition, definition_of
from manor.domain.model import LIFE, Cause, Life, allows
from manor.domain.state import PausedReason, ShutoffReason
from manor.domain.xml.normal import inactive
from manor.drivers.api import Kind, Notice
from manor.drivers.domains.changing import Changing
from manor.drivers.domains.record import Record
from manor.drivers.domains.table import logger, need
from manor.drivers.errors import no_domain, not_running, uuid_text
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
RESTART_SECONDS: Final = 1.0
"""Between two automatic starts of a domain: a guest that crashes as it boots must not keep the host busy."""
_RESTART: Final = ("restart", "rename-restart", "coredump-restart")
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
            if self._records.get(definition.uuid) is not record:
                raise no_domain(f"with matching uuid '{uuid_text(definition.uuid)}'")  # another client was faster
            need(record, cause)
            if cause in (Cause.START, Cause.START_PAUSED) and saved is None:
                definition = self._config(record)  # another client may have changed it meanwhile
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
            await self._stop(record)
            self._end(record, Cause.DESTROY)

    async def _stop(self, record: Record) -> None:
        """End its machine, if that has not just ended by itself; its lock is held."""
        if record.is_restarting:
            record.is_restarting = False
            return
        record.is_stopping = True
        try:
            await self._hypervisor.stop(record.definition.uuid)
        finally:
            record.is_stopping, record.missed = False, None

    async def shutdown(self, uuid: bytes, flags: int) -> None:
        await self._ask(uuid, Cause.SHUTDOWN, self._hypervisor.shutdown, flags)

    async def reboot(self, uuid: bytes, flags: int) -> None:
        await self._ask(uuid, Cause.REBOOT, self._hypervisor.reboot, flags)

    async def reset(self, uuid: bytes) -> None:
        record = self.record(uuid)
        async with record.lock:
            need(record, Cause.RESET)
            await self._hypervisor.reset(uuid)

    async def suspend(self, uuid: bytes) -> None:
        await self._pause(uuid, Cause.SUSPEND, self._hypervisor.suspend)

    async def resume(self, uuid: bytes) -> None:
        await self._pause(uuid, Cause.RESUME, self._hypervisor.resume)

    async def _pause(self, uuid: bytes, cause: Cause, how: Callable[[bytes], Awaitable[None]]) -> None:
        record = self.record(uuid)
        async with record.lock:
            need(record, cause)
            if LIFE.next(record.life, cause) is record.life:
                return
            await how(uuid)
            if not record.is_active:
                raise not_running()
            self._step(record, cause)

    async def _ask(
        self, uuid: bytes, cause: Cause, how: Callable[[bytes, bool], Awaitable[None]], flags: int
    ) -> None:
        """Ask the guest, by whatever is there, or by its agent alone. It may take its time: no lock is held."""
        record = self.record(uuid)
        need(record, cause)
        await how(uuid, bool(flags & AGENT))

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
                self._ended(record, how)
            case Crashed(detail=detail, is_paused=is_paused):
                logger.warning("%s crashed: %s", record.definition.name, detail)
                self._later(self._crashed(record, is_paused))
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

    def _ended(self, record: Record, how: End) -> None:
        """Its machine is gone: for good, or until the definition has it started again."""
        if self._action(record, how) in _RESTART:
            record.is_restarting = True
            self._later(self._restart(record, how))
        else:
            if how is End.CRASH and self._action(record, how) == "preserve":
                logger.warning("%s cannot be preserved: its process has ended", record.definition.name)
            self._end(record, _CAUSES[how])

    @staticmethod
    def _action(record: Record, how: End) -> str:
        """What the description says is done. Source: libvirt, "Domain XML format", Events configuration."""
        document = record.definition.read()
        return {End.POWER_OFF: document.on_poweroff, End.CRASH: document.on_crash}.get(how, "destroy")

    async def _crashed(self, record: Record, is_paused: bool) -> None:
        """The guest has crashed, and its machine is still there."""
        async with record.lock:
            if not allows(record.life, Cause.PANICKED):
                return
            action = self._action(record, End.CRASH)
            try:
                if action == "preserve":
                    if not is_paused:
                        await self._hypervisor.suspend(record.definition.uuid)
                    self._step(record, Cause.PANICKED)
                    return
                await self._stop(record)
            except ManorError as error:
                logger.error("%s has crashed and does not end: %s", record.definition.name, error)
                return
            if action in _RESTART:
                record.is_restarting = True
                self._later(self._restart(record, End.CRASH))
            else:
                self._end(record, Cause.PANICKED_OFF)

    async def _restart(self, record: Record, how: End) -> None:
        """Start a machine that has ended once more, under its number."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, record.restarted + RESTART_SECONDS - loop.time()))
        async with record.lock:
            if not record.is_restarting:
                return  # it was destroyed meanwhile
            record.is_restarting = False
            record.restarted = loop.time()
            try:
                running = await self._hypervisor.start(inactive(record.definition.read()), record.number, False)
            except ManorError as error:
                logger.error("%s cannot be started again: %s", record.definition.name, error)
                self._end(record, _CAUSES[how])
                return
            record.live = definition_of(running)
            self._step(record, Cause.CRASH_RESTARTED if how is End.CRASH else Cause.RESTARTED)
        self._notify(Notice(Kind.REBOOT, record.reference()))
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
        record.number, record.is_updated = -1, False
