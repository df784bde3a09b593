"""Events: numbered, kept for a while so that who was away can resume, and sent to who registered.

A client registers for one kind of event, of one object or of all. Clients of the first protocol (without callback
numbers) get the older messages. Source of the numbers: libvirt API reference, virDomainEventID and its like.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from manor.base.errors import ApiError
from manor.drivers.api import Kind, Notice
from manor.drivers.errors import Code, Origin
from manor.rpc.protocol.catalog import REMOTE
from manor.rpc.session import Session

KEPT: Final = 10_000
"""Events that can be resumed from; older ones are gone, and who asks for them is told so."""
MAX_CALLBACKS: Final = 256
"""Registrations of one client."""

_DOMAIN: Final = {
    Kind.LIFECYCLE: (0, "lifecycle"),
    Kind.REBOOT: (1, "reboot"),
    Kind.BALLOON: (13, "balloon_change"),
    Kind.DEVICE_REMOVED: (15, "device_removed"),
    Kind.AGENT: (18, "agent_lifecycle"),
    Kind.DEVICE_ADDED: (19, "device_added"),
    Kind.DEVICE_REMOVAL_FAILED: (22, "device_removal_failed"),
    Kind.METADATA: (23, "metadata_change"),
}
"""Kind -> (virDomainEventID, name of the message)."""
_OTHERS: Final = {
    Kind.NETWORK: ("network", 0, "network_event_lifecycle"),
    Kind.POOL: ("pool", 0, "storage_pool_event_lifecycle"),
    Kind.POOL_REFRESH: ("pool", 1, "storage_pool_event_refresh"),
    Kind.SECRET: ("secret", 0, "secret_event_lifecycle"),
    Kind.SECRET_VALUE: ("secret", 1, "secret_event_value_changed"),
}
"""Kind -> (object, number, name of the message)."""
MAX_EVENT_ID: Final = {"domain": 27, "network": 2, "pool": 2, "node_device": 2, "secret": 2}


@dataclass(frozen=True, slots=True)
class Entry:
    """A notice with its number, from 1, and its time in seconds since the Epoch. source: the driver's URI."""

    sequence: int
    time: float
    source: str
    notice: Notice


@dataclass(frozen=True, slots=True)
class Callback:
    """One registration. number: -1 for one of the first protocol. uuid: of the object, None for all."""

    session: Session
    source: str
    object: str
    event: int
    number: int
    uuid: bytes | None


class EventHub:
    """All events of one daemon. Thread: the event loop's."""

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque(maxlen=KEPT)
        self._sequence = 0
        self._callbacks: list[Callback] = []
        self._numbers = itertools.count(1)
        self._listeners: list[Callable[[Entry], None]] = []

    @property
    def sequence(self) -> int:
        """Of the latest event."""
        return self._sequence

    def publish(self, source: str, notice: Notice) -> None:
        """Number it, keep it, send it."""
        self._sequence += 1
        entry = Entry(self._sequence, time.time(), source, notice)
        self._entries.append(entry)
        for listener in list(self._listeners):
            listener(entry)
        kind = notice.kind
        if kind in _DOMAIN:
            event, name = _DOMAIN[kind]
            wanted, message = "domain", f"domain_event_callback_{name}"
        else:
            wanted, event, message = _OTHERS[kind]
        uuid = notice.subject.uuid
        for callback in list(self._callbacks):
            if (callback.source, callback.object, callback.event) == (source, wanted, event) and (
                callback.uuid is None or callback.uuid == uuid
            ):
                _send(callback, message, notice)

    def since(self, sequence: int) -> tuple[bool, Iterator[Entry]]:
        """(whether none is missing, the events after number `sequence`)."""
        oldest = self._entries[0].sequence if self._entries else self._sequence + 1
        return sequence >= oldest - 1, (entry for entry in list(self._entries) if entry.sequence > sequence)

    def listen(self, listener: Callable[[Entry], None]) -> Callable[[], None]:
        """Call `listener` for every event from now on, until what is returned is called."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def register(
        self, session: Session, source: str, kind: str, event: int, uuid: bytes | None, is_old: bool = False
    ) -> int:
        """The number of the new registration. Raises ApiError."""
        if not 0 <= event < MAX_EVENT_ID[kind]:
            raise ApiError(Code.INVALID_ARG, Origin.REMOTE, f"invalid argument: unsupported event ID {event}")
        if sum(each.session is session for each in self._callbacks) >= MAX_CALLBACKS:
            raise ApiError(
                Code.OPERATION_FAILED, Origin.REMOTE, f"operation failed: more than {MAX_CALLBACKS} event callbacks"
            )
        number = -1 if is_old else next(self._numbers)
        self._callbacks.append(Callback(session, source, kind, event, number, uuid))
        return number

    def deregister(self, session: Session, kind: str, number: int) -> None:
        """Raises ApiError if there is no such registration."""
        self._drop(session, lambda each: each.object == kind and each.number == number, f"callback {number}")

    def deregister_old(self, session: Session, event: int) -> None:
        """Of the first protocol."""
        self._drop(session, lambda each: each.number == -1 and each.event == event, f"event {event}")

    def forget(self, session: Session) -> None:
        """The client is gone."""
        self._callbacks = [each for each in self._callbacks if each.session is not session]

    def _drop(self, session: Session, is_meant: Callable[[Callback], bool], what: str) -> None:
        found = next((each for each in self._callbacks if each.session is session and is_meant(each)), None)
        if found is None:
            raise ApiError(Code.INVALID_ARG, Origin.REMOTE, f"invalid argument: {what} is not registered")
        self._callbacks.remove(found)


def _send(callback: Callback, message: str, notice: Notice) -> None:
    if callback.number < 0:
        old = message.replace("_callback", "")
        if old in REMOTE:
            callback.session.send_event(REMOTE[old], notice.subject, *notice.values)
        return
    callback.session.send_event(REMOTE[message], callback.number, notice.subject, *notice.values)
