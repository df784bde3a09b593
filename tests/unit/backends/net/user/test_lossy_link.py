"""Streams arrive whole over cables that lose, reorder, double and delay frames.

Both ends are TcpTables here; that they get on with Linux's own TCP is shown in tests/integration.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from manor.backends.net.api import Frame, Offloads
from manor.backends.net.user.tcp import TcpEndpoint
from manor.backends.net.user.tcp_state import End
from manor.backends.net.user.tcp_table import TcpTable
from manor.base.clock import MILLISECOND, SECOND
from manor.testing.user_guest import EVERYTHING, IP, MAC, NOTHING, WORLD, look

FOREVER = 600 * SECOND


@dataclass
class Cable:
    """What happens to a frame: shares of it, and times in ns."""

    loss: float = 0.0
    doubled: float = 0.0
    delay: int = MILLISECOND
    jitter: int = 0
    """Frames may overtake each other within this."""
    slots: int = 1 << 30
    """Frames under way at a time; more are lost, as in a short queue."""


class Stream:
    """A TcpApplication that sends `size` random bytes, then ends, and takes what comes at its own pace."""

    def __init__(self, size: int, generator: random.Random, *, slow: bool) -> None:
        self._data = generator.randbytes(size)
        self._at = 0
        self._generator = generator
        self._slow = slow
        self.sent = hashlib.sha256(self._data).digest()
        self.received = hashlib.sha256()
        self.count = 0
        self.endpoint: TcpEndpoint | None = None
        self.has_end = False
        self.end: End | None = None

    def tcp_opened(self) -> None:
        self.pump()

    def tcp_room(self) -> None:
        self.pump()

    def pump(self) -> None:
        endpoint = self.endpoint
        assert endpoint is not None
        while self._at < len(self._data) and (room := endpoint.room) > 0:
            size = min(room, 65000, self._generator.randrange(1, 66000))
            endpoint.write(self._data[self._at : self._at + size])
            self._at += size
        if self._at >= len(self._data):
            endpoint.finish()

    def tcp_receive(self, chunks: Sequence[memoryview]) -> int:
        taken = 0
        for chunk in chunks:
            size = len(chunk) if not self._slow else self._generator.randrange(0, len(chunk) + 1)
            self.received.update(chunk[:size])
            taken += size
            if size < len(chunk):
                break
        self.count += taken
        return taken

    def tcp_end(self) -> None:
        assert not self.has_end
        self.has_end = True

    def tcp_closed(self, end: End) -> None:
        self.end = end


@dataclass(order=True)
class _Event:
    time: int
    order: int
    action: tuple[str, object] = field(compare=False)


class Link:
    """Two tables and a cable between them."""

    def __init__(self, cable: Cable, seed: int, offloads: Offloads, size: int, *, slow: bool = False) -> None:
        self.random = random.Random(seed)
        self.cable = cable
        self.now = SECOND
        self.offloads = offloads
        self.frames = 0
        self.lost = 0
        self._events: list[_Event] = []
        self._order = itertools.count()
        self._under_way = 0
        self.streams = [Stream(size, self.random, slow=slow), Stream(size // 2, self.random, slow=slow)]
        self.outs: list[list[Frame]] = [[], []]
        self.tables = [
            TcpTable(self.outs[0], MAC, 1500, self._accept, lambda: self.random.getrandbits(32)),
            TcpTable(self.outs[1], MAC, 1500, self._accept, lambda: self.random.getrandbits(32)),
        ]
        for table in self.tables:
            table.now, table.offloads = self.now, offloads
        endpoint = self.tables[1].open(self.streams[1], IP, WORLD, 40000, 80)
        assert endpoint is not None
        self.streams[1].endpoint = endpoint
        self.tables[1].learned(endpoint, MAC)
        self._flush(1)

    def _accept(self, endpoint: TcpEndpoint, address: bytes, port: int) -> None:
        assert (address, port) == (WORLD, 80)
        self.streams[0].endpoint = endpoint
        endpoint.application = self.streams[0]
        endpoint.accept()

    def _flush(self, side: int) -> None:
        self.tables[side].settle()
        for frame in self.outs[side]:
            self.frames += 1
            for _ in range(2 if self.random.random() < self.cable.doubled else 1):
                if self.random.random() < self.cable.loss or self._under_way >= self.cable.slots:
                    self.lost += 1
                    continue
                arrival = self.now + self.cable.delay + self.random.randrange(self.cable.jitter + 1)
                self._under_way += 1
                heapq.heappush(self._events, _Event(arrival, next(self._order), ("frame", (1 - side, frame))))
        self.outs[side].clear()

    def run(self) -> None:
        """Until nothing moves any more, or time is over."""
        while self.now < FOREVER:
            deadlines = [table.deadline for table in self.tables if table.endpoints()]
            times = [time for time in deadlines if time is not None] + [event.time for event in self._events[:1]]
            if any(stream.endpoint and stream.endpoint.receive.pending for stream in self.streams):
                times.append(self.now + MILLISECOND)  # a slow reader comes back
            if not times:
                return
            self.now = max(self.now, min(times))
            for table in self.tables:
                table.now = self.now
            while self._events and self._events[0].time <= self.now:
                side, frame = heapq.heappop(self._events).action[1]  # type: ignore[misc]
                self._under_way -= 1
                self.tables[side].segment(frame.data[26:38], frame.data, 34, len(frame.data))  # type: ignore[has-type]
            for side, table in enumerate(self.tables):
                table.expire()
                endpoint = self.streams[side].endpoint
                if endpoint is not None and endpoint.receive.pending:
                    endpoint.resume()
                self._flush(side)

    def check(self) -> None:
        """Everything arrived, both ends know that it is over, and nothing is left."""
        first, second = self.streams
        assert (first.has_end, second.has_end, first.end, second.end) == (True, True, End.FINISHED, End.FINISHED)
        assert first.received.digest() == second.sent
        assert second.received.digest() == first.sent
        assert [table.endpoints() for table in self.tables] == [[], []]


CABLES = {
    "clean": Cable(),
    "lossy": Cable(loss=0.02),
    "very lossy": Cable(loss=0.2),
    "reordering": Cable(jitter=3 * MILLISECOND),
    "doubling": Cable(doubled=0.3, jitter=MILLISECOND),
    "everything": Cable(loss=0.05, doubled=0.05, jitter=5 * MILLISECOND, delay=20 * MILLISECOND),
    "short queue": Cable(slots=40, delay=5 * MILLISECOND),
}


@pytest.mark.parametrize("offloads", [NOTHING, EVERYTHING], ids=["cut", "whole"])
@pytest.mark.parametrize("cable", CABLES.values(), ids=CABLES.keys())
def test_both_streams_arrive_whole(cable: Cable, offloads: Offloads) -> None:
    for seed in range(3):
        link = Link(cable, seed, offloads, 1_000_000)
        link.run()
        link.check()


def test_slow_readers_get_everything_as_well() -> None:
    link = Link(Cable(loss=0.03, jitter=2 * MILLISECOND), 5, NOTHING, 400_000, slow=True)
    link.run()
    link.check()


def test_little_is_sent_twice_where_little_is_lost() -> None:
    link = Link(Cable(loss=0.01), 1, NOTHING, 3_000_000)
    link.run()
    link.check()
    needed = 4_500_000 / 1460
    sent = sum(stream.endpoint.send.retransmitted for stream in link.streams if stream.endpoint is not None)
    assert sent < 0.03 * needed


def test_nothing_is_sent_twice_on_a_clean_cable() -> None:
    link = Link(Cable(), 1, NOTHING, 3_000_000)
    link.run()
    link.check()
    assert [stream.endpoint.send.retransmitted for stream in link.streams if stream.endpoint is not None] == [0, 0]


def test_bare_acknowledgements_are_not_answered_for_ever() -> None:
    """Both ends had lost something, and each answered the other's acknowledgement with one."""
    link = Link(Cable(doubled=0.1, slots=5), 31, NOTHING, 300_000, slow=True)
    link.run()
    link.check()
    assert link.frames < 10_000


def test_frames_on_the_cable_are_well_formed() -> None:
    link = Link(Cable(loss=0.05), 9, NOTHING, 100_000)
    flush = link._flush

    def watched(side: int) -> None:
        link.tables[side].settle()
        for frame in link.outs[side]:
            look(frame)
        flush(side)

    link._flush = watched  # type: ignore[method-assign]
    link.run()
    link.check()
    assert link.frames > 100


@pytest.mark.slow
def test_many_seeds() -> None:
    for seed in range(100):
        generator = random.Random(seed)
        cable = Cable(
            loss=generator.choice([0, 0.01, 0.1, 0.2]),
            doubled=generator.choice([0, 0.1]),
            jitter=generator.choice([0, 1, 30]) * MILLISECOND,
            delay=generator.choice([0, 1, 50]) * MILLISECOND,
            slots=generator.choice([5, 100, 1 << 30]),
        )
        link = Link(cable, seed, generator.choice([NOTHING, EVERYTHING]), 300_000, slow=generator.random() < 0.5)
        link.run()
        link.check()
