"""All that one daemon serves: drivers by URI, their events, jobs and statistics."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Final

from manor.base.errors import ApiError
from manor.drivers.api import Driver, Notice
from manor.drivers.errors import Code, Origin
from manor.rpc.session import Session
from manor.service.client import Client
from manor.service.events import EventHub
from manor.service.history import History
from manor.service.jobs import Jobs

logger = logging.getLogger(__name__)

MakeDriver = Callable[[Callable[[Notice], None]], Driver]
ALIASES: Final = {"qemu:///session": "manor:///session", "qemu:///system": "manor:///system"}
"""Clients that know no other hypervisor's name ask for QEMU's."""


class Service:
    """One daemon's. Thread: the event loop's."""

    def __init__(self, makers: Mapping[str, MakeDriver], default: str) -> None:
        """makers: URI -> what makes its driver. default: the URI for clients that name none."""
        self.events = EventHub()
        self.jobs = Jobs()
        self.history = History()
        self.agent_timeouts: dict[bytes, float] = {}
        """UUID of a domain -> seconds that its guest's agent may take, where a client has said so."""
        self._makers = makers
        self._default = default
        self._drivers: dict[str, Driver] = {}
        self._opening = asyncio.Lock()

    @property
    def drivers(self) -> Mapping[str, Driver]:
        """Those that were opened."""
        return self._drivers

    async def open(self, uri: str | None) -> Driver:
        """The driver for a client's URI. Raises ApiError."""
        name = uri or self._default
        if name not in self._makers:
            name = ALIASES.get(name, name)
        maker = self._makers.get(name)
        if maker is None:
            known = ", ".join(self._makers)
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

    async def close(self) -> None:
        """Let go of all drivers; VMs live on."""
        await self.jobs.close()
        for driver in self._drivers.values():
            await driver.close()
        self._drivers.clear()
