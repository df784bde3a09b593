"""All TCP connections of a guest: which segment belongs to which, their timers, their number."""

from __future__ import annotations

import heapq
import itertools
import struct
from collections import deque
from collections.abc import Callable
from typing import Final

from manor.backends.net.api import Frame, Offloads
from manor.backends.net.user import ip, tcp_segment
from manor.backends.net.user.icmp import GuestError
from manor.backends.net.user.tcp import TcpEndpoint
from manor.backends.net.user.tcp_output import TcpOutput
from manor.backends.net.user.tcp_segment import ACK, FIN, M32, RST, SYN, Path
from manor.backends.net.user.tcp_state import State, TcpApplication
from manor.base.clock import MILLISECOND, SECOND

MAX_CONNECTIONS: Final = 1024
"""Open at a time, for a guest that opens as many as it can; bounds memory and the host's descriptors."""
BUDGET: Final = 64 << 20
"""Bytes, in each direction, that all connections of a guest may hold together; each gets its share."""
MAX_SHARE: Final = 512 << 10
"""What one connection needs for a gigabit a second and a guest that answers within four milliseconds."""
MIN_SHARE: Final = 64 << 10
ACK_DELAY: Final = 4 * MILLISECOND
"""RFC 9293 allows half a second; an answer of this host comes sooner, or not soon. Each time that it ends, a thread of
the host wakes up."""
EVICTABLE: Final = 60 * SECOND
"""At the limit a connection that was silent this long makes room for a new one."""
MAX_WAITING: Final = 4096
"""Connections in TIME-WAIT, which hold no descriptor; the oldest goes first."""
IDLE: Final = 2 * 3600 * SECOND
"""Silence after which the guest is asked whether it still knows the connection (RFC 1122, 4.2.3.6)."""
DEAD: Final = IDLE + 600 * SECOND
_SWEEP: Final = 60 * SECOND

Opener = Callable[[TcpEndpoint, bytes, int], None]
"""Opens the other end of a connection that the guest begins, to an address and port as the guest sees them: sets the
endpoint's application and, soon or later, calls its `accept` or `refuse`."""


class TcpTable:
    """Endpoints by the 12 or 36 bytes of addresses and ports as they stand in the guest's segments.

    out: where frames go. now, offloads: set by the core at each entry. is_stalled: the guest takes no frames at
    present.
    """

    def __init__(
        self, out: list[Frame], own_mac: bytes, mtu: int, open_tcp: Opener, random32: Callable[[], int]
    ) -> None:
        self.out = out
        self.now = 0
        self.offloads = Offloads()
        self.is_stalled = False
        self.share = MAX_SHARE
        """Bytes that one connection may hold, in each direction."""
        self.opened = 0
        self.refused = 0
        self.evicted = 0
        self._own_mac = own_mac
        self._mtu = mtu
        self._open = open_tcp
        self._random32 = random32
        self._endpoints: dict[bytes, TcpEndpoint] = {}
        self._waiting: dict[bytes, TcpEndpoint] = {}
        """The endpoints in TIME-WAIT, in order."""
        self._heap: list[tuple[int, int, TcpOutput]] = []
        self._order = itertools.count()
        self._owing: list[TcpOutput] = []
        self._delayed: deque[tuple[int, TcpOutput]] = deque()
        self._roomy: list[TcpOutput] = []
        self._next_sweep = _SWEEP

    def __len__(self) -> int:
        return len(self._endpoints) - len(self._waiting)

    def endpoints(self) -> list[TcpEndpoint]:
        return list(self._endpoints.values())

    # --- from the guest -------------------------------------------------------------------------------------

    def segment(self, key: bytes, data: bytes, at: int, end: int) -> None:
        """A segment with its header at data[at], at least 20 bytes, whose checksum is right."""
        endpoint = self._endpoints.get(key)
        if endpoint is not None:
            if endpoint.state is State.TIME_WAIT and self._is_reopening(endpoint, data, at):
                endpoint.expire()
            else:
                endpoint.segment(data, at, end)
                return
        self._stranger(key, data, at, end)

    def _is_reopening(self, endpoint: TcpEndpoint, data: bytes, at: int) -> bool:
        """Whether a SYN begins a new connection where an old one is remembered. Source: RFC 9293, 3.10.7.4; RFC
        6191, 2."""
        if data[at + 13] & (SYN | ACK | RST) != SYN or endpoint.application is not None:
            return False
        return (int.from_bytes(data[at + 4 : at + 8], "big") - endpoint.receive.nxt) & M32 < 0x8000_0000

    def _stranger(self, key: bytes, data: bytes, at: int, end: int) -> None:
        sequence, ack, offset_flags, window = struct.unpack_from(">IIHH", data, at + 4)
        flags = offset_flags & 0x3F
        header = offset_flags >> 10 & 0x3C
        if flags & RST or header < tcp_segment.HEADER or at + header > end:
            return
        size = len(key) // 2 - 2
        guest, world = key[:size], key[size : 2 * size]
        path = Path(data[6:12], self._own_mac, world, guest, key[-2:] + key[-4:-2])
        if flags & (SYN | ACK | FIN) != SYN:
            if flags & ACK:
                path.frames(self.out, self.offloads, ack, 0, RST, 0)
            else:
                length = end - at - header + bool(flags & SYN) + bool(flags & FIN)
                path.frames(self.out, self.offloads, 0, sequence + length, RST | ACK, 0)
            return
        if not self._has_place():
            self.refused += 1
            path.frames(self.out, self.offloads, 0, sequence + 1, RST | ACK, 0)
            return
        endpoint = TcpEndpoint(self, key, path, self._max_mss(size), self._random32())
        endpoint.hold(sequence, tcp_segment.parse_options(data, at + tcp_segment.HEADER, at + header), window)
        self._add(endpoint)
        self._open(endpoint, world, int.from_bytes(key[-2:], "big"))

    def guest_said(self, key: bytes, error: GuestError) -> None:
        """An ICMP error came about a segment of ours: it was too big, or nobody takes connections there."""
        endpoint = self._endpoints.get(key)
        if endpoint is None:
            return
        if error.mtu:
            endpoint.fit(error.mtu - self._headers(len(error.source)))
        elif endpoint.state is State.SYN_SENT:
            endpoint.turned_away()

    # --- to the guest ---------------------------------------------------------------------------------------

    def open(
        self, application: TcpApplication, own: bytes, guest: bytes, own_port: int, guest_port: int
    ) -> TcpEndpoint | None:
        """Begin a connection to the guest; None if there are too many or the ports are taken.

        The SYN goes out when `learned` says where to.
        """
        key = guest + own + guest_port.to_bytes(2, "big") + own_port.to_bytes(2, "big")
        old = self._endpoints.get(key)
        if old is not None and old.state is State.TIME_WAIT and old.application is None:
            old.expire()
        if key in self._endpoints or not self._has_place():
            self.refused += 1
            return None
        endpoint = TcpEndpoint(self, key, None, self._max_mss(len(guest)), self._random32())
        endpoint.application = application
        self._add(endpoint)
        endpoint.connect()
        return endpoint

    def learned(self, endpoint: TcpEndpoint, mac: bytes) -> None:
        """The guest's MAC is known: let the SYN go."""
        if endpoint.path is None and endpoint.state is State.SYN_SENT:
            key = endpoint.key
            size = len(key) // 2 - 2
            endpoint.path = Path(mac, self._own_mac, key[size : 2 * size], key[:size], key[-2:] + key[-4:-2])
            endpoint.connect_again()

    def _add(self, endpoint: TcpEndpoint) -> None:
        self._endpoints[endpoint.key] = endpoint
        self.opened += 1
        self._divide()

    def _divide(self) -> None:
        self.share = max(MIN_SHARE, min(MAX_SHARE, BUDGET // max(1, len(self))))

    def _headers(self, address_size: int) -> int:
        return (ip.HEADER4 if address_size == 4 else ip.HEADER6) + tcp_segment.HEADER

    def _max_mss(self, address_size: int) -> int:
        return min(self._mtu - self._headers(address_size), tcp_segment.MAX_PAYLOAD)

    def _has_place(self) -> bool:
        return len(self._endpoints) - len(self._waiting) < MAX_CONNECTIONS or self.give_up_one()

    def give_up_one(self) -> bool:
        """Reset the connection that was silent longest, if that is long enough."""
        open_ones = (endpoint for endpoint in self._endpoints.values() if endpoint.state is not State.TIME_WAIT)
        oldest = min(open_ones, key=lambda endpoint: endpoint.active, default=None)
        if oldest is None or self.now - oldest.active < EVICTABLE:
            return False
        self.evicted += 1
        oldest.evict()
        return True

    # --- for the endpoints ----------------------------------------------------------------------------------

    def owe(self, endpoint: TcpOutput) -> None:
        self._owing.append(endpoint)

    def owe_room(self, endpoint: TcpOutput) -> None:
        self._roomy.append(endpoint)

    def delay(self, endpoint: TcpOutput) -> None:
        """Have `endpoint` acknowledge in a moment, unless something it sends before does."""
        endpoint.ack_at = self.now + ACK_DELAY
        self._delayed.append((endpoint.ack_at, endpoint))

    def settle(self) -> None:
        """A batch is over: first let applications write, for their segments acknowledge too, then acknowledge."""
        while self._roomy:
            roomy, self._roomy = self._roomy, []
            for endpoint in roomy:
                endpoint.pay_room()
        if self._owing:
            owing, self._owing = self._owing, []
            for endpoint in owing:
                endpoint.pay()

    def arm(self, endpoint: TcpOutput, deadline: int) -> None:
        """Call `endpoint.expire` at `deadline`, instead of what was armed before.

        A deadline that moves back, as it does with every acknowledgement, costs nothing: its entry is looked at when
        the old time comes.
        """
        endpoint.deadline = deadline
        if not endpoint.queued or deadline < endpoint.queued:
            endpoint.queued = deadline
            heapq.heappush(self._heap, (deadline, next(self._order), endpoint))

    def remember(self, endpoint: TcpEndpoint) -> None:
        """The endpoint is in TIME-WAIT and does not count any more."""
        if endpoint.key not in self._waiting:
            self._waiting[endpoint.key] = endpoint
            if len(self._waiting) > MAX_WAITING:
                next(iter(self._waiting.values())).expire()
            self._divide()

    def forget(self, endpoint: TcpEndpoint) -> None:
        if self._endpoints.get(endpoint.key) is endpoint:
            del self._endpoints[endpoint.key]
            self._waiting.pop(endpoint.key, None)
            self._divide()

    # --- time -----------------------------------------------------------------------------------------------

    def expire(self) -> None:
        """Call what is due at `now`."""
        delayed = self._delayed
        while delayed and delayed[0][0] <= self.now:
            ack_at, acknowledging = delayed.popleft()
            if acknowledging.ack_at == ack_at:
                acknowledging.owe_ack()
        heap = self._heap
        while heap and heap[0][0] <= self.now:
            deadline, _, endpoint = heapq.heappop(heap)
            if deadline != endpoint.queued:
                continue  # an earlier one was armed after it
            endpoint.queued = 0
            if not endpoint.deadline:
                continue
            if endpoint.deadline > self.now:
                self.arm(endpoint, endpoint.deadline)
            else:
                endpoint.expire()
        if self.now >= self._next_sweep:
            self._next_sweep = self.now + _SWEEP
            self._sweep()

    @property
    def deadline(self) -> int | None:
        """When `expire` is to be called next."""
        delayed = self._delayed
        while delayed and delayed[0][1].ack_at != delayed[0][0]:
            delayed.popleft()  # acknowledged by something else
        if delayed:
            return min(delayed[0][0], self._heap[0][0]) if self._heap else delayed[0][0]
        if self._heap:
            return self._heap[0][0]
        return self._next_sweep if self._endpoints else None

    def _sweep(self) -> None:
        if self.is_stalled:
            return
        for endpoint in self.endpoints():
            silence = self.now - endpoint.active
            if endpoint.state in (State.TIME_WAIT, State.CONNECTING) or silence < IDLE:
                continue
            if silence < DEAD:
                endpoint.probe()
            else:
                self.evicted += 1
                endpoint.evict()

    def close(self) -> None:
        """Let go of every connection without a word to the guest; the applications are told."""
        for endpoint in self.endpoints():
            endpoint.path = None
            endpoint.evict()
        self._heap.clear()
        self._owing.clear()
        self._delayed.clear()
        self._roomy.clear()
