"""Waiting for events, of domains and of everything else."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from manor.shell.arguments import Arguments
from manor.shell.commands.states import LIFECYCLE, named
from manor.shell.errors import CommandError
from manor.shell.session import Session, param_text, uuid_text

Describe = Callable[[Any], str]


@dataclass(frozen=True)
class Kind:
    """A kind of event. name: in `manor.rpc.protocol.events`; describe: what is said of one."""

    name: str
    describe: Describe


def _lifecycle(event: Any) -> str:
    if not 0 <= event.event < len(LIFECYCLE):
        return "unknown unknown"
    name, details = LIFECYCLE[event.event]
    return f"{name} {named(details, event.detail)}"


def _block_job(event: Any) -> str:
    types = ("Unknown job", "Block Pull", "Block Copy", "Block Commit", "Active Block Commit", "Backup")
    statuses = ("completed", "failed", "canceled", "ready")
    where = event.dst if hasattr(event, "dst") else event.path
    return f"{named(types, event.type)} for {where} {named(statuses, event.status)}"


def _params(event: Any) -> str:
    return "\n" + "\n".join(f"\t{param.field}: {param_text(param)}" for param in event.params)


def _graphics(event: Any) -> str:
    families, phases = ("IPv4", "IPv6", "unix"), ("connect", "initialize", "disconnect")
    ends = [
        f"{which}[{named(families, end.family)} {end.node} {end.service}]"
        for which, end in (("local", event.local), ("remote", event.remote))
    ]
    text = f"{named(phases, event.phase)} {' '.join(ends)} {event.auth_scheme}"
    return text + "".join(f"\n\t{one.type}={one.name}" for one in event.subject)


def _io_error(event: Any) -> str:
    return f"{event.src_path} ({event.dev_alias}) {named(('none', 'pause', 'report'), event.action)}"


def _agent(event: Any) -> str:
    states, reasons = ("unknown", "connected", "disconnected"), ("unknown", "domain started", "channel event")
    return f"state: '{named(states, event.state)}' reason: '{named(reasons, event.reason)}'"


def _metadata(event: Any) -> str:
    return f"type {named(('description', 'title', 'element'), event.type)}, uri {event.namespace_uri or 'none'}"


def _memory_failure(event: Any) -> str:
    actions = ("ignore", "inject", "fatal", "reset")
    lines = [f"recipient: {named(('hypervisor', 'guest'), event.recipient)}", f"action: {named(actions, event.action)}"]
    lines += [f"flags: {(event.flags & 1 and 'action required') or ''}{(event.flags & 2 and 'recursive') or ''}"]
    return "\n\t" + "\n\t".join(lines)


def _alias(event: Any) -> str:
    return str(event.dev_alias)


def _nothing(event: Any) -> str:
    return ""


WATCHDOG = ("none", "pause", "reset", "poweroff", "shutdown", "debug", "inject-nmi")
DISK_CHANGES = ("changed", "dropped")

DOMAIN_EVENTS: Mapping[str, Kind] = {
    "lifecycle": Kind("lifecycle", _lifecycle),
    "reboot": Kind("reboot", _nothing),
    "rtc-change": Kind("rtc_change", lambda event: str(event.offset)),
    "watchdog": Kind("watchdog", lambda event: named(WATCHDOG, event.action)),
    "io-error": Kind("io_error", _io_error),
    "graphics": Kind("graphics", _graphics),
    "io-error-reason": Kind("io_error_reason", lambda event: f"{_io_error(event)} due to {event.reason}"),
    "control-error": Kind("control_error", _nothing),
    "block-job": Kind("block_job", _block_job),
    "disk-change": Kind(
        "disk_change",
        lambda event: f"disk {event.dev_alias}: {event.old_src_path} -> {event.new_src_path}: "
        + named(DISK_CHANGES, event.reason),
    ),
    "tray-change": Kind(
        "tray_change", lambda event: f"disk {event.dev_alias}: {named(('opened', 'closed'), event.reason)}"
    ),
    "pm-wakeup": Kind("pmwakeup", _nothing),
    "pm-suspend": Kind("pmsuspend", _nothing),
    "balloon-change": Kind("balloon_change", lambda event: f"{event.actual}KiB"),
    "pm-suspend-disk": Kind("pmsuspend_disk", _nothing),
    "device-removed": Kind("device_removed", _alias),
    "block-job-2": Kind("block_job_2", _block_job),
    "tunable": Kind("tunable", _params),
    "agent-lifecycle": Kind("agent_lifecycle", _agent),
    "device-added": Kind("device_added", _alias),
    "migration-iteration": Kind("migration_iteration", lambda event: f"iteration: '{event.iteration}'"),
    "job-completed": Kind("job_completed", _params),
    "device-removal-failed": Kind("device_removal_failed", _alias),
    "metadata-change": Kind("metadata_change", _metadata),
    "block-threshold": Kind(
        "block_threshold",
        lambda event: f"dev: {event.dev}({event.path or ''}) {event.threshold} {event.excess}",
    ),
    "memory-failure": Kind("memory_failure", _memory_failure),
    "memory-device-size-change": Kind(
        "memory_device_size_change", lambda event: f"\n\talias: {event.alias}\n\tsize: {event.size}"
    ),
}  # fmt: skip
"""virsh's name -> kind."""

WITHOUT_COLON = ("disk-change", "tray-change")


def _domain_line(name: str, event: Any, kind: Kind) -> str:
    text = kind.describe(event)
    start = f"event '{name}' for domain '{event.domain.name}'"
    if name in WITHOUT_COLON:
        return f"{start} {text}"
    return f"{start}: {text}" if text and not text.startswith("\n") else f"{start}{':' if text else ''}{text}"


def event(session: Session, arguments: Arguments) -> None:
    """Wait for events of domains."""
    if arguments.flag("list"):
        session.print("".join(f"{name}\n" for name in DOMAIN_EVENTS), end="")
        return
    arguments.exclusive("event", "all")
    name = arguments.get("event")
    if name is None and not arguments.flag("all"):
        raise CommandError("one of --list, --all, or --event <type> is required")
    if name is not None and name not in DOMAIN_EVENTS:
        raise CommandError(f"unknown event type {name}")
    domain = session.domain(arguments) if arguments.get("domain") is not None else None
    kinds = DOMAIN_EVENTS if name is None else {name: DOMAIN_EVENTS[name]}
    _wait(session, arguments, kinds, "domain", domain, _domain_line)


def _wait(
    session: Session, arguments: Arguments, kinds: Mapping[str, Kind], kind_of_object: str, about: Any,
    line: Callable[[str, Any, Kind], str],
) -> None:  # fmt: skip
    """Subscribe, print what comes. Raises CommandError at the end of the time given."""
    timeout = arguments.number("timeout", 0, high=2**31 - 1)
    if arguments.get("timeout") is not None and timeout < 1:
        raise CommandError("invalid timeout")
    names = {kind.name: name for name, kind in kinds.items()}
    count, end = 0, "event loop timed out"
    try:
        with session.failing():
            for kind in kinds.values():
                session.link.subscribe(kind_of_object, kind.name, about)
        deadline = time.monotonic() + timeout if timeout else None
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            found = session.link.next_event(left)
            if found is None:
                break
            name, event = found
            count += 1
            _show(session, arguments, line(names[name], event, kinds[names[name]]))
            if not arguments.flag("loop"):
                end = ""
                break
    except KeyboardInterrupt:
        end = "event loop interrupted"
    finally:
        session.link.unsubscribe()
    if end:
        session.print(end)
    session.print(f"events received: {count}")
    if end and not count:
        raise CommandError


def _show(session: Session, arguments: Arguments, text: str) -> None:
    if session.is_structured:
        from manor.shell import render

        stamp = datetime.datetime.now().astimezone().isoformat()
        session.out.write(render.structured({"time": stamp, "event": text}, session.output))
    elif arguments.flag("timestamp"):
        stamp = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "+0000"
        session.print(f"{stamp}: {text}")
    else:
        session.print(text)
    session.out.flush()


NETWORK_EVENTS = {
    "lifecycle": Kind("lifecycle", lambda e: named(("Defined", "Undefined", "Started", "Stopped"), e.event)
    ),
}  # fmt: skip
POOL_STEPS = ("Defined", "Undefined", "Started", "Stopped", "Created", "Deleted")
POOL_EVENTS = {
    "lifecycle": Kind("lifecycle", lambda e: named(POOL_STEPS, e.event)),
    "refresh": Kind("refresh", _nothing),
}
DEVICE_EVENTS = {
    "lifecycle": Kind("lifecycle", lambda e: named(("Created", "Deleted", "Defined", "Undefined"), e.event)
    ),
    "update": Kind("update", _nothing),
}  # fmt: skip
SECRET_EVENTS = {
    "lifecycle": Kind("lifecycle", lambda e: named(("Defined", "Undefined"), e.event)),
    "value-changed": Kind("value_changed", _nothing),
}


def _other(
    session: Session, arguments: Arguments, kinds: Mapping[str, Kind], kind_of_object: str, about: Any, word: str,
    name_of: Callable[[Any], str],
) -> None:  # fmt: skip
    if arguments.flag("list"):
        session.print("".join(f"{name}\n" for name in kinds), end="")
        return
    name = arguments.get("event")
    if name is None:
        raise CommandError("either --list or --event <type> is required")
    if name not in kinds:
        raise CommandError(f"unknown event type {name}")

    def line(event_name: str, event: Any, kind: Kind) -> str:
        text = kind.describe(event)
        return f"event '{event_name}' for {word} {name_of(event)}{': ' + text if text else ''}"

    _wait(session, arguments, {name: kinds[name]}, kind_of_object, about, line)


def net_event(session: Session, arguments: Arguments) -> None:
    """Wait for events of networks."""
    about = session.network(arguments) if arguments.get("network") is not None else None
    _other(
        session, arguments, NETWORK_EVENTS, "network", about, "network", lambda e: str(e.network.name)
    )  # fmt: skip


def pool_event(session: Session, arguments: Arguments) -> None:
    """Wait for events of pools."""
    about = session.pool(arguments) if arguments.get("pool") is not None else None
    _other(
        session, arguments, POOL_EVENTS, "storage_pool", about, "storage pool", lambda e: str(e.pool.name)
    )  # fmt: skip


def nodedev_event(session: Session, arguments: Arguments) -> None:
    """Wait for events of devices."""
    from manor.shell.commands.others import find_device

    about = find_device(session, arguments) if arguments.get("device") is not None else None
    _other(
        session, arguments, DEVICE_EVENTS, "node_device", about, "node device",
        lambda e: str(e.device.name),
    )  # fmt: skip


def secret_event(session: Session, arguments: Arguments) -> None:
    """Wait for events of secrets."""
    from manor.shell.commands.others import find_secret

    about = find_secret(session, arguments) if arguments.get("secret") is not None else None
    _other(
        session, arguments, SECRET_EVENTS, "secret", about, "secret", lambda e: uuid_text(e.secret.uuid)
    )  # fmt: skip
