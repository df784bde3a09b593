"""What domains are and do."""

from __future__ import annotations

import contextlib
import datetime
import time
from typing import TYPE_CHECKING, Any

from manor.rpc.protocol.records import Domain
from manor.shell import render
from manor.shell.arguments import Arguments
from manor.shell.commands.documents import parse
from manor.shell.commands.states import named, reason_name, state_name
from manor.shell.errors import CommandError
from manor.shell.link import RemoteError
from manor.shell.session import Session, param_text, uuid_text

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

ACTIVE, INACTIVE = 1, 2
XML_INACTIVE = 2
UNKNOWN_SIZE = 2**64 - 1


def domblkerror(session: Session, arguments: Arguments) -> None:
    """List disks with errors."""
    domain = session.domain(arguments)
    with session.failing():
        count = session.call("domain_get_disk_errors", domain, 0, 0).nerrors
        errors = session.call("domain_get_disk_errors", domain, count, 0).errors if count else []
    if not errors:
        session.print("No errors found")
    for error in errors:
        session.print(f"{error.disk}: {named(('no error', 'unspecified error', 'no space'), error.error)}")


def domain_root(session: Session, domain: Domain, flags: int = 0) -> Element:
    """The root of a domain's XML. Raises RemoteError."""
    return parse(session.call("domain_get_xml_desc", domain, flags))


def disks(root: Element) -> list[tuple[str, str, str, str]]:
    """(type, device, target, source) of each disk."""
    found = []
    for disk in root.findall("./devices/disk"):
        source = disk.find("source")
        place = None
        if source is not None:
            place = next((source.get(name) for name in ("file", "dev", "dir", "name") if source.get(name)), None)
            if disk.get("type") == "volume" and source.get("volume"):
                place = source.get("volume")
        target = disk.find("target")
        name = target.get("dev", "-") if target is not None else "-"
        found.append((disk.get("type", "-"), disk.get("device", "disk"), name, place or "-"))
    return found


def domblklist(session: Session, arguments: Arguments) -> None:
    """List disks."""
    with session.failing():
        root = domain_root(session, session.domain(arguments), arguments.flags(inactive=XML_INACTIVE))
    found = disks(root)
    if arguments.flag("details"):
        session.table(("Type", "Device", "Target", "Source"), found, naming="Target")
    else:
        session.table(("Target", "Source"), [disk[2:] for disk in found])


def domblkinfo(session: Session, arguments: Arguments) -> None:
    """Tell the sizes of disks."""
    is_human = arguments.flag("human")
    domain = session.domain(arguments)
    if arguments.flag("all"):
        rows = []
        with session.failing():
            for _, _, target, source in disks(domain_root(session, domain)):
                info = ["-", "-", "-"] if source == "-" else _block_sizes(session, domain, target, is_human)
                rows.append((target, *info))
        session.table(("Target", "Capacity", "Allocation", "Physical"), rows)
        return
    device = arguments.get("device")
    if device is None:
        raise CommandError("command 'domblkinfo' requires <device> option")
    with session.failing():
        sizes = _block_sizes(session, domain, device, is_human)
    session.fields(list(zip(("Capacity", "Allocation", "Physical"), sizes, strict=True)))


def _block_sizes(session: Session, domain: Domain, device: str, is_human: bool) -> list[str]:
    info = session.call("domain_get_block_info", domain, device, 0)
    return [_size(value) if is_human else str(value) for value in (info.capacity, info.allocation, info.physical)]


def _size(value: int) -> str:
    number, unit = render.pretty_size(value)
    return f"{number:.3f} {unit}"


BLOCK_STATS = (
    ("rd_req", "rd_operations", "number of read operations:"),
    ("rd_bytes", "rd_bytes", "number of bytes read:"),
    ("wr_req", "wr_operations", "number of write operations:"),
    ("wr_bytes", "wr_bytes", "number of bytes written:"),
    ("errs", "errs", "error count:"),
    ("flush_operations", "flush_operations", "number of flush operations:"),
    ("rd_total_times", "rd_total_times", "total duration of reads (ns):"),
    ("wr_total_times", "wr_total_times", "total duration of writes (ns):"),
    ("flush_total_times", "flush_total_times", "total duration of flushes (ns):"),
)
"""(name that is printed, parameter, description)."""


def domblkstat(session: Session, arguments: Arguments) -> None:
    """Count what a disk has read and written."""
    domain, device = session.domain(arguments), arguments.get("device") or ""
    stats: dict[str, Any] = {}
    with session.failing():
        failed = f"Failed to get block stats {arguments.text('domain')} {device}"
        try:
            params = session.params("domain_block_stats_flags", domain, device, failed=failed)
            stats = {param.field: param_text(param) for param in params}
        except RemoteError as error:
            if not error.is_unsupported:
                raise
            with session.failing(failed):
                old = session.call("domain_block_stats", domain, device)
            values = (old.rd_requests, old.rd_bytes, old.wr_requests, old.wr_bytes, old.errs)
            stats = {row[1]: value for row, value in zip(BLOCK_STATS, values, strict=False) if value >= 0}
    rest = [name for name in stats if name not in {row[1] for row in BLOCK_STATS}]
    known = [row for row in BLOCK_STATS if row[1] in stats]
    if session.is_structured:
        session.fields([(name, str(value)) for name, value in stats.items()])
        return
    if arguments.flag("human"):
        session.print(f"Device: {device}")
        for _, field, text in known:
            session.print(f" {text:<31} {stats[field]}")
        for field in rest:
            session.print(f" {field:<31} {stats[field]}")
        return
    for name, field, _ in known:
        session.print(f"{device} {name} {stats[field]}")
    for field in rest:
        session.print(f"{device} {field} {stats[field]}")


DIRTY_RATE_MODES = {"page-sampling": 0, "dirty-bitmap": 1, "dirty-ring": 2}
"""Source: libvirt API reference, virDomainDirtyRateCalcFlags."""


def domdirtyrate_calc(session: Session, arguments: Arguments) -> None:
    """Begin to measure how fast the guest writes."""
    seconds, mode = arguments.number("seconds", 1, high=2**31 - 1), arguments.get("mode") or "page-sampling"
    if mode not in DIRTY_RATE_MODES:
        raise CommandError(f"Unknown calculation mode '{mode}'")
    domain = session.domain(arguments)
    with session.failing():
        session.call("domain_start_dirty_rate_calc", domain, seconds, DIRTY_RATE_MODES[mode])
    session.note("Start to calculate domain's memory dirty rate successfully.")


CONTROL_STATES = ("ok", "background job", "occupied", "error")
CONTROL_ERRORS = ("none", "unknown", "monitor failure", "internal (locking) error")


def domcontrol(session: Session, arguments: Arguments) -> None:
    """Tell whether the VMM answers."""
    domain = session.domain(arguments)
    with session.failing():
        info = session.call("domain_get_control_info", domain, 0)
    name = named(CONTROL_STATES, info.state)
    if info.state in (0, 3):
        details = f": {named(CONTROL_ERRORS, info.details)}" if info.details else ""
        session.print(f"{name}{details}")
    else:
        session.print(f"{name} ({info.state_time / 1000:0.3f}s)")


def interfaces(root: Element) -> list[tuple[str, str, str, str, str]]:
    """(interface, type, source, model, MAC) of each network interface."""
    found = []
    for interface in root.findall("./devices/interface"):
        source, target = interface.find("source"), interface.find("target")
        model, mac = interface.find("model"), interface.find("mac")
        kind = interface.get("type", "-")
        place = None
        if source is not None:
            names = {"direct": ("dev",), "vhostuser": ("path",), "hostdev": ("name",)}.get(kind, (kind,))
            place = next((source.get(name) for name in (*names, "network", "bridge", "dev") if source.get(name)), None)
        found.append((
            (target.get("dev") if target is not None else None) or "-", kind, place or "-",
            (model.get("type") if model is not None else None) or "-",
            (mac.get("address") if mac is not None else None) or "-",
        ))  # fmt: skip
    return found


def domiflist(session: Session, arguments: Arguments) -> None:
    """List network interfaces."""
    with session.failing():
        root = domain_root(session, session.domain(arguments), arguments.flags(inactive=XML_INACTIVE))
    session.table(("Interface", "Type", "Source", "Model", "MAC"), interfaces(root), naming="MAC")


def find_interface(root: Element, name: str) -> Element | None:
    """The network interface with a MAC address or a host device."""
    for interface in root.findall("./devices/interface"):
        mac, target = interface.find("mac"), interface.find("target")
        if mac is not None and mac.get("address", "").lower() == name.lower():
            return interface
        if target is not None and target.get("dev") == name:
            return interface
    return None


def domif_getlink(session: Session, arguments: Arguments) -> None:
    """Tell whether a cable is plugged."""
    name = arguments.text("interface")
    domain = session.domain(arguments)
    with session.failing("Failed to get domain description xml"):
        root = domain_root(session, domain, arguments.flags(config=XML_INACTIVE))
    interface = find_interface(root, name)
    if interface is None:
        raise CommandError(f"Interface ({'mac' if ':' in name else 'dev'}: {name}) not found.")
    link = interface.find("link")
    session.print(f"{name} {link.get('state', 'up') if link is not None else 'up'}", end="")


SOURCES = {"lease": 0, "agent": 1, "arp": 2}


def domifaddr(session: Session, arguments: Arguments) -> None:
    """List addresses."""
    domain = session.domain(arguments)
    name = arguments.get("source") or "lease"
    if name not in SOURCES:
        raise CommandError(f"Unknown data source '{name}'")
    with session.failing("Failed to query for interfaces addresses"):
        found = session.call("domain_interface_addresses", domain, SOURCES[name], 0)
    wanted, is_full = arguments.get("interface"), arguments.flag("full")
    rows = []
    for interface in found:
        if wanted is not None and wanted != interface.name:
            continue
        mac = interface.hardware_address or "N/A"
        if not interface.addresses:
            rows.append((interface.name, mac, "N/A", "N/A"))
        for index, address in enumerate(interface.addresses):
            shown = is_full or index == 0
            protocol = ("ipv4", "ipv6")[address.type] if address.type in (0, 1) else "unknown"
            rows.append((
                interface.name if shown else "-", mac if shown else "-", protocol,
                f"{address.address}/{address.prefix}",
            ))  # fmt: skip
    headings = ("Name", "MAC address", "Protocol", "Address")
    if session.is_structured or session.output == "name":
        session.table(headings, rows, naming="Address")
        return
    # Not one of virsh's tables: its columns do not grow.
    session.note(f" {headings[0]:<10} {headings[1]:<20} {headings[2]:<8}     {headings[3]}\n{'-' * 79}")
    for interface_name, mac, protocol, text in rows:
        if protocol == "N/A":
            session.print(f" {interface_name:<10} {mac:<17}    {protocol:<12} {text}")
        else:
            session.print(f" {interface_name:<10} {mac:<17}    {protocol:<12} {text}")


INTERFACE_STATS = (
    "rx_bytes", "rx_packets", "rx_errs", "rx_drop", "tx_bytes", "tx_packets", "tx_errs", "tx_drop",
)  # fmt: skip


def domifstat(session: Session, arguments: Arguments) -> None:
    """Count what an interface has moved."""
    domain, device = session.domain(arguments), arguments.text("interface")
    with session.failing(f"Failed to get interface stats {arguments.text('domain')} {device}"):
        stats = session.call("domain_interface_stats", domain, device)
    pairs = [(name, value) for name, value in zip(INTERFACE_STATS, stats, strict=True) if value >= 0]
    if session.is_structured:
        session.fields([(name, str(value)) for name, value in pairs])
        return
    for name, value in pairs:
        session.print(f"{device} {name} {value}")


def dominfo(session: Session, arguments: Arguments) -> None:
    """Tell the main facts."""
    domain = session.domain(arguments)
    pairs = [("Id", str(domain.id) if domain.id >= 0 else "-"), ("Name", domain.name)]
    pairs.append(("UUID", uuid_text(domain.uuid)))
    with session.failing():
        pairs.append(("OS Type", session.call("domain_get_os_type", domain)))
        info = session.call("domain_get_info", domain)
    pairs += [("State", state_name(info.state)), ("CPU(s)", str(info.vcpus))]
    if info.cpu_time:
        pairs.append(("CPU time", f"{info.cpu_time / 1e9:.1f}s"))
    unlimited = info.max_memory == 2**64 - 1
    pairs += [("Max memory", "no limit" if unlimited else f"{info.max_memory} KiB")]
    pairs += [("Used memory", f"{info.memory} KiB")]
    with session.failing():
        pairs.append(("Persistent", "yes" if session.call("domain_is_persistent", domain) else "no"))
        with contextlib.suppress(RemoteError):  # a domain without a definition has none
            pairs.append(("Autostart", "enable" if session.call("domain_get_autostart", domain) else "disable"))
        try:
            saved = session.call("domain_has_managed_save_image", domain, 0)
            pairs.append(("Managed save", "yes" if saved else "no"))
        except RemoteError:
            pairs.append(("Managed save", "unknown"))
        pairs += _security(session, domain)
    pairs += _messages(session, domain)
    if session.is_structured or session.output == "name":
        session.fields(pairs)
        return
    for name, value in pairs:
        session.print(f"{name and name + ':':<15} {value}")


def _security(session: Session, domain: Domain) -> list[tuple[str, str]]:
    try:
        model = session.call("node_get_security_model")
    except RemoteError as error:
        if error.is_unsupported:
            return []
        raise
    if not model.model:
        return []
    pairs = [("Security model", model.model), ("Security DOI", model.doi)]
    if domain.id >= 0:
        label = session.call("domain_get_security_label", domain)
        if label.label:
            pairs.append(("Security label", f"{label.label} ({'enforcing' if label.enforcing else 'permissive'})"))
    return pairs


def _messages(session: Session, domain: Domain) -> list[tuple[str, str]]:
    try:
        messages = session.call("domain_get_messages", domain, 0)
    except RemoteError:
        return []  # the driver keeps none
    if session.is_structured:
        return [("Messages", "\n".join(messages))]
    return [("Messages" if index == 0 else "", text) for index, text in enumerate(messages)]


MEMORY_STATS = (
    "swap_in", "swap_out", "major_fault", "minor_fault", "unused", "available", "actual", "rss", "usable",
    "last_update", "disk_caches", "hugetlb_pgalloc", "hugetlb_pgfail",
)  # fmt: skip
"""By tag. Source: libvirt API reference, virDomainMemoryStatTags."""


def dommemstat(session: Session, arguments: Arguments) -> None:
    """Show memory statistics."""
    affect = arguments.affect()
    domain = session.domain(arguments)
    if arguments.get("period") is not None:
        period = arguments.number("period", low=-(2**31), high=2**31 - 1)
        if period < 0:
            raise CommandError(f"Invalid collection period value '{period}'")
        with session.failing("Unable to change balloon collection period."):
            session.call("domain_set_memory_stats_period", domain, period, affect)
        return
    with session.failing(f"Failed to get memory statistics for domain {arguments.text('domain')}"):
        stats = session.call("domain_memory_stats", domain, len(MEMORY_STATS), 0)
    pairs = [(named(MEMORY_STATS, stat.tag), str(stat.value)) for stat in stats]
    if session.is_structured:
        session.fields(pairs)
        return
    for name, value in pairs:
        session.print(f"{name} {value}")


def domstate(session: Session, arguments: Arguments) -> None:
    """Tell the state."""
    domain = session.domain(arguments)
    with session.failing():
        found = session.call("domain_get_state", domain, 0)
    state, reason = state_name(found.state), reason_name(found.state, found.reason)
    if session.is_structured:
        session.fields([("State", state), ("Reason", reason)])
    else:
        session.print(f"{state} ({reason})" if arguments.flag("reason") else state)


STATS = {
    "state": 1, "cpu_total": 2, "balloon": 4, "vcpu": 8, "interface": 16, "block": 32, "perf": 64, "iothread": 128,
    "memory": 256, "dirtyrate": 512, "vm": 1024,
}  # fmt: skip
STATS_FILTERS = {
    "list_active": 1, "list_inactive": 2, "list_persistent": 4, "list_transient": 8, "list_running": 16,
    "list_paused": 32, "list_shutoff": 64, "list_other": 128, "nowait": 1 << 29, "backing": 1 << 30,
    "enforce": 1 << 31,
}  # fmt: skip


def domstats(session: Session, arguments: Arguments) -> None:
    """Show statistics."""
    flags = arguments.flags(**STATS_FILTERS)
    domains = [session.find_domain(text) for text in arguments.words("domain")]
    with session.failing():
        found = session.call("connect_get_all_domain_stats", domains, arguments.flags(**STATS), flags)
    if session.is_structured:
        rows = [{"domain": item.domain[0], **{p.field: p.value for p in item.params}} for item in found]
        session.out.write(render.structured(rows, session.output))
        return
    for index, item in enumerate(found):
        if index:
            session.print()
        session.print(f"Domain: '{item.domain[0]}'")
        for param in item.params:
            session.print(f"  {param.field}={param_text(param)}")


def domtime(session: Session, arguments: Arguments) -> None:
    """Show or set the guest's clock."""
    arguments.exclusive("time", "now")
    arguments.exclusive("time", "sync")
    arguments.exclusive("now", "sync")
    domain = session.domain(arguments)
    is_set = arguments.get("time") is not None
    if is_set or arguments.flag("now") or arguments.flag("sync"):
        seconds = arguments.number("time", 0, low=-(2**63), high=2**63 - 1)
        if arguments.flag("now"):
            seconds = int(time.time())
        with session.failing():
            session.call("domain_set_time", domain, seconds, 0, arguments.flags(sync=1))
        return
    with session.failing():
        found = session.call("domain_get_time", domain, 0)
    text = str(found.seconds)
    if arguments.flag("pretty"):
        text = datetime.datetime.fromtimestamp(found.seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
    session.print(f"Time: {text}", end="\n" if session.settings.is_quiet else "")


FILTERS = {
    "persistent": 4, "transient": 8, "state_running": 16, "state_paused": 32, "state_shutoff": 64, "state_other": 128,
    "with_managed_save": 256, "without_managed_save": 512, "autostart": 1024, "no_autostart": 2048,
    "with_snapshot": 4096, "without_snapshot": 8192, "with_checkpoint": 1 << 14, "without_checkpoint": 1 << 15,
}  # fmt: skip
"""Source: libvirt API reference, virConnectListAllDomainsFlags."""


def list_(session: Session, arguments: Arguments) -> None:
    """List domains."""
    only = arguments.flags(uuid=1, name=2, id=4)
    if arguments.flag("table") and only:
        raise CommandError("Only one argument from --table, --name and --uuid may be specified.")
    if only and arguments.flag("title"):
        raise CommandError("--title argument cannot be combined with --name or --uuid")
    domains = list_domains(session, arguments)
    if only:
        for domain in domains:
            words = []
            if only & 4:
                words.append(str(domain.id) if domain.id >= 0 else "-")
            if only & 1:
                words.append(uuid_text(domain.uuid))
            if only & 2:
                words.append(domain.name)
            session.print(" ".join(words))
        return
    headings = ["Id", "Name", "State"] + (["Title"] if arguments.flag("title") else [])
    rows = [_list_row(session, arguments, domain) for domain in domains]
    session.table(headings, [row for row in rows if row])


def list_domains(session: Session, arguments: Arguments) -> list[Domain]:
    """The domains that `list` is about: running ones by id, then the others by name."""
    flags = arguments.flags(**FILTERS)
    if arguments.flag("inactive") or arguments.flag("state-shutoff"):
        flags |= INACTIVE
    if arguments.flag("all"):
        flags |= ACTIVE | INACTIVE
    if not flags & INACTIVE or arguments.flag("state-running") or arguments.flag("state-paused"):
        flags |= ACTIVE
    with session.failing("Failed to list domains"):
        found = [Domain(*domain) for domain in session.call("connect_list_all_domains", 1, flags).domains]
    return sorted(found, key=lambda domain: (domain.id < 0, domain.id if domain.id >= 0 else 0, domain.name))


def _list_row(session: Session, arguments: Arguments, domain: Domain) -> tuple[str, ...]:
    try:
        state = session.call("domain_get_state", domain, 0).state if domain.id >= 0 else 5
        is_saved = (
            domain.id < 0
            and arguments.flag("managed-save")
            and session.call("domain_has_managed_save_image", domain, 0) > 0
        )
    except RemoteError:
        return ()  # it went away since
    number, shown = str(domain.id) if domain.id >= 0 else "-", "saved" if is_saved else state_name(state)
    row: tuple[str, ...] = (number, domain.name, shown)
    if arguments.flag("title"):
        row += (_title(session, domain),)
    return row


def _title(session: Session, domain: Domain) -> str:
    try:
        title: str = session.call("domain_get_metadata", domain, 1, None, 0)
    except RemoteError:
        return ""
    return title
