"""UDP datagrams (RFC 768), and which of the guest's belong to which socket of the host."""

from __future__ import annotations

import struct
from collections.abc import Hashable
from typing import Final, NamedTuple

from manor.backends.net.user import ip
from manor.backends.net.user.checksum import checksum, is_valid, pseudo_sum
from manor.backends.net.user.mappings import (
    ECHO_IDLE,
    MAX_ECHO,
    MAX_FORWARDED,
    MAX_UDP,
    UDP_IDLE,
    EchoMapping,
    ForwardedPeer,
    MappingTable,
    UdpMapping,
)
from manor.backends.net.user.outside import Outside

HEADER: Final = 8
_HEAD: Final = struct.Struct(">HHHH")
_FIRST_PORT: Final = 49152  # RFC 6335, 6: dynamic ports
_PORTS: Final = 65536 - _FIRST_PORT
_TRIES: Final = 64


class Datagram(NamedTuple):
    source_port: int
    destination_port: int
    payload: bytes


def parse(packet: ip.Packet, is_done: bool) -> Datagram | None:
    """The datagram in a whole packet; None if it is broken. is_done: the checksum need not be looked at."""
    payload = packet.payload
    if len(payload) < HEADER:
        return None
    source, destination, size, field = _HEAD.unpack_from(payload)
    if size < HEADER or size > len(payload) or destination == 0:
        return None
    if size < len(payload):
        payload = payload[:size]
    if not is_done:
        if field == 0:
            if len(packet.source) == 16:
                return None  # RFC 8200, 8.1
        elif not is_valid(payload, pseudo_sum(packet.source, packet.destination, ip.UDP, size)):
            return None
    return Datagram(source, destination, payload[HEADER:])


def header(source_port: int, destination_port: int, size: int) -> bytes:
    """A header without checksum for `size` bytes of payload."""
    return _HEAD.pack(source_port, destination_port, HEADER + size, 0)


def build(source: bytes, source_port: int, destination: bytes, port: int, payload: bytes) -> bytes | None:
    """A datagram with its checksum; None if it is larger than IP carries."""
    size = HEADER + len(payload)
    if size > ip.MAX_PACKET - (ip.HEADER4 if len(source) == 4 else 0):
        return None
    data = header(source_port, port, len(payload)) + payload
    # 0 in the field means "none": RFC 768 sends the other zero instead.
    field = checksum(data, pseudo_sum(source, destination, ip.UDP, size)) or 0xFFFF
    return data[:6] + field.to_bytes(2, "big") + payload


class UdpTables:
    """The mappings of everything that has no connections."""

    def __init__(self, outside: Outside) -> None:
        self.udp: MappingTable[tuple[bytes, int], UdpMapping] = MappingTable(MAX_UDP, UDP_IDLE, outside.close_udp)
        self.echo: MappingTable[tuple[bytes, int], EchoMapping] = MappingTable(MAX_ECHO, ECHO_IDLE, outside.close_echo)
        self.forwarded: MappingTable[tuple[bytes, int, bytes, int], ForwardedPeer] = MappingTable(
            MAX_FORWARDED, UDP_IDLE, self._forget_peer
        )
        self._by_peer: dict[tuple[Hashable, Hashable], ForwardedPeer] = {}

    def mapping(self, address: bytes, port: int, mac: bytes, now: int) -> UdpMapping:
        """The mapping of a guest's port, made if there is none."""
        key = (address, port)
        mapping = self.udp.get(key, now)
        if mapping is None:
            mapping = UdpMapping(address, port, mac)
            self.udp.add(key, mapping, now)
        mapping.mac = mac
        return mapping

    def echo_mapping(self, address: bytes, identifier: int, mac: bytes, now: int) -> EchoMapping:
        key = (address, identifier)
        mapping = self.echo.get(key, now)
        if mapping is None:
            mapping = EchoMapping(address, identifier, mac, is_v6=len(address) == 16)
            self.echo.add(key, mapping, now)
        mapping.mac = mac
        return mapping

    def forward_session(
        self, forward: Hashable, peer: Hashable, peer_port: int, guest: bytes, guest_port: int, own: bytes, now: int
    ) -> ForwardedPeer | None:
        """How the guest sees a peer of a forwarded port: at our address, at the peer's own port if that is free."""
        session = self._by_peer.get((forward, peer))
        if session is not None:
            if (session.address, session.port) == (guest, guest_port):
                self.forwarded.get((guest, guest_port, own, session.own_port), now)
                return session
            self.forwarded.drop((session.address, session.port, session.own, session.own_port))
        port = peer_port if peer_port >= 1024 else _FIRST_PORT
        for _ in range(_TRIES):
            if self.forwarded.get((guest, guest_port, own, port), now) is None:
                session = ForwardedPeer(guest, guest_port, own, port, forward, peer)
                self.forwarded.add((guest, guest_port, own, port), session, now)
                self._by_peer[forward, peer] = session
                return session
            port = _FIRST_PORT + (port * 31 + 7) % _PORTS
        return None

    def forwarded_peer(
        self, guest: bytes, guest_port: int, own: bytes, own_port: int, now: int
    ) -> ForwardedPeer | None:
        """The peer for whom a datagram of the guest is, if it is an answer to one."""
        if not len(self.forwarded):
            return None
        return self.forwarded.get((guest, guest_port, own, own_port), now)

    def forget_forward(self, forward: Hashable) -> None:
        """A forwarded port is closed: its peers are gone."""
        for session in self.forwarded.values():
            if session.forward == forward:
                self.forwarded.drop((session.address, session.port, session.own, session.own_port))

    def _forget_peer(self, session: ForwardedPeer) -> None:
        self._by_peer.pop((session.forward, session.peer), None)

    def give_up_one(self, now: int) -> bool:
        """Close the mapping that was idle longest, if it was idle for a while."""
        return self.udp.give_up_one(now) or self.echo.give_up_one(now)

    def expire(self, now: int) -> None:
        self.udp.expire(now)
        self.echo.expire(now)
        self.forwarded.expire(now)

    @property
    def deadline(self) -> int | None:
        first = self.udp.deadline
        for table in (self.echo, self.forwarded):
            time = table.deadline
            if time is not None and (first is None or time < first):
                first = time
        return first

    def clear(self) -> None:
        self.udp.clear()
        self.echo.clear()
        self.forwarded.clear()
