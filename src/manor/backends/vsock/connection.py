"""One stream between a port of the host and one of the guest: states, credit, and the bytes on their way. No I/O.

Source: VIRTIO 1.2, 5.10.6.3 "Buffer Space Management", 5.10.6.5 and 5.10.6.6.

Each side says how many bytes it has room for (`buffer_size`) and how many it has passed on since the beginning
(`forwarded`, modulo 2**32); the other never has more than that under way.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, Protocol

from manor.backends.vsock.packet import BOTH, Op, Packet, Shutdown
from manor.base.states import StateTable

BUFFER_SIZE: Final = 128 << 10
"""Bytes of the guest that wait for a slow reader on the host; for each connection."""
_U32: Final = 0xFFFF_FFFF


class State(Enum):
    """CONNECTING: the guest was asked. OPEN: bytes flow. CLOSING: our end is gone, the guest may still say so."""

    CONNECTING = "connecting"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


class Event(Enum):
    ACCEPT = "accept"
    CLOSE = "close"
    RESET = "reset"


TABLE: Final = StateTable(
    "vsock connection",
    State.CONNECTING,
    {
        (State.CONNECTING, Event.ACCEPT): State.OPEN,
        (State.OPEN, Event.CLOSE): State.CLOSING,
        **{(state, Event.RESET): State.CLOSED for state in State},
    },
)


class Stream(Protocol):
    """The program on the host. None of these waits.

    connection: set by whoever makes the connection, before anything else happens.
    """

    connection: Connection | None

    def read(self, limit: int) -> bytes | None:
        """Up to `limit` bytes; b"": nothing now, and `on_readable` of the multiplexer follows; None: the end."""

    def write(self, data: bytes) -> int | None:
        """How many bytes were taken; with less than all, `on_writable` follows. None: nobody reads any more."""

    def end_of_data(self) -> None:
        """Nothing more will be written."""

    def opened(self, host_port: int) -> None:
        """The guest accepted."""

    def closed(self, was_refused: bool) -> None:
        """The connection is gone. was_refused: before it was ever open."""


class Connection:
    """See the module. Thread: the I/O loop's."""

    def __init__(self, host_port: int, guest_port: int, stream: Stream, is_accepted: bool) -> None:
        """is_accepted: the guest asked for it, and we agree."""
        self.host_port = host_port
        self.guest_port = guest_port
        self.stream = stream
        self.state = State.CONNECTING
        self.is_readable = False
        """Whether the stream may have bytes for the guest."""
        self._waiting = bytearray()
        self._received = 0
        self._forwarded_told = 0
        self._sent = 0
        self._guest_buffer = 0
        self._guest_forwarded = 0
        self._guest_shutdown = Shutdown(0)
        self._shutdown = Shutdown(0)
        self._is_ended = False
        self._pending: dict[Op, int] = {}
        if is_accepted:
            self.state = TABLE.next(self.state, Event.ACCEPT)
            self.is_readable = True
            self._pending[Op.RESPONSE] = 0
        else:
            self._pending[Op.REQUEST] = 0

    # --- from the guest ---------------------------------------------------------------------------------------

    def note_credit(self, packet: Packet) -> None:
        """Every packet carries the guest's room."""
        self._guest_buffer = packet.buffer_size
        self._guest_forwarded = packet.forwarded

    @property
    def credit(self) -> int:
        """Bytes that the guest has room for now. A guest that contradicts itself has none."""
        under_way = (self._sent - self._guest_forwarded) & _U32
        return max(0, self._guest_buffer - under_way)

    def accepted(self) -> bool:
        """RESPONSE arrived; False if it is out of place."""
        if not TABLE.allows(self.state, Event.ACCEPT):
            return False
        self.state = TABLE.next(self.state, Event.ACCEPT)
        self.is_readable = True
        self.stream.opened(self.host_port)
        return True

    def take(self, data: bytes) -> bool:
        """RW arrived; False if the guest had no credit for it, or is not to send."""
        if self.state is State.CLOSING:
            return True  # nobody reads it any more, and the guest may not know yet
        if self.state is not State.OPEN or self._guest_shutdown & Shutdown.SEND:
            return False
        if len(self._waiting) + len(data) > BUFFER_SIZE:
            return False
        self._received = (self._received + len(data)) & _U32
        self._waiting += data
        self.flush()
        return True

    def shut_down(self, flags: int) -> None:
        """SHUTDOWN arrived."""
        self._guest_shutdown |= Shutdown(flags & BOTH)
        if self._guest_shutdown & Shutdown.RECEIVE:
            self.is_readable = False
        self.flush()
        if self.state is State.CLOSING and self._guest_shutdown == BOTH:
            self._pending = {Op.RST: 0}  # both closed at once, and each waits for the other

    def answer_credit_request(self) -> None:
        self._pending[Op.CREDIT_UPDATE] = 0

    # --- from the host ----------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write what the guest sent, as far as the stream takes it."""
        if self.state is not State.OPEN:
            return
        while self._waiting:
            taken = self.stream.write(bytes(self._waiting))
            if taken is None:
                self.close()
                return
            if taken == 0:
                break
            del self._waiting[:taken]
        # Tell of room before the guest runs out of it; half the buffer keeps the packets few.
        if (self._forwarded - self._forwarded_told) & _U32 >= BUFFER_SIZE // 2:
            self._pending[Op.CREDIT_UPDATE] = 0
        if not self._waiting and self._guest_shutdown & Shutdown.SEND and not self._is_ended:
            self._is_ended = True
            self.stream.end_of_data()
        if self.is_finished:
            self._pending.clear()
            self._pending[Op.RST] = 0

    def close(self) -> None:
        """The stream is of no use any more: tell the guest, and wait for its RST (5.10.6.6)."""
        if self.state is State.OPEN:
            self.state = TABLE.next(self.state, Event.CLOSE)
            self.is_readable = False
            self._waiting.clear()
            self._shut_down(BOTH)

    def reset(self) -> None:
        """Gone at once."""
        was_refused = self.state is State.CONNECTING
        self.state = TABLE.next(self.state, Event.RESET)
        self.stream.closed(was_refused)

    def _shut_down(self, flags: Shutdown) -> None:
        if flags & ~self._shutdown:
            self._shutdown |= flags
            self._pending[Op.SHUTDOWN] = int(self._shutdown)

    # --- to the guest -----------------------------------------------------------------------------------------

    @property
    def is_finished(self) -> bool:
        """The guest neither sends nor receives any more, and what it had sent was delivered."""
        return self._guest_shutdown == BOTH and not self._waiting

    @property
    def has_packets(self) -> bool:
        return bool(self._pending) or (self.is_readable and self.state is State.OPEN and self.credit > 0)

    def next(self, room: int) -> tuple[Op, int, bytes] | None:
        """Operation, flags and payload of the next packet."""
        if self._pending:
            op = next(iter(self._pending))
            # What the stream still has goes before the announcement that nothing follows: it was read already.
            self._forwarded_told = self._forwarded
            return op, self._pending.pop(op), b""
        if not self.is_readable or self.state is not State.OPEN:
            return None
        limit = min(room, self.credit)
        if limit <= 0:
            return None
        data = self.stream.read(limit)
        if data is None:
            self.is_readable = False
            self._shut_down(Shutdown.SEND)
            return self.next(room)
        if not data:
            self.is_readable = False
            return None
        self._sent = (self._sent + len(data)) & _U32
        self._forwarded_told = self._forwarded
        return Op.RW, 0, data

    @property
    def _forwarded(self) -> int:
        return (self._received - len(self._waiting)) & _U32

    @property
    def forwarded(self) -> int:
        """For the header: bytes of the guest that left our buffer."""
        return self._forwarded
