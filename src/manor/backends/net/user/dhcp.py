"""A DHCP server for IPv4. Sources: RFC 2131 (protocol), RFC 2132 (options), RFC 6842 (client identifier), RFC 3397
(search list)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from manor.backends.net.user.leases import Lease, Leases
from manor.backends.net.user.plan import DOMAIN, Plan
from manor.base.clock import SECOND
from manor.trace.event import declare, guest_error

SERVER_PORT: Final = 67
CLIENT_PORT: Final = 68
LEASE: Final = 86400
"""Seconds. Renewal at a half and rebinding at seven eighths (RFC 2131, 4.4.5)."""

_HEAD: Final = struct.Struct(">BBBBIHH4s4s4s4s16s")
_MAGIC: Final = b"\x63\x82\x53\x63"
_OPTIONS: Final = 240
_BROADCAST_FLAG: Final = 0x8000
_MIN_SIZE: Final = 300
"""BOOTP's size, below which old clients drop a reply (RFC 1542, 2.1)."""

dhcp_reply = declare("dhcp_reply", kind=str, mac=bytes, address=bytes)


class Kind(IntEnum):
    """Message types: RFC 2132, 9.6."""

    DISCOVER = 1
    OFFER = 2
    REQUEST = 3
    DECLINE = 4
    ACK = 5
    NAK = 6
    RELEASE = 7
    INFORM = 8


class Option(IntEnum):
    """RFC 2132 and RFC 3397."""

    SUBNET_MASK = 1
    ROUTER = 3
    DNS = 6
    HOSTNAME = 12
    DOMAIN = 15
    MTU = 26
    BROADCAST = 28
    REQUESTED = 50
    LEASE_TIME = 51
    KIND = 53
    SERVER = 54
    PARAMETERS = 55
    MAX_SIZE = 57
    RENEWAL = 58
    REBINDING = 59
    CLIENT_ID = 61
    SEARCH = 119


@dataclass(frozen=True, slots=True)
class Request:
    kind: int
    transaction: int
    flags: int
    client: bytes
    relay: bytes
    hardware: bytes
    options: dict[int, bytes]

    @property
    def mac(self) -> bytes:
        return self.hardware[:6]


@dataclass(frozen=True, slots=True)
class Reply:
    """destination: an address, or the broadcast one; mac: where the frame goes, empty for everybody."""

    destination: bytes
    mac: bytes
    payload: bytes


def parse(data: bytes) -> Request | None:
    """A client's message; None if it is none."""
    if len(data) < _OPTIONS or data[236:240] != _MAGIC:
        return None
    op, hardware, size, _, transaction, _, flags, client, _, _, relay, address = _HEAD.unpack_from(data)
    if op != 1 or hardware != 1 or size != 6:
        return None
    options: dict[int, bytes] = {}
    for code, value in _walk(data):
        # A long option comes in pieces that belong together (RFC 3396).
        options[code] = options.get(code, b"") + value
    kind = options.get(Option.KIND, b"")
    if len(kind) != 1:
        return None
    return Request(kind[0], transaction, flags, client, relay, address, options)


def _walk(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = _OPTIONS
    while at < len(data) and data[at] != 255:
        if data[at] == 0:
            at += 1
            continue
        if at + 2 > len(data) or at + 2 + data[at + 1] > len(data):
            return
        yield data[at], data[at + 2 : at + 2 + data[at + 1]]
        at += 2 + data[at + 1]


class DhcpServer:
    """Answers clients out of `leases`."""

    def __init__(self, plan: Plan, leases: Leases) -> None:
        self._plan = plan
        self._leases = leases

    def answer(self, data: bytes, now: int) -> Reply | None:
        """The reply to a client's message, if it gets one."""
        request = parse(data)
        if request is None:
            guest_error("dhcp", "a message that is not DHCP came to the server's port")
            return None
        server = request.options.get(Option.SERVER)
        if server is not None and server != self._plan.gateway and request.kind != Kind.RELEASE:
            return None  # the client took another server's offer
        match request.kind:
            case Kind.DISCOVER:
                lease = self._leases.offer(request.mac, now, request.options.get(Option.REQUESTED, b""))
                return None if lease is None else self._reply(request, Kind.OFFER, lease)
            case Kind.REQUEST:
                return self._request(request, now, is_selecting=server is not None)
            case Kind.DECLINE:
                self._leases.decline(request.mac, request.options.get(Option.REQUESTED, b""))
            case Kind.RELEASE:
                lease = self._leases.get(request.mac)
                if lease is not None and lease.address == request.client:
                    lease.deadline = 0
            case Kind.INFORM:
                return self._reply(request, Kind.ACK, None)
        return None

    def _request(self, request: Request, now: int, *, is_selecting: bool) -> Reply | None:
        """Source: RFC 2131, 4.3.2: selecting, rebooting, renewing or rebinding, told apart by what is filled in."""
        wanted = request.options.get(Option.REQUESTED, b"") or request.client
        lease = self._leases.get(request.mac)
        if lease is None and not is_selecting:
            # After the VMM was restarted the guest still has its lease: let it go on if the address is free.
            lease = self._leases.offer(request.mac, now, wanted)
        if lease is None or lease.address != wanted:
            return self._nak(request)
        lease.deadline = now + LEASE * SECOND
        name = request.options.get(Option.HOSTNAME, b"")[:63]
        lease.hostname = name.decode("ascii", "replace").split("\0")[0] if name else lease.hostname
        return self._reply(request, Kind.ACK, lease)

    def _nak(self, request: Request) -> Reply:
        dhcp_reply("NAK", request.mac, b"") if dhcp_reply.on else None
        options = [(Option.KIND, bytes((Kind.NAK,))), (Option.SERVER, self._plan.gateway)]
        return Reply(b"\xff" * 4, b"", self._message(request, bytes(4), options))

    def _reply(self, request: Request, kind: Kind, lease: Lease | None) -> Reply:
        plan = self._plan
        address = bytes(4) if lease is None else lease.address
        if dhcp_reply.on:
            dhcp_reply(kind.name, request.mac, address)
        options: list[tuple[Option, bytes]] = [(Option.KIND, bytes((kind,))), (Option.SERVER, plan.gateway)]
        if lease is not None:
            options.append((Option.LEASE_TIME, LEASE.to_bytes(4, "big")))
            options.append((Option.RENEWAL, (LEASE // 2).to_bytes(4, "big")))
            options.append((Option.REBINDING, (LEASE * 7 // 8).to_bytes(4, "big")))
        options += [
            (Option.SUBNET_MASK, plan.network.netmask.packed),
            (Option.ROUTER, plan.gateway),
            (Option.DNS, plan.dns),
            (Option.DOMAIN, DOMAIN.encode()),
            (Option.BROADCAST, plan.network.broadcast_address.packed),
            (Option.MTU, plan.mtu.to_bytes(2, "big")),
        ]
        if plan.hostname:
            options.append((Option.HOSTNAME, plan.hostname.encode("ascii", "replace")[:63]))
        if Option.SEARCH in request.options.get(Option.PARAMETERS, b""):
            options.append((Option.SEARCH, bytes((len(DOMAIN),)) + DOMAIN.encode() + b"\0"))
        client_id = request.options.get(Option.CLIENT_ID)
        if client_id is not None and len(client_id) <= 255:
            options.append((Option.CLIENT_ID, client_id))
        payload = self._message(request, address, options)
        if request.client != bytes(4):
            return Reply(request.client, request.mac, payload)
        if request.flags & _BROADCAST_FLAG or lease is None:
            return Reply(b"\xff" * 4, b"", payload)
        return Reply(address, request.mac, payload)

    def _message(self, request: Request, address: bytes, options: list[tuple[Option, bytes]]) -> bytes:
        head = _HEAD.pack(
            2,
            1,
            6,
            0,
            request.transaction,
            0,
            request.flags,
            request.client,
            address,
            self._plan.gateway,
            request.relay,
            request.hardware,
        )
        body = b"".join(bytes((code, len(value))) + value for code, value in options)
        return (head + bytes(192) + _MAGIC + body + b"\xff").ljust(_MIN_SIZE, b"\0")
