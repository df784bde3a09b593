"""A worse line, on purpose: less bandwidth, delay, jitter, loss; the same in both directions.

Each frame leaves when the bucket has tokens for all of its bits, then travels for the delay. Frames keep their order,
as on a cable. They are cut to the size they have on a wire first, so that loss hits packets and not the 64 KiB
that a guest may hand over at once.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from manor.backends.net.api import Frame, NetBackend, NetReceiver, Offloads
from manor.backends.net.offload import finish
from manor.backends.net.wrapper import NetWrapper
from manor.base.clock import MILLISECOND, SECOND, Clock
from manor.base.timers import TimerHandle, Timers
from manor.spec.net import Shaping

QUEUE_NS: Final = 200 * MILLISECOND
"""What waits for tokens at most, as time at the line's rate: the buffer of a usual router."""
QUEUE_FRAMES: Final = 4096
"""On the way, whatever the delay."""
BURST_NS: Final = 5 * MILLISECOND
"""What an idle line saves up, as time at its rate; at least one frame."""
_MINIMUM_BURST: Final = 1600 * 8
_OVERHEAD: Final = 24
"""Bytes on a wire around each frame: preamble and start 8, check sequence 4, gap 12 (IEEE 802.3-2018, 3.1.1, 4.4.2)."""


class TokenBucket:
    """Bits a second with a burst. Times in ns."""

    def __init__(self, bits_per_second: int, burst: int) -> None:
        self._rate = bits_per_second
        self._burst_ns = burst * SECOND // bits_per_second
        self._empty_at = -(1 << 62)
        """When, at this rate, all that was taken will have been paid for."""

    def take(self, bits: int, now: int) -> int:
        """Take tokens; returns when they are all there, `now` or later. Times of calls do not decrease."""
        start = max(self._empty_at, now - self._burst_ns)
        self._empty_at = start + bits * SECOND // self._rate
        return max(now, self._empty_at)

    def backlog(self, now: int) -> int:
        """How long from now a frame would wait before its own bits."""
        return max(0, self._empty_at - now)


class _Line:
    """One direction. arrive: takes frames that have arrived, and returns how many it took."""

    def __init__(
        self, shaping: Shaping, clock: Clock, timers: Timers, seed: str, arrive: Callable[[list[Frame]], int]
    ) -> None:
        self._shaping = shaping
        self._clock = clock
        self._timers = timers
        self._random = random.Random(seed)
        self._arrive = arrive
        rate = shaping.bits_per_second
        burst = max(rate * BURST_NS // SECOND, _MINIMUM_BURST)
        self._bucket = TokenBucket(rate, burst) if rate else None
        self._queue: deque[tuple[int, Frame]] = deque()
        self._last = 0
        self._timer: TimerHandle | None = None
        self._is_blocked = False
        self.lost = 0
        self.dropped = 0

    def has_room(self) -> bool:
        if len(self._queue) >= QUEUE_FRAMES:
            return False
        return self._bucket is None or self._bucket.backlog(self._clock.now_ns()) <= QUEUE_NS

    def room_at(self) -> int | None:
        """When there may be room; None if that depends on who takes what has arrived."""
        if self._is_blocked:
            return None
        now = self._clock.now_ns()
        if len(self._queue) >= QUEUE_FRAMES:
            return self._queue[0][0]
        return now if self._bucket is None else now + max(0, self._bucket.backlog(now) - QUEUE_NS // 2)

    def put(self, frame: Frame) -> None:
        """Send one frame along; `has_room` was true. Call `run` after the last one."""
        now = self._clock.now_ns()
        leaves = now if self._bucket is None else self._bucket.take((len(frame.data) + _OVERHEAD) * 8, now)
        shaping = self._shaping
        if shaping.loss and self._random.random() < shaping.loss:
            self.lost += 1  # behind the bucket: on the way, like noise
            return
        jitter = self._random.randint(-shaping.jitter, shaping.jitter) if shaping.jitter else 0
        self._last = max(self._last, leaves + shaping.delay + jitter)
        self._queue.append((self._last, frame))

    def run(self) -> None:
        """Hand over what is due, and see to the rest when it is."""
        if self._is_blocked:
            return
        queue = self._queue
        due = self._due(self._clock.now_ns())
        if due:
            taken = self._arrive(due)
            for _ in range(taken):
                queue.popleft()
            if taken < len(due):
                self._is_blocked = True
                return
        if queue and self._timer is None:
            self._timer = self._timers.at(queue[0][0], self._on_timer)

    def _due(self, now: int) -> list[Frame]:
        due: list[Frame] = []
        for at, frame in self._queue:
            if at > now:
                break
            due.append(frame)
        return due

    def unblock(self) -> None:
        self._is_blocked = False
        self.run()

    def clear(self) -> None:
        """Forget what is on the way."""
        self._queue.clear()
        self._is_blocked = False

    def close(self) -> None:
        self.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timer(self) -> None:
        self._timer = None
        self.run()


class ShapedNet(NetWrapper):
    """seed: of the line's chances; the same seed and times give the same losses."""

    def __init__(self, inner: NetBackend, shaping: Shaping, clock: Clock, timers: Timers, seed: str) -> None:
        super().__init__(inner)
        self._accepts = Offloads(checksum=inner.accepts.checksum)
        self._timers = timers
        self._out = _Line(shaping, clock, timers, f"{seed} out", self._send_on)
        self._in = _Line(shaping, clock, timers, f"{seed} in", super().deliver)
        self._is_refused = False
        self._room_timer: TimerHandle | None = None

    @property
    def accepts(self) -> Offloads:
        """No segmentation: what travels are packets."""
        return self._accepts

    def attach(self, receiver: NetReceiver | None) -> None:
        self._in.clear()
        self._out.clear()
        self._is_refused = False
        super().attach(receiver)

    def send(self, frames: Sequence[Frame]) -> None:
        for frame in frames:
            if self._out.has_room():
                self._out.put(frame)
            else:
                self._out.dropped += 1
        self._out.run()

    def deliver(self, frames: Sequence[Frame]) -> int:
        """Take as many as the line has room for; the inner backend keeps the rest, so that its TCP slows down."""
        taken = 0
        for frame in frames:
            if not self._in.has_room():
                self._is_refused = True
                break
            for piece in finish(frame, self._accepts):
                self._in.put(piece)
            taken += 1
        self._in.run()
        self._arm()
        return taken

    def on_room(self) -> None:
        self._in.unblock()
        self._arm()

    def statistics(self) -> dict[str, int]:
        return self.inner.statistics() | {
            "line_lost": self._out.lost + self._in.lost,
            "line_dropped": self._out.dropped + self._in.dropped,
        }

    def close(self) -> None:
        self._out.close()
        self._in.close()
        if self._room_timer is not None:
            self._room_timer.cancel()
        self.inner.close()

    def _send_on(self, frames: list[Frame]) -> int:
        self.inner.send(frames)
        return len(frames)

    def _arm(self) -> None:
        """Tell the inner backend of room once there is some."""
        if self._is_refused and self._room_timer is None:
            at = self._in.room_at()
            if at is not None:
                self._room_timer = self._timers.at(at, self._offer_room)

    def _offer_room(self) -> None:
        self._room_timer = None
        if not self._is_refused:
            return
        if self._in.has_room():
            self._is_refused = False
            self.inner.on_room()
        else:
            self._arm()
