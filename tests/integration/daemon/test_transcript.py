"""`manor sh` and the real virsh against the same manord, command by command: the same bytes, the same exit status.

Each of both gets a daemon that has just been started, so that both find the same state. What differs between two runs
of virsh itself (counters, times, UUIDs that the daemon makes up) is made equal before the comparison.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from manor.shell.main import main
from manor.testing.daemon import DaemonProcess

VIRSH = shutil.which("virsh")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(VIRSH is None, reason="there is no virsh here (libvirt-clients)")]

TRANSCRIPT = Path(__file__).with_name("transcript.txt")
DOMAIN = """<domain type='test'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <memory>1048576</memory>
  <vcpu>2</vcpu>
  <os><type arch='x86_64'>hvm</type></os>
  <devices>
    <disk type='file' device='disk'><source file='/a.img'/><target dev='vda' bus='virtio'/></disk>
    <disk type='file' device='cdrom'><source file='/b.iso'/><target dev='hdc' bus='ide'/><readonly/></disk>
    <interface type='network'><source network='default'/><mac address='52:54:00:00:00:01'/></interface>
    <console type='pty'/>
  </devices>
</domain>
"""
VOLUME = "<volume><name>{}</name><capacity>4194304</capacity></volume>"
FILES = {
    "d.xml": DOMAIN.format(name="web1", uuid="44444444-2222-3333-4444-555555555555"),
    "t.xml": DOMAIN.format(name="web3", uuid="44444444-2222-3333-4444-555555555556"),
    "broken.xml": "<domain",
    "nothing.xml": "",
    "cpu.xml": "<cpu><arch>x86_64</arch><model>qemu64</model></cpu>",
    "disk.xml": "<disk type='file' device='disk'><source file='/x.img'/><target dev='vdx' bus='virtio'/></disk>",
    "disk2.xml": "<disk type='file' device='disk'><source file='/y.img'/><target dev='vda' bus='virtio'/></disk>",
    "snap.xml": "<domainsnapshot><name>s0</name></domainsnapshot>",
    "snap2.xml": "<domainsnapshot><name>s00</name><description>d</description></domainsnapshot>",
    "snap3.xml": "<domainsnapshot><name>s000</name></domainsnapshot>",
    "net.xml": "<network><name>lan</name><uuid>11111111-2222-3333-4444-555555555555</uuid>"
               "<ip address='10.9.0.1' netmask='255.255.255.0'/></network>",
    "host.xml": "<host ip='10.9.0.9'><hostname>x</hostname></host>",
    "pool.xml": "<pool type='dir'><name>files</name><uuid>22222222-2222-3333-4444-555555555555</uuid>"
                "<target><path>/files</path></target></pool>",
    **{f"vol{number or ''}.xml": VOLUME.format(f"n{number}") for number in (0, 2, 3, 4, 5)},
    "secret.xml": "<secret><uuid>33333333-2222-3333-4444-555555555555</uuid>"
                  "<usage type='ceph'><name>client.x</name></usage></secret>",
    "iface.xml": "<interface type='ethernet' name='none0'/>",
    "key.pub": "ssh-ed25519 AAAA me\n",
    "word": "word",
    "word64": "d29yZA==",
    "data": "abc" * 30000,
}  # fmt: skip


@dataclass(frozen=True)
class Line:
    """A command. environment: for this one alone."""

    text: str
    words: list[str]
    environment: dict[str, str] = field(default_factory=dict)


def lines() -> Iterator[Line]:
    for text in TRANSCRIPT.read_text("utf-8").splitlines():
        if text and not text.startswith("#"):
            words = [text] if "; " in text else shlex.split(text)
            environment = {}
            while re.match(r"[A-Z]+=", words[0]):
                name, _, value = words.pop(0).partition("=")
                environment[name] = value
            yield Line(text, words, environment)


Result = tuple[int, str, str]


def by_virsh(uri: str, place: Path, line: Line) -> Result:
    assert VIRSH is not None
    done = subprocess.run(
        [VIRSH, "-c", uri, *line.words], capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=place,
        check=False, timeout=60, env={**os.environ, **line.environment, "LC_ALL": "C"},
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def by_us(uri: str, place: Path, line: Line) -> Result:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(place), pytest.MonkeyPatch.context() as patch:
        for name, value in line.environment.items():
            patch.setenv(name, value)
        status = main(["-c", uri, *line.words], out=out, err=err)
    # As a text stream of subprocess has it.
    return status, out.getvalue().replace("\r", "\n"), err.getvalue().replace("\r", "\n")


def transcript(runner: Callable[[str, Path, Line], Result]) -> list[tuple[Result, bytes | None]]:
    """What each command gives, with the file that it has written."""
    with tempfile.TemporaryDirectory(prefix="mtr") as folder:
        place = Path(folder) / "files"
        place.mkdir()
        for name, text in FILES.items():
            (place / name).write_text(text, encoding="utf-8")
        with (place / "holes").open("wb") as file:
            file.seek(1 << 20)
            file.write(b"end")
        daemon = DaemonProcess(Path(folder))
        daemon.start()
        results = []
        try:
            for line in lines():
                result = runner(daemon.uri("test", "/default"), place, line)
                down = place / "down"
                results.append((tuple(str(each).replace(folder, "PLACE") for each in result),
                                down.read_bytes() if down.exists() else None))  # fmt: skip
                down.unlink(missing_ok=True)
        finally:
            assert daemon.end() == 0
        assert "Traceback" not in daemon.log, daemon.log
    return results  # type: ignore[return-value]


def without_what_varies(text: str) -> str:
    text = re.sub(r"\d{4}-\d\d-\d\d[ -]\d\d:\d\d:\d\d(\.\d+)?([+-]\d{4})?", "TIME", text)
    text = re.sub(r"cpu_time +[\d.]+", "cpu_time N", text)
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UUID", text)
    text = re.sub(r"^(CPU time: +|Time: +|Free: +|Pages: +).*$", r"\1N", text, flags=re.MULTILINE)
    text = re.sub(r"(\d+) KiB\b", "N KiB", text)
    text = re.sub(r"^(\w+ *: +|Total:? *|last_update |  ?[a-z. ]+: +|\t\w+ +)[\d.]{6,}.*$", r"\1N", text,
                  flags=re.MULTILINE)  # fmt: skip
    text = re.sub(r"(\.time|\.user|\.system|Time|time)=\d+", r"\1=N", text)
    text = re.sub(r"^(system|user|idle|iowait|usage) *: +[\d.]+%?", r"\1: N", text, flags=re.MULTILINE)
    text = re.sub(r"virm[0-9a-f]{6}", "BRIDGE", text)
    text = re.sub(r"^(\d+KiB: |total|buffers|cached|free)( *:)?.*$", r"\1 N", text, flags=re.MULTILINE)
    text = re.sub(r"(/tmp/)?(manor|virsh)\S*\.xml", "FILE", text)
    return re.sub(r"\b1\d{9}\b", "N", text)


EXPECTED = {
    r"help( .*)?": "the words are our own",
    r"cd /tmp; pwd|list; uri": "what follows a failure is not run, and the first failure is the exit status",
    r"dumpxml web1 --xpath //": "an expression that means nothing is an error here",
    r"change-media web1 hdc /d.iso --update --config --print-xml": "virsh leaves the white space of what it removed",
    r"net-port-(dumpxml|delete) .*": "virsh ends with status 0, and leaves out why",
    r"vol-upload .* --length 1000": "virsh sends the whole file, against its manual",
    r"secret-event --secret .*": "virsh waits for nothing first",
    r"migrate test qemu.*": "the words of who connects are our own",
    r"secret-undefine nope": "our words say what is wanted",
    r"snapshot-info web1 --current": "virsh cannot read a snapshot without a parent",
    r"EDITOR='sed .* --clone": "virsh hands the editor to a shell, which takes < for a redirection",
    r"EDITOR=.* net-edit lan": "virsh says (null), and fails after that",
}
"""Command (a pattern) -> why its output is not virsh's."""


def test_the_same_bytes_as_virsh() -> None:
    theirs, ours = transcript(by_virsh), transcript(by_us)
    differing = []
    for line, (their, their_file), (our, our_file) in zip(lines(), theirs, ours, strict=True):
        expected, found = ([r[0], *map(without_what_varies, r[1:])] for r in (their, our))
        if any(re.fullmatch(pattern, line.text) for pattern in EXPECTED):
            continue
        if expected != found or their_file != our_file:
            differing.append(f"{line.text}\n  virsh: {their!r}\n  ours:  {our!r}")
    assert not differing, f"{len(differing)} of {len(theirs)} differ:\n" + "\n".join(differing)
