"""How often each host cluster is referred to, counted from the tables: what the reference counts should say."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Final

PART: Final = 256
_ZEROS: Final = array("I", bytes(4 * PART))


class Usage:
    """Counts by host cluster, in parts that exist where something is used."""

    def __init__(self) -> None:
        self.parts: dict[int, array[int]] = {}
        self.last = 0
        """The highest cluster in use."""

    def add(self, cluster: int) -> int:
        """One reference more; returns how many there are."""
        number = cluster // PART
        part = self.parts.get(number)
        if part is None:
            part = self.parts[number] = _ZEROS[:]
            self.last = max(self.last, cluster)
        elif cluster > self.last:
            self.last = cluster
        part[cluster % PART] += 1
        return part[cluster % PART]

    def get(self, cluster: int) -> int:
        part = self.parts.get(cluster // PART)
        return part[cluster % PART] if part is not None else 0

    def differences(self, first: int, counts: array[int]) -> Iterator[tuple[int, int, int]]:
        """(cluster, count, references) where `counts`, those of clusters from `first` on, differ from what is used."""
        for start in range(0, len(counts), PART):
            base = first + start
            offset = base % PART
            have = counts[start : start + PART]
            if offset or len(have) < PART:
                wanted = array("I", [self.get(base + index) for index in range(len(have))])
            else:
                wanted = self.parts.get(base // PART, _ZEROS)
            if have == wanted:
                continue
            for index, (count, used) in enumerate(zip(have, wanted, strict=True)):
                if count != used:
                    yield base + index, count, used
