"""States of a TCP connection, and what its two sides tell each other."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Final, Protocol


class State(Enum):
    """RFC 9293, 3.3.2; CONNECTING is a SYN of the guest that waits for the answer of the world."""

    CONNECTING = "CONNECTING"
    SYN_SENT = "SYN-SENT"
    SYN_RECEIVED = "SYN-RECEIVED"
    ESTABLISHED = "ESTABLISHED"
    FIN_WAIT_1 = "FIN-WAIT-1"
    FIN_WAIT_2 = "FIN-WAIT-2"
    CLOSE_WAIT = "CLOSE-WAIT"
    CLOSING = "CLOSING"
    LAST_ACK = "LAST-ACK"
    TIME_WAIT = "TIME-WAIT"
    CLOSED = "CLOSED"

    __hash__ = object.__hash__  # Enum's is a function of Python's, which each `in` below would call


OPENING: Final = frozenset((State.CONNECTING, State.SYN_SENT, State.SYN_RECEIVED))
SENDING: Final = frozenset((State.ESTABLISHED, State.CLOSE_WAIT))
"""In which we may send new bytes."""
RECEIVING: Final = frozenset((State.ESTABLISHED, State.FIN_WAIT_1, State.FIN_WAIT_2))
"""In which the guest may."""
ENDED: Final = frozenset((State.CLOSE_WAIT, State.CLOSING, State.LAST_ACK, State.TIME_WAIT))
"""In which the guest's FIN has come."""


class End(Enum):
    """Why a connection is over."""

    FINISHED = "finished"
    """Both sides said all they had to say."""
    RESET = "reset"
    REFUSED = "refused"
    TIMED_OUT = "timed out"
    EVICTED = "evicted"


class TcpApplication(Protocol):
    """What an endpoint tells the other end: a socket of the host, or a service of our own."""

    def tcp_opened(self) -> None:
        """The guest completed the handshake."""

    def tcp_receive(self, chunks: Sequence[memoryview]) -> int:
        """Bytes of the guest in order; returns how many were taken. The rest is offered again at `resume`."""

    def tcp_end(self) -> None:
        """The guest sends no more, and everything it sent was taken."""

    def tcp_room(self) -> None:
        """`room` may have grown. Called at most once for a batch of frames."""

    def tcp_closed(self, end: End) -> None:
        """The connection is over; nothing is called any more."""
