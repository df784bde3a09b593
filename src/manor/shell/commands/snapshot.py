"""Snapshots of domains."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, NamedTuple

from manor.rpc.protocol.errors import ErrorCode
from manor.rpc.protocol.records import Domain, Snapshot
from manor.shell.arguments import Arguments
from manor.shell.commands import documents
from manor.shell.commands.documents import element
from manor.shell.errors import CommandError
from manor.shell.link import RemoteError
from manor.shell.session import Session, read_file

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

CREATE = {
    "no_metadata": 4, "halt": 8, "disk_only": 16, "reuse_external": 32, "quiesce": 64, "atomic": 128, "live": 256,
    "validate": 512,
}  # fmt: skip
"""Source: libvirt API reference, virDomainSnapshotCreateFlags."""
REDEFINE, CURRENT = 1, 2
SECURE = 1


def _create(session: Session, domain: Domain, xml: str, flags: int, origin: str | None) -> None:
    with session.failing():
        made = Snapshot(*session.call("domain_snapshot_create_xml", domain, xml, flags))
    where = f" from '{origin}'" if origin is not None else ""
    session.note(f"Domain snapshot {made.name} created{where}", end="")


def snapshot_create(session: Session, arguments: Arguments) -> None:
    """Take a snapshot as a file describes."""
    arguments.require("redefine", "current")
    flags = arguments.flags(redefine=REDEFINE, current=CURRENT, **CREATE)
    domain, path = session.domain(arguments), arguments.get("xmlfile")
    xml = read_file(path) if path is not None else "<domainsnapshot/>"
    _create(session, domain, xml, flags, path)


def snapshot_create_as(session: Session, arguments: Arguments) -> None:
    """Take a snapshot."""
    arguments.exclusive("print-xml", "no-metadata")
    flags = arguments.flags(**CREATE)
    domain = session.domain(arguments)
    children = []
    for name in ("name", "description"):
        if arguments.get(name):
            children.append(element(name, [], text=arguments.get(name)))
    if arguments.get("memspec") is not None:
        children.append(_memory_xml(arguments.text("memspec")))
    disks = [_disk_xml(text) for text in arguments.words("diskspec")]
    if disks:
        children.append(element("disks", [], disks))
    xml = element("domainsnapshot", [], children)
    if arguments.flag("print-xml"):
        session.print(xml)
        return
    _create(session, domain, xml, flags, None)


def _parts(text: str) -> list[str]:
    """The parts of a specification; two commas are one within a part."""
    return [part.replace("\0", ",") for part in text.replace(",,", "\0").split(",")]


def _memory_xml(text: str) -> str:
    values: dict[str, str] = {}
    for index, part in enumerate(_parts(text)):
        name, equals, value = part.partition("=")
        if equals and name in ("file", "snapshot"):
            values[name] = value
        elif index == 0:
            values["file"] = part
        else:
            raise CommandError(f"unable to parse memspec: {text}")
    return element("memory", [("snapshot", values.get("snapshot")), ("file", values.get("file"))])


def _disk_xml(text: str) -> str:
    first, *rest = _parts(text)
    values = {}
    for part in rest:
        name, _, value = part.partition("=")
        if name not in ("snapshot", "driver", "stype", "file") or not value:
            raise CommandError(f"unable to parse diskspec: {text}")
        values[name] = value
    kind = values.get("stype", "file")
    driver = element("driver", [("type", values.get("driver"))]) if "driver" in values else ""
    source = element("source", [("file" if kind == "file" else "dev", values.get("file"))]) if "file" in values else ""
    stype = values.get("stype")
    names = [("name", first), ("snapshot", values.get("snapshot")), ("type", stype)]
    return element("disk", names, [driver, source])


def _find(session: Session, arguments: Arguments, domain: Domain, *, needs_one: bool = True) -> Snapshot:
    """The snapshot that the options name. Raises CommandError."""
    name = arguments.get("snapshotname")
    is_current = arguments.command.option("current") is not None and arguments.flag("current")
    if name is not None and is_current:
        raise CommandError("Options --current and --snapshotname are mutually exclusive")
    with session.failing():
        if is_current or (name is None and not needs_one):
            return Snapshot(*session.call("domain_snapshot_current", domain, 0))
        if name is None:
            raise CommandError("--snapshotname or --current is required")
        return Snapshot(*session.call("domain_snapshot_lookup_by_name", domain, name, 0))


def snapshot_current(session: Session, arguments: Arguments) -> None:
    """Show the current snapshot, or make one current."""
    domain, name = session.domain(arguments), arguments.get("snapshotname")
    flags = arguments.flags(security_info=SECURE)
    arguments.exclusive("name", "snapshotname")
    with session.failing():
        if name is not None:
            found = Snapshot(*session.call("domain_snapshot_lookup_by_name", domain, name, 0))
            xml = session.call("domain_snapshot_get_xml_desc", found, SECURE)
            session.call("domain_snapshot_create_xml", domain, xml, REDEFINE | CURRENT)
            session.note(f"Snapshot {name} set as current", end="")
            return
        if not session.call("domain_has_current_snapshot", domain, 0):
            raise CommandError(f"domain '{domain.name}' has no current snapshot")
        found = Snapshot(*session.call("domain_snapshot_current", domain, 0))
        if arguments.flag("name"):
            session.print(found.name, end="\n" if session.settings.is_quiet else "")
        else:
            session.print(session.call("domain_snapshot_get_xml_desc", found, flags), end="")


def snapshot_delete(session: Session, arguments: Arguments) -> None:
    """Delete a snapshot."""
    arguments.exclusive("children", "children-only")
    domain = session.domain(arguments)
    snapshot = _find(session, arguments, domain)
    with session.failing(f"Failed to delete snapshot {snapshot.name}"):
        session.call("domain_snapshot_delete", snapshot, arguments.flags(children=1, metadata=2, children_only=4))
    which = " children" if arguments.flag("children-only") else ""
    session.note(f"Domain snapshot {snapshot.name}{which} deleted")


def snapshot_dumpxml(session: Session, arguments: Arguments) -> None:
    """Show the XML."""
    domain = session.domain(arguments)
    snapshot = _find(session, arguments, domain)
    with session.failing():
        text = session.call("domain_snapshot_get_xml_desc", snapshot, arguments.flags(security_info=SECURE))
    documents.show(session, arguments, text)


def snapshot_edit(session: Session, arguments: Arguments) -> None:
    """Edit the XML."""
    arguments.exclusive("rename", "clone")
    domain = session.domain(arguments)
    snapshot = _find(session, arguments, domain)
    flags = REDEFINE | (CURRENT if arguments.flag("current") else 0)
    made: list[Snapshot] = []

    def store(text: str) -> None:
        made.append(Snapshot(*session.call("domain_snapshot_create_xml", domain, text, flags)))
        changes_name = made[-1].name != snapshot.name
        if changes_name and not (arguments.flag("rename") or arguments.flag("clone")):
            session.call("domain_snapshot_delete", made[-1], 2)
            raise CommandError(
                f"Cannot rename snapshot {snapshot.name} to {made[-1].name}: --rename or --clone allows it"
            )
        if changes_name and arguments.flag("rename"):
            session.call("domain_snapshot_delete", snapshot, 2)

    documents.edit(
        session, lambda: str(session.call("domain_snapshot_get_xml_desc", snapshot, SECURE)), store,
        f"Snapshot {snapshot.name} XML configuration not changed.\n", "",
    )  # fmt: skip
    if made:
        verb = "cloned to" if arguments.flag("clone") else "renamed to"
        is_same = made[-1].name == snapshot.name
        session.note(f"Snapshot {snapshot.name} {'edited' if is_same else f'{verb} {made[-1].name}'}.")


def _root(session: Session, snapshot: Snapshot) -> Element:
    return documents.parse(session.call("domain_snapshot_get_xml_desc", snapshot, 0))


def _parent(session: Session, snapshot: Snapshot) -> str | None:
    try:
        return Snapshot(*session.call("domain_snapshot_get_parent", snapshot, 0)).name
    except RemoteError as error:
        if error.code != ErrorCode.NO_DOMAIN_SNAPSHOT:
            raise
        return None


def _is_external(root: Element) -> bool:
    memory = root.find("memory")
    kinds = [disk.get("snapshot") for disk in root.findall("./disks/disk")]
    return "external" in kinds or (memory is not None and memory.get("snapshot") == "external")


def snapshot_info(session: Session, arguments: Arguments) -> None:
    """Tell the main facts."""
    domain = session.domain(arguments)
    snapshot = _find(session, arguments, domain)
    with session.failing():
        is_current = session.call("domain_snapshot_is_current", snapshot, 0)
        root = _root(session, snapshot)
        children = session.call("domain_snapshot_num_children", snapshot, 0)
        descendants = session.call("domain_snapshot_num_children", snapshot, 1)
        has_metadata = session.call("domain_snapshot_has_metadata", snapshot, 0)
        parent = _parent(session, snapshot)
    session.fields([
        ("Name", snapshot.name), ("Domain", domain.name), ("Current", "yes" if is_current else "no"),
        ("State", root.findtext("state") or ""), ("Location", "external" if _is_external(root) else "internal"),
        ("Parent", parent or "-"), ("Children", str(children)), ("Descendants", str(descendants)),
        ("Metadata", "yes" if has_metadata else "no"),
    ])  # fmt: skip


class _Row(NamedTuple):
    name: str
    time: str
    state: str
    parent: str | None


FILTERS = {
    "leaves": 4, "no_leaves": 8, "inactive": 32, "active": 64, "disk_only": 128, "internal": 256, "external": 512,
    "topological": 1024,
}  # fmt: skip
"""Source: libvirt API reference, virDomainSnapshotListFlags."""


def snapshot_list(session: Session, arguments: Arguments) -> None:
    """List snapshots."""
    for first, second in (
        ("tree", "name"), ("parent", "roots"), ("parent", "tree"), ("roots", "tree"), ("roots", "from"),
        ("roots", "current"), ("leaves", "no-leaves"), ("from", "current"),
    ):  # fmt: skip
        arguments.exclusive(first, second)
    domain = session.domain(arguments)
    rows = _rows(session, arguments, domain)
    if arguments.flag("tree"):
        session.print(_tree(rows), end="")
    elif arguments.flag("name"):
        session.print("".join(f"{row.name}\n" for row in rows), end="")
    else:
        headings: tuple[str, ...] = ("Name", "Creation Time", "State")
        cells: list[tuple[str, ...]] = [row[:3] for row in rows]
        if arguments.flag("parent"):
            headings += ("Parent",)
            cells = [(*row[:3], row.parent or "") for row in rows]
        session.table(headings, cells)


def _rows(session: Session, arguments: Arguments, domain: Domain) -> list[_Row]:
    flags = arguments.flags(**FILTERS)
    if arguments.flag("metadata"):
        flags |= 2
    if arguments.flag("no-metadata"):
        flags |= 16
    start = None
    with session.failing():
        if arguments.get("from") is not None:
            start = Snapshot(*session.call("domain_snapshot_lookup_by_name", domain, arguments.get("from"), 0))
        elif arguments.flag("current"):
            start = Snapshot(*session.call("domain_snapshot_current", domain, 0))
        if start is not None:
            flags |= arguments.flags(descendants=1) | (1 if arguments.flag("tree") else 0)
            found = session.call("domain_snapshot_list_all_children", start, 1, flags).snapshots
        else:
            found = session.call("domain_list_all_snapshots", domain, 1, flags | arguments.flags(roots=1)).snapshots
        snapshots = [Snapshot(*item) for item in found]
        if start is not None and arguments.flag("tree"):
            snapshots.insert(0, start)
        rows = [_row(session, snapshot) for snapshot in snapshots]
    if arguments.flag("topological"):
        return rows
    return sorted(rows, key=lambda row: row.name)


def _row(session: Session, snapshot: Snapshot) -> _Row:
    root = _root(session, snapshot)
    created = datetime.datetime.fromtimestamp(int(root.findtext("creationTime") or "0")).astimezone()
    text = created.strftime("%Y-%m-%d %H:%M:%S %z")
    return _Row(snapshot.name, text, root.findtext("state") or "", root.findtext("./parent/name"))


def _tree(rows: list[_Row]) -> str:
    """Parents above their children, as virsh draws them."""
    return tree([(row.name, row.parent) for row in rows])


def tree(nodes: list[tuple[str, str | None]]) -> str:
    """(name, parent) of each node -> text; a node whose parent is not among them is a root."""
    names = {name for name, _ in nodes}
    children: dict[str | None, list[str]] = {}
    for name, parent in nodes:
        children.setdefault(parent if parent in names else None, []).append(name)
    out: list[str] = []

    def draw(name: str, indent: str, *, is_root: bool, is_last: bool) -> None:
        out.append(name if is_root else f"{indent}+- {name}")
        inner = "" if is_root else indent + ("  " if is_last else "| ")
        below = children.get(name, [])
        if below:
            out.append(f"{inner}  |")
        for index, child in enumerate(below):
            draw(child, f"{inner}  ", is_root=False, is_last=index + 1 == len(below))
        if not below and is_last:
            out.append(inner)

    for root in children.get(None, []):
        draw(root, "", is_root=True, is_last=True)
    return "".join(f"{line}\n" for line in out)


def snapshot_parent(session: Session, arguments: Arguments) -> None:
    """Tell the parent."""
    domain = session.domain(arguments)
    snapshot = _find(session, arguments, domain)
    with session.failing():
        parent = _parent(session, snapshot)
    if parent is None:
        raise CommandError(f"snapshot '{snapshot.name}' has no parent")
    session.print(parent, end="\n" if session.settings.is_quiet else "")


def snapshot_revert(session: Session, arguments: Arguments) -> None:
    """Go back."""
    arguments.exclusive("running", "paused")
    domain = session.domain(arguments)
    snapshot = _find(session, arguments, domain)
    flags = arguments.flags(running=1, paused=2, force=4, reset_nvram=8)
    with session.failing(f"Failed to revert snapshot {snapshot.name}"):
        session.call("domain_revert_to_snapshot", snapshot, flags)
    session.note(f"Domain snapshot {snapshot.name} reverted")
