"""Domains: the guest's console, screen, keys and agent."""

from __future__ import annotations

import datetime
import os
import signal

from manor.rpc.protocol.records import Domain
from manor.shell.arguments import Arguments
from manor.shell.commands.life import act, descriptors
from manor.shell.commands.monitor import domain_root
from manor.shell.errors import CommandError
from manor.shell.link import RemoteError
from manor.shell.session import Session, param_text, read_file


def console(session: Session, arguments: Arguments) -> None:
    """Connect to the console, or print what it printed."""
    from manor.shell.terminal import attach

    domain = session.domain(arguments)
    if arguments.flag("log") or arguments.flag("follow") or arguments.get("since") is not None:
        print_log(session, domain, arguments.number("since", 0, low=-(2**63), high=2**63 - 1), arguments.flag("follow"))
        return
    modes = [mode for name, mode in (("watch", 0), ("alone", 2), ("take-over", 3)) if arguments.flag(name)]
    if len(modes) > 1:
        raise CommandError("--watch, --alone and --take-over are mutually exclusive")
    device, flags = arguments.get("devname"), arguments.flags(force=1, safe=2)
    if modes:
        attach(session, domain, device, flags, modes[0])
    else:
        attach(session, domain, device, flags)


def print_log(session: Session, domain: Domain, since: int, follow: bool) -> None:
    """Print what a domain's serial console printed, from a position on."""
    with session.failing(f"Failed to read the console of domain '{domain.name}'"):
        while True:
            found = session.call("manor_console_log", domain, since, 0)
            if since >= 0 and found.start > since:
                session.warn(f"output before position {found.start} is gone")
            since = found.start + len(found.data)
            session.print(found.data.decode("utf-8", "replace"), end="")
            if not found.data:
                break
        session.out.flush()
        if follow:
            _, stream = session.link.open_stream("manor_console_follow", domain, since)
            try:
                while data := stream.receive():
                    session.print(data.decode("utf-8", "replace"), end="")
                    session.out.flush()
            except KeyboardInterrupt:
                pass
            finally:
                stream.abort()


def domdisplay(session: Session, arguments: Arguments) -> None:
    """Tell the display's address."""
    arguments.exclusive("all", "type")
    domain = session.domain(arguments)
    with session.failing():
        if not session.call("domain_is_active", domain):
            raise CommandError("Domain is not running")
        root = domain_root(session, domain, 1 if arguments.flag("include-password") else 0)
    wanted, found = arguments.get("type"), []
    for graphics in root.findall("./devices/graphics"):
        kind = graphics.get("type", "")
        if kind not in ("vnc", "spice", "rdp") or (wanted is not None and wanted != kind):
            continue
        address = _display_uri(graphics.attrib, kind, arguments.flag("include-password"))
        listening = graphics.find("listen")
        if address is None and listening is not None and listening.get("socket"):
            address = f"{kind}+unix://{listening.get('socket')}"
        if address is not None:
            found.append(address)
    if not found:
        if wanted is not None:
            raise CommandError(f"No graphical display with type '{wanted}' found")
        raise CommandError("No graphical display found")
    for address in found if arguments.flag("all") else found[:1]:
        session.print(address)


def _display_uri(attributes: dict[str, str], kind: str, with_password: bool) -> str | None:
    port, tls_port = attributes.get("port", "-1"), attributes.get("tlsPort", "-1")
    if port in ("-1", "0") and tls_port in ("-1", "0"):
        return None
    host = attributes.get("listen", "")
    if host in ("", "0.0.0.0", "::"):
        host = "localhost"
    host = f"[{host}]" if ":" in host else host
    password = attributes.get("passwd") if with_password else None
    number = str(int(port) - 5900) if kind == "vnc" and int(port) >= 5900 else port
    start = f"{kind}://" + (f":{password}@" if password and kind == "vnc" else "") + host
    if port not in ("-1", "0"):
        start += f":{number}"
    extra = []
    if kind == "spice" and tls_port not in ("-1", "0"):
        extra.append(f"tls-port={tls_port}")
    if kind == "spice" and password:
        extra.append(f"password={password}")
    return start + ("?" + "&".join(extra) if extra else "")


def vncdisplay(session: Session, arguments: Arguments) -> None:
    """Tell the VNC display."""
    domain = session.domain(arguments)
    with session.failing():
        if not session.call("domain_is_active", domain):
            raise CommandError("Domain is not running")
        root = domain_root(session, domain)
    graphics = root.find("./devices/graphics[@type='vnc']")
    port = int(graphics.get("port", "-1")) if graphics is not None else -1
    if port < 0 or graphics is None:
        raise CommandError("Failed to get VNC port. Is this domain using VNC?")
    host = graphics.get("listen", "")
    host = "" if host == "0.0.0.0" else f"[{host}]" if ":" in host else host
    session.print(f"{host}:{port - 5900}")


def ttyconsole(session: Session, arguments: Arguments) -> None:
    """Tell the terminal of the console."""
    domain = session.domain(arguments)
    with session.failing():
        tty = domain_root(session, domain).find("./devices/console")
    if tty is None or not tty.get("tty"):
        raise CommandError
    session.print(str(tty.get("tty")))


def domfsfreeze(session: Session, arguments: Arguments) -> None:
    """Freeze file systems."""
    domain = session.domain(arguments)
    with session.failing("Unable to freeze filesystems"):
        count = session.call("domain_fsfreeze", domain, arguments.words("mountpoint"), 0)
    session.note(f"Froze {count} filesystem(s)")


def domfsthaw(session: Session, arguments: Arguments) -> None:
    """Thaw file systems."""
    domain = session.domain(arguments)
    with session.failing("Unable to thaw filesystems"):
        count = session.call("domain_fsthaw", domain, arguments.words("mountpoint"), 0)
    session.note(f"Thawed {count} filesystem(s)")


def domfsinfo(session: Session, arguments: Arguments) -> None:
    """List file systems."""
    domain = session.domain(arguments)
    with session.failing("Unable to get filesystem information"):
        found = session.call("domain_get_fsinfo", domain, 0).info
    if not found:
        session.note("No filesystems are mounted in the domain")
        return
    rows = [(item.mount_point, item.name, item.fs_type, ",".join(item.devices)) for item in found]
    session.table(("Mountpoint", "Name", "Type", "Target"), rows, naming="Mountpoint")


def domfstrim(session: Session, arguments: Arguments) -> None:
    """Give back unused blocks."""
    minimum, point = arguments.number("minimum", 0), arguments.get("mountpoint")
    act(session, arguments, "domain_fstrim", point, minimum, 0, failed="Unable to invoke fstrim", done="")


HOSTNAME_SOURCES = {"lease": 1, "agent": 2}


def domhostname(session: Session, arguments: Arguments) -> None:
    """Tell the guest's name."""
    source = arguments.get("source")
    if source is not None and source not in HOSTNAME_SOURCES:
        raise CommandError(f"Unknown data source '{source}'")
    domain = session.domain(arguments)
    with session.failing("failed to get hostname"):
        session.print(session.call("domain_get_hostname", domain, HOSTNAME_SOURCES.get(source or "", 0)))


def guest_agent_timeout(session: Session, arguments: Arguments) -> None:
    """Set how long an answer may take."""
    timeout = arguments.number("timeout", -2, low=-(2**31), high=2**31 - 1)
    act(session, arguments, "domain_agent_set_response_timeout", timeout, 0, failed="", done="")


GUEST_INFO = {"user": 1, "os": 2, "timezone": 4, "hostname": 8, "filesystem": 16, "disk": 32, "interface": 64}
"""Source: libvirt API reference, virDomainGuestInfoTypes."""


def guestinfo(session: Session, arguments: Arguments) -> None:
    """Ask about the guest."""
    domain = session.domain(arguments)
    with session.failing():
        params = session.call("domain_get_guest_info", domain, arguments.flags(**GUEST_INFO), 0)
    if session.is_structured:
        session.parameters(params)
        return
    for param in params:
        session.print(f"{param.field:<20}: {param_text(param)}")


def guestvcpus(session: Session, arguments: Arguments) -> None:
    """Show or set which processors the guest uses."""
    arguments.exclusive("enable", "disable")
    domain, cpus = session.domain(arguments), arguments.get("cpulist")
    changes = arguments.flag("enable") or arguments.flag("disable")
    if cpus is not None and not changes:
        raise CommandError("One of options --enable or --disable is required by option --cpulist")
    if changes and cpus is None:
        raise CommandError("Option --cpulist is required by option --enable or --disable")
    with session.failing():
        if changes:
            session.call("domain_set_guest_vcpus", domain, cpus, int(arguments.flag("enable")), 0)
            return
        params = session.call("domain_get_guest_vcpus", domain, 0)
    if session.is_structured:
        session.parameters(params)
        return
    for param in params:
        session.print(f"{param.field:<15}: {param_text(param)}")


AGENT_BLOCK, AGENT_DEFAULT, AGENT_ASYNC = -2, -1, 0


def qemu_agent_command(session: Session, arguments: Arguments) -> None:
    """Send a command to the guest agent."""
    for first, second in (("timeout", "async"), ("timeout", "block"), ("async", "block")):
        arguments.exclusive(first, second)
    timeout = arguments.number("timeout", AGENT_BLOCK, low=1, high=2**31 - 1)
    if arguments.flag("async"):
        timeout = AGENT_ASYNC
    domain = session.domain(arguments)
    with session.failing():
        result = session.call("qemu_domain_agent_command", domain, " ".join(arguments.words("cmd")), timeout, 0)
    session.print(_json(result or "", is_pretty=arguments.flag("pretty")))


def qemu_monitor_command(session: Session, arguments: Arguments) -> None:
    """Send a command to QEMU's monitor."""
    for first, second in (("hmp", "pretty"), ("hmp", "return-value")):
        arguments.exclusive(first, second)
    domain, files = session.domain(arguments), descriptors(arguments)
    text, flags = " ".join(arguments.words("cmd")), arguments.flags(hmp=1)
    with session.failing():
        if files:
            result = session.call_with_files(
                "qemu_domain_monitor_command_with_files", domain, text, flags, files=files
            )
        else:
            result = session.call("qemu_domain_monitor_command", domain, text, flags)
    if arguments.flag("return-value"):
        import json

        try:
            result = json.dumps(json.loads(result)["return"])
        except (ValueError, KeyError, TypeError):
            raise CommandError("failed to parse JSON returned by qemu") from None
    session.print(_json(result, is_pretty=arguments.flag("pretty")))


def qemu_attach(session: Session, arguments: Arguments) -> None:
    """Take over a QEMU process."""
    pid = arguments.number("pid", low=1, high=2**32 - 1)
    with session.failing(f"Failed to attach to pid {pid}"):
        domain = Domain(*session.call("qemu_domain_attach", pid, 0))
    session.note(f"Domain '{domain.name}' attached to pid {pid}")


def _json(text: str, *, is_pretty: bool) -> str:
    if not is_pretty:
        return text
    import json

    try:
        return json.dumps(json.loads(text), indent=2)
    except ValueError:
        return text


EXTENSIONS = {"image/x-portable-pixmap": "ppm", "image/png": "png"}


def screenshot(session: Session, arguments: Arguments) -> None:
    """Save a picture of the screen."""
    screen = arguments.number("screen", 0, high=2**32 - 1)
    domain = session.domain(arguments)
    with session.failing(f"could not take a screenshot of {domain.name}"):
        mime, stream = session.link.open_stream("domain_screenshot", domain, screen, 0)
    stamp = datetime.datetime.now().strftime("%Y-%m-%d-%H:%M:%S")
    extension = EXTENSIONS.get(mime or "", "")
    path = arguments.get("file") or f"{domain.name.replace('/', '_')}-{stamp}{'.' + extension if extension else ''}"
    exists = os.path.exists(path)
    try:
        file = open(path, "wb")  # noqa: SIM115 - the next `with` closes it
    except OSError as error:
        stream.abort()
        raise CommandError(f"cannot create file {path}: {error.strerror}") from None
    try:
        with file, session.failing(f"could not receive data from domain '{domain.name}'"):
            while data := stream.receive():
                file.write(data)
            stream.finish()
    except CommandError:
        if not exists:
            os.unlink(path)
        raise
    text = f"Screenshot saved to {path}, with type of {mime or ''}"
    session.print(text, end="\n" if session.settings.is_quiet else "")


CODESETS = ("linux", "xt", "atset1", "atset2", "atset3", "os_x", "xt_kbd", "usb", "win32", "qnum")
"""By number. Source: libvirt API reference, virKeycodeSet."""
MAX_KEYS = 16


def send_key(session: Session, arguments: Arguments) -> None:
    """Press keys."""
    from manor.shell.keys import LINUX_KEYS

    name = arguments.get("codeset") or "linux"
    if name not in (*CODESETS, "rfb"):
        raise CommandError(f"unknown codeset: '{name}'")
    codeset = CODESETS.index("qnum" if name == "rfb" else name)
    words = arguments.words("keycode")
    if len(words) > MAX_KEYS:
        raise CommandError("too many keycodes")
    codes = []
    for word in words:
        try:
            code = int(word, 0)
        except ValueError:
            code = LINUX_KEYS.get(word, -1) if name == "linux" else -1
        if not 0 < code <= 0xFFFF:
            raise CommandError(f"invalid keycode: '{word}'")
        codes.append(code)
    hold = arguments.number("holdtime", 0, high=2**32 - 1)
    act(session, arguments, "domain_send_key", codeset, hold, codes, 0, failed="", done="")


def send_process_signal(session: Session, arguments: Arguments) -> None:
    """Send a signal to a process of the guest."""
    pid, name = arguments.number("pid", low=-(2**63), high=2**63 - 1), arguments.text("signame")
    number = int(name) if name.isdigit() else _signal(name)
    if number < 0:
        raise CommandError(f"malformed signal name: {name}")
    act(session, arguments, "domain_send_process_signal", pid, number, 0, failed="", done="")


def _signal(name: str) -> int:
    upper = name.upper().removeprefix("SIG_").removeprefix("SIG")
    found = signal.Signals.__members__.get(f"SIG{upper}")
    return int(found) if found is not None else 0 if upper == "NOP" else -1


def get_user_sshkeys(session: Session, arguments: Arguments) -> None:
    """List SSH keys."""
    domain = session.domain(arguments)
    with session.failing():
        keys = session.call("domain_authorized_ssh_keys_get", domain, arguments.text("user"), 0)
    for key in keys:
        session.print(key)


def set_user_sshkeys(session: Session, arguments: Arguments) -> None:
    """Set SSH keys."""
    arguments.exclusive("reset", "remove")
    domain, user, path = session.domain(arguments), arguments.text("user"), arguments.get("file")
    flags = 0 if arguments.flag("reset") else 2 if arguments.flag("remove") else 1
    if path is None and not arguments.flag("reset"):
        raise CommandError("Option --file is required")
    keys = [line for line in read_file(path).splitlines() if line.strip()] if path is not None else []
    if path is not None and not keys:
        raise CommandError(f"File {path} contains no keys")
    with session.failing():
        session.call("domain_authorized_ssh_keys_set", domain, user, keys, flags)


def set_user_password(session: Session, arguments: Arguments) -> None:
    """Set a password."""
    domain: Domain = session.domain(arguments)
    user, password = arguments.text("user"), arguments.text("password")
    with session.failing():
        session.call("domain_set_user_password", domain, user, password, arguments.flags(encrypted=1))
    session.note(f"Password set successfully for {user} in {domain.name}", end="")


def domxml_from_native(session: Session, arguments: Arguments) -> None:
    """Turn a native configuration into XML."""
    text = read_file(arguments.text("config"))
    with session.failing():
        session.print(session.call("connect_domain_xml_from_native", arguments.text("format"), text, 0))


def domxml_to_native(session: Session, arguments: Arguments) -> None:
    """Turn XML into a native configuration."""
    arguments.exclusive("domain", "xml")
    name, path = arguments.get("domain"), arguments.get("xml")
    try:
        if name is not None:
            text = session.call("domain_get_xml_desc", session.find_domain(name), 8)
        elif path is not None:
            text = read_file(path)
        else:
            raise CommandError("need either domain or domain XML")
        session.print(session.call("connect_domain_xml_to_native", arguments.text("format"), text, 0))
    except RemoteError as error:
        raise CommandError(str(error)) from None
