"""Changes of domains: of the configuration, which the next start takes, and of what runs, each apart from the other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from manor.base.errors import ConfigError, ManorError
from manor.base.units import KiB
from manor.domain.definition import definition_of
from manor.domain.model import Cause
from manor.domain.xml import changes
from manor.domain.xml.changes import DeviceExists, NamedDevice, NoDevice
from manor.domain.xml.domain import Domain as Document
from manor.drivers.api import Change, Kind, Notice
from manor.drivers.domains.record import Record
from manor.drivers.domains.table import DomainTable, logger, need
from manor.drivers.errors import failed, invalid, invalid_argument, no_device, reading, xml_error

MIN_MEMORY: Final = 1024
MAX_MEMORY: Final = 1 << 40
"""KiB of a domain: less is no machine, more is a slip."""


class Changing(DomainTable):
    """A driver's domains: their changes. live, config: which description a change is for; both may be."""

    async def edit(self, uuid: bytes, change: Change, live: bool, config: bool, who: str) -> None:
        """Change what only the descriptions say; neither is changed if one refuses."""
        record = self.record(uuid)
        async with record.lock:
            new_config = self._changed_config(record, change) if config else None
            if live:
                need(record, Cause.CHANGE_LIVE)
                assert record.live is not None
                with reading():
                    new_live = change(record.live.read())
            if new_config is not None:
                await self._save_config(record, definition_of(new_config), who)
            if live:
                await self._set_live(record, new_live)
            if config:
                self._step(record, Cause.CHANGE_CONFIG)

    def _changed_config(self, record: Record, change: Change) -> Document:
        """The changed configuration, checked. Raises ApiError if there is none, or it cannot be had."""
        with reading():
            document = change(self._config(record).read())
        self._check(document)
        return document

    # --- devices ------------------------------------------------------------------------------------------------------

    async def attach(self, uuid: bytes, xml: str, live: bool, config: bool, who: str) -> None:
        device = _parse(xml)
        await self._change_devices(uuid, device, live, config, who, changes.attach, self._attach_live)

    async def detach(self, uuid: bytes, xml: str, live: bool, config: bool, who: str) -> None:
        device = _parse(xml)
        await self._change_devices(uuid, device, live, config, who, changes.detach, self._detach_live)

    async def update(self, uuid: bytes, xml: str, live: bool, config: bool, who: str) -> None:
        device = _parse(xml)
        await self._change_devices(uuid, device, live, config, who, changes.update, self._update_live)

    async def detach_alias(self, uuid: bytes, alias: str, live: bool, config: bool, who: str) -> None:
        record = self.record(uuid)
        found: NamedDevice | None = None
        with _device_errors():
            if config:
                found = changes.by_alias(self._config(record).read(), alias)
            if live and record.live is not None:
                found = changes.by_alias(record.live.read(), alias)
        if found is None:
            need(record, Cause.CHANGE_LIVE)
            raise no_device(f"no device has the alias {alias}")
        await self._change_devices(uuid, found, live, config, who, changes.detach, self._detach_live)

    async def _change_devices(
        self,
        uuid: bytes,
        device: NamedDevice,
        live: bool,
        config: bool,
        who: str,
        change: Callable[[Document, NamedDevice], Document],
        change_live: Callable[[Record, Document, NamedDevice], Awaitable[None]],
    ) -> None:
        record = self.record(uuid)
        async with record.lock:
            new_config = None
            with _device_errors():
                if config:
                    new_config = change(self._config(record).read(), device)
                if live:
                    need(record, Cause.CHANGE_LIVE)
                    assert record.live is not None
                    running = record.live.read()
                    # Refused before anything is done, with the same words as for a definition.
                    change(running, device)
            if new_config is not None:
                self._check(new_config)
            if live:
                await change_live(record, running, device)
            if new_config is not None:
                await self._save_config(record, definition_of(new_config), who)
            if config:
                self._step(record, Cause.CHANGE_CONFIG)

    async def _attach_live(self, record: Record, running: Document, device: NamedDevice) -> None:
        after = await self._hypervisor.attach(record.definition.uuid, running, device)
        await self._set_live(record, after)
        for alias in aliases(after) - aliases(running):
            self._notify(Notice(Kind.DEVICE_ADDED, record.reference(), (alias,)))

    async def _detach_live(self, record: Record, running: Document, device: NamedDevice) -> None:
        after = await self._hypervisor.detach(record.definition.uuid, running, device)
        if after is None:
            return  # the guest was asked
        await self._set_live(record, after)
        for alias in aliases(running) - aliases(after):
            self._notify(Notice(Kind.DEVICE_REMOVED, record.reference(), (alias,)))

    async def _update_live(self, record: Record, running: Document, device: NamedDevice) -> None:
        await self._set_live(record, await self._hypervisor.update(record.definition.uuid, running, device))

    def _removed(self, record: Record, alias: str, is_done: bool) -> None:
        """The guest has let go of a device, or will not."""
        if not is_done:
            self._notify(Notice(Kind.DEVICE_REMOVAL_FAILED, record.reference(), (alias,)))
            return
        assert record.live is not None
        try:
            after = changes.detach_alias(record.live.read(), alias)
        except NoDevice:
            return
        self._later(self._keep_removed(record, after))
        self._notify(Notice(Kind.DEVICE_REMOVED, record.reference(), (alias,)))

    async def _keep_removed(self, record: Record, after: Document) -> None:
        try:
            await self._set_live(record, after)
        except ManorError as error:
            logger.error("the live description of %s cannot be kept: %s", record.definition.name, error)

    # --- memory and vCPUs ---------------------------------------------------------------------------------------------

    async def set_memory(self, uuid: bytes, kib: int, live: bool, config: bool, maximum: bool) -> None:
        record = self.record(uuid)
        if not MIN_MEMORY <= kib <= MAX_MEMORY:
            raise invalid_argument(f"{kib} KiB of memory; give {MIN_MEMORY} to {MAX_MEMORY}")
        if live:
            need(record, Cause.CHANGE_LIVE)
            if maximum:
                raise invalid("cannot resize the maximum memory on an active domain")
            _check_maximum(kib, record.definition.memory)
        if config and not maximum:
            _check_maximum(kib, self._config(record).memory)
        if live:
            async with record.lock:
                need(record, Cause.CHANGE_LIVE)
                await self._hypervisor.set_memory(uuid, kib)

        def change(document: Document) -> Document:
            if maximum:
                current = min(kib * KiB, document.current_memory or document.memory)
                return replace(document, memory=kib * KiB, current_memory=current)
            return replace(document, current_memory=kib * KiB)

        await self.edit(uuid, change, live, config, "setmem")
        if live:
            self._notify(Notice(Kind.BALLOON, record.reference(), (kib,)))

    async def set_vcpus(self, uuid: bytes, count: int, live: bool, config: bool, maximum: bool) -> None:
        record = self.record(uuid)
        if live:
            need(record, Cause.CHANGE_LIVE)
            if maximum:
                raise invalid("cannot change the maximum of vCPUs of an active domain; use --config")
            _check_vcpus(count, record.definition.max_vcpus, "live")
        if config and not maximum:
            _check_vcpus(count, self._config(record).max_vcpus, "persistent")
        if live:
            async with record.lock:
                need(record, Cause.CHANGE_LIVE)
                await self._hypervisor.set_vcpus(uuid, count)

        def change(document: Document) -> Document:
            if maximum:
                current = document.current_vcpus
                return replace(
                    document, vcpus=count, current_vcpus=None if current is None or current >= count else current
                )
            return replace(document, current_vcpus=None if count == document.vcpus else count)

        await self.edit(uuid, change, live, config, "setvcpus")

    async def block_resize(self, uuid: bytes, disk: str, size: int) -> None:
        record = self.record(uuid)
        async with record.lock:
            need(record, Cause.CHANGE_LIVE)
            await self._hypervisor.resize_disk(uuid, disk_index(record, disk), size)


def _check_maximum(kib: int, maximum: int) -> None:
    if kib > maximum:
        raise invalid_argument(f"cannot set memory higher than max memory ({maximum} KiB)")


def _check_vcpus(count: int, maximum: int, which: str) -> None:
    if count > maximum:
        raise invalid_argument(
            f"requested vcpus is greater than max allowable vcpus for the {which} domain: {count} > {maximum}"
        )


def disk_index(record: Record, disk: str) -> int:
    """Among the disks of the machine, the one with that target, source or alias. Raises ApiError."""
    for index, each in enumerate(record.devices().disks):
        if disk and disk in (each.target, each.source, each.alias):
            return index
    raise invalid_argument(f"invalid path {disk} not assigned to domain")


def aliases(document: Document) -> set[str]:
    """Of all devices."""
    return {device.alias for device in changes.all_devices(document) if device.alias is not None}


def _parse(xml: str) -> NamedDevice:
    with reading():
        return changes.parse_device(xml)


@contextmanager
def _device_errors() -> Iterator[None]:
    """What a change of devices refuses crosses the RPC with libvirt's numbers."""
    try:
        yield
    except NoDevice as error:
        raise no_device(str(error)) from error
    except DeviceExists as error:
        raise failed(error.message) from error
    except ConfigError as error:
        raise xml_error(str(error)) from error
