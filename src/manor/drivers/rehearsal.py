"""Trying a change: a copy of a driver's domains, in which changes do all that they do but reach no VM, disk or client.

The code that changes domains is the same, so that what a rehearsal says is what would happen.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from manor.base.errors import ApiError
from manor.domain.xml import changes
from manor.domain.xml.changes import NamedDevice
from manor.domain.xml.domain import Domain
from manor.domain.xml.live import named
from manor.domain.xml.property import Finding
from manor.drivers.api import ByteStream, Driver, MachineStatistics, Scrollback
from manor.drivers.errors import unsupported
from manor.drivers.hypervisor import Ended, Found, Hypervisor, LiveChange, OnHappening
from manor.drivers.keeper import Keeper
from manor.drivers.store import Stored
from manor.rpc.protocol.records import GuestInterface

_KEPT = ("uri", "kind", "node")


def rehearse(driver: Driver, is_off: bool = False) -> Driver:
    """A driver whose domains can be changed without any effect; all else of it refuses.

    is_off: as if no domain ran. Raises ApiError if the driver cannot.
    """
    book: Any = driver.domains
    if not hasattr(book, "rehearsal"):
        raise unsupported("what a change would do is not known for domains of another daemon")
    made: Any = copy.copy(driver)
    for name in vars(driver):
        if name not in _KEPT:
            setattr(made, name, _Refusing(name))
    made.domains = book.rehearsal(is_off)
    found: Driver = made
    return found


class _Refusing:
    """In place of what a rehearsal must not touch."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> NoReturn:
        raise _refusal(self._name)


def _refusal(what: str) -> ApiError:
    return unsupported(f"it cannot be told beforehand what this would do to {what}")


class SilentKeeper(Keeper):
    """Keeps nothing, and says that it did."""

    async def load(self, kind: str) -> Sequence[Stored]:
        return ()

    async def set_aside(self, stored: Stored, reason: str) -> None:
        return

    async def save(self, kind: str, uuid: bytes, name: str, xml: str, who: str) -> None:
        return

    async def rename(self, kind: str, uuid: bytes, old: str, new: str, xml: str, who: str) -> None:
        return

    async def remove(self, kind: str, uuid: bytes, name: str, xml: str, who: str) -> None:
        return

    async def set_autostart(self, kind: str, name: str, on: bool) -> None:
        return

    async def load_snapshots(self, uuid: bytes) -> Sequence[str]:
        return ()

    async def save_snapshot(self, uuid: bytes, name: str, xml: str) -> None:
        return

    async def remove_snapshot(self, uuid: bytes, name: str | None) -> None:
        return


class RehearsalHypervisor(Hypervisor):
    """Refuses what the real one would refuse, and otherwise changes documents alone."""

    def __init__(self, real: Hypervisor) -> None:
        self._real = real
        self.platform = real.platform

    def check(self, domain: Domain) -> Sequence[Finding]:
        return self._real.check(domain)

    def check_live(self, change: LiveChange, live: Domain | None = None, device: NamedDevice | None = None) -> None:
        self._real.check_live(change, live, device)

    async def attach(self, uuid: bytes, live: Domain, device: NamedDevice) -> Domain:
        self.check_live(LiveChange.ATTACH, live, device)
        return named(changes.attach(live, device))

    async def detach(self, uuid: bytes, live: Domain, device: NamedDevice) -> Domain | None:
        self.check_live(LiveChange.DETACH, live, device)
        return changes.detach(live, device)

    async def update(self, uuid: bytes, live: Domain, device: NamedDevice) -> Domain:
        self.check_live(LiveChange.UPDATE, live, device)
        return named(changes.update(live, device))

    async def set_vcpus(self, uuid: bytes, count: int) -> None:
        self.check_live(LiveChange.VCPUS)

    async def set_memory(self, uuid: bytes, kib: int) -> None:
        return

    async def resize_disk(self, uuid: bytes, index: int, size: int) -> None:
        return

    async def keep_live(self, uuid: bytes, text: str) -> None:
        return

    async def recover(self, on_happening: OnHappening) -> tuple[Sequence[Found], Sequence[Ended]]:
        return (), ()

    async def start(self, domain: Domain, number: int, paused: bool) -> Domain:
        raise _refusal("a VM")

    async def stop(self, uuid: bytes) -> None:
        raise _refusal("a VM")

    async def shutdown(self, uuid: bytes, agent: bool) -> None:
        raise _refusal("a VM")

    async def reboot(self, uuid: bytes, agent: bool) -> None:
        raise _refusal("a VM")

    async def reset(self, uuid: bytes) -> None:
        raise _refusal("a VM")

    async def suspend(self, uuid: bytes) -> None:
        raise _refusal("a VM")

    async def resume(self, uuid: bytes) -> None:
        raise _refusal("a VM")

    async def statistics(self, uuid: bytes) -> MachineStatistics:
        return await self._real.statistics(uuid)

    async def addresses(self, uuid: bytes, source: int) -> Sequence[GuestInterface]:
        return await self._real.addresses(uuid, source)

    async def console(self, uuid: bytes, device: str, force: bool) -> ByteStream:
        raise _refusal("a console")

    async def console_log(self, uuid: bytes, since: int, limit: int) -> Scrollback:
        return await self._real.console_log(uuid, since, limit)

    async def agent(self, uuid: bytes, command: str, arguments: Mapping[str, object], timeout: float) -> object:
        raise _refusal("a guest")

    async def close(self) -> None:
        return
