"""DNS messages, as far as a forwarder reads and writes them. Sources: RFC 1035, 4; RFC 6891 (EDNS)."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from typing import Final

A: Final = 1
SOA: Final = 6
PTR: Final = 12
AAAA: Final = 28
OPT: Final = 41
ANY: Final = 255
IN: Final = 1

NOERROR: Final = 0
FORMERR: Final = 1
SERVFAIL: Final = 2
NXDOMAIN: Final = 3
NOTIMP: Final = 4
REFUSED: Final = 5

HEADER: Final = 12
MAX_UDP: Final = 512
"""RFC 1035, 4.2.1: what a client without EDNS takes."""
TTL: Final = 30
"""Of our own names, seconds: short, since guests come and go."""

_RESPONSE: Final = 0x8000
_AUTHORITATIVE: Final = 0x0400
_TRUNCATED: Final = 0x0200
_RECURSION_DESIRED: Final = 0x0100
_RECURSION_AVAILABLE: Final = 0x0080
_OPCODE: Final = 0x7800
_OWNER: Final = b"\xc0\x0c"
"""A pointer to the question's name."""


@dataclass(frozen=True, slots=True)
class Query:
    """A message with one question. name: lower case, without the last dot. question: its bytes. size: largest answer
    over UDP."""

    identifier: int
    flags: int
    name: str
    kind: int
    kind_class: int
    question: bytes
    size: int


def parse_query(message: bytes) -> Query | None:
    """The question in a query; None if it is not a query or not well-formed."""
    if len(message) < HEADER:
        return None
    identifier, flags, questions, _, _, additional = struct.unpack_from(">6H", message)
    if flags & _RESPONSE or questions != 1:
        return None
    parsed = _name(message, HEADER)
    if parsed is None or parsed[1] + 4 > len(message):
        return None
    name, end = parsed
    kind, kind_class = struct.unpack_from(">HH", message, end)
    end += 4
    size = MAX_UDP
    # The OPT record is the last, or the only one, that clients send; its class is the size (RFC 6891, 6.1.2).
    if additional and message[end : end + 3] == b"\x00\x00\x29" and len(message) >= end + 11:
        size = max(MAX_UDP, int.from_bytes(message[end + 3 : end + 5], "big"))
    return Query(identifier, flags, name, kind, kind_class, message[HEADER:end], size)


def _name(message: bytes, at: int) -> tuple[str, int] | None:
    """A name without compression, and where it ends."""
    labels: list[str] = []
    start = at
    while at < len(message):
        size = message[at]
        at += 1
        if size == 0:
            return ".".join(labels).lower(), at
        if size > 63 or at + size > len(message) or at + size - start > 255:
            return None
        labels.append(message[at : at + size].decode("latin-1"))
        at += size
    return None


def encode_name(name: str) -> bytes:
    """`name`, each of whose labels is 1 to 63 characters of Latin-1."""
    labels = [label.encode("latin-1")[:63] for label in name.split(".") if label]
    return b"".join(bytes((len(label),)) + label for label in labels) + b"\0"


def is_answer_to(message: bytes, query: bytes) -> bool:
    """Whether `message` answers `query`: same number, a response, and the same question where it has one."""
    if len(message) < HEADER or message[:2] != query[:2] or not message[2] & 0x80:
        return False
    asked = parse_query(query)
    if asked is None:
        return False
    if int.from_bytes(message[4:6], "big") == 0:
        return message[3] & 0xF != NOERROR  # some servers leave the question out of an error
    return message[HEADER : HEADER + len(asked.question)].lower() == asked.question.lower()


def failure(query: Query, code: int) -> bytes:
    """An answer that is only a response code."""
    return _head(query, code, 0, 0) + query.question


def format_error(message: bytes) -> bytes | None:
    """What to say to something unreadable; None to an answer or to less than a number."""
    if len(message) < HEADER or message[2] & 0x80:
        return None
    return message[:2] + struct.pack(">5H", _RESPONSE | FORMERR, 0, 0, 0, 0)


def addresses(query: Query, found: list[bytes]) -> bytes:
    """An authoritative answer with those of the addresses that were asked for; none is "no such data", not "no such
    name"."""
    wanted = [
        address
        for address in found
        if (len(address) == 4 and query.kind in (A, ANY)) or (len(address) == 16 and query.kind in (AAAA, ANY))
    ]
    records = b"".join(_record(_OWNER, A if len(address) == 4 else AAAA, address) for address in wanted)
    if wanted:
        return _head(query, NOERROR, len(wanted), 0) + query.question + records
    return _head(query, NOERROR, 0, 1) + query.question + _soa(query)


def pointer(query: Query, name: str) -> bytes:
    """An authoritative answer to a PTR question."""
    if query.kind not in (PTR, ANY):
        return _head(query, NOERROR, 0, 1) + query.question + _soa(query)
    return _head(query, NOERROR, 1, 0) + query.question + _record(_OWNER, PTR, encode_name(name))


def no_such_name(query: Query) -> bytes:
    return _head(query, NXDOMAIN, 0, 1) + query.question + _soa(query)


def truncate(message: bytes, query: Query) -> bytes:
    """`message` as it goes over UDP: whole, or only its question with the flag that says "ask over TCP"."""
    if len(message) <= query.size:
        return message
    flags = int.from_bytes(message[2:4], "big") | _TRUNCATED
    return struct.pack(">6H", query.identifier, flags, 1, 0, 0, 0) + query.question


def reverse_address(name: str) -> bytes | None:
    """The address that a name under in-addr.arpa or ip6.arpa stands for (RFC 1035, 3.5; RFC 3596, 2.5)."""
    labels = name.split(".")
    try:
        if labels[-2:] == ["in-addr", "arpa"] and len(labels) == 6:
            return ipaddress.IPv4Address(".".join(reversed(labels[:4]))).packed
        if labels[-2:] == ["ip6", "arpa"] and len(labels) == 34 and all(len(label) == 1 for label in labels[:32]):
            return bytes.fromhex("".join(reversed(labels[:32])))
    except ValueError:
        return None
    return None


def is_opcode_query(query: Query) -> bool:
    return not query.flags & _OPCODE


def _head(query: Query, code: int, answers: int, authorities: int) -> bytes:
    flags = _RESPONSE | _RECURSION_AVAILABLE | query.flags & (_RECURSION_DESIRED | _OPCODE) | code
    if code in (NOERROR, NXDOMAIN):
        flags |= _AUTHORITATIVE
    return struct.pack(">6H", query.identifier, flags, 1, answers, authorities, 0)


def _record(owner: bytes, kind: int, data: bytes) -> bytes:
    return owner + struct.pack(">HHIH", kind, IN, TTL, len(data)) + data


def _soa(query: Query) -> bytes:
    """What lets a client remember a negative answer (RFC 2308, 3), for as long as a positive one."""
    # The zone: the last label for our domain, the last two for a reverse zone, which is as near as anyone looks.
    labels = query.name.split(".")
    zone = ".".join(labels[-2:] if labels[-1] == "arpa" else labels[-1:])
    data = encode_name("gateway." + zone) + encode_name("nobody." + zone) + struct.pack(">5I", 1, 3600, 600, 86400, TTL)
    return _record(encode_name(zone), SOA, data)
