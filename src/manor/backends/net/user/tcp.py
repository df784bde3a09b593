"""One end of a TCP connection with the guest: the state machine of RFC 9293, 3.10, between frames and an application.

The application is what stands for the other end: a socket of the host, or a service of our own. An endpoint never
holds more than its share (`TcpTable.share`) in each direction: it reads from the application only what
the guest may get, and lets the guest send only what the application takes.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from manor.backends.net.user import tcp_receive, tcp_segment
from manor.backends.net.user.tcp_output import TcpOutput
from manor.backends.net.user.tcp_segment import ACK, FIN, M32, RST, SYN, Options, Path
from manor.backends.net.user.tcp_state import ENDED, RECEIVING, SENDING, End, State
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


class TcpEndpoint(TcpOutput):
    """Made by TcpTable."""

    __slots__ = ("_end_is_told", "_peer_scale", "_window_ack", "_window_seq")

    def __init__(self, table: TcpTable, key: bytes, path: Path | None, max_mss: int, initial: int) -> None:
        super().__init__(table, key, path, max_mss, initial)
        self._peer_scale = 0
        self._end_is_told = False
        self._window_seq = 0
        self._window_ack = 0

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
            # A bare acknowledgement beyond a hole is not answered: two ends with holes would never stop.
            if end > start:
                receive.early(sequence, memoryview(data)[start:end])
                self.owe_ack()
                self.pay()  # at once: the guest counts them (RFC 5681, 4.2); a FIN out of order comes again
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
        self.owe_ack_for_data()  # before the application's answer, which then carries it
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
        self._table.remember(self)
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

    # --- time -----------------------------------------------------------------------------------------------

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
