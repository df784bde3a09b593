"""Where the objects of a driver are remembered: nowhere, or in a state directory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from manor.drivers.archive import Archive, Revision, Trashed
from manor.drivers.errors import uuid_text
from manor.drivers.store import Store, Stored

T = TypeVar("T")


class Keeper(Protocol):
    """What objects tell when they change. Returns when it is safe; raises HostError if it cannot be."""

    async def load(self, kind: str) -> Sequence[Stored]: ...
    async def set_aside(self, stored: Stored, reason: str) -> None: ...
    async def save(self, kind: str, uuid: bytes, name: str, xml: str, who: str) -> None: ...
    async def rename(self, kind: str, uuid: bytes, old: str, new: str, xml: str, who: str) -> None: ...
    async def remove(self, kind: str, uuid: bytes, name: str, xml: str, who: str) -> None: ...
    async def set_autostart(self, kind: str, name: str, on: bool) -> None: ...
    async def snapshot_owners(self) -> Collection[bytes]:
        """UUIDs of the domains that have any."""

    async def load_snapshots(self, uuid: bytes) -> Sequence[str]: ...
    async def save_snapshot(self, uuid: bytes, name: str, xml: str) -> None: ...
    async def remove_snapshot(self, uuid: bytes, name: str | None) -> None: ...


class MemoryKeeper:
    """Remembers as long as the daemon lives (Keeper, Records)."""

    def __init__(self) -> None:
        self._archive = Archive(None)
        self._autostart: set[tuple[str, str]] = set()

    async def open(self) -> None:
        """Begin with nothing."""
        self._archive.open()

    async def close(self) -> None:
        self._archive.close()

    async def load(self, kind: str) -> Sequence[Stored]:
        return ()

    async def set_aside(self, stored: Stored, reason: str) -> None:
        return

    async def save(self, kind: str, uuid: bytes, name: str, xml: str, who: str) -> None:
        self._archive.note(kind, uuid_text(uuid), name, xml, who)

    async def rename(self, kind: str, uuid: bytes, old: str, new: str, xml: str, who: str) -> None:
        self._archive.note(kind, uuid_text(uuid), new, xml, who)
        if (kind, old) in self._autostart:
            self._autostart.remove((kind, old))
            self._autostart.add((kind, new))

    async def remove(self, kind: str, uuid: bytes, name: str, xml: str, who: str) -> None:
        self._archive.put(kind, uuid_text(uuid), name, xml, who, (kind, name) in self._autostart)
        self._autostart.discard((kind, name))

    async def set_autostart(self, kind: str, name: str, on: bool) -> None:
        if on:
            self._autostart.add((kind, name))
        else:
            self._autostart.discard((kind, name))

    async def snapshot_owners(self) -> Collection[bytes]:
        return ()

    async def load_snapshots(self, uuid: bytes) -> Sequence[str]:
        return ()

    async def save_snapshot(self, uuid: bytes, name: str, xml: str) -> None:
        return

    async def remove_snapshot(self, uuid: bytes, name: str | None) -> None:
        return

    async def revisions(self, kind: str, uuid: bytes) -> Sequence[Revision]:
        return self._archive.revisions(kind, uuid_text(uuid))

    async def trash(self) -> Sequence[Trashed]:
        return self._archive.trash()

    async def trashed(self, number: int) -> Trashed:
        return self._archive.trashed(number)

    async def expired(self) -> Sequence[Trashed]:
        return self._archive.expired(time.time())

    async def forget(self, number: int) -> None:
        self._archive.forget(number)

    async def put(self, kind: str, uuid: bytes, name: str, xml: str, who: str, place: str) -> int:
        return self._archive.put(kind, uuid_text(uuid), name, xml, who, False, place)


class StoreKeeper:
    """Keeps in a Store (Keeper, Records), from a thread that does nothing else: a slow disk stops no other client."""

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

    async def set_aside(self, stored: Stored, reason: str) -> None:
        """Keep a description that cannot be used from being used, or written over."""
        await self.run(lambda: self.store.set_aside(stored.path, reason))

    async def save(self, kind: str, uuid: bytes, name: str, xml: str, who: str) -> None:
        await self.run(lambda: self.store.save(kind, uuid, name, xml, who))

    async def rename(self, kind: str, uuid: bytes, old: str, new: str, xml: str, who: str) -> None:
        await self.run(lambda: self.store.rename(kind, uuid, old, new, xml, who))

    async def remove(self, kind: str, uuid: bytes, name: str, xml: str, who: str) -> None:
        await self.run(lambda: self.store.remove(kind, uuid, name, xml, who))

    async def set_autostart(self, kind: str, name: str, on: bool) -> None:
        await self.run(lambda: self.store.set_autostart(kind, name, on))

    async def snapshot_owners(self) -> Collection[bytes]:
        return await self.run(self.store.snapshot_owners)

    async def load_snapshots(self, uuid: bytes) -> Sequence[str]:
        return await self.run(lambda: self.store.load_snapshots(uuid))

    async def save_snapshot(self, uuid: bytes, name: str, xml: str) -> None:
        await self.run(lambda: self.store.save_snapshot(uuid, name, xml))

    async def remove_snapshot(self, uuid: bytes, name: str | None) -> None:
        await self.run(lambda: self.store.remove_snapshot(uuid, name))

    async def revisions(self, kind: str, uuid: bytes) -> Sequence[Revision]:
        return await self._archived("reading revisions", lambda archive: archive.revisions(kind, uuid_text(uuid)))

    async def trash(self) -> Sequence[Trashed]:
        return await self._archived("reading the trash", lambda archive: archive.trash())

    async def trashed(self, number: int) -> Trashed:
        return await self._archived("reading the trash", lambda archive: archive.trashed(number))

    async def expired(self) -> Sequence[Trashed]:
        return await self._archived("reading the trash", lambda archive: archive.expired(time.time()))

    async def forget(self, number: int) -> None:
        await self._archived("changing the trash", lambda archive: archive.forget(number))

    async def put(self, kind: str, uuid: bytes, name: str, xml: str, who: str, place: str) -> int:
        return await self._archived(
            f"moving {name} to the trash",
            lambda archive: archive.put(kind, uuid_text(uuid), name, xml, who, False, place),
        )

    async def _archived(self, attempt: str, work: Callable[[Archive], T]) -> T:
        def inside() -> T:
            with self.store.archived(attempt) as archive:
                return work(archive)

        return await self.run(inside)
