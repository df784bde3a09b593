"""What queries return where it is more than one value. Sizes of memory are KiB, of disks bytes, times ns."""

from __future__ import annotations

from typing import NamedTuple


class DomainInfo(NamedTuple):
    """state: libvirt's virDomainState; max_memory, memory: KiB; cpu_time: ns."""

    state: int
    max_memory: int
    memory: int
    vcpus: int
    cpu_time: int


class DomainState(NamedTuple):
    """state: libvirt's virDomainState; reason: the enumeration of that state."""

    state: int
    reason: int


class ControlInfo(NamedTuple):
    """The VMM's control channel. state: 0 idle, 1 a job, 2 busy, 3 error; state_time: ms in that state."""

    state: int
    details: int
    state_time: int


class BlockInfo(NamedTuple):
    """A disk. capacity: as the guest sees it; allocation: in use; physical: of the file. Bytes."""

    allocation: int
    capacity: int
    physical: int


class BlockStats(NamedTuple):
    """Requests and bytes since the domain started; -1 is unknown."""

    rd_requests: int
    rd_bytes: int
    wr_requests: int
    wr_bytes: int
    errs: int


class InterfaceStats(NamedTuple):
    """Traffic since the domain started, seen from the guest; -1 is unknown."""

    rx_bytes: int
    rx_packets: int
    rx_errs: int
    rx_drop: int
    tx_bytes: int
    tx_packets: int
    tx_errs: int
    tx_drop: int


class BlockJobInfo(NamedTuple):
    """A job on a disk. bandwidth: MiB/s unless bytes were asked for; current, end: progress."""

    type: int
    bandwidth: int
    current: int
    end: int


class JobInfo(NamedTuple):
    """A job on a domain. Times: ms; the rest: bytes."""

    type: int
    time_elapsed: int
    time_remaining: int
    data_total: int
    data_processed: int
    data_remaining: int
    memory_total: int
    memory_processed: int
    memory_remaining: int
    file_total: int
    file_processed: int
    file_remaining: int


class PoolInfo(NamedTuple):
    """state: 0 inactive, 1 building, 2 running, 3 degraded, 4 inaccessible; sizes: bytes."""

    state: int
    capacity: int
    allocation: int
    available: int


class VolumeInfo(NamedTuple):
    """type: 0 file, 1 block, 2 directory, 3 network, 4 network directory, 5 ploop; sizes: bytes."""

    type: int
    capacity: int
    allocation: int


class NodeInfo(NamedTuple):
    """The host. memory: KiB; nodes: NUMA nodes; sockets of a node, cores of a socket, threads of a core."""

    model: str
    memory: int
    cpus: int
    mhz: int
    nodes: int
    sockets: int
    cores: int
    threads: int


class CpuMap(NamedTuple):
    """present: how many CPUs there are; online: whether each is."""

    present: int
    online: tuple[bool, ...]


class SecurityModel(NamedTuple):
    """The host's security model and its domain of interpretation; empty where there is none."""

    model: str
    doi: str


class GuestTime(NamedTuple):
    """The guest's clock: seconds since 1970, and ns."""

    seconds: int
    nanoseconds: int


def cpu_bits(raw: bytes, count: int | None = None) -> tuple[bool, ...]:
    """A CPU map, one bit each and the lowest first, as booleans; of `count` CPUs, or all that it has room for."""
    bits = tuple(bool(byte >> bit & 1) for byte in raw for bit in range(8))
    return bits if count is None else bits[:count]


def cpu_bytes(cpus: tuple[bool, ...] | list[bool]) -> bytes:
    """The inverse."""
    raw = bytearray(-(-len(cpus) // 8))
    for index, wanted in enumerate(cpus):
        raw[index // 8] |= bool(wanted) << index % 8
    return bytes(raw)
