"""URIs as libvirt documents them, and where they lead."""

from __future__ import annotations

from pathlib import Path

import pytest

from manor.base.errors import ConfigError
from manor.rpc.dial import certificates, ssh_command
from manor.rpc.uri import Uri, default_uri, parse_foreign, parse_uri


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("qemu:///system", Uri("qemu", path="/system")),
        ("qemu+ssh://root@host.example:2222/system", Uri("qemu", "ssh", "root", "host.example", 2222, "/system")),
        ("qemu+unix:///session?socket=/tmp/s", Uri("qemu", "unix", path="/session", parameters={"socket": "/tmp/s"})),
        ("test:///default", Uri("test", path="/default")),
        ("qemu+tls://[fe80::1]:5/system", Uri("qemu", "tls", None, "fe80::1", 5, "/system")),
        ("xen://host/", Uri("xen", host="host", path="/")),
        ("qemu+ssh://a%40b@h/system", Uri("qemu", "ssh", "a@b", "h", None, "/system")),
    ],
)
def test_uris_are_parsed(text: str, expected: Uri) -> None:
    assert parse_uri(text) == expected


@pytest.mark.parametrize("text", ["qemu:///system", "qemu+tls://[fe80::1]:5/system", "qemu+unix:///session?socket=/s"])
def test_uris_are_written_as_they_were_read(text: str) -> None:
    assert str(parse_uri(text)) == text


@pytest.mark.parametrize("text", ["", "qemu", "/tmp/s", "qemu+carrier://x/", "qemu://h:port/system", "qemu://h:99999/"])
def test_what_is_no_uri_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match="example|transport"):
        parse_uri(text)


def test_the_daemon_is_asked_for_the_uri_without_the_way_to_it() -> None:
    assert parse_uri("qemu+ssh://root@host/system?keyfile=/k&no_verify=1").name == "qemu:///system"
    assert parse_uri("qemu+unix:///session?socket=/s").name == "qemu:///session"
    assert parse_uri("test+unix:///default?socket=/s&x=1").name == "test:///default?x=1"
    assert parse_uri("qemu://host/system?name=qemu:///embed").name == "qemu:///embed"


def test_a_uri_for_another_daemon_is_passed_on_whole() -> None:
    text = "libvirt+test+unix:///default?socket=/s&x=1"
    assert parse_uri(text).name == text
    assert parse_uri(text).is_own
    way = parse_foreign(text)
    assert (way.name, way.socket_path()) == ("test:///default?x=1", "/s")
    assert parse_foreign("libvirt+test:///default").socket_path() == "/run/libvirt/libvirt-sock"
    assert parse_foreign("libvirt+qemu+ssh://root@h/system").user == "root"


@pytest.mark.parametrize("text", ["test:///default", "libvirt+", "libvirt+libvirt+test:///default", "libvirt+qemu"])
def test_what_leads_to_no_other_daemon_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="example"):
        parse_foreign(text)


def test_what_runs_the_domains_is_a_parameter_of_manord(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    uri = parse_uri("qemu:///session?vmm=qemu")
    assert uri.socket_path() == str(tmp_path / "manor" / "manord-sock")
    assert uri.name == "qemu:///session?vmm=qemu"


def test_a_uri_with_a_host_means_tls_and_without_one_the_socket() -> None:
    assert parse_uri("qemu://host/system").effective_transport == "tls"
    assert parse_uri("qemu:///system").effective_transport == "unix"


def test_sockets_are_where_daemons_have_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    session = parse_uri("qemu:///session")
    assert session.socket_path() == str(tmp_path / "libvirt" / "libvirt-sock")
    (tmp_path / "libvirt").mkdir()
    (tmp_path / "libvirt" / "virtqemud-sock").touch()
    assert session.socket_path() == str(tmp_path / "libvirt" / "virtqemud-sock")
    assert session.socket_path(is_read_only=True) == str(tmp_path / "libvirt" / "virtqemud-sock")
    legacy = parse_uri("qemu:///session?mode=legacy")
    assert legacy.socket_path() == str(tmp_path / "libvirt" / "libvirt-sock")
    assert parse_uri("xyz:///system").socket_path(is_read_only=True) == "/run/libvirt/libvirt-sock-ro"
    assert parse_uri("manor:///session").socket_path() == str(tmp_path / "manor" / "manord-sock")
    assert parse_uri("manor:///system").socket_path(is_read_only=True) == "/run/manor/manord-sock-ro"


def test_the_default_is_libvirts_variable_or_manord(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", "test:///default")
    assert default_uri() == "test:///default"
    monkeypatch.delenv("LIBVIRT_DEFAULT_URI")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert default_uri() == "manor:///session"
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert default_uri() == "manor:///system"


def test_ssh_runs_the_helper_or_netcat() -> None:
    command = ssh_command(parse_uri("qemu+ssh://root@host:2222/system?keyfile=/k&no_verify=1&no_tty=1"))
    assert command[:11] == [
        "ssh", "-p", "2222", "-l", "root", "-i", "/k", "-o", "StrictHostKeyChecking=no", "-o", "BatchMode=yes",
    ]  # fmt: skip
    assert command[11:16] == ["-T", "-e", "none", "--", "host"]
    assert "exec virt-ssh-helper qemu:///system" in command[16]
    assert "exec nc -U /run/libvirt/libvirt-sock" in command[16]
    assert "virt-ssh-helper -r" in ssh_command(parse_uri("qemu+ssh://host/system"), is_read_only=True)[-1]
    netcat = ssh_command(parse_uri("qemu+ssh://host/system?socket=/s"))[-1]
    assert netcat == "sh -c 'exec nc -U /s'"


def test_nothing_in_a_uri_is_taken_for_an_option_or_a_command() -> None:
    command = ssh_command(parse_uri("qemu+ssh://-oProxyCommand=x/system?socket=/s;reboot"))
    assert command[-3:-1] == ["--", "-oproxycommand=x"]
    assert "';reboot'" in command[-1] or "'\"'\"'/s;reboot'\"'\"'" in command[-1]
    with pytest.raises(ConfigError, match="needs a host"):
        ssh_command(parse_uri("qemu+ssh:///system"))
    with pytest.raises(ConfigError, match="proxy=x"):
        ssh_command(parse_uri("qemu+ssh://h/system?proxy=x"))


def test_certificates_are_looked_for_where_libvirt_has_them(tmp_path: Path) -> None:
    assert certificates(str(tmp_path)) == (str(tmp_path / "cacert.pem"), None, None)
    (tmp_path / "clientcert.pem").touch()
    assert certificates(str(tmp_path))[1:] == (str(tmp_path / "clientcert.pem"), str(tmp_path / "clientkey.pem"))
