"""One domain as a driver has it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from manor.domain.definition import Definition
from manor.domain.model import Life, is_active, is_persistent
from manor.domain.state import DomainState, Reason, ShutoffReason
from manor.domain.xml.live import machine_order
from manor.drivers.api import DeviceNames, DiskName, DomainFlags, NicName
from manor.drivers.hypervisor import Ended
from manor.rpc.protocol.records import Domain


@dataclass(slots=True)
class Record:
    """config: what the next start takes, None for a domain that is gone when it stops. live: what runs. number: of a
    running domain, else -1. lock: held while it changes.
    is_updated: the configuration is no longer what was started. is_stopping: the driver itself is about to end it.
    missed: that it ended meanwhile. is_restarting: its machine has ended, and is about to be started again under the
    same number. restarted: when that was last, on the event loop's clock."""

    life: Life
    config: Definition | None
    live: Definition | None = None
    number: int = -1
    state: DomainState = DomainState.SHUTOFF
    reason: Reason = ShutoffReason.UNKNOWN
    autostart: bool = False
    snapshots: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    is_updated: bool = False
    is_stopping: bool = False
    missed: Ended | None = None
    is_restarting: bool = False
    restarted: float = 0.0
    _names: tuple[Definition, DeviceNames] | None = None
    _row: tuple[tuple[object, ...], tuple[Domain, DomainFlags]] | None = None

    @property
    def definition(self) -> Definition:
        """What holds now."""
        found = self.live or self.config
        assert found is not None
        return found

    @property
    def is_active(self) -> bool:
        return is_active(self.life)

    @property
    def is_persistent(self) -> bool:
        return is_persistent(self.life)

    def reference(self) -> Domain:
        found = self.definition
        return Domain(found.name, found.uuid, self.number)

    def flags(self) -> DomainFlags:
        return DomainFlags(
            self.is_active,
            self.is_persistent,
            self.autostart,
            self.life is Life.SAVED,
            self.snapshots > 0,
            self.state,
            self.is_updated,
        )

    def row(self) -> tuple[Domain, DomainFlags]:
        """Reference and flags, for lists: made again when something in them has changed."""
        described = self.live or self.config
        key = (described, self.number, self.life, self.autostart, self.snapshots, self.state, self.is_updated)
        row = self._row
        if row is None or row[0] != key:
            row = self._row = (key, (self.reference(), self.flags()))
        return row[1]

    def devices(self) -> DeviceNames:
        """Names of what has counters; read once for each description."""
        definition = self.definition
        if self._names is None or self._names[0] is not definition:
            self._names = (definition, device_names(definition))
        return self._names[1]


def device_names(definition: Definition) -> DeviceNames:
    """From the document."""
    devices = definition.read().devices
    disks = [devices.disks[index] for index in machine_order(devices)]
    return DeviceNames(
        tuple(
            DiskName(one.target or "", one.file or one.dev or one.export or one.volume or "", one.alias or "")
            for one in disks
        ),
        tuple(
            NicName(one.target or f"vnet{index}", one.mac or "", one.alias or "")
            for index, one in enumerate(devices.interfaces)
        ),
    )
