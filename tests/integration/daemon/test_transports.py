"""The ways to the daemon, end to end: TLS with certificates of our own, ssh by `nc` and by virt-ssh-helper."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from manor.base.errors import HostError
from manor.client import RemoteError, connect
from manor.testing.daemon import DaemonProcess
from manor.testing.sshd import SshServer, missing, running_sshd

pytestmark = pytest.mark.skipif(shutil.which("virsh") is None, reason="there is no virsh here (libvirt-clients)")
needs_ssh = pytest.mark.skipif(missing() is not None, reason=missing() or "")


def virsh(uri: str, *words: str, environment: dict[str, str] | None = None) -> tuple[int, str]:
    done = subprocess.run(
        ["virsh", "-q", "-c", uri, *words], capture_output=True, text=True, timeout=60, check=False,
        stdin=subprocess.DEVNULL, env={**os.environ, "LC_ALL": "C", **(environment or {})},
    )  # fmt: skip
    return done.returncode, (done.stdout if done.returncode == 0 else done.stderr).strip()


async def names(uri: str, *, is_read_only: bool = False) -> list[str]:
    async with connect(uri, is_read_only=is_read_only) as connection:
        return [domain.name for domain in await connection.domains()]


# --- ssh --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SshPlace:
    """A daemon, and an ssh server through which it is reached."""

    server: SshServer
    daemon: DaemonProcess

    def uri(self, driver: str = "test", path: str = "/default", **parameters: str) -> str:
        options = {"no_tty": "1", "command": str(self.server.command), **parameters}
        query = "&".join(f"{name}={value}" for name, value in options.items())
        return f"{driver}+ssh://{self.server.user}@localhost:{self.server.port}{path}?{query}"


@pytest.fixture(scope="module")
def ssh() -> Iterator[SshPlace]:
    with tempfile.TemporaryDirectory(prefix="mgs") as folder:
        root = Path(folder)
        # Where virt-ssh-helper looks for a session's daemon.
        runtime = root / "runtime"
        (runtime / "libvirt").mkdir(parents=True)
        daemon = DaemonProcess(root, "--socket", str(runtime / "libvirt" / "libvirt-sock"))
        daemon.socket = runtime / "libvirt" / "libvirt-sock"
        daemon.start()
        try:
            with running_sshd(root, runtime) as server:
                yield SshPlace(server, daemon)
        finally:
            assert daemon.end() == 0
            assert "Traceback" not in daemon.log


@needs_ssh
@pytest.mark.skipif(shutil.which("nc") is None, reason="there is no nc here (netcat-openbsd)")
def test_virsh_over_ssh_and_nc(ssh: SshPlace) -> None:
    uri = ssh.uri(socket=str(ssh.daemon.socket), proxy="netcat")
    assert virsh(uri, "list", "--name") == (0, "test")
    status, said = virsh(uri, "domstate", "nobody")
    assert (status, "failed to get domain 'nobody'" in said) == (1, True)
    assert virsh(f"{uri}", "-r", "list", "--name")[0] == 0


@needs_ssh
@pytest.mark.skipif(shutil.which("virt-ssh-helper") is None, reason="there is no virt-ssh-helper here")
def test_virsh_over_ssh_and_its_helper(ssh: SshPlace) -> None:
    uri = ssh.uri("qemu", "/session", proxy="native")
    assert virsh(uri, "list", "--all", "--name") == (0, "")
    assert virsh(uri, "pool-list", "--name", "--all")[0] == 0


@needs_ssh
@pytest.mark.parametrize("proxy", ["netcat", "native"])
def test_our_client_over_ssh(ssh: SshPlace, proxy: str) -> None:
    program = "nc" if proxy == "netcat" else "virt-ssh-helper"
    if shutil.which(program) is None:
        pytest.skip(f"there is no {program} here")
    if proxy == "netcat":
        uri = ssh.uri(socket=str(ssh.daemon.socket))
        assert asyncio.run(names(uri)) == ["test"]
        read_only = ssh.uri(socket=f"{ssh.daemon.socket}-ro")
        assert asyncio.run(names(read_only, is_read_only=True)) == ["test"]
    else:
        assert asyncio.run(names(ssh.uri("qemu", "/session", proxy=proxy))) == []


@needs_ssh
def test_ssh_that_fails_is_told_in_its_words(ssh: SshPlace) -> None:
    uri = ssh.uri(socket="/nowhere/sock")
    with pytest.raises(HostError, match="No such file|/nowhere"):
        asyncio.run(names(uri))
    wrong = ssh.uri(socket=str(ssh.daemon.socket)).replace(f"{ssh.server.user}@", "nobody-here@")
    with pytest.raises(HostError, match="Permission denied"):
        asyncio.run(names(wrong))


@needs_ssh
def test_another_daemon_over_ssh(ssh: SshPlace, daemon: DaemonProcess) -> None:
    """From a client to one daemon, and from there over ssh to the next."""
    from urllib.parse import quote

    inner = quote(f"libvirt+{ssh.uri(socket=str(ssh.daemon.socket))}", safe="")
    assert virsh(f"{daemon.uri()}&name={inner}", "list", "--name") == (0, "test")


# --- TLS --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TlsPlace:
    """A daemon that listens for TLS. pki: its certificates; others: those of somebody else's authority."""

    daemon: DaemonProcess
    port: int
    pki: Path
    others: Path

    def uri(self, pki: Path, driver: str = "test", path: str = "/default") -> str:
        return f"{driver}+tls://localhost:{self.port}{path}?pkipath={pki}"


def certificates(directory: Path, *clients: str) -> None:
    words = [word for client in clients for word in ("--client", client)]
    subprocess.run(
        [sys.executable, "-m", "manor.daemon", "certs", str(directory), "--host", "localhost", *words],
        check=True, capture_output=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def tls() -> Iterator[TlsPlace]:
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl here")
    with tempfile.TemporaryDirectory(prefix="mgt") as folder:
        root = Path(folder)
        pki, others = root / "pki", root / "others"
        certificates(pki, "ann", "mallory")
        certificates(others, "ann")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        files = {"tls_ca": "cacert.pem", "tls_cert": "servercert.pem", "tls_key": "serverkey.pem"}
        options = [word for name, file in files.items() for word in ("--set", f"{name}={pki / file}")]
        daemon = DaemonProcess(root, "--tls-listen", f"127.0.0.1:{port}", "--set", 'tls_allow=["ann"]', *options)
        daemon.start()
        try:
            yield TlsPlace(daemon, port, pki, others)
        finally:
            assert daemon.end() == 0
            assert "Traceback" not in daemon.log


def as_client(place: TlsPlace, name: str, authority: Path | None = None, keys: Path | None = None) -> Path:
    """A directory with what a client needs, as virsh looks for it."""
    folder = place.daemon.root / f"as-{name}-{(authority or place.pki).name}-{(keys or place.pki).name}"
    folder.mkdir(exist_ok=True)
    source = keys or place.pki
    own = source / name if (source / name).is_dir() else source
    if (authority, keys) == (None, None):
        return own  # as it was made
    shutil.copy((authority or place.pki) / "cacert.pem", folder / "cacert.pem")
    for kind in ("cert", "key"):
        shutil.copy(own / f"client{kind}.pem", folder / f"client{kind}.pem")
    return folder


def test_virsh_over_tls(tls: TlsPlace) -> None:
    uri = tls.uri(as_client(tls, "ann"))
    assert virsh(uri, "list", "--name") == (0, "test")
    assert virsh(tls.uri(as_client(tls, "ann"), "qemu", "/session"), "list", "--all", "--name") == (0, "")


def test_our_client_over_tls(tls: TlsPlace) -> None:
    assert asyncio.run(names(tls.uri(as_client(tls, "ann")))) == ["test"]


@pytest.mark.parametrize(
    ("name", "authority", "keys"),
    [
        ("mallory", "pki", "pki"),  # of our authority, and not allowed to come
        ("ann", "pki", "others"),  # the right name, signed by somebody else
        ("ann", "others", "pki"),  # the server is not whom the client trusts
    ],
)
def test_wrong_certificates_are_refused(tls: TlsPlace, name: str, authority: str, keys: str) -> None:
    places = {"pki": tls.pki, "others": tls.others}
    folder = as_client(tls, name, places[authority], places[keys])
    status, said = virsh(tls.uri(folder), "list")
    assert status == 1
    assert "failed to connect" in said
    with pytest.raises(HostError):
        asyncio.run(names(tls.uri(folder)))


def test_no_certificate_is_refused(tls: TlsPlace) -> None:
    folder = tls.daemon.root / "none"
    folder.mkdir()
    shutil.copy(tls.pki / "cacert.pem", folder / "cacert.pem")
    with pytest.raises(HostError, match="does not accept this client's certificate|cannot connect"):
        asyncio.run(names(tls.uri(folder)))


def test_a_server_by_another_name_is_refused(tls: TlsPlace) -> None:
    folder = as_client(tls, "ann")
    uri = tls.uri(folder).replace("localhost", "127.0.0.1")
    assert virsh(uri, "list")[0] == 1
    with pytest.raises(HostError, match="cannot connect"):
        asyncio.run(names(uri))
    assert asyncio.run(names(f"{uri}&no_verify=1")) == ["test"]


def test_what_does_not_speak_tls_holds_nobody_up(tls: TlsPlace) -> None:
    with socket.create_connection(("127.0.0.1", tls.port)) as silent, socket.create_connection(
        ("127.0.0.1", tls.port)
    ) as rude:
        rude.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert virsh(tls.uri(as_client(tls, "ann")), "list", "--name") == (0, "test")
        silent.settimeout(5)


def test_who_comes_by_tls_has_no_other_daemon_opened(tls: TlsPlace) -> None:
    """It would be reached with the daemon's rights, programs and keys."""

    async def work() -> None:
        uri = f"{tls.uri(as_client(tls, 'ann'))}&name=libvirt%2Btest%2Bext:///default?command%3D/bin/true"
        async with connect(uri):
            raise AssertionError("it was opened")

    with pytest.raises(RemoteError, match="list it under `remotes`"):
        asyncio.run(work())
