"""Domains: disks, network interfaces and other devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from manor.rpc.protocol.records import Domain
from manor.shell.arguments import Arguments
from manor.shell.commands.documents import as_text, element
from manor.shell.commands.life import act
from manor.shell.commands.monitor import domain_root, find_interface
from manor.shell.errors import CommandError
from manor.shell.session import Session, read_file

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

LIVE, CONFIG, FORCE = 1, 2, 4
"""Source: libvirt API reference, virDomainDeviceModifyFlags."""
XML_INACTIVE = 2


def _affect(session: Session, arguments: Arguments, domain: Domain) -> int:
    """What is changed; --persistent is both of a domain that runs. Raises RemoteError, CommandError."""
    for first, second in (("persistent", "current"), ("current", "live"), ("current", "config")):
        if arguments.command.option(first) is not None:
            arguments.exclusive(first, second)
    flags = arguments.flags(live=LIVE, config=CONFIG)
    if arguments.command.option("persistent") is not None and arguments.flag("persistent"):
        flags |= CONFIG
        if session.call("domain_is_active", domain):
            flags |= LIVE
    return flags


def _modify(session: Session, domain: Domain, verb: str, xml: str, flags: int) -> None:
    """Attach or detach. Raises RemoteError."""
    if flags or verb == "update":
        session.call(f"domain_{verb}_device_flags", domain, xml, flags)
    else:
        session.call(f"domain_{verb}_device", domain, xml)


def attach_device(session: Session, arguments: Arguments) -> None:
    """Attach what a file describes."""
    _from_file(session, arguments, "attach", "Failed to attach device from {}", "Device attached successfully")


def detach_device(session: Session, arguments: Arguments) -> None:
    """Detach what a file describes."""
    _from_file(session, arguments, "detach", "Failed to detach device from {}", "Device detached successfully")


def update_device(session: Session, arguments: Arguments) -> None:
    """Change what a file describes."""
    _from_file(session, arguments, "update", "Failed to update device from {}", "Device updated successfully")


def _from_file(session: Session, arguments: Arguments, verb: str, failed: str, done: str) -> None:
    domain, path = session.domain(arguments), arguments.text("file")
    text = read_file(path)
    with session.failing(failed.format(path)):
        flags = _affect(session, arguments, domain)
        if verb == "update" and arguments.flag("force"):
            flags |= FORCE
        _modify(session, domain, verb, text, flags)
    session.note(done)


def detach_device_alias(session: Session, arguments: Arguments) -> None:
    """Detach what has an alias."""
    affect, alias = arguments.affect(), arguments.text("alias")
    act(
        session, arguments, "domain_detach_device_alias", alias, affect,
        failed=f"Failed to detach device with alias {alias}", done="Device detach request sent successfully",
    )  # fmt: skip


ADDRESS_FIELDS = {
    "pci": ("domain", "bus", "slot", "function"), "scsi": ("controller", "bus", "unit"),
    "ide": ("controller", "bus", "unit"), "usb": ("bus", "port"), "sata": ("controller", "bus", "unit"),
    "ccw": ("cssid", "ssid", "devno"),
}  # fmt: skip


def _address_xml(text: str, *, is_multifunction: bool) -> str:
    kind, _, rest = text.partition(":")
    fields = ADDRESS_FIELDS.get(kind)
    values = rest.split(".")
    if fields is None or len(values) != len(fields):
        raise CommandError("Invalid address.")
    is_hex = kind in ("pci", "ccw")
    try:
        numbers = [int(value, 16 if is_hex else 0) for value in values]
    except ValueError:
        raise CommandError("Invalid address.") from None
    widths = (4, 2, 2, 1) if kind == "pci" else (2, 1, 4)
    pairs: list[tuple[str, str | None]] = [("type", "drive" if kind in ("scsi", "ide", "sata") else kind)]
    for index, (name, number) in enumerate(zip(fields, numbers, strict=True)):
        pairs.append((name, f"0x{number:0{widths[index]}x}" if is_hex else str(number)))
    if is_multifunction and kind == "pci":
        pairs.append(("multifunction", "on"))
    return element("address", pairs)


def attach_disk(session: Session, arguments: Arguments) -> None:
    """Attach a disk."""
    xml = _disk_xml(arguments)
    if arguments.flag("print-xml"):
        session.print(xml, end="")
        return
    domain = session.domain(arguments)
    with session.failing("Failed to attach disk"):
        _modify(session, domain, "attach", xml, _affect(session, arguments, domain))
    session.note("Disk attached successfully")


def _disk_xml(arguments: Arguments) -> str:
    get = arguments.get
    mode = get("mode")
    if mode not in (None, "readonly", "shareable"):
        raise CommandError(f"No support for {mode} in command 'attach-disk'")
    source, kind = arguments.text("source"), get("sourcetype")
    if kind not in (None, "file", "block", "network"):
        raise CommandError(f"Unknown source type: '{kind}'")
    if kind is None:
        import os
        import stat

        try:
            kind = "block" if stat.S_ISBLK(os.stat(source).st_mode) else "file"
        except OSError:
            kind = "file"
        if get("source-protocol"):
            kind = "network"
    driver = [
        ("name", get("driver")), ("type", get("subdriver")), ("cache", get("cache")), ("io", get("io")),
        ("iothread", get("iothread")),
    ]  # fmt: skip
    children = [element("driver", driver)] if any(value for _, value in driver) else []
    if source:
        children.append(_source_xml(arguments, kind, source))
    children.append(element("target", [("dev", get("target")), ("bus", get("targetbus"))]))
    if mode:
        children.append(element(mode, []))
    if get("serial"):
        children.append(element("serial", [], text=get("serial")))
    if get("alias"):
        children.append(element("alias", [("name", get("alias"))]))
    if get("wwn"):
        children.append(element("wwn", [], text=get("wwn")))
    if get("address"):
        children.append(_address_xml(arguments.text("address"), is_multifunction=arguments.flag("multifunction")))
    rawio = "yes" if arguments.flag("rawio") else None
    return element("disk", [("type", kind), ("device", get("type")), ("rawio", rawio)], children)


def _source_xml(arguments: Arguments, kind: str, source: str) -> str:
    if kind != "network":
        return element("source", [("dev" if kind == "block" else "file", source)])
    name, _, port = (arguments.get("source-host-name") or "").partition(":")
    host = [("transport", arguments.get("source-host-transport")), ("socket", arguments.get("source-host-socket"))]
    host += [("name", name), ("port", port)]
    inner = [element("host", host)] if any(value for _, value in host) else []
    return element("source", [("protocol", arguments.get("source-protocol")), ("name", source)], inner)


SOURCE_ATTRIBUTES = {"network": "network", "bridge": "bridge", "direct": "dev"}


def attach_interface(session: Session, arguments: Arguments) -> None:
    """Attach a network interface."""
    xml = _interface_xml(arguments)
    if arguments.flag("print-xml"):
        session.print(xml, end="")
        return
    domain = session.domain(arguments)
    with session.failing("Failed to attach interface"):
        _modify(session, domain, "attach", xml, _affect(session, arguments, domain))
    session.note("Interface attached successfully")


def _interface_xml(arguments: Arguments) -> str:
    get = arguments.get
    kind, source = arguments.text("type"), arguments.text("source")
    managed = "yes" if arguments.flag("managed") else None
    mode = get("source-mode")
    if mode not in (None, "server", "client"):
        raise CommandError(f"Invalid source mode: {mode}")
    children = []
    if kind in SOURCE_ATTRIBUTES:
        children.append(element("source", [(SOURCE_ATTRIBUTES[kind], source)]))
    elif kind == "vhostuser":
        if mode is None:
            raise CommandError("source-mode is mandatory")
        children.append(element("source", [("type", "unix"), ("path", source), ("mode", mode)]))
    elif kind == "hostdev":
        values = source.replace(":", ".").split(".")
        if len(values) != 4:
            raise CommandError(f"cannot parse pci address '{source}' for network interface")
        children.append(element("source", [], [_address_xml("pci:" + ".".join(values), is_multifunction=False)]))
    elif kind != "user":
        raise CommandError(f"No support for {kind} in command 'attach-interface'")
    for name, tag, attribute in (
        ("target", "target", "dev"), ("mac", "mac", "address"), ("script", "script", "path"),
        ("model", "model", "type"), ("alias", "alias", "name"),
    ):  # fmt: skip
        if get(name):
            children.append(element(tag, [(attribute, get(name))]))
    rates = [_bandwidth(arguments, name) for name in ("inbound", "outbound") if get(name)]
    if rates:
        children.append(element("bandwidth", [], rates))
    return element("interface", [("type", kind), ("managed", managed)], children)


def _bandwidth(arguments: Arguments, name: str) -> str:
    values = arguments.text(name).split(",")
    if len(values) > 4 or not values[0].isdigit() or not all(value.isdigit() for value in values if value):
        raise CommandError(f"{name} bandwidth rate: average[,peak[,burst[,floor]]] in KiB is wanted")
    return element(name, list(zip(("average", "peak", "burst", "floor"), values, strict=False)))


def _disk(root: Element, text: str, *, removable: bool = False) -> Element:
    """The disk with a target or source. Raises CommandError."""
    for disk in root.findall("./devices/disk"):
        if removable and disk.get("device") not in ("cdrom", "floppy"):
            continue
        source, target = disk.find("source"), disk.find("target")
        names = [source.get(name) for name in ("file", "dev", "dir", "name")] if source is not None else []
        if text in names or (target is not None and target.get("dev") == text):
            return disk
    raise CommandError(f"No disk found whose source path or target is {text}")


def _current_root(session: Session, arguments: Arguments, domain: Domain) -> Element:
    """The XML of what is to be changed: the definition if only that is. Raises RemoteError."""
    only_config = arguments.flag("config") and not arguments.flag("live")
    return domain_root(session, domain, XML_INACTIVE if only_config else 0)


def detach_disk(session: Session, arguments: Arguments) -> None:
    """Detach a disk."""
    domain = session.domain(arguments)
    with session.failing("Failed to detach disk"):
        xml = as_text(_disk(_current_root(session, arguments, domain), arguments.text("target")))
        if arguments.flag("print-xml"):
            session.print(xml, end="\n" if session.settings.is_quiet else "")
            return
        _modify(session, domain, "detach", xml, _affect(session, arguments, domain))
    session.note("Disk detached successfully")


def detach_interface(session: Session, arguments: Arguments) -> None:
    """Detach a network interface."""
    domain = session.domain(arguments)
    kind, mac = arguments.text("type"), arguments.get("mac")
    with session.failing("Failed to detach interface"):
        root = _current_root(session, arguments, domain)
        xml = as_text(_interface(root, kind, mac))
        if arguments.flag("print-xml"):
            session.print(xml, end="\n" if session.settings.is_quiet else "")
            return
        _modify(session, domain, "detach", xml, _affect(session, arguments, domain))
    session.note("Interface detached successfully")


def _interface(root: Element, kind: str, mac: str | None) -> Element:
    failed = "Failed to detach interface"
    found = [item for item in root.findall("./devices/interface") if item.get("type") == kind]
    if not found:
        raise CommandError(f"No interface found whose type is {kind}", failed)
    if mac is None:
        if len(found) > 1:
            raise CommandError(
                f"Domain has {len(found)} interfaces. Please specify which one to detach using --mac", failed
            )
        return found[0]
    chosen = [item for item in found if (item.find("mac") is not None) and _mac(item) == mac.lower()]
    if not chosen:
        raise CommandError(f"No interface with MAC address {mac} was found", failed)
    if len(chosen) > 1:
        raise CommandError(
            f"Domain has multiple interfaces matching MAC address {mac}. You must use detach-device and specify the "
            "device pci address to remove it.",
            failed,
        )
    return chosen[0]


def _mac(item: Element) -> str:
    found = item.find("mac")
    return found.get("address", "").lower() if found is not None else ""


def change_media(session: Session, arguments: Arguments) -> None:
    """Change what is in a drive."""
    for first, second in (
        ("eject", "insert"), ("eject", "update"), ("insert", "update"), ("eject", "block"), ("current", "live"),
        ("current", "config"), ("eject", "source"),
    ):  # fmt: skip
        arguments.exclusive(first, second)
    source = arguments.get("source")
    verb = next((name for name in ("eject", "insert", "update") if arguments.flag(name)), "update")
    domain = session.domain(arguments)
    with session.failing():
        disk = _disk(_current_root(session, arguments, domain), arguments.text("path"), removable=True)
    name = arguments.text("path")
    old = disk.find("source")
    if verb != "eject" and source is None:
        raise CommandError("New disk media source was not specified")
    if verb == "insert" and old is not None:
        raise CommandError(f"The disk device '{name}' already has media")
    if verb == "eject" and old is None:
        raise CommandError(f"The disk device '{name}' doesn't have media")
    xml = _with_source(disk, source, is_block=arguments.flag("block"))
    if arguments.flag("print-xml"):
        session.print(xml, end="\n" if session.settings.is_quiet else "")
        return
    flags = arguments.flags(live=LIVE, config=CONFIG, force=FORCE)
    with session.failing(f"Failed to complete action {verb} on media"):
        session.call("domain_update_device_flags", domain, xml, flags)
    done = {"eject": "ejected", "insert": "inserted", "update": "updated"}[verb]
    session.note(f"Successfully {done} media.", end="")


def _with_source(disk: Element, source: str | None, *, is_block: bool) -> str:
    from xml.etree import ElementTree

    old = disk.find("source")
    place = 0
    if old is not None:
        place = [child.tag for child in disk].index("source")
        disk.remove(old)
    if source is not None:
        new = ElementTree.Element("source", {"dev" if is_block else "file": source})
        disk.set("type", "block" if is_block else "file")
        disk.insert(place, new)
    elif old is not None:
        disk.set("type", disk.get("type", "file"))
    return as_text(disk)


def domif_setlink(session: Session, arguments: Arguments) -> None:
    """Plug or unplug a cable."""
    from xml.etree import ElementTree

    state, name = arguments.text("state"), arguments.text("interface")
    if state not in ("up", "down"):
        raise CommandError(f"invalid link state '{state}'")
    domain = session.domain(arguments)
    with session.failing():
        root = domain_root(session, domain, XML_INACTIVE if arguments.flag("config") else 0)
        is_active = session.call("domain_is_active", domain)
    interface = find_interface(root, name)
    if interface is None:
        raise CommandError(f"interface '{name}' not found")
    link = interface.find("link")
    if link is None:
        link = ElementTree.SubElement(interface, "link")
    link.set("state", state)
    xml = as_text(interface)
    if arguments.flag("print-xml"):
        session.print(xml, end="\n" if session.settings.is_quiet else "")
        return
    flags = CONFIG if arguments.flag("config") or not is_active else LIVE
    with session.failing("Failed to update interface link state"):
        session.call("domain_update_device_flags", domain, xml, flags)
    session.note("Device updated successfully")


def update_memory_device(session: Session, arguments: Arguments) -> None:
    """Change how much of a memory device the guest uses."""
    affect = arguments.affect()
    domain = session.domain(arguments)
    wanted, node = arguments.get("alias"), arguments.get("node")
    with session.failing():
        root = domain_root(session, domain, XML_INACTIVE if affect & CONFIG else 0)
    found = []
    for memory in root.findall("./devices/memory"):
        alias = memory.find("alias")
        is_wanted = wanted is None or (alias is not None and alias.get("name") == wanted)
        if is_wanted and (node is None or memory.findtext("target/node") == str(arguments.number("node"))):
            found.append(memory)
    if not found:
        raise CommandError("no memory device found")
    if len(found) > 1:
        raise CommandError("multiple memory devices found, use --alias or --node to select one")
    size = arguments.scaled("requested-size", 1024)
    requested = found[0].find("target/requested")
    if size is not None:
        if requested is None:
            raise CommandError("the memory device has no requested size")
        requested.text = str(size >> 10)
        requested.set("unit", "KiB")
    xml = as_text(found[0])
    if arguments.flag("print-xml"):
        session.print(xml)
        return
    with session.failing():
        session.call("domain_update_device_flags", domain, xml, affect)
