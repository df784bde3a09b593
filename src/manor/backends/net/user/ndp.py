"""Neighbour discovery of IPv6: who has an address, and the router's advertisement from which a guest configures itself.

Sources: RFC 4861 (messages), RFC 4862 (addresses), RFC 8106 (DNS).
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from manor.backends.net.user import ip
from manor.backends.net.user.checksum import is_valid, pseudo_sum
from manor.backends.net.user.icmp import finish
from manor.backends.net.user.plan import DOMAIN, Plan

ROUTER_SOLICITATION: Final = 133
ROUTER_ADVERTISEMENT: Final = 134
NEIGHBOUR_SOLICITATION: Final = 135
NEIGHBOUR_ADVERTISEMENT: Final = 136
MESSAGES: Final = frozenset((133, 134, 135, 136, 137))

ALL_NODES: Final = b"\xff\x02" + bytes(13) + b"\x01"
HOPS: Final = 255
"""RFC 4861, 6.1 and 7.1: any other hop limit came from beyond the link."""

ROUTER_LIFETIME: Final = 1800
PREFIX_VALID: Final = 86400
PREFIX_PREFERRED: Final = 14400
DNS_LIFETIME: Final = 3600

_SOURCE_MAC: Final = 1
_TARGET_MAC: Final = 2
_ROUTER: Final = 0x80000000
_SOLICITED: Final = 0x40000000
_OVERRIDE: Final = 0x20000000


class Message(NamedTuple):
    """A valid message. target: of a solicitation or advertisement, else empty. mac: from the link-layer address
    option."""

    kind: int
    target: bytes
    mac: bytes


def parse(packet: ip.Packet) -> Message | None:
    """The message in a whole ICMPv6 packet; None if it is not valid (RFC 4861, 6.1 and 7.1)."""
    payload = packet.payload
    if packet.ttl != HOPS or len(payload) < 8 or payload[0] not in MESSAGES or payload[1] != 0:
        return None
    if not is_valid(payload, pseudo_sum(packet.source, packet.destination, ip.ICMPV6, len(payload))):
        return None
    kind = payload[0]
    target, at = b"", 8
    if kind in (NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT):
        if len(payload) < 24 or payload[8] == 0xFF:
            return None
        target, at = payload[8:24], 24
    elif kind != ROUTER_SOLICITATION:
        return None
    mac = b""
    while at < len(payload):
        if at + 2 > len(payload) or payload[at + 1] == 0 or at + 8 * payload[at + 1] > len(payload):
            return None
        if payload[at] == (_TARGET_MAC if kind == NEIGHBOUR_ADVERTISEMENT else _SOURCE_MAC):
            mac = payload[at + 2 : at + 8]
        at += 8 * payload[at + 1]
    return Message(kind, target, mac)


def advertisement(source: bytes, destination: bytes, target: bytes, mac: bytes, *, is_solicited: bool) -> bytes:
    """A neighbour advertisement of one of our addresses."""
    flags = _ROUTER | _OVERRIDE | (_SOLICITED if is_solicited else 0)
    message = struct.pack(">BBHI", NEIGHBOUR_ADVERTISEMENT, 0, 0, flags) + target + bytes((_TARGET_MAC, 1)) + mac
    return finish(source, destination, message)


def solicitation(source: bytes, target: bytes, mac: bytes) -> tuple[bytes, bytes]:
    """The question who has `target`, and the multicast address that it goes to (RFC 4291, 2.7.1)."""
    destination = b"\xff\x02" + bytes(9) + b"\x01\xff" + target[-3:]
    message = struct.pack(">BBHI", NEIGHBOUR_SOLICITATION, 0, 0, 0) + target + bytes((_SOURCE_MAC, 1)) + mac
    return destination, finish(source, destination, message)


def router_advertisement(plan: Plan, destination: bytes) -> bytes:
    """Says: configure an address in our prefix yourself; ask DHCPv6 for the rest if you like; this is the DNS."""
    other_configuration = 0x40
    head = struct.pack(">BBHBBHII", ROUTER_ADVERTISEMENT, 0, 0, ip.TTL, other_configuration, ROUTER_LIFETIME, 0, 0)
    on_link_and_autonomous = 0xC0
    prefix = struct.pack(">BBBBIII", 3, 4, 64, on_link_and_autonomous, PREFIX_VALID, PREFIX_PREFERRED, 0)
    prefix += plan.prefix6 + bytes(8)
    mtu = struct.pack(">BBHI", 5, 1, 0, plan.mtu)
    dns = struct.pack(">BBHI", 25, 3, 0, DNS_LIFETIME) + plan.dns6
    name = bytes((len(DOMAIN),)) + DOMAIN.encode() + b"\0"
    name += bytes(-len(name) % 8)
    search = struct.pack(">BBHI", 31, 1 + len(name) // 8, 0, DNS_LIFETIME) + name
    source_mac = bytes((_SOURCE_MAC, 1)) + plan.mac
    return finish(plan.link_local, destination, head + source_mac + mtu + prefix + dns + search)
