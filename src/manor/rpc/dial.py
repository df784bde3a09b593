"""URI -> channel: sockets, TLS with libvirt's certificates, ssh with its helper or `nc`.

Source: libvirt, "Remote support" (https://libvirt.org/remote.html): ports, parameters, where certificates are.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from manor.base.errors import ConfigError
from manor.rpc import transport
from manor.rpc.uri import TCP_PORT, TLS_PORT, Uri

SYSTEM_PKI = Path("/etc/pki")


async def dial(uri: Uri, *, is_read_only: bool = False) -> transport.Channel:
    """Reach the daemon. Raises HostError, ConfigError."""
    match uri.effective_transport:
        case "unix":
            return await transport.connect_unix(uri.socket_path(is_read_only=is_read_only))
        case "tcp":
            return await transport.connect_tcp(uri.host or "localhost", uri.port or TCP_PORT)
        case "tls":
            verify = uri.parameters.get("no_verify", "0") == "0"
            context = transport.client_tls(*certificates(uri.parameters.get("pkipath")), verify=verify)
            return await transport.connect_tls(uri.host or "localhost", uri.port or TLS_PORT, context)
        case "ssh":
            return await transport.connect_program(ssh_command(uri, is_read_only=is_read_only))
        case _:
            command = uri.parameters.get("command")
            if not command:
                raise ConfigError("uri", f"{uri}: the transport ext needs command=PROGRAM")
            return await transport.connect_program([command])


def certificates(directory: str | None) -> tuple[str, str | None, str | None]:
    """(CA's certificate, ours, our key): from `directory`, the user's ~/.pki/libvirt, or /etc/pki.

    Without a certificate of ours the last two are None: a server may not want one.
    """
    user = Path.home() / ".pki" / "libvirt"
    if directory is not None:
        base = Path(directory)
        ca, certificate, key = base / "cacert.pem", base / "clientcert.pem", base / "clientkey.pem"
    elif os.geteuid() != 0 and (user / "cacert.pem").exists():
        ca, certificate, key = user / "cacert.pem", user / "clientcert.pem", user / "clientkey.pem"
    else:
        ca = SYSTEM_PKI / "CA" / "cacert.pem"
        certificate = SYSTEM_PKI / "libvirt" / "clientcert.pem"
        key = SYSTEM_PKI / "libvirt" / "private" / "clientkey.pem"
    if not certificate.exists():
        return str(ca), None, None
    return str(ca), str(certificate), str(key)


def ssh_command(uri: Uri, *, is_read_only: bool = False) -> list[str]:
    """The program that connects through ssh. Raises ConfigError.

    At the other end it is virt-ssh-helper, which knows where its daemon's socket is, or else `nc -U`.
    """
    if not uri.host:
        raise ConfigError("uri", f"{uri}: ssh needs a host")
    options = uri.parameters
    command = [options.get("command", "ssh")]
    if uri.port is not None:
        command += ["-p", str(uri.port)]
    if uri.user is not None:
        command += ["-l", uri.user]
    if "keyfile" in options:
        command += ["-i", options["keyfile"]]
    if options.get("no_verify", "0") != "0":
        command += ["-o", "StrictHostKeyChecking=no"]
    if options.get("no_tty", "0") != "0":
        command += ["-o", "BatchMode=yes"]
    # After `--` a host name can be no option.
    return [*command, "-T", "-e", "none", "--", uri.host, _remote_command(uri, is_read_only)]


def _remote_command(uri: Uri, is_read_only: bool) -> str:
    options = uri.parameters
    helper = ["virt-ssh-helper", *(["-r"] if is_read_only else []), uri.name]
    suffix = "-ro" if is_read_only else ""
    socket = options.get("socket", f"/run/libvirt/libvirt-sock{suffix}")
    netcat = [options.get("netcat", "nc"), "-U", socket]
    match options.get("proxy", "netcat" if "socket" in options or "netcat" in options else "auto"):
        case "netcat":
            script = f"exec {shlex.join(netcat)}"
        case "native":
            script = f"exec {shlex.join(helper)}"
        case "auto":
            script = (
                f"if command -v {helper[0]} >/dev/null 2>&1; then exec {shlex.join(helper)}; "
                f"else exec {shlex.join(netcat)}; fi"
            )
        case other:
            raise ConfigError("uri", f"{uri}: proxy={other}; there are auto, netcat, native")
    return f"sh -c {shlex.quote(script)}"
