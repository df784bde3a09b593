"""Whatever a guest, a resolver or a peer sends: no exception, bounded memory."""

from __future__ import annotations

import random
import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from manor.backends.net.api import Frame, Segmentation
from manor.backends.net.user import dns_message, neighbours, reassembly, tcp_segment
from manor.backends.net.user.checksum import checksum, fold, is_valid, ones_sum
from manor.backends.net.user.dhcp import parse
from manor.backends.net.user.ip import Packet, packets, parse4, parse6
from manor.backends.net.user.plan import GATEWAY_MAC
from manor.backends.net.user.reassembly import Reassembly
from manor.base.clock import SECOND
from manor.testing.user_guest import (
    ACK,
    DNS,
    EVERYTHING,
    FIN,
    GATEWAY,
    GATEWAY6,
    IP,
    IP6,
    LINK_LOCAL,
    MAC,
    NOTHING,
    PSH,
    SYN,
    WORLD,
    WORLD6,
    Conversation,
    FakeApplication,
    TcpDialogue,
    echo_request,
    icmpv6,
    ipv4,
    ipv6,
    reference_sum,
    tcp,
    udp,
)

QUERY = struct.pack(">6H", 7, 0x100, 1, 0, 0, 0) + b"\x04host\x05manor\0\0\1\0\1"
DHCP = struct.pack(">BBBBIHH16s16s192x4s", 1, 1, 6, 0, 9, 0, 0, b"", MAC, b"\x63\x82\x53\x63") + b"\x35\x01\x01\xff"
DHCPV6 = bytes((1, 1, 2, 3, 0, 1, 0, 4, 1, 2, 3, 4, 0, 3, 0, 12)) + bytes(12)

CORPUS = [
    b"\xff" * 6 + MAC + b"\x08\x06" + struct.pack(">HHBBH", 1, 0x800, 6, 4, 1) + MAC + IP + bytes(6) + GATEWAY,
    tcp(WORLD, 40000, 80, 1, 0, SYN, options=bytes((2, 4, 5, 180, 1, 3, 3, 7, 1, 1, 4, 2))),
    tcp(WORLD, 40000, 80, 2, 0, ACK | PSH, b"data", options=b"\1\1\5\x0a" + bytes(8)),
    tcp(WORLD, 40000, 80, 2, 0, ACK | FIN),
    tcp(WORLD6, 40000, 80, 1, 0, SYN),
    tcp(DNS, 40001, 53, 1, 0, SYN),
    udp(WORLD, 5000, 5001, b"payload"),
    udp(WORLD6, 5000, 5001, b"payload"),
    udp(DNS, 5000, 53, QUERY),
    udp(GATEWAY, 68, 67, DHCP),
    udp(b"\xff\x02" + bytes(11) + b"\1\0\2", 546, 547, DHCPV6, LINK_LOCAL),
    echo_request(GATEWAY, 1, 1),
    echo_request(WORLD6, 1, 1),
    icmpv6(bytes((133, 0, 0, 0, 0, 0, 0, 0)), b"\xff\x02" + bytes(13) + b"\x02"),
    icmpv6(bytes((135, 0, 0, 0, 0, 0, 0, 0)) + GATEWAY6 + b"\1\1" + MAC, GATEWAY6, IP6),
    ipv4(17, bytes(64), WORLD, fragment=0x2001),
    ipv6(44, struct.pack(">BxHI", 17, 8 | 1, 77) + bytes(64), WORLD6),
    ipv6(0, bytes((6, 0)) + bytes(6) + bytes(20), WORLD6),
    ipv4(6, tcp(WORLD, 40000, 80, 1, 0, SYN)[34:], WORLD, options=b"\x07\x04\x04\x00"),
]


def mend(data: bytes) -> bytes:
    """With the right IPv4 header checksum, so that what is wrong behind it is looked at."""
    if len(data) < 34 or data[12:14] != b"\x08\x00":
        return data
    size = max(20, (data[14] & 15) * 4)
    head = data[14:24] + b"\0\0" + data[26 : 14 + size]
    return data[:24] + (0xFFFF - reference_sum(head)).to_bytes(2, "big") + data[26:]


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    """Something between noise and a good frame."""
    data = bytearray(draw(st.sampled_from(CORPUS)))
    for _ in range(draw(st.integers(0, 6))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    if draw(st.booleans()):
        data = data[: draw(st.integers(0, len(data)))]
    data += draw(st.binary(max_size=40))
    return Frame(
        mend(bytes(data)),
        draw(st.sampled_from([0, 0, 34, 60000])),
        draw(st.sampled_from([0, 16, 60000])),
        draw(st.booleans()),
        draw(st.sampled_from(list(Segmentation))),
        draw(st.sampled_from([0, 1, 1460, 65535])),
    )


def check_bounds(conversation: Conversation) -> None:
    core = conversation.core
    assert len(core.cable.neighbours.addresses()) <= neighbours.MAX_NEIGHBOURS
    assert len(core._fragments) <= reassembly.MAX_DATAGRAMS
    assert len(core.leases.all()) <= 64


@settings(max_examples=400, deadline=None)
@given(st.lists(frames(), min_size=1, max_size=12), st.sampled_from([NOTHING, EVERYTHING]))
def test_frames_of_all_sorts(batch: list[Frame], offloads: object) -> None:
    conversation = Conversation(offloads=offloads)  # type: ignore[arg-type]
    conversation.outside.answer = FakeApplication
    for frame in batch:
        conversation.send(frame)  # `look` inside verifies whatever is answered
        conversation.after(SECOND)
    conversation.send(*batch)
    conversation.after(100 * SECOND)
    check_bounds(conversation)
    (reply,) = conversation.send(echo_request(GATEWAY, 1, 1))
    assert reply.source == GATEWAY


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_noise(data: bytes) -> None:
    conversation = Conversation()
    for kind in (b"\x08\x00", b"\x86\xdd", b"\x08\x06", b"\x81\x00"):
        conversation.send(GATEWAY_MAC + MAC + kind + data)
    for protocol in (1, 6, 17, 58):
        conversation.send(Frame(ipv4(protocol, data, GATEWAY), is_checked=True))
        conversation.send(Frame(ipv6(protocol, data, GATEWAY6), is_checked=True))
    check_bounds(conversation)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.sampled_from([b"", QUERY, QUERY[:12]]))
def test_messages_of_dns_and_dhcp(data: bytes, start: bytes) -> None:
    conversation = Conversation()
    conversation.send(udp(DNS, 5000, 53, start + data))
    conversation.send(udp(GATEWAY, 68, 67, data), udp(GATEWAY, 68, 67, DHCP[:240] + data))
    multicast = b"\xff\x02" + bytes(11) + b"\1\0\2"
    conversation.send(udp(multicast, 546, 547, data, LINK_LOCAL), udp(multicast, 546, 547, DHCPV6 + data, LINK_LOCAL))
    parse(data)
    dns_message.parse_query(data)
    dns_message.is_answer_to(data, QUERY)
    tcp_segment.parse_options(data, 0, len(data))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(-70000, 70000), st.integers(0, 63), st.binary(max_size=60), st.integers(0, 65535)),
        max_size=30,
    )
)
def test_segments_of_an_open_connection(segments: list[tuple[int, int, bytes, int]]) -> None:
    talk = TcpDialogue(Conversation())
    talk.open()
    talk.world(lambda: talk.endpoint.write(bytes(5000)))
    endpoint = talk.endpoint
    for offset, flags, payload, window in segments:
        talk.window = window
        talk.send(flags, payload, at=talk.sequence + offset)
        assert endpoint.memory <= 1 << 20
    talk.conversation.after(1000 * SECOND)


@given(st.binary(max_size=100), st.integers(0, 0xFFFF))
def test_checksums_are_those_of_the_definition(data: bytes, start: int) -> None:
    assert ones_sum(data) == reference_sum(data)
    assert fold(ones_sum(data) + start) == reference_sum(data + bytes(len(data) & 1) + start.to_bytes(2, "big"))
    if len(data) % 2 == 0:
        assert is_valid(data + checksum(data).to_bytes(2, "big"))


@given(st.integers(1, 20000), st.integers(1280, 9000), st.booleans(), st.randoms(use_true_random=False))
def test_fragments_come_together_again(size: int, mtu: int, is_v6: bool, shuffle: random.Random) -> None:
    source, destination = (WORLD6, IP6) if is_v6 else (WORLD, IP)
    payload = shuffle.randbytes(size)
    pieces = list(packets(source, destination, 17, payload, mtu, 0x1234))
    assert all(len(piece) <= mtu for piece in pieces)
    shuffle.shuffle(pieces)
    pieces = [piece for piece in pieces for _ in range(shuffle.choice([1, 1, 2]))]
    parsed = [(parse6 if is_v6 else parse4)(piece, 0) for piece in pieces]
    table = Reassembly()
    whole: list[Packet] = []
    for packet in parsed:
        assert packet is not None
        if packet.is_fragment:
            packet = table.add(packet, 0)
        if packet is not None:
            whole.append(packet)
    assert {packet.payload for packet in whole} == {payload}


class TestReassembly:
    def fragment(self, offset: int, size: int, *, more: bool = True, number: int = 1, fill: bytes = b"a") -> Packet:
        return Packet(WORLD, IP, 17, 64, fill * size, b"", number, offset, more)

    def test_an_overlap_drops_the_datagram(self) -> None:
        table = Reassembly()
        assert table.add(self.fragment(0, 16), 0) is None
        assert table.add(self.fragment(8, 16, fill=b"b"), 0) is None
        assert len(table) == 0

    def test_a_last_piece_before_others_or_two_of_them(self) -> None:
        for first, second in (
            (self.fragment(16, 8, more=False), self.fragment(24, 8)),
            (self.fragment(16, 8), self.fragment(8, 8, more=False)),
            (self.fragment(16, 8, more=False), self.fragment(24, 8, more=False)),
        ):
            table = Reassembly()
            table.add(first, 0)
            assert table.add(second, 0) is None
            assert len(table) == 0

    def test_the_oldest_go(self) -> None:
        table = Reassembly()
        for number in range(100):
            table.add(self.fragment(0, 8, number=number), number)
        assert len(table) == reassembly.MAX_DATAGRAMS
        table.add(self.fragment(0, 8, number=1000), 1000 * SECOND)
        assert len(table) == 1

    def test_crumbs_do_not_pile_up(self) -> None:
        table = Reassembly()
        for piece in range(reassembly.MAX_PIECES + 1):
            table.add(self.fragment(piece * 16, 8), 0)
        assert len(table) == 0
