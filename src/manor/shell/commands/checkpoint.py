"""Checkpoints and backups of domains."""

from __future__ import annotations

import datetime

from manor.rpc.protocol.errors import ErrorCode
from manor.rpc.protocol.records import Checkpoint
from manor.shell.arguments import Arguments
from manor.shell.commands import documents
from manor.shell.commands.documents import element
from manor.shell.commands.snapshot import tree
from manor.shell.errors import CommandError
from manor.shell.link import RemoteError
from manor.shell.session import Session, read_file


def _find(session: Session, arguments: Arguments) -> Checkpoint:
    domain, name = session.domain(arguments), arguments.get("checkpointname")
    if name is None:
        raise CommandError("--checkpointname is required")
    with session.failing():
        return Checkpoint(*session.call("domain_checkpoint_lookup_by_name", domain, name, 0))


def _parent(session: Session, checkpoint: Checkpoint) -> str | None:
    try:
        return Checkpoint(*session.call("domain_checkpoint_get_parent", checkpoint, 0)).name
    except RemoteError as error:
        if error.code != ErrorCode.NO_DOMAIN_CHECKPOINT:
            raise
        return None


def checkpoint_create(session: Session, arguments: Arguments) -> None:
    """Create a checkpoint."""
    flags = arguments.flags(redefine=1, quiesce=2, redefine_validate=4)
    if flags & 3 == 3:
        raise CommandError(
            "Flags 'VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE' and 'VIR_DOMAIN_CHECKPOINT_CREATE_QUIESCE' are mutually "
            "exclusive"
        )
    domain, path = session.domain(arguments), arguments.get("xmlfile")
    text = read_file(path) if path is not None else "<domaincheckpoint/>"
    with session.failing():
        made = Checkpoint(*session.call("domain_checkpoint_create_xml", domain, text, flags))
    where = f" from '{path}'" if path is not None else ""
    session.note(f"Domain checkpoint {made.name} created{where}", end="")


def checkpoint_create_as(session: Session, arguments: Arguments) -> None:
    """Create a checkpoint from options."""
    children = [
        element(name, [], text=arguments.get(name)) for name in ("name", "description") if arguments.get(name)
    ]
    disks = [_disk_xml(text) for text in arguments.words("diskspec")]
    if disks:
        children.append(element("disks", [], disks))
    xml = element("domaincheckpoint", [], children)
    if arguments.flag("print-xml"):
        session.print(xml)
        return
    domain = session.domain(arguments)
    with session.failing():
        made = Checkpoint(
            *session.call("domain_checkpoint_create_xml", domain, xml, arguments.flags(quiesce=2))
        )
    session.note(f"Domain checkpoint {made.name} created", end="")


def _disk_xml(text: str) -> str:
    first, *rest = text.split(",")
    values = dict(part.partition("=")[::2] for part in rest)
    if not first or set(values) - {"checkpoint", "bitmap"}:
        raise CommandError(f"unable to parse diskspec: {text}")
    names = [("name", first), ("checkpoint", values.get("checkpoint")), ("bitmap", values.get("bitmap"))]
    return element("disk", names)


def checkpoint_edit(session: Session, arguments: Arguments) -> None:
    """Edit the XML."""
    checkpoint = _find(session, arguments)
    made: list[Checkpoint] = []

    def store(text: str) -> None:
        made.append(Checkpoint(*session.call("domain_checkpoint_create_xml", checkpoint.domain, text, 1)))

    with session.failing():
        documents.edit(
            session, lambda: str(session.call("domain_checkpoint_get_xml_desc", checkpoint, 1)), store,
            f"Checkpoint {checkpoint.name} XML configuration not changed.\n", "",
        )  # fmt: skip
    if made:
        session.note(f"Checkpoint {made[-1].name} edited.")


def checkpoint_info(session: Session, arguments: Arguments) -> None:
    """Tell the main facts."""
    checkpoint = _find(session, arguments)
    with session.failing():
        parent = _parent(session, checkpoint)
        children = session.call("domain_checkpoint_list_all_children", checkpoint, 0, 0).count
        descendants = session.call("domain_checkpoint_list_all_children", checkpoint, 0, 1).count
    session.fields([
        ("Name", checkpoint.name), ("Domain", checkpoint.domain[0]), ("Parent", parent or "-"),
        ("Children", str(children)), ("Descendants", str(descendants)),
    ])  # fmt: skip


def checkpoint_delete(session: Session, arguments: Arguments) -> None:
    """Delete a checkpoint."""
    arguments.exclusive("children", "children-only")
    checkpoint = _find(session, arguments)
    flags = arguments.flags(children=1, metadata=2, children_only=4)
    with session.failing(f"Failed to delete checkpoint {checkpoint.name}"):
        session.call("domain_checkpoint_delete", checkpoint, flags)
    which = " children" if arguments.flag("children-only") else ""
    session.note(f"Domain checkpoint {checkpoint.name}{which} deleted")


def checkpoint_dumpxml(session: Session, arguments: Arguments) -> None:
    """Show the XML."""
    flags = arguments.flags(security_info=1, no_domain=2, size=4)
    checkpoint = _find(session, arguments)
    with session.failing():
        text = session.call("domain_checkpoint_get_xml_desc", checkpoint, flags)
    documents.show(session, arguments, text)


FILTERS = {"leaves": 4, "no_leaves": 8, "topological": 16}
"""Source: libvirt API reference, virDomainCheckpointListFlags."""


def checkpoint_list(session: Session, arguments: Arguments) -> None:
    """List checkpoints."""
    for first, second in (("tree", "name"), ("parent", "roots"), ("parent", "tree"), ("roots", "from")):
        arguments.exclusive(first, second)
    flags, start = arguments.flags(**FILTERS), arguments.get("from")
    domain = session.domain(arguments)
    with session.failing():
        if start is not None:
            origin = session.call("domain_checkpoint_lookup_by_name", domain, start, 0)
            flags |= arguments.flags(descendants=1)
            found = session.call("domain_checkpoint_list_all_children", origin, 1, flags).checkpoints
        else:
            flags |= arguments.flags(roots=1)
            found = session.call("domain_list_all_checkpoints", domain, 1, flags).checkpoints
        rows = []
        for item in found:
            root = documents.parse(session.call("domain_checkpoint_get_xml_desc", item, 2))
            created = datetime.datetime.fromtimestamp(int(root.findtext("creationTime") or "0")).astimezone()
            stamp = created.strftime("%Y-%m-%d %H:%M:%S %z")
            rows.append((str(item[0]), stamp, root.findtext("./parent/name") or ""))
    if not arguments.flag("topological"):
        rows.sort()
    if arguments.flag("tree"):
        session.print(tree([(name, parent or None) for name, _, parent in rows]), end="")
    elif arguments.flag("name"):
        session.print("".join(f"{row[0]}\n" for row in rows), end="")
    elif arguments.flag("parent"):
        session.table(("Name", "Creation Time", "Parent"), rows)
    else:
        session.table(("Name", "Creation Time"), [row[:2] for row in rows])


def checkpoint_parent(session: Session, arguments: Arguments) -> None:
    """Tell the parent."""
    checkpoint = _find(session, arguments)
    with session.failing():
        parent = _parent(session, checkpoint)
    if parent is None:
        raise CommandError(f"checkpoint '{checkpoint.name}' has no parent")
    session.print(parent, end="\n" if session.settings.is_quiet else "")


def backup_begin(session: Session, arguments: Arguments) -> None:
    """Begin a backup."""
    domain = session.domain(arguments)
    path, checkpoint = arguments.get("backupxml"), arguments.get("checkpointxml")
    text = read_file(path) if path is not None else "<domainbackup/>"
    with session.failing():
        session.call(
            "domain_backup_begin", domain, text, read_file(checkpoint) if checkpoint is not None else None,
            arguments.flags(reuse_external=1),
        )  # fmt: skip
    session.print("Backup started")


def backup_dumpxml(session: Session, arguments: Arguments) -> None:
    """Show the XML of the backup."""
    domain = session.domain(arguments)
    with session.failing():
        text = session.call("domain_backup_get_xml_desc", domain, 0)
    documents.show(session, arguments, text)
