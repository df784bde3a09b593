"""Logging in to guests: what ssh is told, and what a real sshd on loopback makes of it."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from manor.base.errors import ConfigError, HostError
from manor.images.seed import SeedSpec
from manor.images.store import Store
from manor.instances.config import new_config
from manor.instances.create import create
from manor.instances.instance import Instance, Instances
from manor.instances.ssh import Access, access, wait_for_ssh
from manor.instances.ssh_key import private_key, public_key
from manor.testing.fake_vmm import FakeVmm

SSHD = shutil.which("sshd", path="/usr/sbin:/sbin:/usr/bin")


@pytest.fixture(autouse=True)
def directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("ssh-keygen") is None:
        pytest.skip("there is no ssh-keygen on this machine")
    for variable in ("XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / "with space" / variable))
        (tmp_path / "with space" / variable).mkdir(mode=0o700, parents=True)


@pytest.fixture
def vm() -> Instance:
    return create(Instances(), Store(), new_config("web"), None, None, SeedSpec("i", "web"))


def test_key_is_made_once(tmp_path: Path) -> None:
    first = public_key()
    assert first.startswith("ssh-ed25519 ")
    assert first == public_key()
    assert private_key().stat().st_mode & 0o077 == 0
    assert sorted(path.name for path in private_key().parent.iterdir()) == ["id_ed25519", "id_ed25519.pub"]


def test_two_that_need_a_key_at_once_get_the_same() -> None:
    keys: list[str] = []
    threads = [threading.Thread(target=lambda: keys.append(public_key())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    made = subprocess.run(["ssh-keygen", "-y", "-f", str(private_key())], capture_output=True, text=True, check=True)
    assert made.stdout.split()[1] == public_key().split()[1]
    assert len(keys) == 4


def test_no_ssh_keygen_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ConfigError, match="openssh-client"):
        public_key()


# --- against a real sshd ----------------------------------------------------------------------------------------------


@pytest.fixture
def reached(vm: Instance, tmp_path: Path) -> Iterator[Access]:
    """An sshd for this user on loopback, which takes Manor's key, in the place of a guest."""
    if SSHD is None:
        pytest.skip("there is no sshd on this machine")
    host_key = tmp_path / "host_key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(host_key)], check=True)
    (tmp_path / "authorized").write_text(public_key() + "\n")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = {
        "HostKey": host_key, "AuthorizedKeysFile": tmp_path / "authorized", "ListenAddress": f"127.0.0.1:{port}",
        "PidFile": "none", "StrictModes": "no", "UsePAM": "no", "PermitRootLogin": "yes",
        "PasswordAuthentication": "no", "Subsystem": "sftp internal-sftp",
    }  # fmt: skip
    (tmp_path / "sshd_config").write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(tmp_path / "sshd_config")], stderr=subprocess.PIPE)
    way = Access(vm, "127.0.0.1", port, getpass.getuser())
    try:
        wait_for_ssh(way, 10)
        if subprocess.run(way.ssh(("true",)), capture_output=True, stdin=subprocess.DEVNULL, timeout=30).returncode:
            pytest.skip("sshd lets this user not in here")
        yield way
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def run(argv: list[str], data: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, input=data, capture_output=True, text=True, timeout=30, check=False)


def test_arguments_arrive_as_they_were(reached: Access) -> None:
    words = ("printf", "[%s]", "a  b", "$HOME", "it's", "", "*", "-n", "ü\n")
    done = run(reached.ssh(words, terminal=False, quote=True))
    assert done.stdout == "".join(f"[{word}]" for word in words[2:])
    assert (done.returncode, done.stderr) == (0, "")


def test_words_of_ssh_go_to_the_guests_shell(reached: Access) -> None:
    assert run(reached.ssh(("echo", "a  b;", "echo", "c"))).stdout == "a b\nc\n"


def test_exit_status_and_streams_are_passed_through(reached: Access) -> None:
    done = run(reached.ssh(("sh", "-c", "cat; echo no >&2; exit 7"), terminal=False, quote=True), "typed")
    assert (done.stdout, done.stderr, done.returncode) == ("typed", "no\n", 7)


def test_files_are_copied_both_ways(reached: Access, tmp_path: Path) -> None:
    (tmp_path / "a b").write_text("hello")
    assert run(reached.scp([str(tmp_path / "a b")], f":{tmp_path}/there", False)).returncode == 0
    assert run(reached.scp([f":{tmp_path}/there"], str(tmp_path / "back"), False)).returncode == 0
    assert (tmp_path / "back").read_text() == "hello"


def test_host_that_changes_its_key_is_refused(reached: Access, tmp_path: Path) -> None:
    (line,) = reached.instance.known_hosts.read_text().splitlines()
    name, kind, _ = line.split()
    other = public_key().split()[1]
    reached.instance.known_hosts.write_text(f"{name} {kind} {other}\n")
    done = run(reached.ssh(("true",)))
    assert done.returncode == 255
    assert "Host key verification failed" in done.stderr


def test_users_own_configuration_is_left_alone(
    reached: Access, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home" / ".ssh").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert run(reached.ssh(("true",))).returncode == 0
    assert list((tmp_path / "home" / ".ssh").iterdir()) == []


# --- where the guest listens ------------------------------------------------------------------------------------------


def forward(host_port: int, guest_port: int, address: str = "", protocol: str = "tcp") -> dict[str, Any]:
    return {"protocol": protocol, "host_address": address, "host_port": host_port, "guest_port": guest_port}


def test_forwarded_port_is_used(vm: Instance) -> None:
    ports = [forward(5353, 22, protocol="udp"), forward(8080, 80), forward(2222, 22, "0.0.0.0")]
    vmm = FakeVmm(vm.control, {"nics": {"nics": [{"ports": []}, {"ports": ports}]}})
    way = access(vm)
    assert (way.host, way.port, way.user) == ("127.0.0.1", 2222, "root")
    assert [command for command, _ in vmm.asked] == ["nics"]


def test_without_one_a_port_is_forwarded(vm: Instance) -> None:
    vmm = FakeVmm(vm.control, {"nics": {"nics": [{"ports": []}]}, "port-add": forward(40_000, 22)})
    way = access(vm, "ann")
    assert (way.host, way.port, way.user) == ("127.0.0.1", 40_000, "ann")
    assert vmm.asked[-1] == ("port-add", {"port": "0:22"})


def test_host_that_accepts_without_a_server_behind_is_not_taken_for_one(vm: Instance) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        stop = threading.Event()

        def accept() -> None:
            server.settimeout(0.05)
            while not stop.is_set():
                try:
                    server.accept()[0].close()
                except TimeoutError:
                    continue

        thread = threading.Thread(target=accept)
        thread.start()
        began = time.monotonic()
        with pytest.raises(HostError, match="no ssh server answers in the guest of web"):
            wait_for_ssh(Access(vm, "127.0.0.1", server.getsockname()[1], "root"), 0.3)
        assert time.monotonic() - began < 5
        stop.set()
        thread.join()
