"""`qemu:///session?vmm=qemu` and `/system`: a real QEMU where one is installed, beside Manor's own machine.

It has definitions, networks and pools of its own, in a state directory of its own.
"""

from __future__ import annotations

from pathlib import Path

from manor.domain.xml.to_spec import Resolvers
from manor.drivers.activity import Activity
from manor.drivers.api import Notify
from manor.drivers.directory import Directory
from manor.drivers.domains.book import DomainBook
from manor.drivers.keeper import StoreKeeper
from manor.drivers.networks import NetworkBook
from manor.drivers.pools import PoolBook
from manor.drivers.qemu.hypervisor import BINARY, QemuHypervisor, find_binary
from manor.drivers.qemu.node import QemuNode
from manor.drivers.secrets import SecretBook
from manor.drivers.snapshots import InternalSnapshots, SnapshotBook
from manor.drivers.store import Store


class QemuDriver:
    """This host's QEMU VMs (api.Driver)."""

    kind = "QEMU"

    def __init__(self, root: Path, notify: Notify, uri: str, accel: str, binary: str = BINARY) -> None:
        """root: the state directory. binary: name or path of the program. Raises nothing: `start` does."""
        self.uri = uri
        self._binary = binary
        self.records = self.store = StoreKeeper(Store(root))
        self._activity = Activity(root / "active.json")
        self.networks = NetworkBook(self.store, notify, self._activity)
        self.pools = PoolBook(self.store, notify, Directory, self._activity)
        resolvers = Resolvers(self.networks.network, self.pools.volume_path)
        self.hypervisor = QemuHypervisor(root / "run", accel, resolvers, binary)
        self.domains = DomainBook(self.hypervisor, self.store, notify)
        self.snapshots = SnapshotBook(self.domains, self.store, InternalSnapshots(), notify)
        self.secrets = SecretBook(root / "secrets", notify)
        self.node = QemuNode(self.hypervisor.platform.emulator)

    async def start(self) -> None:
        find_binary(self._binary, "")
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
