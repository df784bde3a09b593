"""What systemd and its services say to each other, and the units."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from manor.daemon.systemd import inherited, notify

UNITS = Path(__file__).parents[3] / "packaging" / "systemd"


def test_nothing_is_said_without_a_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere/socket")
    notify("READY=1")


@pytest.mark.parametrize("is_abstract", [False, True])
def test_the_manager_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, is_abstract: bool) -> None:
    name = f"@manor-test-{os.getpid()}" if is_abstract else str(tmp_path / "n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name[1:] if is_abstract else name)
        manager.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        notify("READY=1")
        assert manager.recv(100) == b"READY=1"


def test_sockets_of_others_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("LISTEN_PID", "1"), ("LISTEN_FDS", "2"), ("LISTEN_FDNAMES", "a:b")):
        monkeypatch.setenv(name, value)
    assert inherited() == {}
    assert "LISTEN_FDS" not in os.environ
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "many")
    assert inherited() == {}


def test_sockets_are_inherited_by_name(tmp_path: Path) -> None:
    program = textwrap.dedent("""
        import os
        os.environ["LISTEN_PID"] = str(os.getpid())
        from manor.daemon.systemd import inherited
        found = inherited()
        print({name: os.path.basename(each.getsockname()) for name, each in found.items()})
        print([os.get_inheritable(each.fileno()) for each in found.values()], "LISTEN_FDS" in os.environ)
    """)
    sockets = []
    for name in ("a", "b", "c"):
        made = socket.socket(socket.AF_UNIX)
        made.bind(str(tmp_path / name))
        sockets.append(made)

    def place() -> None:
        held = [os.dup(each.fileno()) for each in sockets]
        spare = [os.open("/dev/null", os.O_RDONLY) for _ in range(8)]  # so that 3 to 5 are not among the copies
        held = [os.dup(each) for each in held]
        for index, each in enumerate(held):
            os.dup2(each, 3 + index)
        del spare

    done = subprocess.run(
        [sys.executable, "-c", program], preexec_fn=place, close_fds=False, capture_output=True, text=True, check=False,
        env={**os.environ, "LISTEN_FDS": "3", "LISTEN_FDNAMES": "manord-sock:unknown"},
    )  # fmt: skip
    for each in sockets:
        each.close()
    assert done.returncode == 0, done.stderr
    names, flags = done.stdout.splitlines()
    assert names == "{'manord-sock': 'a', 'socket1': 'b', 'socket2': 'c'}"
    assert flags == "[False, False, False] False"


@pytest.mark.parametrize("scope", ["system", "user"])
def test_the_units_are_right(tmp_path: Path, scope: str) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze here (systemd)")
    source = UNITS if scope == "system" else UNITS / "user"
    units = [each for each in source.iterdir() if each.is_file()]
    assert {each.name for each in units} == {"manord.service", "manord.socket", "manord-ro.socket"}
    for each in units:
        # The program is not installed where tests run.
        (tmp_path / each.name).write_text(each.read_text().replace("/usr/bin/manord", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", f"--{scope}", "--man=no", *(str(tmp_path / each.name) for each in units)],
        capture_output=True, text=True, check=False,
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path), "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
    )  # fmt: skip
    said = [line for line in done.stderr.splitlines() if "manord" in line]
    assert (done.returncode, said) == (0, []), done.stderr


@pytest.mark.parametrize("scope", ["", "user"])
def test_vms_live_on_when_the_unit_is_stopped(scope: str) -> None:
    service = (UNITS / scope / "manord.service").read_text()
    assert "KillMode=process\n" in service
    assert "Type=notify\n" in service
