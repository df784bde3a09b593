"""Settings: from nowhere, from a file, from options; and what is wrong with them."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from manor.base.errors import ConfigError, HostError
from manor.daemon.config import MAX_FILE, SYSTEM_CONFIG, Config, apply, default_file, defaults, read_file

BASE = Config(Path("/s"), Path("/s-ro"), Path("/state"))
PACKAGED = Path(__file__).parents[3] / "packaging" / "manord.toml"


def test_defaults_are_of_the_user_or_of_the_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    session, system = defaults(False), defaults(True)
    assert session.socket == tmp_path / "manor" / "manord-sock"
    assert session.socket_ro == tmp_path / "manor" / "manord-sock-ro"
    assert session.state == tmp_path / "state" / "manor" / "manord"
    assert (system.socket, system.state, system.is_system) == (
        Path("/run/manor/manord-sock"), Path("/var/lib/manor"), True
    )  # fmt: skip
    assert default_file(False) == tmp_path / "config" / "manor" / "manord.toml"
    assert default_file(True) == SYSTEM_CONFIG


def test_a_file_changes_what_it_names(tmp_path: Path) -> None:
    file = tmp_path / "manord.toml"
    file.write_text('max_calls = 9\ntls_allow = ["ann", "bob"]\nstate = "/x"\nremotes = ["libvirt+test:///default"]\n')
    found = read_file(file, BASE, True)
    assert (found.max_calls, found.tls_allow, found.state) == (9, ("ann", "bob"), Path("/x"))
    assert found.remotes == ("libvirt+test:///default",)
    assert found.socket == BASE.socket


def test_a_file_that_is_missing_matters_only_if_it_was_named(tmp_path: Path) -> None:
    assert read_file(tmp_path / "x", BASE, False) is BASE
    with pytest.raises(HostError, match="No such file"):
        read_file(tmp_path / "x", BASE, True)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("max_calls = ", "not TOML"),
        ("nonsense = 1", "nonsense: it is unknown; there are accel, group,"),
        ('max_calls = "9"', "max_calls: '9' is not of type int"),
        ("max_calls = true", "max_calls: True is not of type int"),
        ("max_calls = 0", "max_calls: 0 is not from 1 to 1000"),
        ("max_clients = 100001", "max_clients: 100001 is not from 1 to 100000"),
        ("keepalive_interval = -1", "keepalive_interval: -1 is not from 0 to 86400"),
        ("idle_exit = -1", "idle_exit"),
        ('socket = "relative"', "socket: 'relative' is not a whole path"),
        ("tls_allow = 'ann'", "tls_allow: 'ann' is not a list of names"),
        ("tls_allow = [1]", "is not a list of names"),
        ("is_system = true", "is_system: it is unknown"),
        ("x = [" + "[" * 5000, "not TOML"),
    ],
)
def test_what_is_wrong_is_named_with_its_file(tmp_path: Path, text: str, wrong: str) -> None:
    file = tmp_path / "manord.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_file(file, BASE, True)
    assert wrong in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_file_has_a_limit_and_has_to_be_text(tmp_path: Path) -> None:
    file = tmp_path / "manord.toml"
    file.write_bytes(b"#" * (MAX_FILE + 1))
    with pytest.raises(ConfigError, match="more than"):
        read_file(file, BASE, True)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not TOML"):
        read_file(file, BASE, True)
    with pytest.raises(HostError):
        read_file(tmp_path, BASE, True)


def test_options_win_over_the_file() -> None:
    assert apply(apply(BASE, {"accel": "kvm"}, "file"), {"accel": "dbt"}, "option").accel == "dbt"
    with pytest.raises(ConfigError, match="option: accel: 5"):
        apply(BASE, {"accel": 5}, "option")


def test_the_packaged_file_lists_every_setting_and_is_right(tmp_path: Path) -> None:
    lines = [line[2:] for line in PACKAGED.read_text().splitlines() if line.startswith("# ") and " = " in line]
    text = "\n".join(lines)
    named = {line.partition(" = ")[0] for line in lines}
    assert named == {field.name for field in fields(Config)} - {"is_system", "socket", "socket_ro", "state"}
    file = tmp_path / "manord.toml"
    file.write_text(text)
    read = read_file(file, BASE, True)
    assert (read.max_clients, read.keepalive_interval) == (BASE.max_clients, BASE.keepalive_interval)
