"""Domains: what is defined, what runs, and how one becomes the other. Shared by drivers with a hypervisor of their own.

A domain has a configuration (kept, edited at any time) or a live description (while it runs), or both. Changes of one
domain happen one after the other; reading waits for nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final

from manor.base.errors import ApiError, ManorError
from manor.domain.events import DefinedDetail, LifecycleEvent, StartedDetail, StoppedDetail
from manor.domain.state import ACTIVE, DomainState, PausedReason, RunningReason, ShutoffReason
from manor.drivers.api import (
    ByteStream,
    Change,
    DomainFlags,
    DomainInfo,
    Kind,
    MachineStatistics,
    Notice,
    Notify,
    Scrollback,
)
from manor.drivers.definition import (
    Definition,
    disks,
    live_root,
    normalise,
    read_definition,
    without_secrets,
)
from manor.drivers.errors import (
    Code,
    Origin,
    invalid,
    invalid_argument,
    no_domain,
    not_running,
    unsupported,
    uuid_text,
)
from manor.drivers.hypervisor import Ended, Hypervisor
from manor.drivers.keeper import Keeper
from manor.drivers.xml import check_name, child, format_xml
from manor.rpc.protocol.records import Domain, GuestInterface

logger = logging.getLogger(__name__)

SNAPSHOTS_METADATA: Final = 2
"""virDomainUndefineFlagsValues: VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA."""
_ORDERLY: Final = {ShutoffReason.SHUTDOWN: StoppedDetail.SHUTDOWN, ShutoffReason.DESTROYED: StoppedDetail.DESTROYED,
                   ShutoffReason.CRASHED: StoppedDetail.CRASHED, ShutoffReason.FAILED: StoppedDetail.FAILED,
                   ShutoffReason.SAVED: StoppedDetail.SAVED}  # fmt: skip


@dataclass(slots=True)
class Record:
    """One domain. config: None for one that is gone when it stops. live: None while it does not run."""

    config: Definition | None
    live: Definition | None = None
    number: int = -1
    state: int = DomainState.SHUTOFF
    reason: int = ShutoffReason.UNKNOWN
    autostart: bool = False
    snapshots: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    is_stopping: bool = False

    @property
    def definition(self) -> Definition:
        """What holds now."""
        found = self.live or self.config
        assert found is not None
        return found

    @property
    def is_active(self) -> bool:
        return self.live is not None

    def reference(self) -> Domain:
        found = self.live or self.config
        assert found is not None
        return Domain(found.name, found.uuid, self.number)

    def flags(self) -> DomainFlags:
        return DomainFlags(
            self.live is not None,
            self.config is not None,
            self.autostart,
            False,
            self.snapshots > 0,
            self.state,
        )


class DomainBook:
    """The domains of one driver (api.Domains)."""

    def __init__(self, hypervisor: Hypervisor, keeper: Keeper, notify: Notify) -> None:
        self._hypervisor = hypervisor
        self._keeper = keeper
        self._notify = notify
        self._records: dict[bytes, Record] = {}
        self._names: dict[str, bytes] = {}
        self._next = 1
        self._tasks: set[asyncio.Task[None]] = set()

    # --- start and end of the driver ----------------------------------------------------------------------------------

    async def open(self) -> None:
        """Read what is kept, find what runs, start what shall be."""
        for stored in await self._keeper.load("domains"):
            try:
                definition = read_definition(stored.xml)
            except ApiError as error:
                logger.error("the description of %s is left out: %s", stored.name, error)
                continue
            self._add(Record(definition, autostart=stored.autostart))
        found, ended = await self._hypervisor.recover(self._on_end)
        for each in found:
            live = read_definition(each.live)
            record = self._records.get(each.uuid)
            if record is None:
                record = Record(None)
                record.live = live
                self._add(record)
            record.live, record.number, record.state, record.reason = live, each.number, each.state, each.reason
            record.live = replace(live, text=each.live)
            self._next = max(self._next, each.number + 1)
        for end in ended:
            record = self._records.get(end.uuid)
            if record is not None:
                record.reason = end.reason
                logger.warning("%s ended while nobody watched: %s", record.definition.name, end.detail or end.reason)

    async def start_marked(self) -> None:
        """Start what is marked for autostart, and does not run. Failures are logged."""
        for record in list(self._records.values()):
            if record.autostart and not record.is_active and record.config is not None:
                try:
                    await self.start(record.config.uuid, False)
                except ManorError as error:
                    logger.error("the autostart of %s failed: %s", record.definition.name, error)

    async def close(self) -> None:
        """VMs live on."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._hypervisor.close()

    # --- looking ------------------------------------------------------------------------------------------------------

    async def all(self) -> Sequence[tuple[Domain, DomainFlags]]:
        return [(record.reference(), record.flags()) for record in self._records.values()]

    async def find(self, uuid: bytes) -> Domain:
        return self._get(uuid).reference()

    async def find_name(self, name: str) -> Domain:
        uuid = self._names.get(name)
        if uuid is None:
            raise no_domain(f"with matching name '{name}'")
        return self._records[uuid].reference()

    async def find_id(self, number: int) -> Domain:
        for record in self._records.values():
            if record.number == number and record.is_active:
                return record.reference()
        raise no_domain(f"with matching id {number}")

    async def flags(self, uuid: bytes) -> DomainFlags:
        return self._get(uuid).flags()

    async def info(self, uuid: bytes) -> DomainInfo:
        record = self._get(uuid)
        found = record.definition
        cpu_time = 0
        if record.is_active:
            with suppress(ManorError):  # a VM that is just ending has no counters any more
                cpu_time = (await self._hypervisor.statistics(uuid)).cpu_time
        memory = found.current if record.is_active else found.memory
        return DomainInfo(
            record.state, record.reason, found.memory, memory, found.vcpus, found.max_vcpus, cpu_time
        )

    async def state(self, uuid: bytes) -> tuple[int, int]:
        record = self._get(uuid)
        return record.state, record.reason

    async def xml(self, uuid: bytes, inactive: bool, secure: bool) -> str:
        record = self._get(uuid)
        found = (record.config if inactive else None) or record.definition
        return found.text if secure else without_secrets(found.text)

    # --- defining -----------------------------------------------------------------------------------------------------

    async def check(self, xml: str) -> None:
        """Raise what `define` would."""
        definition = read_definition(xml)
        self._hypervisor.check(definition)
        self._check_unique(definition)

    async def define(self, xml: str, who: str) -> Domain:
        definition = read_definition(xml)
        self._hypervisor.check(definition)
        self._check_unique(definition)
        record = self._records.get(definition.uuid)
        if record is None:
            record = Record(definition)
            async with record.lock:
                self._add(record)  # before the wait, so that the name is taken
                try:
                    await self._save(definition, who)
                except BaseException:
                    self._forget(record)
                    raise
            detail = DefinedDetail.ADDED
        else:
            async with record.lock:
                await self._save(definition, who)
                record.config = definition
            detail = DefinedDetail.UPDATED
        self._tell(record, LifecycleEvent.DEFINED, detail)
        return record.reference()

    async def undefine(self, uuid: bytes, who: str, flags: int) -> None:
        record = self._get(uuid)
        async with record.lock:
            config = self._config(record)
            if record.snapshots and not flags & SNAPSHOTS_METADATA:
                raise invalid(f"cannot delete inactive domain with {record.snapshots} snapshots")
            await self._keeper.remove("domains", uuid, config.name, config.text, who)
            if record.snapshots:
                await self._keeper.remove_snapshot(uuid, None)
                record.snapshots = 0
            reference = record.reference()
            record.autostart = False
            record.config = None
            if not record.is_active:
                self._records.pop(uuid, None)
                self._names.pop(config.name, None)
        self._notify(Notice(Kind.LIFECYCLE, reference, (int(LifecycleEvent.UNDEFINED), 0)))

    async def rename(self, uuid: bytes, name: str, who: str) -> None:
        record = self._get(uuid)
        async with record.lock:
            config = self._config(record)
            if record.is_active:
                raise invalid("cannot rename active domain")
            check_name(name, Origin.DOMAIN)
            if name in self._names:
                raise invalid(f"domain with name '{name}' already exists")
            root = config.root()
            child(root, "name").text = name
            new = normalise(root)
            await self._keeper.rename("domains", uuid, config.name, name, new.text, who)
            old = record.reference()
            del self._names[config.name]
            self._names[name] = uuid
            record.config = new
        self._notify(Notice(Kind.LIFECYCLE, old, (int(LifecycleEvent.UNDEFINED), 1)))
        self._tell(record, LifecycleEvent.DEFINED, DefinedDetail.RENAMED)

    async def set_autostart(self, uuid: bytes, on: bool) -> None:
        record = self._get(uuid)
        async with record.lock:
            if record.config is None:
                raise invalid("cannot set autostart for transient domain")
            await self._keeper.set_autostart("domains", record.config.name, on)
            record.autostart = on

    async def edit(
        self, uuid: bytes, change: Change, live: bool, config: bool, who: str, is_hardware: bool = False
    ) -> None:
        """Change one description or both; neither if one refuses. is_hardware: a device comes, goes or changes."""
        record = self._get(uuid)
        async with record.lock:
            if live and record.live is None:
                raise not_running()
            if live and is_hardware and not self._hypervisor.can_hotplug:
                raise unsupported(
                    "devices of a running domain cannot be changed; use --config, and start the domain again"
                )
            if config:
                self._config(record)
            new_config = read_definition(change(self._config(record).text)) if config else None
            new_live = change(record.live.text) if live and record.live is not None else None
            if new_config is not None:
                self._hypervisor.check(new_config)
                await self._save(new_config, who)
                record.config = new_config
            if new_live is not None:
                record.live = replace(read_definition(new_live), text=new_live)
        if config:
            self._tell(record, LifecycleEvent.DEFINED, DefinedDetail.UPDATED)

    # --- running ------------------------------------------------------------------------------------------------------

    async def create_xml(self, xml: str, paused: bool) -> Domain:
        definition = read_definition(xml)
        self._hypervisor.check(definition)
        self._check_unique(definition)
        record = self._records.get(definition.uuid)
        is_new = record is None
        if record is None:
            record = Record(None)
            record.live = definition
            self._add(record)
            record.live = None
            self._records[definition.uuid] = record
        try:
            await self._start(record, definition, paused)
        except BaseException:
            if is_new:
                self._records.pop(definition.uuid, None)
                self._names.pop(definition.name, None)
            raise
        return record.reference()

    async def start(self, uuid: bytes, paused: bool) -> Domain:
        record = self._get(uuid)
        await self._start(record, self._config(record), paused)
        return record.reference()

    async def _start(self, record: Record, definition: Definition, paused: bool) -> None:
        async with record.lock:
            if record.is_active:
                raise invalid("domain is already running")
            number, self._next = self._next, self._next + 1
            live = format_xml(live_root(definition, number))
            live = await self._hypervisor.start(definition, number, live, paused)
            record.live, record.number = replace(definition, text=live), number
            if paused:
                record.state, record.reason = DomainState.PAUSED, PausedReason.USER
            else:
                record.state, record.reason = DomainState.RUNNING, RunningReason.BOOTED
        self._tell(record, LifecycleEvent.STARTED, StartedDetail.BOOTED)
        if paused:
            self._tell(record, LifecycleEvent.SUSPENDED, 0)

    async def destroy(self, uuid: bytes, graceful: bool) -> None:
        record = self._get(uuid)
        async with record.lock:
            self._need_active(record)
            record.is_stopping = True
            try:
                await self._hypervisor.stop(uuid)
            finally:
                record.is_stopping = False
            self._ended(record, Ended(uuid, ShutoffReason.DESTROYED))

    async def shutdown(self, uuid: bytes, flags: int) -> None:
        await self._ask(uuid, self._hypervisor.shutdown, flags)

    async def reboot(self, uuid: bytes, flags: int) -> None:
        record = await self._ask(uuid, self._hypervisor.reboot, flags)
        self._notify(Notice(Kind.REBOOT, record.reference()))

    async def reset(self, uuid: bytes) -> None:
        record = self._get(uuid)
        async with record.lock:
            self._need_active(record)
            await self._hypervisor.reset(uuid)
        self._notify(Notice(Kind.REBOOT, record.reference()))

    async def suspend(self, uuid: bytes) -> None:
        record = self._get(uuid)
        async with record.lock:
            self._need_active(record)
            if record.state == DomainState.PAUSED:
                return
            await self._hypervisor.suspend(uuid)
            if not record.is_active:
                raise not_running()
            record.state, record.reason = DomainState.PAUSED, PausedReason.USER
        self._tell(record, LifecycleEvent.SUSPENDED, 0)

    async def resume(self, uuid: bytes) -> None:
        record = self._get(uuid)
        async with record.lock:
            self._need_active(record)
            if record.state == DomainState.RUNNING:
                return
            await self._hypervisor.resume(uuid)
            if not record.is_active:
                raise not_running()
            record.state, record.reason = DomainState.RUNNING, RunningReason.UNPAUSED
        self._tell(record, LifecycleEvent.RESUMED, 0)

    async def set_memory(self, uuid: bytes, kib: int, live: bool, config: bool, maximum: bool) -> None:
        record = self._get(uuid)
        if kib < 1 << 10 or kib > 1 << 40:
            raise invalid_argument(f"{kib} KiB of memory; give at least 1024")
        if live and maximum:
            raise invalid("cannot resize the maximum memory on an active domain")
        if not maximum and kib > record.definition.memory:
            raise invalid_argument(
                f"cannot set memory higher than max memory ({record.definition.memory} KiB)"
            )
        if live:
            async with record.lock:
                self._need_active(record)
                await self._hypervisor.set_memory(uuid, kib)

        def change(xml: str) -> str:
            root = _reparse(xml)
            if maximum:
                child(root, "memory").text = str(kib)
            current = child(root, "currentMemory")
            current.text = str(kib if not maximum else min(kib, int(current.text or kib)))
            return format_xml(root)

        await self.edit(uuid, change, live, config, "setmem")
        if live:
            self._notify(Notice(Kind.BALLOON, record.reference(), (kib,)))

    async def set_vcpus(self, uuid: bytes, count: int, live: bool, config: bool, maximum: bool) -> None:
        record = self._get(uuid)
        if live:
            raise unsupported("vCPUs of a running domain cannot be changed; use --config and start it again")
        if not maximum and count > self._config(record).max_vcpus:
            raise invalid_argument(
                f"requested vcpus is greater than max allowable vcpus for the persistent domain: {count} > "
                f"{self._config(record).max_vcpus}"
            )

        def change(xml: str) -> str:
            root = _reparse(xml)
            element = child(root, "vcpu")
            if maximum:
                element.text = str(count)
                if int(element.get("current", "1")) > count:
                    element.set("current", str(count))
            else:
                element.set("current", str(count))
            return format_xml(root)

        await self.edit(uuid, change, live, config, "setvcpus")

    # --- asking -------------------------------------------------------------------------------------------------------

    async def statistics(self, uuid: bytes) -> MachineStatistics:
        self._need_active(self._get(uuid))
        return await self._hypervisor.statistics(uuid)

    async def addresses(self, uuid: bytes, source: int) -> Sequence[GuestInterface]:
        self._need_active(self._get(uuid))
        return await self._hypervisor.addresses(uuid, source)

    async def console(self, uuid: bytes, device: str | None, force: bool) -> ByteStream:
        self._need_active(self._get(uuid))
        return await self._hypervisor.console(uuid, device or "", force)

    async def console_log(self, uuid: bytes, since: int, limit: int) -> Scrollback:
        self._get(uuid)
        return await self._hypervisor.console_log(uuid, since, limit)

    async def agent(self, uuid: bytes, command: str, arguments: Mapping[str, object], timeout: float) -> object:
        self._need_active(self._get(uuid))
        return await self._hypervisor.agent(uuid, command, arguments, timeout)

    async def save(self, uuid: bytes, path: str | None) -> None:
        self._need_active(self._get(uuid))
        raise unsupported("the state of a running VM cannot be saved; shut it down instead")

    async def restore(self, path: str) -> None:
        raise unsupported("the state of a running VM cannot be saved or restored")

    async def remove_saved(self, uuid: bytes) -> None:
        self._get(uuid)
        raise invalid("the domain has no managed save image")

    async def block_resize(self, uuid: bytes, disk: str, size: int) -> None:
        record = self._get(uuid)
        async with record.lock:
            self._need_active(record)
            index = _disk_index(record, disk)
            await self._hypervisor.resize_disk(uuid, index, size)

    async def block_info(self, uuid: bytes, disk: str) -> tuple[int, int, int]:
        """(allocation, capacity, physical), bytes."""
        record = self._get(uuid)
        found = list(disks(_reparse(record.definition.text)))[_disk_index(record, disk)]
        return await asyncio.to_thread(_block_info, found.source)

    # --- for rehearsals -----------------------------------------------------------------------------------------------

    def rehearsal(self, is_off: bool) -> DomainBook:
        """A copy in which changes can be tried: no VM, disk or client hears of them. is_off: as if nothing ran."""
        from manor.drivers.rehearsal import RehearsalHypervisor, SilentKeeper

        book = DomainBook(RehearsalHypervisor(self._hypervisor), SilentKeeper(), lambda _: None)
        off: dict[str, Any] = {"live": None, "number": -1, "state": DomainState.SHUTOFF} if is_off else {}
        for uuid, record in self._records.items():
            if record.config is not None or not is_off:
                book._records[uuid] = replace(record, lock=asyncio.Lock(), **off)
        book._names = {name: uuid for name, uuid in self._names.items() if uuid in book._records}
        return book

    # --- for snapshots ------------------------------------------------------------------------------------------------

    def record(self, uuid: bytes) -> Record:
        """The domain itself. Raises ApiError if there is none."""
        return self._get(uuid)

    async def replace_config(self, record: Record, definition: Definition, who: str) -> None:
        """Give it another configuration; its lock is held."""
        await self._save(definition, who)
        record.config = definition

    # --- inside -------------------------------------------------------------------------------------------------------

    async def _ask(self, uuid: bytes, how: Any, flags: int) -> Record:
        record = self._get(uuid)
        self._need_active(record)
        if record.state == DomainState.PAUSED:
            raise invalid("domain is paused; resume it first")
        # virDomainShutdownFlagValues: 1 ACPI, 2 agent; the guest is asked by whatever is there without either.
        asked: Awaitable[None] = how(uuid, bool(flags & 2))
        await asked
        return record

    def _on_end(self, end: Ended) -> None:
        """A VM ended by itself, or was killed."""
        record = self._records.get(end.uuid)
        if record is None or not record.is_active or record.is_stopping:
            return
        if end.detail:
            logger.warning("%s ended: %s", record.definition.name, end.detail)
        self._ended(record, end)

    def _ended(self, record: Record, end: Ended) -> None:
        if not record.is_active:
            return
        reference = record.reference()
        record.state = DomainState.CRASHED if end.is_crash and record.config is None else DomainState.SHUTOFF
        record.reason = end.reason
        record.live, record.number = None, -1
        if end.reason == ShutoffReason.SHUTDOWN:
            self._notify(Notice(Kind.LIFECYCLE, reference, (int(LifecycleEvent.SHUTDOWN), 0)))
        if record.config is None:
            self._records.pop(end.uuid, None)
            self._names.pop(reference.name, None)
        detail = _ORDERLY.get(ShutoffReason(end.reason), StoppedDetail.FAILED)
        self._notify(Notice(Kind.LIFECYCLE, reference, (int(LifecycleEvent.STOPPED), int(detail))))

    def _get(self, uuid: bytes) -> Record:
        record = self._records.get(uuid)
        if record is None:
            raise no_domain(f"with matching uuid '{uuid_text(uuid)}'")
        return record

    @staticmethod
    def _config(record: Record) -> Definition:
        if record.config is None:
            raise invalid("cannot change persistent config of a transient domain")
        return record.config

    @staticmethod
    def _need_active(record: Record) -> None:
        if record.live is None or record.state not in ACTIVE:
            raise not_running()

    def _check_unique(self, definition: Definition) -> None:
        holder = self._names.get(definition.name)
        if holder is not None and holder != definition.uuid:
            raise ApiError(
                Code.OPERATION_FAILED,
                Origin.DOMAIN,
                f"operation failed: domain '{definition.name}' already exists with uuid {uuid_text(holder)}",
            )
        record = self._records.get(definition.uuid)
        if record is not None and record.definition.name != definition.name:
            raise ApiError(
                Code.OPERATION_FAILED,
                Origin.DOMAIN,
                f"operation failed: domain '{record.definition.name}' is already defined with uuid "
                f"{uuid_text(definition.uuid)}",
            )

    def _add(self, record: Record) -> None:
        found = record.definition
        self._records[found.uuid] = record
        self._names[found.name] = found.uuid

    def _forget(self, record: Record) -> None:
        found = record.definition
        self._records.pop(found.uuid, None)
        self._names.pop(found.name, None)

    async def _save(self, definition: Definition, who: str) -> None:
        await self._keeper.save("domains", definition.uuid, definition.name, definition.text, who)

    def _tell(self, record: Record, event: LifecycleEvent, detail: int) -> None:
        self._notify(Notice(Kind.LIFECYCLE, record.reference(), (int(event), int(detail))))


def _reparse(xml: str) -> Any:
    from manor.drivers.xml import parse

    return parse(xml, "domain")


def _disk_index(record: Record, disk: str) -> int:
    for index, each in enumerate(disks(_reparse(record.definition.text))):
        if disk and disk in (each.target, each.source):
            return index
    raise invalid_argument(f"invalid path {disk} not assigned to domain")


def _block_info(path: str) -> tuple[int, int, int]:
    from manor.backends.block.operations.info import image_info

    if not path:
        raise invalid_argument("the drive is empty")
    try:
        info = image_info(path, force_share=True)
        return info.disk_size, info.virtual_size, os.stat(path).st_size
    except (ManorError, OSError) as error:
        raise ApiError(Code.SYSTEM_ERROR, Origin.DOMAIN, f"cannot look at {path}: {error}") from error
