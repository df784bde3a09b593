"""Events as they come: `async with connection.events("lifecycle") as events: async for event in events: ...`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, NamedTuple

from manor.base.errors import HostError, ManorError
from manor.rpc.message import Event as EventMessage
from manor.rpc.protocol.catalog import MANOR, REMOTE
from manor.rpc.protocol.events import BY_MESSAGE, EVENTS, REGISTER, EventKind

if TYPE_CHECKING:
    from manor.client.connection import Connection
    from manor.client.services import EventLog

QUEUE = 10_000
"""Events that may wait for their reader; after that the oldest are dropped, and `lost` counts them."""

_ORPHANS = 1000


class Event(NamedTuple):
    """An event. object: domain, network, ...; kind: lifecycle, ...; details: the message, with names.

    `subject` is the record of what it is about.
    """

    object: str
    kind: str
    details: Any

    @property
    def subject(self) -> Any:
        """The domain, network, pool, device or secret, as a record."""
        return getattr(self.details, _SUBJECTS.get(self.object, self.object))


_SUBJECTS = {"node_device": "device", "storage_pool": "pool"}


class Events:
    """A subscription to one kind of event, for all objects or one. An asynchronous context and iterator."""

    def __init__(self, connection: Connection, kind: EventKind, record: Any | None) -> None:
        self._connection = connection
        self._kind = kind
        self._record = record
        self._callback: int | None = None
        self._queue: asyncio.Queue[Event | ManorError] = asyncio.Queue()
        self.lost = 0
        """Events that were dropped because nobody read them."""

    async def __aenter__(self) -> Events:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Ask for the events. Raises RemoteError, HostError."""
        dispatcher = self._connection.dispatcher
        dispatcher.registering += 1
        try:
            register, _ = REGISTER[self._kind.object]
            self._callback = await self._connection.call(register, self._kind.number, self._record)
            dispatcher.add(self._kind.object, self._callback, self)
        finally:
            dispatcher.registering -= 1

    async def stop(self) -> None:
        """Ask for them no longer."""
        callback, self._callback = self._callback, None
        if callback is None:
            return
        self._connection.dispatcher.remove(self._kind.object, callback)
        if self._connection.is_alive:
            _, deregister = REGISTER[self._kind.object]
            await self._connection.call(deregister, callback)

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        """The next event. Raises HostError or ProtocolError when the connection is lost."""
        found = await self._queue.get()
        if isinstance(found, ManorError):
            self._queue.put_nowait(found)
            raise found
        return found

    def put(self, event: Event) -> None:
        """Called by the dispatcher."""
        if self._queue.qsize() >= QUEUE:
            self._queue.get_nowait()
            self.lost += 1
        self._queue.put_nowait(event)

    def end(self, reason: ManorError | None) -> None:
        """Called by the dispatcher: the connection is over."""
        self._queue.put_nowait(reason or HostError("the connection is closed"))


class Dispatcher:
    """Event messages -> the subscriptions that they are for, by the number that registering gave."""

    def __init__(self) -> None:
        self._subscriptions: dict[tuple[str, int], Events] = {}
        self._orphans: list[tuple[str, int, Event]] = []
        self.registering = 0
        """Registrations under way: an event may be here before the coroutine that waits for its number runs."""
        self.logs: list[EventLog] = []
        """Those that want every event, of Manor's own program."""
        self.close_reason: int | None = None
        """libvirt's virConnectCloseReason, once the daemon has told it."""

    def accept(self, message: EventMessage) -> None:
        """An event has come."""
        if message.procedure is REMOTE["connect_event_connection_closed"]:
            self.close_reason = message.arguments.reason
            return
        if message.procedure is MANOR["manor_event"]:
            for log in self.logs:
                log.put(message.arguments.entry)
            return
        kind = BY_MESSAGE.get(message.procedure.number)
        callback = getattr(message.arguments, "callback_id", None)
        if kind is None or callback is None or message.procedure.program is not REMOTE:
            return
        event = Event(kind.object, kind.name, message.arguments)
        subscription = self._subscriptions.get((kind.object, callback))
        if subscription is not None:
            subscription.put(event)
        elif self.registering and len(self._orphans) < _ORPHANS:
            self._orphans.append((kind.object, callback, event))

    def add(self, kind: str, callback: int, subscription: Events) -> None:
        """Deliver from now on, and what came before."""
        self._subscriptions[kind, callback] = subscription
        orphans, self._orphans = self._orphans, []
        for orphan in orphans:
            if orphan[:2] == (kind, callback):
                subscription.put(orphan[2])
            elif self.registering > 1:
                self._orphans.append(orphan)

    def remove(self, kind: str, callback: int) -> None:
        """Deliver no longer."""
        self._subscriptions.pop((kind, callback), None)

    def end(self, reason: ManorError | None) -> None:
        """The connection is over."""
        for subscription in self._subscriptions.values():
            subscription.end(reason)
        for log in self.logs:
            log.end(reason)


def kind_of(kind: str, event: str) -> EventKind:
    """Raises ValueError for a kind of event that there is not."""
    found = EVENTS.get((kind, event))
    if found is None:
        known = ", ".join(name for object_, name in EVENTS if object_ == kind)
        raise ValueError(f"{kind} has no event {event}; there are {known}")
    return found
