"""What is said when the host's interfaces cannot be had, and frames through a tap without a guest."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator, Sequence

import pytest

from manor.backends.net import host_link
from manor.backends.net.api import Frame, Offloads, Segmentation
from manor.backends.net.host_link import open_bridge, open_macvtap, open_tap
from manor.backends.net.offload import EVERYTHING
from manor.backends.net.tap import TapNet, _parse
from manor.base.errors import ConfigError, HostError
from manor.testing.poll_loop import PollLoop

ETH = bytes.fromhex("020000000002" "020000000001" "88b5")


class Refusal:
    """os.open and fcntl.ioctl that fail where told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, opening: int = 0, request: int = 0, code: int = 0) -> None:
        self.opened: list[int] = []
        real_open, real_ioctl = os.open, fcntl.ioctl

        def fake_open(path: str, flags: int) -> int:
            if opening:
                raise OSError(opening, os.strerror(opening))
            self.opened.append(real_open("/dev/null", os.O_RDWR))
            return self.opened[-1]

        def fake_ioctl(fd: object, number: int, argument: bytes) -> bytes:
            if number == request:
                raise OSError(code, os.strerror(code))
            if number in (host_link._TUNSETIFF, host_link._TUNSETOFFLOAD, host_link._TUNSETVNETHDRSZ):
                return argument
            return real_ioctl(fd, number, argument)  # type: ignore[call-overload]

        monkeypatch.setattr(os, "open", fake_open)
        monkeypatch.setattr(fcntl, "ioctl", fake_ioctl)


@pytest.mark.parametrize(
    ("opening", "request_", "code", "message"),
    [
        (errno.ENOENT, 0, 0, "there is no /dev/net/tun; load it with `modprobe tun`, or use --net user"),
        (errno.EACCES, 0, 0, "you may not open /dev/net/tun: that takes CAP_NET_ADMIN; let root make a tap for you"),
        (errno.EMFILE, 0, 0, "cannot open /dev/net/tun: Too many open files"),
        (0, host_link._TUNSETIFF, errno.EPERM, "you may not create the tap vm-test: that takes CAP_NET_ADMIN"),
        (0, host_link._TUNSETIFF, errno.EBUSY, "the tap vm-test is in use; each VM needs its own"),
        (0, host_link._TUNSETOFFLOAD, errno.EINVAL, "set the tap vm-test up"),
    ],
)
def test_refusals_are_one_sentence_and_leave_nothing_open(
    monkeypatch: pytest.MonkeyPatch, opening: int, request_: int, code: int, message: str
) -> None:
    refusal = Refusal(monkeypatch, opening, request_, code)
    with pytest.raises(HostError) as raised:
        open_tap("vm-test", PollLoop(), 1500)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    for fd in refusal.opened:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


def test_a_tap_of_somebody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    Refusal(monkeypatch, 0, host_link._TUNSETIFF, errno.EPERM)
    with pytest.raises(HostError, match="the tap vm-test belongs to another user; let root make one"):
        host_link._attach("vm-test", is_new=False)


def test_names_that_lead_nowhere() -> None:
    with pytest.raises(ConfigError, match="lo is not a tap"):
        open_tap("lo", PollLoop(), 1500)
    with pytest.raises(ConfigError, match="br-none does not exist; create it with"):
        open_bridge("br-none", PollLoop(), 1500)
    with pytest.raises(ConfigError, match="lo is not a bridge"):
        open_bridge("lo", PollLoop(), 1500)
    with pytest.raises(ConfigError, match="the host has no interface none7"):
        open_macvtap("none7", bytes(6), PollLoop(), 1500)


# --- frames: a pair of datagram sockets in place of a tap ---------------------------------------------------------


class Guest:
    def __init__(self) -> None:
        self.room = 1 << 30
        self.frames: list[Frame] = []
        self.accepts: Offloads = EVERYTHING

    def deliver(self, frames: Sequence[Frame]) -> int:
        taken = list(frames[: self.room])
        self.room -= len(taken)
        self.frames += taken
        return len(taken)


class Bench:
    def __init__(self) -> None:
        self.loop = PollLoop()
        ours, self.kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.kernel.settimeout(2)
        ours.setblocking(False)
        self.closed: list[bool] = []
        self.net = TapNet(ours.detach(), self.loop, EVERYTHING, 1500, lambda: self.closed.append(True))
        self.guest = Guest()
        self.net.attach(self.guest)

    def close(self) -> None:
        self.net.close()
        self.kernel.close()
        self.loop.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


def test_frames_both_ways_with_what_is_undone(bench: Bench) -> None:
    frames = [
        Frame(ETH + bytes(50)),
        Frame(ETH + bytes(50), 34, 16),
        Frame(ETH + bytes(32) + b"\x50" + bytes(3000), 34, 16, False, Segmentation.TCPV4, 1460),
        Frame(ETH + bytes(3000), 34, 6, False, Segmentation.UDP_L4, 1000),
    ]
    bench.net.send(frames)
    sent = [bench.kernel.recv(70000) for _ in frames]
    assert [struct.unpack_from("<BBHHHH", data) for data in sent] == [
        (0, 0, 0, 0, 0, 0), (1, 0, 0, 0, 34, 16), (1, 1, 54, 1460, 34, 16), (1, 5, 42, 1000, 34, 6),
    ]  # fmt: skip
    for data in sent:
        bench.kernel.send(data)
    bench.loop.settle()
    assert bench.guest.frames == frames
    assert bench.net.statistics()["host_sent"] == 4
    bench.net.close()
    bench.net.close()
    assert bench.closed == [True]


def test_a_guest_without_room_leaves_frames_to_the_kernel(bench: Bench) -> None:
    bench.guest.room = 2
    for number in range(30):
        bench.kernel.send(bytes(10) + ETH + bytes([number]))
    bench.loop.settle()
    assert len(bench.guest.frames) == 2
    for _ in range(30):
        bench.guest.room += 1
        bench.net.on_room()
        bench.loop.turn()
    assert [frame.data[14] for frame in bench.guest.frames] == list(range(30))


def test_without_cable_or_guest_frames_are_dropped_and_an_end_is_survived(bench: Bench) -> None:
    bench.net.set_link(False)
    bench.net.send([Frame(ETH)])
    bench.kernel.send(bytes(10) + ETH)
    bench.loop.settle()
    bench.net.set_link(True)
    bench.net.attach(None)
    bench.kernel.send(bytes(10) + ETH)
    bench.loop.settle()
    assert bench.net.statistics()["host_receive_dropped"] == 2
    bench.kernel.close()
    bench.net.send([Frame(ETH)])
    assert bench.net.statistics()["host_send_dropped"] == 1


@pytest.mark.parametrize(
    "data",
    [
        b"", bytes(23), struct.pack("<BBHHHH", 1, 0, 0, 0, 5, 0) + ETH, struct.pack("<BBHHHH", 1, 0, 0, 0, 14, 0) + ETH,
        struct.pack("<BBHHHH", 0, 1, 0, 9, 0, 0) + ETH, struct.pack("<BBHHHH", 1, 7, 0, 9, 14, 0) + ETH + bytes(9),
    ],
)  # fmt: skip
def test_what_is_no_frame(data: bytes) -> None:
    assert _parse(data) is None
