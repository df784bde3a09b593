"""Events: numbered, kept for a while so that who was away can resume, and sent to who registered.

A client registers for one kind of event, of one object or of all. Clients of the first protocol (without callback
numbers) get the older messages. Source of the numbers: libvirt API reference, virDomainEventID and its like.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from manor.base.errors import ApiError
from manor.drivers.api import Kind, Notice
from manor.drivers.errors import Code, Origin
from manor.rpc.protocol.catalog import MANOR, REMOTE
from manor.rpc.protocol.own_records import EventEntry
from manor.rpc.session import Session
from manor.service.event_words import entry_of
from manor.service.journal import Journal

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

    def __init__(self, journal: Journal | None = None) -> None:
        """journal: where they are kept, None if `begin` says so later; until then they wait for their numbers."""
        self._journal = journal
        self._early: list[EventEntry] = []
        self._callbacks: list[Callback] = []
        self._numbers = itertools.count(1)
        self._listeners: list[Callable[[EventEntry], None]] = []
        self._watchers: dict[Session, Callable[[], None]] = {}

    def begin(self, journal: Journal) -> None:
        """Keep events here from now on, and those that waited."""
        self._journal = journal
        early, self._early = self._early, []
        for entry in early:
            self.note(entry)

    @property
    def journal(self) -> Journal:
        """What happened so far."""
        assert self._journal is not None, "the events have not begun"
        return self._journal

    def note(self, entry: EventEntry) -> int:
        """Number it, keep it, send it to who watches; the number, 0 if it waits for one."""
        if self._journal is None:
            self._early.append(entry)
            return 0
        entry = self._journal.append(entry)
        for listener in list(self._listeners):
            listener(entry)
        return entry.sequence

    def publish(self, source: str, notice: Notice) -> None:
        """Number it, keep it, send it to who registered."""
        self.note(entry_of(source, notice, time.time()))
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

    def listen(self, listener: Callable[[EventEntry], None]) -> Callable[[], None]:
        """Call `listener` for every event from now on, until what is returned is called."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def watch(self, session: Session) -> None:
        """Send this client every event from now on, of our own program."""
        if session not in self._watchers:
            self._watchers[session] = self.listen(lambda entry: session.send_event(MANOR["manor_event"], entry))

    def unwatch(self, session: Session) -> None:
        """Nothing happens if it does not watch."""
        stop = self._watchers.pop(session, None)
        if stop is not None:
            stop()

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
        self.unwatch(session)
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
