"""What a check of the host found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

Judgement = Literal["ok", "note", "missing", "problem"]
JUDGEMENTS: Final[tuple[Judgement, ...]] = get_args(Judgement)
"""ok: as it should be. note: good to know; little or nothing to gain. missing: Manor could use it and it is not there;
guests run without. problem: it keeps guests from running."""

Fact = str | int | float | bool | None | list[str]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    topic: one of `examine.TOPICS`. text: one clause for people. fix: the one thing to do, a sentence; empty where
    there is nothing to do. facts: what scripts may want of it, without reading the text; names are stable.
    """

    topic: str
    verdict: Judgement
    text: str
    fix: str = ""
    facts: Mapping[str, Fact] = field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "topic": self.topic,
            "verdict": self.verdict,
            "text": self.text,
            "fix": self.fix or None,
            "facts": dict(self.facts),
        }


def can_run(findings: Iterable[Finding]) -> bool:
    """Whether nothing keeps guests from running."""
    return all(finding.verdict != "problem" for finding in findings)
