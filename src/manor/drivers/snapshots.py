"""Snapshots of domains that are off: their description and, where their disks can, the disks' contents."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol
from xml.etree.ElementTree import Element, SubElement

from manor.base.errors import ApiError, ManorError
from manor.domain.events import LifecycleEvent
from manor.domain.state import DomainState
from manor.drivers.api import Kind, Notice, Notify
from manor.drivers.definition import Definition, disks, normalise
from manor.drivers.domains import DomainBook, Record
from manor.drivers.errors import Code, Origin, failed, invalid, no_snapshot, unsupported, xml_error
from manor.drivers.keeper import Keeper
from manor.drivers.xml import format_xml, parse, text_of
from manor.rpc.protocol.records import Snapshot

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
    """One snapshot."""

    name: str
    xml: str
    parent: str | None
    domain_xml: str


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
        for reference, _ in await self._domains.all():
            for text in await self._keeper.load_snapshots(reference.uuid):
                try:
                    root = parse(text, "domainsnapshot", Origin.DOMAIN_SNAPSHOT)
                except ApiError:
                    continue
                self._put(reference.uuid, root)
                if text_of(root, "active") == "1":
                    self._current[reference.uuid] = text_of(root, "name")

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
        wanted = parse(xml, "domainsnapshot", Origin.DOMAIN_SNAPSHOT)
        async with record.lock:
            if record.is_active:
                raise unsupported(
                    "a snapshot of a running domain cannot be taken; shut it down first", Origin.DOMAIN_SNAPSHOT
                )
            assert record.config is not None
            name = text_of(wanted, "name") or str(int(time.time()))
            if not flags & REDEFINE and name in self._of(uuid):
                raise ApiError(
                    Code.OPERATION_FAILED,
                    Origin.DOMAIN_SNAPSHOT,
                    f"operation failed: domain snapshot {name} already exists",
                )
            if not flags & REDEFINE:
                config = record.config
                await _in_thread(lambda: self._contents.take(config, name))
            root = self._describe(record, wanted, name, bool(flags & REDEFINE))
            await self._keeper.save_snapshot(uuid, name, format_xml(root))
            self._put(uuid, root)
            await self._set_current(uuid, name)
        return Snapshot(name, record.reference())

    async def xml(self, uuid: bytes, name: str) -> str:
        root = parse(self._get(uuid, name).xml, "domainsnapshot", Origin.DOMAIN_SNAPSHOT)
        for each in root.findall("active"):
            root.remove(each)
        return format_xml(root)

    async def parent(self, uuid: bytes, name: str) -> str | None:
        return self._get(uuid, name).parent

    async def current(self, uuid: bytes) -> str | None:
        self._domains.record(uuid)
        return self._current.get(uuid)

    async def revert(self, uuid: bytes, name: str, flags: int) -> None:
        record = self._domains.record(uuid)
        taken = self._get(uuid, name)
        async with record.lock:
            if record.is_active:
                raise invalid("the domain runs; destroy it before it is reverted", Origin.DOMAIN_SNAPSHOT)
            definition = normalise(parse(taken.domain_xml, "domain"))
            await _in_thread(lambda: self._contents.revert(definition, name))
            await self._domains.replace_config(record, definition, f"revert to {name}")
            await self._set_current(uuid, name)
            record.state = DomainState.SHUTOFF
            record.reason = 7
        # DEFINED, from a snapshot. Source: libvirt API reference, virDomainEventDefinedDetailType.
        self._notify(Notice(Kind.LIFECYCLE, record.reference(), (int(LifecycleEvent.DEFINED), 3)))

    async def delete(self, uuid: bytes, name: str, flags: int) -> None:
        record = self._domains.record(uuid)
        taken = self._get(uuid, name)
        async with record.lock:
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
            for other in self._of(uuid).values():
                if other.parent in doomed:
                    other.parent = taken.parent
            record.snapshots = len(self._of(uuid))
            if self._current.get(uuid) in doomed:
                self._current[uuid] = taken.parent if taken.parent in self._of(uuid) else None

    # --- inside -------------------------------------------------------------------------------------------------------

    def _of(self, uuid: bytes) -> dict[str, Taken]:
        self._domains.record(uuid)
        return self._taken.setdefault(uuid, {})

    def _get(self, uuid: bytes, name: str) -> Taken:
        found = self._of(uuid).get(name)
        if found is None:
            raise no_snapshot(name)
        return found

    def _below(self, uuid: bytes, name: str) -> list[str]:
        children = [each.name for each in self._of(uuid).values() if each.parent == name]
        return [found for each in children for found in (each, *self._below(uuid, each))]

    def _put(self, uuid: bytes, root: Element) -> None:
        name = text_of(root, "name")
        domain = root.find("domain")
        taken = Taken(
            name, format_xml(root), text_of(root, "parent/name") or None, "" if domain is None else format_xml(domain)
        )
        self._of(uuid)[name] = taken
        self._domains.record(uuid).snapshots = len(self._of(uuid))

    async def _set_current(self, uuid: bytes, name: str) -> None:
        old = self._current.get(uuid)
        for each, mark in ((old, "0"), (name, "1")):
            if each is not None and each in self._of(uuid):
                taken = self._of(uuid)[each]
                root = parse(taken.xml, "domainsnapshot", Origin.DOMAIN_SNAPSHOT)
                element = root.find("active")
                if element is None:
                    element = SubElement(root, "active")
                element.text = mark
                taken.xml = format_xml(root)
                await self._keeper.save_snapshot(uuid, each, taken.xml)
        self._current[uuid] = name

    def _describe(self, record: Record, wanted: Element, name: str, redefine: bool) -> Element:
        assert record.config is not None
        if "/" in name or not name.isprintable() or len(name.encode()) > 200:
            raise xml_error(f"<name>: '{name}' is no name for a snapshot", Origin.DOMAIN_SNAPSHOT)
        if redefine:
            if not text_of(wanted, "name"):
                raise xml_error("a redefined snapshot must have a name", Origin.DOMAIN_SNAPSHOT)
            for tag in ("creationTime", "state"):
                if not text_of(wanted, tag):
                    raise xml_error(f"missing {tag} from existing snapshot", Origin.DOMAIN_SNAPSHOT)
            if not text_of(wanted, "creationTime").isdecimal():
                raise xml_error("<creationTime>: it is a number of seconds", Origin.DOMAIN_SNAPSHOT)
            return wanted
        root = Element("domainsnapshot")
        SubElement(root, "name").text = name
        if text_of(wanted, "description"):
            SubElement(root, "description").text = text_of(wanted, "description")
        SubElement(root, "state").text = "shutoff"
        parent = self._current.get(record.config.uuid)
        if parent is not None:
            SubElement(SubElement(root, "parent"), "name").text = parent
        SubElement(root, "creationTime").text = str(int(time.time()))
        SubElement(root, "memory", snapshot="no")
        listed = SubElement(root, "disks")
        document = record.config.root()
        for each in disks(document):
            SubElement(listed, "disk", name=each.target, snapshot="internal" if each.device == "disk" else "no")
        root.append(document)
        return root


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
    root = definition.root()
    found = []
    for element, disk in zip(root.iterfind("devices/disk"), disks(root), strict=True):
        if disk.device != "disk" or not disk.source or element.find("readonly") is not None:
            continue
        driver = element.find("driver")
        if driver is None or driver.get("type") != "qcow2":
            raise unsupported(
                f"the disk {disk.target} is no qcow2 image and can keep no snapshot; convert it", Origin.DOMAIN_SNAPSHOT
            )
        found.append(disk.source)
    return found


async def _in_thread(work: Callable[[], None]) -> None:
    try:
        await asyncio.to_thread(work)
    except ApiError:
        raise
    except (ManorError, OSError) as error:
        raise failed(f"the disks' snapshot: {error}", Origin.DOMAIN_SNAPSHOT) from error
