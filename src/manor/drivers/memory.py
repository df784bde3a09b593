"""`test:///default`: domains that run nowhere, pools in memory. What is done in it is gone with the daemon.

Complete otherwise: for tests of clients, and to learn with.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from manor.base.errors import ApiError
from manor.domain.definition import Definition, Platform, definition_of
from manor.domain.xml import changes
from manor.domain.xml import domain as domain_xml
from manor.domain.xml.changes import NamedDevice
from manor.domain.xml.domain import Domain
from manor.domain.xml.live import live, named
from manor.domain.xml.property import Finding
from manor.domain.xml.to_spec import refuse
from manor.domain.xml.values import Support
from manor.drivers.api import (
    BlockStatistics,
    ByteStream,
    DeviceNames,
    MachineStatistics,
    NicStatistics,
    Notify,
    Progress,
    Scrollback,
    VolumeStream,
    unwatched,
)
from manor.drivers.domains.book import DomainBook
from manor.drivers.domains.record import device_names
from manor.drivers.errors import Code, Origin, invalid_argument, unsupported
from manor.drivers.hypervisor import DeviceChanges, End, Ended, Found, Happening, OnHappening, Rebooted
from manor.drivers.keeper import MemoryKeeper
from manor.drivers.networks import NetworkBook
from manor.drivers.node import EMULATOR, HostNode
from manor.drivers.pools import PoolBook
from manor.drivers.secrets import SecretBook
from manor.drivers.snapshots import NoContents, SnapshotBook
from manor.drivers.volumes import Volume, VolumePlan, volume_exists
from manor.rpc.protocol.records import GuestInterface, IpAddress
from manor.spec import saved_vm
from manor.spec.machine import MachineSpec
from manor.spec.saved_vm import SavedHead

POOL_SIZE: Final = 1 << 40
"""Bytes that an in-memory pool says it has."""
MAX_KEPT: Final = 64 << 20
"""Bytes of a volume that are really kept; the rest reads as zeros and cannot be written."""
_TEST_DOMAIN: Final = """
<domain type='test'>
  <name>test</name>
  <uuid>6695eb01-f6a4-8304-79aa-97f2502e193f</uuid>
  <memory unit='KiB'>8388608</memory>
  <currentMemory unit='KiB'>2097152</currentMemory>
  <vcpu>2</vcpu>
  <os><type>hvm</type></os>
  <devices>
    <disk type='file' device='disk'>
      <source file='/guest/diskimage1'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <interface type='network'>
      <mac address='52:54:00:cc:dd:ee'/>
      <source network='default'/>
      <target dev='testnet0'/>
    </interface>
    <console type='pty'/>
  </devices>
</domain>
"""
_TEST_POOL: Final = "<pool type='dir'><name>default-pool</name><target><path>/default-pool</path></target></pool>"


@dataclass(slots=True)
class _Running:
    definition: Definition
    memory: int
    started: float
    used: float = 0.0
    since: float | None = None
    echo: list[_Echo] = field(default_factory=list)
    names: tuple[Definition, DeviceNames] | None = None

    def devices(self) -> DeviceNames:
        """Read once for each description."""
        if self.names is None or self.names[0] is not self.definition:
            self.names = (self.definition, device_names(self.definition))
        return self.names[1]


class _Echo:
    """A console whose guest says back what it is told (ByteStream)."""

    def __init__(self, name: str, log: bytearray) -> None:
        self._queue: asyncio.Queue[bytes] = asyncio.Queue(64)
        self._is_open = True
        self._log = log
        prompt = f"\r\n{name} login: ".encode()
        self._queue.put_nowait(prompt)
        log += prompt

    async def read(self, size: int) -> bytes:
        if not self._is_open:
            return b""
        return await self._queue.get()

    async def write(self, data: bytes) -> None:
        await self._queue.put(data)
        if len(self._log) < MAX_KEPT:
            self._log += data

    async def finish(self) -> None:
        return

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            if self._queue.full():
                self._queue.get_nowait()
            self._queue.put_nowait(b"")


class MemoryHypervisor:
    """Notes that domains run (Hypervisor). A guest that is asked to shut down does so at once."""

    platform = Platform(EMULATOR)

    def __init__(self) -> None:
        self._running: dict[bytes, _Running] = {}
        self._logs: dict[bytes, bytearray] = {}
        self._on_happening: OnHappening | None = None

    async def recover(self, on_happening: OnHappening) -> tuple[Sequence[Found], Sequence[Ended]]:
        self._on_happening = on_happening
        return (), ()

    def check(self, domain: Domain) -> Sequence[Finding]:
        # What runs nowhere lacks no device; only its size has to be possible.
        found = domain_xml.check(domain)
        refuse([one for one in found if one.path.startswith(("domain/vcpu", "domain/memory"))])
        return [one for one in found if one.verdict is Support.IGNORED]

    async def start(self, domain: Domain, number: int, paused: bool, saved: Path | None = None) -> Domain:
        now = time.monotonic()
        running = live(domain, number)
        definition = definition_of(running)
        since = None if paused else now
        self._running[definition.uuid] = _Running(definition, definition.current, now, 0.0, since)
        return running

    async def keep_live(self, uuid: bytes, text: str) -> None:
        running = self._running.get(uuid)
        if running is not None:
            running.definition = definition_of(domain_xml.parse(text))

    def happen(self, happening: Happening) -> None:
        """Have something happen to a domain, as its guest would."""
        if isinstance(happening, Ended):
            self._forget(happening.uuid)
        assert self._on_happening is not None
        self._on_happening(happening)

    async def stop(self, uuid: bytes) -> None:
        self._forget(uuid)

    def _forget(self, uuid: bytes) -> None:
        running = self._running.pop(uuid, None)
        if running is not None:
            for echo in running.echo:
                echo.close()

    async def save(
        self, uuid: bytes, path: Path, note: str, paused: bool | None, progress: Progress = unwatched
    ) -> None:
        """A file with a note and no machine."""
        running = self._running[uuid]
        spec = MachineSpec(None, memory=running.memory << 10, cpus=running.definition.vcpus)
        is_paused = running.since is None if paused is None else paused
        saved_vm.write_empty(path, SavedHead("test", time.time_ns(), "none", spec, 0, 0, is_paused, note))
        self._forget(uuid)

    async def shutdown(self, uuid: bytes, agent: bool) -> None:
        self.happen(Ended(uuid, End.POWER_OFF))

    async def reboot(self, uuid: bytes, agent: bool) -> None:
        self._running[uuid].started = time.monotonic()
        self.happen(Rebooted(uuid))

    async def reset(self, uuid: bytes) -> None:
        self._running[uuid].started = time.monotonic()
        self.happen(Rebooted(uuid))

    async def suspend(self, uuid: bytes) -> None:
        running = self._running[uuid]
        if running.since is not None:
            running.used += time.monotonic() - running.since
            running.since = None

    async def resume(self, uuid: bytes) -> None:
        self._running[uuid].since = time.monotonic()

    async def set_memory(self, uuid: bytes, kib: int) -> None:
        self._running[uuid].memory = kib

    async def set_vcpus(self, uuid: bytes, count: int) -> None:
        return

    def trial(self, uuid: bytes) -> DeviceChanges:
        return self  # only documents are made anyway

    async def attach(self, uuid: bytes, live: Domain, device: NamedDevice) -> Domain:
        return named(changes.attach(live, device))

    async def detach(self, uuid: bytes, live: Domain, device: NamedDevice) -> Domain | None:
        return changes.detach(live, device)

    async def update(self, uuid: bytes, live: Domain, device: NamedDevice) -> Domain:
        return named(changes.update(live, device))

    async def resize_disk(self, uuid: bytes, index: int, size: int) -> None:
        return

    async def statistics(self, uuid: bytes) -> MachineStatistics:
        running = self._running[uuid]
        used = running.used + (0.0 if running.since is None else time.monotonic() - running.since)
        cpu_time = int(used * 1e9)
        definition = running.definition
        count = definition.vcpus
        names = running.devices()
        return MachineStatistics(
            cpu_time,
            tuple(cpu_time // count for _ in range(count)),
            running.memory,
            running.memory,
            tuple(BlockStatistics() for _ in names.disks),
            tuple(NicStatistics() for _ in names.nics),
        )

    async def addresses(self, uuid: bytes, source: int) -> Sequence[GuestInterface]:
        nics = self._running[uuid].devices().nics
        return [
            GuestInterface(nic.target, nic.mac, [IpAddress(0, f"192.168.122.{3 + index % 250}", 24)])
            for index, nic in enumerate(nics)
        ]

    async def console(self, uuid: bytes, device: str, force: bool) -> ByteStream:
        running = self._running[uuid]
        echo = _Echo(running.definition.name, self._logs.setdefault(uuid, bytearray()))
        running.echo.append(echo)
        return echo

    async def console_log(self, uuid: bytes, since: int, limit: int) -> Scrollback:
        log = self._logs.get(uuid, bytearray())
        start = max(0, len(log) + since) if since < 0 else min(since, len(log))
        return Scrollback(0, start, len(log), bytes(log[start : start + limit]))

    async def agent(self, uuid: bytes, command: str, arguments: Mapping[str, object], timeout: float) -> object:
        raise ApiError(Code.AGENT_UNRESPONSIVE, Origin.DOMAIN, "Guest agent is not responding: there is no guest")

    async def close(self) -> None:
        for uuid in list(self._running):
            await self.stop(uuid)


class MemoryVolumes:
    """A pool in memory (VolumeBackend)."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._volumes: dict[str, Volume] = {}
        self._contents: dict[str, bytearray] = {}
        self._trash: dict[str, tuple[Volume, bytearray]] = {}

    async def build(self) -> None:
        return

    async def open(self) -> None:
        return

    async def remove(self) -> None:
        self._volumes.clear()
        self._contents.clear()

    async def space(self) -> tuple[int, int]:
        return POOL_SIZE, POOL_SIZE - sum(each.allocation for each in self._volumes.values())

    async def all(self) -> Sequence[Volume]:
        return [self._volumes[name] for name in sorted(self._volumes)]

    async def create(self, plan: VolumePlan, source: Volume | None, progress: Progress) -> None:
        capacity = plan.capacity or (source.capacity if source else 0)
        if plan.allocation > POOL_SIZE:
            raise ApiError(Code.OPERATION_FAILED, Origin.STORAGE,
                           f"operation failed: not enough free space in pool for volume '{plan.name}'")  # fmt: skip
        self._volumes[plan.name] = Volume(
            plan.name, f"{self.path}/{plan.name}", capacity, plan.allocation, plan.format, plan.backing
        )
        self._contents[plan.name] = bytearray(self._contents.get(source.name, b"") if source else b"")

    async def delete(self, volume: Volume) -> None:
        self._volumes.pop(volume.name, None)
        self._contents.pop(volume.name, None)

    async def resize(self, volume: Volume, size: int, shrink: bool) -> None:
        self._volumes[volume.name] = replace(volume, capacity=size)
        del self._contents[volume.name][size:]

    async def wipe(self, volume: Volume, progress: Progress) -> None:
        size = len(self._contents[volume.name])
        self._contents[volume.name].clear()
        progress(size, size)

    def trash_place(self, volume: Volume) -> str:
        return f"{self.path}/.trash/{time.time_ns()}-{volume.name}"

    async def set_aside(self, volume: Volume, place: str) -> None:
        self._trash[place] = (self._volumes.pop(volume.name), self._contents.pop(volume.name))

    async def bring_back(self, place: str, name: str) -> None:
        if name in self._volumes:
            raise volume_exists(name)
        volume, contents = self._trash.pop(place)
        self._volumes[name], self._contents[name] = replace(volume, name=name), contents

    async def discard(self, place: str) -> None:
        self._trash.pop(place, None)

    async def upload(self, volume: Volume, offset: int, length: int) -> VolumeStream:
        return _MemoryStream(self._contents[volume.name], offset, length or volume.capacity - offset, volume)

    async def download(self, volume: Volume, offset: int, length: int) -> VolumeStream:
        return _MemoryStream(self._contents[volume.name], offset, length or max(0, volume.capacity - offset), volume)


class _MemoryStream:
    """A part of a volume (VolumeStream)."""

    def __init__(self, data: bytearray, offset: int, length: int, volume: Volume) -> None:
        if offset < 0 or length < 0 or offset + length > volume.capacity:
            raise invalid_argument(f"the volume has {volume.capacity} bytes; the range goes beyond", Origin.STORAGE)
        self._data = data
        self._at = offset
        self._end = offset + length

    async def read(self, size: int) -> bytes:
        size = min(size, self._end - self._at)
        found = bytes(self._data[self._at : self._at + size])
        self._at += size
        return found + bytes(size - len(found))

    async def write(self, data: bytes) -> None:
        end = self._at + len(data)
        if end > self._end:
            raise invalid_argument("more data than the volume, or what was announced, has room for", Origin.STORAGE)
        if end > MAX_KEPT:
            raise unsupported(f"a volume in memory keeps {MAX_KEPT} bytes", Origin.STORAGE)
        if len(self._data) < end:
            self._data += bytes(end - len(self._data))
        self._data[self._at : end] = data
        self._at = end

    async def hole(self) -> int:
        size = 0 if self._at < len(self._data) else self._end - self._at
        self._at += size
        return size

    async def skip(self, size: int) -> None:
        if self._at + size > self._end:
            raise invalid_argument("more data than the volume, or what was announced, has room for", Origin.STORAGE)
        kept = self._data[self._at : self._at + size]
        self._data[self._at : self._at + size] = bytes(len(kept))
        self._at += size

    async def finish(self) -> None:
        return

    def close(self) -> None:
        return


class MemoryDriver:
    """`test:///default` (api.Driver)."""

    kind = "TEST"

    def __init__(self, notify: Notify, uri: str = "test:///default") -> None:
        self.uri = uri
        self.records = keeper = MemoryKeeper()
        self.hypervisor = MemoryHypervisor()
        self.domains = DomainBook(self.hypervisor, keeper, notify)
        self.snapshots = SnapshotBook(self.domains, keeper, NoContents(), notify)
        self.networks = NetworkBook(keeper, notify)
        self.pools = PoolBook(keeper, notify, MemoryVolumes)
        self.secrets = SecretBook(None, notify)
        self.node = HostNode(("test",), EMULATOR)

    async def start(self) -> None:
        await self.records.open()
        await self.domains.open()
        await self.networks.open(with_default=True)
        await self.pools.open()
        reference = await self.domains.define(_TEST_DOMAIN, "first start")
        await self.domains.start(reference.uuid, False)
        pool = await self.pools.define(_TEST_POOL, "first start")
        await self.pools.start(pool.uuid, False)

    async def close(self) -> None:
        await self.domains.close()
        await self.records.close()
