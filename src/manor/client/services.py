"""What manord gives beyond libvirt: plans, jobs, events since a number, statistics over time, the past of consoles and
of definitions, and a trash.

    async with connect() as connection:
        services = connection.services
        plan = await services.plan("domain_set_vcpus_flags", domain, 4, 2)
        async with services.watch_events(since=0) as events:
            async for entry in events:
                print(entry.sequence, entry.name, entry.what)

Another daemon has none of it: every call then raises RemoteError with the code NO_SUPPORT, in one sentence.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, NamedTuple

from manor.base.errors import HostError, ManorError
from manor.client.handle import Handle, UuidHandle
from manor.client.network import Network
from manor.client.storage import StoragePool, Volume
from manor.client.stream import Stream
from manor.rpc.caller import RemoteError
from manor.rpc.protocol.catalog import REMOTE
from manor.rpc.protocol.errors import ErrorCode, ErrorOrigin
from manor.rpc.protocol.own_records import (
    EventEntry,
    JobRecord,
    Plan,
    Problem,
    RevisionInfo,
    Series,
    TrashEntry,
)
from manor.rpc.protocol.records import ErrorRecord

if TYPE_CHECKING:
    from manor.client.connection import Connection
    from manor.client.domain import Domain

PAGE = 1000
"""Events that are fetched at a time."""
QUEUE = 100_000
"""Events that may wait for their reader; after that the oldest are dropped, and `is_complete` says so."""
WATCH, WRITE, ALONE, TAKE_OVER = range(4)
"""How `open_console` comes: to read, to write with others, to write alone, to write in place of others."""


class EventPage(NamedTuple):
    """is_complete: whether none is missing. latest: number of the latest event that there is."""

    is_complete: bool
    latest: int
    events: list[EventEntry]


class StatisticsHistory(NamedTuple):
    """step: seconds of a bucket. times: where buckets begin, seconds since the Epoch."""

    step: int
    times: list[float]
    series: list[Series]


class ConsoleText(NamedTuple):
    """A part of what a console printed. first: the oldest position kept; start: of data; end: of all there is."""

    first: int
    start: int
    end: int
    data: bytes


class Services:
    """Of one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    # Errors and plans.

    async def explain(self, error: RemoteError) -> Problem | None:
        """What is known of an error that this connection's calls have just given; None if it is too long ago."""
        found: Problem | None = await self._call("explain", error.code, str(error))
        return found

    async def plan(self, procedure: str, *arguments: Any) -> Plan:
        """What a call of libvirt's that changes a domain would do.

        procedure, arguments: as for `Connection.call`; a Domain may stand for its record.
        """
        called = REMOTE[procedure]
        values = [each.record if isinstance(each, Handle) else each for each in arguments]
        found: Plan = await self._call("plan", called.number, bytes(called.encode_arguments(values)))
        return found

    async def plan_definition(self, xml: str) -> Plan:
        """What defining a domain would do."""
        return await self.plan("domain_define_xml", xml)

    # Jobs.

    async def jobs(self) -> list[JobRecord]:
        """Those that run, and the latest that are over."""
        return list(await self._call("jobs"))

    async def job(self, number: int) -> JobRecord:
        """One of them."""
        found: JobRecord = await self._call("job", number)
        return found

    async def wait_job(self, number: int, timeout: float = 3600.0) -> JobRecord:
        """Wait until it is over, at most `timeout` seconds; what it is then."""
        found: JobRecord = await self._call("job_wait", number, timeout)
        return found

    async def cancel_job(self, number: int) -> None:
        """Stop it; what it leaves, `JobRecord.leaves` says."""
        await self._call("job_cancel", number)

    async def create_volume(self, pool: StoragePool, xml: str, source: Volume | None = None, flags: int = 0) -> int:
        """Begin to make a volume, as a copy of `source` if it is given; the number of the job."""
        number: int = await self._call(
            "volume_create_job", pool.record, xml, None if source is None else source.record, flags
        )
        return number

    async def wipe_volume(self, volume: Volume) -> int:
        """Begin to overwrite a volume with zeros; the number of the job."""
        number: int = await self._call("volume_wipe_job", volume.record)
        return number

    # Events.

    async def events_since(self, sequence: int, limit: int = PAGE) -> EventPage:
        """Events after number `sequence`, at most `limit` (and 1000)."""
        is_complete, latest, events = await self._call("events", sequence, limit)
        return EventPage(bool(is_complete), latest, list(events))

    def watch_events(self, since: int | None = None) -> EventLog:
        """All events after number `since` (None: from now on), and all that come."""
        return EventLog(self._connection, since)

    # Statistics and consoles.

    async def statistics(
        self, domain: Domain, start: float = 0.0, end: float = 0.0, step: int = 0
    ) -> StatisticsHistory:
        """Statistics between two times (seconds since the Epoch; end 0: now), in buckets of about `step` seconds.

        step: 0 for what reaches back to start. A step below 10 makes manord look every second for half a minute.
        """
        found_step, times, series = await self._call("statistics_history", domain.record, start, end, step)
        return StatisticsHistory(found_step, list(times), list(series))

    async def console_log(self, domain: Domain, since: int = 0, limit: int = 1 << 20) -> ConsoleText:
        """What the serial console printed, from a position, or so many bytes before the end if it is negative."""
        return ConsoleText(*await self._call("console_log", domain.record, since, limit))

    async def follow_console(self, domain: Domain, since: int = 0) -> Stream:
        """What it printed from there on, and prints from now on until the domain ends."""
        _, stream = await self._open("console_follow", domain.record, since)
        return stream

    async def open_console(self, domain: Domain, device: str | None = None, mode: int = WRITE) -> Stream:
        """Its console: the latest output, all further output, and keys the other way. mode: WATCH, WRITE, ..."""
        _, stream = await self._open("console_open", domain.record, device, mode)
        return stream

    # What was.

    async def revisions(self, thing: UuidHandle[Any]) -> list[RevisionInfo]:
        """The states of a domain's, network's or pool's definition, the oldest first."""
        return list(await self._call("revisions", *_object(thing)))

    async def revision(self, thing: UuidHandle[Any], number: int, *, secure: bool = False) -> str:
        """XML: what it was. secure: passwords too."""
        return str(await self._call("revision", *_object(thing), number, int(secure)))

    async def revision_diff(self, thing: UuidHandle[Any], old: int, new: int, *, secure: bool = False) -> str:
        """What changed between two, as a unified diff."""
        return str(await self._call("revision_diff", *_object(thing), old, new, int(secure)))

    async def revert(self, thing: UuidHandle[Any], number: int) -> None:
        """Define what was; that is a new revision."""
        await self._call("revision_revert", *_object(thing), number)

    async def trash(self) -> list[TrashEntry]:
        """What was deleted, the latest first."""
        return list(await self._call("trash"))

    async def restore(self, number: int) -> TrashEntry:
        """Bring something back from the trash."""
        found: TrashEntry = await self._call("trash_restore", number)
        return found

    async def purge(self, number: int) -> None:
        """Delete something in the trash for good."""
        await self._call("trash_purge", number)

    async def trash_volume(self, volume: Volume) -> int:
        """Move a volume to the trash; its number there."""
        number: int = await self._call("trash_volume", volume.record)
        return number

    async def _call(self, name: str, *arguments: Any) -> Any:
        return await own_call(self._connection, f"manor_{name}", *arguments)

    async def _open(self, name: str, *arguments: Any) -> tuple[Any, Stream]:
        try:
            return await self._connection.open_stream(f"manor_{name}", *arguments)
        except RemoteError as error:
            raise not_offered(error) from None


class EventLog:
    """Events by their numbers. An asynchronous context and iterator.

    is_complete: whether no event is missing since the number that was asked for; known after the start.
    """

    def __init__(self, connection: Connection, since: int | None) -> None:
        self._connection = connection
        self._since = since
        self._waiting: deque[EventEntry | ManorError] = deque()
        self._arrived = asyncio.Event()
        self.is_complete = True
        self.last = since or 0
        """Number of the latest event that was given."""

    async def __aenter__(self) -> EventLog:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Ask for the events. Raises RemoteError, HostError."""
        dispatcher = self._connection.dispatcher
        dispatcher.logs.append(self)  # before the call: what comes from now on is kept
        try:
            latest: int = await own_call(self._connection, "manor_event_watch")
            if self._since is None:
                self.last = latest
                return
            old: list[EventEntry] = []
            while True:
                page = await own_call(self._connection, "manor_events", self.last, PAGE)
                self.is_complete = self.is_complete and bool(page.is_complete)
                old += page.events
                if len(page.events) < PAGE:
                    break
                self.last = page.events[-1].sequence
        except BaseException:
            dispatcher.logs.remove(self)
            raise
        known = {entry.sequence for entry in old}
        fresh = [each for each in self._waiting if not isinstance(each, EventEntry) or each.sequence not in known]
        self._waiting = deque([*old, *fresh])
        self.last = self._since
        self._arrived.set()

    async def stop(self) -> None:
        """Ask for them no longer."""
        dispatcher = self._connection.dispatcher
        if self in dispatcher.logs:
            dispatcher.logs.remove(self)
        if self._connection.is_alive and not dispatcher.logs:
            await own_call(self._connection, "manor_event_unwatch")

    def __aiter__(self) -> AsyncIterator[EventEntry]:
        return self

    async def __anext__(self) -> EventEntry:
        """The next event. Raises HostError or ProtocolError when the connection is lost."""
        while True:
            while not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
            found = self._waiting[0]
            if isinstance(found, ManorError):
                raise found
            self._waiting.popleft()
            if found.sequence > self.last:
                self.last = found.sequence
                return found

    def put(self, entry: EventEntry) -> None:
        """Called by the dispatcher."""
        if len(self._waiting) >= QUEUE:
            self._waiting.popleft()
            self.is_complete = False
        self._waiting.append(entry)
        self._arrived.set()

    def end(self, reason: ManorError | None) -> None:
        """Called by the dispatcher: the connection is over."""
        self._waiting.append(reason or HostError("the connection is closed"))
        self._arrived.set()


async def own_call(connection: Connection, procedure: str, *arguments: Any) -> Any:
    """Call a procedure of Manor's own program. Raises RemoteError, with NO_SUPPORT where the daemon has no such."""
    try:
        return await connection.call(procedure, *arguments)
    except RemoteError as error:
        raise not_offered(error) from None


def not_offered(error: RemoteError) -> RemoteError:
    """The error, in one sentence if it says that the daemon is not manord, or an older one."""
    if error.code != ErrorCode.RPC or not ("program" in str(error) or "unknown procedure" in str(error)):
        return error
    return RemoteError(
        ErrorRecord(
            ErrorCode.NO_SUPPORT,
            ErrorOrigin.NONE,
            "this function is not supported by the connection driver: the daemon is not manord, or an older one",
        )
    )


def _object(thing: UuidHandle[Any]) -> tuple[int, bytes]:
    """(kind, UUID)."""
    kind = 1 if isinstance(thing, Network) else 2 if isinstance(thing, StoragePool) else 0
    return kind, thing.uuid.bytes
