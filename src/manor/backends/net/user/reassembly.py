"""IP fragments become packets again, in bounded memory and time (RFC 791, 3.2; RFC 8200, 4.5; RFC 5722)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from manor.backends.net.user.ip import MAX_PACKET, Packet
from manor.base.clock import SECOND

TIMEOUT: Final = 30 * SECOND
"""RFC 1122, 3.3.2 wants 60 to 120 s, RFC 8200 60 s; Linux waits 30, and the cable here is short."""
MAX_DATAGRAMS: Final = 32
"""Being put together at a time; bounds the memory to 2 MiB and lets the oldest go."""
MAX_PIECES: Final = 128
"""Of one datagram: 64 KiB in pieces of 576-byte packets, rounded up."""


@dataclass(slots=True)
class _Datagram:
    deadline: int
    pieces: list[tuple[int, bytes]] = field(default_factory=list)
    size: int = -1
    """Known when the last piece came."""


class Reassembly:
    """Datagrams of which some fragments came."""

    def __init__(self) -> None:
        self._datagrams: dict[tuple[bytes, bytes, int, int], _Datagram] = {}

    def add(self, fragment: Packet, now: int) -> Packet | None:
        """Take a fragment; the whole packet if it was the missing one.

        An overlap drops the whole datagram, in both families: nobody sends one by accident (RFC 5722).
        """
        protocol = fragment.protocol if len(fragment.source) == 4 else 0  # IPv6 has no protocol in the key
        key = (fragment.source, fragment.destination, protocol, fragment.identification)
        self._expire(now)
        datagram = self._datagrams.get(key)
        if datagram is None:
            if len(self._datagrams) >= MAX_DATAGRAMS:
                del self._datagrams[next(iter(self._datagrams))]
            datagram = self._datagrams[key] = _Datagram(now + TIMEOUT)
        if not self._insert(datagram, fragment):
            del self._datagrams[key]
            return None
        if datagram.size < 0 or sum(len(piece) for _, piece in datagram.pieces) < datagram.size:
            return None
        del self._datagrams[key]
        payload = b"".join(piece for _, piece in datagram.pieces)
        return fragment._replace(payload=payload, offset=0, has_more=False)

    def _insert(self, datagram: _Datagram, fragment: Packet) -> bool:
        start, end = fragment.offset, fragment.offset + len(fragment.payload)
        if any((start, fragment.payload) == piece for piece in datagram.pieces):
            return True  # the cable doubled it
        if len(datagram.pieces) >= MAX_PIECES or end > MAX_PACKET:
            return False
        if not fragment.has_more:
            if datagram.size >= 0 or any(offset + len(piece) > end for offset, piece in datagram.pieces):
                return False
            datagram.size = end
        elif datagram.size >= 0 and end > datagram.size:
            return False
        if any(offset < end and start < offset + len(piece) for offset, piece in datagram.pieces):
            return False
        datagram.pieces.append((start, fragment.payload))
        datagram.pieces.sort(key=lambda piece: piece[0])
        return True

    def _expire(self, now: int) -> None:
        while self._datagrams:
            key = next(iter(self._datagrams))
            if self._datagrams[key].deadline > now:
                return
            del self._datagrams[key]

    def __len__(self) -> int:
        return len(self._datagrams)
