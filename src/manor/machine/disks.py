"""Disks of a machine: the request engine of each, and the PCI function that its bus wants."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from manor.backends.block.api import BlockBackend
from manor.base.errors import InternalError
from manor.base.work import Work
from manor.devices.block.disk import Disk
from manor.devices.pci.config import PciFunction
from manor.devices.virtio.blk import MAX_QUEUES, VirtioBlk
from manor.devices.virtio.device import Defer
from manor.devices.virtio.pci import VirtioPci
from manor.mem.guest_memory import GuestMemory
from manor.spec.block import DiskSpec, Throttle
from manor.spec.machine import MachineSpec
from manor.spec.names import disk_name


def make_disks(
    spec: MachineSpec, backends: Sequence[BlockBackend], lock: threading.RLock, work: Work | None
) -> list[Disk]:
    """One Disk for each of `spec.disks`. backends: what is open for each."""
    if len(backends) != len(spec.disks) or (spec.disks and work is None):
        raise InternalError(f"{len(spec.disks)} disks, {len(backends)} of them open, workers: {work is not None}")
    disks: list[Disk] = []
    for number, (disk, backend) in enumerate(zip(spec.disks, backends, strict=True)):
        assert work is not None
        disks.append(make_disk(disk, disk_name(disk, number), backend, lock, work))
    return disks


def make_disk(spec: DiskSpec, name: str, backend: BlockBackend, lock: threading.RLock, work: Work) -> Disk:
    """The request engine of one disk."""
    is_limited = spec.throttle != Throttle()
    return Disk(name, backend, lock, work, spec.serial, spec.discard, may_wait=is_limited)


def disk_function(disk: Disk, spec: DiskSpec, memory: GuestMemory, defer: Defer, cpus: int) -> PciFunction:
    """The function that shows a disk to the guest, on the bus that it shall have."""
    queues = min(spec.queues or cpus, MAX_QUEUES)
    if spec.bus == "nvme":
        from manor.devices.nvme.controller import NvmeController

        return NvmeController(disk.name, memory, disk, queues)
    return VirtioPci(VirtioBlk(disk.name, memory, defer, disk, queues))
