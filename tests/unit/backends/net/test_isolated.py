"""Isolated networks: members come, talk, fall silent, and die."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manor.backends.net.api import Frame, Offloads, Segmentation
from manor.backends.net.isolated import HELLO, MAGIC, QUEUE_LIMIT, VERSION, IsolatedNet, _parse, runtime_directory
from manor.backends.net.offload import EVERYTHING
from manor.base.errors import HostError
from manor.testing.poll_loop import PollLoop
from manor.trace.sink import RingSink, disable, enable


class Guest:
    """A receiver with room for so many frames."""

    def __init__(self) -> None:
        self.room = 1 << 30
        self.frames: list[Frame] = []
        self.accepts: Offloads = EVERYTHING

    def deliver(self, frames: Sequence[Frame]) -> int:
        taken = list(frames[: self.room])
        self.room -= len(taken)
        self.frames += taken
        return len(taken)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "n"


@pytest.fixture
def loop() -> Iterator[PollLoop]:
    loop = PollLoop()
    yield loop
    loop.close()


Join = Callable[..., tuple[IsolatedNet, Guest]]


@pytest.fixture
def join(root: Path, loop: PollLoop) -> Iterator[Join]:
    members: list[IsolatedNet] = []

    def join(name: str = "lab", member: str = "") -> tuple[IsolatedNet, Guest]:
        net, guest = IsolatedNet(name, loop, 1500, root, member), Guest()
        net.attach(guest)
        members.append(net)
        loop.settle()  # so that the others know of it
        return net, guest

    yield join
    for member in members:
        member.close()


def mac(number: int) -> bytes:
    return bytes([2, 0, 0, 0, 0, number])


def frame(source: int, target: int | None, text: bytes = b"") -> Frame:
    return Frame((b"\xff" * 6 if target is None else mac(target)) + mac(source) + b"\x88\xb5" + text)


def test_frames_reach_all_until_their_target_is_known(join: Join, loop: PollLoop) -> None:
    members = [join() for _ in range(3)]
    loop.settle()
    members[0][0].send([frame(1, 2, b"a")])
    loop.settle()
    assert [len(guest.frames) for _, guest in members] == [0, 1, 1]
    members[1][0].send([frame(2, 1, b"b")])
    members[0][0].send([frame(1, None, b"c")])
    loop.settle()
    members[0][0].send([frame(1, 2, b"d")])
    loop.settle()
    assert [guest.frames[-1].data[14:] for _, guest in members] == [b"b", b"d", b"c"]
    assert [len(guest.frames) for _, guest in members] == [1, 3, 2]


def test_networks_do_not_see_each_other(join: Join, loop: PollLoop) -> None:
    (one, _), (_, other) = join("one"), join("two")
    one.send([frame(1, None)])
    loop.settle()
    assert other.frames == []


def arp(source: int, address: bytes) -> Frame:
    body = b"\x00\x01\x08\x00\x06\x04\x00\x01" + mac(source) + address + bytes(6) + address
    return Frame(b"\xff" * 6 + mac(source) + b"\x08\x06" + body)


def test_members_know_each_other_by_name(join: Join, loop: PollLoop) -> None:
    (one, _), (two, _), (three, _) = join(member="one"), join(member="Two"), join()
    loop.settle()
    assert one.addresses_of("two") == []
    two.send([arp(2, bytes((192, 0, 2, 2))), frame(2, None, bytes(200))])
    three.send([arp(3, bytes((192, 0, 2, 3)))])
    loop.settle()
    assert one.addresses_of("two") == three.addresses_of("two") == [bytes((192, 0, 2, 2))]
    assert one.addresses_of("") is None
    assert one.addresses_of("four") is None
    two.close()
    loop.settle()
    assert one.addresses_of("two") is None


def test_addresses_that_mean_nothing_elsewhere_are_kept_back(join: Join, loop: PollLoop) -> None:
    (one, _), (two, _) = join(member="one"), join(member="two")
    for prefix in ("fe80", "fd00"):
        source = bytes.fromhex(prefix) + bytes(13) + b"\x02"
        body = b"\x88\x00\x00\x00" + bytes(4) + source
        header = b"\x60" + bytes(3) + len(body).to_bytes(2, "big") + b"\x3a\xff"
        two.send([Frame(b"\xff" * 6 + mac(2) + b"\x86\xdd" + header + source + bytes(16) + body)])
    loop.settle()
    assert one.addresses_of("two") == [bytes.fromhex("fd00") + bytes(13) + b"\x02"]


@pytest.mark.parametrize("name", [b"n" * 64, b"\xff", b""])
def test_a_member_whose_name_is_none_is_nobody(root: Path, loop: PollLoop, name: bytes) -> None:
    net = IsolatedNet("lab", loop, 1500, root)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as raw:
        raw.connect(os.fspath(next(path for path in (root / "lab").iterdir() if path.name != ".lock")))
        raw.send(HELLO.pack(MAGIC, VERSION, 1500) + name)
        loop.settle()
        assert net.statistics()["peers"] == 1
        assert net.addresses_of(name.decode("latin-1")) is None
    net.close()


def test_unfinished_frames_arrive_as_they_are(join: Join, loop: PollLoop) -> None:
    (one, _), (_, other) = join(), join()
    sent = [
        Frame(mac(2) + mac(1) + bytes(65000), 34, 16, False, Segmentation.TCPV4, 1460),
        Frame(mac(2) + mac(1) + bytes(100), 34, 6),
        Frame(mac(2) + mac(1) + bytes(100), is_checked=True),
    ]
    one.send(sent)
    loop.settle()
    assert other.frames == sent
    assert one.accepts == EVERYTHING


def test_a_member_that_moves_is_followed(join: Join, loop: PollLoop) -> None:
    members = [join() for _ in range(3)]
    for mover in (1, 2):
        members[mover][0].send([frame(9, None)])
        loop.settle()
        members[0][0].send([frame(1, 9, b"for nine")])
        loop.settle()
        assert members[mover][1].frames[-1].data[14:] == b"for nine"


def test_nothing_is_lost_while_a_guest_has_no_buffers_and_order_is_kept(join: Join, loop: PollLoop) -> None:
    (one, _), (two, guest) = join(), join()
    guest.room = 5
    for number in range(400):
        one.send([frame(1, 2, number.to_bytes(2, "big") + bytes(1000))])
        loop.turn()
    loop.settle()
    assert len(guest.frames) == 5
    for _ in range(400):
        guest.room += 1
        two.on_room()
        loop.turn()
    loop.settle()
    assert [int.from_bytes(got.data[14:16], "big") for got in guest.frames] == list(range(400))


def test_a_slow_member_does_not_hold_up_others_and_its_queue_is_bounded(join: Join, loop: PollLoop) -> None:
    (one, _), (_, slow), (_, quick) = join(), join(), join()
    slow.room = 0
    for _ in range(200):
        one.send([Frame(b"\xff" * 6 + mac(1) + bytes(20000))])
        loop.turn()
    loop.settle()
    assert len(quick.frames) == 200
    assert one.statistics()["queue_dropped"] > 0
    assert all(peer.waiting_size <= QUEUE_LIMIT for peer in one._peers)


def test_without_a_receiver_or_with_the_cable_out_frames_are_dropped(join: Join, loop: PollLoop) -> None:
    (one, _), (two, guest) = join(), join()
    two.attach(None)
    one.send([frame(1, 2)])
    loop.settle()
    two.attach(guest)
    two.set_link(False)
    one.send([frame(1, 2)])
    two.send([frame(2, 1)])
    loop.settle()
    two.set_link(True)
    one.send([frame(1, 2, b"last")])
    loop.settle()
    assert [got.data[14:] for got in guest.frames] == [b"last"]
    assert two.statistics()["host_receive_dropped"] == 2


def test_members_that_come_and_go_are_traced(join: Join, loop: PollLoop) -> None:
    ring = RingSink()
    enable("isolated_peer", ring)
    try:
        join()
        two, _ = join()
        loop.settle()
        two.close()
        loop.settle()
    finally:
        disable("*", ring)
    told = [(name, values[0], values[2]) for name, values in ring.events]
    assert told.count(("isolated_peer", "lab", True)) == 2, "each of the two saw the other come"
    assert ("isolated_peer", "lab", False) in told


def test_a_member_leaves(join: Join, loop: PollLoop, root: Path) -> None:
    (one, _), (two, _), (_, third) = join(), join(), join()
    loop.settle()
    two.close()
    two.close()
    loop.settle()
    assert one.statistics()["peers"] == 1
    one.send([frame(1, None)])
    loop.settle()
    assert len(third.frames) == 1
    assert len([entry for entry in os.listdir(root / "lab") if entry != ".lock"]) == 2


MEMBER = """
import sys
sys.path.insert(0, {source!r})
from pathlib import Path
from manor.backends.net.isolated import IsolatedNet
from manor.testing.poll_loop import PollLoop
loop = PollLoop()
net = IsolatedNet("lab", loop, 1500, Path({root!r}))
print("joined", flush=True)
while True:
    loop.turn(1.0)
"""


def test_members_that_are_killed_leave_nothing_behind(join: Join, loop: PollLoop, root: Path) -> None:
    one, _ = join()
    code = MEMBER.format(source=str(Path(__file__).resolve().parents[4] / "src"), root=str(root))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"joined\n"
        loop.until(lambda: one.statistics()["peers"] == 1)
        process.send_signal(signal.SIGKILL)
    loop.until(lambda: one.statistics()["peers"] == 0)
    assert len(os.listdir(root / "lab")) == 3  # its socket's name is still there
    _, two = join()
    assert len(os.listdir(root / "lab")) == 3  # and is gone now
    one.send([frame(1, None)])
    loop.until(lambda: len(two.frames) == 1)


def test_members_that_join_at_once_find_each_other(root: Path) -> None:
    code = MEMBER.format(source=str(Path(__file__).resolve().parents[4] / "src"), root=str(root)).replace(
        "while True:", "import time; end = time.monotonic() + 20\nwhile len(net._peers) < 3 and time.monotonic() < end:"
    ) + "print(len(net._peers), flush=True)\nsys.stdin.readline()\n"
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(4)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == b"joined\n"
            assert process.stdout.readline() == b"3\n"
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@pytest.mark.parametrize(
    "messages",
    [
        [b""], [b"x"], [HELLO.pack(b"OTHERNET", VERSION, 1500)], [HELLO.pack(MAGIC, VERSION + 1, 1500)],
        [HELLO.pack(MAGIC, VERSION, 1500), b"short"], [HELLO.pack(MAGIC, VERSION, 1500), bytes(70000)],
        [HELLO.pack(MAGIC, VERSION, 1500), bytes([0, 9]) + bytes(100)],
    ],
)  # fmt: skip
def test_a_member_that_breaks_the_protocol_is_put_out(
    join: Join, loop: PollLoop, root: Path, messages: list[bytes]
) -> None:
    net, guest = join()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
        stranger.connect(str(root / "lab" / net._own))
        loop.settle()
        assert net.statistics()["peers"] == 1
        for message in messages:
            stranger.send(message)
        loop.settle()
        assert net.statistics()["peers"] == 0
    assert guest.frames == []


@given(st.binary(max_size=200))
def test_no_message_raises(message: bytes) -> None:
    found = _parse(message)
    assert found is None or found.checksum_start == 0 or found.checksum_start + 2 <= len(found.data)


def test_directories_of_others_are_refused(root: Path, loop: PollLoop) -> None:
    (root / "lab").mkdir(parents=True, mode=0o777)
    (root / "lab").chmod(0o777)
    with pytest.raises(HostError, match="yours alone"):
        IsolatedNet("lab", loop, 1500, root)
    (root / "other").symlink_to(root / "lab")
    with pytest.raises(HostError, match=r"yours alone|isolated network"):
        IsolatedNet("other", loop, 1500, root)


def test_paths_too_long_for_sockets_are_told(tmp_path: Path, loop: PollLoop) -> None:
    with pytest.raises(HostError, match="too long"):
        IsolatedNet("lab", loop, 1500, tmp_path / ("x" * 100))


def test_where_networks_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert runtime_directory() == tmp_path / "manor"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert runtime_directory().name.startswith("manor")


def test_a_member_that_never_reads_is_not_waited_for(join: Join, loop: PollLoop, root: Path) -> None:
    net, _ = join()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
        stranger.connect(str(root / "lab" / net._own))
        loop.settle()
        started = time.monotonic()
        for _ in range(500):
            net.send([Frame(b"\xff" * 6 + mac(1) + bytes(10000))])
            loop.turn()
        assert time.monotonic() - started < 5
