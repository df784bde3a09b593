"""Unix sockets of the host and ports of a guest, with real sockets and a guest that answers by itself."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from manor.backends.vsock import host as host_module
from manor.backends.vsock.host import VsockHost
from manor.backends.vsock.packet import HOST_CID, Op, Packet
from manor.base.clock import HostClock
from manor.base.errors import ConfigError, HostError
from manor.vmm.io_loop import IoLoop

CID = 9
TIMEOUT_S = 5.0


class Guest:
    """Accepts on port 7 and sends back what it gets; runs on the loop, as a device does."""

    def __init__(self, loop: IoLoop, host: VsockHost) -> None:
        self.loop = loop
        self.host = host
        self.seen: list[Packet] = []
        host.multiplexer.on_packets = lambda: loop.call_soon_threadsafe(self.pull)

    def send(self, op: int, port: int, guest_port: int, payload: bytes = b"") -> None:
        packet = Packet(CID, HOST_CID, guest_port, port, op, payload=payload, buffer_size=1 << 30)
        self.loop.call_soon_threadsafe(lambda: self.host.multiplexer.receive(packet))

    def pull(self) -> None:
        while (packet := self.host.multiplexer.next_packet(1 << 16)) is not None:
            self.seen.append(packet)
            port, guest_port = packet.source_port, packet.target_port
            if packet.op == Op.REQUEST:
                self.send(Op.RESPONSE if guest_port == 7 else Op.RST, port, guest_port)
            elif packet.op == Op.RW:
                self.send(Op.RW, port, guest_port, packet.payload.upper())
            elif packet.op == Op.SHUTDOWN:
                self.send(Op.SHUTDOWN, port, guest_port)
                self.send(Op.RST, port, guest_port)


@pytest.fixture
def loop() -> Iterator[IoLoop]:
    errors: list[BaseException] = []
    loop = IoLoop(HostClock(), errors.append)
    yield loop
    loop.stop()
    assert errors == []


@pytest.fixture
def host(loop: IoLoop, tmp_path: Path) -> Iterator[VsockHost]:
    host = VsockHost(loop, HostClock(), CID, tmp_path / "v.sock")
    host.open()
    loop.start()
    yield host
    done = threading.Event()
    loop.call_soon_threadsafe(host.close)
    loop.call_soon_threadsafe(done.set)
    assert done.wait(TIMEOUT_S)


@pytest.fixture
def guest(loop: IoLoop, host: VsockHost) -> Guest:
    return Guest(loop, host)


def program(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(TIMEOUT_S)
    sock.connect(os.fspath(path))
    return sock


def read_all(sock: socket.socket) -> bytes:
    data = b""
    while piece := sock.recv(1 << 16):
        data += piece
    return data


def test_program_reaches_a_port_of_the_guest(guest: Guest, tmp_path: Path) -> None:
    with program(tmp_path / "v.sock") as sock:
        sock.sendall(b"CONN")
        sock.sendall(b"ECT 7\nhello ")  # what follows the line is the guest's
        line = sock.recv(64)
        assert line.startswith(b"OK 1073741824\n")
        sock.sendall(b"guest")
        sock.shutdown(socket.SHUT_WR)
        assert line.partition(b"\n")[2] + read_all(sock) == b"HELLO GUEST"


@pytest.mark.parametrize(
    "line", [b"CONNECT 8\n", b"CONNECT 99999999999\n", b"CONNECT 4294967296\n", b"nonsense\n", b"x" * 40]
)
def test_program_that_is_refused(guest: Guest, tmp_path: Path, line: bytes) -> None:
    with program(tmp_path / "v.sock") as sock:
        sock.sendall(line)
        try:
            assert sock.recv(64) == b""
        except ConnectionResetError:
            return


def test_program_that_leaves_before_it_said_what_it_wants(guest: Guest, host: VsockHost, tmp_path: Path) -> None:
    program(tmp_path / "v.sock").close()
    with host.connect(7) as sock:
        sock.sendall(b"x")
    wait_for(lambda: not host.handshakes)


def test_programs_that_say_nothing_are_bounded_and_expire(
    guest: Guest, host: VsockHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_module, "HANDSHAKE_LIMIT", 1)
    monkeypatch.setattr(host_module, "CONNECT_S", 0.05)
    with program(tmp_path / "v.sock") as silent, program(tmp_path / "v.sock") as one_too_many:
        assert one_too_many.recv(1) == b""
        assert silent.recv(1) == b""


def test_api_connects(guest: Guest, host: VsockHost) -> None:
    with host.connect(7) as sock:
        sock.settimeout(TIMEOUT_S)
        data = os.urandom(50_000).hex().encode()  # less than our buffer: the guest here knows no credit
        threading.Thread(target=lambda: (sock.sendall(data), sock.shutdown(socket.SHUT_WR))).start()
        assert read_all(sock) == data.upper()
    with pytest.raises(HostError, match="nobody in the guest accepts on vsock port 8"):
        host.connect(8)


def test_guest_that_never_answers(loop: IoLoop, host: VsockHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_module, "CONNECT_S", 0.02)
    with pytest.raises(HostError, match="nobody"):
        host.connect(7)


def test_guest_reaches_the_api(guest: Guest, host: VsockHost) -> None:
    listener = host.listen(50)
    with pytest.raises(ConfigError, match="50 has a listener"):
        host.listen(50)
    guest.send(Op.REQUEST, 50, 3)
    guest.send(Op.RW, 50, 3, b"from the guest")
    with listener.accept(TIMEOUT_S) as sock:
        sock.settimeout(TIMEOUT_S)
        assert sock.recv(64) == b"from the guest"
    with pytest.raises(TimeoutError):
        listener.accept(0.01)
    listener.close()
    with pytest.raises(HostError, match="any more"):
        listener.accept()
    guest.send(Op.REQUEST, 50, 4)
    wait_for(lambda: any(packet.op == Op.RST and packet.target_port == 4 for packet in guest.seen))


def test_guest_reaches_a_program(guest: Guest, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.settimeout(TIMEOUT_S)
        server.bind(os.fspath(tmp_path / "v.sock_600"))
        server.listen()
        guest.send(Op.REQUEST, 600, 3)
        guest.send(Op.RW, 600, 3, b"ping")
        sock, _ = server.accept()
        with sock:
            assert sock.recv(64) == b"ping"
            sock.sendall(b"pong")
            assert sock.recv(64) == b"PONG"  # the guest's echo


def test_unix_socket_belongs_to_the_user_and_goes_away(loop: IoLoop, tmp_path: Path) -> None:
    path = tmp_path / "v.sock"
    host = VsockHost(loop, HostClock(), CID, path)
    host.open()
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(HostError, match="another program listens there"):
        VsockHost(loop, HostClock(), CID, path).open()
    host.close()
    assert not path.exists()


def test_unix_socket_of_a_dead_vm_is_replaced(loop: IoLoop, tmp_path: Path) -> None:
    path = tmp_path / "v.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.fspath(path))
    host = VsockHost(loop, HostClock(), CID, path)
    host.open()
    host.close()
    path.write_text("a file is nobody's socket")
    with pytest.raises(HostError, match="listen on"):
        VsockHost(loop, HostClock(), CID, path).open()
    assert path.read_text().startswith("a file")
    with pytest.raises(ConfigError, match="use a shorter path"):
        VsockHost(loop, HostClock(), CID, tmp_path / ("x" * 100)).open()


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it did not happen")
