"""A connection made by `manor.client` (link.Link), imported when the first command needs a daemon.

The calls block and belong to one thread; the connection itself lives in a loop of another, so that it stays alive while
the user thinks.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from manor.base.errors import ManorError
from manor.rpc.protocol.errors import ErrorCode
from manor.shell.link import RemoteError, Stream

if TYPE_CHECKING:
    from manor.client import Connection
    from manor.client.events import Event, Events
    from manor.client.services import EventLog
    from manor.client.stream import Stream as ClientStream
    from manor.rpc.protocol.own_records import EventEntry

T = TypeVar("T")
MAX_ZEROS = 1 << 20
"""Bytes of a hole that a reader of plain bytes gets: nobody has asked for a sparse stream there."""


class ClientLink:
    """A connection made by `manor.client`."""

    def __init__(self, uri: str, *, is_read_only: bool = False, keepalive: tuple[float, int] | None = None) -> None:
        """Connect. uri: empty for the default. keepalive: (seconds, tries). Raises RemoteError."""
        from manor.client import open_connection

        self.uri = uri
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="shell-link", daemon=True)
        self._thread.start()
        self._subscriptions: dict[Events, asyncio.Task[Event]] = {}
        self._log: EventLog | None = None
        try:
            opening = open_connection(uri or None, is_read_only=is_read_only, keepalive=keepalive)
            self._connection: Connection = self.run(opening)
        except BaseException:
            self._stop()
            raise

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for work in the loop. Raises RemoteError."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except ManorError as error:
            raise RemoteError(str(error), getattr(error, "code", ErrorCode.SYSTEM_ERROR)) from None
        except BaseException:
            future.cancel()  # a keyboard interrupt leaves nothing behind
            raise

    def call(self, name: str, *arguments: Any) -> Any:
        """As `Link`."""
        if name.startswith("manor_"):
            return self.run(self._own(name, *arguments))
        return self.run(self._connection.call(name, *arguments))

    async def _own(self, name: str, *arguments: Any) -> Any:
        from manor.client.services import own_call

        return await own_call(self._connection, name, *arguments)

    def call_with_files(self, name: str, *arguments: Any, files: Sequence[int]) -> Any:
        """As `Link`."""
        copies: list[int] = []
        try:
            for file in files:
                copies.append(os.dup(file))
        except OSError as error:
            for copy in copies:
                os.close(copy)
            raise RemoteError(f"descriptor {file} cannot be passed: {error.strerror}", ErrorCode.INVALID_ARG) from None
        return self.run(self._connection.call(name, *arguments, files=tuple(copies)))

    def open_stream(self, name: str, *arguments: Any) -> tuple[Any, Stream]:
        """As `Link`."""
        result, stream = self.run(self._connection.open_stream(name, *arguments))
        return result, _LinkStream(self, stream)

    def subscribe(self, kind: str, event: str, about: Any) -> None:
        """As `Link`."""
        from manor.client.events import Events, kind_of

        events = Events(self._connection, kind_of(kind, event), about)
        self.run(events.start())
        self.run(self._listen(events))

    def unsubscribe(self) -> None:
        """As `Link`."""
        for events, task in self._subscriptions.items():
            self._loop.call_soon_threadsafe(task.cancel)
            self.run(events.stop())
        self._subscriptions.clear()

    def next_event(self, timeout: float | None) -> tuple[str, Any] | None:
        """As `Link`."""
        event = self.run(self._next_event(timeout))
        return None if event is None else (event.kind, event.details)

    def close(self) -> None:
        """As `Link`."""
        with contextlib.suppress(RemoteError):
            self.run(self._connection.close())
        self._stop()

    def watch(self, since: int) -> None:
        """Ask for every event after number `since`. Raises RemoteError."""
        self._log = self._connection.services.watch_events(since)
        self.run(self._log.start())

    def next_entry(self) -> EventEntry:
        """The next of them. Raises RemoteError."""
        assert self._log is not None, "watch first"
        return self.run(self._log.__anext__())

    def unwatch(self) -> None:
        """Ask for them no longer. Raises RemoteError."""
        log, self._log = self._log, None
        if log is not None:
            self.run(log.stop())

    async def _listen(self, events: Events) -> None:
        self._subscriptions[events] = asyncio.ensure_future(events.__anext__())

    async def _next_event(self, timeout: float | None) -> Event | None:
        done, _ = await asyncio.wait(
            self._subscriptions.values(), timeout=timeout, return_when=asyncio.FIRST_COMPLETED
        )
        for events, task in self._subscriptions.items():
            if task in done:
                await self._listen(events)
                return task.result()
        return None

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class _LinkStream:
    def __init__(self, link: ClientLink, stream: ClientStream) -> None:
        self._link = link
        self._stream = stream

    def receive(self, timeout: float | None = None) -> bytes | None:
        """As `Stream`."""
        try:
            piece = self._link.run(asyncio.wait_for(self._stream.receive(), timeout))
        except TimeoutError:
            return None
        return bytes(min(piece, MAX_ZEROS)) if isinstance(piece, int) else piece

    def receive_piece(self) -> bytes | int:
        """As `Stream`."""
        return self._link.run(self._stream.receive())

    def send_hole(self, size: int) -> None:
        """As `Stream`."""
        self._link.run(self._stream.send_hole(size))

    def send(self, data: bytes) -> None:
        """As `Stream`."""
        self._link.run(self._stream.send(data))

    def finish(self) -> None:
        """As `Stream`."""
        self._link.run(self._stream.finish())

    def abort(self) -> None:
        """As `Stream`."""
        self._link.run(self._stream.abort())
