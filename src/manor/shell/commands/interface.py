"""Network interfaces of the host."""

from __future__ import annotations

import contextlib
from xml.etree import ElementTree

from manor.rpc.protocol.records import Interface
from manor.shell.arguments import Arguments
from manor.shell.commands import documents
from manor.shell.errors import CommandError
from manor.shell.link import RemoteError
from manor.shell.session import Session, read_file

INACTIVE, ACTIVE = 1, 2
XML_INACTIVE = 1


def _interface(session: Session, arguments: Arguments, by: str = "nm", option: str = "interface") -> Interface:
    text, cause = arguments.text(option), ""
    for letter, procedure in (("n", "interface_lookup_by_name"), ("m", "interface_lookup_by_mac_string")):
        if letter in by and (letter == "n" or text.count(":") == 5):
            try:
                return Interface(*session.call(procedure, text))
            except RemoteError as error:
                cause = str(error)
    raise CommandError(f"failed to get interface '{text}'", *([cause] if cause else []))


def iface_begin(session: Session, arguments: Arguments) -> None:
    """Begin changes."""
    with session.failing("Failed to begin network config change transaction"):
        session.call("interface_change_begin", 0)
    session.note("Network config change transaction started")


def iface_commit(session: Session, arguments: Arguments) -> None:
    """Keep changes."""
    with session.failing("Failed to commit network config change transaction"):
        session.call("interface_change_commit", 0)
    session.note("Network config change transaction committed")


def iface_rollback(session: Session, arguments: Arguments) -> None:
    """Take changes back."""
    with session.failing("Failed to rollback network config change transaction"):
        session.call("interface_change_rollback", 0)
    session.note("Network config change transaction rolled back")


def iface_define(session: Session, arguments: Arguments) -> None:
    """Define an interface."""
    path = arguments.text("file")
    text = read_file(path)
    with session.failing(f"Failed to define interface from {path}"):
        made = Interface(*session.call("interface_define_xml", text, arguments.flags(validate=1)))
    session.note(f"Interface {made.name} defined from {path}")


def _act(session: Session, arguments: Arguments, procedure: str, verb: str, done: str, *rest: int) -> None:
    interface = _interface(session, arguments)
    with session.failing(f"Failed to {verb} interface {interface.name}"):
        session.call(procedure, interface, *rest)
    session.note(f"Interface {interface.name} {done}")


def iface_destroy(session: Session, arguments: Arguments) -> None:
    """Take down."""
    _act(session, arguments, "interface_destroy", "destroy", "destroyed", 0)


def iface_start(session: Session, arguments: Arguments) -> None:
    """Bring up."""
    _act(session, arguments, "interface_create", "start", "started", 0)


def iface_undefine(session: Session, arguments: Arguments) -> None:
    """Remove a definition."""
    _act(session, arguments, "interface_undefine", "undefine", "undefined")


def iface_dumpxml(session: Session, arguments: Arguments) -> None:
    """Show the XML."""
    interface = _interface(session, arguments)
    with session.failing():
        text = session.call("interface_get_xml_desc", interface, arguments.flags(inactive=XML_INACTIVE))
    documents.show(session, arguments, text)


def iface_edit(session: Session, arguments: Arguments) -> None:
    """Edit the XML."""
    interface = _interface(session, arguments)
    documents.edit(
        session, lambda: str(session.call("interface_get_xml_desc", interface, XML_INACTIVE)),
        lambda text: session.call("interface_define_xml", text, 0),
        f"Interface {interface.name} XML configuration not changed.\n",
        f"Interface {interface.name} XML configuration edited.\n",
    )  # fmt: skip


def iface_bridge(session: Session, arguments: Arguments) -> None:
    """Put an interface into a new bridge."""
    interface, name = _interface(session, arguments), arguments.text("bridge")
    with contextlib.suppress(RemoteError):
        session.call("interface_lookup_by_name", name)
        raise CommandError(f"Network device {name} already exists")
    with session.failing():
        root = documents.parse(session.call("interface_get_xml_desc", interface, XML_INACTIVE))
    if root.get("type") == "bridge":
        raise CommandError(f"Existing device {interface.name} is already a bridge")
    # Addresses and the start mode become the bridge's; what makes the device stays with it.
    inner = ElementTree.Element("interface", {"type": root.get("type", "ethernet"), "name": interface.name})
    outer = ElementTree.Element("interface", {"type": "bridge", "name": name})
    bridge = ElementTree.Element("bridge")
    if not arguments.flag("no-stp"):
        bridge.set("stp", "on")
        bridge.set("delay", str(arguments.number("delay", 0)))
    else:
        bridge.set("stp", "off")
    for child in list(root):
        (outer if child.tag in ("start", "mtu", "protocol") else inner).append(child)
    bridge.append(inner)
    outer.append(bridge)
    with session.failing(f"Failed to define new bridge interface {name}"):
        made = Interface(*session.call("interface_define_xml", documents.as_text(outer), 0))
    session.note(f"Created bridge {made.name} with attached device {interface.name}")
    if not arguments.flag("no-start"):
        with session.failing(f"Failed to start bridge interface {name}"):
            session.call("interface_create", made, 0)
        session.note(f"Bridge interface {name} started")


def iface_unbridge(session: Session, arguments: Arguments) -> None:
    """Take the interface out of a bridge."""
    bridge = _interface(session, arguments, option="bridge")
    with session.failing():
        root = documents.parse(session.call("interface_get_xml_desc", bridge, XML_INACTIVE))
    if root.get("type") != "bridge":
        raise CommandError(f"{bridge.name} is not a bridge")
    inner = root.findall("./bridge/interface")
    if len(inner) != 1:
        raise CommandError(f"{'Multiple' if inner else 'No'} interfaces attached to bridge {bridge.name}")
    for child in root:
        if child.tag != "bridge":
            inner[0].append(child)
    with session.failing(f"Failed to destroy bridge interface {bridge.name}"):
        if session.call("interface_is_active", bridge):
            session.call("interface_destroy", bridge, 0)
    with session.failing(f"Failed to undefine bridge interface {bridge.name}"):
        session.call("interface_undefine", bridge)
    name = inner[0].get("name", "")
    with session.failing(f"Failed to define new interface {name}"):
        made = Interface(*session.call("interface_define_xml", documents.as_text(inner[0]), 0))
    session.note(f"Device {name} un-attached from bridge {bridge.name}")
    if not arguments.flag("no-start"):
        with session.failing(f"Failed to start interface {name}"):
            session.call("interface_create", made, 0)
        session.note(f"Interface {name} started")


def iface_list(session: Session, arguments: Arguments) -> None:
    """List interfaces."""
    flags = ACTIVE
    if arguments.flag("inactive"):
        flags = INACTIVE
    if arguments.flag("all"):
        flags = ACTIVE | INACTIVE
    with session.failing("Failed to list interfaces"):
        found = [Interface(*item) for item in session.call("connect_list_all_interfaces", 1, flags).interfaces]
        active = {item.name for item in found if session.call("interface_is_active", item)}
    found.sort(key=lambda item: item.name.lower())
    states = {True: "active", False: "inactive"}
    session.table(("Name", "State", "MAC Address"), [(i.name, states[i.name in active], i.mac) for i in found])


def iface_mac(session: Session, arguments: Arguments) -> None:
    """Tell the MAC address."""
    session.print(_interface(session, arguments, "n").mac)


def iface_name(session: Session, arguments: Arguments) -> None:
    """Tell the name."""
    session.print(_interface(session, arguments, "m").name)
