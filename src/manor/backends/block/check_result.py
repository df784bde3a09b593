"""What a check of an image found, whatever its format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Repair = Literal["none", "leaks", "all"]


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What a check found.

    corruptions: places where data is or could be lost. leaks: clusters that are counted as used and are not. errors:
    what kept the check itself from looking everywhere. *_fixed: what was repaired; the other counts are what is left.
    messages: one line for each finding, up to a bound. total_clusters, allocated_clusters, compressed_clusters and
    fragmented_clusters count guest clusters. image_end: bytes of the file up to the last cluster in use.
    """

    format: str
    corruptions: int = 0
    leaks: int = 0
    errors: int = 0
    corruptions_fixed: int = 0
    leaks_fixed: int = 0
    total_clusters: int = 0
    allocated_clusters: int = 0
    compressed_clusters: int = 0
    fragmented_clusters: int = 0
    image_end: int = 0
    messages: tuple[str, ...] = ()

    @property
    def is_clean(self) -> bool:
        return not (self.corruptions or self.leaks or self.errors)
