"""The host's side on real sockets of the loopback, with a guest that is a TcpTable at the other end of the cable."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import resource
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from manor.backends.net.api import Frame
from manor.backends.net.user import backend as backend_module
from manor.backends.net.user import host as host_module
from manor.backends.net.user.backend import UserBackend
from manor.backends.net.user.host_socket import Address
from manor.backends.net.user.plan import Plan, make_plan
from manor.backends.net.user.resolver import MAX_SERVERS, read_servers
from manor.backends.net.user.tcp_state import End
from manor.base.clock import MILLISECOND, SECOND
from manor.base.errors import ConfigError, HostError
from manor.spec.net import PortForward
from manor.testing.poll_loop import PollLoop
from manor.testing.user_guest import (
    DNS,
    GATEWAY,
    GATEWAY6,
    NOTHING,
    FakeApplication,
    TableGuest,
    echo_request,
    udp,
)


class Network:
    """A guest, a backend, a loop without a thread."""

    def __init__(
        self, *forwards: PortForward, plan: Plan | None = None, resolvers: Path | list[Address] | None = None
    ) -> None:
        self.loop = PollLoop()
        self.guest = TableGuest()
        self.backend = UserBackend(
            plan or make_plan(hostname="dev"), self.loop, self.loop.clock, forwards, resolvers=resolvers or []
        )
        self.backend.attach(self.guest)

    def until(self, condition: Callable[[], object], *, turns: int = 3000) -> None:
        """Go on until `condition` holds; time goes by a millisecond a turn, so that timers run as well."""
        for _ in range(turns):
            if condition():
                return
            moved = self.loop.turn(0)
            moved |= self.guest.step(self.backend, self.loop.clock.now_ns())
            if not moved:
                self.loop.turn(0.002)
                self.loop.advance(MILLISECOND)
        assert condition()

    def send(self, *frames: bytes) -> None:
        self.backend.send([Frame(frame) for frame in frames])

    def close(self) -> None:
        self.backend.close()
        self.loop.close()


@pytest.fixture
def make() -> Iterator[Callable[..., Network]]:
    made: list[Network] = []

    def new(*forwards: PortForward, **options: object) -> Network:
        made.append(Network(*forwards, **options))  # type: ignore[arg-type]
        return made[-1]

    yield new
    for network in made:
        network.close()


@pytest.fixture
def network(make: Callable[..., Network]) -> Network:
    return make()


@pytest.fixture(params=["v4", "v6"])
def server(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, bytes, int]]:
    """A listening socket of the host, and where the guest finds it."""
    family, address, gateway = {
        "v4": (socket.AF_INET, "127.0.0.1", GATEWAY),
        "v6": (socket.AF_INET6, "::1", GATEWAY6),
    }[request.param]
    with socket.socket(family) as listener:
        listener.bind((address, 0))
        listener.listen()
        listener.settimeout(5)
        yield listener, gateway, listener.getsockname()[1]


def connect(network: Network, server: tuple[socket.socket, bytes, int]) -> tuple[FakeApplication, socket.socket]:
    """A connection of the guest's to the server, and the server's end of it, non-blocking."""
    listener, gateway, port = server
    application = network.guest.connect(gateway, port)
    network.until(lambda: application.events == ["opened"])
    peer, _ = listener.accept()
    peer.setblocking(False)
    return application, peer


def received(peer: socket.socket, into: bytearray) -> bool:
    """Read what there is; True at the end of the stream."""
    while True:
        try:
            data = peer.recv(1 << 20)
        except BlockingIOError:
            return False
        if not data:
            return True
        into += data


class TestTcp:
    @pytest.mark.parametrize("accepts", [None, NOTHING], ids=["whole", "cut"])
    def test_megabytes_both_ways_and_the_end(
        self, network: Network, server: tuple[socket.socket, bytes, int], accepts: object
    ) -> None:
        if accepts is not None:
            network.guest.accepts = NOTHING
        application, peer = connect(network, server)
        endpoint = application.endpoint
        assert endpoint is not None
        outbound, inbound = random.Random(1).randbytes(2_000_000), random.Random(2).randbytes(2_000_000)
        got = bytearray()
        sent = {"out": 0, "in": 0}

        def step() -> bool:
            if (room := endpoint.room) and sent["out"] < len(outbound):
                data = outbound[sent["out"] : sent["out"] + min(room, 60000)]
                endpoint.write(data)
                sent["out"] += len(data)
                if sent["out"] == len(outbound):
                    endpoint.finish()
            if sent["in"] < len(inbound):
                with suppress(BlockingIOError):
                    sent["in"] += peer.send(inbound[sent["in"] : sent["in"] + 100_000])
                if sent["in"] == len(inbound):
                    peer.shutdown(socket.SHUT_WR)
            return received(peer, got) and application.end is not None

        network.until(step, turns=20000)
        assert hashlib.sha256(got).digest() == hashlib.sha256(outbound).digest()
        assert hashlib.sha256(application.total).digest() == hashlib.sha256(inbound).digest()
        assert application.end is End.FINISHED
        statistics = network.backend.statistics()
        assert (statistics["tcp_opened"], statistics["tcp_open"]) == (1, 0)
        assert statistics["bytes_to_guest"] > 2_000_000
        assert statistics["frames_lost"] == 0
        peer.close()

    def test_nobody_listens(self, network: Network) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            application = network.guest.connect(GATEWAY, probe.getsockname()[1])
            network.until(lambda: application.end)
        assert application.end is End.REFUSED
        assert network.guest.others == []

    def test_nobody_listens_and_the_socket_finds_itself(
        self, network: Network, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]

        def bound(family: int, kind: int, protocol: int = 0) -> socket.socket:
            sock = socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
            sock.bind(("127.0.0.1", port))
            return sock

        monkeypatch.setattr(network.backend._host, "make_socket", bound)
        application = network.guest.connect(GATEWAY, port)
        network.until(lambda: application.end)
        assert application.end is End.REFUSED

    def test_half_closed(self, network: Network, server: tuple[socket.socket, bytes, int]) -> None:
        application, peer = connect(network, server)
        assert application.endpoint is not None
        got = bytearray()
        application.endpoint.write(b"question")
        application.endpoint.finish()
        network.until(lambda: received(peer, got))
        assert got == b"question"
        peer.send(b"a late answer")
        peer.close()
        network.until(lambda: application.end)
        assert (bytes(application.total), application.end) == (b"a late answer", End.FINISHED)

    def test_the_host_resets(self, network: Network, server: tuple[socket.socket, bytes, int]) -> None:
        application, peer = connect(network, server)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        network.until(lambda: application.end)
        assert application.end is End.RESET

    def test_the_guest_resets(self, network: Network, server: tuple[socket.socket, bytes, int]) -> None:
        application, peer = connect(network, server)
        assert application.endpoint is not None
        application.endpoint.abort()
        network.until(lambda: not network.backend.statistics()["tcp_open"])
        with pytest.raises(ConnectionResetError):
            peer.recv(1)
        peer.close()

    def test_a_host_that_reads_slowly_slows_the_guest(
        self, network: Network, server: tuple[socket.socket, bytes, int]
    ) -> None:
        application, peer = connect(network, server)
        endpoint = application.endpoint
        assert endpoint is not None
        data = random.Random(3).randbytes(20_000_000)
        sent = 0
        for _ in range(400):
            while (room := endpoint.room) and sent < len(data):
                endpoint.write(data[sent : sent + min(room, 60000)])
                sent += min(room, 60000, len(data) - sent)
            network.loop.turn(0)
            network.guest.step(network.backend, network.loop.clock.now_ns())
        assert sent < len(data)
        assert all(one.memory <= 1 << 19 for one in network.backend._core.tcp.endpoints())
        got = bytearray()

        def step() -> bool:
            nonlocal sent
            while (room := endpoint.room) and sent < len(data):
                endpoint.write(data[sent : sent + min(room, 60000)])
                sent += min(room, 60000, len(data) - sent)
            received(peer, got)
            return len(got) == len(data)

        network.until(step, turns=20000)
        assert got == data
        peer.close()

    def test_a_guest_without_buffers_slows_the_host(
        self, network: Network, server: tuple[socket.socket, bytes, int]
    ) -> None:
        application, peer = connect(network, server)
        network.guest.capacity = 0
        sent = 0
        for _ in range(300):
            try:
                sent += peer.send(bytes(1 << 16))
            except BlockingIOError:
                network.loop.turn(0)
        assert len(network.backend._backlog) <= backend_module.MAX_BACKLOG
        assert network.backend.statistics()["frames_lost"] == 0
        network.guest.capacity = 4

        def step() -> bool:
            network.backend.on_room()
            return len(application.total) == sent

        network.until(step, turns=20000)
        peer.close()

    def test_many_that_may_send_at_once_take_turns(
        self, network: Network, server: tuple[socket.socket, bytes, int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(host_module, "MAX_TURN", 3)
        listener, gateway, port = server
        applications = [network.guest.connect(gateway, port, source_port=30000 + number) for number in range(20)]
        network.until(lambda: all(one.events for one in applications))
        network.guest.capacity = 0
        peers = [listener.accept()[0] for _ in applications]
        for peer in peers:
            peer.sendall(bytes(50_000))
        for _ in range(50):
            network.loop.turn(0)
        network.guest.capacity = 1 << 30
        largest = 0
        deliver = network.guest.deliver

        def watched(frames: Sequence[Frame]) -> int:
            nonlocal largest
            largest = max(largest, len(frames))
            return deliver(frames)

        monkeypatch.setattr(network.guest, "deliver", watched)
        network.backend.on_room()
        network.until(lambda: all(len(one.total) == 50_000 for one in applications))
        assert largest <= 6
        for peer in peers:
            peer.close()

    def test_a_new_machine_starts_with_nothing_open(
        self, network: Network, server: tuple[socket.socket, bytes, int]
    ) -> None:
        _, peer = connect(network, server)
        network.backend.attach(None)
        network.backend.attach(network.guest)  # the same one after a reset by its driver: nothing happens
        assert network.backend.statistics()["tcp_open"] == 1
        network.backend.attach(TableGuest())
        assert network.backend.statistics()["tcp_open"] == 0
        with pytest.raises(ConnectionResetError):
            peer.recv(1)
        peer.close()

    def test_a_pulled_cable(self, network: Network, server: tuple[socket.socket, bytes, int]) -> None:
        application, peer = connect(network, server)
        network.backend.set_link(False)
        peer.send(b"into the air")
        for _ in range(10):
            network.loop.turn(0.001)
        assert network.guest.inbox == []
        network.backend.set_link(True)
        network.loop.advance(SECOND)  # what was sent into the air is sent again
        network.until(lambda: application.total == b"into the air")
        peer.close()

    def test_without_descriptors(
        self, network: Network, server: tuple[socket.socket, bytes, int], caplog: pytest.LogCaptureFixture
    ) -> None:
        listener, gateway, port = server
        network.send(udp(GATEWAY, 5000, 9, b"x"))
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        highest = max(int(name) for name in os.listdir("/proc/self/fd"))
        taken: list[int] = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 2, hard))
        with suppress(OSError):  # until there are none left
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        try:
            first = network.guest.connect(gateway, port, source_port=1111)
            network.until(lambda: first.end)
            assert first.end is End.REFUSED
            assert "ulimit -n" in caplog.text
            network.loop.advance(60 * SECOND)  # the UDP mapping is old now and makes room
            second = network.guest.connect(gateway, port, source_port=2222)
            network.until(lambda: second.events == ["opened"])
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for descriptor in taken:
                os.close(descriptor)
        statistics = network.backend.statistics()
        assert (statistics["out_of_descriptors"], statistics["udp_evicted"]) == (2, 1)
        listener.accept()[0].close()


class TestUdp:
    def test_there_and_back(self, network: Network) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.bind(("127.0.0.1", 0))
            peer.settimeout(5)
            network.send(udp(GATEWAY, 5000, peer.getsockname()[1], b"question"))
            data, address = peer.recvfrom(100)
            assert data == b"question"
            peer.sendto(b"answer" * 1000, address)
            network.until(lambda: len(network.guest.others) == 5)
        assert all(seen.source == GATEWAY and seen.is_fragment for seen in network.guest.others)

    @pytest.mark.parametrize("gateway", [GATEWAY, GATEWAY6])
    def test_nobody_listens(self, network: Network, gateway: bytes) -> None:
        with socket.socket(socket.AF_INET6 if len(gateway) == 16 else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1" if len(gateway) == 16 else "127.0.0.1", 0))
            port = probe.getsockname()[1]
        network.send(udp(gateway, 5000, port, b"x"))
        network.until(lambda: network.guest.others)
        (error,) = network.guest.others
        assert error.source == gateway
        assert tuple(error.body[:2]) in ((3, 3), (1, 4))
        assert error.body[-8:-4] == struct.pack(">HH", 5000, port)

    def test_idle_sockets_are_closed(self, network: Network) -> None:
        before = len(os.listdir("/proc/self/fd"))
        network.send(udp(GATEWAY, 5000, 9, b"x"))
        assert len(os.listdir("/proc/self/fd")) == before + 1
        network.loop.advance(200 * SECOND)
        assert len(os.listdir("/proc/self/fd")) == before

    def test_ping_sockets_or_the_reason_why_not(self, network: Network) -> None:
        plan_world = bytes((198, 51, 100, 7))  # nothing leaves: the kernel has no route, or no right
        network.send(echo_request(plan_world, 1, 1))
        network.until(lambda: network.guest.others or network.backend.statistics()["echo_open"])


class TestForwards:
    def test_into_the_guest_over_both_loopbacks(self, make: Callable[..., Network]) -> None:
        network = make(PortForward("tcp", 0, 22))
        (forward,) = network.backend.forwards()
        assert forward.host_port > 0
        for number, (family, address) in enumerate(((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))):
            with socket.socket(family) as client:
                client.connect((address, forward.host_port))
                network.until(lambda number=number: len(network.guest.accepted) == number + 1)  # type: ignore[misc]
                application = network.guest.accepted[-1]
                network.until(lambda application=application: application.events)  # type: ignore[misc]
                client.send(b"hello")
                network.until(lambda application=application: application.total == b"hello")  # type: ignore[misc]
                assert application.endpoint is not None
                application.endpoint.write(b"welcome")
                network.until(lambda: network.guest.step(network.backend, 0) is False)
                client.settimeout(5)
                assert client.recv(100) == b"welcome"
                client.close()
                network.until(lambda application=application: application.events[-1] == "end")  # type: ignore[misc]

    def test_refused_by_the_guest(self, make: Callable[..., Network]) -> None:
        network = make(PortForward("tcp", 0, 22))
        network.guest.listens = False
        with socket.create_connection(("127.0.0.1", network.backend.forwards()[0].host_port)) as client:
            network.until(
                lambda: network.backend.statistics()["tcp_opened"] and not network.backend.statistics()["tcp_open"]
            )
            with pytest.raises(ConnectionResetError):
                client.recv(1)

    def test_datagrams(self, make: Callable[..., Network]) -> None:
        network = make(PortForward("udp", 0, 53))
        network.send(echo_request(GATEWAY, 1, 1))
        network.guest.inbox.clear()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(5)
            client.connect(("127.0.0.1", network.backend.forwards()[0].host_port))
            client.send(b"question")
            network.until(lambda: network.guest.others)
            (seen,) = network.guest.others
            assert (seen.payload, seen.port, seen.source) == (b"question", 53, GATEWAY)
            network.send(udp(GATEWAY, 53, seen.source_port, b"answer"))
            assert client.recv(100) == b"answer"

    def test_added_listed_and_removed_while_running(self, network: Network) -> None:
        added = network.backend.add_forward(PortForward("tcp", 0, 80, "127.0.0.1"))
        assert network.backend.forwards() == (added,)
        socket.create_connection(("127.0.0.1", added.host_port)).close()
        assert network.backend.remove_forward("tcp", added.host_port, "127.0.0.1") == added
        assert network.backend.forwards() == ()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", added.host_port))
        with pytest.raises(HostError, match="not forwarded; forwarded are: none"):
            network.backend.remove_forward("tcp", added.host_port)

    def test_a_taken_port_is_named_with_the_way_out(self, network: Network) -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            with pytest.raises(
                HostError, match=f"tcp port {port} .* taken by another program; choose another host port"
            ) as caught:
                network.backend.add_forward(PortForward("tcp", port, 22))
            assert caught.value.errno == errno.EADDRINUSE
        network.backend.add_forward(PortForward("tcp", port, 22))

    @pytest.mark.parametrize(
        ("forward", "message"),
        [
            (PortForward("tcp", 70000, 22), "host port 70000"),
            (PortForward("tcp", 0, 0), "guest port 0"),
            (PortForward("tcp", 0, 22, "nowhere"), "'nowhere' is not an address"),
            (PortForward("tcp", 0, 22, "", "10.0.2"), "'10.0.2' is not an IP address of the guest"),
            (PortForward("tcp", 0, 22, "192.0.2.1"), "no such address here"),
        ],
    )
    def test_what_cannot_be(self, network: Network, forward: PortForward, message: str) -> None:
        with pytest.raises((ConfigError, HostError), match=message):
            network.backend.add_forward(forward)

    def test_one_that_fails_leaves_none_open(self) -> None:
        loop = PollLoop()
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            taken = PortForward("tcp", other.getsockname()[1], 1)
            before = len(os.listdir("/proc/self/fd"))
            with pytest.raises(HostError):
                UserBackend(make_plan(), loop, loop.clock, [PortForward("tcp", 0, 22), taken])
            assert len(os.listdir("/proc/self/fd")) == before
        loop.close()


class FakeResolver:
    """A DNS server on the loopback, UDP and TCP on the same port."""

    def __init__(self) -> None:
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        self.udp.settimeout(5)
        self.address = ("127.0.0.1", int(self.udp.getsockname()[1]))
        self.tcp = socket.socket()
        self.tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.tcp.bind(self.address)
        self.tcp.listen()
        self.tcp.settimeout(5)

    def close(self) -> None:
        self.udp.close()
        self.tcp.close()


@pytest.fixture
def resolver() -> Iterator[FakeResolver]:
    resolver = FakeResolver()
    yield resolver
    resolver.close()


QUERY = struct.pack(">6H", 0xBEEF, 0x100, 1, 0, 0, 0) + b"\x07example\x03org\0\0\1\0\1"


class TestResolvers:
    def test_asked_over_udp(self, make: Callable[..., Network], resolver: FakeResolver) -> None:
        network = make(resolvers=[resolver.address])
        network.send(udp(DNS, 5000, 53, QUERY))
        asked, client = resolver.udp.recvfrom(1000)
        assert asked[2:] == QUERY[2:]
        resolver.udp.sendto(asked[:2] + b"\x81\x80" + asked[4:], client)
        network.until(lambda: network.guest.others)
        assert network.guest.others[0].payload == b"\xbe\xef\x81\x80" + QUERY[4:]

    def test_one_that_is_not_there_lets_the_next_be_asked(
        self, make: Callable[..., Network], resolver: FakeResolver
    ) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
            gone.bind(("127.0.0.1", 0))
            nobody = gone.getsockname()
        network = make(resolvers=[nobody, resolver.address])
        network.send(udp(DNS, 5000, 53, QUERY))
        resolver.udp.settimeout(0.01)

        def asked() -> bool:
            try:
                return bool(resolver.udp.recv(1000))
            except TimeoutError:
                return False

        network.until(asked, turns=100)

    def test_asked_over_tcp(self, make: Callable[..., Network], resolver: FakeResolver) -> None:
        network = make(resolvers=[resolver.address])
        application = network.guest.connect(DNS, 53)
        network.until(lambda: application.events)
        assert application.endpoint is not None
        application.endpoint.write(len(QUERY).to_bytes(2, "big") + QUERY)
        network.until(lambda: len(network.backend._core.dns))
        connection, _ = resolver.tcp.accept()
        with connection:
            connection.setblocking(False)
            got = bytearray()
            network.until(lambda: received(connection, got) or len(got) == 2 + len(QUERY))
            answer = bytes(got[2:4]) + b"\x81\x80" + QUERY[4:] + bytes(30000)
            connection.send(len(answer).to_bytes(2, "big") + answer[:100])
            network.loop.turn(0.01)
            connection.send(answer[100:])
            network.until(lambda: len(application.total) == 2 + len(answer))
        assert application.total[2:] == b"\xbe\xef" + answer[2:]

    def test_none_at_all(self, make: Callable[..., Network], tmp_path: Path) -> None:
        before = len(os.listdir("/proc/self/fd"))
        network = make(resolvers=[])
        network.send(udp(DNS, 5000, 53, QUERY))
        network.until(lambda: network.guest.others)
        assert network.guest.others[0].payload[3] & 15 == 2
        assert len(os.listdir("/proc/self/fd")) == before + 1  # the loop's own

    def test_resolv_conf(self, tmp_path: Path) -> None:
        path = tmp_path / "resolv.conf"
        path.write_text(
            "# comment\nsearch x\nnameserver 192.0.2.1\nnameserver fe80::1%lo\nnameserver nonsense\nnameserver\n"
        )
        servers = read_servers(path)
        assert servers[0] == ("192.0.2.1", 53)
        assert servers[1][:2] in (("fe80::1%lo", 53), ("fe80::1", 53))
        assert len(servers) == 2
        path.write_text("nameserver 192.0.2.1\n" * 9)
        assert len(read_servers(path)) == MAX_SERVERS
        assert read_servers(tmp_path / "missing") == [("127.0.0.1", 53)]

    def test_the_file_is_read_again_when_it_changes(self, make: Callable[..., Network], tmp_path: Path) -> None:
        path = tmp_path / "resolv.conf"
        path.write_text("nameserver 192.0.2.1\n")
        network = make(resolvers=path)
        resolvers = network.backend._host._resolvers
        assert resolvers.servers() == [("192.0.2.1", 53)]
        path.write_text("nameserver 192.0.2.2\n")
        os.utime(path, ns=(1, 1))
        assert resolvers.servers() == [("192.0.2.2", 53)]


def test_closing_leaves_nothing_open() -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    network = Network(PortForward("tcp", 0, 22), PortForward("udp", 0, 53))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        application = network.guest.connect(GATEWAY, listener.getsockname()[1])
        network.until(lambda: application.events)
        network.send(udp(GATEWAY, 5000, 9, b"x"))
        network.backend.close()
        network.backend.close()
        network.send(udp(GATEWAY, 5000, 9, b"x"))
        network.loop.settle()
    network.loop.close()
    assert sorted(os.listdir("/proc/self/fd")) == before
