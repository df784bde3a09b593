"""A guest of the user-mode network, made of single frames: tests say what it sends and look at what it gets.

Headers and checksums are written and verified here word by word, apart from the code under test.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from manor.backends.net.api import Frame, NetBackend, Offloads, Segmentation
from manor.backends.net.user.core import UserNetwork
from manor.backends.net.user.icmp import Reason
from manor.backends.net.user.mappings import EchoMapping, ForwardedPeer, UdpMapping
from manor.backends.net.user.plan import GATEWAY_MAC, Plan
from manor.backends.net.user.tcp import TcpEndpoint
from manor.backends.net.user.tcp_state import End
from manor.backends.net.user.tcp_table import ACK_DELAY, TcpTable
from manor.base.clock import SECOND

MAC: Final = bytes.fromhex("525400123456")
IP: Final = bytes((10, 0, 2, 15))
IP6: Final = bytes.fromhex("fd000000000000005054 00fffe123456".replace(" ", ""))
LINK_LOCAL: Final = bytes.fromhex("fe800000000000005054 00fffe123456".replace(" ", ""))
GATEWAY: Final = bytes((10, 0, 2, 2))
DNS: Final = bytes((10, 0, 2, 3))
GATEWAY6: Final = bytes.fromhex("fd000000000000000000000000000002")
DNS6: Final = bytes.fromhex("fd000000000000000000000000000003")
WORLD: Final = bytes((198, 51, 100, 7))  # TEST-NET-2, RFC 5737
WORLD6: Final = bytes.fromhex("20010db8000000000000000000000007")  # RFC 3849

EVERYTHING: Final = Offloads(checksum=True, tcpv4=True, tcpv6=True)
NOTHING: Final = Offloads()

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16


def reference_sum(data: bytes) -> int:
    """One's complement sum, as RFC 1071 describes it."""
    total = 0
    for at in range(0, len(data), 2):
        total += int.from_bytes(data[at : at + 2].ljust(2, b"\0"), "big")
        total = (total & 0xFFFF) + (total >> 16)
    return total


def pseudo(source: bytes, destination: bytes, protocol: int, size: int) -> bytes:
    if len(source) == 4:
        return source + destination + struct.pack(">BBH", 0, protocol, size)
    return source + destination + struct.pack(">IHBB", size, 0, 0, protocol)


def ipv4(
    protocol: int,
    payload: bytes,
    destination: bytes,
    source: bytes = IP,
    *,
    ttl: int = 64,
    fragment: int = 0,
    identification: int = 7,
    options: bytes = b"",
    to: bytes = GATEWAY_MAC,
) -> bytes:
    """A frame with an IPv4 packet."""
    size = 20 + len(options)
    head = struct.pack(
        ">BBHHHBBH", 0x40 | size // 4, 0, size + len(payload), identification, fragment, ttl, protocol, 0
    )
    head += source + destination + options
    head = head[:10] + (0xFFFF - reference_sum(head)).to_bytes(2, "big") + head[12:]
    return to + MAC + b"\x08\x00" + head + payload


def ipv6(
    protocol: int,
    payload: bytes,
    destination: bytes,
    source: bytes = IP6,
    *,
    hops: int = 64,
    to: bytes = GATEWAY_MAC,
) -> bytes:
    """A frame with an IPv6 packet."""
    return (
        to
        + MAC
        + b"\x86\xdd"
        + struct.pack(">IHBB", 6 << 28, len(payload), protocol, hops)
        + source
        + destination
        + payload
    )


def packet(protocol: int, payload: bytes, destination: bytes, source: bytes | None = None, *, ttl: int = 64) -> bytes:
    """A frame with a packet of the destination's family."""
    if len(destination) == 4:
        return ipv4(protocol, payload, destination, source or IP, ttl=ttl)
    return ipv6(protocol, payload, destination, source or IP6, hops=ttl)


def summed(protocol: int, message: bytes, at: int, destination: bytes, source: bytes | None = None) -> bytes:
    """`message` with the checksum at `at` that the pseudo header wants."""
    source = source or (IP if len(destination) == 4 else IP6)
    head = b"" if protocol == 1 else pseudo(source, destination, protocol, len(message))
    total = 0xFFFF - reference_sum(head + message)
    return message[:at] + (total or (0xFFFF if protocol == 17 else 0)).to_bytes(2, "big") + message[at + 2 :]


def udp(
    destination: bytes, source_port: int, port: int, payload: bytes, source: bytes | None = None, *, ttl: int = 64
) -> bytes:
    message = struct.pack(">HHHH", source_port, port, 8 + len(payload), 0) + payload
    return packet(17, summed(17, message, 6, destination, source), destination, source, ttl=ttl)


def tcp(
    destination: bytes,
    source_port: int,
    port: int,
    sequence: int,
    ack: int,
    flags: int,
    payload: bytes = b"",
    *,
    window: int = 65535,
    options: bytes = b"",
    source: bytes | None = None,
) -> bytes:
    offset_flags = (20 + len(options)) << 10 | flags
    message = struct.pack(
        ">HHIIHHHH", source_port, port, sequence & 0xFFFFFFFF, ack & 0xFFFFFFFF, offset_flags, window, 0, 0
    )
    return packet(6, summed(6, message + options + payload, 16, destination, source), destination, source)


def echo_request(destination: bytes, identifier: int, sequence: int, data: bytes = b"abc", *, ttl: int = 64) -> bytes:
    is_v4 = len(destination) == 4
    message = struct.pack(">BBHHH", 8 if is_v4 else 128, 0, 0, identifier, sequence) + data
    protocol = 1 if is_v4 else 58
    return packet(protocol, summed(protocol, message, 2, destination), destination, ttl=ttl)


def icmpv6(message: bytes, destination: bytes, source: bytes = LINK_LOCAL, *, hops: int = 255) -> bytes:
    return ipv6(58, summed(58, message, 2, destination, source), destination, source, hops=hops)


@dataclass(frozen=True)
class Seen:
    """A frame that the guest got, taken apart; its checksums were verified. payload: of the innermost header that is
    known."""

    raw: bytes
    to: bytes
    kind: int
    source: bytes = b""
    destination: bytes = b""
    protocol: int = -1
    ttl: int = 0
    body: bytes = b""
    """What follows the IP header."""
    payload: bytes = b""
    source_port: int = 0
    port: int = 0
    sequence: int = 0
    ack: int = 0
    flags: int = 0
    window: int = 0
    options: bytes = b""
    segment_size: int = 0
    is_fragment: bool = False


def look(frame: Frame) -> Seen:
    """Take a frame apart; AssertionError if a length or a checksum in it is wrong."""
    data = frame.data
    to, kind = data[:6], int.from_bytes(data[12:14], "big")
    if kind == 0x0806:
        return Seen(data, to, kind, payload=data[14:])
    fragment = 0
    if kind == 0x0800:
        size = (data[14] & 15) * 4
        assert reference_sum(data[14 : 14 + size]) == 0xFFFF, "header checksum"
        total, fragment, ttl, protocol = (
            int.from_bytes(data[16:18], "big"),
            int.from_bytes(data[20:22], "big"),
            data[22],
            data[23],
        )
        source, destination = data[26:30], data[30:34]
        assert 14 + total == len(data)
        body = data[14 + size :]
    else:
        assert kind == 0x86DD, hex(kind)
        total, protocol, ttl = int.from_bytes(data[18:20], "big"), data[20], data[21]
        source, destination = data[22:38], data[38:54]
        assert 54 + total == len(data)
        body = data[54:]
        if protocol == 44:
            fragment = 0x2000
    seen = Seen(data, to, kind, source, destination, protocol, ttl, body, body, is_fragment=bool(fragment & 0x3FFF))
    if seen.is_fragment:
        return seen
    verify(frame, seen)
    if protocol == 17:
        source_port, port, size, field_ = struct.unpack_from(">HHHH", body)
        assert size == len(body)
        assert field_ != 0
        return replace_(seen, source_port=source_port, port=port, payload=body[8:])
    if protocol == 6:
        source_port, port, sequence, ack, offset_flags, window = struct.unpack_from(">HHIIHH", body)
        size = offset_flags >> 12 << 2
        return replace_(
            seen,
            source_port=source_port,
            port=port,
            sequence=sequence,
            ack=ack,
            flags=offset_flags & 63,
            window=window,
            options=body[20:size],
            payload=body[size:],
            segment_size=frame.segment_size,
        )
    return seen


def replace_(seen: Seen, **changes: object) -> Seen:
    return Seen(**(seen.__dict__ | changes))


def verify(frame: Frame, seen: Seen) -> None:
    """Check the checksum over IP, or what was left of it to be done."""
    if seen.protocol not in (1, 6, 17, 58):
        return
    head = b"" if seen.protocol == 1 else pseudo(seen.source, seen.destination, seen.protocol, len(seen.body))
    if frame.checksum_start:
        start = frame.checksum_start
        assert start == len(frame.data) - len(seen.body)
        assert frame.checksum_offset == {6: 16, 17: 6}[seen.protocol]
        field_ = frame.data[start + frame.checksum_offset : start + frame.checksum_offset + 2]
        assert int.from_bytes(field_, "big") == reference_sum(head), "pseudo header sum"
    else:
        assert reference_sum(head + seen.body) == 0xFFFF, "checksum"
    if frame.segmentation:
        assert frame.checksum_start
        assert frame.segmentation == (Segmentation.TCPV4 if len(seen.source) == 4 else Segmentation.TCPV6)
        assert 0 < frame.segment_size < len(seen.body)


class FakeApplication:
    """A TcpApplication that remembers. limit: bytes it takes before it is full; `read` empties it."""

    def __init__(self, limit: int = 1 << 60) -> None:
        self.endpoint: TcpEndpoint | None = None
        self.limit = limit
        self.received = bytearray()
        self.total = bytearray()
        self.events: list[str] = []
        self.rooms = 0
        self.end: End | None = None

    def tcp_opened(self) -> None:
        self.events.append("opened")

    def tcp_receive(self, chunks: Sequence[memoryview]) -> int:
        taken = 0
        for chunk in chunks:
            part = bytes(chunk[: max(0, self.limit - len(self.received))])
            self.received += part
            self.total += part
            taken += len(part)
        return taken

    def tcp_end(self) -> None:
        self.events.append("end")

    def tcp_room(self) -> None:
        self.rooms += 1

    def tcp_closed(self, end: End) -> None:
        self.events.append("closed")
        self.end = end


@dataclass
class FakeOutside:
    """An Outside that writes down what it is asked for. answer: what TCP connections meet: an application or a
    reason."""

    asked: list[tuple[object, ...]] = field(default_factory=list)
    answer: Callable[[], FakeApplication | Reason | None] = lambda: None
    refusal: Reason | None = None
    has_resolver: bool = True
    core: UserNetwork | None = None

    def open_tcp(self, endpoint: TcpEndpoint, address: bytes, port: int) -> None:
        self.asked.append(("tcp", address, port, endpoint))
        met = self.answer()
        if isinstance(met, FakeApplication):
            met.endpoint = endpoint
            endpoint.application = met
            endpoint.accept()
        elif isinstance(met, Reason):
            assert self.core is not None
            self.core.tcp_failed(endpoint, met)

    def send_udp(self, mapping: UdpMapping, address: bytes, port: int, payload: bytes, ttl: int) -> Reason | None:
        self.asked.append(("udp", address, port, payload, ttl, mapping))
        return self.refusal

    def close_udp(self, mapping: UdpMapping) -> None:
        self.asked.append(("close udp", mapping))

    def send_echo(self, mapping: EchoMapping, address: bytes, sequence: int, data: bytes, ttl: int) -> Reason | None:
        self.asked.append(("echo", address, sequence, data, ttl, mapping))
        return self.refusal

    def close_echo(self, mapping: EchoMapping) -> None:
        self.asked.append(("close echo", mapping))

    def answer_forwarded(self, peer: ForwardedPeer, payload: bytes) -> None:
        self.asked.append(("forwarded", peer.forward, peer.peer, payload))

    def ask_resolver(self, number: int, attempt: int, message: bytes, *, over_tcp: bool) -> bool:
        self.asked.append(("resolver", number, attempt, message, over_tcp))
        return self.has_resolver

    def forget_query(self, number: int) -> None:
        self.asked.append(("forget", number))

    def take(self) -> list[tuple[object, ...]]:
        """What was asked since the last time."""
        asked, self.asked = self.asked, []
        return asked


class Conversation:
    """A guest, the core and a fake world, and a clock that goes on when told to."""

    def __init__(self, plan: Plan | None = None, offloads: Offloads = NOTHING, **options: object) -> None:
        self.outside = FakeOutside()
        self.offloads = offloads
        self.now = 1000 * SECOND
        numbers = iter(range(0x1000_0000, 1 << 62, 0x1001))
        self.core = UserNetwork(
            plan or Plan(),
            self.outside,
            random32=lambda: next(numbers) & 0xFFFFFFFF,
            **options,  # type: ignore[arg-type]
        )
        self.core.now = self.now
        self.outside.core = self.core

    def send(self, *frames: bytes | Frame) -> list[Seen]:
        """The guest sends these in one batch; what it gets at once."""
        batch = [frame if isinstance(frame, Frame) else Frame(frame) for frame in frames]
        self.core.receive(batch, self.offloads, self.now)
        return self.got()

    def after(self, duration: int) -> list[Seen]:
        """Time goes by, with everything that is due in its order; what the guest gets meanwhile."""
        end = self.now + duration
        seen: list[Seen] = []
        while (deadline := self.core.deadline) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            self.core.expire(self.offloads, self.now)
            seen += self.got()
        self.now = end
        return seen

    def world(self, action: Callable[[], object]) -> list[Seen]:
        """Something happens on the host's side; what the guest gets at once."""
        self.core.enter(self.offloads, self.now)
        action()
        self.core.leave()
        return self.got()

    def got(self) -> list[Seen]:
        frames = [look(frame) for frame in self.core.out]
        self.core.out.clear()
        return frames


class TcpDialogue:
    """One connection of the guest's with the world: knows the sequence numbers, so that tests say only what matters."""

    def __init__(
        self,
        conversation: Conversation,
        destination: bytes = WORLD,
        port: int = 80,
        *,
        source_port: int = 40000,
        application: FakeApplication | None = None,
    ) -> None:
        self.conversation = conversation
        self.destination = destination
        self.port = port
        self.source_port = source_port
        self.application = application or FakeApplication()
        self.sequence = 0xFFFF_FF00
        """Close to where it wraps, so that every test crosses the end."""
        self.ack = 0
        self.window = 65535

    def open(self, options: bytes = bytes((2, 4, 5, 180))) -> Seen:
        """The three-way handshake; returns the SYN-ACK."""
        self.conversation.outside.answer = lambda: self.application
        (answer,) = self.send(SYN, options=options, is_counted=False)
        assert answer.flags == SYN | ACK
        assert answer.ack == (self.sequence + 1) & 0xFFFFFFFF
        self.sequence += 1
        self.ack = answer.sequence + 1
        assert self.send(ACK) == []
        assert self.application.events == ["opened"]
        return answer

    def send(
        self,
        flags: int = ACK,
        payload: bytes = b"",
        *,
        options: bytes = b"",
        at: int | None = None,
        is_counted: bool = True,
    ) -> list[Seen]:
        """A segment, at the next sequence number or at `at`."""
        sequence = self.sequence if at is None else at
        if is_counted and at is None:
            self.sequence += len(payload) + bool(flags & FIN) + bool(flags & SYN)
        seen = self.conversation.send(self.frame(flags, payload, options=options, sequence=sequence))
        # Data may be acknowledged a little later.
        return seen or (self.conversation.after(ACK_DELAY) if payload else [])

    def frame(self, flags: int, payload: bytes = b"", *, options: bytes = b"", sequence: int | None = None) -> bytes:
        return tcp(
            self.destination,
            self.source_port,
            self.port,
            self.sequence if sequence is None else sequence,
            self.ack if flags & ACK else 0,
            flags,
            payload,
            window=self.window,
            options=options,
        )

    @property
    def endpoint(self) -> TcpEndpoint:
        assert self.application.endpoint is not None
        return self.application.endpoint

    def world(self, action: Callable[[], object]) -> list[Seen]:
        return self.conversation.world(action)


class TableGuest:
    """A guest with a TCP of its own, a TcpTable, at the cable of a NetBackend. accepts: what it takes undone.

    capacity: frames that it takes before `step` empties its buffers; 0 for a guest that takes none.
    """

    def __init__(self, accepts: Offloads = EVERYTHING, *, mtu: int = 1500) -> None:
        self.accepts = accepts
        self.capacity = 1 << 30
        self.inbox: list[Frame] = []
        self.others: list[Seen] = []
        """Frames that are not TCP, taken apart."""
        self.accepted: list[FakeApplication] = []
        self.out: list[Frame] = []
        numbers = iter(range(0x2000_0000, 1 << 62, 0x1003))
        self.table = TcpTable(self.out, MAC, mtu, self._accept, lambda: next(numbers) & 0xFFFFFFFF)
        self.table.offloads = EVERYTHING
        self.listens = True

    def _accept(self, endpoint: TcpEndpoint, address: bytes, port: int) -> None:
        if not self.listens:
            endpoint.refuse()
            return
        application = FakeApplication()
        application.endpoint = endpoint
        endpoint.application = application
        self.accepted.append(application)
        endpoint.accept()

    def connect(self, address: bytes, port: int, *, source_port: int = 40000) -> FakeApplication:
        """Begin a connection to the world."""
        application = FakeApplication()
        own = IP if len(address) == 4 else IP6
        application.endpoint = endpoint = self.table.open(application, own, address, source_port, port)
        assert endpoint is not None
        self.table.learned(endpoint, GATEWAY_MAC)
        return application

    def deliver(self, frames: Sequence[Frame]) -> int:
        """As NetReceiver.deliver."""
        taken = frames[: max(0, self.capacity - len(self.inbox))]
        self.inbox += taken
        return len(taken)

    def step(self, backend: NetBackend, now: int) -> bool:
        """Deal with what came, send what is to go; whether there was anything."""
        self.table.now = now
        inbox, self.inbox = self.inbox, []
        for frame in inbox:
            data = frame.data
            is_v4 = data[12:14] == b"\x08\x00"
            is_v6 = data[12:14] == b"\x86\xdd"
            if (is_v4 and data[23] == 6) or (is_v6 and data[20] == 6):
                key, at = (data[26:38], 34) if is_v4 else (data[22:58], 54)
                self.table.segment(key, data, at, len(data))
            elif data[12:14] == b"\x08\x06" and data[20:22] == b"\0\1" and data[38:42] == IP:
                reply = struct.pack(">HHBBH", 1, 0x800, 6, 4, 2) + MAC + IP + data[22:32]
                self.out.append(Frame(data[6:12] + MAC + b"\x08\x06" + reply))
            else:
                self.others.append(look(frame))
        self.table.expire()
        self.table.settle()
        if not self.out:
            return bool(inbox)
        frames = self.out[:]
        self.out.clear()
        backend.send(frames)
        return True
