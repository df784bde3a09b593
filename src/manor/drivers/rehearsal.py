"""Trying a change: a copy of a driver's domains, in which changes do all that they do but reach no VM, disk or client.

The code that changes domains is the same, so that what a rehearsal says is what would happen.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from manor.base.errors import ApiError
from manor.domain.xml.changes import NamedDevice
from manor.domain.xml.domain import Domain
from manor.domain.xml.property import Finding
from manor.drivers.api import ByteStream, Driver, MachineStatistics, Progress, Scrollback, unwatched
from manor.drivers.errors import unsupported
from manor.drivers.hypervisor import DeviceChanges, Ended, Found, Hypervisor, OnHappening, Trying
from manor.drivers.keeper import Keeper
from manor.drivers.store import Stored
from manor.rpc.protocol.records import GuestInterface

_KEPT = ("uri", "kind", "node")


def rehearse(driver: Driver, uuid: bytes | None, is_off: bool = False) -> Driver:
    """A driver one of whose domains can be changed, or a new one defined, without any effect; all else of it refuses.

    is_off: as if that domain did not run. Raises ApiError if the driver cannot.
    """
    book: Any = driver.domains
    if not hasattr(book, "rehearsal"):
        raise unsupported("what a change would do is not known for domains of another daemon")
    made: Any = copy.copy(driver)
    for name in vars(driver):
        if name not in _KEPT:
            setattr(made, name, _Refusing(name))
    made.domains = book.rehearsal(uuid, is_off)
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

    async def snapshot_owners(self) -> Collection[bytes]:
        return ()

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

    async def attach(self, uuid: bytes, live: Domain, device: NamedDevice) -> Domain:
        return await self._trial(uuid).attach(uuid, live, device)

    async def detach(self, uuid: bytes, live: Domain, device: NamedDevice) -> Domain | None:
        return await self._trial(uuid).detach(uuid, live, device)

    async def update(self, uuid: bytes, live: Domain, device: NamedDevice) -> Domain:
        return await self._trial(uuid).update(uuid, live, device)

    async def set_vcpus(self, uuid: bytes, count: int) -> None:
        await self._trial(uuid).set_vcpus(uuid, count)

    def _trial(self, uuid: bytes) -> DeviceChanges:
        if not isinstance(self._real, Trying):
            raise _refusal("a machine that runs")
        return self._real.trial(uuid)

    async def set_memory(self, uuid: bytes, kib: int) -> None:
        return

    async def resize_disk(self, uuid: bytes, index: int, size: int) -> None:
        return

    async def keep_live(self, uuid: bytes, text: str) -> None:
        return

    async def recover(self, on_happening: OnHappening) -> tuple[Sequence[Found], Sequence[Ended]]:
        return (), ()

    async def start(self, domain: Domain, number: int, paused: bool, saved: Path | None = None) -> Domain:
        raise _refusal("a VM")

    async def save(
        self, uuid: bytes, path: Path, note: str, paused: bool | None, progress: Progress = unwatched
    ) -> None:
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
