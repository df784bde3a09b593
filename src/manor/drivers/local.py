"""`manor:///session` and `manor:///system`: this host's own VMs, described by files in the state directory."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

from manor.domain.xml.to_spec import Resolvers
from manor.drivers.activity import Activity
from manor.drivers.api import Notify
from manor.drivers.directory import Directory
from manor.drivers.domains.book import DomainBook
from manor.drivers.keeper import StoreKeeper
from manor.drivers.networks import NetworkBook
from manor.drivers.node import EMULATOR, HostNode
from manor.drivers.pools import PoolBook
from manor.drivers.processes import Processes
from manor.drivers.secrets import SecretBook
from manor.drivers.snapshots import InternalSnapshots, SnapshotBook
from manor.drivers.store import Store
from manor.spec.machine import AccelName

logger = logging.getLogger(__name__)

DOMAIN_TYPES: Final = ("kvm", "qemu")
"""What clients call hardware virtualisation and emulation; the accelerator decides which of both it is."""


class LocalDriver:
    """This host's VMs (api.Driver)."""

    kind = "QEMU"  # virt-manager and virt-install look for this word before they offer anything

    def __init__(self, root: Path, notify: Notify, uri: str, accel: AccelName) -> None:
        """root: the state directory."""
        self.uri = uri
        self.records = self.store = StoreKeeper(Store(root))
        self._activity = Activity(root / "active.json")
        self.networks = NetworkBook(self.store, notify, self._activity)
        self.pools = PoolBook(self.store, notify, Directory, self._activity)
        processes = Processes(root / "run", accel, Resolvers(self.networks.network, self.pools.volume_path))
        self.domains = DomainBook(processes, self.store, notify, root / "saved")
        self.snapshots = SnapshotBook(self.domains, self.store, InternalSnapshots(), notify)
        self.secrets = SecretBook(root / "secrets", notify)
        self.node = HostNode(DOMAIN_TYPES, EMULATOR)

    async def start(self) -> None:
        await self.store.open()
        try:
            await self._activity.open()
            await self.networks.open(with_default=True)
            await self.pools.open()
            await self.secrets.open()
            await self.domains.open()
            await self.snapshots.open()
            await self.domains.start_marked()
        except BaseException:
            await self.store.close()
            raise

    async def close(self) -> None:
        await self.domains.close()
        await self.store.close()
