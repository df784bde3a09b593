"""A daemon on demand: the first clients start one, it ends when nobody needs it, nobody is turned away in between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from manor.base import process_lock


class Home:
    """A user's directories, where no daemon runs yet."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environment = {
            **os.environ, "MANOR_AUTOSTART": "1", "HOME": str(root), "XDG_RUNTIME_DIR": str(root),
            "XDG_STATE_HOME": str(root / "state"), "XDG_CONFIG_HOME": str(root / "config"),
            "XDG_DATA_HOME": str(root / "data"),
        }  # fmt: skip
        for name in ("MANOR_DEFAULT_URI", "VIRSH_DEFAULT_CONNECT_URI", "LIBVIRT_DEFAULT_URI"):
            self.environment.pop(name, None)

    @property
    def socket(self) -> Path:
        return self.root / "manor" / "manord-sock"

    @property
    def log(self) -> str:
        return (self.root / "state" / "manor" / "manord.log").read_text()

    @property
    def daemon(self) -> int | None:
        """Number of the daemon that runs."""
        return process_lock.holder(self.root / "state" / "manor" / "manord" / "lock")

    def shell(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "manor", "sh", "-q", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, env=self.environment, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def run(self, *words: str) -> tuple[int, str, str]:
        process = self.shell(*words)
        out, err = process.communicate(timeout=60)
        return process.returncode, out.strip(), err.strip()

    def configure(self, text: str) -> None:
        path = self.root / "config" / "manor" / "manord.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def home() -> Iterator[Home]:
    with tempfile.TemporaryDirectory(prefix="mgh") as folder:
        made = Home(Path(folder))
        yield made
        if pid := made.daemon:
            os.kill(pid, signal.SIGTERM)
            limit = time.monotonic() + 20
            while made.daemon and time.monotonic() < limit:
                time.sleep(0.02)
            assert not made.daemon


def test_the_shell_starts_a_daemon_that_outlives_it(home: Home) -> None:
    status, out, err = home.run("-c", "manor:///session", "net-list", "--name", "--all")
    assert (status, out, err) == (0, "default", "")
    first = home.daemon
    assert first
    assert home.run("-c", "manor:///session", "uri") == (0, "manor:///session", "")
    assert home.daemon == first
    assert "--timeout" in Path(f"/proc/{first}/cmdline").read_text()
    assert os.getpgid(first) == first  # no terminal's interrupt reaches it


def test_clients_that_come_at_once_start_one(home: Home) -> None:
    shells = [home.shell("-c", "manor:///session", "net-list", "--name", "--all") for _ in range(5)]
    said = [each.communicate(timeout=60) for each in shells]
    assert said == [("default\n", "")] * 5
    daemons = subprocess.run(
        ["pgrep", "-f", "manor.daemon --timeout"], capture_output=True, text=True, check=False
    ).stdout.split()
    ours = [pid for pid in daemons if f"HOME={home.root}\0" in Path(f"/proc/{pid}/environ").read_text()]
    assert ours == [str(home.daemon)]


def test_a_daemon_that_died_is_replaced(home: Home) -> None:
    assert home.run("-c", "manor:///session", "uri")[0] == 0
    pid = home.daemon
    assert pid
    os.kill(pid, signal.SIGKILL)
    assert home.socket.exists()  # left behind
    assert home.run("-c", "manor:///session", "uri") == (0, "manor:///session", "")
    assert home.daemon not in (None, pid)


def test_nobody_is_turned_away_by_a_daemon_that_ends(home: Home) -> None:
    """One after the other, each at the moment at which the daemon of the one before has had enough."""
    program = textwrap.dedent("""
        import sys, time
        from manor.client import ondemand, sync
        ondemand.IDLE_SECONDS = 1
        for _ in range(6):
            with sync.connect("manor:///session") as connection:
                print(len(connection.networks()))
            time.sleep(1.0)
    """)
    done = subprocess.run(
        [sys.executable, "-c", program], env=home.environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1"] * 6
    limit = time.monotonic() + 20
    while home.daemon and time.monotonic() < limit:
        time.sleep(0.05)
    assert not home.daemon
    assert "there were no clients for 1 s, and no virtual machine runs; ending" in home.log
    assert not home.socket.exists()


def test_a_daemon_that_cannot_start_says_why(home: Home) -> None:
    home.configure("nonsense = 1\n")
    status, _, err = home.run("-c", "manor:///session", "uri")
    assert status == 1
    assert "manord was started and ended with status 1" in err
    assert "nonsense: it is unknown" in err


def test_it_can_be_forbidden(home: Home) -> None:
    home.environment["MANOR_AUTOSTART"] = "0"
    status, _, err = home.run("-c", "manor:///session", "uri")
    assert status == 1
    assert "cannot connect to" in err
    assert home.daemon is None


@pytest.mark.parametrize("uri", ["manor+unix:///session?socket=/nowhere/s", "qemu:///session", "test+unix:///default?socket=/x"])
def test_other_daemons_are_not_ours_to_start(home: Home, uri: str) -> None:
    assert home.run("-c", uri, "list")[0] == 1
    assert home.daemon is None


def test_the_hosts_daemon_is_never_started_but_the_fix_is_said(home: Home) -> None:
    if Path("/run/manor/manord-sock").exists():
        pytest.skip("this host has a daemon")
    status, _, err = home.run("-c", "manor:///system", "list")
    assert status == 1
    assert "systemctl start manord.socket" in err
    assert home.daemon is None
