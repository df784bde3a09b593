"""Network filters, secrets and devices of the host."""

from __future__ import annotations

import base64
import binascii
import getpass
from typing import Any

from manor.rpc.protocol.errors import ErrorCode
from manor.rpc.protocol.records import NodeDevice, Nwfilter, NwfilterBinding, Secret
from manor.shell.arguments import Arguments
from manor.shell.commands import documents
from manor.shell.commands.snapshot import tree
from manor.shell.errors import CommandError
from manor.shell.link import RemoteError
from manor.shell.session import Session, as_uuid, read_file, uuid_text

# Network filters.


def _nwfilter(session: Session, arguments: Arguments) -> Nwfilter:
    text = arguments.text("nwfilter")
    return Nwfilter(*session.lookup("nwfilter", text, "nu", f"failed to get nwfilter '{text}'"))


def nwfilter_define(session: Session, arguments: Arguments) -> None:
    """Define a filter."""
    path, flags = arguments.text("file"), arguments.flags(validate=1)
    text = read_file(path)
    with session.failing(f"Failed to define network filter from {path}"):
        if flags:
            made = Nwfilter(*session.call("nwfilter_define_xml_flags", text, flags))
        else:
            made = Nwfilter(*session.call("nwfilter_define_xml", text))
    session.note(f"Network filter {made.name} defined from {path}")


def nwfilter_dumpxml(session: Session, arguments: Arguments) -> None:
    """Show the XML."""
    found = _nwfilter(session, arguments)
    with session.failing():
        text = session.call("nwfilter_get_xml_desc", found, 0)
    documents.show(session, arguments, text)


def nwfilter_edit(session: Session, arguments: Arguments) -> None:
    """Edit the XML."""
    found = _nwfilter(session, arguments)
    documents.edit(
        session, lambda: str(session.call("nwfilter_get_xml_desc", found, 0)),
        lambda text: session.call("nwfilter_define_xml", text),
        f"Network filter {found.name} XML configuration not changed.\n",
        f"Network filter {found.name} XML configuration edited.\n",
    )  # fmt: skip


def _listed(session: Session, procedure: str, old: str, what: str) -> Any:
    """A list; a daemon that has none of the kind is asked in the old way, for the words of its refusal."""
    try:
        return session.call(procedure, 1, 0)
    except RemoteError as error:
        if not error.is_unsupported:
            raise CommandError(f"Failed to list {what}", str(error)) from None
    with session.failing(f"Failed to count {what}"):
        session.call(old)
    raise CommandError(f"Failed to list {what}")


def nwfilter_list(session: Session, arguments: Arguments) -> None:
    """List filters."""
    listed = _listed(session, "connect_list_all_nwfilters", "connect_num_of_nwfilters", "network filters")
    found = sorted((Nwfilter(*item) for item in listed.filters), key=lambda item: item.name.lower())
    session.table(("UUID", "Name"), [(uuid_text(item.uuid), item.name) for item in found])


def nwfilter_undefine(session: Session, arguments: Arguments) -> None:
    """Remove a filter."""
    found = _nwfilter(session, arguments)
    with session.failing(f"Failed to undefine network filter {found.name}"):
        session.call("nwfilter_undefine", found)
    session.note(f"Network filter {found.name} undefined")


def _binding(session: Session, arguments: Arguments) -> NwfilterBinding:
    text = arguments.text("binding")
    with session.failing(f"failed to get nwfilter binding '{text}'"):
        return NwfilterBinding(*session.call("nwfilter_binding_lookup_by_port_dev", text))


def nwfilter_binding_create(session: Session, arguments: Arguments) -> None:
    """Bind a filter."""
    path = arguments.text("file")
    text = read_file(path)
    with session.failing(f"Failed to create network filter from {path}"):
        made = NwfilterBinding(*session.call("nwfilter_binding_create_xml", text, arguments.flags(validate=1)))
    session.note(f"Network filter binding on {made.port_dev} created from {path}")


def nwfilter_binding_delete(session: Session, arguments: Arguments) -> None:
    """Remove a binding."""
    found = _binding(session, arguments)
    with session.failing(f"Failed to delete network filter binding on {found.port_dev}"):
        session.call("nwfilter_binding_delete", found)
    session.note(f"Network filter binding on {found.port_dev} deleted")


def nwfilter_binding_dumpxml(session: Session, arguments: Arguments) -> None:
    """Show the XML of a binding."""
    found = _binding(session, arguments)
    with session.failing():
        text = session.call("nwfilter_binding_get_xml_desc", found, 0)
    documents.show(session, arguments, text)


def nwfilter_binding_list(session: Session, arguments: Arguments) -> None:
    """List bindings."""
    with session.failing("Failed to list network filter bindings"):
        found = session.call("connect_list_all_nwfilter_bindings", 1, 0).bindings
    rows = sorted((item[0], item[1]) for item in found)
    session.table(("Port Dev", "Filter"), rows, naming="Port Dev")


# Secrets.


def find_secret(session: Session, arguments: Arguments) -> Secret:
    """The secret whose UUID an option gives. Raises CommandError."""
    text = arguments.text("secret")
    identity = as_uuid(text)
    if identity is None:
        raise CommandError(f"failed to get secret '{text}'", "a secret is known by its UUID alone")
    with session.failing(f"failed to get secret '{text}'"):
        return Secret(*session.call("secret_lookup_by_uuid", identity))


def secret_define(session: Session, arguments: Arguments) -> None:
    """Define a secret."""
    path = arguments.text("file")
    text = read_file(path)
    with session.failing(f"Failed to set attributes from {path}"):
        made = Secret(*session.call("secret_define_xml", text, arguments.flags(validate=1)))
    session.note(f"Secret {uuid_text(made.uuid)} created")


def secret_dumpxml(session: Session, arguments: Arguments) -> None:
    """Show the XML."""
    found = find_secret(session, arguments)
    with session.failing():
        text = session.call("secret_get_xml_desc", found, 0)
    documents.show(session, arguments, text)


def secret_get_value(session: Session, arguments: Arguments) -> None:
    """Show the value."""
    found = find_secret(session, arguments)
    with session.failing():
        value = bytes(session.call("secret_get_value", found, 0))
    if arguments.flag("plain"):
        session.print(value.decode("utf-8", "surrogateescape"), end="")
    else:
        session.print(base64.b64encode(value).decode(), end="" if not session.settings.is_quiet else "\n")


SECRET_TYPES = ("none", "volume", "ceph", "iscsi", "tls", "vtpm")
SECRET_FILTERS = {"ephemeral": 1, "no_ephemeral": 2, "private": 4, "no_private": 8}


def secret_list(session: Session, arguments: Arguments) -> None:
    """List secrets."""
    flags = arguments.flags(**SECRET_FILTERS)
    if flags:
        with session.failing("Failed to list node secrets"):
            listed = session.call("connect_list_all_secrets", 1, flags)
    else:
        listed = _listed(session, "connect_list_all_secrets", "connect_num_of_secrets", "secrets")
    found = sorted((Secret(*item) for item in listed.secrets), key=lambda item: item.uuid)
    rows = []
    for item in found:
        kind = SECRET_TYPES[item.usage_type] if 0 <= item.usage_type < len(SECRET_TYPES) else "unknown"
        rows.append((uuid_text(item.uuid), f"{kind} {item.usage_id}" if item.usage_type else "Unused"))
    session.table(("UUID", "Usage"), rows, naming="UUID")


def secret_set_value(session: Session, arguments: Arguments) -> None:
    """Set the value."""
    for first, second in (("file", "base64"), ("plain", "base64"), ("interactive", "base64"), ("interactive", "file")):
        arguments.exclusive(first, second)
    found = find_secret(session, arguments)
    path, text = arguments.get("file"), arguments.get("base64")
    try:
        if path is not None:
            with open(path, "rb") as file:
                value = file.read()
            if not arguments.flag("plain"):
                value = base64.b64decode(value, validate=False)
        elif arguments.flag("interactive"):
            value = getpass.getpass("Enter new value for secret: ").encode()
        elif text is not None:
            session.report(CommandError("Passing secret value as command-line argument is insecure!"))
            value = base64.b64decode(text)
        else:
            raise CommandError("Input secret value is missing")
    except OSError as error:
        raise CommandError(f"Failed to open file '{path}': {error.strerror}") from None
    except (binascii.Error, ValueError):
        raise CommandError("the value is not base 64") from None
    with session.failing("Failed to set secret value"):
        session.call("secret_set_value", found, value, 0)
    session.note("Secret value set")


def secret_undefine(session: Session, arguments: Arguments) -> None:
    """Remove a secret."""
    found = find_secret(session, arguments)
    with session.failing(f"Failed to delete secret {arguments.text('secret')}"):
        session.call("secret_undefine", found)
    session.note(f"Secret {arguments.text('secret')} deleted")


# Devices of the host.

CAPABILITIES = (
    "system", "pci", "usb_device", "usb", "net", "scsi_host", "scsi_target", "scsi", "storage", "fc_host", "vports",
    "scsi_generic", "drm", "mdev_types", "mdev", "ccw", "css", "vdpa", "ap_card", "ap_queue", "ap_matrix", "vpd",
)  # fmt: skip
"""By bit. Source: libvirt API reference, virConnectListAllNodeDevicesFlags."""
DEVICES_INACTIVE, DEVICES_ACTIVE = 1 << 30, 1 << 31


def find_device(session: Session, arguments: Arguments) -> NodeDevice:
    """The device that an option names, or gives as `wwnn,wwpn`. Raises CommandError."""
    text = arguments.text("device")
    wwnn, comma, wwpn = text.partition(",")
    with session.failing(f"Could not find matching device '{text}'"):
        if comma:
            return NodeDevice(session.call("node_device_lookup_scsi_host_by_wwn", wwnn, wwpn, 0)[0])
        return NodeDevice(session.call("node_device_lookup_by_name", text)[0])


def _device_from(session: Session, arguments: Arguments, procedure: str, failed: str, done: str) -> None:
    path = arguments.text("file")
    text = read_file(path)
    with session.failing(failed.format(path)):
        name = session.call(procedure, text, arguments.flags(validate=1))[0]
    session.note(done.format(name, path))


def nodedev_create(session: Session, arguments: Arguments) -> None:
    """Create a device."""
    failed, done = "Failed to create node device from {}", "Node device {} created from {}"
    _device_from(session, arguments, "node_device_create_xml", failed, done)


def nodedev_define(session: Session, arguments: Arguments) -> None:
    """Define a device."""
    failed, done = "Failed to define node device from '{}'", "Node device '{}' defined from '{}'"
    _device_from(session, arguments, "node_device_define_xml", failed, done)


def _device_act(
    session: Session, arguments: Arguments, procedure: str, *rest: Any, failed: str, done: str
) -> None:
    device = find_device(session, arguments)
    with session.failing(failed.format(device.name)):
        session.call(procedure, device.name, *rest)
    session.note(done.format(device.name))


def nodedev_destroy(session: Session, arguments: Arguments) -> None:
    """Destroy a device."""
    failed, done = "Failed to destroy node device '{}'", "Destroyed node device '{}'"
    _device_act(session, arguments, "node_device_destroy", failed=failed, done=done)


def nodedev_undefine(session: Session, arguments: Arguments) -> None:
    """Remove a definition."""
    failed, done = "Failed to undefine node device '{}'", "Undefined node device '{}'"
    _device_act(session, arguments, "node_device_undefine", 0, failed=failed, done=done)


def nodedev_start(session: Session, arguments: Arguments) -> None:
    """Start a device."""
    failed, done = "Failed to start device {}", "Device {} started"
    _device_act(session, arguments, "node_device_create", 0, failed=failed, done=done)


def nodedev_detach(session: Session, arguments: Arguments) -> None:
    """Take from its driver."""
    failed, done = "Failed to detach device {}", "Device {} detached"
    driver = arguments.get("driver")
    if driver is None:
        _device_act(session, arguments, "node_device_dettach", failed=failed, done=done)
    else:
        _device_act(session, arguments, "node_device_detach_flags", driver, 0, failed=failed, done=done)


def nodedev_reattach(session: Session, arguments: Arguments) -> None:
    """Give back to its driver."""
    failed, done = "Failed to re-attach device {}", "Device {} re-attached"
    _device_act(session, arguments, "node_device_re_attach", failed=failed, done=done)


def nodedev_reset(session: Session, arguments: Arguments) -> None:
    """Reset."""
    failed, done = "Failed to reset device {}", "Device {} reset"
    _device_act(session, arguments, "node_device_reset", failed=failed, done=done)


def nodedev_autostart(session: Session, arguments: Arguments) -> None:
    """Start with the host, or no longer."""
    word = "unmark" if arguments.flag("disable") else "mark"
    _device_act(
        session, arguments, "node_device_set_autostart", int(not arguments.flag("disable")),
        failed=f"failed to {word} device {{}} as autostarted", done=f"Device {{}} {word}ed as autostarted",
    )  # fmt: skip


def nodedev_dumpxml(session: Session, arguments: Arguments) -> None:
    """Show the XML."""
    device = find_device(session, arguments)
    with session.failing():
        text = session.call("node_device_get_xml_desc", device.name, 0)
    documents.show(session, arguments, text)


def nodedev_info(session: Session, arguments: Arguments) -> None:
    """Tell the main facts."""
    device = find_device(session, arguments)
    with session.failing():
        parent = session.call("node_device_get_parent", device.name)
        pairs = [("Name", device.name), ("Parent", parent or "")]
        pairs.append(("Active", _yes_unless(session, "node_device_is_active", device)))
        pairs.append(("Persistent", _yes_unless(session, "node_device_is_persistent", device)))
    try:
        autostart = "yes" if session.call("node_device_get_autostart", device.name) else "no"
    except RemoteError:
        autostart = "no autostart"
    session.fields([*pairs, ("Autostart", autostart)])


def _yes_unless(session: Session, procedure: str, device: NodeDevice) -> str:
    """yes or no; yes from a daemon that cannot tell, whose devices are all there and stay."""
    try:
        return "yes" if session.call(procedure, device.name) else "no"
    except RemoteError as error:
        if not error.is_unsupported:
            raise
        return "yes"


def nodedev_list(session: Session, arguments: Arguments) -> None:
    """List devices."""
    if arguments.flag("all") and arguments.flag("inactive"):
        raise CommandError("Option --all is incompatible with --inactive")
    if arguments.flag("tree") and (arguments.get("cap") or arguments.flag("inactive")):
        raise CommandError("Option --tree is incompatible with --cap and --inactive")
    flags = 0
    for name in (arguments.get("cap") or "").split(","):
        if name and name not in CAPABILITIES:
            raise CommandError("Invalid capability type")
        flags |= 1 << CAPABILITIES.index(name) if name else 0
    if arguments.flag("inactive") or arguments.flag("all"):
        flags |= DEVICES_INACTIVE
    if not arguments.flag("inactive"):
        flags |= DEVICES_ACTIVE
    with session.failing("Failed to list node devices"):
        names = sorted(item[0] for item in session.call("connect_list_all_node_devices", 1, flags).devices)
        if not arguments.flag("tree"):
            session.print("".join(f"{name}\n" for name in names), end="")
            return
        parents = []
        for name in names:
            try:
                parents.append((name, session.call("node_device_get_parent", name)))
            except RemoteError as error:
                if error.code != ErrorCode.NO_NODE_DEVICE:
                    raise
    session.print(tree(parents), end="")
