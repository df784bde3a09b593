"""Domains: processors, memory, limits."""

from __future__ import annotations

from collections.abc import Sequence

from manor.rpc.protocol.records import Domain, ParamType, TypedParam
from manor.shell.arguments import Arguments
from manor.shell.commands.bits import bits_of, bytes_of, parse_ranges, ranges
from manor.shell.commands.life import act
from manor.shell.commands.states import VCPU_STATES, named
from manor.shell.errors import CommandError
from manor.shell.link import RemoteError
from manor.shell.session import NO_LIMIT, STRING_PARAMS, Session

LIVE, CONFIG, MAXIMUM, GUEST = 1, 2, 4, 8
"""Source: libvirt API reference, virDomainVcpuFlags."""

MAX_CPUS = 4096


def given(arguments: Arguments, kind: ParamType, *names: str) -> list[TypedParam]:
    """The typed parameters whose options were given; an option's dashes are underscores."""
    params: list[TypedParam] = []
    for name in names:
        if arguments.get(name) is not None:
            value: int | str = arguments.number(name) if kind is not ParamType.STRING else arguments.text(name)
            params.append(TypedParam(name.replace("-", "_"), kind, value))
    return params


THROTTLES = tuple(
    f"{what}-{unit}-sec{suffix}"
    for suffix in ("", "-max", "-max-length")
    for unit in ("bytes", "iops")
    for what in ("total", "read", "write")
)


def blkdeviotune(session: Session, arguments: Arguments) -> None:
    """Show or set the limits of a disk."""
    affect = arguments.affect()
    domain, disk = session.domain(arguments), arguments.text("device")
    lengths = [name for name in THROTTLES if name.endswith("-length")]
    params = given(arguments, ParamType.ULLONG, *THROTTLES[: -len(lengths)], "size-iops-sec")
    params += given(arguments, ParamType.STRING, "group-name")
    params += given(arguments, ParamType.ULLONG, *lengths)
    if params:
        with session.failing("Unable to change block I/O throttle"):
            session.call("domain_set_block_io_tune", domain, disk, params, affect)
        return
    with session.failing("Unable to get block I/O throttle parameters"):
        found = session.params("domain_get_block_io_tune", domain, disk, flags=affect)
    session.parameters(found)


BLKIO_DEVICES = (
    "device-weights", "device-read-iops-sec", "device-write-iops-sec", "device-read-bytes-sec",
    "device-write-bytes-sec",
)  # fmt: skip


def blkiotune(session: Session, arguments: Arguments) -> None:
    """Show or set weights."""
    affect = arguments.affect()
    domain = session.domain(arguments)
    params = []
    if arguments.get("weight") is not None:
        weight = arguments.number("weight", low=-(2**31), high=2**31 - 1)
        if weight <= 0:
            raise CommandError(f"Invalid value of {weight} for I/O weight")
        params.append(TypedParam("weight", ParamType.UINT, weight))
    for param in given(arguments, ParamType.STRING, *BLKIO_DEVICES):
        field = param.field.replace("weights", "weight")
        params.append(TypedParam(field, ParamType.STRING, param.value))
    if params:
        with session.failing("Unable to change blkio parameters"):
            session.call("domain_set_blkio_parameters", domain, params, affect)
        return
    with session.failing("Unable to get blkio parameters"):
        found = session.params("domain_get_blkio_parameters", domain, flags=affect)
    session.parameters(found)


def _nanoseconds(name: str, value: int) -> str:
    return f"\t{name:<12} {value // 10**9:9d}.{value % 10**9:09d} seconds"


def cpu_stats(session: Session, arguments: Arguments) -> None:
    """Show processor time."""
    first = arguments.number("start", 0, high=2**31 - 1)
    wanted = arguments.number("count", -1, high=2**31 - 1)
    is_total = arguments.flag("total")
    shows_cpus = not is_total or arguments.get("start") is not None or arguments.get("count") is not None
    domain = session.domain(arguments)
    failed = f"Failed to retrieve CPU statistics for domain '{domain.name}'"
    with session.failing(failed):
        if shows_cpus:
            count = session.call("domain_get_cpu_stats", domain, 0, 0, 0, 0).nparams
            count = min(count - first, wanted if wanted >= 0 else count)
            per_cpu = session.call("domain_get_cpu_stats", domain, 0, 0, 1, 0).nparams
            if not per_cpu or count <= 0:
                session.print("No per-CPU stats available")
            for cpu in range(first, first + count) if per_cpu else ():
                found = session.call("domain_get_cpu_stats", domain, per_cpu, cpu, 1, STRING_PARAMS).params
                session.print(f"CPU{cpu}:")
                for param in found:
                    session.print(_nanoseconds(param.field, int(param.value)))
        if is_total or not (arguments.get("start") or arguments.get("count")):
            size = session.call("domain_get_cpu_stats", domain, 0, -1, 1, 0).nparams
            if not size:
                session.print("No total stats available")
                return
            session.print("Total:")
            for param in session.call("domain_get_cpu_stats", domain, size, -1, 1, STRING_PARAMS).params:
                session.print(_nanoseconds(param.field, int(param.value)))


RATES = ("average", "peak", "burst", "floor")


def domiftune(session: Session, arguments: Arguments) -> None:
    """Show or set bandwidths."""
    affect = arguments.affect()
    domain, interface = session.domain(arguments), arguments.text("interface")
    params = []
    for direction in ("inbound", "outbound"):
        text = arguments.get(direction)
        if text is None:
            continue
        parts = text.split(",")
        if len(parts) > len(RATES):
            raise CommandError(f"Rate format is incorrect: {direction} is average,peak,burst")
        for name, part in zip(RATES, parts, strict=False):
            if not part.isdigit():
                raise CommandError(f"field '{name}' is malformed")
            params.append(TypedParam(f"{direction}.{name}", ParamType.UINT, int(part)))
    if params:
        with session.failing("Unable to set interface parameters"):
            session.call("domain_set_interface_parameters", domain, interface, params, affect)
        return
    with session.failing("Unable to get number of interface parameters"):
        found = session.params(
            "domain_get_interface_parameters", domain, interface, flags=affect,
            failed="Unable to get interface parameters",
        )  # fmt: skip
    session.parameters(found)


def host_cpus(session: Session) -> int:
    """How many CPUs the host may have. Raises RemoteError."""
    try:
        count: int = session.call("node_get_cpu_map", 0, 0, 0).count
    except RemoteError:
        info = session.call("node_get_info")
        count = info.nodes * info.sockets * info.cores * info.threads
    return min(count, MAX_CPUS)


def emulatorpin(session: Session, arguments: Arguments) -> None:
    """Show or set where emulator threads run."""
    affect = arguments.affect()
    domain, text = session.domain(arguments), arguments.get("cpulist")
    with session.failing():
        count = host_cpus(session)
        if text is not None:
            cpus = bytes_of(parse_ranges(text, count), count)
            session.call("domain_pin_emulator", domain, cpus, affect)
            return
        found = session.call("domain_get_emulator_pin_info", domain, (count + 7) // 8, affect)
    session.note(f"emulator: CPU Affinity\n{'-' * 34}")
    session.print(f"       *: {ranges(bits_of(found.cpu_maps, count))}")


def iothreadadd(session: Session, arguments: Arguments) -> None:
    """Add an I/O thread."""
    affect = arguments.affect()
    act(session, arguments, "domain_add_iothread", _iothread(arguments, "id"), affect, failed="", done="")


def iothreaddel(session: Session, arguments: Arguments) -> None:
    """Remove an I/O thread."""
    affect = arguments.affect()
    act(session, arguments, "domain_del_iothread", _iothread(arguments, "id"), affect, failed="", done="")


def _iothread(arguments: Arguments, name: str) -> int:
    number = arguments.number(name, low=-(2**31), high=2**31 - 1)
    if number <= 0:
        raise CommandError(f"Invalid IOThread id value: '{number}'")
    return number


def iothreadinfo(session: Session, arguments: Arguments) -> None:
    """List I/O threads."""
    affect = arguments.affect()
    domain = session.domain(arguments)
    with session.failing("Unable to get domain IOThreads information"):
        threads = session.call("domain_get_iothread_info", domain, affect).info
    if not threads:
        session.note("No IOThreads found for the domain", end="")
        return
    rows = [(str(thread.iothread_id), ranges(bits_of(thread.cpu_map, MAX_CPUS))) for thread in threads]
    session.table(("IOThread ID", "CPU Affinity"), rows, naming="IOThread ID")


def iothreadpin(session: Session, arguments: Arguments) -> None:
    """Set where an I/O thread runs."""
    affect = arguments.affect()
    domain, number = session.domain(arguments), arguments.number("iothread", high=2**32 - 1)
    with session.failing():
        count = host_cpus(session)
        cpus = bytes_of(parse_ranges(arguments.text("cpulist"), count), count)
        session.call("domain_pin_iothread", domain, number, cpus, affect)


POLLING = (
    ("poll-max-ns", ParamType.ULLONG), ("poll-grow", ParamType.UINT), ("poll-shrink", ParamType.UINT),
    ("thread-pool-min", ParamType.INT), ("thread-pool-max", ParamType.INT),
)  # fmt: skip
"""Source: libvirt API reference, VIR_DOMAIN_IOTHREAD_*."""


def iothreadset(session: Session, arguments: Arguments) -> None:
    """Set how an I/O thread polls."""
    affect = arguments.affect()
    domain, number = session.domain(arguments), _iothread(arguments, "id")
    params = [
        TypedParam(name.replace("-", "_"), kind, arguments.number(name, low=-1))
        for name, kind in POLLING
        if arguments.get(name) is not None
    ]
    if not params:
        raise CommandError("Not enough arguments passed, nothing to set")
    with session.failing():
        session.call("domain_set_iothread_params", domain, number, params, affect)


MEMORY_LIMITS = ("hard-limit", "soft-limit", "swap-hard-limit", "min-guarantee")


def memtune(session: Session, arguments: Arguments) -> None:
    """Show or set memory limits."""
    affect = arguments.affect()
    domain = session.domain(arguments)
    params = []
    for name in MEMORY_LIMITS:
        if arguments.get(name) == "-1":
            limit: int | None = NO_LIMIT << 10
        else:
            limit = arguments.scaled(name, 1024)
        if limit is not None:
            params.append(TypedParam(name.replace("-", "_"), ParamType.ULLONG, limit >> 10))
    if params:
        with session.failing("Unable to change memory parameters"):
            session.call("domain_set_memory_parameters", domain, params, affect)
        return
    with session.failing("Unable to get memory parameters"):
        found = session.params("domain_get_memory_parameters", domain, flags=affect)
    session.parameters(found, [param.field for param in found])


NUMA_MODES = ("strict", "preferred", "interleave", "restrictive")


def numatune(session: Session, arguments: Arguments) -> None:
    """Show or set NUMA placement."""
    affect = arguments.affect()
    domain, mode, nodes = session.domain(arguments), arguments.get("mode"), arguments.get("nodeset")
    params = []
    if nodes is not None:
        params.append(TypedParam("numa_nodeset", ParamType.STRING, nodes))
    if mode is not None:
        number = int(mode) if mode.isdigit() else NUMA_MODES.index(mode) if mode in NUMA_MODES else -1
        if number < 0:
            raise CommandError(f"Invalid mode: {mode}")
        params.append(TypedParam("numa_mode", ParamType.INT, number))
    if params:
        with session.failing("Unable to change numa parameters"):
            session.call("domain_set_numa_parameters", domain, params, affect)
        return
    with session.failing("Unable to get numa parameters"):
        found = session.params("domain_get_numa_parameters", domain, flags=affect)
    shown = [
        param._replace(type=ParamType.STRING, value=named(NUMA_MODES, int(param.value)))
        if param.field == "numa_mode"
        else param
        for param in found
    ]
    session.parameters(shown)


def perf(session: Session, arguments: Arguments) -> None:
    """Show or set what is counted."""
    affect = arguments.affect()
    domain = session.domain(arguments)
    params = [
        TypedParam(event, ParamType.BOOLEAN, value)
        for option, value in (("enable", True), ("disable", False))
        for event in (arguments.get(option) or "").split(",")
        if event
    ]
    if params:
        with session.failing("Unable to enable/disable perf events"):
            session.call("domain_set_perf_events", domain, params, affect)
        found = params
    else:
        with session.failing("Unable to get perf events"):
            found = session.call("domain_get_perf_events", domain, affect)
    words = {True: "enabled", False: "disabled"}
    session.parameters([param._replace(type=ParamType.STRING, value=words[bool(param.value)]) for param in found])


def schedinfo(session: Session, arguments: Arguments) -> None:
    """Show or set the scheduler's parameters."""
    arguments.affect()
    domain = session.domain(arguments)
    with session.failing():
        kind = session.call("domain_get_scheduler_type", domain)
        before = _scheduler(session, arguments, domain, kind.nparams)
    wanted = _wanted(arguments)
    changed = []
    for param in before:
        if param.field in wanted:
            text = wanted.pop(param.field)
            changed.append(param._replace(value=_converted(param, text)))
    scheduler = {"unknown": "Unknown"}.get(kind.type, kind.type)
    session.print(f"{'Scheduler':<15}: {scheduler}")
    if wanted:
        raise CommandError(f"invalid scheduler option: {next(iter(wanted))}")
    if changed:
        with session.failing():
            if _says_where(arguments):
                session.call("domain_set_scheduler_parameters_flags", domain, changed, arguments.affect())
            else:
                session.call("domain_set_scheduler_parameters", domain, changed)
            before = _scheduler(session, arguments, domain, kind.nparams)
    session.parameters(before)


def _says_where(arguments: Arguments) -> bool:
    return any(arguments.flag(name) for name in ("live", "config", "current"))


def _scheduler(session: Session, arguments: Arguments, domain: Domain, count: int) -> list[TypedParam]:
    """The scheduler's parameters; the older call is the one that every driver has. Raises RemoteError."""
    if _says_where(arguments):
        return list(session.call("domain_get_scheduler_parameters_flags", domain, count, arguments.affect()))
    return list(session.call("domain_get_scheduler_parameters", domain, count))


def _wanted(arguments: Arguments) -> dict[str, str]:
    wanted = {}
    for name in ("weight", "cap"):
        if arguments.get(name) is not None:
            wanted[name] = str(arguments.number(name, high=2**32 - 1))
    for word in arguments.words("set"):
        name, equals, value = word.partition("=")
        if not equals:
            raise CommandError("Invalid syntax for --set, expecting name=value")
        wanted[name] = value
    return wanted


def _converted(param: TypedParam, text: str) -> int | float | str:
    try:
        if param.type == ParamType.STRING:
            return text
        return float(text) if param.type == ParamType.DOUBLE else int(text, 0)
    except ValueError:
        raise CommandError(f"Invalid value for field '{param.field}': {text}") from None


def _memory(arguments: Arguments) -> int:
    size = arguments.scaled("size", 1024)
    assert size is not None
    return (size + 1023) >> 10


def setmem(session: Session, arguments: Arguments) -> None:
    """Set the memory."""
    affect = arguments.affect()
    domain, size = session.domain(arguments), _memory(arguments)
    with session.failing():
        if affect or arguments.flag("current"):
            session.call("domain_set_memory_flags", domain, size, affect)
        else:
            session.call("domain_set_memory", domain, size)


def setmaxmem(session: Session, arguments: Arguments) -> None:
    """Set the largest memory."""
    affect = arguments.affect()
    domain, size = session.domain(arguments), _memory(arguments)
    with session.failing("Unable to change MaxMemorySize"):
        if affect or arguments.flag("current"):
            session.call("domain_set_memory_flags", domain, size, affect | MAXIMUM)
        else:
            session.call("domain_set_max_memory", domain, size)


def setvcpu(session: Session, arguments: Arguments) -> None:
    """Plug or unplug processors."""
    arguments.exclusive("enable", "disable")
    affect = arguments.affect()
    if not (arguments.flag("enable") or arguments.flag("disable")):
        raise CommandError("one of options --enable or --disable is required")
    state = int(arguments.flag("enable"))
    act(session, arguments, "domain_set_vcpu", arguments.text("vcpulist"), state, affect, failed="", done="")


def setvcpus(session: Session, arguments: Arguments) -> None:
    """Set how many processors there are."""
    for first, second in (("current", "live"), ("current", "config"), ("guest", "config"), ("guest", "maximum")):
        arguments.exclusive(first, second)
    flags = arguments.flags(live=LIVE, config=CONFIG, guest=GUEST, maximum=MAXIMUM, hotpluggable=16)
    if arguments.flag("maximum") and not arguments.flag("config"):
        raise CommandError("Option --config is required by option --maximum")
    domain, count = session.domain(arguments), arguments.number("count", high=2**32 - 1)
    if count == 0:
        raise CommandError("Can't set 0 processors for a VM")
    with session.failing():
        if flags or arguments.flag("current"):
            session.call("domain_set_vcpus_flags", domain, count, flags)
        else:
            session.call("domain_set_vcpus", domain, count)


def vcpucount(session: Session, arguments: Arguments) -> None:
    """Tell how many processors there are."""
    for first, second in (
        ("live", "config"), ("current", "live"), ("current", "config"), ("maximum", "active"), ("guest", "config"),
    ):  # fmt: skip
        arguments.exclusive(first, second)
    domain = session.domain(arguments)
    asks = [name for name in ("maximum", "active", "live", "config", "current", "guest") if arguments.flag(name)]
    if asks:
        flags = arguments.flags(live=LIVE, config=CONFIG, guest=GUEST, maximum=MAXIMUM)
        failed = f"Failed to retrieve {'maximum' if flags & MAXIMUM else 'current'} vcpu count"
        with session.failing(*(["Failed to retrieve vCPU count from the guest"] if flags & GUEST else [failed])):
            session.print(str(session.call("domain_get_vcpus_flags", domain, flags)))
        return
    for which, where, count in _counts(session, domain):
        session.print(f"{which:<12} {where:<12} {count:>3}")


def _counts(session: Session, domain: Domain) -> list[tuple[str, str, int]]:
    found = []
    for which, bits in (("maximum", MAXIMUM), ("current", 0)):
        for where, place in (("config", CONFIG), ("live", LIVE)):
            try:
                found.append((which, where, session.call("domain_get_vcpus_flags", domain, bits | place)))
            except RemoteError:
                continue  # a domain that does not run has no live count, one without definition no other
    return found


def vcpuinfo(session: Session, arguments: Arguments) -> None:
    """Tell about each processor."""
    domain, is_pretty = session.domain(arguments), arguments.flag("pretty")
    with session.failing():
        cpus = host_cpus(session)
        size = (cpus + 7) // 8
        count = session.call("domain_get_info", domain).vcpus
        if domain.id >= 0:
            found = session.call("domain_get_vcpus", domain, count, size)
            infos, maps = list(found.info), found.cpu_maps
        else:
            pins = session.call("domain_get_vcpu_pin_info", domain, count, size, CONFIG)
            infos, maps = [None] * pins.count, pins.cpu_maps
    for index, info in enumerate(infos):
        affinity = bits_of(maps[index * size : (index + 1) * size], cpus)
        pairs = [("VCPU", str(info.number if info else index))]
        if info is None:
            pairs += [("CPU", "N/A"), ("State", "N/A"), ("CPU time", "N/A")]
        else:
            pairs += [("CPU", str(info.cpu)), ("State", named(VCPU_STATES, info.state, "no state"))]
            if info.cpu_time:
                pairs.append(("CPU time", f"{info.cpu_time / 1e9:.1f}s"))
        text = "".join("y" if cpu in affinity else "-" for cpu in range(cpus))
        pairs.append(("CPU Affinity", f"{ranges(affinity)} (out of {cpus})" if is_pretty else text))
        session.fields(pairs[:3] if info is None and not session.is_structured else pairs)
        if info is None and not session.is_structured:
            # Scripts know virsh's line, which has no colon here.
            session.print(f"{'CPU time':<15} N/A")
            session.fields(pairs[4:])
        if index + 1 < len(infos):
            session.print()


def vcpupin(session: Session, arguments: Arguments) -> None:
    """Show or set where processors run."""
    affect = arguments.affect()
    domain, text = session.domain(arguments), arguments.get("cpulist")
    vcpu = arguments.number("vcpu", -1, high=2**31 - 1)
    if text is not None and vcpu < 0:
        raise CommandError("vcpupin: Missing vCPU number in pin mode.")
    with session.failing():
        cpus = host_cpus(session)
        if text is not None:
            chosen = bytes_of(parse_ranges(text, cpus), cpus)
            if affect or arguments.flag("current"):
                session.call("domain_pin_vcpu_flags", domain, vcpu, chosen, affect)
            else:
                session.call("domain_pin_vcpu", domain, vcpu, chosen)
            return
        count = session.call("domain_get_info", domain).vcpus
        size = (cpus + 7) // 8
        found = session.call("domain_get_vcpu_pin_info", domain, count, size, affect)
    _show_pins(session, vcpu, [bits_of(found.cpu_maps[n * size : (n + 1) * size], cpus) for n in range(found.count)])


def _show_pins(session: Session, vcpu: int, pins: Sequence[Sequence[int]]) -> None:
    if vcpu >= len(pins):
        raise CommandError("vcpupin: vCPU index out of range.")
    rows = [(str(n), ranges(pin)) for n, pin in enumerate(pins) if vcpu < 0 or n == vcpu]
    session.table(("VCPU", "CPU Affinity"), rows, naming="VCPU")
