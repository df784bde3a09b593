"""ICMP (RFC 792) and ICMPv6 (RFC 4443): echo, and errors that tell a guest's program why nothing comes back."""

from __future__ import annotations

import errno
import struct
from enum import Enum
from typing import Final, NamedTuple

from manor.backends.net.user import ip
from manor.backends.net.user.checksum import checksum, fold, is_valid, pseudo_sum

ECHO_REPLY4: Final = 0
ECHO_REQUEST4: Final = 8
ECHO_REQUEST6: Final = 128
ECHO_REPLY6: Final = 129
ERRORS4: Final = frozenset((3, 4, 5, 11, 12))
ECHO_HEADER: Final = 8
_MAX_ERROR6: Final = 1280
"""RFC 4443, 2.4 (c): an error with the packet it is about fits the smallest MTU."""
_MIN_MTU4: Final = 576
"""What an old router that does not say it is taken to mean (RFC 1191, 5)."""
_MAX_ERROR4: Final = 576
"""RFC 1812, 4.3.2.3."""


class Reason(Enum):
    """Why a packet went nowhere: (type, code) over IPv4, over IPv6. Sources: RFC 792, RFC 1812 5.2.7.1, RFC 4443, 3."""

    NO_ROUTE = (3, 0), (1, 0)
    HOST = (3, 1), (1, 3)
    PORT = (3, 3), (1, 4)
    PROTOCOL = (3, 2), (4, 1)
    PROHIBITED = (3, 13), (1, 1)
    HOP_LIMIT = (11, 0), (3, 0)
    TOO_BIG = (3, 4), (2, 0)


_REASONS: Final = {
    errno.ENETUNREACH: Reason.NO_ROUTE,
    errno.ENETDOWN: Reason.NO_ROUTE,
    errno.EADDRNOTAVAIL: Reason.NO_ROUTE,  # no address of the destination's family or scope here
    errno.EAFNOSUPPORT: Reason.NO_ROUTE,
    errno.EINVAL: Reason.NO_ROUTE,
    errno.EHOSTUNREACH: Reason.HOST,
    errno.EHOSTDOWN: Reason.HOST,
    errno.ETIMEDOUT: Reason.HOST,
    errno.ECONNREFUSED: Reason.PORT,
    errno.EACCES: Reason.PROHIBITED,
    errno.EPERM: Reason.PROHIBITED,
    errno.EMSGSIZE: Reason.TOO_BIG,
    errno.ENOPROTOOPT: Reason.PROTOCOL,
}


def reason_of(number: int) -> Reason | None:
    """What an errno of the host's socket means to the guest; None for errors that are none of its business."""
    return _REASONS.get(number)


class Echo(NamedTuple):
    """An echo request or reply. data: what follows identifier and sequence number."""

    is_request: bool
    identifier: int
    sequence: int
    data: bytes


def parse_echo(packet: ip.Packet) -> Echo | None:
    """The echo message in a whole packet; None if it is another one or broken. The checksum is verified."""
    payload = packet.payload
    if len(payload) < ECHO_HEADER or payload[1] != 0:
        return None
    is_v4 = len(packet.source) == 4
    start = 0 if is_v4 else pseudo_sum(packet.source, packet.destination, ip.ICMPV6, len(payload))
    if not is_valid(payload, start):
        return None
    request, reply = (ECHO_REQUEST4, ECHO_REPLY4) if is_v4 else (ECHO_REQUEST6, ECHO_REPLY6)
    if payload[0] not in (request, reply):
        return None
    identifier, sequence = struct.unpack_from(">HH", payload, 4)
    return Echo(payload[0] == request, identifier, sequence, payload[8:])


def echo_reply(source: bytes, destination: bytes, identifier: int, sequence: int, data: bytes) -> bytes:
    """An echo reply, without IP header."""
    kind = ECHO_REPLY4 if len(source) == 4 else ECHO_REPLY6
    return finish(source, destination, struct.pack(">BBHHH", kind, 0, 0, identifier, sequence) + data)


def echo_answer(data: bytes, start: int, end: int) -> bytes:
    """The reply to the ICMP echo request in data[start:end], whose checksum is right, without IP header."""
    # The type goes from 8 to 0, the sum changes by it, and the rest stays (RFC 1624, 3).
    field = 0xFFFF - fold(0xFFFF - int.from_bytes(data[start + 2 : start + 4], "big") + 0xFFFF - (ECHO_REQUEST4 << 8))
    if not field:
        # Nothing but zeros has the other zero (RFC 1624, 3): look.
        field = checksum(data[start + 4 : end])
    return b"\0\0" + field.to_bytes(2, "big") + data[start + 4 : end]


def error(source: bytes, destination: bytes, reason: Reason, original: bytes, mtu: int = 0) -> bytes:
    """An error about `original`, a packet of the guest from its IP header on. mtu: for TOO_BIG."""
    if len(source) == 4:
        kind, code = reason.value[0]
        quote = original[: _MAX_ERROR4 - ip.HEADER4 - 8]
        return finish(source, destination, struct.pack(">BBHHH", kind, code, 0, 0, mtu) + quote)
    kind, code = reason.value[1]
    # The pointer of "unrecognized next header" is the offset of the field in the fixed header.
    word = mtu if reason is Reason.TOO_BIG else 6 if reason is Reason.PROTOCOL else 0
    quote = original[: _MAX_ERROR6 - ip.HEADER6 - 8]
    return finish(source, destination, struct.pack(">BBHI", kind, code, 0, word) + quote)


def finish(source: bytes, destination: bytes, message: bytes) -> bytes:
    """`message` with its checksum."""
    start = 0 if len(source) == 4 else pseudo_sum(source, destination, ip.ICMPV6, len(message))
    return message[:2] + checksum(message, start).to_bytes(2, "big") + message[4:]


def may_complain(packet: ip.Packet) -> bool:
    """Whether an error about this packet may be sent: never about errors, or to more than one. Source: RFC 1122,
    3.2.2; RFC 4443, 2.4."""
    if packet.offset:
        return False
    if len(packet.source) == 4:
        if packet.source[0] >= 224 or packet.source == bytes(4) or packet.destination[0] >= 224:
            return False
        return not (packet.protocol == ip.ICMP and packet.payload[:1] and packet.payload[0] in ERRORS4)
    if packet.source[0] == 0xFF or packet.source == bytes(16) or packet.destination[0] == 0xFF:
        return False
    return not (packet.protocol == ip.ICMPV6 and packet.payload[:1] and packet.payload[0] < 128)


class GuestError(NamedTuple):
    """An error of the guest about a packet of ours. source, destination, protocol: of that packet; head: the first 8
    bytes behind its IP header. mtu: what would fit, 0 for other errors."""

    source: bytes
    destination: bytes
    protocol: int
    head: bytes
    mtu: int


def parse_error(packet: ip.Packet) -> GuestError | None:
    """An error message in a whole packet: "unreachable" or "too big"; None for everything else."""
    payload = packet.payload
    is_v4 = len(packet.source) == 4
    size = ip.HEADER4 if is_v4 else ip.HEADER6
    if len(payload) < 8 + size + 8 or payload[0] not in ((3,) if is_v4 else (1, 2)):
        return None
    start = 0 if is_v4 else pseudo_sum(packet.source, packet.destination, ip.ICMPV6, len(payload))
    if not is_valid(payload, start):
        return None
    quoted = payload[8:]
    if is_v4:
        at = (quoted[0] & 0xF) * 4
        if quoted[0] >> 4 != 4 or len(quoted) < at + 8 or at < size:
            return None
        is_too_big = payload[1] == Reason.TOO_BIG.value[0][1]
        mtu = (int.from_bytes(payload[6:8], "big") or _MIN_MTU4) if is_too_big else 0
        return GuestError(quoted[12:16], quoted[16:20], quoted[9], quoted[at : at + 8], mtu)
    mtu = int.from_bytes(payload[4:8], "big") if payload[0] == 2 else 0
    return GuestError(quoted[8:24], quoted[24:40], quoted[6], quoted[size : size + 8], mtu)


def echo_head(destination: bytes, identifier: int, sequence: int) -> bytes:
    """The first 8 bytes of an echo request, without its checksum."""
    kind = ECHO_REQUEST4 if len(destination) == 4 else ECHO_REQUEST6
    return struct.pack(">BBHHH", kind, 0, 0, identifier, sequence)
