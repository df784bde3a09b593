"""Questions about domains."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress

from manor.base.errors import ApiError, ManorError
from manor.domain.definition import without_secrets
from manor.domain.xml import domain as domain_xml
from manor.domain.xml.normal import inactive as inactive_form
from manor.drivers.api import ByteStream, DeviceNames, DomainFlags, DomainInfo, MachineStatistics, Scrollback
from manor.drivers.domains.changing import disk_index
from manor.drivers.domains.record import Record
from manor.drivers.domains.table import DomainTable
from manor.drivers.errors import Code, Origin, invalid_argument, no_domain, not_running
from manor.rpc.protocol.records import Domain, GuestInterface


class Asking(DomainTable):
    """A driver's domains: what can be asked."""

    async def all(self) -> Sequence[tuple[Domain, DomainFlags]]:
        return [record.row() for record in self._records.values()]

    async def find(self, uuid: bytes) -> Domain:
        return self.record(uuid).row()[0]

    async def find_name(self, name: str) -> Domain:
        uuid = self._names.get(name)
        if uuid is None:
            raise no_domain(f"with matching name '{name}'")
        return self._records[uuid].row()[0]

    async def find_id(self, number: int) -> Domain:
        for record in self._records.values():
            if record.number == number and record.is_active:
                return record.reference()
        raise no_domain(f"with matching id {number}")

    async def flags(self, uuid: bytes) -> DomainFlags:
        return self.record(uuid).row()[1]

    async def info(self, uuid: bytes, ask: bool = True) -> DomainInfo:
        record = self.record(uuid)
        found = record.definition
        cpu_time = 0
        if ask and record.is_active:
            with suppress(ManorError):  # a VM that is just ending has no counters any more
                cpu_time = (await self._hypervisor.statistics(uuid)).cpu_time
        memory = found.current if record.is_active else found.memory
        return DomainInfo(
            int(record.state), int(record.reason), found.memory, memory, found.vcpus, found.max_vcpus, cpu_time
        )

    async def state(self, uuid: bytes) -> tuple[int, int]:
        record = self.record(uuid)
        return int(record.state), int(record.reason)

    async def xml(self, uuid: bytes, inactive: bool, secure: bool) -> str:
        record = self.record(uuid)
        if not inactive or record.live is None:
            text = record.definition.text
        elif record.config is not None:
            text = record.config.text
        else:
            text = domain_xml.format(inactive_form(record.live.read()))
        return text if secure else without_secrets(text)

    async def vcpus(self, uuid: bytes, config: bool) -> tuple[int, int]:
        """(current, maximum), of the configuration or of what runs."""
        record = self.record(uuid)
        found = self._config(record) if config else self._active(uuid).definition
        return found.vcpus, found.max_vcpus

    async def os_type(self, uuid: bytes) -> str:
        return self.record(uuid).definition.os_type

    async def devices(self, uuid: bytes) -> DeviceNames:
        return self.record(uuid).devices()

    async def statistics(self, uuid: bytes) -> MachineStatistics:
        self._active(uuid)
        return await self._hypervisor.statistics(uuid)

    async def addresses(self, uuid: bytes, source: int) -> Sequence[GuestInterface]:
        self._active(uuid)
        return await self._hypervisor.addresses(uuid, source)

    async def console(self, uuid: bytes, device: str | None, force: bool) -> ByteStream:
        self._active(uuid)
        return await self._hypervisor.console(uuid, device or "", force)

    async def console_log(self, uuid: bytes, since: int, limit: int) -> Scrollback:
        self.record(uuid)
        return await self._hypervisor.console_log(uuid, since, limit)

    async def agent(self, uuid: bytes, command: str, arguments: Mapping[str, object], timeout: float) -> object:
        self._active(uuid)
        return await self._hypervisor.agent(uuid, command, arguments, timeout)

    async def block_info(self, uuid: bytes, disk: str) -> tuple[int, int, int]:
        """(allocation, capacity, physical), bytes."""
        record = self.record(uuid)
        found = record.devices().disks[disk_index(record, disk)]
        return await asyncio.to_thread(_block_info, found.source)

    def _active(self, uuid: bytes) -> Record:
        record = self.record(uuid)
        if not record.is_active:
            raise not_running()
        return record


def _block_info(path: str) -> tuple[int, int, int]:
    from manor.backends.block.operations.info import image_info

    if not path:
        raise invalid_argument("the drive is empty")
    try:
        info = image_info(path, force_share=True)
        return info.disk_size, info.virtual_size, os.stat(path).st_size
    except (ManorError, OSError) as error:
        raise ApiError(Code.SYSTEM_ERROR, Origin.DOMAIN, f"cannot look at {path}: {error}") from error
