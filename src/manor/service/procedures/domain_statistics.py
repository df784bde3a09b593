"""Counters of domains: one by one, and of all at once as typed parameters."""

from __future__ import annotations

import time
from typing import Any, Final

from manor.base.errors import ApiError
from manor.drivers.api import BlockStatistics, MachineStatistics, NicStatistics
from manor.drivers.errors import Code, invalid_argument, not_running
from manor.rpc.protocol.records import Domain, DomainStats, MemoryStat, ParamType, TypedParam
from manor.service.client import Client
from manor.service.history import Sample
from manor.service.procedures.domain import is_wanted

STATE, CPU, BALLOON, VCPU, INTERFACE, BLOCK = 1, 2, 4, 8, 16, 32
"""virDomainStatsTypes."""
ALL: Final = STATE | CPU | BALLOON | VCPU | INTERFACE | BLOCK
_INT, _UINT, _ULLONG, _STRING = (
    int(each) for each in (ParamType.INT, ParamType.UINT, ParamType.ULLONG, ParamType.STRING)
)
_ACTUAL, _RSS = 6, 7
"""virDomainMemoryStatTags."""


async def connect_get_all_domain_stats(client: Client, a: Any) -> list[DomainStats]:
    domains = client.driver.domains
    wanted = a.stats or ALL
    if a.domains:
        chosen = [(await domains.find(each.uuid), await domains.flags(each.uuid)) for each in a.domains]
    else:
        chosen = [(domain, flags) for domain, flags in await domains.all()]
    mask = a.flags & 0xFF
    rows = []
    for domain, flags in chosen:
        if mask and not is_wanted(mask, flags):
            continue
        try:
            rows.append(DomainStats(domain, await _parameters(client, domain, flags.active, wanted)))
        except ApiError as error:
            if error.code not in (Code.NO_DOMAIN, Code.OPERATION_INVALID):
                raise
            # It went, or stopped, meanwhile.
    return rows


async def _parameters(client: Client, domain: Domain, active: bool, wanted: int) -> list[TypedParam]:
    domains = client.driver.domains
    info = await domains.info(domain.uuid)
    found: list[TypedParam] = []
    add = found.append
    if wanted & STATE:
        add(TypedParam("state.state", _INT, info.state))
        add(TypedParam("state.reason", _INT, info.reason))
    statistics = None
    if active and wanted & (CPU | BALLOON | VCPU | INTERFACE | BLOCK):
        statistics = await domains.statistics(domain.uuid)
        _note(client, domain, statistics)
    if wanted & CPU and statistics is not None:
        add(TypedParam("cpu.time", _ULLONG, statistics.cpu_time))
        add(TypedParam("cpu.user", _ULLONG, statistics.cpu_time))
        add(TypedParam("cpu.system", _ULLONG, 0))
    if wanted & BALLOON:
        current = statistics.memory if statistics is not None and statistics.memory else info.memory
        add(TypedParam("balloon.current", _ULLONG, current))
        add(TypedParam("balloon.maximum", _ULLONG, info.max_memory))
        if statistics is not None and statistics.rss:
            add(TypedParam("balloon.rss", _ULLONG, statistics.rss))
    if wanted & VCPU:
        add(TypedParam("vcpu.current", _UINT, info.vcpus))
        add(TypedParam("vcpu.maximum", _UINT, info.max_vcpus))
        for index, used in enumerate(statistics.vcpu_times if statistics is not None else ()):
            add(TypedParam(f"vcpu.{index}.state", _INT, 1))
            add(TypedParam(f"vcpu.{index}.time", _ULLONG, used))
    if wanted & (INTERFACE | BLOCK) and statistics is not None:
        names = await domains.devices(domain.uuid)
        if wanted & INTERFACE:
            add(TypedParam("net.count", _UINT, len(statistics.nics)))
            for index, (nic, counters) in enumerate(zip(names.nics, statistics.nics, strict=False)):
                add(TypedParam(f"net.{index}.name", _STRING, nic.target))
                for name, value in _nic_rows(counters):
                    add(TypedParam(f"net.{index}.{name}", _ULLONG, value))
        if wanted & BLOCK:
            add(TypedParam("block.count", _UINT, len(statistics.disks)))
            for index, (disk, block) in enumerate(zip(names.disks, statistics.disks, strict=False)):
                add(TypedParam(f"block.{index}.name", _STRING, disk.target))
                if disk.source:
                    add(TypedParam(f"block.{index}.path", _STRING, disk.source))
                for name, value in _block_rows(block):
                    add(TypedParam(f"block.{index}.{name}", _ULLONG, value))
    return found


def _note(client: Client, domain: Domain, statistics: MachineStatistics) -> None:
    values = {
        "cpu": statistics.cpu_time,
        "memory": statistics.memory,
        "rd_bytes": sum(each.rd_bytes for each in statistics.disks),
        "wr_bytes": sum(each.wr_bytes for each in statistics.disks),
        "rx_bytes": sum(each.rx_bytes for each in statistics.nics),
        "tx_bytes": sum(each.tx_bytes for each in statistics.nics),
    }
    client.service.history.add(domain.uuid, Sample(time.time(), values))


def _nic_rows(found: NicStatistics) -> list[tuple[str, int]]:
    return [
        ("rx.bytes", found.rx_bytes), ("rx.pkts", found.rx_packets), ("rx.errs", 0), ("rx.drop", found.rx_drop),
        ("tx.bytes", found.tx_bytes), ("tx.pkts", found.tx_packets), ("tx.errs", 0), ("tx.drop", found.tx_drop),
    ]  # fmt: skip


def _block_rows(found: BlockStatistics) -> list[tuple[str, int]]:
    return [
        ("rd.reqs", found.rd_reqs), ("rd.bytes", found.rd_bytes), ("wr.reqs", found.wr_reqs),
        ("wr.bytes", found.wr_bytes), ("fl.reqs", found.fl_reqs),
    ]  # fmt: skip


async def _disk(client: Client, a: Any) -> BlockStatistics:
    if not (await client.driver.domains.flags(a.domain.uuid)).active:
        raise not_running()
    statistics = await client.driver.domains.statistics(a.domain.uuid)
    names = await client.driver.domains.devices(a.domain.uuid)
    total: list[BlockStatistics] = []
    for disk, found in zip(names.disks, statistics.disks, strict=False):
        if not a.path or a.path in (disk.target, disk.source, disk.alias):
            total.append(found)
    if not total:
        raise invalid_argument(f"invalid path: {a.path}")
    counters = ("rd_reqs", "rd_bytes", "wr_reqs", "wr_bytes", "fl_reqs")
    return BlockStatistics(*(sum(getattr(each, name) for each in total) for name in counters))


async def domain_block_stats(client: Client, a: Any) -> tuple[int, int, int, int, int]:
    found = await _disk(client, a)
    return found.rd_reqs, found.rd_bytes, found.wr_reqs, found.wr_bytes, -1


async def domain_block_stats_flags(client: Client, a: Any) -> tuple[list[TypedParam], int]:
    found = await _disk(client, a)
    llong = int(ParamType.LLONG)
    rows = [
        TypedParam(name, llong, value)
        for name, value in (
            ("wr_bytes", found.wr_bytes), ("wr_operations", found.wr_reqs), ("rd_bytes", found.rd_bytes),
            ("rd_operations", found.rd_reqs), ("flush_operations", found.fl_reqs),
        )
    ]  # fmt: skip
    return ([], len(rows)) if a.nparams == 0 else (rows[: a.nparams], min(len(rows), a.nparams))


async def domain_interface_stats(client: Client, a: Any) -> tuple[int, ...]:
    if not (await client.driver.domains.flags(a.domain.uuid)).active:
        raise not_running()
    statistics = await client.driver.domains.statistics(a.domain.uuid)
    names = await client.driver.domains.devices(a.domain.uuid)
    for nic, found in zip(names.nics, statistics.nics, strict=False):
        if a.device in (nic.target, nic.mac, nic.alias):
            return (
                found.rx_bytes, found.rx_packets, 0, found.rx_drop, found.tx_bytes, found.tx_packets, 0, found.tx_drop
            )  # fmt: skip
    raise invalid_argument(f"invalid path, '{a.device}' is not a known interface")


async def domain_memory_stats(client: Client, a: Any) -> list[MemoryStat]:
    statistics = await client.driver.domains.statistics(a.domain.uuid)
    found = {**statistics.guest_memory, _ACTUAL: statistics.memory, _RSS: statistics.rss}
    return [MemoryStat(tag, value) for tag, value in sorted(found.items())][: a.max_stats]


async def domain_get_cpu_stats(client: Client, a: Any) -> tuple[list[TypedParam], int]:
    statistics = await client.driver.domains.statistics(a.domain.uuid)
    if a.start_cpu != -1:
        # VMs are not pinned: what one host CPU did for them is not known.
        return [], 0 if a.nparams else 1
    rows = [TypedParam("cpu_time", _ULLONG, statistics.cpu_time)]
    return (rows, 1) if a.nparams else ([], 1)


async def domain_set_memory_stats_period(client: Client, a: Any) -> None:
    await client.driver.domains.find(a.domain.uuid)
