"""Counters of domains: one by one, and of all at once as typed parameters."""

from __future__ import annotations

import asyncio
import functools
import time
from typing import Any, Final

from manor.base.errors import ApiError, HostError
from manor.drivers.api import BlockStatistics, DeviceNames, DomainInfo, MachineStatistics, NicStatistics
from manor.drivers.errors import Code, invalid_argument, not_running, unsupported
from manor.rpc.protocol.params import Prepared
from manor.rpc.protocol.records import Domain, DomainStats, MemoryStat, ParamType, TypedParam
from manor.service.client import Client
from manor.service.history import Counters
from manor.service.procedures.domain import is_wanted

STATE, CPU, BALLOON, VCPU, INTERFACE, BLOCK = 1, 2, 4, 8, 16, 32
"""virDomainStatsTypes."""
ALL: Final = STATE | CPU | BALLOON | VCPU | INTERFACE | BLOCK
OF_THE_MACHINE: Final = CPU | BALLOON | VCPU | INTERFACE | BLOCK
"""Those that a running domain's machine is asked for."""
ASKED_AT_ONCE: Final = 64
"""Machines that are asked at the same time."""
TURN: Final = 128
"""Domains until other clients have their turn."""
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
        chosen = list(await domains.all())
    mask = a.flags & 0xFF
    if mask:
        chosen = [(domain, flags) for domain, flags in chosen if is_wanted(mask, flags)]
    gate = asyncio.Semaphore(ASKED_AT_ONCE)
    asked = {
        domain.uuid: asyncio.ensure_future(_ask(client, domain, gate))
        for domain, flags in chosen
        if flags.active and wanted & OF_THE_MACHINE
    }
    rows = []
    try:
        for count, (domain, _) in enumerate(chosen, 1):
            if count % TURN == 0:
                await asyncio.sleep(0)
            statistics = await asked[domain.uuid] if domain.uuid in asked else None
            try:
                info = await domains.info(domain.uuid, ask=False)
                names = (
                    await domains.devices(domain.uuid)
                    if statistics is not None and wanted & (INTERFACE | BLOCK)
                    else None
                )
            except ApiError as error:
                if error.code not in (Code.NO_DOMAIN, Code.OPERATION_INVALID):
                    raise
                continue  # it went meanwhile
            params = _idle(info, wanted) if statistics is None else _running(info, wanted, statistics, names)
            rows.append(DomainStats(domain, params))
    finally:
        for task in asked.values():
            task.cancel()
    return rows


async def _ask(client: Client, domain: Domain, gate: asyncio.Semaphore) -> MachineStatistics | None:
    """What a running domain's machine counts; None if it does not answer, or has just ended."""
    async with gate:
        try:
            statistics = await client.driver.domains.statistics(domain.uuid)
        except (ApiError, HostError):
            return None
    _note(client, domain, statistics)
    return statistics


@functools.lru_cache(maxsize=4096)
def _idle(info: DomainInfo, wanted: int) -> Prepared:
    """Of a domain without a machine; most have the same size, and are asked for again and again."""
    return Prepared(_common(info, wanted, None))


def _running(
    info: DomainInfo, wanted: int, statistics: MachineStatistics, names: DeviceNames | None
) -> list[TypedParam]:
    found = _common(info, wanted, statistics)
    add = found.append
    if names is None:
        return found
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


def _common(info: DomainInfo, wanted: int, statistics: MachineStatistics | None) -> list[TypedParam]:
    found: list[TypedParam] = []
    add = found.append
    if wanted & STATE:
        add(TypedParam("state.state", _INT, info.state))
        add(TypedParam("state.reason", _INT, info.reason))
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
    return found


def _note(client: Client, domain: Domain, statistics: MachineStatistics) -> None:
    client.service.history.add(domain.uuid, Counters.of(time.time(), statistics))


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
        raise unsupported("what one processor of the host did for a domain is not known; ask for the total")
    rows = [TypedParam("cpu_time", _ULLONG, statistics.cpu_time)]
    return (rows, 1) if a.nparams else ([], 1)


async def domain_set_memory_stats_period(client: Client, a: Any) -> None:
    await client.driver.domains.find(a.domain.uuid)
