"""One daemon: its drivers, its sockets, and when it ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from manor.base.errors import ManorError
from manor.daemon.config import Config
from manor.daemon.server import Server
from manor.daemon.systemd import inherited, notify
from manor.drivers.api import Driver, Notice
from manor.drivers.memory import MemoryDriver
from manor.service.service import ALIASES, MakeDriver, Service

logger = logging.getLogger("manord")


class Daemon:
    """Made and run on one event loop."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._stop = asyncio.Event()
        self._idle: asyncio.TimerHandle | None = None
        self._looking: asyncio.Future[None] | None = None
        uri = "manor:///system" if config.is_system else "manor:///session"
        self._uri = uri
        self._qemu_uri = f"{uri.replace('manor', 'qemu')}?vmm=qemu"
        makers: dict[str, MakeDriver] = {
            uri: self._make_local, self._qemu_uri: self._make_qemu, "test:///default": MemoryDriver
        }  # fmt: skip
        aliases = dict(ALIASES)
        if config.vmm == "qemu":
            aliases[uri.replace("manor", "qemu")] = self._qemu_uri
        self.service = Service(
            makers, uri, config.state, aliases=aliases, remotes=config.remotes,
            keepalive=(config.keepalive_interval, config.keepalive_count),
        )  # fmt: skip
        self.server = Server(config, self.service, self._watch_idle)

    async def run(self) -> None:
        """Serve until `stop`. Raises HostError, ConfigError."""
        sockets = inherited()
        try:
            await self.service.start()
            if (self._config.state / "qemu" / "run").exists():
                # VMs of an earlier daemon's: their ends and events have to be seen from now on.
                try:
                    await self.service.open(self._qemu_uri)
                except ManorError as error:
                    logger.error("the VMs of QEMU are left alone: %s", error)
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

    def _make_qemu(self, notify_driver: Callable[[Notice], None]) -> Driver:
        from manor.drivers.qemu.driver import QemuDriver

        return QemuDriver(self._config.state / "qemu", notify_driver, self._qemu_uri, self._config.accel)

    def _watch_idle(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if self._config.idle_exit and not self.server.clients:
            loop = asyncio.get_running_loop()
            self._idle = loop.call_later(self._config.idle_exit, self._look_whether_idle)

    def _look_whether_idle(self) -> None:
        self._looking = asyncio.ensure_future(self._end_if_idle())

    async def _end_if_idle(self) -> None:
        """End, unless there are clients, or VMs: what they do by themselves has to be seen and told."""
        is_needed = await self._has_vms()
        if self.server.clients:
            return  # when the last one goes, the time begins anew
        if is_needed:
            self._watch_idle()
            return
        logger.info(
            "there were no clients for %d s, and no virtual machine runs; ending (idle_exit)", self._config.idle_exit
        )
        self.stop()

    async def _has_vms(self) -> bool:
        for driver in self.service.drivers.values():
            if driver.kind != MemoryDriver.kind and any(flags.active for _, flags in await driver.domains.all()):
                return True
        return False
