"""One end of a TCP connection with the guest: the state machine of RFC 9293, 3.10, between frames and an application.

The application is what stands for the other end: a socket of the host, or a service of our own. An endpoint never
holds more than its share (`TcpTable.share`) in each direction: it reads from the application only what
the guest may get, and lets the guest send only what the application takes.
"""

from __future__ import annotations

import struct
from collections import deque
from typing import TYPE_CHECKING, Final

from manor.backends.net.user import tcp_receive, tcp_segment
from manor.backends.net.user.tcp_receive import ReceiveQueue
from manor.backends.net.user.tcp_segment import ACK, FIN, M32, PSH, RST, SYN, Options, Path
from manor.backends.net.user.tcp_send import SendQueue
from manor.backends.net.user.tcp_state import ENDED, OPENING, RECEIVING, SENDING, End, State, TcpApplication
from manor.base.clock import SECOND

if TYPE_CHECKING:
    from manor.backends.net.user.tcp_table import TcpTable

MIN_MSS: Final = 88
"""Below, a guest would have us write more headers than data."""
MAX_SYNS: Final = 5
"""SYNs sent to the guest for a forwarded connection, one and two and four … seconds apart: 15 s until it is given
up."""
MAX_RETRIES: Final = 10
"""Time-outs in a row before a guest that acknowledges nothing is given up (RFC 9293, 3.8.3: R2 at least 100 s)."""
TIME_WAIT: Final = 60 * SECOND
"""RFC 9293 has 2 MSL, 4 minutes; Linux has one. It has to outlast the time-outs of a guest behind a bad cable."""

_FIELDS: Final = struct.Struct(">IIHH")
_HALF: Final = 0x8000_0000


class TcpEndpoint:
    """Made by TcpTable. key: how the table finds it. path: None until the guest's MAC is known."""

    __slots__ = (
        "_ack_is_owed",
        "_end_is_told",
        "_fin_at",
        "_fin_wanted",
        "_offers_sack",
        "_peer_scale",
        "_probes",
        "_receive_scale",
        "_room_is_owed",
        "_syns",
        "_table",
        "_unsent",
        "_window_ack",
        "_window_seq",
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
        self._peer_scale = 0
        self._receive_scale = 0
        self._offers_sack = True
        self._fin_at = -1
        self._fin_wanted = False
        self._end_is_told = False
        self._unsent: deque[bytes] = deque()
        self._ack_is_owed = False
        self._room_is_owed = False
        self._window_seq = 0
        self._window_ack = 0
        self._probes = 0
        self._syns = 0

    # --- the application's side -----------------------------------------------------------------------------

    def hold(self, sequence: int, options: Options, window: int) -> None:
        """The guest's SYN came; the answer waits for `accept` or `refuse`."""
        self.state = State.CONNECTING
        self._learn(sequence, options)
        self.send.limit = self.send.una + window  # not scaled in a SYN (RFC 7323, 2.2)

    def accept(self) -> None:
        """The other end is there: answer the SYN."""
        if self.state is State.CONNECTING:
            self.state = State.SYN_RECEIVED
            self._syns = 1
            self.send.limit += 1  # the SYN itself takes a number but no room
            self._send_syn()

    def connect(self) -> None:
        """Send a SYN to the guest, now if the path is known."""
        self.send.limit = self.send.una
        self._syns = 1
        self._send_syn()

    def connect_again(self) -> None:
        """The path is known now."""
        self._send_syn(again=True)

    def refuse(self) -> None:
        """There is no other end: answer the SYN with a reset."""
        if self.state is State.CONNECTING:
            self._reset()
            self._over(End.REFUSED, tell=False)

    @property
    def room(self) -> int:
        """How many bytes `write` takes now without keeping any back."""
        if self._unsent or self.state not in SENDING or self._fin_wanted:
            return 0
        return self.send.room(self._table.share)

    def write(self, data: bytes) -> None:
        """Send to the guest. What exceeds `room` waits; callers keep that small."""
        if self.state in SENDING or self.state in OPENING:
            if self._unsent or self.state not in SENDING or len(data) > self.send.room(self._table.share):
                self._unsent.append(data)
                self._push()
            else:
                self._transmit(data)

    @property
    def has_unsent(self) -> bool:
        """Whether something written waits for the guest's window."""
        return bool(self._unsent)

    def finish(self) -> None:
        """Send a FIN behind everything written."""
        if not self._fin_wanted:
            self._fin_wanted = True
            self._push()

    def abort(self) -> None:
        """Reset the connection: the other end was reset, or is gone. The application is told nothing more."""
        if self.state is not State.CLOSED:
            self._reset()
            self._over(End.RESET, tell=False)

    def evict(self) -> None:
        """Reset the connection and tell the application: its place is needed."""
        self._reset()
        self._over(End.EVICTED)

    def resume(self) -> None:
        """Offer pending bytes again: the application can take some."""
        receive = self.receive
        while receive.pending and self.application is not None:
            taken = self.application.tcp_receive(receive.chunks())
            if not taken:
                break
            receive.take(taken)
        if self.state is State.CLOSED:
            return
        # Tell the guest of the room: at a half of the buffer, so that it does not send in small portions.
        largest = min(receive.capacity, 0xFFFF << self._receive_scale)
        if min(receive.window, largest) - (receive.edge - receive.nxt) >= largest // 2:
            self.owe_ack()
        self._tell_end()

    def turned_away(self) -> None:
        """The guest's side says that nobody takes this connection."""
        self._over(End.REFUSED)

    def fit(self, mss: int) -> None:
        """Segments of more than `mss` bytes do not arrive: cut smaller, and send again."""
        if self.send.shrink(max(mss, MIN_MSS)):
            self._repeat()
            self._arm()

    # --- the guest's side -----------------------------------------------------------------------------------

    def segment(self, data: bytes, at: int, end: int) -> None:
        """A segment with its header at data[at], up to data[end]; its checksum is right."""
        sequence, ack, offset_flags, window = _FIELDS.unpack_from(data, at + 4)
        start = at + (offset_flags >> 10 & 0x3C)
        if start < at + tcp_segment.HEADER or start > end:
            return
        flags = offset_flags & 0x3F
        self.active = self._table.now
        state = self.state
        if state is State.CONNECTING:
            if flags & RST:
                self._over(End.RESET)
            return
        if state is State.SYN_SENT:
            self._answer_to_syn(sequence, ack, flags, window, data, at, start)
            return
        receive = self.receive
        expected = receive.nxt
        distance = (sequence - expected) & M32
        if distance == 0 and flags & (FIN | SYN | RST | ACK) == ACK and end - start <= receive.window:
            is_sound = self._window(ack, expected, window, end == start, data, at, start)
            if is_sound and end > start and self.state in RECEIVING:
                self._in_order(memoryview(data)[start:end])
            return
        self._any_segment(distance, ack, flags, window, data, at, start, end)

    def _any_segment(
        self, distance: int, ack: int, flags: int, window: int, data: bytes, at: int, start: int, end: int
    ) -> None:
        """What is not the next data or acknowledgement: RFC 9293, 3.10.7.4, in its order."""
        receive = self.receive
        sequence = receive.nxt + (distance if distance < _HALF else distance - (1 << 32))
        original = sequence
        if flags & SYN:
            if self.state is State.SYN_RECEIVED and sequence == receive.nxt - 1 and not flags & ACK:
                self._send_syn(again=True)
            elif not flags & RST:
                self.owe_ack()  # a challenge: RFC 5961, 4
            return
        size = end - start
        length = size + (flags & FIN)
        if sequence < receive.nxt:
            if flags & RST:
                return
            self.owe_ack()
            if sequence + length <= receive.nxt:
                if (not length and sequence >= receive.nxt - 1) or self.state is State.SYN_RECEIVED:
                    return  # a keep-alive
                # Old bytes; the acknowledgement that came with them may be new.
                if flags & ACK:
                    self._acknowledged(ack, 0)
                return
            start += receive.nxt - sequence
            sequence = receive.nxt
        elif sequence > receive.nxt + receive.window or (sequence == receive.nxt + receive.window and length):
            if not flags & RST:
                self.owe_ack()
            return
        if flags & RST:
            if sequence == receive.nxt:
                self._over(End.RESET)
            else:
                self.owe_ack()  # RFC 5961, 3
            return
        if not flags & ACK:
            return
        over = sequence + (end - start) - (receive.nxt + receive.window)
        if over > 0:
            end -= over
            flags &= ~FIN
        if not self._window(ack, original, window, size == 0 and not flags & FIN, data, at, start):
            return
        if self.state not in RECEIVING:
            return
        if sequence > receive.nxt:
            if end > start:
                receive.early(sequence, memoryview(data)[start:end])
            self.owe_ack()  # at once: the guest counts them (RFC 5681, 4.2); a FIN out of order comes again
            self._table.flush_ack(self)
            return
        if end > start:
            self._in_order(memoryview(data)[start:end])
        if flags & FIN and not receive.has_early and self.state in RECEIVING:
            self._fin_came()

    def _answer_to_syn(
        self, sequence: int, ack: int, flags: int, window: int, data: bytes, at: int, start: int
    ) -> None:
        """Source: RFC 9293, 3.10.7.3."""
        if flags & ACK and ack != self.send.nxt & M32:
            return
        if flags & RST:
            if flags & ACK:
                self._over(End.REFUSED)
            return
        if not flags & SYN:
            return
        self._learn(sequence, tcp_segment.parse_options(data, at + tcp_segment.HEADER, start))
        self.send.limit = self.send.una + 1 + window
        if flags & ACK:
            self._acknowledged(ack, 0)
            self._established()
            self.owe_ack()
        else:  # both called at once
            self.state = State.SYN_RECEIVED
            self._send_syn(again=True)

    def _learn(self, sequence: int, options: Options) -> None:
        """What a SYN says about the guest."""
        default = tcp_segment.DEFAULT_MSS4 if len(self.key) == 12 else tcp_segment.DEFAULT_MSS6
        self.send.mss = min(max(options.mss or default, MIN_MSS), self.max_mss)
        if options.scale >= 0:
            self._peer_scale = options.scale
            self._receive_scale = tcp_receive.SCALE
        self._offers_sack = options.sack_permitted
        receive = self.receive
        receive.nxt = receive.edge = sequence + 1
        self._window_seq = sequence
        self._window_ack = self.send.una

    def _window(self, ack: int, sequence: int, window: int, is_bare: bool, data: bytes, at: int, start: int) -> bool:
        """Take the acknowledgement and the window of a segment. False: it acknowledges what was never sent.

        is_bare: no data and no FIN in it, so that a repetition means that something is missing.
        """
        send = self.send
        distance = (ack - send.una) & M32
        if distance > send.nxt - send.una:
            if distance < _HALF:
                self.owe_ack()
                return False
            return True  # older than what we know
        if start > at + tcp_segment.HEADER and self._offers_sack and send.nxt > send.una:
            self._selective(data, at, start)
        is_window_same = True
        absolute = send.una + distance
        if sequence > self._window_seq or (sequence == self._window_seq and absolute >= self._window_ack):
            limit = absolute + (window << self._peer_scale)
            is_window_same = limit == send.limit
            if limit != send.limit:
                if limit > send.limit:
                    self._room_is_owed = True
                send.limit = limit
                self._probes = 0
            self._window_seq, self._window_ack = sequence, absolute
        if distance:
            self._acknowledged(ack, distance)
        elif is_bare and is_window_same and send.nxt > send.una:
            if send.duplicate():
                self._repeat()
                self._arm()
            elif send.is_recovering:
                self._repeat()
        if self._room_is_owed:
            self._table.owe_room(self)
            if self._unsent:
                self._push()
        if not self.deadline and send.limit <= send.una:
            self._arm()
        return True

    def _acknowledged(self, ack: int, distance: int) -> None:
        """`ack` may acknowledge something new."""
        send = self.send
        distance = (ack - send.una) & M32
        if not distance or distance > send.nxt - send.una:
            return
        was_handshake = self.state is State.SYN_RECEIVED
        send.acknowledge(send.una + distance, self._table.now)
        self._room_is_owed = True
        if was_handshake:
            self._established()
        if send.is_recovering:
            self._repeat()
        if 0 <= self._fin_at < send.una:
            self._fin_acknowledged()
            if self.state in (State.CLOSED, State.TIME_WAIT):
                return
        self._push()
        self._arm()
        self._table.owe_room(self)

    def _selective(self, data: bytes, at: int, start: int) -> None:
        options = tcp_segment.parse_options(data, at + tcp_segment.HEADER, start)
        if options.sacks:
            una = self.send.una
            self.send.selective(
                [(una + ((low - una) & M32), una + ((high - una) & M32)) for low, high in options.sacks]
            )

    def _in_order(self, data: memoryview) -> None:
        receive = self.receive
        application = self.application
        receive.nxt += len(data)
        self.owe_ack()  # before the application's answer, which then carries it
        if receive.pending or application is None:
            receive.append(data)
        else:
            taken = application.tcp_receive((data,))
            if taken < len(data):
                receive.append(data[taken:])
        if receive.has_early and self.state in RECEIVING:
            while (piece := receive.next_early()) is not None:
                receive.nxt += len(piece)
                receive.append(piece)
            self.owe_ack()
            self.resume()

    # --- states ---------------------------------------------------------------------------------------------

    def _established(self) -> None:
        self.state = State.ESTABLISHED
        self._window_ack = self.send.una
        if self.application is not None:
            self.application.tcp_opened()
        self._push()

    def _fin_came(self) -> None:
        self.receive.nxt += 1
        self.owe_ack()
        if self.state is State.ESTABLISHED:
            self.state = State.CLOSE_WAIT
        elif self.state is State.FIN_WAIT_1:
            self.state = State.CLOSING
        else:
            self._wait_a_while()
        self._tell_end()

    def _tell_end(self) -> None:
        """Tell the application of the guest's FIN once it has all the bytes before it."""
        if self._end_is_told or self.receive.pending or self.application is None:
            return
        if self.state in ENDED:
            self._end_is_told = True
            self.application.tcp_end()
            if self.state is State.TIME_WAIT:
                self._release(End.FINISHED)

    def _fin_acknowledged(self) -> None:
        if self.state is State.FIN_WAIT_1:
            self.state = State.FIN_WAIT_2
        elif self.state is State.CLOSING:
            self._wait_a_while()
            self._tell_end()
        elif self.state is State.LAST_ACK:
            if self.receive.pending:  # the host still has to take the guest's last bytes
                self._wait_a_while()
            else:
                self._over(End.FINISHED)

    def _wait_a_while(self) -> None:
        self.state = State.TIME_WAIT
        self._table.arm(self, self._table.now + TIME_WAIT)
        if self._end_is_told:
            self._release(End.FINISHED)

    def _over(self, end: End, *, tell: bool = True) -> None:
        if self.state is State.CLOSED:
            return
        self.state = State.CLOSED
        self.deadline = 0
        self._table.forget(self)
        self._unsent.clear()
        if tell:
            self._release(end)
        self.application = None

    def _release(self, end: End) -> None:
        application, self.application = self.application, None
        if application is not None:
            application.tcp_closed(end)

    # --- sending --------------------------------------------------------------------------------------------

    def owe_ack(self) -> None:
        """Acknowledge at the end of the batch of frames, unless something is sent before."""
        if not self._ack_is_owed:
            self._ack_is_owed = True
            self._table.owe(self)

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

    def expire(self) -> None:
        """`deadline` has come."""
        self.deadline = 0
        send = self.send
        if self.state is State.TIME_WAIT:
            if self.receive.pending and self.application is not None:
                self._wait_a_while()
            else:
                self._over(End.FINISHED)
        elif self._table.is_stalled:
            self._arm()  # the guest takes no frames, being paused or starting: its silence means nothing
        elif self.state in (State.SYN_SENT, State.SYN_RECEIVED):
            if self._syns >= MAX_SYNS:
                self._reset()
                self._over(End.TIMED_OUT)
                return
            send.back_off()
            self._syns += 1
            self._send_syn(again=True)
        elif send.nxt > send.una:
            if send.timed_out() > MAX_RETRIES:
                self._reset()
                self._over(End.TIMED_OUT)
                return
            if self._fin_at == send.una:
                self._emit(self._fin_at, ACK | FIN)
            else:
                self._repeat()
            self._arm()
        elif send.limit <= send.una and self.state in SENDING:
            self.probe()
            self._probes = min(self._probes + 1, 10)
            self._arm()

    def probe(self) -> None:
        """Ask the guest whether it is there and what its window is: an old byte makes it answer (RFC 9293, 3.8.4)."""
        self._emit(self.send.una - 1, ACK)

    @property
    def memory(self) -> int:
        """Bytes held for this connection, about."""
        return self.send.in_flight + self.receive.pending + sum(map(len, self._unsent))
