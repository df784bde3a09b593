"""What runs domains, as `drivers.domains` needs it: a process each, or nothing but a note that it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from manor.drivers.api import ByteStream, MachineStatistics, Scrollback
from manor.drivers.definition import Definition
from manor.rpc.protocol.records import GuestInterface


@dataclass(frozen=True, slots=True)
class Found:
    """A VM that ran when the driver started. state, reason: libvirt's."""

    uuid: bytes
    number: int
    live: str
    state: int
    reason: int


@dataclass(frozen=True, slots=True)
class Ended:
    """How a VM ended. reason: virDomainShutoffReason. is_crash: the guest's or the VMM's."""

    uuid: bytes
    reason: int
    is_crash: bool = False
    detail: str = ""


OnEnd = Callable[[Ended], None]


class Hypervisor(Protocol):
    """Runs domains by UUID. Every method raises ApiError or HostError. can_hotplug: devices come and go at any time."""

    can_hotplug: bool

    async def recover(self, on_end: OnEnd) -> tuple[Sequence[Found], Sequence[Ended]]:
        """VMs that run already, and those that ended while nobody looked. on_end: called for every later end."""

    def check(self, definition: Definition) -> None:
        """Refuse what could not be run."""

    async def start(self, definition: Definition, number: int, live: str, paused: bool) -> str:
        """Run it; returns its XML with what is known only now."""

    async def stop(self, uuid: bytes) -> None:
        """Pull the plug; returns when it is gone."""

    async def shutdown(self, uuid: bytes, agent: bool) -> None:
        """Ask the guest to end."""

    async def reboot(self, uuid: bytes, agent: bool) -> None: ...
    async def reset(self, uuid: bytes) -> None: ...
    async def suspend(self, uuid: bytes) -> None: ...
    async def resume(self, uuid: bytes) -> None: ...
    async def set_memory(self, uuid: bytes, kib: int) -> None: ...
    async def resize_disk(self, uuid: bytes, index: int, size: int) -> None: ...
    async def statistics(self, uuid: bytes) -> MachineStatistics: ...
    async def addresses(self, uuid: bytes, source: int) -> Sequence[GuestInterface]: ...
    async def console(self, uuid: bytes, device: str, force: bool) -> ByteStream: ...
    async def console_log(self, uuid: bytes, since: int, limit: int) -> Scrollback:
        """What the serial console printed, also of a domain that does not run now (base.console_log.read_log)."""

    async def agent(self, uuid: bytes, command: str, arguments: Mapping[str, object], timeout: float) -> object: ...
    async def close(self) -> None: ...
