"""A real QEMU behind the daemon, and the real virsh in front of it: what it is asked for it makes; a guest lives."""

from __future__ import annotations

import os
import pty
import select
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from manor.base import process_lock
from manor.base.errors import ManorError
from manor.guests.default import DefaultGuest, cached_version, default_guest
from manor.guests.progress import Silent
from manor.testing.daemon import DaemonProcess

pytestmark = [
    pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="there is no QEMU here (qemu-system-x86)"),
    pytest.mark.skipif(shutil.which("virsh") is None, reason="there is no virsh here (libvirt-clients)"),
]

Virsh = Callable[..., str]


@pytest.fixture(scope="module")
def daemon() -> Iterator[DaemonProcess]:
    with tempfile.TemporaryDirectory(prefix="mgq") as folder:
        made = DaemonProcess(Path(folder))
        made.start()
        try:
            yield made
        finally:
            # VMs outlive their daemon, also where a test has failed.
            for lock in (made.root / "state" / "qemu" / "run").glob("*/lock"):
                if pid := process_lock.holder(lock):
                    os.kill(pid, signal.SIGKILL)
        assert made.end() == 0
        assert "Traceback" not in made.log


@pytest.fixture(scope="module")
def uri(daemon: DaemonProcess) -> str:
    return f"{daemon.uri()}&vmm=qemu"


@pytest.fixture(scope="module")
def virsh(daemon: DaemonProcess, uri: str) -> Virsh:
    def run(*command: str, check: bool = True) -> str:
        return daemon.virsh(*command, uri=uri, check=check)

    return run


def image(daemon: DaemonProcess, name: str, size: int = 1 << 20) -> Path:
    path = daemon.root / name
    path.write_bytes(bytes(size))
    return path


EVERYTHING = """
<domain type='qemu'>
  <name>all-{machine}</name>
  <memory unit='MiB'>64</memory>
  <vcpu current='1'>2</vcpu>
  <sysinfo type='smbios'><system><entry name='serial'>a,b</entry></system>
    <oemStrings><entry>x=1</entry><entry>y</entry></oemStrings></sysinfo>
  <os><type machine='{machine}'>hvm</type><boot dev='hd'/><smbios mode='sysinfo'/></os>
  <cpu mode='custom'><model>Nehalem</model><feature policy='disable' name='sse4.2'/></cpu>
  <clock offset='localtime'/>
  <devices>
    <disk type='file'><driver type='raw' cache='none'/><source file='{image}'/><target dev='vda' bus='virtio'/>
      <iotune><total_iops_sec>1000</total_iops_sec></iotune><serial>S1</serial></disk>
    <disk type='file'><source file='{image}2'/><target dev='sda' bus='scsi'/></disk>
    <disk type='file'><source file='{image}3'/><target dev='sdb' bus='sata'/></disk>
    <disk type='file' device='cdrom'><target dev='sdc' bus='sata'/><readonly/></disk>
    <disk type='file'><source file='{image}4'/><target dev='nvme0n1' bus='nvme'/></disk>
    <interface type='user'><portForward proto='tcp'><range start='{port}' to='22'/></portForward></interface>
    <interface type='user'><model type='e1000e'/><link state='down'/></interface>
    <interface type='null'><model type='rtl8139'/></interface>
    <interface type='null'/>
    <serial type='pty'/>
    <serial type='null'><target port='1'/></serial>
    <console type='pty'><target type='serial'/></console>
    <console type='pty'><target type='virtio'/></console>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <channel type='unix'><target type='virtio' name='other'/></channel>
    <memballoon model='virtio' freePageReporting='on'/>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend><rate bytes='1024'/></rng>
    <rng model='virtio'><backend model='builtin'/></rng>
    <filesystem><driver type='path'/><source dir='{folder}'/><target dir='tag'/><readonly/></filesystem>
    <graphics type='vnc' port='-1' passwd='geheim'/>
    <video><model type='virtio'/></video>
    <input type='tablet' bus='usb'/>
    <input type='keyboard' bus='virtio'/>
    <panic model='isa'/>
    <watchdog model='i6300esb' action='pause'/>
  </devices>
</domain>
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.parametrize("machine", ["q35", "pc"])
def test_qemu_takes_all_that_the_mapping_makes(daemon: DaemonProcess, virsh: Virsh, machine: str) -> None:
    path = image(daemon, f"all-{machine}")
    for number in (2, 3, 4):
        image(daemon, f"all-{machine}{number}")
    document = daemon.root / "all.xml"
    document.write_text(EVERYTHING.format(machine=machine, image=path, folder=daemon.root, port=free_port()))
    virsh("create", str(document), "--paused")
    name = f"all-{machine}"
    assert virsh("domstate", name) == "paused"
    xml = virsh("dumpxml", name, "--security-info")
    assert "<listen type='socket' socket='" in xml
    assert "geheim" not in virsh("dumpxml", name)
    assert len(virsh("domblklist", name).splitlines()) == 5
    virsh("resume", name)
    assert virsh("domstate", name) == "running"
    iso = image(daemon, "x.iso")
    virsh("change-media", name, "sdc", str(iso), "--insert", "--live")
    assert str(iso) in virsh("domblklist", name)
    virsh("change-media", name, "sdc", "--eject", "--live")
    assert str(iso) not in virsh("domblklist", name)
    virsh("blockresize", name, "vda", "2M")
    stats = virsh("domstats", name)
    assert "block.count=4" in stats  # an empty drive is no disk
    assert "vcpu.0.time=" in stats
    log = daemon.root / "state" / "qemu" / "run" / virsh("domuuid", name) / "qemu.log"
    virsh("destroy", name)
    assert [line for line in log.read_text().splitlines() if "warning" not in line and "terminating" not in line] == []


def test_what_qemu_refuses_is_told_in_its_words(daemon: DaemonProcess, virsh: Virsh) -> None:
    document = daemon.root / "bad.xml"
    text = "<domain type='qemu'><name>bad</name><memory unit='MiB'>64</memory><os><type>hvm</type></os>"
    text += "<devices>{}</devices></domain>"
    document.write_text(text.format("<disk type='file'><source file='/nowhere'/><target dev='vda'/></disk>"))
    said = virsh("create", str(document), check=False)
    assert "Could not open '/nowhere': No such file or directory" in said
    document.write_text(text.format("<hostdev mode='subsystem' type='pci'/>"))
    assert "domain/devices/hostdev: it is not made with QEMU here" in virsh("define", str(document), check=False)
    document.write_text(text.format("<emulator>/usr/bin/qemu-nowhere</emulator>"))
    said = virsh("create", str(document), check=False)
    assert "there is no /usr/bin/qemu-nowhere; install QEMU" in said


def test_what_it_offers(virsh: Virsh) -> None:
    assert "q35</machine>" in virsh("capabilities")
    assert "<value>vnc</value>" in virsh("domcapabilities")
    assert "unknown architecture: arm" in virsh("domcapabilities", "--arch", "arm", check=False)
    assert virsh("list", "--all", "--name") == ""


def test_manors_own_machine_is_beside_it(daemon: DaemonProcess, virsh: Virsh) -> None:
    document = daemon.root / "m.xml"
    document.write_text(
        "<domain type='qemu'><name>same</name><memory unit='MiB'>64</memory><os><type>hvm</type>"
        "<kernel>/k</kernel></os></domain>"
    )
    virsh("define", str(document))
    daemon.virsh("define", str(document))
    assert "machine='pc'" in daemon.virsh("dumpxml", "same", uri=f"{daemon.uri()}&vmm=manor")
    assert "/usr/bin/manor" in daemon.virsh("dumpxml", "same")
    assert "/usr/bin/qemu-system-x86_64" in virsh("dumpxml", "same")
    virsh("undefine", "same")
    daemon.virsh("undefine", "same")


# --- a guest that lives -----------------------------------------------------------------------------------------------


class Console:
    """`virsh console` on a terminal of the test's own."""

    def __init__(self, uri: str, name: str) -> None:
        self.said = ""
        self._pid, self._terminal = pty.fork()
        if self._pid == 0:
            os.execvp("virsh", ["virsh", "-c", uri, "console", name])
        self.wait("Escape character")

    def wait(self, text: str, seconds: float = 90.0) -> None:
        limit = time.monotonic() + seconds
        while text not in self.said:
            assert time.monotonic() < limit, self.said
            if select.select([self._terminal], [], [], 0.2)[0]:
                try:
                    self.said += os.read(self._terminal, 65536).decode(errors="replace")
                except OSError:
                    break
        assert text in self.said, self.said

    def type(self, line: str) -> None:
        self.said = ""
        os.write(self._terminal, line.encode() + b"\n")

    def close(self) -> None:
        os.write(self._terminal, b"\x1d")
        limit = time.monotonic() + 10
        while time.monotonic() < limit and os.waitpid(self._pid, os.WNOHANG)[0] == 0:
            if select.select([self._terminal], [], [], 0.05)[0]:
                try:
                    os.read(self._terminal, 65536)
                except OSError:
                    break
        os.close(self._terminal)


def wait_status(monitor: Path, status: str, seconds: float = 60.0) -> None:
    """Until a QEMU that no daemon watches says that it is so."""
    limit = time.monotonic() + seconds
    said = ""
    while status not in said:
        assert time.monotonic() < limit, said
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(str(monitor))
            client.sendall(b'{"execute": "qmp_capabilities"}{"execute": "query-status", "id": 1}')
            said = ""
            while '"id": 1' not in said:
                said += client.recv(4096).decode()
        time.sleep(0.2)


GUEST = """
<domain type='qemu'>
  <name>guest</name>
  <memory unit='MiB'>256</memory>
  <vcpu current='1'>2</vcpu>
  <os>
    <type machine='q35'>hvm</type><kernel>{kernel}</kernel><initrd>{initrd}</initrd><cmdline>{cmdline} {more}</cmdline>
  </os>
  <devices>
    <disk type='file'><source file='{image}'/><target dev='vda' bus='virtio'/></disk>
    <serial type='pty'/>
    <memballoon model='virtio'/>
  </devices>
</domain>
"""


@pytest.fixture(scope="module")
def guest() -> DefaultGuest:
    if cached_version() is None:
        pytest.skip("the default guest is not in the cache; `manor run` fetches it")
    try:
        return default_guest(Silent())
    except ManorError as error:
        pytest.skip(f"there is no default guest: {error}")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_guest_lives(daemon: DaemonProcess, virsh: Virsh, uri: str, guest: DefaultGuest) -> None:
    document = daemon.root / "guest.xml"
    document.write_text(
        GUEST.format(
            kernel=guest.kernel, initrd=guest.initrd, cmdline=guest.cmdline, image=image(daemon, "guest.img", 4 << 20),
            # On a busy host QEMU's translator is too slow for what Linux expects of the timer at the start.
            more="quiet no_timer_check",
        )
    )
    virsh("define", str(document))
    uuid = virsh("domuuid", "guest")
    virsh("start", "guest")
    console = Console(uri, "guest")
    console.wait("manor:~#")
    console.type("dd if=/dev/zero of=/dev/vda bs=4096 count=100; sync; echo wr''itten")
    console.wait("written")
    stats = dict(line.strip().split("=") for line in virsh("domstats", "guest").splitlines()[1:])
    assert int(stats["block.0.wr.bytes"]) >= 100 * 4096
    assert int(stats["cpu.time"]) > 10**9
    assert int(stats["vcpu.0.time"]) > 10**9
    # Paused, the guest's time stands still.
    virsh("suspend", "guest")
    assert virsh("domstate", "guest", "--reason") == "paused (user)"
    first = virsh("domstats", "guest", "--vcpu")
    time.sleep(1.0)
    assert virsh("domstats", "guest", "--vcpu") == first
    virsh("resume", "guest")
    # A disk comes and goes under the guest's eyes.
    second = image(daemon, "second.img", 8 << 20)
    virsh("attach-disk", "guest", str(second), "vdb", "--live")
    console.type("sleep 1; cat /sys/block/vdb/size; echo do''ne")
    console.wait("done")
    assert "16384" in console.said
    virsh("detach-disk", "guest", "vdb", "--live")
    console.type("ls /sys/block; echo do''ne")
    console.wait("done")
    assert "vda" in console.said
    assert "vdb" not in console.said
    # The daemon dies; the guest does not, and is found again with its console.
    daemon.kill()
    daemon.start()
    console.close()
    assert virsh("list", "--name") == "guest"
    console = Console(uri, "guest")
    console.type("echo al''ive")
    console.wait("alive")
    # It reboots by itself, and stays the same domain.
    number = virsh("domid", "guest")
    console.type("reboot -f")
    console.wait("manor:~#")
    assert virsh("domid", "guest") == number
    virsh("reset", "guest")
    console.said = ""
    console.wait("manor:~#")
    # It powers off while no daemon is there to see it.
    console.type("sleep 10; echo going; poweroff -f")
    console.wait("going")  # its echo: the guest has it
    daemon.kill()
    console.close()
    wait_status(daemon.root / "state" / "qemu" / "run" / uuid / "monitor", "shutdown")
    daemon.start()
    assert virsh("domstate", "guest", "--reason") == "shut off (shutdown)"
    # And while one is.
    virsh("start", "guest")
    console = Console(uri, "guest")
    console.wait("manor:~#")
    console.type("poweroff -f")
    limit = time.monotonic() + 30
    while virsh("domstate", "guest") != "shut off" and time.monotonic() < limit:
        time.sleep(0.2)
    assert virsh("domstate", "guest", "--reason") == "shut off (shutdown)"
    console.close()
    virsh("undefine", "guest")
