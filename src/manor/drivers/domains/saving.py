"""Domains that are saved into files, and go on from them.

A managed save is kept beside the definitions, and the next start continues from it. Any other file is its user's: the
document in it says whose it is.
"""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Final

from manor.base.errors import ApiError, HostError, ProtocolError
from manor.base.files import sync_directory
from manor.domain.definition import Definition, definition_of, without_secrets
from manor.domain.model import Cause, Life
from manor.domain.xml import domain as domain_xml
from manor.domain.xml.domain import Domain as Document
from manor.domain.xml.normal import inactive as inactive_form
from manor.drivers.api import Notify, Progress, unwatched
from manor.drivers.domains.record import Record
from manor.drivers.domains.running import Running
from manor.drivers.domains.table import need
from manor.drivers.errors import Code, Origin, failed, invalid_argument, uuid_text
from manor.drivers.hypervisor import End, Hypervisor
from manor.drivers.keeper import Keeper
from manor.rpc.protocol.records import Domain
from manor.spec import saved_vm
from manor.spec.saved_vm import SavedHead

SAVE_RUNNING: Final = 2
SAVE_PAUSED: Final = 4
"""virDomainSaveRestoreFlags. The others change nothing here: what a save writes goes once through the host's cache and
is on the medium when it ends, with VIR_DOMAIN_SAVE_BYPASS_CACHE or without; and machines have no NVRAM to reset."""


class SavedStates:
    """Where managed saves are. Methods that touch files block."""

    def __init__(self, root: Path | None) -> None:
        """root: None for a driver that keeps nothing: they are gone with it."""
        self._root = root
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    def path(self, uuid: bytes) -> Path:
        """Where the one of a domain is, if there is one. Raises HostError."""
        try:
            if self._root is None:
                self._temporary = tempfile.TemporaryDirectory(prefix="manor-saved-")
                self._root = Path(self._temporary.name)
            self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise HostError.from_os_error("cannot make a folder for saved states", error) from error
        return self._root / f"{uuid_text(uuid)}.state"

    def exists(self, uuid: bytes) -> bool:
        return self._root is not None and self.path(uuid).exists()

    def remove(self, uuid: bytes) -> None:
        """Raises HostError. Nothing happens if there is none."""
        if self._root is None:
            return
        path = self.path(uuid)
        try:
            path.unlink(missing_ok=True)
            sync_directory(path.parent)
        except OSError as error:
            raise HostError.from_os_error(f"cannot remove {path}", error) from error

    def forget_older(self, uuid: bytes, started_ns: int) -> None:
        """Remove one from which a VM has gone on at `started_ns`, unless it was saved again since. Raises HostError."""
        if self.exists(uuid) and self.path(uuid).stat().st_mtime_ns < started_ns:
            self.remove(uuid)

    def close(self) -> None:
        if self._temporary is not None:
            self._temporary.cleanup()
            self._root = self._temporary = None


class Saving(Running):
    """A driver's domains: their saved states."""

    def __init__(self, hypervisor: Hypervisor, keeper: Keeper, notify: Notify, saves: Path | None = None) -> None:
        """saves: the folder of managed saves."""
        super().__init__(hypervisor, keeper, notify)
        self._saves = SavedStates(saves)

    # --- save ---------------------------------------------------------------------------------------------------------

    async def save(
        self, uuid: bytes, path: str | None, xml: str | None = None, flags: int = 0, progress: Progress = unwatched
    ) -> None:
        """path: None for a managed save. xml: what is to be kept as its description. Raises Cancelled if `progress`
        did, and the domain goes on."""
        record = self.record(uuid)
        cause = Cause.MANAGED_SAVE if path is None else Cause.SAVE
        paused = _asked(flags)
        need(record, cause)
        async with record.lock:
            need(record, cause)
            assert record.live is not None
            text = domain_xml.format(inactive_form(record.live.read()))
            if xml is not None:
                text = self._another_text(uuid, xml)
            target = await asyncio.to_thread(self._saves.path, uuid) if path is None else _absolute(path)
            record.is_stopping = True
            try:
                await self._hypervisor.save(uuid, target, text, paused, progress)
            finally:
                record.is_stopping = False
                self._catch_up(record)
            self._end(record, cause)

    def _catch_up(self, record: Record) -> None:
        """It ended by itself while the driver was about to end it, and not as the driver wanted."""
        missed, record.missed = record.missed, None
        if missed is not None and missed.how is not End.SAVED:
            self._happened(missed)

    def _ended(self, record: Record, how: End) -> None:
        if how is End.SAVED and record.is_persistent and self._saves.exists(record.definition.uuid):
            self._end(record, Cause.MANAGED_SAVE)
        else:
            super()._ended(record, how)

    # --- go on --------------------------------------------------------------------------------------------------------

    async def start(self, uuid: bytes, paused: bool, fresh: bool = False) -> Domain:
        """fresh: forget a managed save, and boot."""
        record = self.record(uuid)
        need(record, Cause.START)
        if record.life is not Life.SAVED:
            return await super().start(uuid, paused)
        if fresh:
            await self.remove_saved(uuid)
            return await super().start(uuid, paused)
        path = self._saves.path(uuid)
        head = await _read(path)
        definition = definition_of(self._complete(head.note))
        cause = Cause.START_PAUSED if paused or head.paused else Cause.START
        await self._start(record, definition, cause, path)
        # Its disks change from here on, so nothing could go on from the file any more.
        await asyncio.to_thread(self._saves.remove, uuid)
        return record.reference()

    async def restore(self, path: str, xml: str | None = None, flags: int = 0) -> None:
        source = _absolute(path)
        asked = _asked(flags)
        head = await _read(source)
        document = self._complete(head.note)
        if xml is not None:
            document = self._complete(self._another_text(definition_of(document).uuid, xml))
        self._check(document)
        definition = definition_of(document)
        self._check_unique(definition)
        paused = head.paused if asked is None else asked
        cause = Cause.RESTORE_PAUSED if paused else Cause.RESTORE
        record = self._records.get(definition.uuid)
        if record is None:
            record = Record(Life.ABSENT, None, definition)
            self._add(record)
        try:
            need(record, cause)
            await self._start(record, definition, cause, source)
        except BaseException:
            if record.life is Life.ABSENT:
                self._forget(record)
            raise

    # --- files --------------------------------------------------------------------------------------------------------

    async def remove_saved(self, uuid: bytes) -> None:
        record = self.record(uuid)
        async with record.lock:
            need(record, Cause.MANAGED_SAVE_REMOVE)
            await asyncio.to_thread(self._saves.remove, uuid)
            self._step(record, Cause.MANAGED_SAVE_REMOVE)

    async def saved_xml(self, path: str, secure: bool) -> str:
        """The description in a file."""
        text = (await _read(_absolute(path))).note
        return text if secure else without_secrets(text)

    async def set_saved_xml(self, path: str, xml: str, flags: int) -> None:
        await self._rewrite(_absolute(path), xml, _asked(flags))

    async def managed_xml(self, uuid: bytes, secure: bool) -> str:
        self._need_saved(uuid)
        return await self.saved_xml(str(self._saves.path(uuid)), secure)

    async def set_managed_xml(self, uuid: bytes, xml: str, flags: int) -> None:
        record = self._need_saved(uuid)
        async with record.lock:
            self._need_saved(uuid)
            await self._rewrite(self._saves.path(uuid), xml, _asked(flags))

    def _need_saved(self, uuid: bytes) -> Record:
        record = self.record(uuid)
        need(record, Cause.MANAGED_SAVE_REMOVE)
        return record

    async def _rewrite(self, path: Path, xml: str, paused: bool | None) -> None:
        head = await _read(path)
        uuid = definition_of(self._complete(head.note)).uuid
        note = self._another_text(uuid, xml)
        changed = replace(head, note=note, paused=head.paused if paused is None else paused)
        try:
            await asyncio.to_thread(saved_vm.replace_head, path, changed)
        except ProtocolError as error:
            raise failed(str(error)) from error

    def _another_text(self, uuid: bytes, xml: str) -> str:
        """A client's description of what is saved. Raises ApiError if it is another domain's, or cannot be had."""
        document: Document = self._complete(xml)
        self._check(document)
        definition: Definition = definition_of(document)
        if definition.uuid != uuid:
            raise failed(f"the description is of another domain: {definition.name} ({uuid_text(definition.uuid)})")
        return definition.text

    async def _forget_saved(self, record: Record) -> None:
        if record.life is Life.SAVED:
            await asyncio.to_thread(self._saves.remove, record.definition.uuid)


async def _read(path: Path) -> SavedHead:
    try:
        head = await asyncio.to_thread(saved_vm.read_head, path)
        if not head.note:
            raise ProtocolError(f"{path} is of a VM that no domain describes; go on with it by manor run --restore")
        return head
    except ProtocolError as error:
        raise failed(str(error)) from error
    except HostError as error:
        raise ApiError(Code.SYSTEM_ERROR, Origin.DOMAIN, str(error)) from error


def _asked(flags: int) -> bool | None:
    """Whether it shall be paused when it goes on; None: as it was."""
    if flags & SAVE_RUNNING and flags & SAVE_PAUSED:
        raise invalid_argument("running and paused are mutually exclusive")
    return True if flags & SAVE_PAUSED else False if flags & SAVE_RUNNING else None


def _absolute(path: str) -> Path:
    if not path.startswith("/"):
        raise invalid_argument(f"{path!r} is not an absolute path")
    return Path(path)


