"""What a domain's description says of its share of the host: read, and changed for the next start.

A change of a running domain is refused where nothing could act on it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final
from xml.etree.ElementTree import Element

from manor.base.errors import ApiError
from manor.drivers.errors import Code, Origin, invalid, invalid_argument, unsupported
from manor.drivers.xml import child, format_xml, parse
from manor.rpc.protocol.records import IothreadInfo, TypedParam
from manor.service import parameters
from manor.service.client import Client, affected
from manor.service.parameters import Group, limited

LIVE, CONFIG = 1, 2
MAX_IOTHREADS: Final = 65536
_ACTIONS: Final = ("destroy", "restart", "rename-restart", "preserve", "coredump-destroy", "coredump-restart")
"""Source: libvirt API reference, virDomainLifecycleAction."""
_ENDS: Final = ("on_poweroff", "on_reboot", "on_crash")
_PERF: Final = (
    "cmt", "mbmt", "mbml", "cache_misses", "cache_references", "instructions", "cpu_cycles", "branch_instructions",
    "branch_misses", "bus_cycles", "stalled_cycles_frontend", "stalled_cycles_backend", "ref_cpu_cycles", "cpu_clock",
    "task_clock", "page_faults", "context_switches", "cpu_migrations", "page_faults_min", "page_faults_maj",
    "alignment_faults", "emulation_faults",
)  # fmt: skip
"""Source: libvirt API reference, VIR_PERF_PARAM_*."""
_BOOLEAN: Final = 6


async def _root(client: Client, a: Any) -> Element:
    """The description that a question is about. Raises ApiError if it asks for the live one, and there is none."""
    flags = await client.driver.domains.flags(a.domain.uuid)
    asked = getattr(a, "flags", 0)
    if asked & LIVE and asked & CONFIG:
        raise invalid_argument("flags 'VIR_DOMAIN_AFFECT_LIVE' and 'VIR_DOMAIN_AFFECT_CONFIG' are mutually exclusive")
    if asked & LIVE and not flags.active:
        raise invalid("domain is not running")
    if asked & CONFIG and not flags.persistent:
        raise invalid("transient domains do not have any persistent config")
    return parse(await client.driver.domains.xml(a.domain.uuid, bool(asked & CONFIG), True), "domain")


async def _keep(client: Client, a: Any, change: Callable[[Element], None]) -> None:
    """Change the description that is kept. Raises ApiError where the running domain is meant."""
    domains = client.driver.domains
    live, config = affected(getattr(a, "flags", 0), (await domains.flags(a.domain.uuid)).active)

    def edit(text: str) -> str:
        root = parse(text, "domain")
        change(root)
        return format_xml(root)

    if live:
        edit(await domains.xml(a.domain.uuid, False, True))  # a mistake in the arguments is told first
        raise unsupported("what a running domain gets of the host is left to the host's kernel; use --config")
    await domains.edit(a.domain.uuid, edit, False, config, client.who)


def _writer(group: Group, params: Any) -> Callable[[Element], None]:
    return lambda root: group.write(root, params)


# --- processors -------------------------------------------------------------------------------------------------------


async def domain_get_scheduler_type(client: Client, a: Any) -> tuple[str, int]:
    await client.driver.domains.find(a.domain.uuid)
    return "posix", len(parameters.SCHEDULER.parameters)


async def domain_get_scheduler_parameters(client: Client, a: Any) -> list[TypedParam]:
    return parameters.SCHEDULER.read(await _root(client, a))[: max(0, a.nparams)]


async def domain_get_scheduler_parameters_flags(client: Client, a: Any) -> list[TypedParam]:
    return await domain_get_scheduler_parameters(client, a)


async def domain_set_scheduler_parameters(client: Client, a: Any) -> None:
    await _keep(client, a, _writer(parameters.SCHEDULER, a.params))


async def domain_set_scheduler_parameters_flags(client: Client, a: Any) -> None:
    await _keep(client, a, _writer(parameters.SCHEDULER, a.params))


def _set_of(client: Client, cpu_map: bytes) -> str:
    """A map of host CPUs, as it is written. Raises ApiError for an empty one."""
    known = (1 << client.driver.node.info().cpus) - 1
    bits = int.from_bytes(cpu_map[:4096], "little") & known
    if not bits:
        raise invalid_argument("Empty cpu list for pinning")
    return "" if bits == known else parameters.format_set(bits)


def cpu_map(client: Client, text: str | None, size: int) -> bytes:
    """The map of a set of host CPUs; all of them where none is given. size: bytes."""
    known = (1 << client.driver.node.info().cpus) - 1
    bits = known if not text else parameters.parse_set(text) & known
    size = min(max(0, size), 4096)
    return bits.to_bytes(max(size, (known.bit_length() + 7) // 8), "little")[:size]


def _pin(root: Element, tag: str, number: tuple[str, int] | None, cpus: str) -> None:
    tune = child(root, "cputune")
    for each in tune.findall(tag):
        if number is None or each.get(number[0]) == str(number[1]):
            tune.remove(each)
    if cpus:
        made = Element(tag, {number[0]: str(number[1])} if number else {})
        made.set("cpuset", cpus)
        tune.append(made)
    if not len(tune):
        root.remove(tune)


async def domain_pin_vcpu(client: Client, a: Any) -> None:
    info = await client.driver.domains.info(a.domain.uuid)
    if a.vcpu >= info.max_vcpus:
        raise invalid_argument(f"vcpu {a.vcpu} is out of range of persistent cpu count {info.max_vcpus}")
    cpus = _set_of(client, a.cpu_map)
    await _keep(client, a, lambda root: _pin(root, "vcpupin", ("vcpu", a.vcpu), cpus))


async def domain_pin_vcpu_flags(client: Client, a: Any) -> None:
    await domain_pin_vcpu(client, a)


async def domain_get_vcpu_pin_info(client: Client, a: Any) -> tuple[bytes, int]:
    root = await _root(client, a)
    count = min((await client.driver.domains.info(a.domain.uuid)).max_vcpus, max(0, a.max_maps))
    pins = {each.get("vcpu"): each.get("cpuset") for each in root.iterfind("cputune/vcpupin")}
    return b"".join(cpu_map(client, pins.get(str(number)), a.map_size) for number in range(count)), count


async def domain_pin_emulator(client: Client, a: Any) -> None:
    cpus = _set_of(client, a.cpu_map)
    await _keep(client, a, lambda root: _pin(root, "emulatorpin", None, cpus))


async def domain_get_emulator_pin_info(client: Client, a: Any) -> tuple[bytes, int]:
    pin = (await _root(client, a)).find("cputune/emulatorpin")
    return cpu_map(client, None if pin is None else pin.get("cpuset"), a.map_size), 1


# --- I/O threads ------------------------------------------------------------------------------------------------------


def _iothreads(root: Element) -> list[int]:
    """Numbers of the I/O threads that a description asks for."""
    text = root.findtext("iothreads", "0").strip()
    count = int(text) if text.isdecimal() else 0
    numbers = sorted({int(each.get("id", "0")) for each in root.iterfind("iothreadids/iothread")})
    free = (number for number in range(1, MAX_IOTHREADS) if number not in numbers)
    return sorted([*numbers, *(next(free) for _ in range(max(0, count - len(numbers))))])


def _write_iothreads(root: Element, numbers: list[int]) -> None:
    for tag in ("iothreads", "iothreadids"):
        old = root.find(tag)
        if old is not None:
            root.remove(old)
    if numbers:
        child(root, "iothreads", str(len(numbers)))
        ids = child(root, "iothreadids")
        for number in numbers:
            ids.append(Element("iothread", {"id": str(number)}))


async def domain_get_iothread_info(client: Client, a: Any) -> tuple[list[IothreadInfo], int]:
    root = await _root(client, a)
    if not a.flags & CONFIG and (await client.driver.domains.flags(a.domain.uuid)).active:
        return [], 0  # all requests of a VM have one thread
    pins = {each.get("iothread"): each.get("cpuset") for each in root.iterfind("cputune/iothreadpin")}
    size = (client.driver.node.info().cpus + 7) // 8
    rows = [IothreadInfo(number, cpu_map(client, pins.get(str(number)), size)) for number in _iothreads(root)]
    return rows, len(rows)


async def domain_add_iothread(client: Client, a: Any) -> None:
    def add(root: Element) -> None:
        numbers = _iothreads(root)
        if not 0 < a.iothread_id < MAX_IOTHREADS:
            raise invalid_argument(f"invalid value of 0 or too large for iothread_id: {a.iothread_id}")
        if a.iothread_id in numbers:
            raise invalid_argument(f"an IOThread is already using iothread_id '{a.iothread_id}'")
        _write_iothreads(root, sorted([*numbers, a.iothread_id]))

    await _keep(client, a, add)


async def domain_del_iothread(client: Client, a: Any) -> None:
    def remove(root: Element) -> None:
        _need_iothread(root, a.iothread_id)
        _write_iothreads(root, [each for each in _iothreads(root) if each != a.iothread_id])

    await _keep(client, a, remove)


async def domain_pin_iothread(client: Client, a: Any) -> None:
    cpus = _set_of(client, a.cpu_map)

    def pin(root: Element) -> None:
        _need_iothread(root, a.iothread_id)
        _pin(root, "iothreadpin", ("iothread", a.iothread_id), cpus)

    await _keep(client, a, pin)


def _need_iothread(root: Element, number: int) -> None:
    if number not in _iothreads(root):
        raise invalid_argument(f"cannot find IOThread '{number}' in iothreadids list")


# --- memory, disks, networks ------------------------------------------------------------------------------------------


async def domain_get_memory_parameters(client: Client, a: Any) -> tuple[list[TypedParam], int]:
    return limited(parameters.MEMORY.read(await _root(client, a)), a.nparams)


async def domain_set_memory_parameters(client: Client, a: Any) -> None:
    await _keep(client, a, _writer(parameters.MEMORY, a.params))


async def domain_get_numa_parameters(client: Client, a: Any) -> tuple[list[TypedParam], int]:
    return limited(parameters.read_numa(await _root(client, a)), a.nparams)


async def domain_set_numa_parameters(client: Client, a: Any) -> None:
    await _keep(client, a, lambda root: parameters.write_numa(root, a.params))


async def domain_get_blkio_parameters(client: Client, a: Any) -> tuple[list[TypedParam], int]:
    root = await _root(client, a)
    return limited(parameters.BLOCK.read(root) + parameters.read_devices(root), a.nparams)


async def domain_set_blkio_parameters(client: Client, a: Any) -> None:
    def write(root: Element) -> None:
        of_devices = [each for each in a.params if each.field in parameters.DEVICE_PARAMETERS]
        for each in of_devices:
            parameters.write_devices(root, each)
        if len(of_devices) < len(a.params):
            parameters.BLOCK.write(root, [each for each in a.params if each not in of_devices])

    await _keep(client, a, write)


def _disk(root: Element, name: str | None) -> Element:
    for each in root.iterfind("devices/disk"):
        target, source = each.find("target"), each.find("source")
        names = [None if target is None else target.get("dev")]
        if source is not None:
            names += [source.get("file"), source.get("dev")]
        if name and name in names:
            return each
    raise invalid_argument(f"disk '{name}' was not found in the domain config")


def _interface(root: Element, name: str) -> Element:
    for each in root.iterfind("devices/interface"):
        target, mac = each.find("target"), each.find("mac")
        names = [None if target is None else target.get("dev"), None if mac is None else mac.get("address")]
        if name and name in names:
            return each
    raise invalid_argument(f"Can't find device {name}")


async def domain_get_block_io_tune(client: Client, a: Any) -> tuple[list[TypedParam], int]:
    root = await _root(client, a)
    if a.disk is None:
        return [], len(parameters.DISK.parameters)
    return limited(parameters.DISK.read(_disk(root, a.disk)), a.nparams)


async def domain_set_block_io_tune(client: Client, a: Any) -> None:
    await _keep(client, a, lambda root: parameters.DISK.write(_disk(root, a.disk), a.params))


async def domain_get_interface_parameters(client: Client, a: Any) -> tuple[list[TypedParam], int]:
    return limited(parameters.NIC.read(_interface(await _root(client, a), a.device)), a.nparams)


async def domain_set_interface_parameters(client: Client, a: Any) -> None:
    await _keep(client, a, lambda root: parameters.NIC.write(_interface(root, a.device), a.params))


# --- others -----------------------------------------------------------------------------------------------------------


async def domain_get_perf_events(client: Client, a: Any) -> list[TypedParam]:
    root = await _root(client, a)
    on = {each.get("name") for each in root.iterfind("perf/event") if each.get("enabled") == "yes"}
    return [TypedParam(name, _BOOLEAN, name in on) for name in _PERF]


async def domain_set_perf_events(client: Client, a: Any) -> None:
    def write(root: Element) -> None:
        perf = child(root, "perf")
        for param in a.params:
            if param.field not in _PERF or not isinstance(param.value, bool):
                raise invalid_argument(f"parameter '{param.field}' not supported")
            for each in [each for each in perf if each.get("name") == param.field]:
                perf.remove(each)
            perf.append(Element("event", {"name": param.field, "enabled": "yes" if param.value else "no"}))

    await _keep(client, a, write)


async def domain_set_lifecycle_action(client: Client, a: Any) -> None:
    if a.type >= len(_ENDS) or a.action >= len(_ACTIONS):
        raise ApiError(
            Code.INVALID_ARG, Origin.DOMAIN,
            f"invalid argument: there is no end of kind {a.type}, or no action {a.action}",
        )  # fmt: skip

    def write(root: Element) -> None:
        child(root, _ENDS[a.type], _ACTIONS[a.action])

    await _keep(client, a, write)
