"""TCP's receiving half: bytes of the guest in order, with what came early kept, inside the window that was offered.

Sequence numbers here are integers that do not wrap.
"""

from __future__ import annotations

from collections import deque
from typing import Final

CAPACITY: Final = 512 << 10
"""The window at first, and so the most bytes of one connection that the host's side has not taken yet."""
SCALE: Final = 4
"""Window scale that makes CAPACITY fit into 16 bits."""
MAX_EARLY: Final = 128
"""Pieces kept that came before their turn; more are dropped, and come again."""
_SMALL: Final = 4096
"""Pieces up to this size are copied together: a view keeps the whole frame in memory, and costs more than a byte."""


class ReceiveQueue:
    """nxt: the next byte expected. pending: bytes in order that the application has not taken."""

    __slots__ = ("_early", "_pending", "capacity", "edge", "newest", "nxt", "pending")

    def __init__(self, initial: int) -> None:
        self.nxt = initial
        self.pending = 0
        self.capacity = CAPACITY
        self.edge = initial
        """End of the window as last told to the guest; it never moves back."""
        self.newest = -1
        """Start of the early piece that came last: the first block of a SACK (RFC 2018, 4)."""
        self._pending: deque[memoryview] = deque()
        self._early: list[tuple[int, memoryview]] = []

    @property
    def window(self) -> int:
        """Bytes that may come now."""
        return max(self.capacity - self.pending, self.edge - self.nxt)

    @property
    def has_early(self) -> bool:
        return bool(self._early)

    def append(self, data: memoryview) -> None:
        """Bytes in order that the application did not take."""
        self.pending += len(data)
        if self._pending and len(self._pending[-1]) + len(data) <= _SMALL:
            data = memoryview(bytes(self._pending.pop()) + data)
        self._pending.append(data)

    def take(self, size: int) -> None:
        """The application took the first `size` pending bytes."""
        self.pending -= size
        queue = self._pending
        while size:
            first = queue[0]
            if len(first) > size:
                queue[0] = first[size:]
                return
            size -= len(first)
            queue.popleft()

    def chunks(self) -> list[memoryview]:
        """Pending bytes, some of the first pieces, for one call to the host."""
        return [self._pending[index] for index in range(min(len(self._pending), 16))]

    def early(self, start: int, data: memoryview) -> None:
        """Keep a piece that starts after `nxt` and ends in the window; what is there already is not kept twice."""
        position = 0
        for position, (low, piece) in enumerate(self._early):
            high = low + len(piece)
            if start >= high:
                continue
            if start >= low:
                data = data[high - start :]
                start = high
                if not len(data):
                    self.newest = low
                    return
                continue
            if start + len(data) > low:  # the tail is there, or more comes behind it: keep the part before
                rest_start, rest = high, data[high - start :] if start + len(data) > high else data[:0]
                self._keep(position, start, data[: low - start])
                if len(rest):
                    self.early(rest_start, rest)
                return
            self._keep(position, start, data)
            return
        if len(data):
            self._keep(len(self._early), start, data)

    def _keep(self, position: int, start: int, data: memoryview) -> None:
        if len(self._early) < MAX_EARLY:
            if len(data) <= _SMALL:
                data = memoryview(bytes(data))
            self._early.insert(position, (start, data))
            self.newest = start

    def next_early(self) -> memoryview | None:
        """The piece whose turn it is now, if it came before; what of it is old is cut off."""
        while self._early and self._early[0][0] <= self.nxt:
            start, data = self._early.pop(0)
            data = data[self.nxt - start :]
            if len(data):
                return data
        return None

    def blocks(self) -> list[tuple[int, int]]:
        """Ranges that came early, for a SACK: the one with the newest piece first."""
        ranges: list[tuple[int, int]] = []
        for start, data in self._early:
            if ranges and ranges[-1][1] == start:
                ranges[-1] = (ranges[-1][0], start + len(data))
            else:
                ranges.append((start, start + len(data)))
        ranges.sort(key=lambda block: not block[0] <= self.newest < block[1])
        return ranges
