"""Statistics over time: buckets with the least, the mean and the largest value, fine for minutes and coarse for a week.

    1 s x 10 min      of domains that somebody watches, in memory
    10 s x 6 h        of all that run, in memory; less where very many do (MIDDLE_BYTES)
    1 min x 7 d       of all that run, in a file (service.history_file)

Thread: the event loop's.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from manor.drivers.api import MachineStatistics

FINE_STEP: Final = 1
FINE_BUCKETS: Final = 600
MIDDLE_STEP: Final = 10
MIDDLE_BUCKETS: Final = 2160
MIDDLE_MINIMUM: Final = 30
MIDDLE_BYTES: Final = 32 << 20
"""For the middle level of all domains together."""
COARSE_STEP: Final = 60
COARSE_SECONDS: Final = 7 * 24 * 3600
WATCH_SECONDS: Final = 30.0
"""How long a domain counts as watched after somebody asked for fine statistics of it."""
MAX_POINTS: Final = 20_000
"""Of an answer."""

SERIES: Final = (
    ("cpu", "CPUs"), ("memory", "KiB"), ("rss", "KiB"), ("read", "B/s"), ("written", "B/s"), ("received", "B/s"),
    ("sent", "B/s"),
)  # fmt: skip
"""(name, unit). cpu: how many processors were busy; memory: what the guest has; rss: what it takes of the host's."""
_RATES: Final = (0, 3, 4, 5, 6)
"""Those that come as counters, and become rates."""
WIDTH: Final = 3 * len(SERIES)
_ROW_BYTES: Final = 4 * WIDTH + 8


class Bucket(NamedTuple):
    """number: its start in seconds since the Epoch, divided by the level's step. values: least, mean, largest of each
    series in turn."""

    number: int
    values: Sequence[float]


@dataclass(frozen=True, slots=True)
class Counters:
    """What a VM's counters say at a time (seconds since the Epoch). values: in the order of SERIES; cpu in seconds."""

    time: float
    values: tuple[float, ...]

    @classmethod
    def of(cls, now: float, found: MachineStatistics) -> Counters:
        """Of a VM."""
        return cls(
            now,
            (
                found.cpu_time / 1e9,
                float(found.memory),
                float(found.rss),
                float(sum(each.rd_bytes for each in found.disks)),
                float(sum(each.wr_bytes for each in found.disks)),
                float(sum(each.rx_bytes for each in found.nics)),
                float(sum(each.tx_bytes for each in found.nics)),
            ),
        )


class Ring:
    """The latest buckets of one level. It takes memory as it fills."""

    __slots__ = ("_at", "_count", "_number", "_numbers", "_open", "_values", "capacity", "step")

    def __init__(self, step: int, capacity: int) -> None:
        """step: seconds of a bucket."""
        self.step = step
        self.capacity = capacity
        self._numbers = array("q")
        self._values = array("f")
        self._at = 0
        self._number = -1
        self._count = 0
        self._open: list[float] = []

    def add(self, time: float, values: Sequence[float]) -> Bucket | None:
        """Take what was measured; the bucket that is complete now, if one is. What comes too late is left out."""
        number = int(time // self.step)
        closed = None
        if number < self._number:
            return None
        if number > self._number:
            closed = self._close()
            self._number, self._count = number, 0
            self._open = [each for value in values for each in (value, 0.0, value)]
        total = self._open
        for index, value in enumerate(values):
            at = 3 * index
            total[at] = min(total[at], value)
            total[at + 1] += value
            total[at + 2] = max(total[at + 2], value)
        self._count += 1
        return closed

    def buckets(self, start: float, end: float) -> Iterator[Bucket]:
        """Those that begin in this time, in its order, the one that is not complete included."""
        first, last = math.ceil(start / self.step), math.floor(end / self.step)
        count = len(self._numbers)
        for index in range(count):
            at = (self._at + index) % count
            if first <= self._numbers[at] <= last:
                yield Bucket(self._numbers[at], self._values[at * WIDTH : (at + 1) * WIDTH])
        if self._count and first <= self._number <= last:
            yield Bucket(self._number, self._mean())

    def limit(self, capacity: int) -> None:
        """Keep no more buckets than that."""
        complete = [each for each in self.buckets(0.0, 1e15) if each.number != self._number]
        self.capacity = capacity
        self._numbers, self._values, self._at = array("q"), array("f"), 0
        for each in complete[-capacity:]:
            self._numbers.append(each.number)
            self._values.extend(each.values)

    def __len__(self) -> int:
        return len(self._numbers)

    def _close(self) -> Bucket | None:
        if not self._count:
            return None
        made = Bucket(self._number, self._mean())
        if len(self._numbers) < self.capacity:
            self._numbers.append(made.number)
            self._values.extend(made.values)
        else:
            self._numbers[self._at] = made.number
            self._values[self._at * WIDTH : (self._at + 1) * WIDTH] = array("f", made.values)
            self._at = (self._at + 1) % self.capacity
        return made

    def _mean(self) -> list[float]:
        return [value / self._count if index % 3 == 1 else value for index, value in enumerate(self._open)]


class Record:
    """The levels of one domain."""

    __slots__ = ("coarse", "fine", "last", "middle", "watched_until")

    def __init__(self, capacity: int) -> None:
        self.last: Counters | None = None
        self.fine: Ring | None = None
        self.middle = Ring(MIDDLE_STEP, capacity)
        self.coarse = Ring(COARSE_STEP, 1)
        self.watched_until = 0.0


class Answer(NamedTuple):
    """step: seconds of a bucket. times: starts of buckets. rows: their values, as in `Bucket`."""

    step: int
    times: Sequence[float]
    rows: Sequence[Sequence[float]]


class History:
    """The statistics of all domains of a daemon."""

    def __init__(self) -> None:
        self._records: dict[bytes, Record] = {}
        self._pending: list[tuple[bytes, Bucket]] = []

    def add(self, uuid: bytes, counters: Counters) -> None:
        """Keep what a VM's counters say. One that began anew, or whose clock went back, gives no rate this time."""
        record = self._records.get(uuid)
        if record is None:
            record = self._records[uuid] = Record(self._capacity(len(self._records) + 1))
            self._share()
        last, record.last = record.last, counters
        if last is None:
            return
        seconds = counters.time - last.time
        if seconds < -1.0:
            # The clock was set back: what was after that is not kept beside what comes now.
            self._records[uuid] = Record(record.middle.capacity)
            self._records[uuid].last = counters
            return
        if seconds < 0.05:
            record.last = last  # two clients asked at once: the difference would say nothing
            return
        values = list(counters.values)
        for index in _RATES:
            growth = counters.values[index] - last.values[index]
            if growth < 0:
                return
            values[index] = growth / seconds
        if record.fine is not None:
            record.fine.add(counters.time, values)
        record.middle.add(counters.time, values)
        closed = record.coarse.add(counters.time, values)
        if closed is not None:
            self._pending.append((uuid, closed))

    def watch(self, uuid: bytes, now: float) -> None:
        """Keep fine statistics of a domain for a while."""
        record = self._records.get(uuid)
        if record is None:
            record = self._records[uuid] = Record(self._capacity(len(self._records) + 1))
        if record.fine is None:
            record.fine = Ring(FINE_STEP, FINE_BUCKETS)
        record.watched_until = now + WATCH_SECONDS

    def watched(self, now: float) -> list[bytes]:
        """Who is watched now. Fine statistics of those who have not been for long are dropped."""
        found = []
        for uuid, record in self._records.items():
            if record.watched_until >= now:
                found.append(uuid)
            elif record.fine is not None and now - record.watched_until > FINE_BUCKETS:
                record.fine = None
        return found

    def stopped(self, uuid: bytes) -> None:
        """The VM has ended: its next counters are another's."""
        record = self._records.get(uuid)
        if record is not None:
            record.last = None

    def forget(self, keep: Iterable[bytes]) -> None:
        """Drop what is of no domain in `keep`."""
        there = set(keep)
        for uuid in [each for each in self._records if each not in there]:
            del self._records[uuid]

    def take_pending(self) -> list[tuple[bytes, Bucket]]:
        """Coarse buckets that are complete, for the file; they are the caller's."""
        pending, self._pending = self._pending, []
        return pending

    def level(self, uuid: bytes, step: int) -> Ring | None:
        """The level in memory that is fine enough for `step` seconds, None if it is the file's."""
        record = self._records.get(uuid)
        if record is None or step >= COARSE_STEP:
            return None
        if step < MIDDLE_STEP and record.fine is not None:
            return record.fine
        return record.middle

    def unsaved(self, uuid: bytes) -> list[Bucket]:
        """Coarse buckets that are not in the file yet, the one that is not complete included."""
        record = self._records.get(uuid)
        if record is None:
            return []
        pending = [bucket for owner, bucket in self._pending if owner == uuid]
        known = {each.number for each in pending}
        return pending + [each for each in record.coarse.buckets(0.0, 1e15) if each.number not in known]

    @staticmethod
    def _capacity(count: int) -> int:
        return max(MIDDLE_MINIMUM, min(MIDDLE_BUCKETS, MIDDLE_BYTES // (_ROW_BYTES * count)))

    def _share(self) -> None:
        """Divide the memory anew when there are many more domains than when it was divided last."""
        capacity = self._capacity(len(self._records))
        for record in self._records.values():
            if record.middle.capacity > 2 * capacity:
                record.middle.limit(capacity)


def answer(step: int, buckets: Iterable[Bucket], wanted: int) -> Answer:
    """Buckets of `step` seconds as an answer with about `wanted` seconds each (0: as they are)."""
    factor = max(1, round(wanted / step)) if wanted else 1
    groups: dict[int, list[Sequence[float]]] = {}
    for bucket in buckets:
        groups.setdefault(bucket.number // factor, []).append(bucket.values)
    numbers = sorted(groups)[-MAX_POINTS:]
    return Answer(
        step * factor, [float(number * factor * step) for number in numbers], [_join(groups[n]) for n in numbers]
    )


def columns(found: Answer) -> Mapping[str, tuple[list[float], list[float], list[float]]]:
    """Series -> (least, mean, largest) of each bucket."""
    return {
        name: (
            [row[3 * index] for row in found.rows],
            [row[3 * index + 1] for row in found.rows],
            [row[3 * index + 2] for row in found.rows],
        )
        for index, (name, _) in enumerate(SERIES)
    }


def _join(rows: Sequence[Sequence[float]]) -> Sequence[float]:
    if len(rows) == 1:
        return rows[0]
    ways = (min, lambda values: sum(values) / len(values), max)
    return [ways[index % 3]([row[index] for row in rows]) for index in range(WIDTH)]
