"""What runs domains: VMM processes, another hypervisor's, or nothing but a note that they run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol, runtime_checkable

from manor.domain.definition import Platform
from manor.domain.state import PausedReason
from manor.domain.xml.changes import NamedDevice
from manor.domain.xml.domain import Domain
from manor.domain.xml.property import Finding
from manor.drivers.api import ByteStream, MachineStatistics, Progress, Scrollback, unwatched
from manor.drivers.errors import unsupported
from manor.rpc.protocol.records import GuestInterface


@dataclass(frozen=True, slots=True)
class Found:
    """A VM that ran when the driver started. live: its document. is_paused: it waits to be resumed.
    has_crashed: it is paused because its guest crashed. started_ns: when it was started, ns since 1970."""

    uuid: bytes
    number: int
    live: str
    is_paused: bool = False
    has_crashed: bool = False
    started_ns: int = 0


class End(Enum):
    """How a VM ended."""

    POWER_OFF = "power-off"
    """By its guest, in order."""
    REBOOT = "reboot"
    """Its guest rebooted, and was to be stopped then."""
    STOPPED = "stopped"
    """Somebody pulled the plug, past the driver."""
    SAVED = "saved"
    """Its state is in a file."""
    CRASH = "crash"
    """Its guest crashed."""
    LOST = "lost"
    """Its process is gone without a word."""
    FAILED = "failed"
    """Its process gave up: the host refused it something, or it has a bug."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A VM ended by itself, or was ended past the driver. detail: for the log."""

    uuid: bytes
    how: End
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Paused:
    """A VM was paused by itself, or past the driver."""

    uuid: bytes
    reason: PausedReason


@dataclass(frozen=True, slots=True)
class Resumed:
    """A VM was resumed past the driver."""

    uuid: bytes


@dataclass(frozen=True, slots=True)
class ShuttingDown:
    """The guest has begun to power off."""

    uuid: bytes


@dataclass(frozen=True, slots=True)
class Rebooted:
    """The guest rebooted, by itself or because it was asked."""

    uuid: bytes


@dataclass(frozen=True, slots=True)
class Crashed:
    """The guest crashed, and its process is there for someone to look at. is_paused: it has been paused already."""

    uuid: bytes
    detail: str = ""
    is_paused: bool = False


@dataclass(frozen=True, slots=True)
class Removed:
    """The guest has let go of a device that it was asked for; is_done: False if it will not."""

    uuid: bytes
    alias: str
    is_done: bool = True


@dataclass(frozen=True, slots=True)
class AgentChanged:
    """The guest's agent came or went."""

    uuid: bytes
    is_connected: bool


Happening = Ended | Paused | Resumed | ShuttingDown | Rebooted | Crashed | Removed | AgentChanged
"""What hypervisors tell without being asked."""
OnHappening = Callable[[Happening], None]


class DeviceChanges(Protocol):
    """How what runs changes; see Hypervisor."""

    async def attach(self, uuid: bytes, live: Domain, device: NamedDevice) -> Domain: ...
    async def detach(self, uuid: bytes, live: Domain, device: NamedDevice) -> Domain | None: ...
    async def update(self, uuid: bytes, live: Domain, device: NamedDevice) -> Domain: ...
    async def set_vcpus(self, uuid: bytes, count: int) -> None: ...


@runtime_checkable
class Trying(Protocol):
    """A hypervisor that can tell what it would do."""

    def trial(self, uuid: bytes) -> DeviceChanges:
        """What makes the same documents and refusals, and leaves the VM alone."""


class NoSaving:
    """For hypervisors whose VMs cannot be written into files."""

    async def save(
        self, uuid: bytes, path: Path, note: str, paused: bool | None, progress: Progress = unwatched
    ) -> None:
        raise unsupported("the state of a running domain is not written to a file here; shut it down instead")


class Hypervisor(Protocol):
    """Runs domains by UUID. Every method raises ApiError, ConfigError or HostError. platform: what descriptions get."""

    platform: Platform

    async def recover(self, on_happening: OnHappening) -> tuple[Sequence[Found], Sequence[Ended]]:
        """VMs that run already, and those that ended while nobody looked. on_happening: called for all that follows,
        on the event loop."""

    def check(self, domain: Domain) -> Sequence[Finding]:
        """What will not be as the description asks, without harm. Raises ConfigError for what could not be run."""

    async def start(self, domain: Domain, number: int, paused: bool, saved: Path | None = None) -> Domain:
        """Run it; returns its live document, with what is known only now. saved: the file that it goes on with."""

    async def save(
        self, uuid: bytes, path: Path, note: str, paused: bool | None, progress: Progress = unwatched
    ) -> None:
        """Write it into a file, with a note, and end it; it is gone then. paused: whether it shall be when it goes on;
        None: as it is. If that fails it goes on; so it does if `progress` raises Cancelled, which is raised then."""

    async def keep_live(self, uuid: bytes, text: str) -> None:
        """Have the live document of a running VM for `recover`."""

    async def stop(self, uuid: bytes) -> None:
        """Pull the plug; returns when it is gone."""

    async def shutdown(self, uuid: bytes, agent: bool) -> None:
        """Ask the guest to end."""

    async def reboot(self, uuid: bytes, agent: bool) -> None:
        """Ask the guest to start again; `Rebooted` tells when it has."""

    async def reset(self, uuid: bytes) -> None:
        """Start its machine again, whatever the guest is doing; `Rebooted` tells when that is done."""

    async def suspend(self, uuid: bytes) -> None: ...
    async def resume(self, uuid: bytes) -> None: ...
    async def set_memory(self, uuid: bytes, kib: int) -> None: ...
    async def set_vcpus(self, uuid: bytes, count: int) -> None: ...

    async def attach(self, uuid: bytes, live: Domain, device: NamedDevice) -> Domain:
        """Plug a device in; returns the live document with it, its alias and its address."""

    async def detach(self, uuid: bytes, live: Domain, device: NamedDevice) -> Domain | None:
        """Unplug a device, which is one of `live`. None: the guest was asked, and `Removed` tells what it did."""

    async def update(self, uuid: bytes, live: Domain, device: NamedDevice) -> Domain:
        """Change a device: its medium, its cable, its far end."""

    async def resize_disk(self, uuid: bytes, index: int, size: int) -> None:
        """index: among the disks of the machine (domain.xml.live.machine_order). size: bytes."""

    async def statistics(self, uuid: bytes) -> MachineStatistics:
        """disks: in the order of the machine."""

    async def addresses(self, uuid: bytes, source: int) -> Sequence[GuestInterface]: ...
    async def console(self, uuid: bytes, device: str, force: bool) -> ByteStream: ...
    async def console_log(self, uuid: bytes, since: int, limit: int) -> Scrollback:
        """What the serial console printed, also of a domain that does not run now (base.console_log.read_log)."""

    async def agent(self, uuid: bytes, command: str, arguments: Mapping[str, object], timeout: float) -> object: ...
    async def close(self) -> None: ...
