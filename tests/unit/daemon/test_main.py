"""The command `manord`: options, files, words and exit status."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from manor.base.errors import ConfigError
from manor.daemon import main as main_module
from manor.daemon.config import Config
from manor.daemon.main import manord
from manor.drivers.store import Busy


class FakeDaemon:
    """Notes its settings. A failure, and what happens while it runs, are the test's."""

    made: list[FakeDaemon]
    failure: Exception | None

    def __init__(self, config: Config) -> None:
        self.config = config
        self.reloaded: list[Config] = []
        self.stopped = asyncio.Event()
        self.made.append(self)

    async def run(self) -> None:
        if self.failure is not None:
            raise self.failure
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(self.stopped.wait(), 10)

    def reload(self, config: Config) -> None:
        self.reloaded.append(config)

    def stop(self) -> None:
        self.stopped.set()


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[FakeDaemon]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    FakeDaemon.made, FakeDaemon.failure = [], None
    monkeypatch.setattr("manor.daemon.daemon.Daemon", FakeDaemon)
    return FakeDaemon


def invoke(*words: str) -> Any:
    return CliRunner().invoke(manord, words)


def test_options_files_and_signals(fake: type[FakeDaemon], tmp_path: Path) -> None:
    file = tmp_path / "m.toml"
    file.write_text("max_calls = 7\nidle_exit = 5\n")
    done = invoke(
        "--config", str(file), "--state", str(tmp_path / "st"), "--socket", str(tmp_path / "s"), "--timeout", "9",
        "--accel", "dbt", "--tls-listen", "127.0.0.1:1", "--set", "tls_ca=/ca", "--set", "max_clients=3", "-v",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    (daemon,) = fake.made
    config = daemon.config
    assert (config.socket, config.socket_ro) == (tmp_path / "s", tmp_path / "s-ro")
    assert (config.state, config.idle_exit, config.max_calls) == (tmp_path / "st", 9, 7)
    assert (config.accel, config.tls_listen, config.tls_ca, config.max_clients) == ("dbt", "127.0.0.1:1", "/ca", 3)
    assert daemon.reloaded == [config]


def test_the_host_has_its_own_places(fake: type[FakeDaemon]) -> None:
    assert invoke("--system", "--idle-exit", "4").exit_code == 0
    assert fake.made[0].config.is_system
    assert fake.made[0].config.socket == Path("/run/manor/manord-sock")
    assert fake.made[0].config.idle_exit == 4


def test_settings_that_went_wrong_leave_the_old_ones(fake: type[FakeDaemon], tmp_path: Path) -> None:
    file = tmp_path / "config" / "manor" / "manord.toml"
    file.parent.mkdir(parents=True)
    file.write_text("max_calls = 7\n")
    original = FakeDaemon.__init__

    def spoil(self: FakeDaemon, config: Config) -> None:
        original(self, config)
        file.write_text("max_calls = 0\n")

    fake.__init__ = spoil  # type: ignore[method-assign]
    try:
        assert invoke().exit_code == 0
    finally:
        fake.__init__ = original  # type: ignore[method-assign]
    assert fake.made[0].config.max_calls == 7
    assert fake.made[0].reloaded == []


@pytest.mark.parametrize(
    ("failure", "status"),
    [(ConfigError("tls_listen", "is wrong"), 1), (Busy(Path("/state"), 7), main_module.BUSY_STATUS)],
)
def test_failures_are_one_line_and_a_status(fake: type[FakeDaemon], failure: Exception, status: int) -> None:
    fake.failure = failure
    done = invoke()
    assert done.exit_code == status
    assert done.output == f"manord: {failure}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--set", "nonsense"), "write NAME=VALUE"),
        (("--set", "max_calls=x"), "max_calls: 'x' is not of type int"),
        (("--config", "/nowhere"), "No such file"),
        (("--nonsense",), "No such option"),
    ],
)
def test_what_is_wrong_with_options_is_said(fake: type[FakeDaemon], words: tuple[str, ...], said: str) -> None:
    done = invoke(*words)
    assert done.exit_code != 0
    assert said in done.output
    assert fake.made == []


def test_help_and_version_start_nothing(fake: type[FakeDaemon]) -> None:
    assert "--tls-listen" in invoke("--help").output
    assert invoke("--version").output.startswith("manord")
    assert fake.made == []


def test_certificates_by_the_command(fake: type[FakeDaemon], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []

    def make(*arguments: Any) -> list[Path]:
        calls.append(arguments)
        if arguments[1] == ("bad",):
            raise ConfigError("host", "it is no name")
        return [tmp_path / "cacert.pem"]

    monkeypatch.setattr("manor.daemon.certs.make", make)
    done = invoke("certs", str(tmp_path), "--host", "h", "--client", "ann", "--days", "3")
    assert (done.exit_code, done.output) == (0, f"{tmp_path}/cacert.pem\n")
    assert calls == [(tmp_path, ("h",), ("ann",), 3)]
    done = invoke("certs", str(tmp_path), "--host", "bad")
    assert (done.exit_code, done.output) == (1, "manord: host: it is no name\n")
    assert fake.made == []
