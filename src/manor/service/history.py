"""Statistics over time: bounded series of samples, fine for the last minutes and coarse for the last day."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

FINE: Final = 360
"""Samples as they come: half an hour at one in 5 s."""
COARSE: Final = 288
"""Samples kept after that: a day at one in 5 minutes."""
COARSE_STEP: Final = 300.0
MAX_SERIES: Final = 20_000


@dataclass(frozen=True, slots=True)
class Sample:
    """Counters at a time (seconds since the Epoch)."""

    time: float
    values: Mapping[str, float]


class Series:
    """Samples of one object."""

    __slots__ = ("_coarse", "_fine")

    def __init__(self) -> None:
        self._fine: deque[Sample] = deque(maxlen=FINE)
        self._coarse: deque[Sample] = deque(maxlen=COARSE)

    def add(self, sample: Sample) -> None:
        """Samples come in the order of time; one that does not is left out."""
        if self._fine and sample.time <= self._fine[-1].time:
            return
        self._fine.append(sample)
        if not self._coarse or sample.time - self._coarse[-1].time >= COARSE_STEP:
            self._coarse.append(sample)

    def between(self, start: float, end: float) -> list[Sample]:
        """What is kept, in the order of time."""
        oldest = self._fine[0].time if self._fine else float("inf")
        found = [each for each in self._coarse if each.time < oldest]
        return [each for each in (*found, *self._fine) if start <= each.time <= end]

    def rate(self, name: str, seconds: float) -> float | None:
        """Growth of a counter a second, over about the last `seconds`; None if it is not known, or began anew."""
        if len(self._fine) < 2:
            return None
        last = self._fine[-1]
        first = next((each for each in self._fine if each.time >= last.time - seconds), last)
        if first is last:
            first = self._fine[-2]
        if name not in first.values or name not in last.values:
            return None
        growth = last.values[name] - first.values[name]
        return None if growth < 0 else growth / (last.time - first.time)


class History:
    """Series of all objects; the least recently fed go when there are too many."""

    def __init__(self) -> None:
        self._series: dict[bytes, Series] = {}

    def add(self, uuid: bytes, sample: Sample) -> None:
        """Keep a sample."""
        series = self._series.pop(uuid, None) or Series()
        self._series[uuid] = series
        if len(self._series) > MAX_SERIES:
            self._series.pop(next(iter(self._series)))
        series.add(sample)

    def get(self, uuid: bytes) -> Series | None:
        """Of one object."""
        return self._series.get(uuid)

    def forget(self, uuid: bytes) -> None:
        """The object is gone."""
        self._series.pop(uuid, None)
