"""What the word at the end of a line may become: commands, options, and names that the daemon knows.

Names are those that make sense there: `start` is offered domains that do not run, `vol-delete` the volumes of the pool
that was named, `domif-setlink` the interfaces of its domain.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any, Final

from manor.base.errors import ManorError
from manor.rpc.protocol.records import Domain
from manor.shell import syntax
from manor.shell.catalog import COMMANDS, GROUPS
from manor.shell.declare import Command, Kind, Option
from manor.shell.errors import UsageError
from manor.shell.session import Session, uuid_text

ACTIVE, INACTIVE, PERSISTENT = 1, 2, 4
"""Filters of lists of domains. Source: libvirt API reference, virConnectListAllDomainsFlags."""
NETWORKS: Final = {"net-start": 1, "net-destroy": 2}
"""Command -> filter; other numbers than those of domains. Source: virConnectListAllNetworksFlags, and of pools."""
POOLS: Final = {"pool-start": 1, "pool-build": 1, "pool-delete": 1, "pool-destroy": 2, "pool-refresh": 2}
DOMAINS: Final = {
    **dict.fromkeys(("start", "undefine", "domrename"), INACTIVE),
    **dict.fromkeys(
        ("destroy", "shutdown", "reboot", "reset", "suspend", "resume", "console", "save", "managedsave", "send-key",
         "screenshot", "domifaddr", "domifstat", "domblkstat", "dommemstat", "blockresize", "blockjob", "vncdisplay",
         "domhostname", "domtime", "guestinfo", "domfsinfo", "qemu-agent-command", "migrate", "cpu-stats", "ttyconsole",
         "domdisplay"),
        ACTIVE,
    ),
    "autostart": PERSISTENT,
}  # fmt: skip
FILES: Final = frozenset({"file", "xml", "xmlfile", "dir", "backupxml", "checkpointxml", "persistent-xml", "config"})
DISKS: Final = {
    "blkdeviotune": "device", "blockcommit": "path", "blockcopy": "path", "blockjob": "path", "blockpull": "path",
    "blockresize": "path", "change-media": "path", "detach-disk": "target", "domblkinfo": "device",
    "domblkstat": "device", "domblkthreshold": "dev",
}  # fmt: skip
"""Command -> the option that names a disk of its domain."""


def word_start(text: str) -> int:
    """Where the word at the end of a line begins."""
    at = len(text)
    while at and not text[at - 1].isspace() and text[at - 1] != ";":
        at -= 1
    return at


def complete(session: Session, text: str) -> list[str]:
    """What the word at the end of a line may become."""
    start = word_start(text)
    begun = text[start:]
    try:
        commands = syntax.split(text[:start])
    except UsageError:
        return []
    is_first = not text[:start].strip() or text[:start].rstrip().endswith(";")
    if is_first:
        return [name for name in sorted(COMMANDS) if name.startswith(begun)]
    words = commands[-1]
    command = COMMANDS.get(words[0])
    if command is None:
        return []
    given, option = _bind(command, words[1:])
    if begun.startswith("-"):
        names = [f"--{each.name}" for each in command.options if each.name not in given]
        return [name for name in names if name.startswith(begun)]
    if option is None:
        return []
    found = _files(begun) if option.name in FILES else _values(session, command, option.name, given)
    return [name for name in found if name.startswith(begun)]


def _bind(command: Command, words: list[str]) -> tuple[dict[str, str], Option | None]:
    """(what the words give so far, the option whose value comes next)."""
    given: dict[str, str] = {}
    waiting: Option | None = None
    places = [option for option in command.options if option.kind is not Kind.FLAG and not option.needs_name]

    def next_place() -> Option | None:
        return next((each for each in places if each.kind is Kind.WORDS or each.name not in given), None)

    for word in words:
        if waiting is not None:
            given[waiting.name] = word
            waiting = None
        elif word.startswith("--") and len(word) > 2:
            name, equals, value = word[2:].partition("=")
            option = command.option(name)
            if option is None:
                continue
            if option.kind is Kind.FLAG or equals:
                given[name] = value
            else:
                waiting = option
        else:
            place = next_place()
            if place is not None:
                given[place.name] = word
    return given, waiting or next_place()


def _files(begun: str) -> list[str]:
    """Paths; folders end with a slash."""
    folder, _, _ = begun.rpartition("/")
    head = f"{folder}/" if folder or begun.startswith("/") else ""
    try:
        with os.scandir(os.path.expanduser(head) or ".") as entries:
            return sorted(f"{head}{entry.name}{'/' if entry.is_dir() else ''}" for entry in entries)
    except OSError:
        return []


def _values(session: Session, command: Command, option: str, given: dict[str, str]) -> list[str]:
    if command.name == "help":
        return sorted([*COMMANDS, *(group.keyword for group in GROUPS)])
    look = _LOOKS.get((command.group, option)) or _LOOKS.get(("", option))
    if DISKS.get(command.name) == option:
        look = _disks
    if look is None:
        return []
    try:
        return sorted({syntax.quote(name) for name in look(session, command, given)})
    except ManorError:
        return []  # a daemon that cannot be asked completes nothing


Look = Callable[[Session, Command, dict[str, str]], Iterable[str]]


def _domains(session: Session, command: Command, given: dict[str, str]) -> Iterable[str]:
    flags = DOMAINS.get(command.name, 0)
    if command.name == "list":
        return []
    return [str(each[0]) for each in session.call("connect_list_all_domains", 1, flags).domains]


def _networks(session: Session, command: Command, given: dict[str, str]) -> Iterable[str]:
    flags = NETWORKS.get(command.name, 0)
    return [str(each[0]) for each in session.call("connect_list_all_networks", 1, flags).networks]


def _pools(session: Session, command: Command, given: dict[str, str]) -> Iterable[str]:
    flags = POOLS.get(command.name, 0)
    return [str(each[0]) for each in session.call("connect_list_all_storage_pools", 1, flags).pools]


def _volumes(session: Session, command: Command, given: dict[str, str]) -> Iterable[str]:
    """Of the pool that was named, or the paths of all."""
    if "pool" in given:
        pool = session.call("storage_pool_lookup_by_name", given["pool"])
        return [str(each[1]) for each in session.call("storage_pool_list_all_volumes", pool, 1, 0).volumes]
    pools = session.call("connect_list_all_storage_pools", 1, 2).pools
    lists = [session.call("storage_pool_list_all_volumes", pool, 1, 0).volumes for pool in pools]
    return [str(each[2]) for found in lists for each in found]


def _domain(session: Session, given: dict[str, str]) -> list[Domain]:
    """The domain that was named, all where none was."""
    if "domain" in given:
        return [session.find_domain(given["domain"])]
    return [Domain(*each) for each in session.call("connect_list_all_domains", 1, 0).domains]


def _snapshots(session: Session, command: Command, given: dict[str, str]) -> Iterable[str]:
    lists = [session.call("domain_list_all_snapshots", each, 1, 0).snapshots for each in _domain(session, given)]
    return [str(each[0]) for found in lists for each in found]


def _checkpoints(session: Session, command: Command, given: dict[str, str]) -> Iterable[str]:
    lists = [session.call("domain_list_all_checkpoints", each, 1, 0).checkpoints for each in _domain(session, given)]
    return [str(each[0]) for found in lists for each in found]


def _device_names(session: Session, given: dict[str, str], path: str, child: str, attribute: str) -> list[str]:
    from manor.shell.commands.monitor import domain_root

    found = []
    for domain in _domain(session, given):
        for device in domain_root(session, domain).findall(path):
            element = device.find(child)
            if element is not None and element.get(attribute):
                found.append(str(element.get(attribute)))
    return found


def _disks(session: Session, command: Command, given: dict[str, str]) -> Iterable[str]:
    return _device_names(session, given, "./devices/disk", "target", "dev")


def _nics(session: Session, command: Command, given: dict[str, str]) -> Iterable[str]:
    path = "./devices/interface"
    if command.name == "detach-interface":
        return _device_names(session, given, path, "mac", "address")
    return _device_names(session, given, path, "target", "dev") + _device_names(
        session, given, path, "mac", "address"
    )


def _interfaces(session: Session, command: Command, given: dict[str, str]) -> Iterable[str]:
    return [str(each[0]) for each in session.call("connect_list_all_interfaces", 1, 0).interfaces]


def _node_devices(session: Session, command: Command, given: dict[str, str]) -> Iterable[str]:
    return [str(each[0]) for each in session.call("connect_list_all_node_devices", 1, 0).devices]


def _filters(session: Session, command: Command, given: dict[str, str]) -> Iterable[str]:
    return [str(each[0]) for each in session.call("connect_list_all_nwfilters", 1, 0).filters]


def _secrets(session: Session, command: Command, given: dict[str, str]) -> Iterable[str]:
    return [uuid_text(each[0]) for each in session.call("connect_list_all_secrets", 1, 0).secrets]


def _events(session: Session, command: Command, given: dict[str, str]) -> Iterable[str]:
    from manor.shell.commands.events import DOMAIN_EVENTS

    return list(DOMAIN_EVENTS) if command.name == "event" else ["lifecycle"]


def _words(*words: str) -> Look:
    def look(session: Session, command: Command, given: dict[str, Any]) -> Iterable[str]:
        return words

    return look


_LOOKS: Final[dict[tuple[str, str], Look]] = {
    ("", "domain"): _domains, ("", "network"): _networks, ("", "pool"): _pools, ("", "inputpool"): _pools,
    ("", "vol"): _volumes, ("", "snapshotname"): _snapshots, ("snapshot", "from"): _snapshots,
    ("", "checkpointname"): _checkpoints, ("checkpoint", "from"): _checkpoints, ("interface", "interface"): _interfaces,
    ("interface", "bridge"): _interfaces, ("domain", "interface"): _nics, ("monitor", "interface"): _nics,
    ("domain", "mac"): _nics, ("nodedev", "device"): _node_devices, ("", "nwfilter"): _filters,
    ("", "secret"): _secrets,
    ("", "event"): _events, ("domain", "mode"): _words("acpi", "agent", "initctl", "signal", "paravirt"),
    ("domain", "state"): _words("up", "down"), ("", "output"): _words("table", "json", "yaml", "name"),
}  # fmt: skip
"""(group of the command, "" for any; option) -> who knows its values."""
