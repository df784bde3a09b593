"""Sorted disjoint ranges of integers, each with an owner."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Range(Generic[T]):
    """[start, end) and what owns it."""

    start: int
    end: int
    owner: T

    @property
    def size(self) -> int:
        return self.end - self.start


class RangeMap(Generic[T]):
    """Lookup is a binary search. Changes build new lists, so a reader on another thread sees old or new."""

    def __init__(self) -> None:
        self._table: tuple[list[int], list[Range[T]]] = ([], [])

    def add(self, start: int, size: int, owner: T) -> Range[T]:
        """Add [start, start + size). Raises ValueError if it is empty, negative or overlaps another range."""
        if size <= 0 or start < 0:
            raise ValueError(f"range [{start:#x}, +{size:#x}) is empty or negative")
        starts, ranges = self._table
        index = bisect_left(starts, start)
        new = Range(start, start + size, owner)
        for other in ranges[max(0, index - 1) : index + 1]:
            if other.start < new.end and start < other.end:
                raise ValueError(
                    f"range [{start:#x}, {new.end:#x}) overlaps [{other.start:#x}, {other.end:#x})"
                )
        self._table = (
            [*starts[:index], start, *starts[index:]],
            [*ranges[:index], new, *ranges[index:]],
        )
        return new

    def remove(self, start: int) -> Range[T]:
        """Remove the range that starts exactly at `start`. Raises KeyError if there is none."""
        starts, ranges = self._table
        index = bisect_left(starts, start)
        if index == len(starts) or starts[index] != start:
            raise KeyError(f"no range starts at {start:#x}")
        old = ranges[index]
        self._table = (starts[:index] + starts[index + 1 :], ranges[:index] + ranges[index + 1 :])
        return old

    def find(self, address: int) -> Range[T] | None:
        """The range that contains `address`."""
        starts, ranges = self._table
        index = bisect_right(starts, address) - 1
        if index < 0:
            return None
        found = ranges[index]
        return found if address < found.end else None

    def next_start(self, address: int) -> int | None:
        """Start of the first range that begins above `address`."""
        starts = self._table[0]
        index = bisect_right(starts, address)
        return starts[index] if index < len(starts) else None

    def __iter__(self) -> Iterator[Range[T]]:
        return iter(self._table[1])

    def __len__(self) -> int:
        return len(self._table[1])
