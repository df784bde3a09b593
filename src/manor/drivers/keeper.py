"""Where the objects of a driver are remembered: nowhere, or in a state directory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from manor.drivers.store import Store, Stored

T = TypeVar("T")


class Keeper(Protocol):
    """What objects tell when they change. Returns when it is safe; raises HostError if it cannot be."""

    async def load(self, kind: str) -> Sequence[Stored]: ...
    async def save(self, kind: str, uuid: bytes, name: str, xml: str, who: str) -> None: ...
    async def rename(self, kind: str, uuid: bytes, old: str, new: str, xml: str, who: str) -> None: ...
    async def remove(self, kind: str, uuid: bytes, name: str, xml: str, who: str) -> None: ...
    async def set_autostart(self, kind: str, name: str, on: bool) -> None: ...
    async def load_snapshots(self, uuid: bytes) -> Sequence[str]: ...
    async def save_snapshot(self, uuid: bytes, name: str, xml: str) -> None: ...
    async def remove_snapshot(self, uuid: bytes, name: str | None) -> None: ...


class Forgetful:
    """Remembers nothing (Keeper)."""

    async def load(self, kind: str) -> Sequence[Stored]:
        return ()

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


class StoreKeeper:
    """Keeps in a Store (Keeper), from a thread that does nothing else: a slow disk stops no other client."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._thread = ThreadPoolExecutor(1, "store")

    async def run(self, work: Callable[[], T]) -> T:
        """Do anything with the store on its thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def open(self) -> None:
        """Raises Busy, HostError."""
        await self.run(self.store.open)

    async def close(self) -> None:
        await self.run(self.store.close)
        self._thread.shutdown()

    async def load(self, kind: str) -> Sequence[Stored]:
        return await self.run(lambda: self.store.load(kind))

    async def save(self, kind: str, uuid: bytes, name: str, xml: str, who: str) -> None:
        await self.run(lambda: self.store.save(kind, uuid, name, xml, who))

    async def rename(self, kind: str, uuid: bytes, old: str, new: str, xml: str, who: str) -> None:
        await self.run(lambda: self.store.rename(kind, uuid, old, new, xml, who))

    async def remove(self, kind: str, uuid: bytes, name: str, xml: str, who: str) -> None:
        await self.run(lambda: self.store.remove(kind, uuid, name, xml, who))

    async def set_autostart(self, kind: str, name: str, on: bool) -> None:
        await self.run(lambda: self.store.set_autostart(kind, name, on))

    async def load_snapshots(self, uuid: bytes) -> Sequence[str]:
        return await self.run(lambda: self.store.load_snapshots(uuid))

    async def save_snapshot(self, uuid: bytes, name: str, xml: str) -> None:
        await self.run(lambda: self.store.save_snapshot(uuid, name, xml))

    async def remove_snapshot(self, uuid: bytes, name: str | None) -> None:
        await self.run(lambda: self.store.remove_snapshot(uuid, name))
