"""What happened, in words: a driver's notice as an entry of the journal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from manor.domain.events import DETAILS, LifecycleEvent
from manor.drivers.api import Kind, Notice
from manor.drivers.life import Life
from manor.rpc.protocol.own_records import EventEntry
from manor.rpc.protocol.records import Secret

Values = Sequence[object]
_METADATA: Final = ("description", "title", "element")
_AGENT: Final = ("", "connected", "disconnected")


def _lifecycle(values: Values) -> tuple[str, str]:
    event, detail = (_number(value) for value in values)
    known = LifecycleEvent(event)
    return known.name.lower(), DETAILS[known](detail).name.lower()


def _life(values: Values) -> tuple[str, str]:
    return Life(_number(values[0])).name.lower(), ""


_WORDS: Final[dict[Kind, tuple[str, str, Callable[[Values], tuple[str, str]]]]] = {
    Kind.LIFECYCLE: ("domain", "lifecycle", _lifecycle),
    Kind.REBOOT: ("domain", "reboot", lambda values: ("rebooted", "")),
    Kind.BALLOON: ("domain", "balloon", lambda values: ("resized", f"{values[0]} KiB")),
    Kind.DEVICE_ADDED: ("domain", "device", lambda values: ("added", str(values[0]))),
    Kind.DEVICE_REMOVED: ("domain", "device", lambda values: ("removed", str(values[0]))),
    Kind.DEVICE_REMOVAL_FAILED: ("domain", "device", lambda values: ("removal_failed", str(values[0]))),
    Kind.METADATA: ("domain", "metadata", lambda values: ("changed", _METADATA[_number(values[0])])),
    Kind.AGENT: ("domain", "agent", lambda values: (_AGENT[_number(values[0])], "")),
    Kind.NETWORK: ("network", "lifecycle", _life),
    Kind.POOL: ("pool", "lifecycle", _life),
    Kind.POOL_REFRESH: ("pool", "refresh", lambda values: ("refreshed", "")),
    Kind.SECRET: ("secret", "lifecycle", _life),
    Kind.SECRET_VALUE: ("secret", "value", lambda values: ("changed", "")),
}
"""Kind -> (sort of object, kind in the journal, values to (what, detail))."""


def entry_of(source: str, notice: Notice, now: float) -> EventEntry:
    """The entry, without a number. source: the driver's URI. now: seconds since the Epoch."""
    subject = notice.subject
    name, uuid = subject.usage_id if isinstance(subject, Secret) else subject.name, subject.uuid
    known = _WORDS.get(notice.kind)
    if known is None:
        return EventEntry(0, now, source, notice.kind.value, name, uuid, notice.kind.value, "", "")
    sort, kind, words = known
    try:
        what, detail = words(notice.values)
    except (ValueError, LookupError):  # a driver for another daemon tells what this table does not know
        what, detail = "", " ".join(map(str, notice.values))
    return EventEntry(0, now, source, sort, name, uuid, kind, what, detail)


def _number(value: object) -> int:
    if not isinstance(value, int):
        raise ValueError(f"{value!r} is no number")
    return value
