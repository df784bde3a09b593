"""A disk of a virtual machine, as a user asks for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal, get_args

DiskBus = Literal["virtio", "nvme"]
CacheMode = Literal["writeback", "direct"]

DISK_BUSES: Final[tuple[str, ...]] = get_args(DiskBus)
CACHE_MODES: Final[tuple[str, ...]] = get_args(CacheMode)


@dataclass(frozen=True, slots=True)
class Throttle:
    """Limits of a disk: bytes and operations a second, 0 for none; bursts are what may be used up at once."""

    bytes_per_second: int = 0
    operations_per_second: int = 0
    burst_bytes: int = 0
    burst_operations: int = 0


@dataclass(frozen=True, slots=True)
class DiskSpec:
    """One disk.

    source: a file, a block device or an nbd: URI. format: its format; None looks at the contents.
    read_only: the guest cannot write. snapshot: the guest's writes are thrown away at the end.
    serial: what the guest reads as serial number, at most 20 characters of ASCII. cache: "writeback" goes through the
    host's page cache, "direct" around it; either way a flush of the guest reaches the medium. discard: space that the
    guest gives up returns to the host. queues: 0 for one a vCPU. id: its name in the VM, "" for the next
    of disk0, disk1, ... slot: of the PCI bus, 0 for the next that is free.
    """

    source: str
    format: str | None = None
    bus: DiskBus = "virtio"
    read_only: bool = False
    snapshot: bool = False
    serial: str = ""
    cache: CacheMode = "writeback"
    discard: bool = True
    queues: int = 0
    throttle: Throttle = field(default_factory=Throttle)
    id: str = ""
    slot: int = 0
