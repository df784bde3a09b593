"""A connection that is used: calls that are awaited, events that arrive, streams that are read and written.

What `manor.client` and the driver of remote daemons stand on. One asyncio loop owns a `Caller`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from manor.base.errors import ApiError, HostError, ManorError, ProtocolError, StateError
from manor.rpc.connection import ClientConnection, StreamState
from manor.rpc.message import (
    CallFailed,
    Event,
    Message,
    Ping,
    Pong,
    Reply,
    StreamAborted,
    StreamData,
    StreamEnd,
    StreamFinished,
    StreamHole,
)
from manor.rpc.protocol.catalog import Procedure
from manor.rpc.protocol.errors import ErrorCode, ErrorOrigin
from manor.rpc.protocol.records import ErrorRecord
from manor.rpc.transport import Channel

STREAM_QUEUE = 64
"""Pieces of stream data that may wait for their reader before the connection stops being read."""

CROWDED_WAIT = 2.0
"""Seconds after which a connection is read once more all the same, so that the other end's pings are answered."""


class RemoteError(ApiError):
    """An error of the other end. code, domain: libvirt's numbers; record: all that was sent."""

    def __init__(self, record: ErrorRecord) -> None:
        super().__init__(record.code, record.origin, record.message or "the other end gave no reason")
        self.record = record


class Silence(HostError):
    """The other end has not answered questions whether it lives."""


class Caller:
    """Calls over a channel. `start` first, `close` last."""

    def __init__(self, channel: Channel, on_event: Callable[[Event], None] | None = None) -> None:
        """on_event: called in the loop for each event; it must not block and not raise."""
        self._channel = channel
        self._connection = ClientConnection()
        self._on_event = on_event
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self._streams: dict[int, Stream] = {}
        self._task: asyncio.Task[None] | None = None
        self._keepalive: asyncio.Task[None] | None = None
        self._unanswered = 0
        self._room = asyncio.Event()
        self._end: ManorError | None = None
        self.closed: asyncio.Future[ManorError | None] = asyncio.get_running_loop().create_future()
        """Done when the connection is over, with the reason if it was not `close`."""

    @property
    def is_open(self) -> bool:
        """Whether calls can be made."""
        return self._end is None

    @property
    def can_pass_files(self) -> bool:
        """Whether calls can take file descriptors along."""
        return self._channel.can_pass_files

    def start(self) -> None:
        """Start reading."""
        self._task = asyncio.create_task(self._read(), name="rpc-reader")

    def start_keepalive(self, interval: float, count: int) -> None:
        """Ask every `interval` seconds whether the other end lives; give up after `count` questions unanswered."""
        if self._keepalive is None:
            self._keepalive = asyncio.create_task(self._keep_alive(interval, count), name="rpc-keepalive")

    async def call(self, procedure: Procedure, *arguments: Any, files: tuple[int, ...] = ()) -> Any:
        """Call and wait for the result. Raises RemoteError, HostError, ProtocolError, EncodeError.

        files: descriptors, which are closed when sent.
        """
        reply = await self._call(procedure, arguments, files)
        for file in reply.files:
            os.close(file)
        return reply.value

    async def call_for_files(self, procedure: Procedure, *arguments: Any) -> tuple[Any, tuple[int, ...]]:
        """As `call`, for a procedure that answers with descriptors, which are the caller's."""
        reply = await self._call(procedure, arguments, ())
        return reply.value, reply.files

    async def open_stream(self, procedure: Procedure, *arguments: Any) -> tuple[Any, Stream]:
        """As `call`, for a procedure that opens a stream."""
        # Taken now: the stream may have failed by the time the reply is looked at.
        stream: list[Stream] = []
        reply = await self._call(procedure, arguments, (), stream)
        return reply.value, stream[0]

    async def forward(
        self, procedure: Procedure, arguments: Sequence[Any], files: tuple[int, ...] = ()
    ) -> tuple[Reply, Stream | None]:
        """Any call, on somebody's behalf: the reply, whose descriptors are the caller's, and the stream it opened.

        files: as for `call`. Raises as `call` does.
        """
        stream: list[Stream] = []
        reply = await self._call(procedure, tuple(arguments), files, stream)
        return reply, stream[0] if stream else None

    async def _call(
        self,
        procedure: Procedure,
        arguments: tuple[Any, ...],
        files: tuple[int, ...],
        streams: list[Stream] | None = None,
    ) -> Reply:
        if self._end is not None:
            for file in files:
                os.close(file)
            raise self._end
        serial = self._connection.call(procedure, arguments, files)
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[serial] = future
        self._room.set()
        if procedure.stream:
            self._streams[serial] = Stream(self, serial)
            if streams is not None:
                streams.append(self._streams[serial])
        self._send()
        try:
            await self._channel.drain()
            return await future
        except asyncio.CancelledError:
            # The answer still comes; whatever it brings is nobody's.
            future.cancel()
            raise

    async def close(self) -> None:
        """Close the connection. Calls that wait get HostError."""
        self._finish(None)
        for task in (self._task, self._keepalive):
            if task is not None and task is not asyncio.current_task():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        await self._channel.close()
        self._connection.close()

    def _send(self) -> None:
        self._channel.send(self._connection.take_outgoing())

    async def _read(self) -> None:
        reason: ManorError = HostError("the other end closed the connection")
        try:
            while True:
                await self._wait_room()
                data, files = await self._channel.receive()
                if not data:
                    break
                for message in self._connection.receive(data, files):
                    self._on_message(message)
                self._send()
        except (ProtocolError, HostError) as error:
            reason = error
        self._finish(reason)
        await self._channel.close()

    async def _wait_room(self) -> None:
        """Wait while a stream has much unread data, unless somebody waits for an answer that is behind it."""
        while not self._waiting and any(stream.unread > STREAM_QUEUE for stream in self._streams.values()):
            self._room.clear()
            try:
                await asyncio.wait_for(self._room.wait(), CROWDED_WAIT)
            except TimeoutError:
                return

    def _on_message(self, message: Message) -> None:
        match message:
            case Reply(serial=serial):
                future = self._waiting.pop(serial)
                if future.done():
                    self._abandon(message)
                else:
                    future.set_result(message)
            case CallFailed(serial=serial, error=error):
                future = self._waiting.pop(serial)
                self._streams.pop(serial, None)
                if not future.done():
                    future.set_exception(RemoteError(error))
            case Event():
                if self._on_event is not None:
                    self._on_event(message)
            case StreamData() | StreamHole() | StreamEnd() | StreamFinished() | StreamAborted():
                stream = self._streams.get(message.serial)
                if stream is not None:
                    stream.accept(message)
                if isinstance(message, StreamFinished | StreamAborted):
                    self._streams.pop(message.serial, None)
            case Ping():
                pass
            case Pong():
                self._unanswered = 0

    def _abandon(self, reply: Reply) -> None:
        """Undo an answer whose caller has gone."""
        for file in reply.files:
            os.close(file)
        if self._streams.pop(reply.serial, None) is not None:
            self._connection.abort_stream(reply.serial)

    async def _keep_alive(self, interval: float, count: int) -> None:
        while self._end is None:
            if self._unanswered >= count:
                self._finish(Silence(f"the other end has not answered for {interval * count:g} s"))
                await self._channel.close()
                return
            self._unanswered += 1
            self._connection.send_ping()
            self._send()
            await asyncio.sleep(interval)

    def _finish(self, reason: ManorError | None) -> None:
        if self._end is not None:
            return
        self._end = reason or HostError("the connection is closed")
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(self._end)
        self._waiting.clear()
        for stream in self._streams.values():
            stream.lose(self._end)
        self._streams.clear()
        if not self.closed.done():
            self.closed.set_result(reason)


class Stream:
    """A stream that a call opened. Iterate over it for the data; `finish` or `abort` ends it."""

    def __init__(self, caller: Caller, serial: int) -> None:
        self._caller = caller
        self._serial = serial
        self._queue: asyncio.Queue[bytes | int | None] = asyncio.Queue()
        self._is_at_end = False
        self._is_unwanted = False
        self._confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # A failure that nobody waits for any more is no event of its own.
        self._confirmed.add_done_callback(lambda future: future.cancelled() or future.exception())

    async def receive(self) -> bytes | int:
        """The next piece: bytes, or the size of a hole; b"" at the end. Raises RemoteError, HostError."""
        if self._is_at_end:
            return b""
        piece = await self._queue.get()
        self._caller._room.set()
        if piece is None:
            self._is_at_end = True
            if self._confirmed.done():
                self._confirmed.result()
            return b""
        return piece

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._pieces()

    async def _pieces(self) -> AsyncIterator[bytes]:
        while piece := await self.receive():
            yield bytes(piece) if isinstance(piece, int) else piece

    async def send(self, data: bytes) -> None:
        """Send data; waits while the other end does not take it. Raises RemoteError, HostError."""
        self._check()
        self._caller._connection.send_stream_data(self._serial, data)
        self._caller._send()
        await self._caller._channel.drain()

    async def send_hole(self, size: int) -> None:
        """Send `size` bytes of zeros without their bytes, to a stream opened as sparse."""
        self._check()
        self._caller._connection.send_stream_hole(self._serial, size)
        self._caller._send()
        await self._caller._channel.drain()

    async def finish(self) -> None:
        """End the stream in good order, and wait until the other end has all. Raises RemoteError, HostError."""
        self._check()
        self._discard()
        self._caller._connection.finish_stream(self._serial)
        self._caller._send()
        await asyncio.shield(self._confirmed)

    async def abort(self) -> None:
        """Give the stream up. Never fails: an ended stream stays ended."""
        if self._state is not StreamState.OPEN or not self._caller.is_open:
            return
        self._discard()
        self._caller._connection.abort_stream(self._serial)
        self._caller._send()
        with contextlib.suppress(ApiError, HostError, ProtocolError):
            await asyncio.shield(self._confirmed)

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            await self.abort()
        elif self._state is StreamState.OPEN:
            await self.finish()

    @property
    def _state(self) -> StreamState:
        return self._caller._connection.stream_state(self._serial)

    def _check(self) -> None:
        if self._confirmed.done():
            self._confirmed.result()
        if self._state is not StreamState.OPEN:
            raise StateError("stream", self._state.value, [StreamState.OPEN.value])

    def _discard(self) -> None:
        """Stop keeping data: whoever ends the stream reads no more, and its reader must not block the connection."""
        self._is_unwanted = True
        while not self._queue.empty():
            self._queue.get_nowait()
        self._queue.put_nowait(None)
        self._caller._room.set()

    @property
    def unread(self) -> int:
        """Pieces that wait for `receive`."""
        return self._queue.qsize()

    def accept(self, message: StreamData | StreamHole | StreamEnd | StreamFinished | StreamAborted) -> None:
        """Called by the caller's reader."""
        match message:
            case StreamData(data=data):
                self._keep(data)
            case StreamHole(size=size):
                self._keep(size)
            case StreamEnd():
                self._keep(None)
            case StreamFinished():
                self._confirm(None)
            case StreamAborted(error=error):
                gone = ErrorRecord(ErrorCode.OPERATION_ABORTED, ErrorOrigin.STREAMS, "the stream was aborted")
                self._confirm(RemoteError(error or gone))

    def _keep(self, piece: bytes | int | None) -> None:
        if not self._is_unwanted:
            self._queue.put_nowait(piece)

    def _confirm(self, error: ManorError | None) -> None:
        if not self._confirmed.done():
            if error is None:
                self._confirmed.set_result(None)
            else:
                self._confirmed.set_exception(error)
        self._queue.put_nowait(None)

    def lose(self, reason: ManorError) -> None:
        """The connection is gone."""
        self._confirm(reason)
