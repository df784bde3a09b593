"""A DHCPv6 server: DNS for guests that configure themselves, and an address for those that ask for one.

Sources: RFC 8415 (protocol), RFC 3646 (DNS options).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from manor.backends.net.user.leases import Leases
from manor.backends.net.user.plan import DOMAIN, Plan
from manor.trace.event import guest_error

SERVER_PORT: Final = 547
CLIENT_PORT: Final = 546
SERVERS: Final = (
    b"\xff\x02" + bytes(11) + b"\x01\x00\x02",  # All_DHCP_Relay_Agents_and_Servers, RFC 8415, 7.1
)
PREFERRED: Final = 43200
VALID: Final = 86400

# RFC 8415, 7.3 and 21.
SOLICIT, ADVERTISE, REQUEST, CONFIRM, RENEW, REBIND, REPLY, RELEASE, DECLINE = range(1, 10)
INFORMATION_REQUEST: Final = 11
_CLIENT_ID, _SERVER_ID, _IA_NA, _IA_TA, _IA_ADDRESS = 1, 2, 3, 4, 5
_STATUS: Final = 13
_RAPID_COMMIT: Final = 14
_DNS: Final = 23
_SEARCH: Final = 24
_MAX_DUID: Final = 130
_MAX_IAS: Final = 8
_SUCCESS, _NO_ADDRESS, _NO_BINDING, _NOT_ON_LINK = 0, 2, 3, 4


def _walk(data: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    while at + 4 <= len(data):
        code, size = struct.unpack_from(">HH", data, at)
        if at + 4 + size > len(data):
            return
        yield code, data[at + 4 : at + 4 + size]
        at += 4 + size


def _option(code: int, value: bytes) -> bytes:
    return struct.pack(">HH", code, len(value)) + value


def _status(code: int) -> bytes:
    return _option(_STATUS, code.to_bytes(2, "big"))


class Dhcpv6Server:
    """A machine's address ends in the same number as its IPv4 one: …:15 for 10.0.2.15."""

    def __init__(self, plan: Plan, leases: Leases) -> None:
        self._plan = plan
        self._leases = leases
        self._duid = b"\x00\x03\x00\x01" + plan.mac  # DUID-LL: RFC 8415, 11.4

    def address(self, mac: bytes, now: int) -> bytes | None:
        """The IPv6 address of this machine, whether or not it asked."""
        lease = self._leases.offer(mac, now)
        if lease is None:
            return None
        number = int.from_bytes(lease.address, "big") - (int.from_bytes(self._plan.guest, "big") - 15)
        return self._plan.prefix6 + int(str(number), 16).to_bytes(8, "big")

    def answer(self, data: bytes, mac: bytes, now: int) -> bytes | None:
        """The reply to a client's message, if it gets one. mac: of the frame."""
        if len(data) < 4:
            guest_error("dhcpv6", "a message without header")
            return None
        kind, transaction = data[0], data[1:4]
        options: dict[int, bytes] = {}
        associations: list[tuple[int, bytes]] = []
        for code, value in _walk(data, 4):
            if code in (_IA_NA, _IA_TA):
                associations.append((code, value))
            else:
                options.setdefault(code, value)
        client, server = options.get(_CLIENT_ID, b""), options.get(_SERVER_ID)
        if len(client) > _MAX_DUID or (not client and kind != INFORMATION_REQUEST):
            return None
        if server is not None and server != self._duid:
            return None
        # RFC 8415, 16: which messages must, and must not, name a server.
        if (kind in (REQUEST, RENEW, RELEASE, DECLINE)) != (server is not None) and kind != INFORMATION_REQUEST:
            return None
        answer = REPLY
        body = b""
        match kind:
            case 1:  # SOLICIT
                if _RAPID_COMMIT in options:
                    body += _option(_RAPID_COMMIT, b"")
                else:
                    answer = ADVERTISE
                body += self._associate(associations, mac, now)
            case 3 | 5 | 6:  # REQUEST, RENEW, REBIND
                body += self._associate(associations, mac, now)
            case 4:  # CONFIRM
                addresses = [
                    sub[:16] for _, value in associations for code, sub in _walk(value, 12) if code == _IA_ADDRESS
                ]
                if not addresses:
                    return None
                is_here = all(address[:8] == self._plan.prefix6 for address in addresses)
                body += _status(_SUCCESS if is_here else _NOT_ON_LINK)
            case 8 | 9:  # RELEASE, DECLINE
                body += _status(_SUCCESS)
            case 11:
                pass
            case _:
                return None
        head = bytes((answer,)) + transaction + _option(_SERVER_ID, self._duid)
        if client:
            head += _option(_CLIENT_ID, client)
        search = bytes((len(DOMAIN),)) + DOMAIN.encode() + b"\0"
        return head + body + _option(_DNS, self._plan.dns6) + _option(_SEARCH, search)

    def _associate(self, associations: list[tuple[int, bytes]], mac: bytes, now: int) -> bytes:
        body = b""
        for code, value in associations[:_MAX_IAS]:
            if code != _IA_NA or len(value) < 12:
                continue
            address = self.address(mac, now)
            if address is None:
                inner = _status(_NO_ADDRESS)
            else:
                inner = _option(_IA_ADDRESS, address + struct.pack(">II", PREFERRED, VALID))
                for sub, old in _walk(value, 12):
                    if sub == _IA_ADDRESS and len(old) >= 24 and old[:16] != address:
                        inner += _option(_IA_ADDRESS, old[:16] + bytes(8))  # lifetimes 0: stop using it
            body += _option(_IA_NA, value[:4] + struct.pack(">II", PREFERRED // 2, PREFERRED * 4 // 5) + inner)
        return body
