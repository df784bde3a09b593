"""Bandwidth, delay, jitter and loss against a clock that stands still unless told."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from manor.backends.net.api import Frame, Offloads, Segmentation
from manor.backends.net.memory import MemoryNet
from manor.backends.net.offload import EVERYTHING
from manor.backends.net.shaping import BURST_NS, QUEUE_NS, ShapedNet, TokenBucket
from manor.base.clock import MILLISECOND, SECOND, FakeClock
from manor.spec.net import Shaping
from manor.testing.fakes import FakeTimers
from manor.testing.net_frames import MAC_A, MAC_B, eth, ipv4, tcp

FRAME = Frame(bytes(1226))
"""1250 bytes, 10000 bits, on the wire."""


class Guest:
    """A receiver with room for so many frames."""

    def __init__(self, room: int = 1 << 30) -> None:
        self.room = room
        self.frames: list[Frame] = []
        self.accepts = EVERYTHING

    def deliver(self, frames: Sequence[Frame]) -> int:
        taken = list(frames[: self.room])
        self.room -= len(taken)
        self.frames += taken
        return len(taken)


class Bench:
    def __init__(self, shaping: Shaping, seed: str = "seed") -> None:
        self.clock = FakeClock()
        self.timers = FakeTimers(self.clock)
        self.far = MemoryNet()
        self.net = ShapedNet(self.far, shaping, self.clock, self.timers, seed)
        self.guest = Guest()
        self.net.attach(self.guest)


def test_delay_each_way() -> None:
    bench = Bench(Shaping(delay=20 * MILLISECOND))
    bench.net.send([FRAME])
    assert bench.far.give(FRAME) == 1
    bench.timers.advance(20 * MILLISECOND - 1)
    assert (bench.far.sent, bench.guest.frames) == ([], [])
    bench.timers.advance(1)
    assert (len(bench.far.sent), len(bench.guest.frames)) == (1, 1)


def test_rate_is_kept_after_the_burst() -> None:
    bench = Bench(Shaping(bits_per_second=10_000_000))  # one of FRAME a millisecond
    for _ in range(300):
        bench.net.send([FRAME])
        bench.timers.advance(100_000)
    # 30 ms, and what an idle line had saved up.
    expected = 30 + BURST_NS // MILLISECOND
    assert abs(len(bench.far.sent) - expected) <= 1
    bench.timers.advance(SECOND)
    # More than the queue holds was dropped.
    assert len(bench.far.sent) <= 30 + (BURST_NS + QUEUE_NS) // MILLISECOND + 1


@given(st.lists(st.tuples(st.integers(0, 10_000_000), st.integers(1, 20_000)), max_size=60))
def test_a_bucket_never_gives_more_than_its_rate_and_burst(calls: list[tuple[int, int]]) -> None:
    bucket = TokenBucket(1_000_000, 10_000)
    now, given_bits, last = 0, 0, 0
    for wait, bits in calls:
        now += wait
        at = bucket.take(bits, now)
        assert at >= now
        assert at >= last
        last = at
        given_bits += bits
        assert given_bits <= 10_000 + at * 1_000_000 // SECOND + 1 + bits * (at == now)


def test_loss_is_a_share_and_repeats_with_its_seed() -> None:
    counts = []
    for seed in ("a", "a", "b"):
        bench = Bench(Shaping(loss=0.25), seed)
        bench.net.send([FRAME._replace(data=bytes(60) + bytes([number % 256])) for number in range(2000)])
        counts.append([frame.data[60] for frame in bench.far.sent])
        assert bench.net.statistics()["line_lost"] == 2000 - len(bench.far.sent)
    assert counts[0] == counts[1] != counts[2]
    assert all(1400 < len(count) < 1600 for count in counts)


def test_everything_can_be_lost() -> None:
    bench = Bench(Shaping(loss=1.0, bits_per_second=10_000_000))
    for _ in range(1000):
        bench.far.give(FRAME)
        bench.timers.advance(MILLISECOND)
    assert bench.guest.frames == []
    assert bench.far.waiting == []


def test_jitter_keeps_the_order() -> None:
    bench = Bench(Shaping(delay=10 * MILLISECOND, jitter=10 * MILLISECOND))
    arrivals = []
    for number in range(50):
        bench.net.send([Frame(bytes([number]))])
        bench.timers.advance(MILLISECOND)
        arrivals.append(len(bench.far.sent))
    bench.timers.advance(SECOND)
    assert [frame.data[0] for frame in bench.far.sent] == list(range(50))
    steps = {later - earlier for earlier, later in pairwise(arrivals)}
    assert len(steps) > 1


def test_towards_the_guest_nothing_is_dropped_but_waits_at_its_origin() -> None:
    bench = Bench(Shaping(bits_per_second=10_000_000))
    frames = [Frame(bytes(1226) + bytes([number // 256, number % 256])) for number in range(1000)]
    assert bench.far.give(*frames) < 1000
    bench.timers.advance(2 * SECOND)
    assert bench.guest.frames == frames


def test_a_guest_without_buffers_holds_the_line_up() -> None:
    bench = Bench(Shaping(delay=MILLISECOND))
    bench.guest.room = 3
    bench.far.give(*[FRAME] * 10)
    bench.timers.advance(SECOND)
    assert len(bench.guest.frames) == 3
    bench.guest.room = 100
    bench.net.on_room()
    assert len(bench.guest.frames) == 10


def test_packets_travel_not_what_stands_for_many() -> None:
    data = eth(MAC_A, MAC_B, 0x0800, ipv4(tcp(1, 2, bytes(5000)), protocol=6))
    large = Frame(data, 34, 16, False, Segmentation.TCPV4, 1460)
    bench = Bench(Shaping(delay=1))
    assert bench.net.accepts == Offloads(checksum=True)
    bench.far.give(large)
    bench.timers.advance(1)
    assert [len(frame.data) for frame in bench.guest.frames] == [1514, 1514, 1514, 54 + 620]


def test_detaching_and_closing_forget_what_is_on_the_way() -> None:
    bench = Bench(Shaping(delay=MILLISECOND))
    bench.net.send([FRAME])
    bench.far.give(FRAME)
    bench.net.attach(None)
    bench.timers.advance(SECOND)
    assert (bench.far.sent, bench.guest.frames) == ([], [])
    bench.net.send([FRAME])
    bench.net.close()
    assert bench.timers.pending() == []
    assert bench.far.is_closed
