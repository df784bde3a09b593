"""Domains: defining, life cycle, description."""

from __future__ import annotations

from typing import Any

from manor.rpc.protocol.errors import ErrorCode
from manor.rpc.protocol.records import Domain, StorageVol
from manor.shell.arguments import Arguments
from manor.shell.commands import documents
from manor.shell.commands.monitor import domain_root
from manor.shell.errors import CommandError
from manor.shell.link import RemoteError
from manor.shell.session import Session, read_file, uuid_text

START = {"paused": 1, "autodestroy": 2, "bypass_cache": 4, "force_boot": 8, "reset_nvram": 32}
"""Source: libvirt API reference, virDomainCreateFlags."""

SECURE, INACTIVE, UPDATE_CPU, MIGRATABLE = 1, 2, 4, 8
"""Source: libvirt API reference, virDomainXMLFlags."""

SAVE = {"bypass_cache": 1, "running": 2, "paused": 4}
"""Source: libvirt API reference, virDomainSaveRestoreFlags."""


def act(session: Session, arguments: Arguments, procedure: str, *rest: Any, failed: str, done: str) -> None:
    """Call a procedure on a domain and say how it went; both messages may have {} for the domain's name."""
    domain = session.domain(arguments)
    messages = [failed.format(arguments.text("domain"))] if failed else []
    with session.failing(*messages):
        session.call(procedure, domain, *rest)
    if done:
        session.note(done.format(domain.name))


def autostart(session: Session, arguments: Arguments) -> None:
    """Start with the host, or no longer."""
    is_off = arguments.flag("disable")
    word = "unmark" if is_off else "mark"
    act(
        session, arguments, "domain_set_autostart", 0 if is_off else 1,
        failed=f"Failed to {word} domain '{{}}' as autostarted", done=f"Domain '{{}}' {word}ed as autostarted",
    )  # fmt: skip


def descriptors(arguments: Arguments) -> list[int]:
    """The file descriptors that --pass-fds names. Raises CommandError."""
    text = arguments.get("pass-fds")
    numbers = [] if text is None else text.split(",")
    for number in numbers:
        if not number.isdigit() or len(number) > 7:
            raise CommandError(f"Unable to parse FD number '{number}'")
    return [int(number) for number in numbers]


def create(session: Session, arguments: Arguments) -> None:
    """Start a domain that is not kept."""
    path, files = arguments.text("file"), descriptors(arguments)
    flags = arguments.flags(paused=1, autodestroy=2, validate=16, reset_nvram=32)
    text = read_file(path)
    with session.failing(f"Failed to create domain from {path}"):
        if files:
            made = session.call_with_files("domain_create_xml_with_files", text, flags, files=files)
        else:
            made = session.call("domain_create_xml", text, flags)
        domain = Domain(*made)
    session.note(f"Domain '{domain.name}' created from {path}")
    if arguments.flag("console"):
        _console(session, domain)


def _console(session: Session, domain: Domain) -> None:
    from manor.shell.terminal import attach

    attach(session, domain, None, 0)


def dom_fd_associate(session: Session, arguments: Arguments) -> None:
    """Give the domain descriptors under a name."""
    files = descriptors(arguments)
    flags = arguments.flags(seclabel_writable=2, seclabel_restore=1)
    domain = session.domain(arguments)
    with session.failing():
        session.call_with_files("domain_fd_associate", domain, arguments.text("name"), flags, files=files)


def define(session: Session, arguments: Arguments) -> None:
    """Define a domain."""
    path = arguments.text("file")
    text = read_file(path)
    with session.failing(f"Failed to define domain from {path}"):
        domain = Domain(*session.call("domain_define_xml_flags", text, arguments.flags(validate=1)))
    session.note(f"Domain '{domain.name}' defined from {path}")
    warn_ignored(session, domain)


def warn_ignored(session: Session, domain: Domain) -> None:
    """Tell people, not scripts, what of a description has no effect."""
    if not session.err.isatty():
        return
    try:
        messages = session.call("domain_get_messages", domain, 0)
    except RemoteError:
        return  # the driver keeps none
    prefix = "ignored configuration: "
    for message in messages:
        if message.startswith(prefix):
            session.warn(f"warning: {message.removeprefix(prefix)}")


DESCRIPTION, TITLE, ELEMENT = 0, 1, 2
"""Source: libvirt API reference, virDomainMetadataType."""


def desc(session: Session, arguments: Arguments) -> None:
    """Show or set the description or title."""
    affect = arguments.affect()
    is_title = arguments.flag("title")
    word, kind = ("title", TITLE) if is_title else ("description", DESCRIPTION)
    domain = session.domain(arguments)
    words = arguments.words("new-desc")
    if not words and not arguments.flag("edit"):
        text = _description(session, domain, kind, affect)
        missing = f"No {word} for domain: {domain.name}"
        session.print(text or missing, end="\n" if session.settings.is_quiet else "")
        return
    text = " ".join(words)
    if arguments.flag("edit"):
        before = text or _description(session, domain, kind, affect)
        text = documents.edit_text(session, before)
        if is_title:
            text = text.partition("\n")[0]
        if text == before and not words:
            session.note(f"Domain {word} not changed", end="")
            return
    with session.failing(f"Failed to set new domain {word}"):
        session.call("domain_set_metadata", domain, kind, text, None, None, affect)
    session.note(f"Domain {word} updated successfully", end="")


def _description(session: Session, domain: Domain, kind: int, affect: int) -> str:
    try:
        text: str = session.call("domain_get_metadata", domain, kind, None, affect)
    except RemoteError as error:
        if error.code != ErrorCode.NO_DOMAIN_METADATA:
            raise
        return ""
    return text


def metadata(session: Session, arguments: Arguments) -> None:
    """Show, set or remove an element of the metadata."""
    affect = arguments.affect()
    arguments.exclusive("edit", "set")
    arguments.exclusive("remove", "set")
    arguments.exclusive("remove", "edit")
    arguments.require("key", "edit")
    arguments.require("key", "set")
    domain, uri, key = session.domain(arguments), arguments.text("uri"), arguments.get("key")
    if arguments.flag("remove"):
        with session.failing():
            session.call("domain_set_metadata", domain, ELEMENT, None, None, uri, affect)
        session.note("Metadata removed")
    elif arguments.get("set") is not None:
        with session.failing():
            session.call("domain_set_metadata", domain, ELEMENT, arguments.get("set"), key, uri, affect)
        session.note("Metadata modified")
    elif arguments.flag("edit"):
        before = _element(session, domain, uri, affect)
        after = documents.edit_text(session, before)
        if after == before:
            session.note("Metadata not changed")
            return
        session.call("domain_set_metadata", domain, ELEMENT, after, key, uri, affect)
        session.note("Metadata modified")
    else:
        with session.failing():
            session.print(session.call("domain_get_metadata", domain, ELEMENT, uri, affect))


def _element(session: Session, domain: Domain, uri: str, affect: int) -> str:
    try:
        text: str = session.call("domain_get_metadata", domain, ELEMENT, uri, affect)
    except RemoteError as error:
        if error.code != ErrorCode.NO_DOMAIN_METADATA:
            raise
        return ""
    return text


def destroy(session: Session, arguments: Arguments) -> None:
    """Stop at once."""
    flags = arguments.flags(graceful=1, remove_logs=2)
    failed, done = "Failed to destroy domain '{}'", "Domain '{}' destroyed"
    act(session, arguments, "domain_destroy_flags", flags, failed=failed, done=done)


def domid(session: Session, arguments: Arguments) -> None:
    """Tell the id."""
    domain = session.domain(arguments, by="nu")
    session.print(str(domain.id) if domain.id >= 0 else "-")


def domname(session: Session, arguments: Arguments) -> None:
    """Tell the name."""
    session.print(session.domain(arguments, by="iu").name)


def domuuid(session: Session, arguments: Arguments) -> None:
    """Tell the UUID."""
    session.print(uuid_text(session.domain(arguments, by="in").uuid))


def domrename(session: Session, arguments: Arguments) -> None:
    """Give another name."""
    domain = session.domain(arguments, by="nu")
    with session.failing():
        session.call("domain_rename", domain, arguments.text("new-name"), 0)
    session.note("Domain successfully renamed")


def domjobabort(session: Session, arguments: Arguments) -> None:
    """Cancel the job."""
    domain, flags = session.domain(arguments), arguments.flags(postcopy=1)
    with session.failing():
        if flags:
            session.call("domain_abort_job_flags", domain, flags)
        else:
            session.call("domain_abort_job", domain)


JOB_TYPES = ("None", "Bounded", "Unbounded", "Completed", "Failed", "Cancelled")
JOB_SIZES = (("Data", "data"), ("Memory", "memory"), ("File", "file"))


def domjobinfo(session: Session, arguments: Arguments) -> None:
    """Tell how far the job is."""
    from manor.shell import render
    from manor.shell.commands.states import named

    flags = arguments.flags(completed=1, keep_completed=2)
    domain = session.domain(arguments)
    with session.failing():
        if flags or arguments.flag("rawstats") or arguments.flag("anystats"):
            kind, params = session.call("domain_get_job_stats", domain, flags)
            info = {param.field: param.value for param in params}
        else:
            found = session.call("domain_get_job_info", domain)
            kind, info = found.type, {name: value for name, value in found._asdict().items() if name != "type"}
    if arguments.flag("rawstats"):
        session.print(f"Job type: {kind}\n")
        for name, value in info.items():
            session.print(f"{name}: {value}")
        return
    lines = [("Job type", f"{named(JOB_TYPES, kind):<12}")]
    if kind in (1, 2, 3, 4):
        elapsed = info.get("time_elapsed", 0)
        lines.append(("Time elapsed", f"{elapsed:<12} ms"))
        if kind == 1 and info.get("time_remaining"):
            lines.append(("Time remaining", f"{info['time_remaining']:<12} ms"))
        for title, name in JOB_SIZES:
            if any(info.get(f"{name}_{part}") for part in ("total", "processed", "remaining")):
                for part in ("processed", "remaining", "total"):
                    number, unit = render.pretty_size(int(info.get(f"{name}_{part}", 0)))
                    lines.append((f"{title} {part}", f"{number:<.3f} {unit}"))
    for name, text in lines:
        session.print(f"{name + ':':<17} {text}")


def dompmsuspend(session: Session, arguments: Arguments) -> None:
    """Let the guest suspend itself."""
    targets = {"mem": 0, "disk": 1, "hybrid": 2}
    target = targets.get(arguments.text("target"))
    if target is None:
        raise CommandError("Invalid target")
    duration = arguments.number("duration", 0)
    failed, done = "Domain '{}' could not be suspended", "Domain '{}' successfully suspended"
    act(session, arguments, "domain_pm_suspend_for_duration", target, duration, 0, failed=failed, done=done)


def dompmwakeup(session: Session, arguments: Arguments) -> None:
    """Wake the guest."""
    failed, done = "Domain '{}' could not be woken up", "Domain '{}' successfully woken up"
    act(session, arguments, "domain_pm_wakeup", 0, failed=failed, done=done)


DUMP_FORMATS = {
    "elf": 0, "kdump-zlib": 1, "kdump-lzo": 2, "kdump-snappy": 3, "win-dmp": 4, "kdump-raw-zlib": 5,
    "kdump-raw-lzo": 6, "kdump-raw-snappy": 7,
}  # fmt: skip
"""Source: libvirt API reference, virDomainCoreDumpFormat."""


def dump(session: Session, arguments: Arguments) -> None:
    """Write the memory to a file."""
    path = arguments.text("file")
    flags = arguments.flags(crash=1, live=2, bypass_cache=4, reset=8, memory_only=16)
    domain = session.domain(arguments)
    for one, other in (("crash", "live"), ("crash", "reset"), ("live", "reset")):
        if arguments.flag(one) and arguments.flag(other):
            raise CommandError(
                f"Failed to core dump domain '{domain.name}' to {path}",
                f"Flags 'VIR_DUMP_{one.upper()}' and 'VIR_DUMP_{other.upper()}' are mutually exclusive",
            )
    form = arguments.get("format")
    if form is not None:
        arguments.require("memory-only", "format")
        if form not in DUMP_FORMATS:
            raise CommandError(
                f"format '{form}' is not supported, expecting 'kdump-zlib', 'kdump-lzo', 'kdump-snappy', "
                "'win-dmp' or 'elf'"
            )
    with session.failing(f"Failed to core dump domain '{domain.name}' to {path}"):
        if form is None:
            session.call("domain_core_dump", domain, path, flags)
        else:
            session.call("domain_core_dump_with_format", domain, path, DUMP_FORMATS[form], flags)
    _job_over(session, arguments, "Dump")
    session.note(f"Domain '{domain.name}' dumped to {path}")


def _job_over(session: Session, arguments: Arguments, label: str) -> None:
    """A job leaves the line of its progress."""
    if arguments.flag("verbose"):
        session.err.write(f"\r{label}: [100 %]")
        session.err.flush()
    session.note("")


def dumpxml(session: Session, arguments: Arguments) -> None:
    """Show the XML."""
    bits = {"security_info": SECURE, "inactive": INACTIVE, "update_cpu": UPDATE_CPU, "migratable": MIGRATABLE}
    flags = arguments.flags(**bits)
    domain = session.domain(arguments)
    with session.failing():
        text = session.call("domain_get_xml_desc", domain, flags)
    documents.show(session, arguments, text)


def edit(session: Session, arguments: Arguments) -> None:
    """Edit the XML; at a terminal, what the change would do is shown before it is made."""
    from manor.shell.commands.services import review

    domain = session.domain(arguments)
    validate = 0 if arguments.flag("skip-validate") else 1

    def fetch() -> str:
        try:
            text: str = session.call("domain_get_xml_desc", domain, SECURE | INACTIVE | MIGRATABLE)
        except RemoteError as error:
            if error.code != ErrorCode.INVALID_ARG:
                raise
            text = session.call("domain_get_xml_desc", domain, SECURE | INACTIVE)  # it knows of no migration
        return text

    documents.edit(
        session, fetch, lambda text: session.call("domain_define_xml_flags", text, validate),
        f"Domain '{domain.name}' XML configuration not changed.\n",
        f"Domain '{domain.name}' XML configuration edited.\n",
        lambda text: review(session, "domain_define_xml_flags", text, validate),
    )  # fmt: skip


def inject_nmi(session: Session, arguments: Arguments) -> None:
    """Send a non-maskable interrupt."""
    act(session, arguments, "domain_inject_nmi", 0, failed="", done="")


def managedsave(session: Session, arguments: Arguments) -> None:
    """Save the state for the next start."""
    arguments.exclusive("running", "paused")
    flags = arguments.flags(**SAVE)
    domain = session.domain(arguments)
    with session.failing(f"Failed to save domain '{domain.name}' state"):
        session.call("domain_managed_save", domain, flags)
    _job_over(session, arguments, "Managedsave")
    session.note(f"Domain '{domain.name}' state saved by libvirt")


def managedsave_remove(session: Session, arguments: Arguments) -> None:
    """Forget the saved state."""
    domain = session.domain(arguments)
    with session.failing("Failed to check for domain managed save image"):
        has_image = session.call("domain_has_managed_save_image", domain, 0)
    if not has_image:
        session.note(f"Domain '{domain.name}' has no manage save image; removal skipped", end="")
        return
    with session.failing(f"Failed to remove managed save image for domain '{domain.name}'"):
        session.call("domain_managed_save_remove", domain, 0)
    session.note(f"Removed managedsave image for domain '{domain.name}'", end="")


def managedsave_dumpxml(session: Session, arguments: Arguments) -> None:
    """Show the XML of the saved state."""
    domain = session.domain(arguments)
    with session.failing():
        text = session.call("domain_managed_save_get_xml_desc", domain, arguments.flags(security_info=1))
    documents.show(session, arguments, text)


def managedsave_define(session: Session, arguments: Arguments) -> None:
    """Change the XML of the saved state."""
    arguments.exclusive("running", "paused")
    domain = session.domain(arguments)
    text = read_file(arguments.text("xml"))
    with session.failing(f"Failed to update {domain.name} XML configuration"):
        session.call("domain_managed_save_define_xml", domain, text, arguments.flags(running=2, paused=4))
    session.note(f"Managed save state file of domain '{domain.name}' updated.")


def managedsave_edit(session: Session, arguments: Arguments) -> None:
    """Edit the XML of the saved state."""
    arguments.exclusive("running", "paused")
    flags = arguments.flags(running=2, paused=4)
    domain = session.domain(arguments)
    documents.edit(
        session, lambda: str(session.call("domain_managed_save_get_xml_desc", domain, SECURE)),
        lambda text: session.call("domain_managed_save_define_xml", domain, text, flags),
        f"Managed save image of domain '{domain.name}' XML configuration not changed.\n",
        f"Managed save image of Domain '{domain.name}' XML configuration edited.\n",
    )  # fmt: skip


MODES = {"acpi": 1, "agent": 2, "initctl": 4, "signal": 8, "paravirt": 16}
"""Source: libvirt API reference, virDomainShutdownFlagValues."""


def _mode(arguments: Arguments, comma: str = "") -> int:
    """comma: virsh has one before `or` for one of both commands, and none for the other."""
    flags = 0
    for word in (arguments.get("mode") or "").split(","):
        if word and word not in MODES:
            raise CommandError(
                f"Unknown mode {word} value, expecting 'acpi', 'agent', 'initctl', 'signal'{comma} or 'paravirt'"
            )
        flags |= MODES.get(word, 0)
    return flags


def reboot(session: Session, arguments: Arguments) -> None:
    """Let the guest reboot."""
    failed, done = "Failed to reboot domain '{}'", "Domain '{}' is being rebooted"
    act(session, arguments, "domain_reboot", _mode(arguments), failed=failed, done=done)


def shutdown(session: Session, arguments: Arguments) -> None:
    """Ask the guest to shut down."""
    failed, done = "Failed to shutdown domain '{}'", "Domain '{}' is being shutdown"
    flags = _mode(arguments, ",")
    if flags:
        act(session, arguments, "domain_shutdown_flags", flags, failed=failed, done=done)
    else:
        act(session, arguments, "domain_shutdown", failed=failed, done=done)


def reset(session: Session, arguments: Arguments) -> None:
    """Reset."""
    act(
        session, arguments, "domain_reset", 0, failed="Failed to reset domain '{}'", done="Domain '{}' was reset"
    )  # fmt: skip


def suspend(session: Session, arguments: Arguments) -> None:
    """Stop the processors."""
    act(session, arguments, "domain_suspend", failed="Failed to suspend domain '{}'", done="Domain '{}' suspended")


def resume(session: Session, arguments: Arguments) -> None:
    """Let it go on."""
    act(session, arguments, "domain_resume", failed="Failed to resume domain '{}'", done="Domain '{}' resumed")


def restore(session: Session, arguments: Arguments) -> None:
    """Start from a saved state."""
    path, changed = arguments.text("file"), arguments.get("xml")
    arguments.exclusive("running", "paused")
    flags = arguments.flags(**SAVE, reset_nvram=8)
    text = read_file(changed) if changed is not None else None
    with session.failing(f"Failed to restore domain from {path}"):
        if flags or text is not None:
            session.call("domain_restore_flags", path, text, flags)
        else:
            session.call("domain_restore", path)
    session.note(f"Domain restored from {path}")


def save(session: Session, arguments: Arguments) -> None:
    """Save the state to a file."""
    path, changed = arguments.text("file"), arguments.get("xml")
    arguments.exclusive("running", "paused")
    flags = arguments.flags(**SAVE)
    domain = session.domain(arguments)
    text = read_file(changed) if changed is not None else None
    with session.failing(f"Failed to save domain '{domain.name}' to {path}"):
        if flags or text is not None:
            session.call("domain_save_flags", domain, path, text, flags)
        else:
            session.call("domain_save", domain, path)
    _job_over(session, arguments, "Save")
    session.note(f"Domain '{domain.name}' saved to {path}")


def save_image_define(session: Session, arguments: Arguments) -> None:
    """Change the XML of a saved state."""
    arguments.exclusive("running", "paused")
    path, text = arguments.text("file"), read_file(arguments.text("xml"))
    with session.failing(f"Failed to update {path}"):
        session.call("domain_save_image_define_xml", path, text, arguments.flags(running=2, paused=4))
    session.note(f"State file {path} updated.")


def save_image_dumpxml(session: Session, arguments: Arguments) -> None:
    """Show the XML of a saved state."""
    with session.failing():
        text = session.call(
            "domain_save_image_get_xml_desc", arguments.text("file"), arguments.flags(security_info=1)
        )
    documents.show(session, arguments, text)


def save_image_edit(session: Session, arguments: Arguments) -> None:
    """Edit the XML of a saved state."""
    arguments.exclusive("running", "paused")
    path, flags = arguments.text("file"), arguments.flags(running=2, paused=4)
    documents.edit(
        session, lambda: str(session.call("domain_save_image_get_xml_desc", path, SECURE)),
        lambda text: session.call("domain_save_image_define_xml", path, text, flags),
        f"Saved image {path} XML configuration not changed.\n", f"State file {path} edited.\n",
    )  # fmt: skip


LIFECYCLE_TYPES = ("poweroff", "reboot", "crash")
LIFECYCLE_ACTIONS = ("destroy", "restart", "rename-restart", "preserve", "coredump-destroy", "coredump-restart")


def set_lifecycle_action(session: Session, arguments: Arguments) -> None:
    """Set what happens at the end of a guest."""
    affect = arguments.affect()
    kind, action = arguments.text("type"), arguments.text("action")
    if kind not in LIFECYCLE_TYPES:
        raise CommandError(f"Invalid lifecycle type '{kind}'.")
    if action not in LIFECYCLE_ACTIONS:
        raise CommandError(f"Invalid lifecycle action '{action}'.")
    numbers = LIFECYCLE_TYPES.index(kind), LIFECYCLE_ACTIONS.index(action)
    failed = "Unable to change lifecycle action."
    act(session, arguments, "domain_set_lifecycle_action", *numbers, affect, failed=failed, done="")


def start(session: Session, arguments: Arguments) -> None:
    """Start a domain."""
    domain = session.domain(arguments, by="nu")
    if domain.id >= 0:
        raise CommandError("Domain is already active")
    flags, files = arguments.flags(**START), descriptors(arguments)
    with session.failing(f"Failed to start domain '{domain.name}'"):
        if files:
            session.call_with_files("domain_create_with_files", domain, flags, files=files)
        elif flags:
            session.call("domain_create_with_flags", domain, flags)
        else:
            session.call("domain_create", domain)
    session.note(f"Domain '{domain.name}' started")
    if arguments.flag("console"):
        _console(session, domain)


UNDEFINE = {
    "managed_save": 1, "snapshots_metadata": 2, "nvram": 4, "keep_nvram": 8, "checkpoints_metadata": 16, "tpm": 32,
    "keep_tpm": 64,
}  # fmt: skip
"""Source: libvirt API reference, virDomainUndefineFlagsValues."""


def undefine(session: Session, arguments: Arguments) -> None:
    """Remove a definition, and if asked for, the volumes."""
    for first, second in (("nvram", "keep-nvram"), ("tpm", "keep-tpm"), ("storage", "remove-all-storage")):
        arguments.exclusive(first, second)
    flags = arguments.flags(**UNDEFINE)
    domain = session.domain(arguments)
    wanted = arguments.get("storage")
    volumes = []
    if wanted is not None or arguments.flag("remove-all-storage"):
        if domain.id >= 0:
            raise CommandError("Storage volume deletion is supported only on stopped domains")
        volumes = _volumes(session, domain, wanted)
    with session.failing(f"Failed to undefine domain '{arguments.text('domain')}'"):
        session.call("domain_undefine_flags", domain, flags)
    session.note(f"Domain '{domain.name}' has been undefined")
    deleted = [_delete_volume(session, arguments, target, volume) for target, volume in volumes]
    if not all(deleted):
        raise CommandError


def _volumes(session: Session, domain: Domain, wanted: str | None) -> list[tuple[str, StorageVol]]:
    """(target, volume) of the disks that are to go. Raises CommandError."""
    names = None if wanted is None else [name for name in wanted.split(",") if name]
    found = []
    with session.failing():
        root = domain_root(session, domain)
    for disk in root.findall("./devices/disk"):
        source, target = disk.find("source"), disk.find("target")
        name = target.get("dev", "") if target is not None else ""
        if source is None:
            continue
        path = next((source.get(key) for key in ("file", "dev", "dir", "name") if source.get(key)), None) or ""
        if names is not None:
            chosen = [key for key in names if key in (name, path)]
            if not chosen:
                continue
            names = [key for key in names if key not in chosen]
        try:
            if source.get("pool"):
                pool = session.call("storage_pool_lookup_by_name", source.get("pool"))
                volume = session.call("storage_vol_lookup_by_name", pool, source.get("volume"))
            else:
                volume = session.call("storage_vol_lookup_by_path", path)
        except RemoteError:
            session.report(
                CommandError(f"Storage volume '{name}'({path}) is not managed by libvirt. Remove it manually.\n")
            )
            continue
        found.append((name, StorageVol(*volume)))
    for key in names or ():
        raise CommandError(f"Volume '{key}' was not found in domain's definition.\n")
    return found


def _delete_volume(session: Session, arguments: Arguments, target: str, volume: StorageVol) -> bool:
    try:
        if arguments.flag("wipe-storage"):
            session.print(f"Wiping volume '{target}'({volume.key}) ... ", end="")
            session.call("storage_vol_wipe", volume, 0)
            session.print("Done.")
        session.call("storage_vol_delete", volume, 2 if arguments.flag("delete-storage-volume-snapshots") else 0)
    except RemoteError as error:
        session.report(CommandError(f"Failed to remove storage volume '{target}'({volume.key})", str(error)))
        return False
    session.note(f"Volume '{target}'({volume.key}) removed.")
    return True
