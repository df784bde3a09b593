"""NAT state of what has no connections: UDP, echo requests, and datagrams that came through forwarded ports.

Source: RFC 4787, whose requirements are named where they are met; RFC 5508 for ICMP.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Final, Generic, Protocol, TypeVar

from manor.base.clock import SECOND

UDP_IDLE: Final = 120 * SECOND
"""REQ-5: not less than two minutes."""
ECHO_IDLE: Final = 60 * SECOND
"""RFC 5508, REQ-1."""
EXPENDABLE: Final = 10 * SECOND
"""Silence after which a mapping is given up when the host is out of descriptors: most were one question and one
answer."""
MAX_UDP: Final = 512
MAX_ECHO: Final = 64
MAX_FORWARDED: Final = 512
"""Bounds of descriptors and memory; beyond, the one that was idle longest goes."""
MAX_PEERS: Final = 256
"""Hosts a UDP mapping remembers having sent to, so that it accepts from them."""


class Mapping(Protocol):
    mac: bytes
    used: int


@dataclass(slots=True, eq=False)
class UdpMapping:
    """One guest port, however many hosts it talks to (REQ-1: endpoint-independent). peers: the hosts it sent to, as
    the guest names them; only those may answer (REQ-8: address-dependent filtering)."""

    address: bytes
    port: int
    mac: bytes
    used: int = 0
    peers: dict[bytes, None] = field(default_factory=dict)

    def sent_to(self, address: bytes) -> None:
        if address not in self.peers:
            if len(self.peers) >= MAX_PEERS:
                del self.peers[next(iter(self.peers))]
            self.peers[address] = None


@dataclass(slots=True, eq=False)
class EchoMapping:
    """One identifier of echo requests. targets: host addresses to the ones the guest named, where they differ."""

    address: bytes
    identifier: int
    mac: bytes
    used: int = 0
    is_v6: bool = False


@dataclass(slots=True, eq=False)
class ForwardedPeer:
    """A peer of the host that sent a datagram to a forwarded port; the guest sees it at our `own_port`.

    forward: the adapter's key of the forwarded port, peer: of the host's side, both opaque here.
    """

    address: bytes
    port: int
    own: bytes
    own_port: int
    forward: Hashable
    peer: Hashable
    mac: bytes = b""
    used: int = 0


K = TypeVar("K", bound=Hashable)
M = TypeVar("M", bound=Mapping)


class MappingTable(Generic[K, M]):
    """Mappings by key, in order of their last use. on_drop: called with one that goes."""

    def __init__(self, limit: int, idle: int, on_drop: Callable[[M], None]) -> None:
        self._limit = limit
        self._idle = idle
        self._on_drop = on_drop
        self._mappings: dict[K, M] = {}
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._mappings)

    def values(self) -> list[M]:
        return list(self._mappings.values())

    def get(self, key: K, now: int) -> M | None:
        """The mapping, and note that it is used."""
        mapping = self._mappings.get(key)
        if mapping is not None:
            # The order is kept to a second: moving it for each packet would cost more than it tells.
            if now - mapping.used > SECOND:
                del self._mappings[key]
                self._mappings[key] = mapping
            mapping.used = now
        return mapping

    def add(self, key: K, mapping: M, now: int) -> None:
        if len(self._mappings) >= self._limit:
            self.evicted += 1
            self.drop(next(iter(self._mappings)))
        mapping.used = now
        self._mappings[key] = mapping

    def drop(self, key: K) -> None:
        mapping = self._mappings.pop(key, None)
        if mapping is not None:
            self._on_drop(mapping)

    def expire(self, now: int) -> None:
        """Drop what was idle too long."""
        while self._mappings:
            key = next(iter(self._mappings))
            if self._mappings[key].used + self._idle > now:
                return
            self.drop(key)

    def give_up_one(self, now: int) -> bool:
        """Drop the one that was idle longest, if that is long enough to hurt nobody."""
        if not self._mappings:
            return False
        key = next(iter(self._mappings))
        if self._mappings[key].used + EXPENDABLE > now:
            return False
        self.evicted += 1
        self.drop(key)
        return True

    @property
    def deadline(self) -> int | None:
        """When `expire` has something to do, a second late at the most."""
        if not self._mappings:
            return None
        return next(iter(self._mappings.values())).used + self._idle + SECOND

    def clear(self) -> None:
        for key in list(self._mappings):
            self.drop(key)
