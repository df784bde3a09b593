"""UDP and echo requests through the NAT, what a guest may reach, and what it is told when it may not."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manor.backends.net.api import Frame, Offloads
from manor.backends.net.user import emitter, mappings
from manor.backends.net.user.icmp import Reason
from manor.backends.net.user.mappings import EchoMapping, UdpMapping
from manor.backends.net.user.plan import LOOPBACK4, LOOPBACK6, host_address, make_plan
from manor.base.clock import SECOND
from manor.spec.net import Reach
from manor.testing.user_guest import (
    DNS,
    GATEWAY,
    GATEWAY6,
    IP,
    IP6,
    MAC,
    SYN,
    WORLD,
    WORLD6,
    Conversation,
    Seen,
    echo_request,
    ipv4,
    ipv6,
    packet,
    summed,
    tcp,
    udp,
)
from manor.trace import sink
from manor.trace.event import Event

BOTH = pytest.mark.parametrize("destination", [WORLD, WORLD6], ids=["v4", "v6"])


def ip(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


def mapping_of(conversation: Conversation) -> UdpMapping:
    """The mapping of the only datagram that went out."""
    ((kind, *_, mapping),) = conversation.outside.take()
    assert kind == "udp"
    assert isinstance(mapping, UdpMapping)
    return mapping


class TestReach:
    """The table of what leads where. Addresses that mean the host itself in disguise come first."""

    @pytest.mark.parametrize(
        "address",
        [
            "127.0.0.1",
            "127.8.8.8",
            "0.0.0.0",
            "0.1.2.3",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "::ffff:0:127.0.0.1",
            "64:ff9b::127.0.0.1",
            "64:ff9b::10.0.2.2",
            "169.254.169.254",
            "fe80::1",
            "fec0::1",
            "224.0.0.251",
            "240.0.0.1",
            "255.255.255.255",
            "ff02::fb",
            "10.0.2.3",
            "10.0.2.77",
            "10.0.2.255",
            "fd00::3",
            "fd00::abcd",
        ],
    )
    @pytest.mark.parametrize("reach", ["all", "host", "none"])
    def test_never(self, address: str, reach: Reach) -> None:
        assert host_address(make_plan(reach=reach), ip(address)) is None

    @pytest.mark.parametrize(
        ("address", "target"),
        [("10.0.2.2", LOOPBACK4), ("fd00::2", LOOPBACK6), ("192.0.2.1", None), ("2001:db8::1", None)],
    )
    def test_host_alone(self, address: str, target: bytes | None) -> None:
        assert host_address(make_plan(reach="host"), ip(address)) == target

    @pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1", "192.168.1.7", "64:ff9b::192.0.2.1", "fd01::1"])
    def test_the_world(self, address: str) -> None:
        assert host_address(make_plan(), ip(address)) == ip(address)
        assert host_address(make_plan(reach="none"), ip(address)) is None

    @pytest.mark.parametrize("address", ["10.0.2.2", "fd00::2"])
    def test_the_host_shut_out(self, address: str) -> None:
        assert host_address(make_plan(host_at_gateway=False), ip(address)) is None
        assert host_address(make_plan(reach="none"), ip(address)) is None

    @pytest.mark.parametrize("address", ["127.0.0.1", "192.0.2.1", "::1", "2001:db8::1"])
    def test_a_closed_network_asks_nothing_of_the_host(self, address: str) -> None:
        conversation = Conversation(make_plan(reach="none"))
        seen = conversation.send(
            tcp(ip(address), 4000, 80, 0, 0, SYN), udp(ip(address), 4000, 53, b"x"), echo_request(ip(address), 1, 1)
        )
        is_v4 = len(ip(address)) == 4
        assert [(one.protocol, tuple(one.body[:2])) for one in seen if one.protocol != 6] == [
            (1, (3, 13)) if is_v4 else (58, (1, 1))
        ] * 3
        assert conversation.outside.take() == []

    @pytest.mark.parametrize("address", [GATEWAY, GATEWAY6])
    def test_the_closed_gateway_refuses(self, address: bytes) -> None:
        conversation = Conversation(make_plan(reach="none"))
        (reset,) = conversation.send(tcp(address, 4000, 80, 0, 0, SYN))
        assert reset.protocol == 6
        (error,) = conversation.send(udp(address, 4000, 80, b"x"))
        assert tuple(error.body[:2]) in ((3, 3), (1, 4))
        assert len(conversation.send(echo_request(address, 1, 1))) == 1
        assert conversation.outside.take() == []


class TestUdp:
    @BOTH
    def test_there_and_back(self, destination: bytes) -> None:
        conversation = Conversation()
        assert conversation.send(udp(destination, 5000, 123, b"what time is it?")) == []
        ((_, address, port, payload, ttl, mapping),) = conversation.outside.take()
        assert (address, port, payload, ttl) == (destination, 123, b"what time is it?", 63)
        assert isinstance(mapping, UdpMapping)
        (answer,) = conversation.world(lambda: conversation.core.udp_received(mapping, destination, 123, b"late"))
        assert (answer.source, answer.source_port, answer.port, answer.payload) == (destination, 123, 5000, b"late")
        assert answer.to == MAC

    def test_the_host_at_the_gateway(self) -> None:
        conversation = Conversation()
        conversation.send(udp(GATEWAY, 5000, 7, b"x"))
        assert conversation.outside.asked[0][1] == LOOPBACK4
        mapping = mapping_of(conversation)
        view = conversation.core.guest_view(LOOPBACK4)
        (answer,) = conversation.world(lambda: conversation.core.udp_received(mapping, view, 7, b"y"))
        assert answer.source == GATEWAY

    def test_one_mapping_for_all_hosts_and_only_they_may_answer(self) -> None:
        conversation = Conversation()
        other, stranger = ip("192.0.2.9"), ip("192.0.2.10")
        conversation.send(udp(WORLD, 5000, 1, b"x"), udp(other, 5000, 1, b"x"))
        (*_, first), (*_, second) = conversation.outside.take()
        assert first is second
        assert isinstance(first, UdpMapping)
        core = conversation.core
        assert len(conversation.world(lambda: core.udp_received(first, other, 999, b"from another port"))) == 1
        assert conversation.world(lambda: core.udp_received(first, stranger, 1, b"let me in")) == []

    def test_idle_mappings_end(self) -> None:
        conversation = Conversation()
        conversation.send(udp(WORLD, 5000, 1, b"x"))
        mapping = mapping_of(conversation)
        conversation.after(100 * SECOND)
        conversation.world(lambda: conversation.core.udp_received(mapping, WORLD, 1, b"y"))
        conversation.after(100 * SECOND)
        assert conversation.outside.take() == []
        conversation.after(30 * SECOND)
        assert conversation.outside.take() == [("close udp", mapping)]

    def test_too_many_mappings(self) -> None:
        conversation = Conversation()
        for port in range(1000, 1000 + mappings.MAX_UDP + 1):
            conversation.send(udp(WORLD, port, 1, b"x"))
        closed = [asked[1] for asked in conversation.outside.take() if asked[0] == "close udp"]
        assert [mapping.port for mapping in closed if isinstance(mapping, UdpMapping)] == [1000]

    def test_too_many_peers_of_one(self) -> None:
        conversation = Conversation()
        for number in range(mappings.MAX_PEERS + 10):
            conversation.send(udp(ip("198.18.0.0")[:2] + number.to_bytes(2, "big"), 5000, 1, b"x"))
        mapping = conversation.outside.asked[0][-1]
        assert isinstance(mapping, UdpMapping)
        assert len(mapping.peers) == mappings.MAX_PEERS

    @BOTH
    @pytest.mark.parametrize(
        ("reason", "v4", "v6"),
        [(Reason.PORT, (3, 3), (1, 4)), (Reason.NO_ROUTE, (3, 0), (1, 0)), (Reason.HOP_LIMIT, (11, 0), (3, 0))],
    )
    def test_the_world_says_no(
        self, destination: bytes, reason: Reason, v4: tuple[int, int], v6: tuple[int, int]
    ) -> None:
        conversation = Conversation()
        conversation.send(udp(destination, 5000, 9, b"x"))
        mapping = mapping_of(conversation)
        reporter = ip("192.0.2.254") if len(destination) == 4 else ip("2001:db8::fe")
        (error,) = conversation.world(lambda: conversation.core.udp_failed(mapping, reason, reporter, destination, 9))
        assert error.source == reporter
        assert tuple(error.body[:2]) == (v4 if len(destination) == 4 else v6)
        quoted = error.body[8:]
        assert quoted[-8:-4] == struct.pack(">HH", 5000, 9)
        assert (IP + WORLD if len(destination) == 4 else IP6 + WORLD6) in quoted

    def test_the_host_says_no_at_once(self) -> None:
        conversation = Conversation()
        conversation.outside.refusal = Reason.NO_ROUTE
        frame = udp(WORLD, 5000, 9, b"x" * 100)
        (error,) = conversation.send(frame)
        assert (error.source, tuple(error.body[:2])) == (GATEWAY, (3, 0))
        assert error.body[8:] == frame[14:]

    @BOTH
    def test_a_hop_too_far(self, destination: bytes) -> None:
        conversation = Conversation()
        (error,) = conversation.send(udp(destination, 5000, 33434, b"x", ttl=1))
        assert error.source == (GATEWAY if len(destination) == 4 else GATEWAY6)
        assert tuple(error.body[:2]) == ((11, 0) if len(destination) == 4 else (3, 0))
        assert conversation.outside.take() == []

    @BOTH
    def test_large_ones_come_in_fragments(self, destination: bytes) -> None:
        conversation = Conversation()
        conversation.send(udp(destination, 5000, 9, b"x"))
        mapping = mapping_of(conversation)
        data = bytes(range(256)) * 20
        seen = conversation.world(lambda: conversation.core.udp_received(mapping, destination, 9, data))
        assert len(seen) == 4
        assert all(one.is_fragment and len(one.raw) <= 1514 for one in seen)
        # What a second guest makes of them: they go through our own reassembly, back out as a datagram.
        again = Conversation()
        skip = 0 if len(destination) == 4 else 8
        whole = b"".join(one.body[skip:] for one in seen)
        again.send(packet(17, whole, IP if skip == 0 else IP6, destination))
        assert whole[8:] == data

    def test_out_in_fragments(self) -> None:
        conversation = Conversation()
        whole = udp(WORLD, 5000, 9, bytes(3000))[34:]
        pieces = [whole[at : at + 1480] for at in range(0, len(whole), 1480)]
        frames = [
            ipv4(17, piece, WORLD, fragment=(0x2000 if index < 2 else 0) | index * 185)
            for index, piece in enumerate(pieces)
        ]
        assert conversation.send(*reversed(frames)) == []
        ((_, _, _, payload, _, _),) = conversation.outside.take()
        assert payload == bytes(3000)

    def test_out_in_fragments_over_ipv6(self) -> None:
        conversation = Conversation()
        whole = udp(WORLD6, 5000, 9, bytes(2000))[54:]

        def piece(start: int, end: int, *, more: bool) -> bytes:
            return ipv6(44, struct.pack(">BxHI", 17, start | more, 77) + whole[start:end], WORLD6)

        conversation.send(piece(0, 1232, more=True), piece(1232, 2008, more=False))
        assert conversation.outside.take()[0][3] == bytes(2000)

    def test_multicast_stays_on_the_cable(self) -> None:
        conversation = Conversation()
        assert conversation.send(udp(ip("224.0.0.251"), 5353, 5353, b"x"), udp(ip("ff02::fb"), 5353, 5353, b"x")) == []
        assert conversation.send(udp(ip("255.255.255.255"), 5, 5, b"x"), udp(ip("10.0.2.255"), 5, 5, b"x")) == []
        assert conversation.outside.take() == []

    def test_no_checksum_is_fine_over_ipv4_only(self) -> None:
        conversation = Conversation()
        raw = udp(WORLD, 5000, 9, b"x")
        conversation.send(raw[:40] + b"\0\0" + raw[42:])
        assert len(conversation.outside.take()) == 1
        raw = udp(WORLD6, 5000, 9, b"x")
        conversation.send(raw[:60] + b"\0\0" + raw[62:])
        conversation.send(raw[:60] + b"\x12\x34" + raw[62:])
        assert conversation.outside.take() == []

    def test_errors_are_few(self) -> None:
        conversation = Conversation(make_plan(reach="none"))
        frames = [udp(WORLD, 5000, 9, b"x")] * 1000
        assert len(conversation.send(*frames)) == emitter.MAX_ERRORS
        conversation.after(2 * SECOND)
        assert len(conversation.send(*frames)) == emitter.MAX_ERRORS


class Events:
    """A trace sink that remembers."""

    def __init__(self) -> None:
        self.seen: list[tuple[object, ...]] = []

    def emit(self, event: Event, values: tuple[object, ...]) -> None:
        self.seen.append((event.name, *values))


def test_what_is_dropped_and_refused_can_be_traced() -> None:
    conversation = Conversation(make_plan(reach="none"))
    events = Events()
    patterns = ("usernet_*", "dhcp_reply", "guest_error")
    for pattern in patterns:
        sink.enable(pattern, events)
    try:
        conversation.send(bytes(20), udp(WORLD, 5000, 9, b"x"))
        conversation.send(udp(ip("255.255.255.255"), 68, 67, DISCOVER, bytes(4)))
    finally:
        for pattern in patterns:
            sink.disable(pattern, events)
    assert events.seen == [
        ("usernet_drop", "short", 20),
        ("guest_error", "user-mode network", "short, 20 bytes"),
        ("usernet_unreachable", 17, WORLD, "PROHIBITED"),
        ("dhcp_reply", "OFFER", MAC, IP),
    ]


DISCOVER = struct.pack(">BBBBIHH16s16s192x4s", 1, 1, 6, 0, 9, 0, 0, b"", MAC, b"\x63\x82\x53\x63") + b"\x35\x01\x01\xff"


class TestEcho:
    @pytest.mark.parametrize("address", [GATEWAY, GATEWAY6, DNS])
    def test_our_own(self, address: bytes) -> None:
        (reply,) = Conversation().send(echo_request(address, 7, 3, b"payload of any length"))
        assert (reply.source, reply.body[0]) == (address, 0 if len(address) == 4 else 129)
        assert reply.body[4:] == struct.pack(">HH", 7, 3) + b"payload of any length"

    @settings(max_examples=200, deadline=None)
    @given(
        identifier=st.integers(0, 0xFFFF),
        sequence=st.integers(0, 0xFFFF),
        data=st.binary(max_size=80),
        destination=st.sampled_from([GATEWAY, DNS, WORLD]),
        change=st.one_of(st.none(), st.tuples(st.integers(12, 60), st.integers(1, 255))),
        cut=st.integers(0, 3),
    )
    def test_the_short_way_answers_as_the_long_one(
        self,
        identifier: int,
        sequence: int,
        data: bytes,
        destination: bytes,
        change: tuple[int, int] | None,
        cut: int,
    ) -> None:
        """Also about requests that are damaged or cut off."""
        frame = bytearray(echo_request(destination, identifier, sequence, data))
        if change is not None and change[0] < len(frame):
            frame[change[0]] ^= change[1]
        request = Frame(bytes(frame[: len(frame) - cut]))
        answers = []
        for is_short in (True, False):
            core = Conversation().core
            if not is_short:
                core._echo4 = lambda data: False  # type: ignore[method-assign]
            core.receive([request], Offloads(), 1)
            answers.append((core.out[:], core.dropped, core.known_addresses))
        assert answers[0] == answers[1]

    @BOTH
    def test_the_worlds(self, destination: bytes) -> None:
        conversation = Conversation()
        assert conversation.send(echo_request(destination, 7, 3)) == []
        ((_, address, sequence, data, ttl, mapping),) = conversation.outside.take()
        assert (address, sequence, data, ttl) == (destination, 3, b"abc", 63)
        assert isinstance(mapping, EchoMapping)
        (reply,) = conversation.world(lambda: conversation.core.echo_received(mapping, destination, 3, b"abc"))
        assert (reply.source, reply.body[4:]) == (destination, struct.pack(">HH", 7, 3) + b"abc")
        reporter = ip("192.0.2.254") if len(destination) == 4 else ip("2001:db8::fe")
        core = conversation.core
        (error,) = conversation.world(lambda: core.echo_failed(mapping, Reason.HOP_LIMIT, reporter, destination, 3))
        assert error.source == reporter
        assert error.body[-4:] == struct.pack(">HH", 7, 3)

    def test_where_the_host_has_no_right_to_ping(self) -> None:
        conversation = Conversation()
        conversation.outside.refusal = Reason.PROHIBITED
        (error,) = conversation.send(echo_request(WORLD, 7, 3))
        assert tuple(error.body[:2]) == (3, 13)

    def test_few_at_a_time(self) -> None:
        conversation = Conversation()
        for identifier in range(mappings.MAX_ECHO + 1):
            conversation.send(echo_request(WORLD, identifier, 1))
        assert [asked[0] for asked in conversation.outside.take()].count("close echo") == 1
        conversation.after(120 * SECOND)
        assert len(conversation.outside.take()) == mappings.MAX_ECHO

    def test_a_broken_one_is_dropped(self) -> None:
        raw = echo_request(GATEWAY, 7, 3)
        assert Conversation().send(raw[:-1] + b"Z", raw[:36] + b"\0\0" + raw[38:]) == []

    def test_no_error_about_an_error_or_to_a_crowd(self) -> None:
        conversation = Conversation(make_plan(reach="none"))
        about = summed(1, bytes((3, 3, 0, 0, 0, 0, 0, 0)) + bytes(28), 2, WORLD)
        assert conversation.send(ipv4(1, about, WORLD)) == []
        assert conversation.send(ipv4(132, bytes(20), ip("224.0.0.1"))) == []
        (error,) = conversation.send(ipv4(132, bytes(20), GATEWAY))
        assert tuple(error.body[:2]) == (3, 2)
        (error,) = conversation.send(ipv6(132, bytes(20), GATEWAY6))
        assert tuple(error.body[:2]) == (4, 1)
        assert error.body[4:8] == (6).to_bytes(4, "big")

    def test_impossible_sources(self) -> None:
        conversation = Conversation()
        for source in ("224.0.0.1", "127.0.0.1", "10.0.2.2", "255.255.255.255"):
            assert conversation.send(udp(WORLD, 5, 5, b"x", ip(source))) == []
        for source in ("ff02::1", "fd00::2"):
            assert conversation.send(udp(WORLD6, 5, 5, b"x", ip(source))) == []
        assert conversation.outside.take() == []
        assert conversation.core.dropped == 6


class TestForwardedUdp:
    def forward(
        self, conversation: Conversation, peer: str, port: int, payload: bytes, guest: bytes = b""
    ) -> list[Seen]:
        core = conversation.core
        return conversation.world(lambda: core.forward_udp("forward", (peer, port), port, guest, 53, payload))

    def known(self) -> Conversation:
        conversation = Conversation()
        conversation.send(echo_request(GATEWAY, 1, 1), echo_request(GATEWAY6, 1, 1))
        return conversation

    def test_there_and_back(self) -> None:
        conversation = self.known()
        (seen,) = self.forward(conversation, "127.0.0.1", 4444, b"question")
        assert (seen.source, seen.source_port, seen.destination, seen.port) == (GATEWAY, 4444, IP, 53)
        assert conversation.send(udp(GATEWAY, 53, 4444, b"answer")) == []
        assert conversation.outside.take() == [("forwarded", "forward", ("127.0.0.1", 4444), b"answer")]

    def test_to_an_ipv6_guest(self) -> None:
        (seen,) = self.forward(self.known(), "127.0.0.1", 4444, b"question", IP6)
        assert (seen.source, seen.destination) == (GATEWAY6, IP6)

    def test_two_peers_with_one_port(self) -> None:
        conversation = self.known()
        (first,) = self.forward(conversation, "127.0.0.1", 4444, b"a")
        (second,) = self.forward(conversation, "127.0.0.2", 4444, b"b")
        (again,) = self.forward(conversation, "127.0.0.2", 4444, b"b")
        assert first.source_port == 4444
        assert second.source_port == again.source_port >= 49152
        conversation.send(udp(GATEWAY, 53, second.source_port, b"to b"))
        assert conversation.outside.take() == [("forwarded", "forward", ("127.0.0.2", 4444), b"to b")]

    def test_a_guest_nobody_heard_of_is_looked_for(self) -> None:
        conversation = Conversation()
        (question,) = self.forward(conversation, "127.0.0.1", 4444, b"question")
        assert question.kind == 0x0806
        seen = conversation.send(echo_request(GATEWAY, 1, 1))
        assert seen[0].payload == b"question"

    def test_it_ends_with_the_forward_and_with_time(self) -> None:
        conversation = self.known()
        self.forward(conversation, "127.0.0.1", 4444, b"question")
        conversation.core.udp.forget_forward("forward")
        conversation.send(udp(GATEWAY, 53, 4444, b"answer"))
        assert conversation.outside.take()[0][0] == "udp"  # to a port of the host, as any
        self.forward(conversation, "127.0.0.1", 4445, b"question")
        conversation.after(200 * SECOND)
        assert len(conversation.core.udp.forwarded) == 0
