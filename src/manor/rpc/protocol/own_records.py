"""What the procedures of Manor's own program pass around. Times: seconds since the Epoch.

What makes it differ from libvirt's records: whoever reads one sees what it means. Kinds, states and reasons are words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from manor.rpc.protocol.records import wire


@wire("int", "str", "str", "str[]", "str[]", "str")
class Problem(NamedTuple):
    """Why something did not work. code: libvirt's number. title: a few words. cause: one sentence.

    fix: what can be done, in order of promise. evidence: what was seen (paths, numbers, output). docs: a page of the
    documentation, or "".
    """

    code: int
    title: str
    cause: str
    fix: Sequence[str] = ()
    evidence: Sequence[str] = ()
    docs: str = ""

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "code": self.code, "title": self.title, "cause": self.cause, "fix": list(self.fix),
            "evidence": list(self.evidence), "docs": self.docs,
        }  # fmt: skip


@wire("str", "str?", "str?", "str", "str")
class PlanItem(NamedTuple):
    """One difference. path: `domain/devices/disk[vda]/source/@file`. old, new: as written, None: absent.

    when: `live` now, `boot` at the next start, `off` only while the domain is off, `refused`. why: for the last two.
    """

    path: str
    old: str | None
    new: str | None
    when: str
    why: str


@wire("PlanItem[]", "str", "str", "Problem?")
class Plan(NamedTuple):
    """What a change would do. config_diff, live_diff: of the XML, unified. problem: why nothing can be done now."""

    items: Sequence[PlanItem]
    config_diff: str
    live_diff: str
    problem: Problem | None


@wire("ulong", "str", "str", "str", "uuid?", "str", "str", "ulong", "ulong", "double", "double", "double", "double",
      "str", "Problem?")  # fmt: skip
class JobRecord(NamedTuple):
    """A long operation. subject: what it works on, by name; domain: its UUID where that is a domain.

    phase: `running`, `done`, `failed`, `cancelled`. done, total: bytes, 0: not known. rate: bytes a second. left:
    seconds until the end, -1: not known. ended: 0 while it runs. leaves: what cancelling it leaves behind.
    """

    id: int
    title: str
    who: str
    subject: str
    domain: bytes | None
    phase: str
    step: str
    done: int
    total: int
    rate: float
    left: float
    began: float
    ended: float
    leaves: str
    problem: Problem | None


@wire("ulong", "double", "str", "str", "str", "uuid?", "str", "str", "str")
class EventEntry(NamedTuple):
    """Something that happened. sequence: from 1, never used again. source: the driver's URI.

    object: `domain`, `network`, `pool`, `job`; name, uuid: of it. kind: `lifecycle`, `device`, ...; what, detail: in
    words, `stopped`, `destroyed`.
    """

    sequence: int
    time: float
    source: str
    object: str
    name: str
    uuid: bytes | None
    kind: str
    what: str
    detail: str


@wire("str", "str", "double[:20000]", "double[:20000]", "double[:20000]")
class Series(NamedTuple):
    """One statistic over time. unit: `CPUs`, `KiB`, `B/s`. minimum, mean, maximum: of each bucket."""

    name: str
    unit: str
    minimum: Sequence[float]
    mean: Sequence[float]
    maximum: Sequence[float]


@wire("uint", "double", "str", "str", "int")
class RevisionInfo(NamedTuple):
    """One state of a description. number: from 1. who: made it. name: of the object then. is_current: it is so now."""

    number: int
    time: float
    who: str
    name: str
    is_current: int


@wire("ulong", "str", "str", "uuid", "double", "double", "str", "str")
class TrashEntry(NamedTuple):
    """What was deleted. kind: `domains`, `networks`, `pools`, `volumes`. uuid: the object's, or a volume's pool's.

    expires: when it is deleted for good. place: where a volume's file is now, "" for others.
    """

    id: int
    kind: str
    name: str
    uuid: bytes
    time: float
    expires: float
    who: str
    place: str
