"""Checks of a MachineSpec before anything starts. Every error names the field and says what to do.

What depends on the contents of files (is it a kernel, is there room for it) is checked where they are read.
"""

from __future__ import annotations

from typing import Final

from manor.base.address import PAGE_SIZE
from manor.base.errors import ConfigError
from manor.base.units import format_size
from manor.spec import share, vsock
from manor.spec.block import CACHE_MODES, DISK_BUSES, DiskSpec, Throttle
from manor.spec.check_net import check_nics
from manor.spec.machine import CONSOLE_NAMES, CPU_MODELS, MAX_CPUS, MIN_MEMORY, MachineSpec
from manor.spec.names import check_names


def check_size(memory: int, cpus: int, max_memory: int) -> None:
    """Raise ConfigError if RAM or vCPUs are too few, too many or odd. Sizes in bytes."""
    if not 1 <= cpus <= MAX_CPUS:
        raise ConfigError("cpus", f"{cpus} is not a number of vCPUs that works here; give 1 to {MAX_CPUS}")
    if memory < MIN_MEMORY:
        raise ConfigError(
            "memory",
            f"{format_size(memory)} is too little; give at least {format_size(MIN_MEMORY)}, for example 256M",
        )
    if memory > max_memory:
        raise ConfigError("memory", f"{format_size(memory)} is too much; give at most {format_size(max_memory)}")
    if memory % PAGE_SIZE:
        raise ConfigError("memory", f"{memory} bytes is not a multiple of 4 KiB")


MAX_SERIAL: Final = 20
"""Characters of a disk's serial number. Source: VIRTIO 1.2, 5.2.6, VIRTIO_BLK_T_GET_ID; NVMe 1.4, figure 247, SN."""
MAX_QUEUES: Final = 16
"""Queues of one disk; more vCPUs share them."""


def check_disk(disk: DiskSpec, where: str) -> None:
    """Raise ConfigError for the first thing that is wrong with a disk. where: what the error names."""
    if not disk.source:
        raise ConfigError(where, "it names no file")
    if disk.bus not in DISK_BUSES:
        raise ConfigError(where, f"bus {disk.bus!r} is unknown; give one of {', '.join(DISK_BUSES)}")
    if disk.cache not in CACHE_MODES:
        raise ConfigError(where, f"cache {disk.cache!r} is unknown; give one of {', '.join(CACHE_MODES)}")
    if len(disk.serial) > MAX_SERIAL:
        raise ConfigError(where, f"serial {disk.serial!r} has {len(disk.serial)} characters; at most {MAX_SERIAL} fit")
    if not all(" " <= character <= "~" for character in disk.serial):
        raise ConfigError(where, f"serial {disk.serial!r} has characters that are not printable ASCII")
    if not 0 <= disk.queues <= MAX_QUEUES:
        raise ConfigError(where, f"{disk.queues} queues do not work; give 1 to {MAX_QUEUES}, or none for one a vCPU")
    if disk.read_only and disk.snapshot:
        raise ConfigError(where, "a disk that the guest cannot write needs no snapshot; give readonly or snapshot")
    _check_throttle(disk.throttle, where)


def _check_throttle(throttle: Throttle, where: str) -> None:
    for name, limit, burst in (
        ("bps", throttle.bytes_per_second, throttle.burst_bytes),
        ("iops", throttle.operations_per_second, throttle.burst_operations),
    ):
        if limit < 0 or burst < 0:
            raise ConfigError(where, f"{name} is negative; give 0 for no limit")
        if burst and not limit:
            raise ConfigError(where, f"{name}-burst needs {name}, the limit that it goes beyond")


def check(spec: MachineSpec, max_memory: int) -> None:
    """Raise ConfigError for the first thing that is wrong. max_memory: bytes that the machine's map has room for."""
    check_size(spec.memory, spec.cpus, max_memory)
    if spec.console not in CONSOLE_NAMES:
        raise ConfigError("console", f"{spec.console!r} is unknown; give one of {', '.join(CONSOLE_NAMES)}")
    if spec.cpu not in CPU_MODELS:
        raise ConfigError("cpu", f"{spec.cpu!r} is unknown; give one of {', '.join(CPU_MODELS)}")
    if spec.max_cpus and not spec.cpus <= spec.max_cpus <= MAX_CPUS:
        raise ConfigError("cpus", f"max={spec.max_cpus} does not work; give {spec.cpus} to {MAX_CPUS}")
    check_nics(spec.nics)
    check_names(spec.disks, spec.nics)
    for number, disk in enumerate(spec.disks):
        check_disk(disk, f"disks[{number}]")
    if spec.vsock is not None and not vsock.FIRST_CID <= spec.vsock.cid <= vsock.LAST_CID:
        raise ConfigError("vsock.cid", f"{spec.vsock.cid} is no guest's; give {vsock.FIRST_CID} to {vsock.LAST_CID}")
    tags = [one.tag for one in spec.shares]
    for tag in tags:
        if not share.TAG.fullmatch(tag):
            raise ConfigError("share.tag", f"{tag!r} is no tag; give up to 36 letters, digits, `_`, `.` and `-`")
        if tags.count(tag) > 1:
            raise ConfigError("share.tag", f"{tag!r} is given twice; give each folder a tag of its own")
