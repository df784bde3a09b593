"""Captures, as tshark reads them."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from manor.backends.net.api import Frame, Segmentation
from manor.backends.net.capture import CaptureNet
from manor.backends.net.memory import MemoryNet
from manor.backends.net.offload import EVERYTHING
from manor.backends.net.pcapng import OUTWARD, PcapngWriter
from manor.base.clock import FakeClock
from manor.base.errors import ConfigError
from manor.testing.net_frames import MAC_A, MAC_B, checksum_problem, eth, ipv4, ipv6, tcp, udp
from manor.trace.sink import RingSink, disable, enable

WALL = 1_700_000_000_123_456_789

needs_tshark = pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed (package tshark)")


class Guest:
    accepts = EVERYTHING

    def deliver(self, frames: Sequence[Frame]) -> int:
        return len(frames)


def make(path: Path | None = None) -> tuple[CaptureNet, MemoryNet]:
    far = MemoryNet()
    net = CaptureNet(far, FakeClock(wall_ns=WALL), "net0", MAC_A)
    net.attach(Guest())
    if path is not None:
        net.start(path)
    return net, far


def tshark(path: Path, *options: str) -> str:
    done = subprocess.run(
        ["tshark", "-n", "-r", str(path), "-o", "tcp.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE",
         "-o", "ip.check_checksum:TRUE", *options],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return done.stdout


def fields(path: Path, *names: str) -> list[list[str]]:
    options = [option for name in names for option in ("-e", name)]
    return [line.split("\t") for line in tshark(path, "-T", "fields", *options).splitlines()]


FRAMES = [
    Frame(eth(MAC_B, MAC_A, 0x0800, ipv4(udp(1000, 2000, b"undone!"))), 34, 6),
    Frame(eth(MAC_B, MAC_A, 0x86DD, ipv6(tcp(1000, 2000, b"undone"), protocol=6)), 54, 16),
    Frame(eth(MAC_B, MAC_A, 0x0800, ipv4(tcp(1, 2, bytes(9000)), protocol=6)), 34, 16, False, Segmentation.TCPV4, 1460),
    Frame(eth(MAC_B, MAC_A, 0x0800, ipv4(udp(1000, 2000, b"vouched"))), is_checked=True),
    Frame(eth(MAC_B, MAC_A, 0x86DD, ipv6(tcp(7, 8, b"vouched"), protocol=6)) + bytes(6), is_checked=True),
    Frame(eth(MAC_B, MAC_A, 0x0800, ipv4(udp(1000, 2000, b"done"), finished=True))),
]


@needs_tshark
def test_tshark_finds_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "x.pcapng"
    net, far = make(path)
    net.send(FRAMES[:3])
    far.give(*FRAMES[3:])
    net.close()
    lines = fields(path, "frame.len", "frame.time_epoch", "frame.interface_name", "frame.packet_flags_direction")
    assert [int(line[0]) for line in lines] == [len(frame.data) for frame in FRAMES]
    assert {line[1] for line in lines} == {"1700000000.123456789"}
    assert {line[2] for line in lines} == {"net0"}
    assert [int(line[3], 0) for line in lines] == [2, 2, 2, 1, 1, 1]
    status = fields(path, "tcp.checksum.status", "udp.checksum.status", "ip.checksum.status")
    assert {value for line in status for value in line if value} == {"1"}
    assert tshark(path, "-Y", "_ws.malformed || _ws.expert.severity >= warning").strip() == ""


@needs_tshark
def test_contents_are_the_frames(tmp_path: Path) -> None:
    path = tmp_path / "x.pcapng"
    net, _ = make(path)
    net.send([FRAMES[-1]])
    net.close()
    (packet,) = json.loads(tshark(path, "-T", "json", "-x"))
    raw: Any = packet["_source"]["layers"]["frame_raw"][0]
    assert raw == FRAMES[-1].data.hex()


def test_on_and_off_while_running_adds_sections(tmp_path: Path) -> None:
    path = tmp_path / "x.pcapng"
    net, far = make()
    net.send([FRAMES[-1]])
    assert not path.exists()
    net.start(path)
    net.send([FRAMES[-1]])
    assert net.statistics()["captured_frames"] == 1
    net.stop()
    size = path.stat().st_size
    net.send([FRAMES[-1]])
    assert path.stat().st_size == size
    net.start(path)
    far.give(FRAMES[-1])
    net.close()
    assert path.stat().st_size > size
    if shutil.which("tshark"):
        assert len(fields(path, "frame.number")) == 2
    assert far.is_closed


def test_what_the_guest_did_not_take_is_not_in_it(tmp_path: Path) -> None:
    net, far = make(tmp_path / "x")
    guest = Guest()
    guest.deliver = lambda frames: 1  # type: ignore[method-assign]
    net.attach(guest)
    far.give(FRAMES[-1], FRAMES[-1], FRAMES[-1])
    assert net.statistics()["captured_frames"] == 1


def test_full_disk_ends_the_capture_and_not_the_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    net, far = make(tmp_path / "x")
    ring = RingSink()
    enable("net_capture_failed", ring)

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    assert net._writer is not None
    monkeypatch.setattr(net._writer, "write", full)
    try:
        far.give(FRAMES[-1])
    finally:
        disable("*", ring)
    assert list(ring.events) == [("net_capture_failed", (str(tmp_path / "x"), "No space left on device"))]
    assert net.statistics()["capture_failed"] == 1
    far.give(FRAMES[-1])
    assert net.statistics()["capture_failed"] == 1


@pytest.mark.parametrize(
    ("contents", "message"),
    [(b"text", "is not a pcapng file"), (bytes(100), "is not a pcapng file"), (None, "in the middle of a block")],
)
def test_other_files_are_left_alone(tmp_path: Path, contents: bytes | None, message: str) -> None:
    path = tmp_path / "x"
    if contents is None:
        PcapngWriter(path, "net0", MAC_A).close()
        contents = path.read_bytes()[:-8]
    path.write_bytes(contents)
    with pytest.raises(ConfigError, match=message):
        PcapngWriter(path, "net0", MAC_A)
    assert path.read_bytes() == contents


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "no" / "x", Path("/dev/null")):
        with pytest.raises(ConfigError, match="the capture"):
            PcapngWriter(path, "net0", MAC_A)


def test_a_full_disk_ends_the_capture_and_not_the_guest() -> None:
    net, far = make()
    writer = object.__new__(PcapngWriter)
    writer.path, writer.frames = Path("/dev/full"), 0
    writer._fd = os.open("/dev/full", os.O_WRONLY)
    net._writer = writer
    net.send([FRAMES[-1]])
    net.send([FRAMES[-1]])
    assert len(far.sent) == 2
    assert net.statistics()["capture_failed"] == 1


def test_unfinished_and_vouched_checksums_are_filled_in(tmp_path: Path) -> None:
    for frame in (*FRAMES[:4], FRAMES[-1]):
        path = tmp_path / "one"
        writer = PcapngWriter(path, "net0", MAC_A)
        start = path.stat().st_size
        net, _ = make()
        net._writer = writer
        net._record([frame], OUTWARD)
        data = path.read_bytes()[start + 28 : start + 28 + len(frame.data)]
        assert checksum_problem(data) is None
        net.stop()
        path.unlink()
