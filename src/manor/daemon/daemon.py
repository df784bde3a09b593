"""One daemon: its drivers, its sockets, and when it ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from manor.daemon.config import Config
from manor.daemon.server import Server
from manor.daemon.systemd import inherited, notify
from manor.drivers.api import Driver, Notice
from manor.drivers.memory import MemoryDriver
from manor.service.service import MakeDriver, Service

logger = logging.getLogger("manord")


class Daemon:
    """Made and run on one event loop."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._stop = asyncio.Event()
        self._idle: asyncio.TimerHandle | None = None
        uri = "manor:///system" if config.is_system else "manor:///session"
        makers: dict[str, MakeDriver] = {uri: self._make_local, "test:///default": MemoryDriver}
        self._uri = uri
        self.service = Service(makers, uri, config.state)
        self.service.keepalive = (config.keepalive_interval, config.keepalive_count)
        self.server = Server(config, self.service, self._watch_idle)

    async def run(self) -> None:
        """Serve until `stop`. Raises HostError, ConfigError."""
        sockets = inherited()
        try:
            await self.service.start()
            await self.server.open(sockets)
            logger.info("listening at %s", self._config.socket)
            notify("READY=1")
            self._watch_idle()
            await self._stop.wait()
        finally:
            notify("STOPPING=1")
            await self.server.close()
            await self.service.close()

    def stop(self) -> None:
        """End; VMs live on. Thread: the loop's."""
        self._stop.set()

    def reload(self, config: Config) -> None:
        """Take other limits from now on; what was opened stays as it is."""
        self._config = config
        self.server.config = config
        self.service.keepalive = (config.keepalive_interval, config.keepalive_count)
        self._watch_idle()
        logger.info("settings were read again")

    def _make_local(self, notify_driver: Callable[[Notice], None]) -> Driver:
        from manor.drivers.local import LocalDriver

        return LocalDriver(self._config.state, notify_driver, self._uri, self._config.accel)

    def _watch_idle(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if self._config.idle_exit and not self.server.clients:
            loop = asyncio.get_running_loop()
            self._idle = loop.call_later(self._config.idle_exit, self._end_if_idle)

    def _end_if_idle(self) -> None:
        if not self.server.clients:
            logger.info("nobody has asked for anything; ending")
            self.stop()
