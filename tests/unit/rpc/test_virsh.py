"""The real virsh and libvirt-python, unchanged, against our end of the wire."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from manor.rpc.transport import server_tls
from manor.testing.libvirtd import program_path
from manor.testing.rpc_server import FakeDaemon

VIRSH = program_path("virsh")
pytestmark = pytest.mark.skipif(VIRSH is None, reason="virsh is not installed")


async def virsh(uri: str, *command: str, status: int = 0) -> str:
    """What it prints. Its status must be `status`."""
    assert VIRSH is not None
    process = await asyncio.create_subprocess_exec(
        VIRSH, "-c", uri, *command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, "LC_ALL": "C"},
    )  # fmt: skip
    output, _ = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == status, output
    return output.decode()


def serve(
    tmp_path: Path, work: Callable[[FakeDaemon, str], Coroutine[Any, Any, None]], *, domains: int = 3, **options: Any
) -> FakeDaemon:
    daemon = FakeDaemon(domains)

    async def main() -> None:
        path = tmp_path / "s"
        async with daemon.listen(path, **options):
            await work(daemon, f"qemu+unix:///session?socket={path}")

    asyncio.run(main())
    return daemon


def test_connect_list_close(tmp_path: Path) -> None:
    async def work(daemon: FakeDaemon, uri: str) -> None:
        lines = (await virsh(uri, "list", "--all")).splitlines()
        assert lines[0].split() == ["Id", "Name", "State"]
        assert [line.split() for line in lines[2:5]] == [["-", f"domain-000{n}", "shut", "off"] for n in (1, 2, 3)]
        assert (await virsh(uri, "uri")).strip() == uri
        assert (await virsh(uri, "hostname")).strip() == "host.example"
        assert "Using API: QEMU 9.0.0" in await virsh(uri, "version")

    daemon = serve(tmp_path, work)
    assert daemon.calls[:3] == ["auth_list", "connect_supports_feature", "connect_open"]
    assert daemon.calls[-1] == "connect_close"


def test_ten_thousand_domains(tmp_path: Path) -> None:
    async def work(daemon: FakeDaemon, uri: str) -> None:
        assert len((await virsh(uri, "list", "--all", "--name")).split()) == 10000
        assert (await virsh(uri, "domstats")).count("state.state=5") == 10000

    serve(tmp_path, work, domains=10000)


def test_errors_arrive_as_they_were_sent(tmp_path: Path) -> None:
    async def work(daemon: FakeDaemon, uri: str) -> None:
        assert "failed to get domain 'nothing'" in await virsh(uri, "dominfo", "nothing", status=1)
        assert "not here: domain_reset" in await virsh(uri, "reset", "domain-0001", status=1)

    serve(tmp_path, work)


def test_a_reply_that_cannot_be_encoded_does_not_hang_it(tmp_path: Path) -> None:
    async def work(daemon: FakeDaemon, uri: str) -> None:
        daemon.handlers["connect_get_hostname"] = lambda session, arguments: "a\0b"
        assert "must not contain NUL" in await virsh(uri, "hostname", status=1)

    serve(tmp_path, work)


def test_read_only_is_enforced_on_the_socket(tmp_path: Path) -> None:
    async def work(daemon: FakeDaemon, uri: str) -> None:
        assert "domain_destroy forbidden" in await virsh(uri, "destroy", "domain-0001", status=1)
        assert "shut off" in await virsh(uri, "domstate", "domain-0001")

    daemon = serve(tmp_path, work, is_read_only=True)
    assert "domain_destroy" not in daemon.calls


def test_upload_and_download(tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    (tmp_path / "up").write_bytes(data)

    async def work(daemon: FakeDaemon, uri: str) -> None:
        await virsh(uri, "vol-upload", "/default/a.img", str(tmp_path / "up"))
        assert bytes(daemon.volume) == data
        await virsh(uri, "vol-download", "/default/a.img", str(tmp_path / "down"))
        assert (tmp_path / "down").read_bytes() == data

    serve(tmp_path, work)


def test_events(tmp_path: Path) -> None:
    async def work(daemon: FakeDaemon, uri: str) -> None:
        waiting = asyncio.create_task(virsh(uri, "event", "--event", "lifecycle", "--timeout", "20"))
        while not daemon.callbacks:
            await asyncio.sleep(0.02)
        daemon.emit()
        assert "event 'lifecycle' for domain 'domain-0001': Resumed" in await waiting

    serve(tmp_path, work)


def test_keepalive_keeps_a_slow_call_alive(tmp_path: Path) -> None:
    async def work(daemon: FakeDaemon, uri: str) -> None:
        daemon.handlers["domain_destroy"] = lambda session, arguments: asyncio.sleep(2.5)
        assert "destroyed" in await virsh(uri, "-k", "1", "-K", "1", "destroy", "domain-0001")

    serve(tmp_path, work)


PYTHON_SCRIPT = """
import libvirt, sys
connection = libvirt.open(sys.argv[1])
domain = connection.lookupByName("domain-0002")
assert domain.info() == [5, 1048576, 1048576, 2, 0], domain.info()
assert len(connection.listAllDomains()) == 3
assert connection.getAllDomainStats()[0][1] == {"state.state": 5, "state.reason": 0}
stream = connection.newStream()
domain.openConsole(None, stream)
stream.send(b"hello")
assert stream.recv(100) == b"HELLO"
stream.finish()
try:
    connection.lookupByName("x")
except libvirt.libvirtError as error:
    assert error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN
else:
    raise AssertionError("no error")
connection.close()
"""


def test_libvirt_python(tmp_path: Path) -> None:
    python = "/usr/bin/python3"
    if subprocess.run([python, "-c", "import libvirt"], capture_output=True, check=False).returncode:
        pytest.skip("libvirt-python is not installed")

    async def work(daemon: FakeDaemon, uri: str) -> None:
        process = await asyncio.create_subprocess_exec(
            python, "-c", PYTHON_SCRIPT, uri, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        output, _ = await asyncio.wait_for(process.communicate(), 30)
        assert process.returncode == 0, output.decode()

    serve(tmp_path, work)


def certificates(directory: Path) -> None:
    """A CA and what it has signed, under the names that libvirt's clients look for."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)

    openssl(
        "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "cakey.pem", "-out", "cacert.pem", "-days", "9",
        "-subj", "/CN=test CA", "-addext", "keyUsage=critical,keyCertSign,cRLSign",
    )  # fmt: skip
    for name in ("server", "client"):
        (directory / f"{name}.ext").write_text(
            "subjectAltName=DNS:localhost,IP:127.0.0.1\nkeyUsage=digitalSignature,keyEncipherment\n"
            f"extendedKeyUsage={name}Auth\nbasicConstraints=critical,CA:false\n"
        )
        openssl(
            "req", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}key.pem", "-out", f"{name}.csr", "-subj",
            f"/CN={name}",
        )  # fmt: skip
        openssl(
            "x509", "-req", "-in", f"{name}.csr", "-CA", "cacert.pem", "-CAkey", "cakey.pem", "-CAcreateserial",
            "-out", f"{name}cert.pem", "-days", "9", "-extfile", f"{name}.ext",
        )  # fmt: skip


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_tls(tmp_path: Path) -> None:
    certificates(tmp_path)
    ca, certificate, key = (str(tmp_path / name) for name in ("cacert.pem", "servercert.pem", "serverkey.pem"))
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    certificates(stranger)
    shutil.copy(tmp_path / "cacert.pem", stranger / "cacert.pem")

    async def main() -> None:
        from manor.base.errors import HostError
        from manor.client import connect

        daemon = FakeDaemon()
        async with daemon.listen_tls(server_tls(ca, certificate, key)) as port:
            where = f"qemu+tls://localhost:{port}/session?pkipath="
            assert "domain-0003" in await virsh(f"{where}{tmp_path}", "list", "--all")
            async with connect(f"{where}{tmp_path}") as connection:
                assert len(await connection.domains()) == 3
            with pytest.raises(HostError, match="certificate"):
                async with connect(f"{where}{stranger}"):
                    pass
            await virsh(f"{where}{stranger}", "list", status=1)

    asyncio.run(main())
