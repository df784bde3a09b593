"""Real guests under the daemon: they outlive it, and are found again with their consoles."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from manor.client import RemoteError, sync
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


def change_action(daemon: DaemonProcess, *actions: tuple[str, str]) -> None:
    for kind, action in actions:
        daemon.virsh("set-lifecycle-action", "vm", kind, action, "--config")


def test_what_is_done_when_a_guest_powers_off_reboots_or_crashes(daemon: DaemonProcess, vm: str) -> None:
    text = daemon.virsh("dumpxml", vm).replace("</cmdline>", " panic=1</cmdline>")
    path = daemon.root / "panics.xml"
    path.write_text(text)
    daemon.virsh("define", str(path))
    change_action(daemon, ("poweroff", "restart"), ("crash", "preserve"))
    with subprocess.Popen(
        ["virsh", "-c", daemon.uri(), "event", "--all", "--loop", "--timeout", "100"], stdout=subprocess.PIPE, text=True
    ) as watcher:
        boot(daemon)
        number = daemon.virsh("domid", vm)
        (log,) = (daemon.root / "state" / "run").glob("*/console.log")
        (lock,) = (daemon.root / "state" / "run").glob("*/lock")
        first = lock.read_text()
        type_into(daemon, "exit\r", b"Power down")
        wait_for(lambda: lock.read_text() not in ("", first))
        wait_for(lambda: b"Manor: Linux is up" in log.read_bytes())
        assert daemon.virsh("domid", vm) == number
        daemon.virsh("reset", vm)
        wait_for(lambda: log.read_bytes().count(b"Manor: Linux is up") == 2)
        type_into(daemon, "echo c > /proc/sysrq-trigger\r", b"Kernel panic")
        wait_for(lambda: daemon.virsh("domstate", vm, "--reason") == "crashed (panicked)")
        assert "crashed" in daemon.virsh("resume", vm, check=False)
        watcher.terminate()
        assert watcher.stdout is not None
        said = watcher.stdout.read()
    daemon.kill()
    daemon.start()
    assert daemon.virsh("domstate", vm, "--reason") == "crashed (panicked)"
    daemon.virsh("destroy", vm)
    assert said.count("event 'reboot'") == 2
    assert "Crashed Panicked" in said


def test_the_console_is_read_from_positions_by_several_and_after_the_end(daemon: DaemonProcess, vm: str) -> None:
    boot(daemon)
    with sync.connect(daemon.uri()) as connection, sync.connect(daemon.uri()) as other:
        domain, services = connection.domain("vm"), connection.services
        text = services.console_log(domain).data
        assert b"Linux version" in text
        assert services.console_log(domain, 20, 7).data == text[20:27]
        followers = [each.services.follow_console(each.domain("vm"), 20) for each in (connection, other)]
        writer = services.open_console(domain, None, 2)
        with pytest.raises(RemoteError, match="writes to this console; watch it, or take it over"):
            other.services.open_console(other.domain("vm"), None, 1)
        watcher = other.services.open_console(other.domain("vm"), None, 0)
        watcher.send(b"echo wrong\n")
        writer.send(b"echo right-$((20 + 3))\n")
        for follower in followers:
            seen = b""
            while b"right-23" not in seen:
                piece = follower.receive()
                assert piece
                seen += bytes(piece)
            assert seen.startswith(text[20:40])
        assert b"wrong" not in services.console_log(domain, -4096).data
        end = services.console_log(domain, -1).end
        for stream in (*followers, writer, watcher):
            stream.abort()
    daemon.kill()
    daemon.start()
    with sync.connect(daemon.uri()) as connection:
        domain, services = connection.domain("vm"), connection.services
        assert services.console_log(domain, 20, 7).data == text[20:27]
        assert services.console_log(domain, -1).end >= end
        follower = services.follow_console(domain, -10)
        domain.destroy()
        while follower.receive():
            pass  # it ends with the VM
        assert b"right-23" in services.console_log(domain, -65536).data  # and the past is still there
        statistics = services.statistics(domain, time.time() - 3600, step=10)
        assert {each.name for each in statistics.series} >= {"cpu", "memory", "read"}


def test_a_plan_of_devices_that_come_and_go_is_what_happens(daemon: DaemonProcess, vm: str) -> None:
    boot(daemon)
    disk = "<disk type='file'><source file='{}'/><target dev='vdb' bus='virtio'/></disk>"
    (daemon.root / "second.raw").write_bytes(bytes(1 << 20))
    with sync.connect(daemon.uri()) as connection:
        domain, services = connection.domain("vm"), connection.services
        before = domain.xml()
        wanted = disk.format(daemon.root / "second.raw")
        plan = services.plan("domain_attach_device_flags", domain, wanted, 1)
        assert plan.problem is None
        assert [(item.path, item.when) for item in plan.items] == [("domain/devices/disk[vdb]", "live")]
        assert domain.xml() == before
        domain.attach_device(wanted, 1)
        assert "second.raw" in domain.xml()
        assert "second.raw" not in domain.xml(2)
        refused = services.plan("domain_attach_device_flags", domain, wanted, 1)
        assert refused.problem is not None
        with pytest.raises(RemoteError, match=re.escape(refused.problem.cause)):
            domain.attach_device(wanted, 1)
