"""Virtual networks and their ports."""

from __future__ import annotations

import contextlib
import datetime
from typing import Any

from manor.rpc.protocol.records import Network, NetworkPort
from manor.shell.arguments import Arguments
from manor.shell.commands import documents
from manor.shell.errors import CommandError
from manor.shell.link import RemoteError
from manor.shell.session import Session, read_file, uuid_text

INACTIVE, ACTIVE = 1, 2
XML_INACTIVE = 1


def _act(session: Session, arguments: Arguments, procedure: str, *rest: Any, failed: str, done: str) -> None:
    network = session.network(arguments)
    with session.failing(failed.format(arguments.text("network"))):
        session.call(procedure, network, *rest)
    session.note(done.format(arguments.text("network")))


def net_autostart(session: Session, arguments: Arguments) -> None:
    """Start with the host, or no longer."""
    word = "unmark" if arguments.flag("disable") else "mark"
    _act(
        session, arguments, "network_set_autostart", int(not arguments.flag("disable")),
        failed=f"failed to {word} network {{}} as autostarted", done=f"Network {{}} {word}ed as autostarted",
    )  # fmt: skip


def net_create(session: Session, arguments: Arguments) -> None:
    """Start a network that is not kept."""
    path, flags = arguments.text("file"), arguments.flags(validate=1)
    text = read_file(path)
    with session.failing(f"Failed to create network from {path}"):
        if flags:
            network = Network(*session.call("network_create_xml_flags", text, flags))
        else:
            network = Network(*session.call("network_create_xml", text))
    session.note(f"Network {network.name} created from {path}")


def net_define(session: Session, arguments: Arguments) -> None:
    """Define a network."""
    path, flags = arguments.text("file"), arguments.flags(validate=1)
    text = read_file(path)
    with session.failing(f"Failed to define network from {path}"):
        if flags:
            network = Network(*session.call("network_define_xml_flags", text, flags))
        else:
            network = Network(*session.call("network_define_xml", text))
    session.note(f"Network {network.name} defined from {path}")


def net_destroy(session: Session, arguments: Arguments) -> None:
    """Stop a network."""
    failed, done = "Failed to destroy network {}", "Network {} destroyed"
    _act(session, arguments, "network_destroy", failed=failed, done=done)


def net_start(session: Session, arguments: Arguments) -> None:
    """Start a network."""
    failed, done = "Failed to start network {}", "Network {} started"
    _act(session, arguments, "network_create", failed=failed, done=done)


def net_undefine(session: Session, arguments: Arguments) -> None:
    """Remove a definition."""
    failed, done = "Failed to undefine network {}", "Network {} has been undefined"
    _act(session, arguments, "network_undefine", failed=failed, done=done)


def net_dhcp_leases(session: Session, arguments: Arguments) -> None:
    """List leases."""
    network = session.network(arguments)
    with session.failing(f"Failed to get leases info for {arguments.text('network')}"):
        leases = session.call("network_get_dhcp_leases", network, arguments.get("mac"), 1, 0).leases
    rows = []
    for lease in sorted(leases, key=lambda lease: lease.expiry_time):
        expiry = datetime.datetime.fromtimestamp(lease.expiry_time).strftime("%Y-%m-%d %H:%M:%S")
        rows.append((
            expiry, lease.mac or "-", ("ipv4", "ipv6")[lease.type] if lease.type in (0, 1) else "",
            f"{lease.address}/{lease.prefix}", lease.hostname or "-", lease.client_id or "-",
        ))  # fmt: skip
    headings = ("Expiry Time", "MAC address", "Protocol", "IP address", "Hostname", "Client ID or DUID")
    session.table(headings, rows, naming="IP address")


def net_dumpxml(session: Session, arguments: Arguments) -> None:
    """Show the XML."""
    network = session.network(arguments)
    with session.failing():
        text = session.call("network_get_xml_desc", network, arguments.flags(inactive=XML_INACTIVE))
    documents.show(session, arguments, text)


def net_edit(session: Session, arguments: Arguments) -> None:
    """Edit the XML."""
    network = session.network(arguments)
    documents.edit(
        session, lambda: str(session.call("network_get_xml_desc", network, XML_INACTIVE)),
        lambda text: session.call("network_define_xml", text),
        f"Network {network.name} XML configuration not changed.\n",
        f"Network {network.name} XML configuration edited.\n",
    )  # fmt: skip


def net_info(session: Session, arguments: Arguments) -> None:
    """Tell the main facts."""
    network = session.network(arguments)
    pairs = [("Name", network.name), ("UUID", uuid_text(network.uuid))]
    with session.failing():
        pairs.append(("Active", "yes" if session.call("network_is_active", network) else "no"))
        pairs.append(("Persistent", "yes" if session.call("network_is_persistent", network) else "no"))
        pairs.append(("Autostart", _autostart(session, network)))
    with contextlib.suppress(RemoteError):  # not every network has one
        pairs.append(("Bridge", session.call("network_get_bridge_name", network)))
    session.fields(pairs)


def _autostart(session: Session, network: Network) -> str:
    try:
        return "yes" if session.call("network_get_autostart", network) else "no"
    except RemoteError:
        return "no autostart"


def net_list(session: Session, arguments: Arguments) -> None:
    """List networks."""
    only = [name for name in ("uuid", "name", "table") if arguments.flag(name)]
    if len(only) > 1:
        raise CommandError("Only one argument from --table, --name and --uuid may be specified.")
    flags = ACTIVE
    if arguments.flag("inactive"):
        flags = INACTIVE
    if arguments.flag("all"):
        flags = ACTIVE | INACTIVE
    flags |= arguments.flags(persistent=4, transient=8, autostart=16, no_autostart=32)
    with session.failing("Failed to list networks"):
        found = [Network(*item) for item in session.call("connect_list_all_networks", 1, flags).networks]
        active = {item.uuid for item in found if session.call("network_is_active", item)}
    found.sort(key=lambda item: (item.uuid not in active, item.name.lower()))
    if "uuid" in only:
        session.print("".join(f"{uuid_text(item.uuid)}\n" for item in found), end="")
        return
    if "name" in only:
        session.print("".join(f"{item.name}\n" for item in found), end="")
        return
    rows = []
    for item in found:
        with session.failing("Failed to get network persistence info"):
            persistent = session.call("network_is_persistent", item)
        state = "active" if item.uuid in active else "inactive"
        rows.append((item.name, state, _autostart(session, item), "yes" if persistent else "no"))
    session.table(("Name", "State", "Autostart", "Persistent"), rows)


def net_name(session: Session, arguments: Arguments) -> None:
    """Tell the name."""
    session.print(session.network(arguments, by="u").name)


def net_uuid(session: Session, arguments: Arguments) -> None:
    """Tell the UUID."""
    session.print(uuid_text(session.network(arguments, by="n").uuid))


UPDATES = {"modify": 1, "delete": 2, "add": 3, "add-last": 3, "add-first": 4}
SECTIONS = {
    "bridge": 1, "domain": 2, "ip": 3, "ip-dhcp-host": 4, "ip-dhcp-range": 5, "forward": 6, "forward-interface": 7,
    "forward-pf": 8, "portgroup": 9, "dns-host": 10, "dns-txt": 11, "dns-srv": 12,
}  # fmt: skip
"""Source: libvirt API reference, virNetworkUpdateCommand and virNetworkUpdateSection."""


def net_update(session: Session, arguments: Arguments) -> None:
    """Change a part."""
    affect = arguments.affect()
    network = session.network(arguments)
    command, section = arguments.text("command"), arguments.text("section")
    if command not in UPDATES:
        raise CommandError(f"unrecognized command name '{command}'")
    if section not in SECTIONS:
        raise CommandError(f"unrecognized section name '{section}'")
    xml = arguments.text("xml")
    if not xml.lstrip().startswith("<"):
        xml = read_file(xml)
    index = arguments.number("parent-index", -1, low=-1, high=2**31 - 1)
    with session.failing(f"Failed to update network {network.name}"):
        session.call("network_update", network, UPDATES[command], SECTIONS[section], index, xml, affect)
    kinds = {0: "live state", 1: "live state", 2: "persistent config", 3: "persistent config and live state"}
    if not affect and not session.call("network_is_active", network):
        kinds[0] = "persistent config"
    session.note(f"Updated network {network.name} {kinds[affect]}", end="")


def net_port_list(session: Session, arguments: Arguments) -> None:
    """List ports."""
    network = session.network(arguments)
    arguments.exclusive("table", "uuid")
    with session.failing():
        ports = session.call("network_list_all_ports", network, 1, 0).ports
    uuids = sorted(uuid_text(port[1]) for port in ports)
    if arguments.flag("uuid"):
        session.print("".join(f"{text}\n" for text in uuids), end="")
    else:
        session.table(("UUID",), [(text,) for text in uuids], naming="UUID")


def net_port_create(session: Session, arguments: Arguments) -> None:
    """Create a port."""
    path = arguments.text("file")
    network = session.network(arguments)
    text = read_file(path)
    with session.failing(f"Failed to create network from {path}"):
        port = NetworkPort(*session.call("network_port_create_xml", network, text, arguments.flags(validate=2)))
    session.note(f"Network port {uuid_text(port.uuid)} created from {path}")


def _port(session: Session, arguments: Arguments) -> NetworkPort:
    from manor.shell.session import as_uuid

    network, text = session.network(arguments), arguments.text("port")
    identity = as_uuid(text)
    if identity is None:
        raise CommandError(f"failed to get network port '{text}'")
    with session.failing(f"failed to get network port '{text}'"):
        return NetworkPort(*session.call("network_port_lookup_by_uuid", network, identity))


def net_port_dumpxml(session: Session, arguments: Arguments) -> None:
    """Show the XML of a port."""
    port = _port(session, arguments)
    with session.failing():
        text = session.call("network_port_get_xml_desc", port, 0)
    documents.show(session, arguments, text)


def net_port_delete(session: Session, arguments: Arguments) -> None:
    """Remove a port."""
    port = _port(session, arguments)
    text = uuid_text(port.uuid)
    with session.failing(f"Failed to delete network port {text}"):
        session.call("network_port_delete", port, 0)
    session.note(f"Network port {text} deleted")
