"""The real virsh against the daemon, while a real guest is given devices and gives them back."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from manor.guests.default import DefaultGuest, KernelVariant
from manor.testing.daemon import DaemonProcess

pytestmark = pytest.mark.timeout(300)
MiB = 1 << 20
DOMAIN = """
<domain type='qemu'>
  <name>vm</name>
  <memory unit='MiB'>192</memory>
  <vcpu current='1'>2</vcpu>
  <os><type>hvm</type><kernel>{kernel}</kernel><initrd>{initrd}</initrd><cmdline>{cmdline}</cmdline></os>
  <devices>
    <disk type='file'><driver type='raw'/><source file='{root}/a.raw'/><target dev='vda'/></disk>
    <disk type='file' device='cdrom'><driver type='raw'/><target dev='sda' bus='sata'/><readonly/></disk>
    <interface type='user'><mac address='52:54:00:00:00:01'/></interface>
    <console type='pty'/>
  </devices>
</domain>
"""


@pytest.fixture(scope="module")
def daemon(guests: Callable[[KernelVariant], DefaultGuest]) -> Iterator[DaemonProcess]:
    """With a domain that runs."""
    if shutil.which("virsh") is None:
        pytest.skip("there is no virsh here (libvirt-clients)")
    guest = guests("cloud")
    with tempfile.TemporaryDirectory(prefix="mgd") as folder:
        root = Path(folder)
        for name in ("a.raw", "b.raw", "first.iso", "second.iso"):
            (root / name).write_bytes(name.encode().ljust(8 * MiB, b"\0"))
        made = DaemonProcess(root)
        made.start()
        (root / "vm.xml").write_text(
            DOMAIN.format(kernel=guest.kernel, initrd=guest.initrd, cmdline=guest.cmdline, root=root)
        )
        made.virsh("define", str(root / "vm.xml"))
        made.virsh("start", "vm")
        until(lambda: "Manor: Linux is up" in said(made), 90)
        time.sleep(0.5)
        yield made
        made.virsh("destroy", "vm")
        assert made.end() == 0
        assert "Traceback" not in made.log


@pytest.fixture
def events(daemon: DaemonProcess) -> Iterator[Callable[[str], bool]]:
    """events(text): whether virsh tells of such an event soon."""
    process = subprocess.Popen(
        ["stdbuf", "-oL", "virsh", "-c", daemon.uri(), "event", "--all", "--loop"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    heard: list[str] = []

    def hears(text: str) -> bool:
        assert process.stdout is not None
        limit = time.monotonic() + 20
        while time.monotonic() < limit:
            heard.append(process.stdout.read() or "")
            if text in "".join(heard):
                return True
            time.sleep(0.05)
        raise AssertionError("".join(heard))

    time.sleep(1.0)
    yield hears
    process.send_signal(signal.SIGINT)
    process.wait(20)
    process.stdout.close()


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.1)


def said(daemon: DaemonProcess) -> str:
    """All that the guest printed."""
    logs = list((daemon.root / "state" / "run").glob("*/console.log"))
    return logs[0].read_text("utf-8", "replace") if logs else ""


def ask(daemon: DaemonProcess, command: str) -> str:
    """What a command prints in the guest: typed into its console by its control socket, read from the log."""
    from manor.instances.client import ControlClient
    from manor.spec.control import encode_bytes

    (control,) = (daemon.root / "state" / "run").glob("*/control")
    mark = f"{time.monotonic_ns()}"
    with ControlClient(control) as client:
        line = f"echo be''gin{mark}; {command}; echo en''d{mark}\n"
        client.call("input", console="serial", data=encode_bytes(line.encode()))
    until(lambda: f"end{mark}" in said(daemon))
    return said(daemon).partition(f"begin{mark}")[2].partition(f"end{mark}")[0].strip()


def live(daemon: DaemonProcess) -> str:
    return daemon.virsh("dumpxml", "vm")


def test_disk(daemon: DaemonProcess, events: Callable[[str], bool]) -> None:
    daemon.virsh("attach-disk", "vm", str(daemon.root / "b.raw"), "vdb", "--subdriver", "raw", "--live")
    assert events("'device-added' for domain 'vm': virtio-disk1")
    found = re.search(r"<disk(?:(?!</disk>).)*b\.raw.*?</disk>", live(daemon), re.DOTALL)
    assert found is not None
    assert "<alias name='virtio-disk1'/>" in found[0]
    assert re.search(r"<address type='pci' [^/]*slot='0x0[0-9a-f]'", found[0])
    assert "b.raw" not in daemon.virsh("dumpxml", "vm", "--inactive")
    until(lambda: "yes" in ask(daemon, "[ -b /dev/vdb ] && echo y''es"))
    assert "b.raw" in ask(daemon, "head -c 5 /dev/vdb; echo")
    assert "rd_req" in daemon.virsh("domblkstat", "vm", "vdb")
    daemon.virsh("blockresize", "vm", "vdb", "16M")
    assert (daemon.root / "b.raw").stat().st_size == 16 * MiB
    assert "already exists" in daemon.virsh(
        "attach-disk", "vm", str(daemon.root / "a.raw"), "vdb", "--live", check=False
    )
    daemon.virsh("detach-disk", "vm", "vdb", "--live")
    assert events("'device-removed' for domain 'vm': virtio-disk1")
    assert "b.raw" not in live(daemon)
    assert "no" in ask(daemon, "[ -b /dev/vdb ] || echo n''o")


def test_interface(daemon: DaemonProcess, events: Callable[[str], bool]) -> None:
    options = ("--mac", "52:54:00:00:00:02", "--model", "virtio", "--live")
    daemon.virsh("attach-interface", "vm", "network", "default", *options)
    assert events("'device-added' for domain 'vm': net1")
    until(lambda: "yes" in ask(daemon, "ip addr show eth1 | grep -q 10.0.3.15 && echo y''es"))
    assert "52:54:00:00:00:02" in ask(daemon, "cat /sys/class/net/eth1/address")
    assert len(daemon.virsh("domiflist", "vm").splitlines()) == 2
    daemon.virsh("domif-setlink", "vm", "52:54:00:00:00:02", "down")
    assert daemon.virsh("domif-getlink", "vm", "52:54:00:00:00:02").endswith("down")
    until(lambda: ask(daemon, "cat /sys/class/net/eth1/carrier") == "0")
    daemon.virsh("domif-setlink", "vm", "52:54:00:00:00:02", "up")
    until(lambda: ask(daemon, "cat /sys/class/net/eth1/carrier") == "1")
    daemon.virsh("detach-interface", "vm", "network", "--mac", "52:54:00:00:00:02", "--live")
    assert events("'device-removed' for domain 'vm': net1")
    assert len(daemon.virsh("domiflist", "vm").splitlines()) == 1


def test_media(daemon: DaemonProcess) -> None:
    first, second = daemon.root / "first.iso", daemon.root / "second.iso"
    daemon.virsh("change-media", "vm", "sda", str(first), "--insert", "--live")
    until(lambda: "first" in ask(daemon, "head -c 9 /dev/vdb; echo"))
    daemon.virsh("change-media", "vm", "sda", str(second), "--update", "--live")
    until(lambda: "second" in ask(daemon, "head -c 10 /dev/vdb; echo"))
    assert "second.iso" in daemon.virsh("domblklist", "vm")
    daemon.virsh("change-media", "vm", "sda", "--eject", "--live")
    assert "second.iso" not in live(daemon)
    assert "no" in ask(daemon, "[ -b /dev/vdb ] || echo n''o")


def test_vcpus(daemon: DaemonProcess) -> None:
    daemon.virsh("setvcpus", "vm", "2", "--live")
    until(lambda: ask(daemon, "nproc") == "2")
    assert daemon.virsh("vcpucount", "vm", "--current", "--live") == "2"
    assert daemon.virsh("vcpucount", "vm", "--current", "--config") == "1"
    daemon.virsh("setvcpus", "vm", "1", "--live")
    assert ask(daemon, "nproc") == "1"
    assert daemon.virsh("vcpucount", "vm", "--current", "--live") == "1"
    assert "greater than max" in daemon.virsh("setvcpus", "vm", "3", "--live", check=False)


def test_what_cannot_be_had_is_said(daemon: DaemonProcess) -> None:
    root = daemon.root
    assert "No such file" in daemon.virsh("attach-disk", "vm", str(root / "none"), "vdc", "--live", check=False)
    (root / "rng.xml").write_text("<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>")
    refused = daemon.virsh("attach-device", "vm", str(root / "rng.xml"), "--live", check=False)
    assert "only disks and interfaces come and go" in refused
    (root / "nic.xml").write_text("<interface type='null'><mac address='52:54:00:00:00:01'/></interface>")
    refused = daemon.virsh("update-device", "vm", str(root / "nic.xml"), "--live", check=False)
    assert "only the link's state" in refused
    (root / "disk.xml").write_text(
        f"<disk type='file'><driver type='raw'/><source file='{root}/b.raw'/><target dev='vda'/></disk>"
    )
    refused = daemon.virsh("update-device", "vm", str(root / "disk.xml"), "--live", check=False)
    assert "only drives (device='cdrom') get other media" in refused
    assert "a.raw" in live(daemon)


def test_daemon_that_was_away_sees_what_is_gone(daemon: DaemonProcess) -> None:
    from manor.instances.client import ControlClient

    daemon.virsh("attach-disk", "vm", str(daemon.root / "b.raw"), "vdb", "--subdriver", "raw", "--live")
    daemon.kill()
    (control,) = (daemon.root / "state" / "run").glob("*/control")
    with ControlClient(control) as client:
        client.call("device-remove", device="virtio-disk1")
        until(lambda: "virtio-disk1" not in [each["name"] for each in client.call("devices")["devices"]])
    daemon.start()
    assert "b.raw" not in live(daemon)
    assert "rd_req" in daemon.virsh("domblkstat", "vm", "vda")
    daemon.virsh("detach-disk", "vm", "vda", "--live")
    assert "a.raw" not in live(daemon)
    assert "a.raw" in daemon.virsh("dumpxml", "vm", "--inactive")


def test_saved_domain_goes_on_with_what_came_and_without_what_went(daemon: DaemonProcess) -> None:
    """The test before this one took the first disk away."""
    daemon.virsh("attach-disk", "vm", str(daemon.root / "b.raw"), "vdb", "--subdriver", "raw", "--live")
    until(lambda: "yes" in ask(daemon, "ls /dev/vd? && echo y''es"))
    daemon.virsh("setvcpus", "vm", "2", "--live")
    until(lambda: ask(daemon, "nproc") == "2")

    def places() -> list[tuple[str, str]]:
        document = live(daemon)
        found = re.findall(r"<alias name='((?:virtio-disk|net)\d+)'/>\s*<address [^>]*slot='(\w+)'", document)
        assert found, document
        return sorted(found)

    before = places()
    daemon.virsh("managedsave", "vm")
    daemon.virsh("start", "vm")
    assert places() == before
    assert ask(daemon, "nproc") == "2"
    assert "b.raw" in ask(daemon, "head -c 5 /dev/vd?; echo")
    assert "rd_req" in daemon.virsh("domblkstat", "vm", "vdb")
    daemon.virsh("detach-disk", "vm", "vdb", "--live")
    assert "b.raw" not in live(daemon)
    assert ask(daemon, "ls /dev/vd? 2> /dev/null") == ""
