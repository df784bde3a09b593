"""Storage pools."""

from __future__ import annotations

from typing import Any

from manor.rpc.protocol.records import StoragePool
from manor.shell import render
from manor.shell.arguments import Arguments
from manor.shell.commands import documents
from manor.shell.commands.documents import element
from manor.shell.commands.states import named
from manor.shell.errors import CommandError
from manor.shell.link import RemoteError
from manor.shell.session import Session, read_file, uuid_text

INACTIVE, ACTIVE = 1, 2
XML_INACTIVE = 1
STATES = ("inactive", "building", "running", "degraded", "inaccessible")
TYPES = {
    "dir": 64, "fs": 128, "netfs": 256, "logical": 512, "disk": 1024, "iscsi": 2048, "scsi": 4096, "mpath": 8192,
    "rbd": 16384, "sheepdog": 32768, "gluster": 65536, "zfs": 1 << 17, "vstorage": 1 << 18, "iscsi-direct": 1 << 19,
}  # fmt: skip
"""Source: libvirt API reference, virConnectListAllStoragePoolsFlags."""


def _act(session: Session, arguments: Arguments, procedure: str, *rest: Any, failed: str, done: str) -> None:
    pool = session.pool(arguments)
    with session.failing(failed.format(pool.name)):
        session.call(procedure, pool, *rest)
    session.note(done.format(pool.name))


def _build_flags(arguments: Arguments) -> int:
    """Source: libvirt API reference, virStoragePoolCreateFlags."""
    arguments.exclusive("overwrite", "no-overwrite")
    return arguments.flags(build=1, overwrite=2, no_overwrite=4)


def pool_autostart(session: Session, arguments: Arguments) -> None:
    """Start with the host, or no longer."""
    word = "unmark" if arguments.flag("disable") else "mark"
    _act(
        session, arguments, "storage_pool_set_autostart", int(not arguments.flag("disable")),
        failed=f"failed to {word} pool {{}} as autostarted", done=f"Pool {{}} {word}ed as autostarted",
    )  # fmt: skip


def pool_build(session: Session, arguments: Arguments) -> None:
    """Make what a pool lies on."""
    arguments.exclusive("overwrite", "no-overwrite")
    flags = arguments.flags(no_overwrite=4, overwrite=8)
    _act(session, arguments, "storage_pool_build", flags, failed="Failed to build pool {}", done="Pool {} built")


def pool_create(session: Session, arguments: Arguments) -> None:
    """Start a pool that is not kept."""
    path, flags = arguments.text("file"), _build_flags(arguments)
    text = read_file(path)
    with session.failing(f"Failed to create pool from {path}"):
        pool = StoragePool(*session.call("storage_pool_create_xml", text, flags))
    session.note(f"Pool {pool.name} created from {path}")


def pool_define(session: Session, arguments: Arguments) -> None:
    """Define a pool."""
    path = arguments.text("file")
    text = read_file(path)
    with session.failing(f"Failed to define pool from {path}"):
        pool = StoragePool(*session.call("storage_pool_define_xml", text, arguments.flags(validate=1)))
    session.note(f"Pool {pool.name} defined from {path}")


def pool_create_as(session: Session, arguments: Arguments) -> None:
    """Start a pool that is not kept."""
    name, text, flags = arguments.text("name"), _pool_xml(arguments), _build_flags(arguments)
    if arguments.flag("print-xml"):
        session.print(text, end="")
        return
    with session.failing(f"Failed to create pool {name}"):
        pool = StoragePool(*session.call("storage_pool_create_xml", text, flags))
    session.note(f"Pool {pool.name} created")


def pool_define_as(session: Session, arguments: Arguments) -> None:
    """Define a pool."""
    name, text = arguments.text("name"), _pool_xml(arguments)
    if arguments.flag("print-xml"):
        session.print(text, end="")
        return
    with session.failing(f"Failed to define pool {name}"):
        pool = StoragePool(*session.call("storage_pool_define_xml", text, 0))
    session.note(f"Pool {pool.name} defined")


def _pool_xml(arguments: Arguments) -> str:
    """The XML that the options of pool-define-as and pool-create-as describe. Raises CommandError."""
    get = arguments.get
    arguments.exclusive("secret-usage", "secret-uuid")
    if get("auth-type") or get("auth-username"):
        secret = get("secret-usage") or get("secret-uuid")
        if not (get("auth-type") and get("auth-username") and secret):
            raise CommandError("--auth-type, --auth-username and --secret-usage or --secret-uuid go together")
    initiator = get("source-initiator")
    adapter = [
        ("name", get("adapter-name")), ("parent", get("adapter-parent")),
        ("parent_wwnn", get("adapter-parent-wwnn")), ("parent_wwpn", get("adapter-parent-wwpn")),
        ("parent_fabric_wwn", None if get("adapter-parent-wwnn") else get("adapter-parent-fabric-wwn")),
        ("wwnn", get("adapter-wwnn")), ("wwpn", get("adapter-wwpn")),
    ]  # fmt: skip
    adapter_type = "fc_host" if get("adapter-wwnn") else "scsi_host"
    children = []
    if get("source-host"):
        children.append(element("host", [("name", get("source-host"))]))
    if get("source-path"):
        children.append(element("dir", [("path", get("source-path"))]))
    if get("source-dev"):
        children.append(element("device", [("path", get("source-dev"))]))
    if any(value for _, value in adapter):
        children.append(element("adapter", [("type", adapter_type), *adapter]))
    if initiator:
        children.append(element("initiator", [], [element("iqn", [("name", initiator)])]))
    if get("auth-type"):
        secret_element = element("secret", [("usage", get("secret-usage")), ("uuid", get("secret-uuid"))])
        names = [("type", get("auth-type")), ("username", get("auth-username"))]
        children.append(element("auth", names, [secret_element]))
    if get("source-format"):
        children.append(element("format", [("type", get("source-format"))]))
    if get("source-name"):
        children.append(element("name", [], text=get("source-name")))
    if get("source-protocol-ver"):
        children.append(element("protocol", [("ver", get("source-protocol-ver"))]))
    source = element("source", [], children) if children else ""
    target = element("target", [], [element("path", [], text=get("target"))]) if get("target") else ""
    return element("pool", [("type", get("type"))], [element("name", [], text=get("name")), source, target])


def pool_delete(session: Session, arguments: Arguments) -> None:
    """Delete what a pool lies on."""
    _act(session, arguments, "storage_pool_delete", 0, failed="Failed to delete pool {}", done="Pool {} deleted")


def pool_destroy(session: Session, arguments: Arguments) -> None:
    """Stop a pool."""
    _act(session, arguments, "storage_pool_destroy", failed="Failed to destroy pool {}", done="Pool {} destroyed")


def pool_refresh(session: Session, arguments: Arguments) -> None:
    """Look again at what is in a pool."""
    _act(session, arguments, "storage_pool_refresh", 0, failed="Failed to refresh pool {}", done="Pool {} refreshed")


def pool_start(session: Session, arguments: Arguments) -> None:
    """Start a pool."""
    flags = _build_flags(arguments)
    _act(session, arguments, "storage_pool_create", flags, failed="Failed to start pool {}", done="Pool {} started")


def pool_undefine(session: Session, arguments: Arguments) -> None:
    """Remove a definition."""
    failed, done = "Failed to undefine pool {}", "Pool {} has been undefined"
    _act(session, arguments, "storage_pool_undefine", failed=failed, done=done)


def pool_dumpxml(session: Session, arguments: Arguments) -> None:
    """Show the XML."""
    pool = session.pool(arguments)
    with session.failing():
        text = session.call("storage_pool_get_xml_desc", pool, arguments.flags(inactive=XML_INACTIVE))
    documents.show(session, arguments, text)


def pool_edit(session: Session, arguments: Arguments) -> None:
    """Edit the XML."""
    pool = session.pool(arguments)
    documents.edit(
        session, lambda: str(session.call("storage_pool_get_xml_desc", pool, XML_INACTIVE)),
        lambda text: session.call("storage_pool_define_xml", text, 0),
        f"Pool {pool.name} XML configuration not changed.\n", f"Pool {pool.name} XML configuration edited.\n",
    )  # fmt: skip


def pool_info(session: Session, arguments: Arguments) -> None:
    """Tell the main facts."""
    pool = session.pool(arguments)
    pairs = [("Name", pool.name), ("UUID", uuid_text(pool.uuid))]
    with session.failing():
        info = session.call("storage_pool_get_info", pool)
        pairs.append(("State", named(STATES, info.state)))
        pairs.append(("Persistent", "yes" if session.call("storage_pool_is_persistent", pool) else "no"))
        pairs.append(("Autostart", _autostart(session, pool)))
    if info.state in (2, 3):
        for title, value in (
            ("Capacity", info.capacity), ("Allocation", info.allocation), ("Available", info.available),
        ):  # fmt: skip
            pairs.append((title, str(value) if arguments.flag("bytes") else _size(value)))
    session.fields(pairs)


def _autostart(session: Session, pool: StoragePool) -> str:
    try:
        return "yes" if session.call("storage_pool_get_autostart", pool) else "no"
    except RemoteError:
        return "no autostart"


def _size(value: int) -> str:
    number, unit = render.pretty_size(value)
    return f"{number:.2f} {unit}"


def pool_list(session: Session, arguments: Arguments) -> None:
    """List pools."""
    if (arguments.flag("details") or not arguments.flag("name")) is False and arguments.flag("uuid"):
        raise CommandError("Only one argument from --name, --uuid and --details may be specified.")
    flags = ACTIVE
    if arguments.flag("inactive"):
        flags = INACTIVE
    if arguments.flag("all"):
        flags = ACTIVE | INACTIVE
    flags |= arguments.flags(persistent=4, transient=8, autostart=16, no_autostart=32)
    for name in (arguments.get("type") or "").split(","):
        if name and name not in TYPES:
            raise CommandError(f"Invalid pool type '{name}'")
        flags |= TYPES.get(name, 0)
    with session.failing("Failed to list pools"):
        found = [StoragePool(*item) for item in session.call("connect_list_all_storage_pools", 1, flags).pools]
        active = {item.uuid for item in found if session.call("storage_pool_is_active", item)}
    found.sort(key=lambda item: (item.uuid not in active, item.name.lower()))
    if arguments.flag("uuid") or arguments.flag("name"):
        for item in found:
            session.print(uuid_text(item.uuid) if arguments.flag("uuid") else f"{item.name:<20}")
        return
    if arguments.flag("details"):
        rows = [_details(session, item) for item in found]
        headings = ("Name", "State", "Autostart", "Persistent", "Capacity", "Allocation", "Available")
        session.table(headings, rows)
        return
    states = {True: "active", False: "inactive"}
    plain = [(item.name, states[item.uuid in active], _autostart(session, item)) for item in found]
    session.table(("Name", "State", "Autostart"), plain)


def _details(session: Session, pool: StoragePool) -> tuple[str, ...]:
    with session.failing("Could not retrieve pool information"):
        info = session.call("storage_pool_get_info", pool)
        persistent = "yes" if session.call("storage_pool_is_persistent", pool) else "no"
    is_running = info.state in (2, 3)
    sizes = [_size(size) if is_running else "-" for size in (info.capacity, info.allocation, info.available)]
    return (pool.name, named(STATES, info.state), _autostart(session, pool), persistent, *sizes)


def pool_name(session: Session, arguments: Arguments) -> None:
    """Tell the name."""
    session.print(session.pool(arguments, by="u").name)


def pool_uuid(session: Session, arguments: Arguments) -> None:
    """Tell the UUID."""
    session.print(uuid_text(session.pool(arguments, by="n").uuid))


def pool_capabilities(session: Session, arguments: Arguments) -> None:
    """Show what pools may be."""
    with session.failing("failed to get storage pool capabilities"):
        session.print(session.call("connect_get_storage_pool_capabilities", 0))


def find_storage_pool_sources(session: Session, arguments: Arguments) -> None:
    """Look for sources, as XML describes."""
    path = arguments.get("srcSpec")
    _find_sources(session, arguments, read_file(path) if path else None)


def find_storage_pool_sources_as(session: Session, arguments: Arguments) -> None:
    """Look for sources."""
    host, text = arguments.get("host"), None
    if host:
        initiator = arguments.get("initiator")
        iqn = element("initiator", [], [element("iqn", [("name", initiator)])]) if initiator else ""
        text = element("source", [], [element("host", [("name", host), ("port", arguments.get("port"))]), iqn])
    _find_sources(session, arguments, text)


def _find_sources(session: Session, arguments: Arguments, spec: str | None) -> None:
    kind = arguments.text("type")
    with session.failing(f"Failed to find any {kind} pool sources"):
        session.print(session.call("connect_find_storage_pool_sources", kind, spec, 0))
