"""Programs of an ordinary Debian as witnesses of its network: apt installs from a server of the host, TLS, checksums.

The outside is closed: the guest reaches the host alone, at the gateway's address.
"""

from __future__ import annotations

import hashlib
import http.server
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from manor.testing.guest_process import GuestProcess
from tests.guest.test_debian import ask, built, disk, log_in, manor, power_off

__all__ = ["built", "disk"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

PACKAGE = "manor-witness"
GATEWAY = "10.0.2.2"
SIZE = 24 << 20


class Quiet(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: object) -> None:
        pass


class Server:
    """Serves a folder on the host's loopback. context: with TLS."""

    def __init__(self, folder: Path, context: ssl.SSLContext | None = None) -> None:
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A flat repository with one package, which has a file of some MiB."""
    if shutil.which("dpkg-deb") is None or shutil.which("openssl") is None:
        pytest.skip("dpkg-deb or openssl is not installed (Debian packages dpkg, openssl)")
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "usr/share/witness").mkdir(parents=True)
    (tree / "usr/share/witness/data").write_bytes(bytes(range(256)) * (SIZE // 256))
    control = f"Package: {PACKAGE}\nVersion: 1.0\nArchitecture: all\nMaintainer: Nobody <nobody@example.org>\n"
    control += "Description: a witness\n"
    (tree / "DEBIAN/control").write_text(control)
    folder = tmp_path / "repository"
    folder.mkdir()
    package = folder / "witness.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Znone", "-b", tree, package], check=True, capture_output=True)
    data = package.read_bytes()
    entry = f"Filename: ./witness.deb\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n"
    (folder / "Packages").write_text(control + entry + "\n")
    return folder


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """(certificate, key) of the host at the gateway's address."""
    pair = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=host",
         "-addext", f"subjectAltName=IP:{GATEWAY}", "-out", pair[0], "-keyout", pair[1]],
        check=True, capture_output=True,
    )  # fmt: skip
    return pair


@pytest.fixture
def servers(repository: Path, certificate: tuple[Path, Path]) -> Iterator[tuple[Server, Server]]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    shutil.copy(certificate[0], repository / "ca.pem")
    plain, secure = Server(repository), Server(repository, context)
    yield plain, secure
    plain.close()
    secure.close()


def test_apt_installs_and_tls_downloads_arrive_whole(
    disk: Path, repository: Path, servers: tuple[Server, Server]
) -> None:
    plain, secure = servers
    expected = hashlib.sha256((repository / "witness.deb").read_bytes()).hexdigest()
    data = hashlib.sha256(bytes(range(256)) * (SIZE // 256)).hexdigest()
    with GuestProcess([*manor(disk), "--outside", "host"]) as guest:
        log_in(guest)
        assert ask(guest, "ip -4 -o addr show scope global | grep -c 10.0.2.15").strip() == "1"
        ask(guest, "sudo rm -f /etc/apt/sources.list.d/*")
        ask(guest, f"echo 'deb [trusted=yes] http://{GATEWAY}:{plain.port} ./' | sudo tee /etc/apt/sources.list")
        output = ask(guest, f"sudo apt-get update && sudo apt-get install -y {PACKAGE}")
        assert f"Setting up {PACKAGE} (1.0)" in output, output
        assert ask(guest, "sha256sum < /usr/share/witness/data").split()[0] == data
        ask(guest, f"/usr/lib/apt/apt-helper download-file http://{GATEWAY}:{plain.port}/ca.pem /tmp/ca.pem")
        output = ask(
            guest,
            f"/usr/lib/apt/apt-helper -o Acquire::https::CAInfo=/tmp/ca.pem download-file "
            f"https://{GATEWAY}:{secure.port}/witness.deb /tmp/witness.deb",
        )
        assert ask(guest, "sha256sum < /tmp/witness.deb").split()[0] == expected, output
        # A name that only the guest's own network knows, and one of the world, which is closed.
        assert GATEWAY in ask(guest, "getent ahostsv4 host.manor")
        assert ask(guest, "getent ahostsv4 example.org || echo none").strip() == "none"
        power_off(guest)
