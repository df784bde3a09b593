"""The real virsh, libvirt-python and raw sockets against the daemon, with domains in memory."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import pytest

from manor.testing.daemon import DaemonProcess

DOMAIN = """
<domain type='test'>
  <name>{name}</name>
  <memory unit='MiB'>64</memory>
  <vcpu>2</vcpu>
  <os><type>hvm</type></os>
  <devices>
    <disk type='file'><source file='/nowhere/a.img'/><target dev='vda'/></disk>
    <interface type='user'><mac address='52:54:00:11:22:33'/></interface>
    <console type='pty'/>
  </devices>
</domain>
"""


class Virsh(Protocol):
    def __call__(self, *command: str, check: bool = True) -> str: ...


@pytest.fixture
def virsh(daemon: DaemonProcess) -> Virsh:
    def run(*command: str, check: bool = True) -> str:
        return daemon.virsh(*command, uri=daemon.uri("test", "/default"), check=check)

    return run


@pytest.fixture
def web1(virsh: Virsh, place: Path) -> Iterator[str]:
    path = place / "web1.xml"
    path.write_text(DOMAIN.format(name="web1"))
    virsh("define", str(path))
    yield "web1"
    virsh("destroy", "web1", check=False)
    virsh("undefine", "web1", "--snapshots-metadata", check=False)


def test_life(virsh: Virsh, web1: str) -> None:
    assert virsh("domstate", web1) == "shut off"
    virsh("start", web1)
    assert virsh("domstate", web1, "--reason") == "running (booted)"
    virsh("suspend", web1)
    assert virsh("domstate", web1, "--reason") == "paused (user)"
    virsh("resume", web1)
    assert virsh("domstate", web1, "--reason") == "running (unpaused)"
    virsh("reboot", web1)
    virsh("reset", web1)
    assert "already active" in virsh("start", web1, check=False)
    virsh("shutdown", web1)
    assert virsh("domstate", web1, "--reason") == "shut off (shutdown)"
    assert "domain is not running" in virsh("destroy", web1, check=False)
    virsh("start", web1, "--paused")
    assert virsh("list", "--name", "--state-paused") == web1
    virsh("destroy", web1)
    assert virsh("domstate", web1, "--reason") == "shut off (destroyed)"


def test_what_is_shown_of_a_domain(virsh: Virsh, web1: str) -> None:
    virsh("start", web1)
    xml = virsh("dumpxml", web1)
    assert "<currentMemory unit='KiB'>65536</currentMemory>" in xml
    assert "id='" in xml.splitlines()[0]
    assert "id='" not in virsh("dumpxml", web1, "--inactive").splitlines()[0]
    info = dict(line.split(":", 1) for line in virsh("dominfo", web1).splitlines())
    assert info["Max memory"].strip() == "65536 KiB"
    assert info["Persistent"].strip() == "yes"
    assert "vcpu.current=2" in virsh("domstats", web1)
    assert "192.168.122.3/24" in virsh("domifaddr", web1)
    assert "/nowhere/a.img" in virsh("domblklist", web1)
    assert "52:54:00:11:22:33" in virsh("domiflist", web1)
    assert virsh("domuuid", web1) in xml
    assert virsh("domname", virsh("domuuid", web1)) == web1
    assert "rd_req" in virsh("domblkstat", web1, "vda")
    assert "rx_bytes" in virsh("domifstat", web1, "vnet0")
    assert "actual" in virsh("dommemstat", web1)
    assert "failed to get domain" in virsh("dominfo", "nobody", check=False)


def test_changes_of_a_domain(virsh: Virsh, web1: str) -> None:
    virsh("setmaxmem", web1, "256M", "--config")
    virsh("setmem", web1, "128M", "--config")
    assert "131072" in virsh("dumpxml", web1)
    virsh("setvcpus", web1, "1", "--config")
    assert "current='1'" in virsh("dumpxml", web1)
    virsh("autostart", web1)
    assert virsh("list", "--all", "--autostart", "--name") == web1
    virsh("desc", web1, "--config", "--title", "A title")
    assert virsh("desc", web1, "--title") == "A title"
    virsh("metadata", web1, "http://example.org/x", "--key", "k", "--set", "<a><b/></a>", "--config")
    assert "<b/>" in virsh("metadata", web1, "http://example.org/x", "--config")
    virsh("attach-disk", web1, "/nowhere/b.img", "vdb", "--config")
    assert "vdb" in virsh("domblklist", web1)
    assert "already exists" in virsh("attach-disk", web1, "/nowhere/c.img", "vdb", "--config", check=False)
    virsh("detach-disk", web1, "vdb", "--config")
    assert "vdb" not in virsh("domblklist", web1)
    virsh("domrename", web1, "web2")
    virsh("domrename", "web2", web1)
    virsh("start", web1)
    assert virsh("vcpucount", web1, "--live", "--active") == "1"
    virsh("setvcpus", web1, "2", "--live")
    assert virsh("vcpucount", web1, "--live", "--active") == "2"
    assert virsh("vcpucount", web1, "--config", "--active") == "1"
    assert "greater than max allowable" in virsh("setvcpus", web1, "3", "--live", check=False)
    virsh("attach-disk", web1, "/nowhere/d.img", "vdd", "--live")
    assert "vdd" in virsh("domblklist", web1)
    assert "vdd" not in virsh("domblklist", web1, "--inactive")
    virsh("setmem", web1, "64M", "--live")
    assert "65536 KiB" in virsh("dominfo", web1)


def test_tuning_is_kept_in_the_configuration(virsh: Virsh, web1: str) -> None:
    commands = {
        "memtune": (("--hard-limit", "102400"), "hard_limit     : 102400"),
        "schedinfo": (("--set", "cpu_shares=512"), "cpu_shares     : 512"),
        "numatune": (("--mode", "preferred", "--nodeset", "0"), "numa_mode      : preferred"),
        "blkiotune": (("--weight", "300", "--device-weights", "/dev/sda,200"), "device_weight  : /dev/sda,200"),
        "blkdeviotune vda": (("--total-iops-sec", "500"), "total_iops_sec : 500"),
        "domiftune 52:54:00:11:22:33": (("--inbound", "1000,2000"), "inbound.peak   : 2000"),
    }
    virsh("start", web1)
    for command, (options, shown) in commands.items():
        name, *more = command.split()
        assert "use --config" in virsh(name, web1, *more, *options, "--live", check=False)
        virsh(name, web1, *more, *options, "--config")
        assert shown in virsh(name, web1, *more, "--config")
        assert shown not in virsh(name, web1, *more, "--live")
    virsh("vcpupin", web1, "1", "0", "--config")
    assert "<vcpupin vcpu='1' cpuset='0'/>" in virsh("dumpxml", web1, "--inactive")
    assert "<hard_limit unit='KiB'>102400</hard_limit>" in virsh("dumpxml", web1, "--inactive")
    assert "hard_limit" not in virsh("dumpxml", web1)
    virsh("set-lifecycle-action", web1, "crash", "preserve", "--config")
    virsh("destroy", web1)
    virsh("start", web1)
    assert "<hard_limit unit='KiB'>102400</hard_limit>" in virsh("dumpxml", web1)
    assert "<on_crash>preserve</on_crash>" in virsh("dumpxml", web1)


def test_what_runs_and_what_is_kept_are_apart(virsh: Virsh, web1: str, place: Path) -> None:
    virsh("start", web1)
    virsh("desc", web1, "--config", "--title", "Next")
    assert virsh("desc", web1, "--title", "--live") == ""
    virsh("desc", web1, "--live", "Now")
    assert virsh("desc", web1, "--config") == ""
    virsh("attach-disk", web1, "/nowhere/e.img", "vde", "--config", "--live")
    virsh("detach-disk", web1, "vde", "--live")
    assert "vde" not in virsh("domblklist", web1)
    assert "vde" in virsh("domblklist", web1, "--inactive")
    virsh("attach-interface", web1, "bridge", "br0", "--mac", "52:54:00:aa:bb:cc", "--config")
    assert "52:54:00:aa:bb:cc" in virsh("domiflist", web1, "--inactive")
    assert "52:54:00:aa:bb:cc" not in virsh("domiflist", web1)
    virsh("attach-disk", web1, "/nowhere/cd.iso", "vdf", "--type", "cdrom", "--mode", "readonly", "--config")
    virsh("change-media", web1, "vdf", "/nowhere/other.iso", "--update", "--config")
    assert "other.iso" in virsh("domblklist", web1, "--inactive")
    virsh("change-media", web1, "vdf", "--eject", "--config")
    assert "other.iso" not in virsh("domblklist", web1, "--inactive")
    virsh("setmem", web1, "32M")
    virsh("setmem", web1, "48M", "--config")
    assert "<currentMemory unit='KiB'>32768</currentMemory>" in virsh("dumpxml", web1)
    assert "<currentMemory unit='KiB'>49152</currentMemory>" in virsh("dumpxml", web1, "--inactive")
    assert "active domain" in virsh("setmaxmem", web1, "128M", "--live", check=False)
    path = place / "changed.xml"
    path.write_text(virsh("dumpxml", web1, "--inactive").replace("<title>Next</title>", "<title>Third</title>"))
    virsh("define", str(path))
    assert virsh("desc", web1, "--title", "--live") == ""
    virsh("destroy", web1)
    virsh("start", web1)
    assert virsh("desc", web1, "--title", "--live") == "Third"
    assert "<currentMemory unit='KiB'>49152</currentMemory>" in virsh("dumpxml", web1)
    virsh("undefine", web1)
    assert "transient" in virsh("setmem", web1, "40M", "--config", check=False)


def test_what_has_no_effect_is_said(daemon: DaemonProcess, virsh: Virsh, web1: str, place: Path) -> None:
    path = place / "video.xml"
    text = virsh("dumpxml", web1).replace("</devices>", "<video><model type='qxl'/></video></devices>")
    path.write_text(text)
    virsh("define", str(path))
    assert "ignored configuration: domain/devices/video: the machine has no display" in virsh("dominfo", web1)
    assert "web1: domain/devices/video: the machine has no display" in daemon.log


def test_snapshots(virsh: Virsh, web1: str) -> None:
    virsh("snapshot-create-as", web1, "one", "--description", "first")
    virsh("snapshot-create-as", web1, "two")
    assert virsh("snapshot-list", web1, "--name").split() == ["one", "two"]
    assert virsh("snapshot-current", web1, "--name") == "two"
    assert virsh("snapshot-parent", web1, "two") == "one"
    assert "<description>first</description>" in virsh("snapshot-dumpxml", web1, "one")
    assert "2 snapshots" in virsh("undefine", web1, check=False)
    virsh("snapshot-revert", web1, "one")
    virsh("snapshot-delete", web1, "one", "--children")
    assert virsh("snapshot-list", web1, "--name") == ""


def test_networks(virsh: Virsh, place: Path) -> None:
    path = place / "net.xml"
    path.write_text("<network><name>lan</name><ip address='10.9.0.1' netmask='255.255.255.0'/></network>")
    virsh("net-define", str(path))
    virsh("net-start", "lan")
    virsh("net-autostart", "lan")
    assert "lan" in virsh("net-list", "--name")
    assert "10.9.0.1" in virsh("net-dumpxml", "lan")
    virsh("net-destroy", "lan")
    virsh("net-undefine", "lan")
    assert "Network not found" in virsh("net-info", "lan", check=False)
    virsh("net-create", str(path))
    virsh("net-destroy", "lan")
    assert "lan" not in virsh("net-list", "--all", "--name")


def test_volumes(virsh: Virsh, place: Path) -> None:
    data, back = place / "data", place / "back"
    data.write_bytes(os.urandom(3_000_000))
    virsh("vol-create-as", "default-pool", "v", "4M")
    virsh("vol-upload", "v", str(data), "--pool", "default-pool")
    virsh("vol-download", "v", str(back), "--pool", "default-pool", "--length", "3000000")
    assert back.read_bytes() == data.read_bytes()
    assert "already in use" in virsh("vol-create-as", "default-pool", "v", "1M", check=False)
    virsh("vol-resize", "v", "8M", "--pool", "default-pool")
    assert "8.00 MiB" in virsh("vol-info", "v", "--pool", "default-pool")
    virsh("vol-clone", "v", "w", "--pool", "default-pool")
    virsh("vol-wipe", "w", "--pool", "default-pool")
    too_much = place / "much"
    too_much.write_bytes(bytes(9 << 20))
    assert "room" in virsh("vol-upload", "v", str(too_much), "--pool", "default-pool", check=False)
    for name in ("v", "w"):
        virsh("vol-delete", name, "--pool", "default-pool")
    assert virsh("vol-list", "default-pool") == ""


def test_events(daemon: DaemonProcess, virsh: Virsh, web1: str) -> None:
    uri = daemon.uri("test", "/default")
    with subprocess.Popen(
        ["virsh", "-c", uri, "event", "--event", "lifecycle", "--loop", "--timeout", "6"],
        stdout=subprocess.PIPE,
        text=True,
    ) as watcher:
        time.sleep(1.0)
        virsh("start", web1)
        virsh("suspend", web1)
        virsh("destroy", web1)
        assert watcher.stdout is not None
        said = watcher.stdout.read()
    words = ["Started Booted", "Suspended Paused", "Stopped Destroyed"]
    assert [word for word in words if f"domain 'web1': {word}" in said] == words


def test_console(daemon: DaemonProcess, virsh: Virsh, web1: str) -> None:
    import pty
    import select

    virsh("start", web1)
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvp("virsh", ["virsh", "-c", daemon.uri("test", "/default"), "console", web1])
    said, limit = b"", time.monotonic() + 20
    is_typed = False
    while time.monotonic() < limit and b"I am here" not in said:
        if select.select([terminal], [], [], 0.2)[0]:
            said += os.read(terminal, 4096)
        if b"login:" in said and not is_typed:
            os.write(terminal, b"I am here")
            is_typed = True
    os.write(terminal, b"\x1d")
    os.waitpid(pid, 0)
    os.close(terminal)
    assert b"web1 login:" in said
    assert b"I am here" in said


def test_the_read_only_socket_refuses_by_itself(daemon: DaemonProcess, web1: str) -> None:
    """The client's own check is left out: the calls go over a raw connection."""
    from manor.rpc.connection import ClientConnection
    from manor.rpc.message import CallFailed, Message, Reply
    from manor.rpc.protocol.catalog import REMOTE

    connection = ClientConnection()
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(f"{daemon.socket}-ro")
        raw.settimeout(10)

        def call(name: str, *arguments: object) -> Message:
            connection.call(REMOTE[name], arguments)
            for outgoing in connection.take_outgoing():
                raw.sendall(outgoing.data)
            while True:
                for message in connection.receive(raw.recv(65536)):
                    assert isinstance(message, CallFailed | Reply)
                    return message

        call("connect_open", "test:///default", 0)
        found = call("domain_lookup_by_name", web1)
        assert isinstance(found, Reply)
        for name in ("domain_create", "domain_undefine", "domain_destroy"):
            refused = call(name, found.value)
            assert isinstance(refused, CallFailed), name
            assert refused.error.code == 29, name
        refused = call("domain_define_xml", "<domain/>")
        assert isinstance(refused, CallFailed)
        assert refused.error.code == 29


@pytest.mark.parametrize(
    "frame",
    [
        b"GET / HTTP/1.0\r\n\r\n",
        struct.pack(">I", 0),
        struct.pack(">I", 0xFFFFFFFF),
        struct.pack(">IIIiiIi", 28, 0x20008086, 1, 1, 9, 0, 0),
        struct.pack(">IIIiiIi", 28, 0x20008086, 1, 66, 4, 0, 0),  # descriptors announced, none there
        struct.pack(">IIIiiIi", 28, 0x20008086, 1, 66, 1, 0, 0),  # a reply from a client
        os.urandom(4096),
    ],
)
def test_a_malformed_frame_ends_its_own_connection_only(daemon: DaemonProcess, virsh: Virsh, frame: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as bad:
        bad.connect(str(daemon.socket))
        bad.settimeout(10)
        bad.sendall(frame)
        assert bad.recv(65536) == b""
    assert "test" in virsh("list", "--name")


def test_bad_arguments_are_answered_and_the_connection_goes_on(daemon: DaemonProcess) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(daemon.socket))
        client.settimeout(10)
        cases = ((9999, b""), (23, b"\xff\xff\xff\xff"), (66, b"\0\0\0\0"), (23, b""))
        for number, (procedure, payload) in enumerate(cases):
            client.sendall(
                struct.pack(">IIIiiIi", 28 + len(payload), 0x20008086, 1, procedure, 0, number, 0) + payload
            )
            header = struct.unpack(">IIIiiIi", client.recv(28, socket.MSG_WAITALL))
            client.recv(header[0] - 28, socket.MSG_WAITALL)
            assert header[5:] == (number, 1)


def test_a_hundred_clients_at_once(daemon: DaemonProcess, place: Path) -> None:
    program = textwrap.dedent(f"""
        import libvirt
        uri = {daemon.uri("test", "/default")!r}
        held = [libvirt.open(uri) for _ in range(100)]
        print(sum(len(each.listAllDomains()) for each in held))
    """)
    if subprocess.run(["/usr/bin/python3", "-c", "import libvirt"], check=False, capture_output=True).returncode:
        pytest.skip("there is no libvirt-python here (python3-libvirt)")
    done = subprocess.run(["/usr/bin/python3", "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 100


def test_clients_that_define_at_the_same_time(daemon: DaemonProcess, virsh: Virsh, place: Path) -> None:
    def make(number: int) -> str:
        path = place / f"p{number}.xml"
        path.write_text(DOMAIN.format(name="same"))
        return virsh("define", str(path), check=False)

    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(make, range(4)))
    assert sum("error" not in each for each in said) == 1
    assert sum("already exists with uuid" in each for each in said) == 3
    virsh("undefine", "same")


def test_what_is_not_there_is_said_by_name(virsh: Virsh, web1: str) -> None:
    virsh("start", web1)
    assert "cannot write /nowhere/x: No such file or directory" in virsh("save", web1, "/nowhere/x", check=False)
    assert "the machine has no NMI button" in virsh("inject-nmi", web1, check=False)
    assert "domain_inject_nmi" in virsh("inject-nmi", web1, check=False)


def test_tls_with_certificates_of_our_own(place: Path) -> None:
    root = place / "tls"
    root.mkdir()
    for folder, client in (("pki", "ann"), ("stranger", "eve")):
        subprocess.run(
            [sys.executable, "-m", "manor.daemon", "certs", str(root / folder), "--host", "localhost",
             "--client", client],
            check=True, capture_output=True,
        )  # fmt: skip
    pki = root / "pki"
    shutil.copy(pki / "cacert.pem", root / "stranger" / "cacert.pem")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    files = {"tls_ca": "cacert.pem", "tls_cert": "servercert.pem", "tls_key": "serverkey.pem"}
    options = [word for name, file in files.items() for word in ("--set", f"{name}={pki / file}")]
    daemon = DaemonProcess(root, "--tls-listen", f"127.0.0.1:{port}", *options)
    daemon.start()
    try:
        uri = f"test+tls://localhost:{port}/default?pkipath="
        assert daemon.virsh("list", "--name", uri=f"{uri}{pki}") == "test"
        assert "failed to connect" in daemon.virsh("list", uri=f"{uri}{root / 'stranger'}", check=False)
    finally:
        assert daemon.end() == 0
