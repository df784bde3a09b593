"""Check an image's own structures, and repair them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from manor.backends.block.operations.progress import Progress, silent

Repair = Literal["none", "leaks", "all"]


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What a check found.

    corruptions: places where data is or could be lost. leaks: clusters that are used by nothing. errors: that kept the check
    itself from looking everywhere. *_fixed: repaired ones; the others counts are what is left after the repair.
    messages: one line for each finding, up to a bound. total_clusters, allocated_clusters, compressed_clusters and
    fragmented_clusters count guest clusters. image_end: bytes of the file up to the last one in use.
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
    messages: tuple[str, ...] = field(default=())

    @property
    def is_clean(self) -> bool:
        return not (self.corruptions or self.leaks or self.errors)


def check(
    path: str,
    *,
    format: str | None = None,
    repair: Repair = "none",
    force_share: bool = False,
    progress: Progress = silent,
) -> CheckResult:
    """Check `path` (not its backing images). ConfigError for a format without structures to check, such as raw.

    repair: "leaks" frees what nothing uses; "all" also makes reference counts and flags agree with the tables. What
    cannot be repaired without guessing is counted and left.
    """
    raise NotImplementedError
