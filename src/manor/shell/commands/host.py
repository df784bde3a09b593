"""The host, and the connection to it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from manor.shell.arguments import Arguments
from manor.shell.commands.bits import bits_of, ranges
from manor.shell.errors import CommandError
from manor.shell.link import RemoteError
from manor.shell.session import Session, read_file

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

LIBRARY_VERSION = 9_000_000
"""The version of libvirt's protocol that the shell speaks, as libvirt counts: major, minor, release, thousands each."""


def allocpages(session: Session, arguments: Arguments) -> None:
    """Change the pools of huge pages."""
    flags = arguments.flags(add=0x2)
    size = _page_size(arguments)
    count = arguments.number("pagecount")
    cell = arguments.number("cellno", low=-1)
    cells = [cell]
    if arguments.flag("all"):
        arguments.exclusive("all", "cellno")
        cells = _cells(session)
    with session.failing():
        for number in cells:
            session.call("node_alloc_pages", [size], [count], number, 1 if number >= 0 else 2**32 - 1, flags)


def _page_size(arguments: Arguments) -> int:
    size = arguments.scaled("pagesize", 1024)
    assert size is not None
    return size // 1024


def capabilities(session: Session, arguments: Arguments) -> None:
    """Print the capabilities."""
    with session.failing("failed to get capabilities"):
        session.print(session.call("connect_get_capabilities"))


def _cpu_elements(path: str) -> list[str]:
    """The <cpu> elements within a file, wherever they are. Raises CommandError."""
    from xml.etree import ElementTree

    try:
        root = ElementTree.fromstring(f"<container>{_without_declaration(read_file(path))}</container>")
    except ElementTree.ParseError as error:
        raise CommandError(f"Failed to parse XML fragment {path}: {error}") from None
    found = [root, *root.iter()]
    cpus = [
        child
        for parent in found
        for child in parent
        if (child.tag == "cpu" and parent.tag in ("container", "domain", "host"))
        or (child.tag == "mode" and child.get("name") == "host-model" and parent.tag == "cpu")
    ]
    if not cpus:
        raise CommandError(
            f"File '{path}' does not contain any <cpu> element or valid domain XML, host capabilities XML, or "
            "domain capabilities XML"
        )
    texts = []
    for cpu in dict.fromkeys(cpus):
        cpu.tag, cpu.tail = "cpu", None
        cpu.attrib = {} if cpu.get("name") == "host-model" else cpu.attrib
        texts.append(ElementTree.tostring(cpu, encoding="unicode"))
    return texts


def _without_declaration(text: str) -> str:
    text = text.lstrip()
    return text[text.index("?>") + 2 :] if text.startswith("<?xml") and "?>" in text else text


def cpu_baseline(session: Session, arguments: Arguments) -> None:
    """Print what several hosts' processors have in common."""
    cpus = _cpu_elements(arguments.text("file"))
    with session.failing():
        session.print(session.call("connect_baseline_cpu", cpus, arguments.flags(features=1, migratable=2)), end="")


def cpu_compare(session: Session, arguments: Arguments) -> None:
    """Compare a processor with the host's."""
    path = arguments.text("file")
    cpu = _cpu_elements(path)[0]
    with session.failing(f"Failed to compare host CPU with {path}"):
        result = session.call("connect_compare_cpu", cpu, arguments.flags(error=1, validate=2))
    _compared(session, result, path, "host CPU")


def _compared(session: Session, result: int, path: str, whose: str) -> None:
    hypervisor = whose.startswith("the")
    if result == 0:
        subject = f"CPU described in {path} is incompatible with {whose}"
        session.print(subject)
        raise CommandError
    if result == 1:
        session.print(f"CPU described in {path} is identical to {whose}")
    elif result == 2:
        session.print(
            f"The CPU provided by hypervisor on the host is a superset of CPU described in {path}"
            if hypervisor
            else f"Host CPU is a superset of CPU described in {path}"
        )
    else:
        raise CommandError(f"Failed to compare host CPU with {path}")


def hypervisor_cpu_baseline(session: Session, arguments: Arguments) -> None:
    """Print what the hypervisor can offer on all of several hosts."""
    path, model = arguments.get("file"), arguments.get("model")
    if path is None and model is None:
        raise CommandError("Either --file or --model must be given")
    cpus = _cpu_elements(path) if path is not None else [f"<cpu><model>{model}</model></cpu>"]
    flags = arguments.flags(features=1, migratable=2)
    with session.failing():
        session.print(session.call("connect_baseline_hypervisor_cpu", *_machine(arguments), cpus, flags), end="")


def hypervisor_cpu_compare(session: Session, arguments: Arguments) -> None:
    """Compare a processor with what the hypervisor offers."""
    path = arguments.text("file")
    cpu = _cpu_elements(path)[0]
    flags = arguments.flags(error=1, validate=2)
    with session.failing(f"Failed to compare hypervisor CPU with {path}"):
        result = session.call("connect_compare_hypervisor_cpu", *_machine(arguments), cpu, flags)
    _compared(session, result, path, "the CPU provided by hypervisor on the host")


def _machine(arguments: Arguments) -> tuple[str | None, ...]:
    return tuple(arguments.get(name) for name in ("emulator", "arch", "machine", "virttype"))


def cpu_models(session: Session, arguments: Arguments) -> None:
    """List processor models."""
    with session.failing("failed to get CPU model names"):
        models = session.call("connect_get_cpu_model_names", arguments.text("arch"), 1, 0).models
    if not models:
        session.print("all CPU models are accepted")
    for model in models:
        session.print(model)


def domcapabilities(session: Session, arguments: Arguments) -> None:
    """Print what a domain may have."""
    values = [arguments.get(name) for name in ("emulatorbin", "arch", "machine", "virttype")]
    with session.failing("failed to get emulator capabilities"):
        session.print(session.call("connect_get_domain_capabilities", *values, 0))


def _capability_elements(session: Session, path: str) -> list[Element]:
    from xml.etree import ElementTree

    with session.failing("unable to get node capabilities"):
        text = session.call("connect_get_capabilities")
    return ElementTree.fromstring(text).findall(path)


def _cell_elements(session: Session) -> list[Element]:
    return _capability_elements(session, "./host/topology/cells/cell")


def _cells(session: Session) -> list[int]:
    return [int(cell.get("id", "0")) for cell in _cell_elements(session)]


def freecell(session: Session, arguments: Arguments) -> None:
    """Tell the free memory of NUMA cells."""
    arguments.exclusive("all", "cellno")
    if arguments.flag("all"):
        total = 0
        for cell in _cells(session):
            with session.failing(f"failed to get free memory for NUMA node number: {cell}"):
                free = session.call("node_get_cells_free_memory", cell, 1)[0]
            session.print(f"{cell:>5}: {free // 1024:>10} KiB")
            total += free // 1024
        session.print("-" * 20)
        session.print(f"{'Total':>5}: {total:>10} KiB")
    elif arguments.get("cellno") is not None:
        cell = arguments.number("cellno", high=2**31 - 1)
        with session.failing():
            free = session.call("node_get_cells_free_memory", cell, 1)
        session.print(f"{cell}: {free[0] // 1024} KiB")
    else:
        with session.failing():
            free = session.call("node_get_free_memory")
        session.print(f"Total: {free // 1024} KiB")


def freepages(session: Session, arguments: Arguments) -> None:
    """Count the free pages of NUMA cells."""
    arguments.exclusive("all", "cellno")
    if arguments.flag("all"):
        of_host = _capability_elements(session, "./host/cpu/pages")
        for cell in _cell_elements(session):
            sizes = sorted({int(page.get("size", "0")) for page in of_host or cell.findall("pages")})
            number = int(cell.get("id", "0"))
            with session.failing():
                counts = session.call("node_get_free_pages", sizes, number, 1, 0)
            session.print(f"Node {number}:")
            for size, count in zip(sizes, counts, strict=False):
                session.print(f"{size}KiB: {count}")
            session.print()
        return
    if arguments.get("cellno") is None:
        raise CommandError("missing cellno argument")
    if arguments.get("pagesize") is None:
        raise CommandError("missing pagesize argument")
    node, size = arguments.number("cellno", low=-1), _page_size(arguments)
    with session.failing():
        counts = session.call("node_get_free_pages", [size], node, 1, 0)
    session.print(f"{size}KiB: {counts[0]}")


def hostname(session: Session, arguments: Arguments) -> None:
    """Tell the host's name."""
    with session.failing("failed to get hostname"):
        session.print(session.call("connect_get_hostname"))


def maxvcpus(session: Session, arguments: Arguments) -> None:
    """Tell how many processors a domain may have."""
    with session.failing():
        session.print(str(session.call("connect_get_max_vcpus", arguments.get("type"))))


def node_memory_tune(session: Session, arguments: Arguments) -> None:
    """Show or set parameters of the host's memory."""
    from manor.rpc.protocol.records import ParamType, TypedParam

    names = ("shm-pages-to-scan", "shm-sleep-millisecs", "shm-merge-across-nodes")
    wanted = [
        TypedParam(name.replace("-", "_"), ParamType.UINT, arguments.number(name, high=2**32 - 1))
        for name in names
        if arguments.get(name) is not None
    ]
    if wanted:
        with session.failing("Unable to change memory parameters"):
            session.call("node_set_memory_parameters", wanted, 0)
        return
    with session.failing("Unable to get number of memory parameters"):
        params = session.params("node_get_memory_parameters")
    session.print("Shared memory:")
    for param in params:
        session.print(f"\t{param.field:<15} {param.value}")


def nodecpumap(session: Session, arguments: Arguments) -> None:
    """Tell which CPUs there are and work."""
    with session.failing("Unable to get cpu map"):
        found = session.call("node_get_cpu_map", 1, 1, 0)
    cpus = bits_of(found.cpu_map, found.count)
    text = ranges(cpus) if arguments.flag("pretty") else "".join("y" if n in cpus else "-" for n in range(found.count))
    session.fields([("CPUs present", str(found.count)), ("CPUs online", str(found.online)), ("CPU map", text)])


CPU_STATS = ("user", "system", "idle", "iowait", "intr")


def nodecpustats(session: Session, arguments: Arguments) -> None:
    """Show where the host's processor time goes."""
    cpu = arguments.number("cpu", -1, high=2**31 - 1)
    first = _cpu_stats(session, cpu)
    if not arguments.flag("percent"):
        if "utilization" in first:
            session.print(f"{'usage:':<15} {float(first['utilization']):5.1f}%")
            return
        for name in CPU_STATS:
            if name in first:
                session.print(f"{name + ':':<15} {first[name]:>20}")
        return
    if "utilization" in first:
        usage = float(first["utilization"])
        session.print(f"{'usage:':<15} {usage:5.1f}%")
        session.print(f"{'idle:':<15} {100 - usage:5.1f}%")
        return
    time.sleep(1)
    second = _cpu_stats(session, cpu)
    spent = {name: second[name] - first[name] for name in CPU_STATS if name in first and name in second}
    total = sum(spent.values()) or 1
    session.print(f"{'usage:':<15} {100 - 100 * spent.get('idle', 0) / total:5.1f}%")
    for name, value in spent.items():
        session.print(f"{name + ':':<15} {100 * value / total:5.1f}%")


def _cpu_stats(session: Session, cpu: int) -> dict[str, int]:
    names = {"kernel": "system"}
    with session.failing("Unable to get number of cpu stats"):
        count = session.call("node_get_cpu_stats", cpu, 0, 0).nparams
    with session.failing("Unable to get node cpu stats"):
        stats = session.call("node_get_cpu_stats", cpu, count, 0).params
    return {names.get(stat.field, stat.field): stat.value for stat in stats}


def nodeinfo(session: Session, arguments: Arguments) -> None:
    """Tell the main facts of the host."""
    with session.failing("failed to get node information"):
        info = session.call("node_get_info")
    pairs = [("CPU model", info.model), ("CPU(s)", str(info.cpus))]
    if info.mhz:
        pairs.append(("CPU frequency", f"{info.mhz} MHz"))
    pairs += [
        ("CPU socket(s)", str(info.sockets)),
        ("Core(s) per socket", str(info.cores)),
        ("Thread(s) per core", str(info.threads)),
        ("NUMA cell(s)", str(info.nodes)),
        ("Memory size", f"{info.memory} KiB"),
    ]
    session.fields(pairs, 20)


def nodememstats(session: Session, arguments: Arguments) -> None:
    """Show the host's memory statistics."""
    cell = arguments.number("cell", -1, high=2**31 - 1)
    with session.failing("Unable to get number of memory stats"):
        count = session.call("node_get_memory_stats", 0, cell, 0).nparams
    with session.failing("Unable to get memory stats"):
        stats = session.call("node_get_memory_stats", count, cell, 0).params
    for stat in stats:
        session.print(f"{stat.field:<7}:{stat.value:>21} KiB")


def nodesevinfo(session: Session, arguments: Arguments) -> None:
    """Tell what the host can do for encrypted guests."""
    with session.failing("Unable to get host SEV information"):
        count = session.call("node_get_sev_info", 0, 0).nparams
        params = session.call("node_get_sev_info", count, 0).params
    for param in params:
        session.print(f"{param[0]:<18}: {param[2]}")


SUSPEND_TARGETS = {"mem": 0, "disk": 1, "hybrid": 2}


def nodesuspend(session: Session, arguments: Arguments) -> None:
    """Suspend the host."""
    target = SUSPEND_TARGETS.get(arguments.text("target"))
    if target is None:
        raise CommandError("Invalid target")
    duration = arguments.number("duration", low=0, high=2**63 - 1)
    with session.failing("The host was not suspended"):
        session.call("node_suspend_for_duration", target, duration, 0)


def sysinfo(session: Session, arguments: Arguments) -> None:
    """Print the host's firmware tables."""
    with session.failing("failed to get sysinfo"):
        session.print(session.call("connect_get_sysinfo", 0), end="")


def uri(session: Session, arguments: Arguments) -> None:
    """Tell the connection's URI."""
    link = session.link
    with session.failing("failed to get URI"):
        session.print(link.uri or session.call("connect_get_uri"))


def version(session: Session, arguments: Arguments) -> None:
    """Tell the versions."""
    with session.failing("failed to get hypervisor type"):
        kind = session.call("connect_get_type")
    library = _version(LIBRARY_VERSION)
    session.print(f"Compiled against library: libvirt {library}")
    session.print(f"Using library: libvirt {library}")
    session.print(f"Using API: {kind} {library}")
    with session.failing("failed to get the hypervisor version"):
        number = session.call("connect_get_version")
    if number == 0:
        session.print(f"Cannot extract running {kind} hypervisor version")
    else:
        session.print(f"Running hypervisor: {kind} {_version(number)}")
    if arguments.flag("daemon"):
        try:
            session.print(f"Running against daemon: {_version(session.call('connect_get_lib_version'))}")
        except RemoteError as error:
            raise CommandError("failed to get the daemon version", str(error)) from None


def _version(number: int) -> str:
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"
