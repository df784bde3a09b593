"""What a driver gives: domains, snapshots, networks, storage and the host, for one connection URI.

Objects are named by UUID (16 bytes), volumes by their pool's and their own name: a handle that a client keeps never
goes stale. Everything is a coroutine of the daemon's event loop; what would block runs in a thread. Every method
raises ApiError with libvirt's code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, Protocol

from manor.base.errors import ManorError
from manor.domain.xml.domain import Domain as DomainDocument
from manor.drivers.archive import Revision, Trashed
from manor.rpc.protocol.records import (
    Domain,
    GuestInterface,
    Network,
    Secret,
    Snapshot,
    StoragePool,
    StorageVol,
    TypedParam,
)


class Kind(Enum):
    """What a notice is about; the values are names of the catalog's event messages, without their prefix."""

    LIFECYCLE = "lifecycle"
    REBOOT = "reboot"
    BALLOON = "balloon_change"
    DEVICE_ADDED = "device_added"
    DEVICE_REMOVED = "device_removed"
    DEVICE_REMOVAL_FAILED = "device_removal_failed"
    METADATA = "metadata_change"
    AGENT = "agent_lifecycle"
    NETWORK = "network"
    POOL = "pool"
    POOL_REFRESH = "pool_refresh"
    SECRET = "secret"
    SECRET_VALUE = "secret_value"


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that happened. values: as the event message carries them after its subject."""

    kind: Kind
    subject: Domain | Network | StoragePool | Secret
    values: tuple[object, ...] = ()


Notify = Callable[[Notice], None]
Progress = Callable[[int, int], None]
"""Told (done, total) in bytes by work that lasts, from any thread. Raises Cancelled if the work is to stop, which then
undoes what it began."""


def unwatched(done: int, total: int) -> None:
    """Progress that nobody looks at."""


class Cancelled(ManorError):
    """Somebody wants the work to stop."""


@dataclass(frozen=True, slots=True)
class DomainInfo:
    """State of a domain. Memory: KiB; cpu_time: ns."""

    state: int
    reason: int
    max_memory: int
    memory: int
    vcpus: int
    max_vcpus: int
    cpu_time: int


@dataclass(frozen=True, slots=True)
class DomainFlags:
    """What lists are filtered by. updated: the configuration is no longer what was started."""

    active: bool
    persistent: bool
    autostart: bool
    managed_save: bool
    snapshots: bool
    state: int
    updated: bool = False


@dataclass(frozen=True, slots=True)
class BlockStatistics:
    """Counters of one disk; bytes and requests, times in ns."""

    rd_reqs: int = 0
    rd_bytes: int = 0
    wr_reqs: int = 0
    wr_bytes: int = 0
    fl_reqs: int = 0


@dataclass(frozen=True, slots=True)
class NicStatistics:
    """Counters of one interface, from the guest's side: rx is what the guest received."""

    rx_bytes: int = 0
    rx_packets: int = 0
    tx_bytes: int = 0
    tx_packets: int = 0
    rx_drop: int = 0
    tx_drop: int = 0


@dataclass(frozen=True, slots=True)
class MachineStatistics:
    """Counters of a running VM. cpu_time: ns over all vCPUs. disks, nics: in the order of the machine (DeviceNames).
    memory, rss: KiB."""

    cpu_time: int = 0
    vcpu_times: tuple[int, ...] = ()
    memory: int = 0
    rss: int = 0
    disks: tuple[BlockStatistics, ...] = ()
    nics: tuple[NicStatistics, ...] = ()
    guest_memory: Mapping[int, int] = field(default_factory=dict)
    """virDomainMemoryStatTags -> KiB."""


class Scrollback(NamedTuple):
    """A part of what a console printed. Positions are bytes since its log began, over all runs of the domain.

    first: the oldest that is kept; start: of data; end: behind the latest.
    """

    first: int
    start: int
    end: int
    data: bytes


@dataclass(frozen=True, slots=True)
class DiskName:
    """What a disk is known by. source: file, device, export or volume."""

    target: str
    source: str
    alias: str = ""


@dataclass(frozen=True, slots=True)
class NicName:
    """What an interface is known by."""

    target: str
    mac: str
    alias: str = ""


@dataclass(frozen=True, slots=True)
class DeviceNames:
    """What a domain's counters are of, in the order of MachineStatistics."""

    disks: tuple[DiskName, ...] = ()
    nics: tuple[NicName, ...] = ()


@dataclass(frozen=True, slots=True)
class PoolInfo:
    """A pool. Bytes."""

    state: int
    capacity: int
    allocation: int
    available: int


@dataclass(frozen=True, slots=True)
class VolumeInfo:
    """A volume. Bytes. type: 0 file, 2 directory."""

    type: int
    capacity: int
    allocation: int


class ByteStream(Protocol):
    """One end of a stream to or from the driver."""

    async def read(self, size: int) -> bytes:
        """At least one byte; nothing at the end."""

    async def write(self, data: bytes) -> None:
        """Returns when there is room for more."""

    async def finish(self) -> None:
        """The client has sent all it had. Raises ApiError if that was not right."""

    def close(self) -> None:
        """The stream is over, however it ended. Never raises."""


class VolumeStream(ByteStream, Protocol):
    """A part of a volume: zeros need not be carried."""

    async def hole(self) -> int:
        """Bytes of zeros that come next, and are passed over; 0 where there is data, or nothing more."""

    async def skip(self, size: int) -> None:
        """As if `size` zeros were written."""


Change = Callable[[DomainDocument], DomainDocument]
"""A change of a description. Raises ConfigError, ApiError to refuse."""


class Domains(Protocol):
    """Domains of a driver. uuid: of the domain."""

    async def all(self) -> Sequence[tuple[Domain, DomainFlags]]: ...
    async def find(self, uuid: bytes) -> Domain: ...
    async def find_name(self, name: str) -> Domain: ...
    async def find_id(self, number: int) -> Domain: ...
    async def flags(self, uuid: bytes) -> DomainFlags: ...
    async def state(self, uuid: bytes) -> tuple[int, int]: ...
    async def info(self, uuid: bytes, ask: bool = True) -> DomainInfo:
        """ask: the machine, for its processor time; 0 stands there without."""

    async def xml(self, uuid: bytes, inactive: bool, secure: bool) -> str: ...
    async def vcpus(self, uuid: bytes, config: bool) -> tuple[int, int]: ...
    async def os_type(self, uuid: bytes) -> str: ...
    async def devices(self, uuid: bytes) -> DeviceNames: ...
    async def messages(self, uuid: bytes) -> Sequence[str]: ...
    async def check(self, xml: str) -> None: ...
    async def completed(self, xml: str) -> str: ...
    async def define(self, xml: str, who: str) -> Domain: ...
    async def undefine(self, uuid: bytes, who: str, flags: int) -> None: ...
    async def create_xml(self, xml: str, paused: bool) -> Domain: ...
    async def start(self, uuid: bytes, paused: bool, fresh: bool = False) -> Domain: ...
    async def destroy(self, uuid: bytes, graceful: bool) -> None: ...
    async def shutdown(self, uuid: bytes, flags: int) -> None: ...
    async def reboot(self, uuid: bytes, flags: int) -> None: ...
    async def reset(self, uuid: bytes) -> None: ...
    async def suspend(self, uuid: bytes) -> None: ...
    async def resume(self, uuid: bytes) -> None: ...
    async def set_autostart(self, uuid: bytes, on: bool) -> None: ...
    async def rename(self, uuid: bytes, name: str, who: str) -> None: ...
    async def set_memory(self, uuid: bytes, kib: int, live: bool, config: bool, maximum: bool) -> None: ...
    async def set_vcpus(self, uuid: bytes, count: int, live: bool, config: bool, maximum: bool) -> None: ...
    async def edit(self, uuid: bytes, change: Change, live: bool, config: bool, who: str) -> None: ...
    async def attach(self, uuid: bytes, xml: str, live: bool, config: bool, who: str) -> None: ...
    async def detach(self, uuid: bytes, xml: str, live: bool, config: bool, who: str) -> None: ...
    async def detach_alias(self, uuid: bytes, alias: str, live: bool, config: bool, who: str) -> None: ...
    async def update(self, uuid: bytes, xml: str, live: bool, config: bool, who: str) -> None: ...
    async def statistics(self, uuid: bytes) -> MachineStatistics: ...
    async def addresses(self, uuid: bytes, source: int) -> Sequence[GuestInterface]: ...
    async def console(self, uuid: bytes, device: str | None, force: bool) -> ByteStream: ...
    async def console_log(self, uuid: bytes, since: int, limit: int) -> Scrollback: ...
    async def agent(self, uuid: bytes, command: str, arguments: Mapping[str, object], timeout: float) -> object: ...
    async def save(
        self, uuid: bytes, path: str | None, xml: str | None = None, flags: int = 0, progress: Progress = unwatched
    ) -> None: ...
    async def restore(self, path: str, xml: str | None = None, flags: int = 0) -> None: ...
    async def remove_saved(self, uuid: bytes) -> None: ...
    async def saved_xml(self, path: str, secure: bool) -> str: ...
    async def set_saved_xml(self, path: str, xml: str, flags: int) -> None: ...
    async def managed_xml(self, uuid: bytes, secure: bool) -> str: ...
    async def set_managed_xml(self, uuid: bytes, xml: str, flags: int) -> None: ...
    async def block_resize(self, uuid: bytes, disk: str, size: int) -> None: ...
    async def block_info(self, uuid: bytes, disk: str) -> tuple[int, int, int]: ...


class Snapshots(Protocol):
    """Snapshots of domains. uuid: of the domain."""

    async def all(self, uuid: bytes) -> Sequence[Snapshot]: ...
    async def find(self, uuid: bytes, name: str) -> Snapshot: ...
    async def create(self, uuid: bytes, xml: str, flags: int) -> Snapshot: ...
    async def xml(self, uuid: bytes, name: str) -> str: ...
    async def parent(self, uuid: bytes, name: str) -> str | None: ...
    async def current(self, uuid: bytes) -> str | None: ...
    async def revert(self, uuid: bytes, name: str, flags: int) -> None: ...
    async def delete(self, uuid: bytes, name: str, flags: int) -> None: ...


@dataclass(frozen=True, slots=True)
class ObjectFlags:
    """What lists of networks and pools are filtered by."""

    active: bool
    persistent: bool
    autostart: bool


class Networks(Protocol):
    """Networks of a driver."""

    async def all(self) -> Sequence[tuple[Network, ObjectFlags]]: ...
    async def find(self, uuid: bytes) -> Network: ...
    async def find_name(self, name: str) -> Network: ...
    async def flags(self, uuid: bytes) -> ObjectFlags: ...
    async def xml(self, uuid: bytes) -> str: ...
    async def bridge(self, uuid: bytes) -> str: ...
    async def define(self, xml: str, who: str) -> Network: ...
    async def create_xml(self, xml: str) -> Network: ...
    async def start(self, uuid: bytes) -> None: ...
    async def stop(self, uuid: bytes) -> None: ...
    async def undefine(self, uuid: bytes, who: str) -> None: ...
    async def set_autostart(self, uuid: bytes, on: bool) -> None: ...
    async def edit(self, uuid: bytes, change: Callable[[str], str], who: str) -> None: ...


class Secrets(Protocol):
    """Secrets of a driver."""

    async def all(self) -> Sequence[tuple[Secret, bool, bool]]:
        """(secret, whether it is ephemeral, whether it is private)."""

    async def find(self, uuid: bytes) -> Secret: ...
    async def find_usage(self, usage_type: int, usage_id: str) -> Secret: ...
    async def xml(self, uuid: bytes) -> str: ...
    async def define(self, xml: str) -> Secret: ...
    async def undefine(self, uuid: bytes) -> None: ...
    async def set_value(self, uuid: bytes, value: bytes) -> None: ...
    async def value(self, uuid: bytes) -> bytes: ...


class Pools(Protocol):
    """Storage pools of a driver, and the volumes in them. pool, volume: names where a volume is meant."""

    async def all(self) -> Sequence[tuple[StoragePool, ObjectFlags]]: ...
    async def find(self, uuid: bytes) -> StoragePool: ...
    async def find_name(self, name: str) -> StoragePool: ...
    async def find_target(self, path: str) -> StoragePool: ...
    async def flags(self, uuid: bytes) -> ObjectFlags: ...
    async def info(self, uuid: bytes) -> PoolInfo: ...
    async def xml(self, uuid: bytes) -> str: ...
    async def define(self, xml: str, who: str) -> StoragePool: ...
    async def create_xml(self, xml: str, build: bool) -> StoragePool: ...
    async def build(self, uuid: bytes) -> None: ...
    async def start(self, uuid: bytes, build: bool) -> None: ...
    async def stop(self, uuid: bytes) -> None: ...
    async def delete(self, uuid: bytes) -> None: ...
    async def undefine(self, uuid: bytes, who: str) -> None: ...
    async def refresh(self, uuid: bytes) -> None: ...
    async def set_autostart(self, uuid: bytes, on: bool) -> None: ...
    async def volumes(self, uuid: bytes) -> Sequence[StorageVol]: ...
    async def find_volume(self, uuid: bytes, name: str) -> StorageVol: ...
    async def find_volume_path(self, path: str) -> StorageVol: ...
    async def volume_info(self, pool: str, volume: str) -> VolumeInfo: ...
    async def volume_xml(self, pool: str, volume: str) -> str: ...
    async def create_volume(
        self, uuid: bytes, xml: str, source: StorageVol | None, flags: int, progress: Progress = unwatched
    ) -> StorageVol: ...
    async def delete_volume(self, pool: str, volume: str) -> None: ...
    async def resize_volume(self, pool: str, volume: str, size: int, flags: int) -> None: ...
    async def wipe_volume(self, pool: str, volume: str, progress: Progress = unwatched) -> None: ...
    async def trash_place(self, pool: str, volume: str) -> str: ...
    async def set_aside_volume(self, pool: str, volume: str, place: str) -> None: ...
    async def bring_back_volume(self, uuid: bytes, place: str, name: str) -> StorageVol: ...
    async def discard_volume(self, uuid: bytes, place: str) -> None: ...
    async def upload(self, pool: str, volume: str, offset: int, length: int) -> VolumeStream: ...
    async def download(self, pool: str, volume: str, offset: int, length: int) -> VolumeStream: ...


class Records(Protocol):
    """What was: states of descriptions, and what was deleted. Raises HostError.

    kind: `domains`, `networks`, `pools`. uuid: of the object, or of a volume's pool.
    """

    async def revisions(self, kind: str, uuid: bytes) -> Sequence[Revision]: ...
    async def trash(self) -> Sequence[Trashed]: ...
    async def trashed(self, number: int) -> Trashed: ...
    async def expired(self) -> Sequence[Trashed]: ...
    async def forget(self, number: int) -> None: ...
    async def put(self, kind: str, uuid: bytes, name: str, xml: str, who: str, place: str) -> int: ...


@dataclass(frozen=True, slots=True)
class HostInfo:
    """The host. memory: KiB."""

    model: str
    memory: int
    cpus: int
    mhz: int
    nodes: int
    sockets: int
    cores: int
    threads: int


@dataclass(frozen=True, slots=True)
class HostDevice:
    """A device of the host. capability: its XML, an element <capability>. path: in /sys, "" for the host itself."""

    name: str
    parent: str | None
    path: str
    driver: str
    kinds: tuple[str, ...]
    capability: str


class Node(Protocol):
    """The host that a driver's domains run on."""

    def info(self) -> HostInfo: ...
    def hostname(self) -> str: ...
    def capabilities(self) -> str: ...
    def domain_capabilities(self, arch: str | None, machine: str | None, virt_type: str | None) -> str: ...
    def free_memory(self) -> int: ...
    def cpu_statistics(self, cpu: int) -> Sequence[tuple[str, int]]: ...
    def memory_statistics(self) -> Sequence[tuple[str, int]]: ...
    def devices(self) -> Sequence[HostDevice]: ...
    def firmware(self) -> str:
        """The SMBIOS texts, as libvirt's `sysinfo` document. Raises ApiError if the host shows none."""

    def free_pages(self, size: int) -> int:
        """Pages of `size` KiB that are free."""

    def merging(self) -> Mapping[str, int]:
        """The state of the kernel's samepage merging, by libvirt's names; empty if it has none."""


class Driver(Protocol):
    """One connection URI's worth of objects, shared by all clients that open it.

    kind: as `virConnectGetType` answers. uri: what it is known by.
    """

    @property
    def kind(self) -> str: ...
    @property
    def uri(self) -> str: ...
    @property
    def domains(self) -> Domains: ...
    @property
    def snapshots(self) -> Snapshots: ...
    @property
    def networks(self) -> Networks: ...
    @property
    def pools(self) -> Pools: ...
    @property
    def secrets(self) -> Secrets: ...
    @property
    def node(self) -> Node: ...
    @property
    def records(self) -> Records: ...

    async def start(self) -> None:
        """Find what is there. Raises HostError if the driver cannot work."""

    async def close(self) -> None:
        """Let go of everything; VMs live on."""


def parameter(field_name: str, kind: int, value: int | float | bool | str) -> TypedParam:
    """A typed parameter."""
    return TypedParam(field_name, int(kind), value)
