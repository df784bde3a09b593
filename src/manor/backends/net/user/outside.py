"""What the protocol core asks of the world beyond the gateway. The adapter does it with sockets; tests with a script.

Thread: the owner's. Every call returns at once; an implementation may call back into the core from inside it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from manor.backends.net.user.icmp import Reason

if TYPE_CHECKING:
    from manor.backends.net.user.mappings import EchoMapping, ForwardedPeer, UdpMapping
    from manor.backends.net.user.tcp import TcpEndpoint


class Outside(Protocol):
    """Addresses are those of the host's side already, 4 or 16 bytes, and were checked against the plan."""

    def open_tcp(self, endpoint: TcpEndpoint, address: bytes, port: int) -> None:
        """Connect for `endpoint`: set its application; then, soon or at once, `accept` it or give it to the core's
        `tcp_failed`."""

    def send_udp(self, mapping: UdpMapping, address: bytes, port: int, payload: bytes, ttl: int) -> Reason | None:
        """Send a datagram from the mapping's socket, made at the first; what comes back goes to `udp_received`."""

    def close_udp(self, mapping: UdpMapping) -> None:
        """The mapping was idle too long, or its place is needed."""

    def send_echo(self, mapping: EchoMapping, address: bytes, sequence: int, data: bytes, ttl: int) -> Reason | None:
        """Send an echo request; replies go to `echo_received`."""

    def close_echo(self, mapping: EchoMapping) -> None:
        """As close_udp."""

    def answer_forwarded(self, peer: ForwardedPeer, payload: bytes) -> None:
        """Send a datagram of the guest to the host's peer that began through a forwarded port."""

    def ask_resolver(self, number: int, attempt: int, message: bytes, *, over_tcp: bool) -> bool:
        """Send a DNS query to the host's resolver number `attempt`, counted round and round; False: there is none, or
        it cannot be reached. The answer goes to `resolver_answered` with `number`."""

    def forget_query(self, number: int) -> None:
        """An answer to this query is not waited for any more."""
