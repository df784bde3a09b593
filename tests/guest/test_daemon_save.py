"""Real guests saved and restored by the real virsh, through the daemon."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from manor.instances.client import ControlClient
from manor.spec.control import decode_bytes, encode_bytes
from manor.testing.daemon import DaemonProcess
from tests.guest.test_daemon import boot, daemon, process_of, vm, wait_for

__all__ = ["daemon", "vm"]

pytestmark = pytest.mark.timeout(300)


def ask(daemon: DaemonProcess, command: str) -> str:
    """Type into the guest's shell over the VM's control socket; what it answers."""
    (control,) = (daemon.root / "state" / "run").glob("*/control")
    with ControlClient(control) as client:
        said = b""
        client.call("console", history=0)
        client.call("input", data=encode_bytes(f"echo sta''rt; {command}; echo en''d\n".encode()))
        limit = time.monotonic() + 30
        while not (found := re.search(rb"\nstart\r?\n(.*?)\r?\nend\r?\n", said, re.DOTALL)):
            assert time.monotonic() < limit, said
            event = client.next_event(1.0)
            if event is not None and event.get("event") == "console":
                said += decode_bytes(event["data"])
    return found[1].decode().replace("\r", "")


def state(daemon: DaemonProcess) -> str:
    return daemon.virsh("domstate", "vm", "--reason")


def lifecycle(daemon: DaemonProcess) -> list[str]:
    """All lifecycle events so far; one `virsh event` runs for the whole test."""
    return re.findall(r"event 'lifecycle' for domain '?vm'?: (.*)", (daemon.root / "events").read_text())


def test_save_restore_and_managed_save(daemon: DaemonProcess, vm: str, tmp_path: Path) -> None:
    boot(daemon)
    assert ask(daemon, "mark=onetwo; echo is $mark") == "is onetwo"
    with (daemon.root / "events").open("w") as output, subprocess.Popen(
        ["virsh", "-q", "-c", daemon.uri(), "event", "--loop", "--event", "lifecycle"], stdout=output
    ) as events:
        try:
            time.sleep(0.5)
            path = tmp_path / "vm.state"
            pid = process_of(daemon)
            daemon.virsh("save", vm, str(path))
            assert not Path(f"/proc/{pid}").exists()
            assert state(daemon) == "shut off (saved)"
            assert "<name>vm</name>" in daemon.virsh("save-image-dumpxml", str(path))
            daemon.virsh("restore", str(path), "--paused")
            assert state(daemon) == "paused (user)"
            daemon.virsh("resume", vm)
            # The shell still has what was told it before.
            assert ask(daemon, "echo is $mark") == "is onetwo"
            # A state belongs to its disks: they have gone on.
            failed = daemon.virsh("restore", str(path), check=False)
            assert "already running" in failed
            daemon.virsh("managedsave", vm)
            assert state(daemon) == "shut off (saved)"
            assert vm in daemon.virsh("list", "--all", "--name", "--with-managed-save")
            assert "managed save" in daemon.virsh("undefine", vm, check=False)
            assert "/nowhere" not in daemon.virsh("managedsave-dumpxml", vm)
            # The daemon knows it again after its own end.
            assert daemon.end() == 0
            daemon.start()
            assert state(daemon) == "shut off (saved)"
            daemon.virsh("start", vm)
            assert state(daemon) == "running (restored)"
            assert ask(daemon, "echo is $mark") == "is onetwo"
            daemon.virsh("managedsave", vm, "--paused")
            daemon.virsh("start", vm)
            assert state(daemon) == "paused (user)"
            daemon.virsh("destroy", vm)
            boot(daemon)
            daemon.virsh("managedsave", vm)
            daemon.virsh("managedsave-remove", vm)
            assert state(daemon).startswith("shut off")
            boot(daemon)
            daemon.virsh("managedsave", vm)
            daemon.virsh("undefine", vm, "--managed-save")
            assert not list((daemon.root / "state" / "saved").iterdir())
        finally:
            events.terminate()
            events.wait()
    told = lifecycle(daemon)
    assert told[:3] == ["Stopped Saved", "Started Restored", "Suspended Restored"]


def test_what_is_refused(daemon: DaemonProcess, vm: str, tmp_path: Path) -> None:
    boot(daemon)
    path = tmp_path / "vm.state"
    assert "No such file or directory" in daemon.virsh("save", vm, "/no/such/folder/x", check=False)
    assert state(daemon) == "running (booted)"
    daemon.virsh("save", vm, str(path))
    disk = daemon.root / "disk.qcow2"
    before = disk.stat()
    os.utime(disk)
    assert "has changed since the VM was saved" in daemon.virsh("restore", str(path), check=False)
    assert state(daemon) == "shut off (failed)"
    os.utime(disk, ns=(before.st_atime_ns, before.st_mtime_ns))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "is damaged" in daemon.virsh("restore", str(path), check=False)
    path.write_bytes(whole)
    more = daemon.virsh("save-image-dumpxml", str(path)).replace(">196608<", ">262144<")
    (tmp_path / "more.xml").write_text(more)
    wrong = daemon.virsh("restore", str(path), "--xml", str(tmp_path / "more.xml"), check=False)
    assert "the saved machine had" in wrong
    daemon.virsh("restore", str(path))
    assert state(daemon) == "running (restored)"


def test_a_daemon_that_is_killed_meanwhile(daemon: DaemonProcess, vm: str) -> None:
    """The VM saves itself all the same, and the next daemon finds what it wrote."""
    boot(daemon)
    with subprocess.Popen(["virsh", "-q", "-c", daemon.uri(), "managedsave", vm], stderr=subprocess.DEVNULL) as save:
        saved = daemon.root / "state" / "saved"
        wait_for(lambda: saved.exists() and bool(list(saved.iterdir())))
        daemon.kill()
        save.wait()
    wait_for(lambda: bool(list(saved.glob("*.state"))))
    (end,) = (daemon.root / "state" / "run").glob("*")
    wait_for(lambda: (end / "end.json").exists())
    assert json.loads((end / "end.json").read_text())["reason"] == "saved"
    daemon.start()
    assert state(daemon) == "shut off (saved)"
    daemon.virsh("start", vm)
    assert state(daemon) == "running (restored)"
