"""Certificates of our own: what is in them, what is kept, what is refused."""

from __future__ import annotations

import shutil
import ssl
import stat
import subprocess
from pathlib import Path

import pytest

from manor.base.errors import ConfigError, HostError
from manor.daemon import certs

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl here")


def text_of(path: Path) -> str:
    return subprocess.run(
        ["openssl", "x509", "-in", str(path), "-noout", "-text"], capture_output=True, text=True, check=True
    ).stdout


@needs_openssl
def test_what_is_made(tmp_path: Path) -> None:
    made = list(certs.make(tmp_path / "pki", ["vmhost", "192.0.2.1"], ["ann"], 30))
    assert [path.name for path in made] == [
        "cacert.pem", "servercert.pem", "serverkey.pem", "clientcert.pem", "clientkey.pem",
    ]  # fmt: skip
    server, client = text_of(tmp_path / "pki/servercert.pem"), text_of(tmp_path / "pki/clientcert.pem")
    assert "DNS:vmhost, IP Address:192.0.2.1" in server
    assert "TLS Web Server Authentication" in server
    assert "CA:FALSE" in server
    assert "CN = ann" in client
    assert "TLS Web Client Authentication" in client
    for name in ("cakey.pem", "serverkey.pem", "clientkey.pem"):
        assert stat.S_IMODE((tmp_path / "pki" / name).stat().st_mode) == 0o600, name
    subprocess.run(
        ["openssl", "verify", "-CAfile", str(tmp_path / "pki/cacert.pem"), str(tmp_path / "pki/clientcert.pem")],
        check=True, capture_output=True,
    )  # fmt: skip
    # What python-ssl takes, the daemon can serve with.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pki/servercert.pem", tmp_path / "pki/serverkey.pem")


@needs_openssl
def test_a_second_time_only_what_is_missing_is_made(tmp_path: Path) -> None:
    list(certs.make(tmp_path, ["h"], [], 30))
    authority = (tmp_path / "cacert.pem").read_bytes()
    # Several clients have a directory each, with all that each needs.
    assert [str(path.relative_to(tmp_path)) for path in certs.make(tmp_path, ["h"], ["ann", "bob"], 30)] == [
        f"{name}/{file}" for name in ("ann", "bob") for file in ("cacert.pem", "clientcert.pem", "clientkey.pem")
    ]
    assert (tmp_path / "bob" / "cacert.pem").read_bytes() == authority
    assert "CN = bob" in text_of(tmp_path / "bob" / "clientcert.pem")
    assert (tmp_path / "cacert.pem").read_bytes() == authority


@pytest.mark.parametrize(
    ("hosts", "clients", "days", "wrong"),
    [
        (["a/b"], [], 30, "host: 'a/b' is no name"),
        ([""], [], 30, "host: '' is no name"),
        (["h"], ["-x"], 30, "client: '-x' is no name"),
        (["h"], ["../../x"], 30, "client"),
        (["h"], ["a\nb"], 30, "client"),
        (["h"], [], 0, "days: 0 is not from 1 to 3650"),
        (["h"], [], 5000, "days"),
    ],
)
def test_what_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hosts: list[str], clients: list[str], days: int, wrong: str
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    with pytest.raises(ConfigError) as caught:
        list(certs.make(tmp_path / "pki", hosts, clients, days))
    assert wrong in str(caught.value)
    assert not (tmp_path / "pki").exists()


def test_without_openssl_the_fix_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match="no openssl on this machine; install it"):
        list(certs.make(tmp_path, ["h"], [], 30))


@needs_openssl
def test_a_host_that_refuses_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HostError, match="making certificates in"):
        list(certs.make(tmp_path / "file" / "pki", ["h"], [], 30))
    (tmp_path / "cacert.pem").write_text("rubbish")
    with pytest.raises(HostError, match="openssl x509 failed"):
        list(certs.make(tmp_path, ["h"], [], 30))
