"""TCP's sending half: what the guest has not acknowledged, how much more may go, when to send again.

Sources: RFC 6298 (retransmission timer), RFC 5681 and RFC 6582 (congestion control, fast retransmit), RFC 2018 and
RFC 6675 (selective acknowledgement). Sequence numbers here are integers that do not wrap.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from manor.base.clock import MILLISECOND, SECOND

MAX_IN_FLIGHT: Final = 512 << 10
"""The largest congestion window."""
FIRST_WINDOW: Final = 64 << 10
"""The first congestion window. RFC 6928 has ten segments for the Internet; here the cable ends in this host."""
FIRST_RTO: Final = SECOND
MIN_RTO: Final = 200 * MILLISECOND
"""RFC 6298 wants 1 s but allows less with a fine clock; Linux has 200 ms too."""
MAX_RTO: Final = 60 * SECOND
DUPLICATES: Final = 3
_MAX_SACKED: Final = 32
"""Ranges remembered; a guest that names more loses the memory of some, and gets those bytes again."""


class SendQueue:
    """una: first byte not acknowledged. nxt: next new one. limit: end of the guest's window."""

    __slots__ = (
        "_backoff",
        "_goes_back",
        "_pieces",
        "_recover",
        "_rexmit",
        "_rttvar",
        "_sacked",
        "_srtt",
        "_ssthresh",
        "_timed",
        "_timed_at",
        "cwnd",
        "duplicates",
        "limit",
        "mss",
        "nxt",
        "retransmitted",
        "rto",
        "una",
    )

    def __init__(self, initial: int, mss: int) -> None:
        self.una = self.nxt = self.limit = initial
        self.mss = mss
        self.cwnd = FIRST_WINDOW
        self.rto = FIRST_RTO
        self.duplicates = 0
        self.retransmitted = 0
        self._ssthresh = MAX_IN_FLIGHT
        self._pieces: deque[tuple[int, bytes]] = deque()
        self._sacked: list[tuple[int, int]] = []
        self._recover = -1
        """In recovery until this much is acknowledged; -1: not in recovery."""
        self._rexmit = initial
        """In recovery: everything before it was sent again, or had arrived."""
        self._goes_back = False
        """Recovering from a time-out, when everything is taken for lost."""
        self._timed = -1
        self._timed_at = 0
        self._srtt = 0
        self._rttvar = 0
        self._backoff = 0

    @property
    def in_flight(self) -> int:
        return self.nxt - self.una

    @property
    def is_recovering(self) -> bool:
        return self._recover >= 0

    def room(self, share: int) -> int:
        """How many new bytes may go now, of `share` that may be under way; 0 rather than a silly few (RFC 9293,
        3.8.6.2.1)."""
        flight = self.nxt - self.una
        limit = self.limit - self.una
        window = min(limit, self.cwnd, share)
        room = window - flight
        if room >= self.mss:
            return room
        # A window that never holds a whole segment is filled as far as it goes, once nothing is under way.
        return room if flight == 0 and room > 0 else 0

    def sent(self, data: bytes, now: int) -> None:
        """`data` goes out at `nxt`."""
        self._pieces.append((self.nxt, data))
        self.nxt += len(data)
        if self._timed < 0 and self._recover < 0:
            self._timed = self.nxt
            self._timed_at = now

    def sent_flag(self) -> None:
        """A SYN or FIN, which counts as one byte, goes out at `nxt`."""
        self.nxt += 1

    def acknowledge(self, ack: int, now: int) -> int:
        """The guest has everything before `ack`, una < ack <= nxt. Returns how many bytes that were."""
        acked = ack - self.una
        self.una = ack
        pieces = self._pieces
        while pieces and pieces[0][0] + len(pieces[0][1]) <= ack:
            pieces.popleft()
        self.duplicates = 0
        self._backoff = 0
        if 0 <= self._timed <= ack:
            self._measured(now - self._timed_at)
            self._timed = -1
        if self._sacked:
            self._sacked = [(max(start, ack), end) for start, end in self._sacked if end > ack]
        if self._recover >= 0:
            self._rexmit = max(self._rexmit, ack)
            if ack >= self._recover:
                self._recover = -1
                self._goes_back = False
                self.cwnd = max(self._ssthresh, self.mss)
            elif self.cwnd < self._ssthresh:
                self.cwnd += min(acked, 2 * self.mss)
        elif self.cwnd < self._ssthresh:
            self.cwnd += acked
        else:
            self.cwnd += max(1, self.mss * min(acked, self.cwnd) // self.cwnd)
        if self.cwnd > MAX_IN_FLIGHT:
            self.cwnd = MAX_IN_FLIGHT
        return acked

    def selective(self, blocks: list[tuple[int, int]]) -> None:
        """The guest also has these ranges. Ones outside what was sent are nonsense and are not believed."""
        for start, end in blocks:
            if self.una < start < end <= self.nxt:
                self._sacked = _merge(self._sacked, start, end)[:_MAX_SACKED]

    def duplicate(self) -> bool:
        """An acknowledgement said nothing new while bytes are under way. True: the first of them is taken for lost."""
        self.duplicates += 1
        if self._recover >= 0:
            return False
        lost = self.duplicates >= DUPLICATES
        if not lost and self._sacked:
            lost = sum(end - start for start, end in self._sacked) > DUPLICATES * self.mss
        if lost:
            self._enter_recovery(max(self.in_flight // 2, 2 * self.mss))
            self.cwnd = self._ssthresh
        return lost

    def timed_out(self) -> int:
        """The timer ran out: take everything for lost (RFC 6298, 5.4 to 5.7). Returns how often in a row by now."""
        self._sacked = []  # RFC 2018, 8: the guest may have thrown them away
        if self._backoff == 0:
            self._enter_recovery(max(self.in_flight // 2, 2 * self.mss))
        self._goes_back = True
        self._rexmit = self.una
        self.cwnd = self.mss
        self.duplicates = 0
        return self.back_off()

    def back_off(self) -> int:
        """Wait twice as long for the next answer. Returns how often in a row by now."""
        self._backoff += 1
        self._timed = -1  # Karn: what is sent again is not measured
        return self._backoff

    @property
    def timeout(self) -> int:
        """Time from now to the next time-out, ns, backed off."""
        return min(self.rto << min(self._backoff, 10), MAX_RTO)

    def shrink(self, mss: int) -> bool:
        """Segments larger than `mss` do not arrive. True: what is under way has to go again, in smaller ones."""
        if mss >= self.mss:
            return False
        self.mss = mss
        if self.nxt == self.una:
            return False
        self._enter_recovery(self.cwnd)
        self._goes_back = True
        return True

    def lost(self) -> list[tuple[int, bytes]]:
        """In recovery: pieces of at most one segment that are to go again now, oldest first.

        Holes below what the guest has selectively; without any, the first segment after a fast retransmit, and as
        much as the congestion window lets after a time-out.
        """
        if self._recover < 0:
            return []
        pieces: list[tuple[int, bytes]] = []
        if self._goes_back:
            end = self._recover
            budget = self.cwnd - (self._rexmit - self.una)
        elif self._sacked:
            end = self._sacked[-1][0]
            budget = max(self.mss, min(self.cwnd - self._outstanding(), 4 * self.mss))
        else:
            end = self.una + self.mss
            budget = self.mss
        while budget > 0:
            start = self._skip_sacked(max(self._rexmit, self.una))
            if start >= min(end, self.nxt):
                break
            stop = min(start + self.mss, end, *(low for low, _ in self._sacked if low > start))
            data = self._extract(start, stop)
            if not data:
                break  # only a FIN or SYN is left, which the endpoint repeats by itself
            pieces.append((start, data))
            self._rexmit = start + len(data)
            budget -= len(data)
        self.retransmitted += len(pieces)
        return pieces

    def _outstanding(self) -> int:
        """Bytes that may still be in the network: sent again, or sent after the last that arrived."""
        return max(0, self._rexmit - self.una) + max(0, self.nxt - self._sacked[-1][1])

    def _enter_recovery(self, threshold: int) -> None:
        self._ssthresh = threshold
        self._recover = self.nxt
        self._rexmit = self.una
        self._timed = -1

    def _skip_sacked(self, position: int) -> int:
        for start, end in self._sacked:
            if start <= position < end:
                return end
        return position

    def _extract(self, start: int, stop: int) -> bytes:
        parts: list[bytes] = []
        for begin, data in self._pieces:
            if begin >= stop:
                break
            if begin + len(data) > start:
                parts.append(data[max(0, start - begin) : stop - begin])
        return b"".join(parts)

    def _measured(self, rtt: int) -> None:
        """Source: RFC 6298, 2.2 and 2.3."""
        if self._srtt == 0:
            self._srtt, self._rttvar = rtt, rtt // 2
        else:
            self._rttvar += (abs(self._srtt - rtt) - self._rttvar) // 4
            self._srtt += (rtt - self._srtt) // 8
        self.rto = min(max(self._srtt + 4 * self._rttvar, MIN_RTO), MAX_RTO)


def _merge(ranges: list[tuple[int, int]], start: int, end: int) -> list[tuple[int, int]]:
    """Sorted disjoint ranges with [start, end) added."""
    merged: list[tuple[int, int]] = []
    for low, high in ranges:
        if high < start or low > end:
            merged.append((low, high))
        else:
            start, end = min(start, low), max(end, high)
    merged.append((start, end))
    merged.sort()
    return merged
