"""What a guest says about its addresses."""

from __future__ import annotations

import struct

import pytest

from manor.backends.net.addresses import LIMIT, AddressWatch
from manor.backends.net.api import Frame
from manor.backends.net.memory import MemoryNet
from manor.testing.net_frames import MAC_A, eth

BROADCAST = b"\xff" * 6


def arp(sender: bytes, mac: bytes = MAC_A, operation: int = 1, hardware: int = 1) -> bytes:
    body = struct.pack(">HHBBH", hardware, 0x0800, 6, 4, operation) + mac + sender + bytes(6) + sender
    return eth(BROADCAST, MAC_A, 0x0806, body)


def neighbour(kind: int, source: bytes, target: bytes, hops: int = 255) -> bytes:
    body = struct.pack(">BBHI", kind, 0, 0, 0) + target
    header = struct.pack(">IHBB", 0x6000_0000, len(body), 58, hops)
    return eth(BROADCAST, MAC_A, 0x86DD, header + source + bytes(16) + body)


LOCAL = bytes.fromhex("fe80000000000000000000fffe000001")
GLOBAL = bytes.fromhex("20010db8000000000000000000000001")


def learnt(*frames: bytes) -> list[str]:
    net = AddressWatch(MemoryNet(), MAC_A)
    net.send([Frame(frame) for frame in frames])
    return list(net.addresses())


def test_arp_and_neighbour_discovery() -> None:
    assert learnt(arp(bytes((192, 0, 2, 7)))) == ["192.0.2.7"]
    assert learnt(neighbour(136, LOCAL, GLOBAL)) == ["2001:db8::1"]
    assert learnt(neighbour(135, LOCAL, GLOBAL)) == ["fe80::ff:fe00:1"]
    assert learnt(neighbour(133, GLOBAL, LOCAL)) == ["2001:db8::1"]


def test_the_latest_comes_first_and_nothing_twice() -> None:
    one, two = arp(bytes((192, 0, 2, 1))), arp(bytes((192, 0, 2, 2)))
    assert learnt(one, two, one) == ["192.0.2.1", "192.0.2.2"]


@pytest.mark.parametrize(
    "frame",
    [
        arp(bytes(4)),  # a probe
        arp(bytes((255, 255, 255, 255))),
        arp(bytes((224, 0, 0, 1))),
        arp(bytes((192, 0, 2, 7)), hardware=6),
        arp(bytes((192, 0, 2, 7)), mac=bytes(6)),  # for somebody else
        arp(bytes((192, 0, 2, 7)))[:41],
        neighbour(135, bytes(16), GLOBAL),  # a probe
        neighbour(136, LOCAL, GLOBAL, hops=64),  # from afar
        neighbour(136, LOCAL, bytes.fromhex("ff020000000000000000000000000001")),
        neighbour(128, GLOBAL, GLOBAL),
        neighbour(136, LOCAL, GLOBAL)[:70],
        b"",
        bytes(200),
    ],
)
def test_what_says_nothing(frame: bytes) -> None:
    assert learnt(frame) == []


def test_a_guest_that_invents_addresses_is_bounded() -> None:
    assert len(learnt(*[arp(struct.pack(">I", 0x0A00_0000 + number)) for number in range(1, 1000)])) == LIMIT
