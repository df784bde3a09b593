"""What a domain gets of its host: kept in its configuration, where it has been asked for.

The host's kernel decides what a running machine gets, so nothing of this is changed while it runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from manor.base.units import KiB
from manor.domain.xml import domain as domain_xml
from manor.domain.xml.disk import Disk, IoTune
from manor.domain.xml.domain import Domain as Document
from manor.domain.xml.interface import Interface, Limits
from manor.domain.xml.tuning import BlkioDevice, BlkioTune, CpuTune, MemTune, NumaTune
from manor.drivers.errors import invalid_argument, unsupported
from manor.rpc.protocol.records import ParamType, TypedParam
from manor.service.client import Client, impact, is_config
from manor.service.procedures.parameters import Field, answer, changed, shown

UNLIMITED: Final = 9007199254740991
"""KiB that stand for no limit of memory. Source: libvirt API reference, VIR_DOMAIN_MEMORY_PARAM_UNLIMITED."""
_INT, _UINT, _LLONG, _ULLONG, _STRING = (
    ParamType.INT, ParamType.UINT, ParamType.LLONG, ParamType.ULLONG, ParamType.STRING
)  # fmt: skip
MEMORY: Final = (
    *(
        Field(name, _ULLONG, name, unit=KiB, absent=UNLIMITED)
        for name in ("hard_limit", "soft_limit", "swap_hard_limit")
    ),
    Field("min_guarantee", _ULLONG, "min_guarantee", unit=KiB, is_shown_absent=False),
)
SCHEDULER: Final = (
    Field("cpu_shares", _ULLONG, "shares"),
    *(
        Field(f"{whose}{what}", type_, f"{'' if whose == 'vcpu_' else whose}{what}")
        for whose in ("vcpu_", "emulator_", "global_", "iothread_")
        for what, type_ in (("period", _ULLONG), ("quota", _LLONG))
    ),
)
NUMA: Final = (
    Field("numa_mode", _INT, "mode", words=("strict", "preferred", "interleave", "restrictive")),
    Field("numa_nodeset", _STRING, "nodes", absent=""),
)
IO: Final = (
    *(
        Field(f"{what}_{unit}_sec{suffix}", _ULLONG, f"{what}_{unit}{suffix}")
        for suffix in ("", "_max")
        for unit in ("bytes", "iops")
        for what in ("total", "read", "write")
    ),
    Field("size_iops_sec", _ULLONG, "size_iops"),
    Field("group_name", _STRING, "group", absent=""),
    *(
        Field(f"{what}_{unit}_sec_max_length", _ULLONG, f"{what}_{unit}_length")
        for unit in ("bytes", "iops")
        for what in ("total", "read", "write")
    ),
)
_BLKIO: Final = (Field("weight", _UINT, "weight"),)
BLKIO_DEVICE: Final = {
    "device_weight": "weight", "device_read_iops_sec": "read_iops", "device_write_iops_sec": "write_iops",
    "device_read_bytes_sec": "read_bytes", "device_write_bytes_sec": "write_bytes",
}  # fmt: skip
"""Parameter -> field of BlkioDevice. Its text is path,value,path,value,..."""
_RATES: Final = ("average", "peak", "burst", "floor")


async def document(client: Client, a: Any, flags: int | None = None) -> Document:
    """The description that a question is about."""
    inactive = await is_config(client, a, flags)
    return domain_xml.parse(await client.driver.domains.xml(a.domain.uuid, inactive, True))


async def change_config(
    client: Client, a: Any, what: str, change: Callable[[Document], Document], flags: int | None = None
) -> None:
    """Change the configuration alone. Raises ApiError where a running domain would have to change."""
    live, config = await impact(client, a, flags)
    if live:
        raise unsupported(f"{what} of a running domain cannot be changed; use --config: the next start takes it")
    await client.driver.domains.edit(a.domain.uuid, change, False, config, client.who)


# --- memory and processors --------------------------------------------------------------------------------------------


async def domain_get_memory_parameters(client: Client, a: Any) -> tuple[list[TypedParam], int]:
    return answer(shown((await document(client, a)).memtune, MEMORY), a.nparams)


async def domain_set_memory_parameters(client: Client, a: Any) -> None:
    def change(found: Document) -> Document:
        return replace(found, memtune=changed(found.memtune, MemTune, a.params, MEMORY))

    await change_config(client, a, "limits of memory", change)


async def domain_get_scheduler_type(client: Client, a: Any) -> tuple[str, int]:
    await client.driver.domains.find(a.domain.uuid)
    return "posix", len(SCHEDULER)


async def domain_get_scheduler_parameters(client: Client, a: Any) -> list[TypedParam]:
    return answer(shown((await document(client, a, 0)).cputune, SCHEDULER), a.nparams)[0]


async def domain_get_scheduler_parameters_flags(client: Client, a: Any) -> list[TypedParam]:
    return answer(shown((await document(client, a)).cputune, SCHEDULER), a.nparams)[0]


async def domain_set_scheduler_parameters(client: Client, a: Any) -> None:
    await _set_scheduler(client, a, 0)


async def domain_set_scheduler_parameters_flags(client: Client, a: Any) -> None:
    await _set_scheduler(client, a, a.flags)


async def _set_scheduler(client: Client, a: Any, flags: int) -> None:
    def change(found: Document) -> Document:
        return replace(found, cputune=changed(found.cputune, CpuTune, a.params, SCHEDULER))

    await change_config(client, a, "shares of processors", change, flags)


async def domain_get_numa_parameters(client: Client, a: Any) -> tuple[list[TypedParam], int]:
    return answer(shown((await document(client, a)).numatune, NUMA), a.nparams)


async def domain_set_numa_parameters(client: Client, a: Any) -> None:
    def change(found: Document) -> Document:
        return replace(found, numatune=changed(found.numatune, NumaTune, a.params, NUMA))

    await change_config(client, a, "memory nodes", change)


# --- disks ------------------------------------------------------------------------------------------------------------


async def domain_get_blkio_parameters(client: Client, a: Any) -> tuple[list[TypedParam], int]:
    found = (await document(client, a)).blkiotune
    rows = shown(found, _BLKIO)
    for name, attribute in BLKIO_DEVICE.items():
        devices = () if found is None else found.devices
        pairs = [(one.path, getattr(one, attribute)) for one in devices]
        text = ",".join(f"{path},{value}" for path, value in pairs if value is not None)
        rows.append(TypedParam(name, int(_STRING), text))
    return answer(rows, a.nparams)


async def domain_set_blkio_parameters(client: Client, a: Any) -> None:
    own = [param for param in a.params if param.field not in BLKIO_DEVICE]
    devices = [param for param in a.params if param.field in BLKIO_DEVICE]

    def change(found: Document) -> Document:
        tune = changed(found.blkiotune, BlkioTune, own, _BLKIO)
        for param in devices:
            tune = _with_devices(tune or BlkioTune(), BLKIO_DEVICE[param.field], param)
        return replace(found, blkiotune=None if tune == BlkioTune() else tune)

    await change_config(client, a, "shares of disks", change)


def _with_devices(tune: BlkioTune, attribute: str, param: TypedParam) -> BlkioTune:
    words = str(param.value).split(",")
    if len(words) % 2 or not all(words[::2]) or not all(word.isdecimal() for word in words[1::2]):
        raise invalid_argument(f"{param.field}: '{param.value}' is not a list like /dev/sda,500,/dev/sdb,200")
    found = {one.path: one for one in tune.devices}
    for path, word in zip(words[::2], words[1::2], strict=True):
        values: dict[str, Any] = {attribute: int(word) or None}
        found[path] = replace(found.get(path, BlkioDevice(path=path)), **values)
    kept = tuple(one for one in found.values() if one != BlkioDevice(path=one.path))
    return replace(tune, devices=kept)


def _disk(found: Document, name: str | None) -> Disk:
    for disk in found.devices.disks:
        if name and name in (disk.target, disk.file, disk.dev, disk.alias):
            return disk
    raise invalid_argument(f"missing persistent configuration for disk '{name}'; `domblklist` shows those there are")


async def domain_get_block_io_tune(client: Client, a: Any) -> tuple[list[TypedParam], int]:
    found = await document(client, a)
    if a.disk is None:
        return [], len(IO)
    return answer(shown(_disk(found, a.disk).iotune, IO), a.nparams)


async def domain_set_block_io_tune(client: Client, a: Any) -> None:
    def change(found: Document) -> Document:
        disk = _disk(found, a.disk)
        new = replace(disk, iotune=changed(disk.iotune, IoTune, a.params, IO))
        disks = tuple(new if one is disk else one for one in found.devices.disks)
        return replace(found, devices=replace(found.devices, disks=disks))

    await change_config(client, a, "limits of a disk", change)


# --- interfaces -------------------------------------------------------------------------------------------------------


def _interface(found: Document, name: str) -> Interface:
    for nic in found.devices.interfaces:
        if name and name in (nic.target, nic.mac, nic.alias):
            return nic
    raise invalid_argument(f"cannot find interface {name}; give its MAC address, `domiflist` shows it")


def _rates(direction: str) -> tuple[Field, ...]:
    rates = _RATES if direction == "inbound" else _RATES[:3]
    return tuple(Field(f"{direction}.{rate}", _UINT, rate) for rate in rates)


async def domain_get_interface_parameters(client: Client, a: Any) -> tuple[list[TypedParam], int]:
    nic = _interface(await document(client, a), a.device)
    return answer(
        [*shown(nic.inbound, _rates("inbound")), *shown(nic.outbound, _rates("outbound"))], a.nparams
    )


async def domain_set_interface_parameters(client: Client, a: Any) -> None:
    def change(found: Document) -> Document:
        nic = _interface(found, a.device)
        new = nic
        for direction in ("inbound", "outbound"):
            mine = [param for param in a.params if param.field.startswith(f"{direction}.")]
            if mine:
                limits = changed(getattr(nic, direction), Limits, mine, _rates(direction))
                # Without an average there is no limit, whatever the others say.
                values: dict[str, Any] = {direction: limits if limits and limits.average else None}
                new = replace(new, **values)
        others = [param.field for param in a.params if param.field.partition(".")[0] not in ("inbound", "outbound")]
        if others:
            raise invalid_argument(f"parameter '{others[0]}' is not supported")
        nics = tuple(new if one is nic else one for one in found.devices.interfaces)
        return replace(found, devices=replace(found.devices, interfaces=nics))

    await change_config(client, a, "limits of an interface", change)
