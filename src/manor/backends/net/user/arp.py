"""ARP for IPv4 over Ethernet. Sources: RFC 826; RFC 5227 (probes)."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from manor.backends.net.user import ethernet

REQUEST: Final = 1
REPLY: Final = 2

_PACKET: Final = struct.Struct(">HHBBH6s4s6s4s")
_ETHERNET: Final = 1
_IPV4: Final = 0x0800
_MIN_PAYLOAD: Final = 46
"""IEEE 802.3: shorter frames are padded."""


class Arp(NamedTuple):
    operation: int
    sender_mac: bytes
    sender: bytes
    target_mac: bytes
    target: bytes


def parse(data: bytes) -> Arp | None:
    """The message in a frame; None if it is not IPv4 over Ethernet."""
    if len(data) < ethernet.HEADER + _PACKET.size:
        return None
    hardware, protocol, size, protocol_size, operation, *rest = _PACKET.unpack_from(data, ethernet.HEADER)
    if (hardware, protocol, size, protocol_size) != (_ETHERNET, _IPV4, 6, 4):
        return None
    return Arp(operation, *rest)


def build(destination_mac: bytes, message: Arp) -> bytes:
    """A frame from the message's sender."""
    packet = _PACKET.pack(_ETHERNET, _IPV4, 6, 4, *message)
    head = destination_mac + message.sender_mac + ethernet.ARP
    return head + packet.ljust(_MIN_PAYLOAD, b"\0")
