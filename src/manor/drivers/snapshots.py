"""Snapshots of domains that are off: their description and, where their disks can, the disks' contents."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from manor.base.errors import ApiError, ConfigError, ManorError
from manor.domain.definition import Definition, definition_of
from manor.domain.events import DefinedDetail, LifecycleEvent
from manor.domain.model import Cause
from manor.domain.state import DomainState, ShutoffReason
from manor.domain.xml import domain as domain_xml
from manor.domain.xml import snapshot as snapshot_xml
from manor.domain.xml import tree
from manor.domain.xml.snapshot import Snapshot as Document
from manor.domain.xml.snapshot import SnapshotDisk
from manor.domain.xml.to_spec import refuse
from manor.drivers.api import Kind, Notice, Notify
from manor.drivers.domains.book import DomainBook
from manor.drivers.domains.record import Record
from manor.drivers.domains.table import need
from manor.drivers.errors import Code, Origin, failed, invalid, judging, no_snapshot, reading, unsupported, xml_error
from manor.drivers.keeper import Keeper
from manor.rpc.protocol.records import Snapshot

logger = logging.getLogger(__name__)

REDEFINE: Final = 1
"""Source: libvirt API reference, virDomainSnapshotCreateFlags."""
CHILDREN, METADATA_ONLY, CHILDREN_ONLY = 1, 2, 4
"""Source: libvirt API reference, virDomainSnapshotDeleteFlags."""


class DiskSnapshots(Protocol):
    """Keeps the contents of disks. Thread: any; may block."""

    def take(self, definition: Definition, name: str) -> None: ...
    def revert(self, definition: Definition, name: str) -> None: ...
    def delete(self, definition: Definition, name: str) -> None: ...


@dataclass(slots=True)
class Taken:
    """One snapshot, as its text is kept."""

    name: str
    xml: str
    parent: str | None

    def read(self) -> Document:
        return snapshot_xml.parse(self.xml)


class SnapshotBook:
    """The snapshots of one driver's domains (api.Snapshots)."""

    def __init__(self, domains: DomainBook, keeper: Keeper, contents: DiskSnapshots, notify: Notify) -> None:
        self._domains = domains
        self._keeper = keeper
        self._contents = contents
        self._notify = notify
        self._taken: dict[bytes, dict[str, Taken]] = {}
        self._current: dict[bytes, str | None] = {}

    async def open(self) -> None:
        """Read what is kept."""
        owners = await self._keeper.snapshot_owners()
        for reference, _ in await self._domains.all():
            if reference.uuid not in owners:
                continue
            for text in await self._keeper.load_snapshots(reference.uuid):
                try:
                    document = snapshot_xml.parse(text)
                except ConfigError as error:
                    logger.error("a snapshot of %s is left out: %s", reference.name, error)
                    continue
                self._put(reference.uuid, document)
                if document.active:
                    self._current[reference.uuid] = document.name

    async def all(self, uuid: bytes) -> Sequence[Snapshot]:
        record = self._domains.record(uuid)
        return [Snapshot(name, record.reference()) for name in self._of(uuid)]

    async def find(self, uuid: bytes, name: str) -> Snapshot:
        self._get(uuid, name)
        return Snapshot(name, self._domains.record(uuid).reference())

    async def create(self, uuid: bytes, xml: str, flags: int) -> Snapshot:
        record = self._domains.record(uuid)
        if flags & ~0x1F:
            raise unsupported("snapshots are kept inside qcow2 disks; disk-only and external ones are not there",
                              Origin.DOMAIN_SNAPSHOT)  # fmt: skip
        with reading(Origin.DOMAIN_SNAPSHOT):
            wanted = snapshot_xml.parse(xml)
        with judging(Origin.DOMAIN_SNAPSHOT):
            refuse(snapshot_xml.check(wanted))
        async with record.lock:
            if record.is_active:
                raise unsupported(
                    "a snapshot of a running domain cannot be taken; shut it down first", Origin.DOMAIN_SNAPSHOT
                )
            need(record, Cause.CHANGE_CONFIG)  # it may have been undefined meanwhile
            assert record.config is not None
            if flags & REDEFINE:
                _check_redefined(wanted)
            name = wanted.name or self._free_name(uuid)
            if not flags & REDEFINE and name in self._of(uuid):
                raise ApiError(
                    Code.OPERATION_FAILED,
                    Origin.DOMAIN_SNAPSHOT,
                    f"operation failed: domain snapshot {name} already exists",
                )
            if not flags & REDEFINE:
                config = record.config
                await _in_thread(lambda: self._contents.take(config, name))
            document = replace(wanted, name=name) if flags & REDEFINE else self._describe(record, wanted, name)
            if document.domain is None:
                document = replace(document, domain=tree.read(record.config.text, domain_xml.ROOT))
            await self._keeper.save_snapshot(uuid, name, snapshot_xml.format(document))
            self._put(uuid, document)
            await self._set_current(uuid, name)
        return Snapshot(name, record.reference())

    async def xml(self, uuid: bytes, name: str) -> str:
        return snapshot_xml.format(replace(self._get(uuid, name).read(), active=None))

    async def parent(self, uuid: bytes, name: str) -> str | None:
        return self._get(uuid, name).parent

    async def current(self, uuid: bytes) -> str | None:
        self._of(uuid)
        return self._current.get(uuid)

    async def revert(self, uuid: bytes, name: str, flags: int) -> None:
        record = self._domains.record(uuid)
        async with record.lock:
            taken = self._get(uuid, name)
            if record.is_active:
                raise invalid("the domain runs; destroy it before it is reverted", Origin.DOMAIN_SNAPSHOT)
            node = taken.read().domain
            assert node is not None
            text = tree.write(node)
            with reading(Origin.DOMAIN_SNAPSHOT):
                definition = definition_of(domain_xml.parse(text))
            await _in_thread(lambda: self._contents.revert(definition, name))
            await self._domains.replace_config(record, text, f"revert to {name}")
            await self._set_current(uuid, name)
            record.state = DomainState.SHUTOFF
            record.reason = ShutoffReason.FROM_SNAPSHOT
        event = (int(LifecycleEvent.DEFINED), int(DefinedDetail.FROM_SNAPSHOT))
        self._notify(Notice(Kind.LIFECYCLE, record.reference(), event))

    async def delete(self, uuid: bytes, name: str, flags: int) -> None:
        record = self._domains.record(uuid)
        async with record.lock:
            taken = self._get(uuid, name)
            below = self._below(uuid, name)
            doomed = ([] if flags & CHILDREN_ONLY else [name]) + (below if flags & (CHILDREN | CHILDREN_ONLY) else [])
            for each in doomed:
                if record.config is not None and not flags & METADATA_ONLY:
                    if record.is_active:
                        raise unsupported("snapshots of a running domain cannot be deleted; shut it down first",
                                          Origin.DOMAIN_SNAPSHOT)  # fmt: skip
                    await _in_thread(functools.partial(self._contents.delete, record.config, each))
                await self._keeper.remove_snapshot(uuid, each)
                del self._of(uuid)[each]
            # Whatever hung on one that is gone hangs on what is left above it.
            heir = name if flags & CHILDREN_ONLY else taken.parent
            left = self._of(uuid)
            for other in left.values():
                if other.parent in doomed:
                    other.parent = heir
                    other.xml = snapshot_xml.format(replace(other.read(), parent=heir))
                    await self._keeper.save_snapshot(uuid, other.name, other.xml)
            if self._current.get(uuid) in doomed:
                await self._set_current(uuid, heir if heir in left else None)
            record.snapshots = len(left)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _of(self, uuid: bytes) -> dict[str, Taken]:
        if not self._domains.record(uuid).snapshots:  # undefining drops them
            self._taken[uuid] = {}
            self._current.pop(uuid, None)
        return self._taken.setdefault(uuid, {})

    def _free_name(self, uuid: bytes) -> str:
        """The seconds since the Epoch, as libvirt names them; a later one if another was taken in the same second."""
        number = int(time.time())
        while str(number) in self._of(uuid):
            number += 1
        return str(number)

    def _get(self, uuid: bytes, name: str) -> Taken:
        found = self._of(uuid).get(name)
        if found is None:
            raise no_snapshot(name)
        return found

    def _below(self, uuid: bytes, name: str) -> list[str]:
        children = [each.name for each in self._of(uuid).values() if each.parent == name]
        return [found for each in children for found in (each, *self._below(uuid, each))]

    def _put(self, uuid: bytes, document: Document) -> None:
        name = document.name or ""
        taken = self._of(uuid)
        taken[name] = Taken(name, snapshot_xml.format(document), document.parent)
        self._domains.record(uuid).snapshots = len(taken)

    async def _set_current(self, uuid: bytes, name: str | None) -> None:
        old = self._current.get(uuid)
        for each, mark in ((old, 0), (name, 1)):
            if each is not None and each in self._of(uuid):
                taken = self._of(uuid)[each]
                taken.xml = snapshot_xml.format(replace(taken.read(), active=mark))
                await self._keeper.save_snapshot(uuid, each, taken.xml)
        self._current[uuid] = name

    def _describe(self, record: Record, wanted: Document, name: str) -> Document:
        assert record.config is not None
        document = tree.read(record.config.text, domain_xml.ROOT)
        disks = record.config.read().devices.disks
        return Document(
            name=name,
            description=wanted.description,
            state="shutoff",
            parent=self._current.get(record.config.uuid),
            creation_time=int(time.time()),
            memory="no",
            disks=tuple(
                SnapshotDisk(name=each.target or "", snapshot="internal" if each.device == "disk" else "no")
                for each in disks
            ),
            domain=document,
        )


def _check_redefined(wanted: Document) -> None:
    """Raise ApiError unless it says what the service would."""
    if not wanted.name:
        raise xml_error("a redefined snapshot must have a name", Origin.DOMAIN_SNAPSHOT)
    for tag, value in (("creationTime", wanted.creation_time), ("state", wanted.state)):
        if value is None:
            raise xml_error(f"missing {tag} from existing snapshot", Origin.DOMAIN_SNAPSHOT)


class InternalSnapshots:
    """Inside qcow2 images, as `qemu-img snapshot` makes them (DiskSnapshots)."""

    def take(self, definition: Definition, name: str) -> None:
        from manor.backends.block.operations.snapshot import create_snapshot, delete_snapshot

        done: list[str] = []
        try:
            for path in _images(definition):
                create_snapshot(path, name, format="qcow2")
                done.append(path)
        except BaseException:
            for path in done:
                delete_snapshot(path, name, format="qcow2")
            raise

    def revert(self, definition: Definition, name: str) -> None:
        from manor.backends.block.operations.snapshot import apply_snapshot

        for path in _images(definition):
            apply_snapshot(path, name, format="qcow2")

    def delete(self, definition: Definition, name: str) -> None:
        from manor.backends.block.operations.snapshot import delete_snapshot, list_snapshots

        for path in _images(definition):
            if any(each.name == name for each in list_snapshots(path, format="qcow2")):
                delete_snapshot(path, name, format="qcow2")


class NoContents:
    """Descriptions alone (DiskSnapshots)."""

    def take(self, definition: Definition, name: str) -> None:
        return

    def revert(self, definition: Definition, name: str) -> None:
        return

    def delete(self, definition: Definition, name: str) -> None:
        return


def _images(definition: Definition) -> list[str]:
    found = []
    for disk in definition.read().devices.disks:
        if disk.device != "disk" or disk.readonly:
            continue
        path = disk.file or disk.dev
        if not path or disk.format != "qcow2":
            raise unsupported(
                f"the disk {disk.target} is no qcow2 image and can keep no snapshot; convert it", Origin.DOMAIN_SNAPSHOT
            )
        found.append(path)
    return found


async def _in_thread(work: Callable[[], None]) -> None:
    try:
        await asyncio.to_thread(work)
    except ApiError:
        raise
    except (ManorError, OSError) as error:
        raise failed(f"the disks' snapshot: {error}", Origin.DOMAIN_SNAPSHOT) from error
