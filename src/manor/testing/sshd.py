"""An ssh server of a test's own: on a loopback port, with keys made for it, for the user that runs the test alone."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from manor.testing.libvirtd import program_path

CONFIGURATION = """
ListenAddress 127.0.0.1
Port {port}
HostKey {directory}/host
AuthorizedKeysFile {directory}/user.pub
PidFile none
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
PermitRootLogin yes
PrintMotd no
AcceptEnv none
SetEnv XDG_RUNTIME_DIR={runtime} PATH={path}
"""

_OWN_RUN = """
mount -t tmpfs tmpfs /run && mkdir -m 755 /run/sshd /run/libvirt && mount --bind "$1" /run/libvirt || exit 1
shift
exec "$@"
"""


@dataclass(frozen=True, slots=True)
class SshServer:
    """One server. key: the user's private key. command: a program that is `ssh` with all that is needed to get in."""

    port: int
    user: str
    key: Path
    command: Path


def missing() -> str | None:
    """Why it cannot be started here, None if it can."""
    for program in ("sshd", "ssh", "ssh-keygen"):
        if program_path(program) is None:
            return f"there is no {program} here (openssh-server, openssh-client)"
    if os.geteuid() == 0:
        tried = subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "mount", "-t", "tmpfs", "tmpfs", "/run"],
            check=False, capture_output=True,
        )  # fmt: skip
        if tried.returncode:
            return "there are no mount namespaces here, which root's ssh server of a test's own needs"
    return None


@contextmanager
def running_sshd(directory: Path, runtime: Path) -> Iterator[SshServer]:
    """runtime: $XDG_RUNTIME_DIR of those who come in."""
    for name in ("host", "user"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / name)], check=True
        )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    configuration = directory / "sshd_config"
    configuration.write_text(
        CONFIGURATION.format(port=port, directory=directory, runtime=runtime, path=os.environ["PATH"])
    )
    known = directory / "known_hosts"
    known.write_text(f"[localhost]:{port} {(directory / 'host.pub').read_text()}")
    user = pwd.getpwuid(os.geteuid()).pw_name
    command = directory / "ssh"
    command.write_text(
        f'#!/bin/sh\nexec {shutil.which("ssh")} -F none -o UserKnownHostsFile={known} -o IdentitiesOnly=yes '
        f'-o StrictHostKeyChecking=yes -i {directory / "user"} "$@"\n'
    )
    command.chmod(0o700)
    program = program_path("sshd")
    assert program is not None
    command_line = [program, "-D", "-e", "-f", str(configuration)]
    if os.geteuid() == 0:
        # Root's programs look for a daemon in /run/libvirt, whatever $XDG_RUNTIME_DIR says: those who come in see a
        # /run of their own.
        command_line = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _OWN_RUN, "sh",
                        str(runtime / "libvirt"), *command_line]  # fmt: skip
    with (directory / "sshd.log").open("wb") as log:
        process = subprocess.Popen(command_line, stderr=log, stdin=subprocess.DEVNULL)
    try:
        _wait(port, process, directory / "sshd.log")
        yield SshServer(port, user, directory / "user", command)
    finally:
        process.terminate()
        process.wait(10)


def _wait(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    limit = time.monotonic() + 20
    while time.monotonic() < limit:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise RuntimeError(f"sshd does not listen: {log.read_text()}")
