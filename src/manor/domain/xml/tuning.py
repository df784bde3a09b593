"""What a domain is to get of the host: processors, memory, disks. Kept for those who move the domain elsewhere; the
host's kernel decides here.
"""

# Declarations are tables, laid out by hand.
# fmt: off
from __future__ import annotations

from dataclasses import dataclass

from manor.domain.cpus import parse_cpus, show_cpus
from manor.domain.xml.property import Element, note, parts, prop
from manor.domain.xml.values import Choice, Flag, Integer, Kind, Size, Text, ignored

NO_SHARES = ignored("what a machine gets of the host is left to the host's kernel")
_PERIOD = Integer(0, 1 << 32)
_QUOTA = Integer(-(1 << 31), 1 << 62)
_COUNT = Integer(0, (1 << 63) - 1)


class CpuSet(Kind[str]):
    """Processors of the host."""

    def read(self, text: str, unit: str | None = None) -> str:
        return show_cpus(parse_cpus(text))

    def describe(self) -> str:
        return "processors, like 0-3,^2"


@dataclass(frozen=True, slots=True, kw_only=True)
class BlkioDevice(Element):
    """One disk of the host."""

    path: str = prop("path", Text(4096), "the device", required=True)
    weight: int | None = prop("weight", Integer(0, 1000), "share")
    read_iops: int | None = prop("read_iops_sec", _COUNT, "reads a second")
    write_iops: int | None = prop("write_iops_sec", _COUNT, "writes a second")
    read_bytes: int | None = prop("read_bytes_sec", _COUNT, "bytes read a second")
    write_bytes: int | None = prop("write_bytes_sec", _COUNT, "bytes written a second")


@dataclass(frozen=True, slots=True, kw_only=True)
class BlkioTune(Element):
    """The host's disks."""

    weight: int | None = prop("weight", Integer(0, 1000), "share of all disks")
    devices: tuple[BlkioDevice, ...] = parts("device", BlkioDevice, "disks one by one")


@dataclass(frozen=True, slots=True, kw_only=True)
class MemTune(Element):
    """The host's memory."""

    hard_limit: int | None = prop("hard_limit", Size(), "most that the domain may use")
    soft_limit: int | None = prop("soft_limit", Size(), "most while memory is short")
    min_guarantee: int | None = prop("min_guarantee", Size(), "least that it gets")
    swap_hard_limit: int | None = prop("swap_hard_limit", Size(), "most memory and swap together")


@dataclass(frozen=True, slots=True, kw_only=True)
class VcpuPin(Element):
    vcpu: int = prop("@vcpu", Integer(0, 4095), "number of the vCPU", required=True)
    cpus: str = prop("@cpuset", CpuSet(), "where it runs", required=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class IothreadId(Element):
    id: int = prop("@id", Integer(1, 1 << 32), "number of the thread", required=True)

    NOTES = (
        note("@thread_pool_min", "helpers of the thread", NO_SHARES),
        note("@thread_pool_max", "helpers of the thread", NO_SHARES),
        note("poll", "how long it looks before it sleeps", NO_SHARES),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PerfEvent(Element):
    name: str = prop("@name", Text(64), "the event", required=True)
    enabled: bool = prop("@enabled", Flag(), "whether it is counted", required=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class IothreadPin(Element):
    iothread: int = prop("@iothread", Integer(1, 1 << 32), "number of the thread", required=True)
    cpus: str = prop("@cpuset", CpuSet(), "where it runs", required=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuTune(Element):
    """The host's processors. Periods and quotas in us."""

    shares: int | None = prop("shares", Integer(0, 1 << 32), "share of the processors")
    period: int | None = prop("period", _PERIOD, "period of a vCPU's quota")
    quota: int | None = prop("quota", _QUOTA, "time of a vCPU in a period")
    global_period: int | None = prop("global_period", _PERIOD, "period of the whole domain's quota")
    global_quota: int | None = prop("global_quota", _QUOTA, "time of the whole domain in a period")
    emulator_period: int | None = prop("emulator_period", _PERIOD, "period of the other threads' quota")
    emulator_quota: int | None = prop("emulator_quota", _QUOTA, "time of the other threads in a period")
    iothread_period: int | None = prop("iothread_period", _PERIOD, "period of a disk thread's quota")
    iothread_quota: int | None = prop("iothread_quota", _QUOTA, "time of a disk thread in a period")
    vcpu_pins: tuple[VcpuPin, ...] = parts("vcpupin", VcpuPin, "processors of each vCPU")
    emulator_pin: str | None = prop("emulatorpin/@cpuset", CpuSet(), "processors of other threads")
    iothread_pins: tuple[IothreadPin, ...] = parts("iothreadpin", IothreadPin, "processors of disk threads")

    NOTES = (
        note("vcpusched", "scheduling of a vCPU", NO_SHARES),
        note("iothreadsched", "scheduling of a disk thread", NO_SHARES),
        note("emulatorsched", "scheduling of other threads", NO_SHARES),
        note("cachetune", "shares of caches", NO_SHARES),
        note("memorytune", "shares of the memory's bandwidth", NO_SHARES),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class NumaTune(Element):
    """The host's memory nodes."""

    mode: str | None = prop("memory/@mode", Choice("strict", "preferred", "interleave", "restrictive"),
                            "how nodes are chosen")
    nodes: str | None = prop("memory/@nodeset", CpuSet(), "the nodes")
    placement: str | None = prop("memory/@placement", Choice("static", "auto"), "who chooses the nodes")

    NOTES = (note("memnode", "nodes of one cell of the guest", NO_SHARES),)
