"""`libvirt+URI`: the real virsh through manord to the real libvirtd, compared with virsh that goes there directly."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from manor.client import Connection, ErrorCode, RemoteError, connect
from manor.testing.daemon import DaemonProcess
from manor.testing.libvirtd import missing, program_path, running_libvirtd

needs_libvirtd = pytest.mark.skipif(missing() is not None, reason=missing() or "")

UUID = "11111111-2222-3333-4444-555555555555"
FILES = {
    "domain.xml": f"<domain type='test'><name>web1</name><uuid>{UUID}</uuid><memory unit='MiB'>64</memory>"
    "<vcpu>2</vcpu><os><type>hvm</type></os></domain>",
    "broken.xml": "<domain><name>x</name>",
    "net.xml": "<network><name>lan</name><uuid>11111111-2222-3333-4444-555555555556</uuid>"
    "<ip address='10.9.0.1' netmask='255.255.255.0'/></network>",
    "pool.xml": "<pool type='dir'><name>p</name><uuid>11111111-2222-3333-4444-555555555557</uuid>"
    "<target><path>/p</path></target></pool>",
    "vol.xml": "<volume><name>v</name><capacity unit='M'>4</capacity></volume>",
    "secret.xml": "<secret ephemeral='no'><usage type='ceph'><name>s</name></usage></secret>",
}
CLOCK = re.compile(r"(?<=CPU time:)\s+\S+|(?<=time=)\d+")
COMMANDS = """
list --all
version
hostname
nodeinfo
nodecpustats
nodememstats
nodecpumap
freecell
maxvcpus
capabilities
domcapabilities
sysinfo
dominfo test
domstate test --reason
domid test
domuuid test
dumpxml test
dumpxml nobody
vcpuinfo test
vcpucount test
vcpupin test
domblklist test
domiflist test
dommemstat test
domifaddr test
domstats
domblkinfo test vda
domtime test
qemu-agent-command test x
qemu-monitor-command test x
define {domain.xml}
define {broken.xml}
define {domain.xml}
list --all
start web1
start web1
suspend web1
domstate web1 --reason
resume web1
setmem web1 32M
setvcpus web1 1
setmaxmem web1 128M --config
dumpxml web1
desc web1 --config --title A-title
metadata web1 http://example.org/x --key k --set <a/> --config
autostart web1
snapshot-create-as web1 one
snapshot-list web1 --name
snapshot-info web1 one
snapshot-current web1 --name
snapshot-parent web1 one
managedsave web1
list --all --with-managed-save
managedsave-remove web1
reboot web1
shutdown web1
domrename web1 web2
snapshot-delete web2 one
undefine web2
domjobinfo test
domfsinfo test
domdisplay test
domhostname test
guestinfo test
net-define {net.xml}
net-start lan
net-autostart lan
net-list --all
net-dumpxml lan
net-info lan
net-dhcp-leases lan
net-destroy lan
net-undefine lan
net-info lan
iface-list --all
pool-define {pool.xml}
pool-start p
pool-info p
pool-dumpxml p
vol-create p {vol.xml}
vol-list p
vol-info v --pool p
vol-path v --pool p
vol-dumpxml v --pool p
vol-resize v 8M --pool p
vol-delete v --pool p
pool-destroy p
pool-undefine p
nodedev-list
nodedev-dumpxml computer
secret-list
secret-define {secret.xml}
nwfilter-list
nwfilter-binding-list
checkpoint-list test
console test
migrate test qemu:///x
dump test /nowhere/x
save test /nowhere/x
restore /nowhere/x
blockjob test vda
destroy test
""".strip().splitlines()


def virsh(uri: str, *words: str, input: str | None = None) -> tuple[int, str, str]:
    program = program_path("virsh")
    assert program is not None
    done = subprocess.run(
        [program, "-c", uri, *words], capture_output=True, text=True, timeout=60, check=False, input=input,
        env={"LC_ALL": "C", "HOME": "/nonexistent"},
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def through(daemon: DaemonProcess, inner: str, read_only: bool = False) -> str:
    """To `libvirt+inner`, by way of `daemon`."""
    return f"{daemon.uri(read_only=read_only)}&name={quote(f'libvirt+{inner}', safe='')}"


@pytest.fixture(scope="module")
def libvirtd() -> Iterator[Path]:
    with running_libvirtd() as path:
        yield path


@pytest.fixture(scope="module")
def other() -> Iterator[DaemonProcess]:
    """A second manord: one that has streams to and from volumes."""
    with tempfile.TemporaryDirectory(prefix="mgo") as folder:
        made = DaemonProcess(Path(folder))
        made.start()
        yield made
        assert made.end() == 0
        assert "Traceback" not in made.log


@needs_libvirtd
def test_virsh_says_the_same_directly_and_through_us(daemon: DaemonProcess, tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in FILES}
    for name, text in FILES.items():
        files[name].write_text(text)
    # One daemon each: what a command does, it does once.
    with running_libvirtd() as first, running_libvirtd() as second:
        direct = f"test+unix:///default?socket={first}"
        ours = through(daemon, f"test+unix:///default?socket={second}")
        for line in COMMANDS:
            words = [str(files[word[1:-1]]) if word[1:-1] in files else word for word in line.split()]
            expected, found = virsh(direct, *words), virsh(ours, *words)
            if words[0] in ("nodecpustats", "nodememstats", "freecell"):  # the host's, and they change
                expected, found = (
                    (each[0], "".join(c for c in each[1] if not c.isdigit()).replace(" ", ""), each[2])
                    for each in (expected, found)
                )
            # libvirtd's test driver makes up times from the clock.
            expected, found = ((each[0], CLOCK.sub("", each[1]), each[2]) for each in (expected, found))
            assert found == expected, line


@needs_libvirtd
def test_a_screenshot_comes_through(daemon: DaemonProcess, libvirtd: Path, tmp_path: Path) -> None:
    uri = f"test+unix:///default?socket={libvirtd}"
    for name, each in (("a", uri), ("b", through(daemon, uri))):
        assert virsh(each, "screenshot", "test", str(tmp_path / name))[0] == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() != b""


@needs_libvirtd
def test_events_come_through(daemon: DaemonProcess, libvirtd: Path) -> None:
    uri = through(daemon, f"test+unix:///default?socket={libvirtd}")
    program = program_path("virsh")
    assert program is not None
    with subprocess.Popen(
        [program, "-c", uri, "event", "--event", "lifecycle", "--loop", "--timeout", "5"],
        stdout=subprocess.PIPE, text=True,
    ) as watcher:  # fmt: skip
        time.sleep(1.0)
        for command in ("suspend", "resume"):
            assert virsh(uri, command, "test")[0] == 0
        assert watcher.stdout is not None
        said = watcher.stdout.read()
    assert [line.partition(": ")[2] for line in said.splitlines()[:2]] == ["Suspended Paused", "Resumed Unpaused"]


@needs_libvirtd
def test_read_only_is_read_only_all_the_way(daemon: DaemonProcess, libvirtd: Path) -> None:
    uri = f"test+unix:///default?socket={libvirtd}"
    status, _, said = virsh(through(daemon, uri), "-r", "destroy", "test")
    assert status == 1
    assert "read only access prevents" in said
    # The read-only socket connects nobody to what the settings do not list.
    status, _, said = virsh(through(daemon, uri, read_only=True), "list")
    assert status == 1
    assert "list it under `remotes`" in said


def run(uri: str, work: Callable[[Connection], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with connect(uri) as connection:
            await asyncio.wait_for(work(connection), 30)

    asyncio.run(main())


async def until_it_fails(connection: Connection) -> None:
    for _ in range(100):
        await connection.hostname()
        await asyncio.sleep(0.01)


def test_streams_both_ways(daemon: DaemonProcess, other: DaemonProcess, tmp_path: Path) -> None:
    uri = through(daemon, other.uri("test", "/default"))
    data, back = tmp_path / "data", tmp_path / "back"
    data.write_bytes(os.urandom(5_000_000))
    assert virsh(uri, "vol-create-as", "default-pool", "v", "8M")[0] == 0
    assert virsh(uri, "vol-upload", "v", str(data), "--pool", "default-pool")[0] == 0
    assert virsh(uri, "vol-download", "v", str(back), "--pool", "default-pool", "--length", "5000000")[0] == 0
    assert back.read_bytes() == data.read_bytes()
    # The far end breaks the stream: its error is the client's.
    data.write_bytes(bytes(9 << 20))
    status, _, said = virsh(uri, "vol-upload", "v", str(data), "--pool", "default-pool")
    assert status == 1
    assert "more data than the volume" in said

    async def work(connection: Connection) -> None:
        pool = await connection.storage_pool("default-pool")
        volume = await pool.volume("v")
        stream = await volume.download()
        assert await stream.receive() != b""
        await stream.abort()  # the client has had enough
        assert (await volume.info()).capacity == 8 << 20

    run(uri, work)
    assert virsh(uri, "vol-delete", "v", "--pool", "default-pool")[0] == 0


def test_a_slow_reader_makes_the_far_end_wait(daemon: DaemonProcess, other: DaemonProcess) -> None:
    """Nothing between them grows with what is under way."""
    uri = through(daemon, other.uri("test", "/default"))
    assert virsh(uri, "vol-create-as", "default-pool", "big", "1G")[0] == 0
    assert daemon.process is not None
    statm = Path(f"/proc/{daemon.process.pid}/statm")

    async def work(connection: Connection) -> None:
        pool = await connection.storage_pool("default-pool")
        stream = await (await pool.volume("big")).download()
        before = int(statm.read_text().split()[1])
        await stream.receive()
        await asyncio.sleep(2.0)
        assert (int(statm.read_text().split()[1]) - before) * 4096 < 100 << 20
        assert await stream.receive() != b""
        await stream.abort()

    run(uri, work)
    assert virsh(uri, "vol-delete", "big", "--pool", "default-pool")[0] == 0


def test_a_daemon_that_vanishes(daemon: DaemonProcess, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="mgv") as folder:
        other = DaemonProcess(Path(folder))
        other.start()
        uri = through(daemon, other.uri("test", "/default"))
        program = program_path("virsh")
        assert program is not None
        with subprocess.Popen(
            [program, "-c", uri], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as shell:
            assert shell.stdin is not None
            shell.stdin.write("list --name\n")
            shell.stdin.flush()
            time.sleep(1.0)
            other.kill()
            time.sleep(0.5)
            other.start()
            shell.stdin.write("list --name\nquit\n")
            shell.stdin.flush()
            said, _ = shell.communicate(timeout=30)
        assert "error: Disconnected from" in said
        assert "due to end of file" in said
        # virsh opens anew, and so do we.
        assert said.count("\ntest\n") == 2, said

        async def work(connection: Connection) -> None:
            events = connection.events("lifecycle")
            await events.start()
            other.kill()
            # The call under way, or the next ones: libvirt's numbers.
            with pytest.raises(RemoteError) as caught:
                await until_it_fails(connection)
            assert caught.value.code in (ErrorCode.SYSTEM_ERROR, ErrorCode.INTERNAL_ERROR)
            with pytest.raises(RemoteError, match="client socket is closed") as caught:
                await connection.hostname()
            assert (caught.value.code, caught.value.domain) == (ErrorCode.INTERNAL_ERROR, 7)

        run(uri, work)
        status, _, said = virsh(uri, "list")
        assert status == 1
        assert "cannot connect to" in said


@pytest.mark.parametrize(
    ("inner", "reason"),
    [
        ("test+unix:///default?socket=/nowhere/sock", "No such file or directory"),
        ("qemu+carrier://x/", "no transport carrier"),
        ("libvirt+test:///default", "names no other daemon"),
        ("", "names no other daemon"),
    ],
)
def test_a_daemon_that_is_not_there_is_said(daemon: DaemonProcess, inner: str, reason: str) -> None:
    status, _, said = virsh(through(daemon, inner), "list")
    assert status == 1
    assert reason in said


def test_our_own_client_names_it_without_ado(daemon: DaemonProcess, other: DaemonProcess) -> None:
    async def work(connection: Connection) -> None:
        assert [domain.name for domain in await connection.domains()] == ["test"]
        with pytest.raises(RemoteError) as caught:
            await connection.domain("nobody")
        assert caught.value.code == ErrorCode.NO_DOMAIN
        assert caught.value.record.str1 is not None

    run(through(daemon, other.uri("test", "/default")), work)
