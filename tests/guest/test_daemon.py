"""Real guests under the daemon: they outlive it, and are found again with their consoles."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from manor.guests.default import DefaultGuest, KernelVariant
from manor.testing.daemon import DaemonProcess

DOMAIN = """
<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>192</memory>
  <os><type>hvm</type><kernel>{kernel}</kernel><initrd>{initrd}</initrd><cmdline>{cmdline}</cmdline></os>
  <devices>
    <disk type='file'><driver name='qemu' type='qcow2'/><source file='{disk}'/><target dev='vda'/></disk>
    <console type='pty'/>
  </devices>
</domain>
"""


@pytest.fixture
def daemon(manor_only: None) -> Iterator[DaemonProcess]:
    if shutil.which("virsh") is None:
        pytest.skip("there is no virsh here (libvirt-clients)")
    with tempfile.TemporaryDirectory(prefix="mgd") as folder:
        made = DaemonProcess(Path(folder))
        made.start()
        yield made
        for name in made.virsh("list", "--name").split():
            made.virsh("destroy", name)
        assert made.end() == 0
        assert "Traceback" not in made.log


@pytest.fixture
def vm(daemon: DaemonProcess, guests: Callable[[KernelVariant], DefaultGuest]) -> str:
    guest = guests("cloud")
    disk = daemon.root / "disk.qcow2"
    daemon.virsh("pool-create-as", "here", "dir", "--target", str(daemon.root))
    daemon.virsh("vol-create-as", "here", disk.name, "64M", "--format", "qcow2")
    path = daemon.root / "vm.xml"
    path.write_text(
        DOMAIN.format(name="vm", kernel=guest.kernel, initrd=guest.initrd, cmdline=guest.cmdline, disk=disk)
    )
    daemon.virsh("define", str(path))
    return "vm"


def process_of(daemon: DaemonProcess) -> int:
    (lock,) = (daemon.root / "state" / "run").glob("*/lock")
    return int(lock.read_text())


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.1)


def boot(daemon: DaemonProcess) -> None:
    daemon.virsh("start", "vm")
    (log,) = (daemon.root / "state" / "run").glob("*/console.log")
    wait_for(lambda: b"Manor: Linux is up" in log.read_bytes())


def type_into(daemon: DaemonProcess, text: str, expect: bytes, seconds: float = 40.0) -> bytes:
    """Through virsh's own console; what it showed."""
    import pty
    import select

    pid, terminal = pty.fork()
    if pid == 0:
        os.execvp("virsh", ["virsh", "-c", daemon.uri(), "console", "vm"])
    said, limit, is_typed = b"", time.monotonic() + seconds, False
    try:
        while expect not in said and time.monotonic() < limit:
            if select.select([terminal], [], [], 0.2)[0]:
                said += os.read(terminal, 65536)
            if not is_typed and b"# " in said:
                os.write(terminal, text.encode())
                is_typed = True
        os.write(terminal, b"\x1d")
    finally:
        os.waitpid(pid, 0)
        os.close(terminal)
    assert expect in said, said
    return said


def test_a_guest_outlives_its_daemon_twice(daemon: DaemonProcess, vm: str) -> None:
    boot(daemon)
    pid = process_of(daemon)
    type_into(daemon, "echo one''two\r", b"onetwo")
    daemon.kill()
    daemon.start()
    assert daemon.virsh("list", "--name") == vm
    assert process_of(daemon) == pid
    type_into(daemon, "echo three''four\r", b"threefour")
    daemon.virsh("suspend", vm)
    assert daemon.end() == 0
    daemon.start()
    assert daemon.virsh("domstate", vm, "--reason") == "paused (user)"
    daemon.virsh("resume", vm)
    type_into(daemon, "echo five''six\r", b"fivesix")
    assert "cpu.time=" in daemon.virsh("domstats", vm)
    assert "192 MiB" not in daemon.virsh("dominfo", vm)
    # The guest goes by itself.
    type_into(daemon, "exit\r", b"Power down")
    wait_for(lambda: daemon.virsh("domstate", vm, "--reason") == "shut off (shutdown)")
    daemon.virsh("snapshot-create-as", vm, "clean")
    info = subprocess.run(
        ["virsh", "-q", "-c", daemon.uri(), "snapshot-list", vm, "--name"], capture_output=True, text=True, check=True
    )
    assert info.stdout.split() == ["clean"]
    assert b"clean" in (daemon.root / "disk.qcow2").read_bytes()


def test_a_guest_that_ended_while_no_daemon_ran(daemon: DaemonProcess, vm: str) -> None:
    boot(daemon)
    pid = process_of(daemon)
    daemon.kill()
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not Path(f"/proc/{pid}").exists())
    daemon.start()
    assert daemon.virsh("domstate", vm, "--reason") == "shut off (crashed)"
    daemon.virsh("start", vm)
    daemon.virsh("destroy", vm)
    assert daemon.virsh("domstate", vm, "--reason") == "shut off (destroyed)"


def test_a_vmm_killed_behind_the_daemons_back(daemon: DaemonProcess, vm: str) -> None:
    boot(daemon)
    with subprocess.Popen(
        ["virsh", "-c", daemon.uri(), "event", "--event", "lifecycle", "--timeout", "20"],
        stdout=subprocess.PIPE,
        text=True,
    ) as watcher:
        time.sleep(1.0)
        os.kill(process_of(daemon), signal.SIGKILL)
        assert watcher.stdout is not None
        assert "Stopped Crashed" in watcher.stdout.read()
    assert daemon.virsh("domstate", vm, "--reason") == "shut off (crashed)"
    assert "its process was killed (signal 9)" in daemon.log


def test_a_guest_that_cannot_start_says_why(daemon: DaemonProcess, vm: str) -> None:
    (daemon.root / "disk.qcow2").unlink()
    assert "disk.qcow2" in daemon.virsh("start", vm, check=False)
    assert daemon.virsh("domstate", vm) == "shut off"
    xml = daemon.virsh("dumpxml", vm)
    path = daemon.root / "other.xml"
    path.write_text(xml.replace("<os>", "<os><loader>/x</loader>"))
    assert "domain/os/loader" in daemon.virsh("define", str(path), check=False)


def test_autostart_and_a_second_daemon(daemon: DaemonProcess, vm: str) -> None:
    daemon.virsh("autostart", vm)
    second = DaemonProcess(daemon.root)
    second.socket = daemon.root / "other"
    with pytest.raises(RuntimeError, match="in use by process"):
        second.start()
    assert daemon.end() == 0
    daemon.start()
    assert daemon.virsh("domstate", vm) == "running"


def test_start_paused_and_the_spec_of_a_vm(daemon: DaemonProcess, vm: str) -> None:
    daemon.virsh("start", vm, "--paused")
    assert daemon.virsh("domstate", vm, "--reason") == "paused (user)"
    (spec,) = (daemon.root / "state" / "run").glob("*/spec.json")
    assert json.loads(spec.read_text())["machine"]["memory"] == 192 << 20
    assert socket.gethostname() == daemon.virsh("hostname")
