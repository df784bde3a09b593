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


def make_disks(
    spec: MachineSpec, backends: Sequence[BlockBackend], lock: threading.RLock, work: Work | None
) -> list[Disk]:
    """One Disk for each of `spec.disks`: disk0, disk1, ... backends: what is open for each."""
    if len(backends) != len(spec.disks) or (spec.disks and work is None):
        raise InternalError(f"{len(spec.disks)} disks, {len(backends)} of them open, workers: {work is not None}")
    disks: list[Disk] = []
    for number, (disk, backend) in enumerate(zip(spec.disks, backends, strict=True)):
        assert work is not None
        is_limited = disk.throttle != Throttle()
        disks.append(Disk(f"disk{number}", backend, lock, work, disk.serial, disk.discard, may_wait=is_limited))
    return disks


def disk_functions(spec: MachineSpec, disks: Sequence[Disk], memory: GuestMemory, defer: Defer) -> list[PciFunction]:
    """The function that shows each disk to the guest, on the bus that it shall have."""
    return [_function(disk, each, memory, defer, spec.cpus) for disk, each in zip(disks, spec.disks, strict=True)]


def _function(disk: Disk, spec: DiskSpec, memory: GuestMemory, defer: Defer, cpus: int) -> PciFunction:
    queues = min(spec.queues or cpus, MAX_QUEUES)
    if spec.bus == "nvme":
        from manor.devices.nvme.controller import NvmeController

        return NvmeController(disk.name, memory, disk, queues)
    return VirtioPci(VirtioBlk(disk.name, memory, defer, disk, queues))
