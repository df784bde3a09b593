"""Sockets of the host as the adapter needs them: made non-blocking, addressed by bytes, their errors understood."""

from __future__ import annotations

import errno
import socket
import struct
from typing import Final, NamedTuple

from manor.backends.net.user.icmp import Reason, reason_of

Address = tuple[str, int] | tuple[str, int, int, int]
"""What the socket module takes and gives for AF_INET, and for AF_INET6."""

# <linux/in.h>, <linux/in6.h>; the socket module does not have all of them.
_IP_MTU_DISCOVER: Final = 10
_IP_PMTUDISC_DONT: Final = 0
_IP_RECVERR: Final = 11
_IPV6_MTU_DISCOVER: Final = 23
_IPV6_RECVERR: Final = 25

_EXTENDED_ERROR: Final = struct.Struct("=IBBBxII")
"""struct sock_extended_err of <linux/errqueue.h>: errno, origin, type, code, pad, info, data; the offender's address
follows."""
_ORIGIN_ICMP: Final = 2
_ORIGIN_ICMP6: Final = 3
_TIME_EXCEEDED4: Final = 11
_TIME_EXCEEDED6: Final = 3
_MAX_ERRORS: Final = 16

OUT_OF_DESCRIPTORS: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


def family_of(address: bytes) -> socket.AddressFamily:
    return socket.AF_INET if len(address) == 4 else socket.AF_INET6


def to_host(address: bytes, port: int) -> Address:
    """For the socket module."""
    if len(address) == 4:
        return socket.inet_ntop(socket.AF_INET, address), port
    return socket.inet_ntop(socket.AF_INET6, address), port, 0, 0


def from_host(address: Address) -> tuple[bytes, int]:
    """From the socket module: address and port."""
    text = address[0].partition("%")[0]
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    return socket.inet_pton(family, text), address[1]


def report_errors(sock: socket.socket) -> None:
    """Have ICMP errors queued on a datagram socket, and let the host fragment what its path does not take."""
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
        sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DONT)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _IP_PMTUDISC_DONT)


def set_ttl(sock: socket.socket, ttl: int) -> None:
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, ttl)


class QueuedError(NamedTuple):
    """An ICMP error about a datagram. destination, port: where that went. data: the beginning of it. reporter: who
    says it."""

    reason: Reason
    destination: bytes
    port: int
    reporter: bytes
    data: bytes
    mtu: int


def queued_errors(sock: socket.socket) -> list[QueuedError]:
    """Take ICMP errors off a socket's error queue."""
    errors: list[QueuedError] = []
    for _ in range(_MAX_ERRORS):
        try:
            data, ancillary, _, address = sock.recvmsg(2048, 512, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT)
        except OSError:
            break
        if not address:
            continue
        destination, port = from_host(address)
        for level, kind, value in ancillary:
            if (level, kind) not in ((socket.IPPROTO_IP, _IP_RECVERR), (socket.IPPROTO_IPV6, _IPV6_RECVERR)):
                continue
            if len(value) < _EXTENDED_ERROR.size:
                continue
            number, origin, icmp_type, _, info, _ = _EXTENDED_ERROR.unpack_from(value)
            reason = reason_of(number)
            if (origin, icmp_type) in ((_ORIGIN_ICMP, _TIME_EXCEEDED4), (_ORIGIN_ICMP6, _TIME_EXCEEDED6)):
                reason = Reason.HOP_LIMIT
            if reason is not None:
                mtu = info if reason is Reason.TOO_BIG else 0
                errors.append(QueuedError(reason, destination, port, _offender(value, origin), data, mtu))
    return errors


def _offender(value: bytes, origin: int) -> bytes:
    """The address behind the extended error: a sockaddr_in or sockaddr_in6."""
    at = _EXTENDED_ERROR.size
    if origin == _ORIGIN_ICMP and len(value) >= at + 8:
        return value[at + 4 : at + 8]
    if origin == _ORIGIN_ICMP6 and len(value) >= at + 24:
        return value[at + 8 : at + 24]
    return b""


def reset_on_close(sock: socket.socket) -> None:
    """Have `close` send a reset, so that the other side learns that the connection did not end well (socket(7),
    SO_LINGER)."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
