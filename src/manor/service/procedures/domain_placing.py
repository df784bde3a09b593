"""Where a domain's threads run, and what is done when it stops: parts of its configuration."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import Any, Final

from manor.domain.cpus import cpus_to_map, map_to_cpus, parse_cpus, show_cpus
from manor.domain.xml.domain import Domain as Document
from manor.domain.xml.tuning import CpuTune, IothreadId, IothreadPin, PerfEvent, VcpuPin
from manor.drivers.errors import invalid_argument, unsupported
from manor.rpc.protocol.records import IothreadInfo, ParamType, TypedParam
from manor.service.client import Client, impact
from manor.service.procedures.domain_tuning import change_config, document

MAX_MAP: Final = 4096
"""Bytes of a bitmap of processors that clients get at most."""
_TYPES: Final = ("on_poweroff", "on_reboot", "on_crash")
"""virDomainLifecycle."""
_ACTIONS: Final = ("destroy", "restart", "rename-restart", "preserve", "coredump-destroy", "coredump-restart")
"""virDomainLifecycleAction."""
PERF: Final = (
    "cmt", "mbmt", "mbml", "cache_misses", "cache_references", "instructions", "cpu_cycles", "branch_instructions",
    "branch_misses", "bus_cycles", "stalled_cycles_frontend", "stalled_cycles_backend", "ref_cpu_cycles", "cpu_clock",
    "task_clock", "page_faults", "context_switches", "cpu_migrations", "page_faults_min", "page_faults_maj",
    "alignment_faults", "emulation_faults",
)  # fmt: skip
"""Source: libvirt API reference, VIR_PERF_PARAM_*."""
MAX_IOTHREADS: Final = 65536
_PINNED: Final = "processors of threads"
_THREADS: Final = "threads for disks"


def _all(client: Client) -> str:
    return show_cpus(range(client.driver.node.info().cpus))


def _wanted(client: Client, raw: bytes) -> str | None:
    """A client's bitmap; None for all processors, which is no pin. Raises ApiError for none."""
    found = map_to_cpus(raw[:MAX_MAP])
    if not found:
        raise invalid_argument("Empty cpu list for pinning; name a processor")
    text = show_cpus(found)
    return None if text == _all(client) else text


def _tuned(found: Document, tune: CpuTune) -> Document:
    return replace(found, cputune=None if tune == CpuTune() else tune)


# --- vCPUs ------------------------------------------------------------------------------------------------------------


async def domain_get_vcpu_pin_info(client: Client, a: Any) -> tuple[bytes, int]:
    found = await document(client, a)
    count = min(found.vcpus, max(0, a.max_maps))
    size = min(max(0, a.map_size), MAX_MAP)
    pins = {pin.vcpu: pin.cpus for pin in (found.cputune.vcpu_pins if found.cputune else ())}
    default = found.cpuset or _all(client)
    maps = [cpus_to_map(parse_cpus(pins.get(number, default)), size) for number in range(count)]
    return b"".join(maps), count


async def domain_pin_vcpu(client: Client, a: Any) -> None:
    await _pin_vcpu(client, a, 0)


async def domain_pin_vcpu_flags(client: Client, a: Any) -> None:
    await _pin_vcpu(client, a, a.flags)


async def _pin_vcpu(client: Client, a: Any, flags: int) -> None:
    cpus = _wanted(client, a.cpu_map)

    def change(found: Document) -> Document:
        if a.vcpu >= found.vcpus:
            raise invalid_argument(f"vcpu {a.vcpu} is out of range of persistent cpu count {found.vcpus}")
        tune = found.cputune or CpuTune()
        kept = [pin for pin in tune.vcpu_pins if pin.vcpu != a.vcpu]
        if cpus is not None:
            kept.append(VcpuPin(vcpu=a.vcpu, cpus=cpus))
        return _tuned(found, replace(tune, vcpu_pins=tuple(sorted(kept, key=lambda pin: pin.vcpu))))

    await change_config(client, a, _PINNED, change, flags)


# --- other threads ----------------------------------------------------------------------------------------------------


async def domain_get_emulator_pin_info(client: Client, a: Any) -> tuple[bytes, int]:
    found = await document(client, a)
    pin = (found.cputune.emulator_pin if found.cputune else None) or found.cpuset or _all(client)
    return cpus_to_map(parse_cpus(pin), min(max(0, a.map_size), MAX_MAP)), 1


async def domain_pin_emulator(client: Client, a: Any) -> None:
    cpus = _wanted(client, a.cpu_map)

    def change(found: Document) -> Document:
        return _tuned(found, replace(found.cputune or CpuTune(), emulator_pin=cpus))

    await change_config(client, a, _PINNED, change)


# --- I/O threads ------------------------------------------------------------------------------------------------------


def _iothreads(found: Document) -> list[int]:
    """Numbers of the I/O threads that a description asks for."""
    numbers = sorted({one.id for one in found.iothread_ids})
    free = (number for number in range(1, MAX_IOTHREADS) if number not in numbers)
    return sorted([*numbers, *islice(free, max(0, (found.iothreads or 0) - len(numbers)))])


def _with_iothreads(found: Document, numbers: list[int]) -> Document:
    ids = tuple(IothreadId(id=number) for number in sorted(numbers))
    tune = found.cputune or CpuTune()
    pins = tuple(pin for pin in tune.iothread_pins if pin.iothread in numbers)
    return _tuned(
        replace(found, iothreads=len(ids) or None, iothread_ids=ids), replace(tune, iothread_pins=pins)
    )


def _need_iothread(found: Document, number: int) -> None:
    if number not in _iothreads(found):
        raise invalid_argument(f"cannot find IOThread '{number}' in iothreadids list")


async def domain_get_iothread_info(client: Client, a: Any) -> tuple[list[IothreadInfo], int]:
    found = await document(client, a)
    if found.id is not None:
        return [], 0  # all requests of a VM have one thread
    pins = {pin.iothread: pin.cpus for pin in (found.cputune.iothread_pins if found.cputune else ())}
    size = (client.driver.node.info().cpus + 7) // 8
    default = found.cpuset or _all(client)
    rows = [
        IothreadInfo(number, cpus_to_map(parse_cpus(pins.get(number, default)), size)) for number in _iothreads(found)
    ]
    return rows, len(rows)


async def domain_add_iothread(client: Client, a: Any) -> None:
    def change(found: Document) -> Document:
        if not 0 < a.iothread_id < MAX_IOTHREADS:
            raise invalid_argument(f"invalid value of 0 or too large for iothread_id: {a.iothread_id}")
        if a.iothread_id in _iothreads(found):
            raise invalid_argument(f"an IOThread is already using iothread_id '{a.iothread_id}'")
        return _with_iothreads(found, [*_iothreads(found), a.iothread_id])

    await change_config(client, a, _THREADS, change)


async def domain_del_iothread(client: Client, a: Any) -> None:
    def change(found: Document) -> Document:
        _need_iothread(found, a.iothread_id)
        return _with_iothreads(found, [one for one in _iothreads(found) if one != a.iothread_id])

    await change_config(client, a, _THREADS, change)


async def domain_pin_iothread(client: Client, a: Any) -> None:
    cpus = _wanted(client, a.cpu_map)

    def change(found: Document) -> Document:
        _need_iothread(found, a.iothread_id)
        tune = found.cputune or CpuTune()
        kept = [pin for pin in tune.iothread_pins if pin.iothread != a.iothread_id]
        if cpus is not None:
            kept.append(IothreadPin(iothread=a.iothread_id, cpus=cpus))
        return _tuned(found, replace(tune, iothread_pins=tuple(sorted(kept, key=lambda pin: pin.iothread))))

    await change_config(client, a, _PINNED, change)


# --- counters of the processor ----------------------------------------------------------------------------------------


async def domain_get_perf_events(client: Client, a: Any) -> list[TypedParam]:
    on = {one.name for one in (await document(client, a)).perf_events if one.enabled}
    return [TypedParam(name, int(ParamType.BOOLEAN), name in on) for name in PERF]


async def domain_set_perf_events(client: Client, a: Any) -> None:
    def change(found: Document) -> Document:
        events = {one.name: one for one in found.perf_events}
        for param in a.params:
            if param.field not in PERF or not isinstance(param.value, bool):
                raise invalid_argument(f"parameter '{param.field}' not supported")
            events[param.field] = PerfEvent(name=param.field, enabled=param.value)
        return replace(found, perf_events=tuple(events.values()))

    await change_config(client, a, "events of the processor", change)


# --- the end ----------------------------------------------------------------------------------------------------------


async def domain_set_lifecycle_action(client: Client, a: Any) -> None:
    if not 0 <= a.type < len(_TYPES):
        raise invalid_argument(f"invalid lifecycle type '{a.type}'")
    if not 0 <= a.action < len(_ACTIONS):
        raise invalid_argument(f"invalid lifecycle action '{a.action}'")
    field = _TYPES[a.type]
    values: dict[str, Any] = {field: _ACTIONS[a.action]}
    live, config = await impact(client, a)
    if live and field == "on_reboot":
        raise unsupported("what a reboot of a running domain does is settled when it starts; use --config")

    def change(found: Document) -> Document:
        return replace(found, **values)

    await client.driver.domains.edit(a.domain.uuid, change, live, config, client.who)
