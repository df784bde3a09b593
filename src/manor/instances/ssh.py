"""Log in to a guest with this system's ssh: where it listens, who logs in, and what ssh is told.

Nothing of the user's own configuration is changed or asked for: the key is Manor's, known hosts are the VM's own, and
ssh never asks a question.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from dataclasses import dataclass
from typing import Final

from manor.base.errors import ConfigError, HostError
from manor.instances.client import ControlClient
from manor.instances.instance import Instance
from manor.instances.ssh_key import private_key

SSH_PORT: Final = 22
CONNECT_TIMEOUT: Final = 15
"""Seconds that ssh waits for a connection."""
FAILED: Final = 255
"""What ssh exits with if it fails itself. Source: OpenSSH, ssh(1), "EXIT STATUS"."""
_POLL: Final = 0.25


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach a guest: its forwarded port on this host, and the account."""

    instance: Instance
    host: str
    port: int
    user: str

    def options(self) -> list[str]:
        """Options that ssh and scp share."""
        settings = {
            "BatchMode": "yes",
            "ConnectTimeout": str(CONNECT_TIMEOUT),
            "HostKeyAlias": self.instance.name,
            "IdentitiesOnly": "yes",
            "IdentityFile": os.fspath(private_key()),
            "LogLevel": "ERROR",
            # The first key is taken, as the wire ends in this host's own memory; a later one has to be the same.
            "StrictHostKeyChecking": "accept-new",
            "UserKnownHostsFile": os.fspath(self.instance.known_hosts),
            "GlobalKnownHostsFile": "/dev/null",
            "UpdateHostKeys": "no",
        }
        # -F none: a user's own settings for all hosts (jump hosts, commands) make no sense here.
        return [
            "-F",
            "none",
            *(word for name, value in settings.items() for word in ("-o", f"{name}={_quoted(value)}")),
        ]

    def ssh(self, command: tuple[str, ...], terminal: bool | None = None, quote: bool = False) -> list[str]:
        """The command line that runs `command` in the guest, or a shell.

        terminal: whether the guest gives it one; None as ssh does. quote: `command` is an argument vector, which the
        guest's shell must not take apart; otherwise its words go to that shell as they are, as with ssh.
        """
        tty = [] if terminal is None else ["-t" if terminal else "-T"]
        words = [" ".join(map(_shell_quoted, command))] if quote and command else list(command)
        where = ["-p", str(self.port), "-l", self.user, self.host]
        return [_tool("ssh"), *self.options(), *tty, *where, *(["--", *words] if words else [])]

    def scp(self, sources: list[str], target: str, recursive: bool) -> list[str]:
        """The command line that copies; files of the guest begin with a colon."""
        remote = f"{self.user}@{self.host}"
        words = [f"{remote}{path}" if path.startswith(":") else path for path in (*sources, target)]
        return [
            _tool("scp"), *self.options(), "-q", "-P", str(self.port), *(["-r"] if recursive else []), "--", *words,
        ]  # fmt: skip


def access(instance: Instance, user: str | None = None) -> Access:
    """How to reach the guest of a running VM; forwards a port of the host's choice if there is none yet.

    Raises ConfigError for a VM without a user-mode interface, VmGone if it does not run.
    """
    config = instance.config()
    with ControlClient(instance.control) as client:
        forwards = [port for nic in client.call("nics")["nics"] for port in nic["ports"]]
        found = next((f for f in forwards if f["protocol"] == "tcp" and f["guest_port"] == SSH_PORT), None)
        if found is None:
            found = client.call("port-add", port=f"0:{SSH_PORT}")
    host = found["host_address"]
    reachable = "127.0.0.1" if host in ("", "0.0.0.0") else "::1" if host == "::" else host
    return Access(instance, reachable, int(found["host_port"]), user or config.user)


def wait_for_ssh(access: Access, timeout: float) -> None:
    """Wait until an ssh server greets. timeout: seconds. Raises HostError."""
    limit = time.monotonic() + timeout
    while not greets(access):
        if time.monotonic() > limit:
            raise HostError(
                f"no ssh server answers in the guest of {access.instance.name}; it may still be starting: wait with "
                f"manor run {access.instance.name} --wait login, or look at manor console {access.instance.name}"
            )
        time.sleep(_POLL)


def greets(access: Access) -> bool:
    """Whether the other end says "SSH-": the host accepts for the guest before it knows whether anybody listens there.

    Source: RFC 4253, 4.2.
    """
    try:
        with socket.create_connection((access.host, access.port), timeout=CONNECT_TIMEOUT) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def _quoted(value: str) -> str:
    """A value of an ssh option: words with spaces stay together, and % stands for nothing."""
    escaped = value.replace("%", "%%")
    return f'"{escaped}"' if " " in escaped else escaped


def _shell_quoted(word: str) -> str:
    import shlex

    return shlex.quote(word)


def _tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise ConfigError("", f"there is no {name} on this machine; install OpenSSH's client (openssh-client)")
    return found
