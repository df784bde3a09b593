"""All that one daemon serves: drivers by URI, their events, jobs and statistics."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Final

from manor.base.errors import ApiError
from manor.drivers.api import Driver, Notice
from manor.drivers.errors import Code, Origin
from manor.rpc.session import Session
from manor.service.client import Client
from manor.service.consoles import Consoles
from manor.service.events import EventHub
from manor.service.history import History
from manor.service.history_file import HistoryFile
from manor.service.jobs import Jobs
from manor.service.journal import Journal
from manor.service.keeping import Keeping

logger = logging.getLogger(__name__)

MakeDriver = Callable[[Callable[[Notice], None]], Driver]
ALIASES: Final = {
    "qemu:///session": "manor:///session", "qemu:///system": "manor:///system",
    "qemu:///session?vmm=manor": "manor:///session", "qemu:///system?vmm=manor": "manor:///system",
}  # fmt: skip
"""Clients that know no other hypervisor's name ask for QEMU's."""


class Service:
    """One daemon's. Thread: the event loop's."""

    def __init__(
        self,
        makers: Mapping[str, MakeDriver],
        default: str,
        state: Path | None = None,
        *,
        aliases: Mapping[str, str] = ALIASES,
        remotes: Collection[str] = (),
        keepalive: tuple[float, int] = (5.0, 5),
    ) -> None:
        """makers: URI -> what makes its driver. default: the URI for clients that name none.

        state: directory for events and statistics, which the default driver's lock guards; None for memory. aliases:
        URI -> the one that is meant. remotes: `libvirt+URI`s that every client may open. keepalive: seconds between
        questions to a silent client, 0 for none, and how many it may leave unanswered. Source of the defaults: libvirt,
        libvirtd.conf, keepalive_interval and keepalive_count.
        """
        self.remotes = frozenset(remotes)
        self.keepalive = keepalive
        self._aliases = aliases
        self._closing: set[asyncio.Task[None]] = set()
        self.events = EventHub()
        self.jobs = Jobs(self.events)
        self.history = History()
        self.history_file = HistoryFile(state / "statistics.sqlite" if state is not None else None)
        self.consoles = Consoles()
        self.keeping = Keeping(self)
        self._state = state
        self._has_begun = False
        self.agent_timeouts: dict[bytes, float] = {}
        """UUID of a domain -> seconds that its guest's agent may take, where a client has said so."""
        self._makers = makers
        self._default = default
        self._drivers: dict[str, Driver] = {}
        self._opening = asyncio.Lock()
        if state is None:
            self._begin()

    @property
    def drivers(self) -> Mapping[str, Driver]:
        """Those that were opened."""
        return self._drivers

    async def start(self) -> None:
        """Open the default driver, and begin to keep what happens. Raises HostError."""
        await self.open(None)
        self._begin()
        self.keeping.start()

    def _begin(self) -> None:
        if not self._has_begun:
            # Only now: the driver's lock says that no other daemon has these files.
            self.events.begin(Journal(self._state / "events.sqlite" if self._state is not None else None))
            self._has_begun = True

    async def open(self, uri: str | None) -> Driver:
        """The driver for a client's URI. Raises ApiError."""
        name = uri or self._default
        if name not in self._makers:
            name = self._aliases.get(name, name)
        maker = self._makers.get(name)
        if maker is None:
            known = ", ".join([*self._makers, "libvirt+URI"])
            raise ApiError(Code.NO_CONNECT, Origin.NONE, f"no connection driver available for {uri}; there are {known}")
        async with self._opening:
            driver = self._drivers.get(name)
            if driver is None:
                driver = maker(lambda notice: self.events.publish(name, notice))
                await driver.start()
                self._drivers[name] = driver
        return driver

    def client(self, session: Session, who: str) -> Client:
        """For a new connection."""
        return Client(self, session, who)

    def forget(self, client: Client) -> None:
        """It has gone."""
        self.events.forget(client.session)
        remote, client.remote = client.remote, None
        if remote is not None:
            task = asyncio.ensure_future(remote.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Let go of all drivers; VMs live on."""
        if self._has_begun:
            await self.jobs.close()
            await self.keeping.close()
            self.events.journal.close()
        self.history_file.close()
        await asyncio.gather(*self._closing, return_exceptions=True)
        for driver in self._drivers.values():
            await driver.close()
        self._drivers.clear()
