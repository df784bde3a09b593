"""The host's side of the user-mode network: what the core asks for, done with sockets on a loop. Thread: the loop's."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

from manor.backends.loop import Callback, Loop
from manor.backends.net.user.core import UserNetwork
from manor.backends.net.user.forwards import Forwards, UdpPort
from manor.backends.net.user.host_socket import OUT_OF_DESCRIPTORS, Address, family_of, to_host
from manor.backends.net.user.host_tcp import TcpFlow
from manor.backends.net.user.host_udp import EchoFlow, UdpFlow
from manor.backends.net.user.icmp import Reason, reason_of
from manor.backends.net.user.mappings import EchoMapping, ForwardedPeer, UdpMapping
from manor.backends.net.user.resolver import RESOLV_CONF, Resolvers
from manor.backends.net.user.tcp import TcpEndpoint
from manor.base.clock import SECOND, Clock

logger = logging.getLogger(__name__)

MAX_TURN: Final = 128
"""Frames for the guest from which on no more is fetched for it in the same turn: 8 MiB, where they are whole."""
_COMPLAINT: Final = 60 * SECOND


class HostSide:
    """An Outside. turn: runs a callback as one entry into the core and delivers what it left. backlog: whether
    frames wait for the guest."""

    core: UserNetwork

    def __init__(
        self,
        loop: Loop,
        clock: Clock,
        turn: Callable[[Callback], None],
        backlog: Callable[[], bool],
        resolvers: Path | list[Address] = RESOLV_CONF,
    ) -> None:
        self.loop = loop
        self.clock = clock
        self.flows: set[TcpFlow] = set()
        self.forwards = Forwards(self)
        self._turn = turn
        self.is_full = backlog
        self._paused: set[TcpFlow] = set()
        self._udp: dict[UdpMapping, UdpFlow] = {}
        self._echo: dict[EchoMapping, EchoFlow] = {}
        self._resolvers = Resolvers(self, resolvers)
        self._complained = -_COMPLAINT
        self.exhausted = 0

    def in_turn(self, callback: Callback) -> Callback:
        """`callback` as an event of the loop."""
        turn = self._turn
        return lambda: turn(callback)

    # --- Outside --------------------------------------------------------------------------------------------

    def open_tcp(self, endpoint: TcpEndpoint, address: bytes, port: int) -> None:
        try:
            sock = self.make_socket(family_of(address), socket.SOCK_STREAM)
        except OSError as error:
            self.core.tcp_failed(endpoint, reason_of(error.errno or 0) or Reason.PORT)
            return
        TcpFlow(self, sock).connect(endpoint, to_host(address, port))

    def send_udp(self, mapping: UdpMapping, address: bytes, port: int, payload: bytes, ttl: int) -> Reason | None:
        flow = self._udp.get(mapping)
        if flow is None:
            try:
                flow = self._udp[mapping] = UdpFlow(self, mapping)
            except OSError as error:
                return reason_of(error.errno or 0)
        return flow.send(address, port, payload, ttl)

    def close_udp(self, mapping: UdpMapping) -> None:
        flow = self._udp.pop(mapping, None)
        if flow is not None:
            flow.close()

    def send_echo(self, mapping: EchoMapping, address: bytes, sequence: int, data: bytes, ttl: int) -> Reason | None:
        flow = self._echo.get(mapping)
        if flow is None:
            try:
                flow = self._echo[mapping] = EchoFlow(self, mapping)
            except OSError as error:
                return reason_of(error.errno or 0)
        return flow.send(address, sequence, data, ttl)

    def close_echo(self, mapping: EchoMapping) -> None:
        flow = self._echo.pop(mapping, None)
        if flow is not None:
            flow.close()

    def answer_forwarded(self, peer: ForwardedPeer, payload: bytes) -> None:
        forward = peer.forward
        if isinstance(forward, UdpPort):
            forward.send(peer, payload)

    def ask_resolver(self, number: int, attempt: int, message: bytes, *, over_tcp: bool) -> bool:
        return self._resolvers.ask(number, attempt, message, over_tcp=over_tcp)

    def forget_query(self, number: int) -> None:
        self._resolvers.forget(number)

    # --- for the flows --------------------------------------------------------------------------------------

    def make_socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A non-blocking socket. When descriptors run out, one that is idle is given up for it. Raises OSError."""
        try:
            return socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
        except OSError as error:
            if error.errno not in OUT_OF_DESCRIPTORS or not self.no_descriptors():
                raise
        return socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)

    def no_descriptors(self) -> bool:
        """The process has no descriptor left: free one if something is idle. True: it did."""
        self.exhausted += 1
        now = self.core.now
        if now - self._complained >= _COMPLAINT:
            self._complained = now
            logger.warning("no file descriptors left for the guest's connections; raise the limit (ulimit -n)")
        return self.core.give_up_one()

    def is_congested(self, flow: TcpFlow) -> bool:
        """Whether the guest takes no frames at present, or gets enough with this turn; `flow` is pumped later then."""
        if not self.is_full() and len(self.core.out) < MAX_TURN:
            return False
        self._paused.add(flow)
        return True

    @property
    def has_paused(self) -> bool:
        """Whether a flow waits for `resume`."""
        return bool(self._paused)

    def resume(self) -> None:
        """The guest takes frames again."""
        paused, self._paused = self._paused, set()
        for flow in paused:
            flow.pump()

    def reporter(self, address: bytes) -> bytes:
        """Who reports an error, as the guest may know it: not the host's own loopback."""
        return self.core.guest_view(address) if address else b""

    def close(self) -> None:
        self.forwards.close()
        self._paused.clear()
