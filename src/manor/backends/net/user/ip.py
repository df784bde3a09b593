"""Headers of IPv4 (RFC 791) and IPv6 (RFC 8200): read, checked, written. Addresses are 4 or 16 bytes, whose length
tells the family."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from manor.backends.net.user import ethernet
from manor.backends.net.user.checksum import checksum, is_valid

# Protocol numbers: IANA, Assigned Internet Protocol Numbers.
HOP_BY_HOP: Final = 0
ICMP: Final = 1
TCP: Final = 6
UDP: Final = 17
ROUTING: Final = 43
FRAGMENT: Final = 44
ICMPV6: Final = 58
NO_NEXT: Final = 59
DESTINATION_OPTIONS: Final = 60

TTL: Final = 64
"""RFC 1700's recommended default."""
HEADER4: Final = 20
HEADER6: Final = 40
MAX_PACKET: Final = 65535

_V4: Final = struct.Struct(">BBHHHBBH4s4s")
_V6: Final = struct.Struct(">IHBB16s16s")
_FRAGMENT6: Final = struct.Struct(">BxHI")
_EXTENSIONS: Final = frozenset((HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS))
_MAX_EXTENSIONS: Final = 8
"""Extension headers walked through before a packet is given up; RFC 8200 has each at most once, or twice."""


class Packet(NamedTuple):
    """An IP packet, or a fragment of one. payload: what follows all IP headers. raw: from the IP header on.

    offset: of the payload in the whole datagram, bytes. has_more: a fragment that is not the last. padding: bytes of
    the frame behind the packet are not in here.
    """

    source: bytes
    destination: bytes
    protocol: int
    ttl: int
    payload: bytes
    raw: bytes
    identification: int = 0
    offset: int = 0
    has_more: bool = False

    @property
    def is_fragment(self) -> bool:
        return self.has_more or self.offset > 0


def parse4(data: bytes, at: int = ethernet.HEADER) -> Packet | None:
    """The IPv4 packet at `at`; None if it is malformed. Options are skipped: a host may (RFC 1122, 3.2.1.8)."""
    if len(data) - at < HEADER4:
        return None
    first, _, total, identification, fragment, ttl, protocol, _, source, destination = _V4.unpack_from(data, at)
    header = (first & 0xF) * 4
    if first >> 4 != 4 or header < HEADER4 or total < header or total > len(data) - at:
        return None
    if not is_valid(data[at : at + header]):
        return None
    raw = data[at : at + total]
    offset = (fragment & 0x1FFF) * 8
    has_more = bool(fragment & 0x2000)
    payload = raw[header:]
    if offset + len(payload) > MAX_PACKET or (has_more and len(payload) % 8) or ((offset or has_more) and not payload):
        return None
    return Packet(source, destination, protocol, ttl, payload, raw, identification, offset, has_more)


def parse6(data: bytes, at: int = ethernet.HEADER) -> Packet | None:
    """The IPv6 packet at `at`; None if it is malformed or has more extension headers than anybody sends."""
    if len(data) - at < HEADER6:
        return None
    first, size, protocol, hops, source, destination = _V6.unpack_from(data, at)
    if first >> 28 != 6 or size > len(data) - at - HEADER6:
        return None
    raw = data[at : at + HEADER6 + size]
    position = HEADER6
    for _ in range(_MAX_EXTENSIONS):
        if protocol == FRAGMENT:
            if len(raw) - position < 8:
                return None
            protocol, fragment, identification = _FRAGMENT6.unpack_from(raw, position)
            offset, has_more = fragment & 0xFFF8, bool(fragment & 1)
            payload = raw[position + 8 :]
            if offset + len(payload) > MAX_PACKET or (has_more and len(payload) % 8):
                return None
            if offset or has_more:
                if not payload:
                    return None
                return Packet(source, destination, protocol, hops, payload, raw, identification, offset, has_more)
            position += 8  # an atomic fragment (RFC 6946) is a whole packet
        elif protocol in _EXTENSIONS:
            if len(raw) - position < 8:
                return None
            protocol, units = raw[position], raw[position + 1]
            position += 8 * (units + 1)
            if position > len(raw):
                return None
        else:
            return Packet(source, destination, protocol, hops, raw[position:], raw)
    return None


def header4(
    source: bytes,
    destination: bytes,
    protocol: int,
    size: int,
    *,
    ttl: int = TTL,
    identification: int = 0,
    fragment: int = 0x4000,
) -> bytes:
    """An IPv4 header for `size` bytes of payload. fragment: the flags and offset word; 0x4000 is "don't fragment"."""
    head = _V4.pack(0x45, 0, HEADER4 + size, identification, fragment, ttl, protocol, 0, source, destination)
    return head[:10] + checksum(head).to_bytes(2, "big") + head[12:]


def header6(source: bytes, destination: bytes, protocol: int, size: int, *, hops: int = TTL) -> bytes:
    """An IPv6 header for `size` bytes of payload."""
    return _V6.pack(0x6000_0000, size, protocol, hops, source, destination)


def packets(
    source: bytes, destination: bytes, protocol: int, payload: bytes, mtu: int, identification: int, ttl: int = TTL
) -> Iterator[bytes]:
    """`payload` as one IP packet, or as fragments where it is larger than the MTU. The payload's checksum is done."""
    is_v4 = len(source) == 4
    if (HEADER4 if is_v4 else HEADER6) + len(payload) <= mtu:
        yield (header4 if is_v4 else _header6_ttl)(source, destination, protocol, len(payload), ttl=ttl) + payload
        return
    room = (mtu - HEADER4 if is_v4 else mtu - HEADER6 - 8) & ~7
    for offset in range(0, len(payload), room):
        piece = payload[offset : offset + room]
        more = offset + len(piece) < len(payload)
        if is_v4:
            fragment = (0x2000 if more else 0) | offset >> 3
            head = header4(
                source,
                destination,
                protocol,
                len(piece),
                ttl=ttl,
                identification=identification & 0xFFFF,
                fragment=fragment,
            )
        else:
            head = header6(source, destination, FRAGMENT, 8 + len(piece), hops=ttl)
            head += _FRAGMENT6.pack(protocol, offset | more, identification)
        yield head + piece


def _header6_ttl(source: bytes, destination: bytes, protocol: int, size: int, *, ttl: int) -> bytes:
    return header6(source, destination, protocol, size, hops=ttl)
