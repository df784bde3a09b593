"""Options of the commands for VMs with names: each is taken, does what it says or is refused in one sentence."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from tests.unit.cli.test_named import Manor, directories, kernel, listed, manor, put_image

__all__ = ["directories", "kernel", "manor"]


def test_services_of_a_vm_in_the_background(manor: Manor, kernel: Path, tmp_path: Path) -> None:
    socket = tmp_path / "vsock"
    (tmp_path / "folder").mkdir()
    services = (
        "--agent", "--balloon", "--vsock", str(socket), "--share", f"{tmp_path / 'folder'},tag=data,readonly=on",
    )  # fmt: skip
    manor("run", "web", "--detach", "--kernel", str(kernel), "--memory", "64M", "--port", "0:22", *services)
    assert stat.S_ISSOCK(socket.stat().st_mode)
    (forward,) = listed(manor)["web"]["ports"]
    assert forward.endswith(":22"), "with 0 the host chose the port"
    assert not forward.startswith("0:")
    manor("stop", "--force", "web")
    assert not socket.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run", "--share", "/nonexistent"), "--share: /nonexistent is not a folder; give one that exists"),
        (("run", "--share", "/,tag="), "--share: "),
        (("run", "--vsock", "x,cid=1"), "--vsock.cid: 1 is no guest's; give 3 to 4294967294"),
        (("run", "--port", "abc"), "--port: 'abc' is not HOST:GUEST"),
        (("run", "new", "--ssh-key", "/nonexistent"), "--ssh-key: /nonexistent cannot be read"),
        (("run", "new", "--user", "a b"), "--user: "),
        (("run", "new", "--password-hash", "secret"), "--password-hash: "),
        (("stop", "--timeout", "1", "web"), "there is no VM 'web'; manor ls shows"),
        (("ssh", "--user", "root", "--timeout", "1", "web"), "there is no VM 'web'"),
        (
            ("exec", "--user", "root", "--terminal", "--timeout", "1", "--via", "agent", "web", "--", "ls"),
            "there is no VM 'web'",
        ),
        (("exec", "--via", "pigeon", "web", "--", "ls"), "'pigeon' is not one of 'auto', 'ssh', 'agent', 'serial'"),
        (("cp", "--recursive", "--user", "a", "--timeout", "1", "--via", "ssh", ".", "web:/x"), "there is no VM 'web'"),
        (("cp", "--via", "serial", ".", "web:/x"), "'serial' is not one of 'auto', 'ssh', 'agent'"),
    ],
)
def test_mistake_in_an_option_is_one_sentence(manor: Manor, words: tuple[str, ...], message: str) -> None:
    put_image("new")
    done = manor(*words, check=False)
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert listed(manor) == {}
