"""`manor sh` and the real virsh side by side: the same commands to the same daemon, the same bytes and status.

The daemon is a private libvirtd with its test driver. What differs between two runs of virsh itself (counters, times,
UUIDs that the daemon makes up) is made equal before the comparison.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from manor.shell.main import main

VIRSH, LIBVIRTD = shutil.which("virsh"), shutil.which("libvirtd") or "/usr/sbin/libvirtd"
pytestmark = pytest.mark.skipif(VIRSH is None or not os.path.exists(LIBVIRTD), reason="virsh or libvirtd is missing")

DOMAIN = """<domain type='test'><name>web1</name><memory>1048576</memory><vcpu>2</vcpu>
<os><type arch='i686'>hvm</type></os><devices>
<disk type='file' device='disk'><source file='/a.img'/><target dev='vda' bus='virtio'/></disk>
<disk type='file' device='cdrom'><source file='/b.iso'/><target dev='hdc' bus='ide'/><readonly/></disk>
<interface type='network'><source network='default'/><mac address='52:54:00:00:00:01'/></interface>
</devices></domain>"""

COMMANDS = Path(__file__).with_suffix(".txt").read_text(encoding="utf-8").splitlines()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("shell")
    (place / "d.xml").write_text(DOMAIN, encoding="utf-8")
    return place


@pytest.fixture(scope="module")
def uri(directory: Path) -> Iterator[str]:
    config = directory / "libvirtd.conf"
    config.write_text(
        f'unix_sock_dir = "{directory}"\nauth_unix_rw = "none"\nauth_unix_ro = "none"\n'
        f'log_outputs = "3:file:{directory}/log"\n',
        encoding="utf-8",
    )
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(directory), "HOME": str(directory)}
    command = [LIBVIRTD, "-f", str(config), "-p", str(directory / "pid")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as daemon:
        try:
            deadline = time.monotonic() + 20
            while not (directory / "libvirt-sock").exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            if not (directory / "libvirt-sock").exists():
                pytest.skip("libvirtd does not start here; another one may hold its drivers")
            yield f"test+unix:///default?socket={directory}/libvirt-sock"
        finally:
            daemon.terminate()


Result = tuple[int, str, str]


def by_virsh(uri: str, directory: Path, command: str) -> Result:
    assert VIRSH is not None
    words = [VIRSH, "-c", uri, *command.split()]
    done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=directory, check=False)
    return done.returncode, done.stdout, done.stderr


def by_us(uri: str, directory: Path, command: str) -> Result:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(directory):
        status = main(["-c", uri, *command.split()], out=out, err=err)
    return status, out.getvalue(), err.getvalue()


@contextlib.contextmanager
def state_kept(uri: str) -> Iterator[None]:
    """The test driver keeps its state while somebody is connected."""
    assert VIRSH is not None
    words = [VIRSH, "-c", uri]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        holder.stdin.write("domid test\n")
        holder.stdin.flush()
        while (line := holder.stdout.readline()) and "1" not in line:
            pass
        assert line, "virsh ended before it was connected"
        yield
        holder.stdin.close()


def without_what_varies(text: str) -> str:
    text = re.sub(r"\d{4}-\d\d-\d\d[ -]\d\d:\d\d:\d\d", "TIME", text)
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UUID", text)
    text = re.sub(r"^(vda|testnet0) (\w+) \d+$", r"\1 \2 N", text, flags=re.MULTILINE)
    text = re.sub(r"^(CPU time: +).*$", r"\1N", text, flags=re.MULTILINE)
    text = re.sub(r"^(\w+: +|Time: |last_update |  ?[a-z. ]+: +)\d{8,}", r"\1N", text, flags=re.MULTILINE)
    return re.sub(r"\b1\d{9}\b", "N", text)


@pytest.mark.slow
def test_the_same_bytes_as_virsh(uri: str, directory: Path) -> None:
    transcripts = []
    for runner in (by_virsh, by_us):
        with state_kept(uri):
            transcripts.append([runner(uri, directory, command) for command in COMMANDS])
    differing = []
    for command, theirs, ours in zip(COMMANDS, *transcripts, strict=True):
        expected, found = ([r[0], *map(without_what_varies, r[1:])] for r in (theirs, ours))
        if expected != found:
            differing.append(f"{command}\n  virsh: {theirs!r}\n  ours:  {ours!r}")
    assert not differing, f"{len(differing)} of {len(COMMANDS)} differ:\n" + "\n".join(differing)
