"""What one end of a TCP connection sends, and when: segments, acknowledgements, and again what was lost."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING

from manor.backends.net.user import tcp_receive, tcp_segment
from manor.backends.net.user.tcp_receive import ReceiveQueue
from manor.backends.net.user.tcp_segment import ACK, FIN, PSH, RST, SYN, Path
from manor.backends.net.user.tcp_send import SendQueue
from manor.backends.net.user.tcp_state import OPENING, SENDING, State, TcpApplication
from manor.base.clock import SECOND

if TYPE_CHECKING:
    from manor.backends.net.user.tcp_table import TcpTable


class TcpOutput(ABC):
    """The sending side of a TcpEndpoint: of the application's calls those that write, and what the others need.

    key: how the table finds it. path: None until the guest's MAC is known.
    """

    __slots__ = (
        "_ack_is_owed",
        "_acknowledged_to",
        "_fin_at",
        "_fin_wanted",
        "_offers_sack",
        "_probes",
        "_receive_scale",
        "_room_is_owed",
        "_syns",
        "_table",
        "_unsent",
        "ack_at",
        "active",
        "application",
        "deadline",
        "key",
        "max_mss",
        "path",
        "queued",
        "receive",
        "send",
        "state",
    )

    def __init__(self, table: TcpTable, key: bytes, path: Path | None, max_mss: int, initial: int) -> None:
        self._table = table
        self.key = key
        self.path = path
        self.max_mss = max_mss
        self.application: TcpApplication | None = None
        self.state = State.SYN_SENT
        self.send = SendQueue(initial, tcp_segment.DEFAULT_MSS4)
        self.receive = ReceiveQueue(0)
        self.active = table.now
        self.deadline = 0
        """When `expire` is to be called, 0 for never; `queued` is when the table will look."""
        self.queued = 0
        self._receive_scale = 0
        self._offers_sack = True
        self._fin_at = -1
        self._fin_wanted = False
        self._unsent: deque[bytes] = deque()
        self._ack_is_owed = False
        self._acknowledged_to = 0
        """What the guest was last told to have arrived."""
        self.ack_at = 0
        """When a delayed acknowledgement is to go, 0 for none."""
        self._room_is_owed = False
        self._probes = 0
        self._syns = 0

    @property
    def room(self) -> int:
        """How many bytes `write` takes now without keeping any back."""
        if self._unsent or self.state not in SENDING or self._fin_wanted:
            return 0
        return self.send.room(self._table.share)

    @property
    def has_unsent(self) -> bool:
        """Whether something written waits for the guest's window."""
        return bool(self._unsent)

    def write(self, data: bytes) -> None:
        """Send to the guest. What exceeds `room` waits; callers keep that small."""
        if self.state in SENDING or self.state in OPENING:
            if self._unsent or self.state not in SENDING or len(data) > self.send.room(self._table.share):
                self._unsent.append(data)
                self._push()
            else:
                self._transmit(data)

    def finish(self) -> None:
        """Send a FIN behind everything written."""
        if not self._fin_wanted:
            self._fin_wanted = True
            self._push()

    # --- segments -------------------------------------------------------------------------------------------

    def owe_ack(self) -> None:
        """Acknowledge at the end of the batch of frames, unless something is sent before."""
        if not self._ack_is_owed:
            self._ack_is_owed = True
            self._table.owe(self)

    def owe_ack_for_data(self) -> None:
        """Acknowledge new bytes: from the second segment on at the end of the batch, else a little later, so that an
        answer can carry it (RFC 9293, 3.8.6.3). Each frame for the guest is an interrupt to it."""
        if self.receive.nxt - self._acknowledged_to >= 2 * self.send.mss:
            self.owe_ack()
        elif not self._ack_is_owed and not self.ack_at:
            self._table.delay(self)

    def pay(self) -> None:
        """The batch is over: send the acknowledgement that is still owed."""
        if self._ack_is_owed and self.state is not State.CLOSED:
            options = b""
            if self._offers_sack and self.receive.has_early:
                options = tcp_segment.sack_option(self.receive.blocks())
            self._emit(self.send.nxt, ACK, options=options)

    def pay_room(self) -> None:
        """The batch is over: tell the application of new room."""
        if self._room_is_owed:
            self._room_is_owed = False
            if self.application is not None and self.state in SENDING:
                self.application.tcp_room()

    def _emit(self, sequence: int, flags: int, payload: bytes = b"", options: bytes = b"") -> None:
        if self.path is None:
            return
        receive = self.receive
        receive.capacity = self._table.share
        scale = 0 if flags & SYN else self._receive_scale
        window = min(receive.window >> scale, 0xFFFF)
        receive.edge = max(receive.edge, receive.nxt + (window << scale))
        self._ack_is_owed = False
        self._acknowledged_to = receive.nxt
        self.ack_at = 0
        table = self._table
        self.path.frames(
            table.out,
            table.offloads,
            sequence,
            receive.nxt if flags & ACK else 0,
            flags,
            window,
            payload,
            self.send.mss,
            options,
        )

    def _transmit(self, data: bytes) -> None:
        send = self.send
        sequence = send.nxt
        send.sent(data, self._table.now)
        self._emit(sequence, ACK | PSH, data)
        if not self.deadline:
            self._arm()

    def _push(self) -> None:
        """Send what waits, as far as the windows go, and the FIN behind the last of it."""
        if self.state not in SENDING:
            return
        while self._unsent:
            room = self.send.room(self._table.share)
            if room <= 0:
                break
            data = self._unsent.popleft()
            if len(data) > room:
                self._unsent.appendleft(data[room:])
                data = data[:room]
            if len(data) > tcp_segment.MAX_PAYLOAD:
                self._unsent.appendleft(data[tcp_segment.MAX_PAYLOAD :])
                data = data[: tcp_segment.MAX_PAYLOAD]
            self._transmit(data)
        if self._fin_wanted and not self._unsent and self._fin_at < 0:
            self._fin_at = self.send.nxt
            self.send.sent_flag()
            self._emit(self._fin_at, ACK | FIN)
            self.state = State.FIN_WAIT_1 if self.state is State.ESTABLISHED else State.LAST_ACK
            self._arm()
        elif not self.deadline:
            self._arm()

    def _send_syn(self, *, again: bool = False) -> None:
        flags = SYN | ACK if self.state is State.SYN_RECEIVED else SYN
        is_first = flags == SYN
        scale = tcp_receive.SCALE if is_first or self._receive_scale else -1
        options = tcp_segment.syn_options(self.max_mss, scale, self._offers_sack)
        if not again:
            self.send.sent_flag()
        self._emit(self.send.una, flags, options=options)
        self._arm()

    def _repeat(self) -> None:
        """Send again what is taken for lost."""
        send = self.send
        for sequence, data in send.lost():
            is_last = sequence + len(data) == self._fin_at
            self._emit(sequence, ACK | PSH | (FIN if is_last else 0), data)

    def _reset(self) -> None:
        if self.state is State.CONNECTING:
            self._emit(0, RST | ACK)
        elif self.state is State.SYN_SENT:
            self._emit(self.send.nxt, RST)
        elif self.state not in (State.TIME_WAIT, State.CLOSED):
            self._emit(self.send.nxt, RST | ACK)

    def probe(self) -> None:
        """Ask the guest whether it is there and what its window is: an old byte makes it answer (RFC 9293, 3.8.4)."""
        self._emit(self.send.una - 1, ACK)

    # --- time -----------------------------------------------------------------------------------------------

    def _arm(self) -> None:
        """Set the timer that the state of the sending half wants: again, probe, or none."""
        if self.state in (State.TIME_WAIT, State.CLOSED):
            return
        send = self.send
        if send.nxt > send.una:
            self._table.arm(self, self._table.now + send.timeout)
        elif send.limit <= send.una and self.state in SENDING:
            self._table.arm(self, self._table.now + min(send.rto << self._probes, 60 * SECOND))
        else:
            self.deadline = 0

    @abstractmethod
    def expire(self) -> None:
        """`deadline` has come."""

    @property
    def memory(self) -> int:
        """Bytes held for this connection, about."""
        return self.send.in_flight + self.receive.pending + sum(map(len, self._unsent))
