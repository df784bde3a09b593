"""ARP, neighbour discovery, DHCP: what a guest asks before it can speak to anybody."""

from __future__ import annotations

import struct

import pytest

from manor.backends.net.user.leases import MAX_LEASES
from manor.backends.net.user.plan import GATEWAY_MAC, make_plan
from manor.base.clock import SECOND
from manor.base.errors import ConfigError
from manor.testing.user_guest import (
    DNS,
    DNS6,
    GATEWAY,
    GATEWAY6,
    IP,
    IP6,
    LINK_LOCAL,
    MAC,
    Conversation,
    Seen,
    icmpv6,
    ipv4,
    ipv6,
    summed,
    udp,
)

BROADCAST = b"\xff" * 6
NOBODY = bytes(4)


def arp(operation: int, target: bytes, sender: bytes = IP, sender_mac: bytes = MAC) -> bytes:
    head = struct.pack(">HHBBH", 1, 0x800, 6, 4, operation)
    return BROADCAST + MAC + b"\x08\x06" + head + sender_mac + sender + bytes(6) + target


class TestArp:
    @pytest.mark.parametrize("target", [GATEWAY, DNS])
    def test_our_addresses_are_answered(self, target: bytes) -> None:
        (reply,) = Conversation().send(arp(1, target))
        assert reply.to == MAC
        assert reply.payload[6:28] == struct.pack(">H", 2) + GATEWAY_MAC + target + MAC + IP

    def test_others_are_not(self) -> None:
        conversation = Conversation()
        assert conversation.send(arp(1, bytes((10, 0, 2, 9)))) == []
        assert conversation.send(arp(1, IP)) == []
        assert conversation.send(arp(2, GATEWAY)) == []

    def test_a_probe_is_answered_and_not_learned(self) -> None:
        conversation = Conversation()
        assert len(conversation.send(arp(1, GATEWAY, NOBODY))) == 1
        assert conversation.core.known_addresses == ()

    def test_the_sender_is_known_from_then_on(self) -> None:
        conversation = Conversation()
        conversation.send(arp(1, GATEWAY))
        assert conversation.core.known_addresses == ("10.0.2.15",)

    def test_nobody_takes_our_address_or_one_of_the_world(self) -> None:
        conversation = Conversation()
        conversation.send(arp(1, GATEWAY, GATEWAY), arp(1, GATEWAY, bytes((8, 8, 8, 8))))
        assert conversation.core.known_addresses == ()

    def test_frames_for_other_machines_are_not_ours(self) -> None:
        conversation = Conversation()
        other = bytes.fromhex("525400999999")
        assert conversation.send(other + arp(1, GATEWAY)[6:]) == []

    def test_other_hardware_is_ignored(self) -> None:
        broken = bytearray(arp(1, GATEWAY))
        broken[15] = 6
        assert Conversation().send(bytes(broken)) == []


DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM = range(1, 9)


def dhcp(kind: int, *options: tuple[int, bytes], client: bytes = NOBODY, mac: bytes = MAC, flags: int = 0) -> bytes:
    head = struct.pack(">BBBBIHH4s12x16s192x4s", 1, 1, 6, 0, 0x12345678, 0, flags, client, mac, b"\x63\x82\x53\x63")
    body = b"".join(bytes((code, len(value))) + value for code, value in ((53, bytes((kind,))), *options))
    message = struct.pack(">HHHH", 68, 67, 8 + len(head + body) + 1, 0) + head + body + b"\xff"
    source, destination = client, b"\xff" * 4
    return ipv4(17, summed(17, message, 6, destination, source), destination, source, to=BROADCAST)


def options_of(reply: Seen) -> dict[int, bytes]:
    assert (reply.source_port, reply.port) == (67, 68)
    data, at, options = reply.payload, 240, {}
    assert data[:4] == b"\x02\x01\x06\x00"
    assert data[4:8] == b"\x12\x34\x56\x78"
    assert len(data) >= 300
    while data[at] != 255:
        options[data[at]] = data[at + 2 : at + 2 + data[at + 1]]
        at += 2 + data[at + 1]
    return options


def lease(conversation: Conversation, mac: bytes = MAC) -> bytes:
    """Discover, offer, request, acknowledgement; the address."""
    (offer,) = conversation.send(dhcp(DISCOVER, mac=mac))
    assert options_of(offer)[53] == bytes((OFFER,))
    address = offer.payload[16:20]
    (ack,) = conversation.send(dhcp(REQUEST, (50, address), (54, GATEWAY), mac=mac))
    assert options_of(ack)[53] == bytes((ACK,))
    assert ack.payload[16:20] == address
    return address


class TestDhcp:
    def test_the_whole_exchange(self) -> None:
        conversation = Conversation(make_plan(hostname="dev", mtu=9000))
        assert lease(conversation) == IP
        (ack,) = conversation.send(dhcp(REQUEST, (50, IP), (54, GATEWAY), (55, bytes((1, 3, 119))), (61, b"\x01id")))
        assert (ack.source, ack.destination, ack.to) == (GATEWAY, IP, MAC)
        assert options_of(ack) == {
            53: bytes((ACK,)),
            54: GATEWAY,
            51: (86400).to_bytes(4, "big"),
            58: (43200).to_bytes(4, "big"),
            59: (75600).to_bytes(4, "big"),
            1: bytes((255, 255, 255, 0)),
            3: GATEWAY,
            6: DNS,
            15: b"manor",
            28: bytes((10, 0, 2, 255)),
            26: (9000).to_bytes(2, "big"),
            12: b"dev",
            119: b"\x05manor\x00",
            61: b"\x01id",
        }
        assert conversation.core.known_addresses == ("10.0.2.15",)

    def test_a_client_that_cannot_take_unicast_yet_gets_a_broadcast(self) -> None:
        (offer,) = Conversation().send(dhcp(DISCOVER, flags=0x8000))
        assert (offer.to, offer.destination) == (BROADCAST, b"\xff" * 4)

    def test_a_machine_has_the_same_address_every_time(self) -> None:
        conversation = Conversation()
        assert lease(conversation) == IP
        conversation.send(dhcp(RELEASE, (54, GATEWAY), client=IP))
        assert conversation.core.known_addresses == ()
        assert lease(conversation, b"\x52\x54\x00\x00\x00\x02") == bytes((10, 0, 2, 16))
        assert lease(conversation) == IP

    def test_renewal_is_answered_to_the_address(self) -> None:
        conversation = Conversation()
        lease(conversation)
        (ack,) = conversation.send(dhcp(REQUEST, client=IP))
        assert (ack.destination, options_of(ack)[53]) == (IP, bytes((ACK,)))

    def test_after_a_restart_of_ours_the_guest_keeps_its_address(self) -> None:
        address = bytes((10, 0, 2, 40))
        (ack,) = Conversation().send(dhcp(REQUEST, (50, address)))
        assert (ack.payload[16:20], options_of(ack)[53]) == (address, bytes((ACK,)))

    @pytest.mark.parametrize("wanted", [bytes((192, 168, 1, 5)), bytes((10, 0, 2, 2)), bytes((10, 0, 2, 255))])
    def test_an_address_that_is_not_ours_to_give_is_refused(self, wanted: bytes) -> None:
        (nak,) = Conversation().send(dhcp(REQUEST, (50, wanted)))
        assert options_of(nak) == {53: bytes((NAK,)), 54: GATEWAY}
        assert nak.to == BROADCAST

    def test_another_servers_client_is_left_alone(self) -> None:
        assert Conversation().send(dhcp(REQUEST, (50, IP), (54, bytes((10, 0, 2, 99))))) == []

    def test_a_declined_address_is_not_given_again(self) -> None:
        conversation = Conversation()
        lease(conversation)
        assert conversation.send(dhcp(DECLINE, (50, IP), (54, GATEWAY))) == []
        assert lease(conversation) == bytes((10, 0, 2, 16))

    def test_inform_gives_everything_but_an_address(self) -> None:
        (ack,) = Conversation().send(dhcp(INFORM, client=bytes((10, 0, 2, 77))))
        options = options_of(ack)
        assert (options[53], options[6]) == (bytes((ACK,)), DNS)
        assert 51 not in options
        assert ack.payload[16:20] == NOBODY
        assert ack.destination == bytes((10, 0, 2, 77))

    def test_more_machines_than_addresses_find_none(self) -> None:
        conversation = Conversation()
        for number in range(MAX_LEASES):
            lease(conversation, struct.pack(">HI", 0x5254, number))
        assert conversation.send(dhcp(DISCOVER, mac=b"\x52\x54\xff\xff\xff\xff")) == []
        conversation.after(86400 * SECOND)
        assert lease(conversation, b"\x52\x54\xff\xff\xff\xff") == IP

    @pytest.mark.parametrize("cut", [20, 239, 240, 242])
    def test_half_a_message_is_no_message(self, cut: int) -> None:
        payload = dhcp(DISCOVER)[42 : 42 + cut]
        message = summed(17, struct.pack(">HHHH", 68, 67, 8 + cut, 0) + payload, 6, b"\xff" * 4, NOBODY)
        assert Conversation().send(ipv4(17, message, b"\xff" * 4, NOBODY, to=BROADCAST)) == []


ALL_NODES = b"\xff\x02" + bytes(13) + b"\x01"
OURS = b"\xfe\x80" + bytes(13) + b"\x02"


class TestNeighbourDiscovery:
    def test_a_router_solicitation_brings_everything_to_configure_oneself(self) -> None:
        (answer,) = Conversation(make_plan(mtu=1400)).send(
            icmpv6(bytes((133, 0, 0, 0, 0, 0, 0, 0)), b"\xff\x02" + bytes(13) + b"\x02")
        )
        assert (answer.source, answer.destination, answer.ttl) == (OURS, ALL_NODES, 255)
        assert answer.to == bytes.fromhex("333300000001")
        body = answer.body
        assert body[:2] == bytes((134, 0))
        assert body[5] == 0x40  # other configuration by DHCPv6
        assert int.from_bytes(body[6:8], "big") == 1800
        at, options = 16, {}
        while at < len(body):
            options[body[at]] = body[at : at + 8 * body[at + 1]]
            at += 8 * body[at + 1]
        assert options[1][2:] == GATEWAY_MAC
        assert options[5][4:] == (1400).to_bytes(4, "big")
        assert options[3][2:4] == bytes((64, 0xC0))
        assert options[3][16:] == bytes.fromhex("fd00") + bytes(14)
        assert options[25][8:] == DNS6
        assert options[31][8:15] == b"\x05manor\x00"

    def test_it_is_repeated_so_that_the_route_does_not_end(self) -> None:
        conversation = Conversation()
        assert conversation.after(3600 * SECOND) == []
        conversation.send(icmpv6(bytes((133, 0, 0, 0, 0, 0, 0, 0)), b"\xff\x02" + bytes(13) + b"\x02"))
        assert [seen.body[0] for seen in conversation.after(1000 * SECOND)] == [134, 134]

    @pytest.mark.parametrize("target", [GATEWAY6, DNS6, OURS])
    def test_our_addresses_are_answered(self, target: bytes) -> None:
        conversation = Conversation()
        multicast = b"\xff\x02" + bytes(9) + b"\x01\xff" + target[-3:]
        message = bytes((135, 0, 0, 0, 0, 0, 0, 0)) + target + bytes((1, 1)) + MAC
        (answer,) = conversation.send(icmpv6(message, multicast, IP6))
        assert (answer.source, answer.destination, answer.to) == (target, IP6, MAC)
        assert answer.body[4:8] == bytes.fromhex("e0000000")
        assert answer.body[8:] == target + bytes((2, 1)) + GATEWAY_MAC
        assert conversation.core.known_addresses == ("fd00::5054:ff:fe12:3456",)

    def test_duplicate_address_detection_hears_that_our_address_is_taken(self) -> None:
        message = bytes((135, 0, 0, 0, 0, 0, 0, 0)) + GATEWAY6
        (answer,) = Conversation().send(icmpv6(message, b"\xff\x02" + bytes(9) + b"\x01\xff\0\0\x02", bytes(16)))
        assert (answer.destination, answer.to) == (ALL_NODES, bytes.fromhex("333300000001"))
        assert answer.body[4] == 0xA0  # not solicited

    def test_its_own_address_is_free(self) -> None:
        message = bytes((135, 0, 0, 0, 0, 0, 0, 0)) + IP6
        conversation = Conversation()
        assert conversation.send(icmpv6(message, b"\xff\x02" + bytes(9) + b"\x01\xff" + IP6[-3:], bytes(16))) == []
        assert conversation.core.known_addresses == ()

    def test_a_message_from_beyond_the_link_is_ignored(self) -> None:
        message = bytes((135, 0, 0, 0, 0, 0, 0, 0)) + GATEWAY6
        assert Conversation().send(icmpv6(message, GATEWAY6, IP6, hops=254)) == []

    def test_link_local_addresses_are_not_told(self) -> None:
        conversation = Conversation()
        conversation.send(icmpv6(bytes((136, 0, 0, 0, 0x20, 0, 0, 0)) + LINK_LOCAL + bytes((2, 1)) + MAC, OURS))
        assert conversation.core.known_addresses == ()


def dhcpv6(kind: int, *options: tuple[int, bytes]) -> bytes:
    body = b"".join(struct.pack(">HH", code, len(value)) + value for code, value in options)
    message = struct.pack(">HHHH", 546, 547, 8 + 4 + len(body), 0) + bytes((kind, 1, 2, 3)) + body
    destination = b"\xff\x02" + bytes(11) + b"\x01\x00\x02"
    return ipv6(
        17, summed(17, message, 6, destination, LINK_LOCAL), destination, LINK_LOCAL, to=b"\x33\x33\0\x01\0\x02"
    )


def options6(reply: Seen) -> dict[int, bytes]:
    assert (reply.source_port, reply.port, reply.destination, reply.to) == (547, 546, LINK_LOCAL, MAC)
    data, at, options = reply.payload, 4, {}
    assert data[1:4] == bytes((1, 2, 3))
    while at < len(data):
        code, size = struct.unpack_from(">HH", data, at)
        options[code] = data[at + 4 : at + 4 + size]
        at += 4 + size
    return options


CLIENT = (1, b"\x00\x03\x00\x01" + MAC)
IA = (3, b"\xaa\xbb\xcc\xdd" + bytes(8))


class TestDhcpv6:
    def test_stateless(self) -> None:
        (reply,) = Conversation().send(dhcpv6(11))
        options = options6(reply)
        assert reply.payload[0] == 7
        assert (options[23], options[24]) == (DNS6, b"\x05manor\x00")

    def test_an_address_for_who_asks(self) -> None:
        conversation = Conversation()
        (advertise,) = conversation.send(dhcpv6(1, CLIENT, IA))
        assert advertise.payload[0] == 2
        server = options6(advertise)[2]
        (reply,) = conversation.send(dhcpv6(3, CLIENT, (2, server), IA))
        assert reply.payload[0] == 7
        association = options6(reply)[3]
        assert association[:4] == b"\xaa\xbb\xcc\xdd"
        assert association[12:16] == struct.pack(">HH", 5, 24)
        assert association[16:32] == bytes.fromhex("fd000000000000000000000000000015")
        assert options6(reply)[1] == CLIENT[1]
        (renewed,) = conversation.send(dhcpv6(5, CLIENT, (2, server), IA))
        assert options6(renewed)[3] == association

    def test_rapid_commit(self) -> None:
        (reply,) = Conversation().send(dhcpv6(1, CLIENT, IA, (14, b"")))
        assert reply.payload[0] == 7
        assert 14 in options6(reply)

    def test_an_old_address_of_another_network_ends(self) -> None:
        old = bytes.fromhex("20010db8") + bytes(12)
        stale = struct.pack(">HH", 5, 24) + old + bytes(8)
        (reply,) = Conversation().send(dhcpv6(6, CLIENT, (3, IA[1] + stale)))
        assert old + bytes(8) in options6(reply)[3]
        (reply,) = Conversation().send(dhcpv6(4, CLIENT, (3, IA[1] + stale)))
        assert options6(reply)[13] == b"\x00\x04"

    @pytest.mark.parametrize("kind", [8, 9])
    def test_giving_it_back(self, kind: int) -> None:
        conversation = Conversation()
        server = options6(conversation.send(dhcpv6(1, CLIENT, IA))[0])[2]
        (reply,) = conversation.send(dhcpv6(kind, CLIENT, (2, server), IA))
        assert options6(reply)[13] == b"\x00\x00"

    def test_what_gets_no_answer(self) -> None:
        conversation = Conversation()
        assert conversation.send(dhcpv6(1, IA)) == []  # no client identifier
        assert conversation.send(dhcpv6(3, CLIENT, IA)) == []  # a request that names no server
        assert conversation.send(dhcpv6(3, CLIENT, IA, (2, b"other"))) == []
        assert conversation.send(dhcpv6(2, CLIENT)) == []
        assert conversation.send(dhcpv6(99, CLIENT)) == []


class TestPlan:
    def test_another_network(self) -> None:
        conversation = Conversation(make_plan("192.168.50.0/24", "fd12:3456::/64"))
        (offer,) = conversation.send(dhcp(DISCOVER))
        assert offer.payload[16:20] == bytes((192, 168, 50, 15))
        assert options_of(offer)[3] == bytes((192, 168, 50, 2))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"network": "10.0.2.0/30"}, "no room"),
            ({"network": "10.0.2.1/24"}, "host bits"),
            ({"prefix6": "fd00::/48"}, "/64"),
            ({"mtu": 1000}, "1280"),
        ],
    )
    def test_what_cannot_be(self, arguments: dict[str, str], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            make_plan(**arguments)  # type: ignore[arg-type]

    def test_a_udp_packet_to_the_dhcp_port_that_is_not_dhcp(self) -> None:
        assert Conversation().send(udp(GATEWAY, 68, 67, b"hello")) == []
