"""A client as a server sees it: calls that a handler answers, events and streams that are sent.

The handler is a function of the session and a `Call`. What it returns is the reply; an awaitable becomes a task, so
that slow calls pass each other; an `ApiError` becomes an error reply. One asyncio loop owns a session.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from typing import Any, NamedTuple

from manor.base.errors import ApiError, HostError, ManorError, ProtocolError, StateError
from manor.rpc.connection import ServerConnection, StreamState
from manor.rpc.eager import Unfinished, begin
from manor.rpc.message import Call, Message, Pong, StreamAborted, StreamData, StreamEnd, StreamFinished, StreamHole
from manor.rpc.protocol.catalog import Procedure
from manor.rpc.protocol.errors import ErrorCode, ErrorLevel, ErrorOrigin
from manor.rpc.protocol.records import ErrorRecord
from manor.rpc.transport import Channel, Peer
from manor.rpc.xdr import EncodeError
from manor.trace.event import declare

CALLS_MAX = 5
"""Calls of one client that are worked on at a time; the rest wait in its socket. libvirt 9.0 has the same default."""

STREAM_QUEUE = 64
"""Pieces of an upload that may wait for the handler before the client is no longer read."""

TURN = 64
"""Messages of one client before others have their turn."""

EVENTS_MAX = 16 * 1024 * 1024
"""Bytes of events that may wait for a client to read them."""

call_failed = declare("rpc_call_failed", serial=int, procedure=str, message=str)


class Answer(NamedTuple):
    """What a handler returns to send descriptors, or to go on once the reply is on its way.

    then: called with the session and the stream that the call opened (None if it opens none), after the reply.
    """

    value: Any = None
    files: tuple[int, ...] = ()
    then: Callable[[Session, SessionStream | None], Awaitable[None]] | None = None


Handler = Callable[["Session", Call], Any]


class Session:
    """One client. `run` serves it until it goes."""

    def __init__(
        self,
        channel: Channel,
        handler: Handler,
        *,
        is_read_only: bool = False,
        calls_max: int = CALLS_MAX,
        on_message: Callable[[Session], None] | None = None,
    ) -> None:
        """on_message: called whenever the client was heard of, for idle timers."""
        self._channel = channel
        self._handler = handler
        self._connection = ServerConnection(is_read_only=is_read_only)
        self._calls_max = calls_max
        self._on_message = on_message
        self._tasks: set[asyncio.Task[None]] = set()
        self._streams: dict[int, SessionStream] = {}
        self._changed = asyncio.Event()
        self._unanswered = 0
        self._keepalive: asyncio.Task[None] | None = None
        self._closing: asyncio.Future[None] | None = None
        self._is_over = False
        self._reason: ManorError | None = None
        self.has_spoken = False
        """Whether the client has said anything that could be understood."""
        self.state: Any = None
        """The handler's own: what this client has opened, registered, locked."""

    @property
    def peer(self) -> Peer | None:
        """Who the client is, on a unix socket."""
        return self._channel.peer

    @property
    def can_pass_files(self) -> bool:
        """Whether replies can carry descriptors."""
        return self._channel.can_pass_files

    @property
    def is_read_only(self) -> bool:
        """Whether calls that change something are refused. A client may ask for it when it opens its connection."""
        return self._connection.is_read_only

    @is_read_only.setter
    def is_read_only(self, value: bool) -> None:
        self._connection.is_read_only = value

    async def run(self) -> ManorError | None:
        """Serve the client until it goes, and close the channel. The error that ended it, None if it left in order."""
        try:
            while not self._is_over:
                await self._wait_room()
                data, files = await self._channel.receive()
                if not data:
                    break
                self._unanswered = 0
                if self._on_message is not None:
                    self._on_message(self)
                await self._take(self._connection.receive(data, files))
        except (ProtocolError, HostError) as error:
            self._reason = self._reason or error
            self._send()
        finally:
            await self._end()
        return self._reason

    def send_event(self, procedure: Procedure, *arguments: Any) -> None:
        """Send an event. Raises EncodeError. A client that asks for events and does not read them is cut off."""
        if self._is_over:
            return
        self._connection.send_event(procedure, arguments)
        self._send()
        if self._channel.queued > EVENTS_MAX:
            self.close(HostError(f"it does not read its events; {self._channel.queued} bytes wait"))

    def start_keepalive(self, interval: float, count: int) -> None:
        """Ping every `interval` seconds a client that is silent; close it after `count` without a word."""
        if self._keepalive is None and not self._is_over:
            self._keepalive = asyncio.create_task(self._keep_alive(interval, count), name="rpc-keepalive")

    def close(self, reason: ManorError | None = None) -> None:
        """End the session: what was answered is still sent, then `run` returns `reason`."""
        if not self._is_over:
            self._is_over = True
            self._reason = reason
            self._changed.set()
            self._closing = asyncio.ensure_future(self._channel.close())

    async def _take(self, messages: Iterator[Message]) -> None:
        """Do what the client says, as fast as its limits allow: what it may not yet ask stays undecoded."""
        for count, message in enumerate(messages, 1):
            self.has_spoken = True
            self._accept(message)
            self._send()
            if self._is_over:
                break
            if self._connection.pending >= self._calls_max or self._channel.queued:
                await self._wait_room()
            if count % TURN == 0:
                await asyncio.sleep(0)
        self._send()

    async def _end(self) -> None:
        self._is_over = True
        current = asyncio.current_task()
        tasks = [task for task in (*self._tasks, self._keepalive) if task is not None and task is not current]
        for stream in list(self._streams.values()):
            stream.lose()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._closing is not None:
            await self._closing
        await self._channel.close()
        self._connection.close()

    def _send(self) -> None:
        self._channel.send(self._connection.take_outgoing())

    async def _wait_room(self) -> None:
        """Wait while the client has enough calls under way, unread uploads, or answers that it does not fetch."""
        await self._channel.drain()
        while not self._is_over and (
            self._connection.pending >= self._calls_max
            or any(stream.unread > STREAM_QUEUE for stream in self._streams.values())
        ):
            self._changed.clear()
            await self._changed.wait()

    def _accept(self, message: Message) -> None:
        match message:
            case Call():
                self._on_call(message)
            case StreamData() | StreamHole() | StreamEnd() | StreamFinished() | StreamAborted():
                stream = self._streams.get(message.serial)
                if stream is not None:
                    stream.accept(message)
            case Pong():
                pass

    def _on_call(self, call: Call) -> None:
        try:
            result = self._handler(self, call)
            if inspect.iscoroutine(result):
                result = begin(result)
        except ApiError as error:
            self._fail(call, error)
        except Exception as error:  # noqa: BLE001 - the edge where a bug in a handler becomes an answer
            self._fail(call, _internal(call, error))
        else:
            if isinstance(result, Unfinished):
                result.adopt(self._keep(self._work(call, result.rest)))
            elif inspect.isawaitable(result):
                self._keep(self._work(call, result))
            else:
                self._reply(call, result)

    def _keep(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do it in a task of this session's."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _work(self, call: Call, result: Awaitable[Any]) -> None:
        try:
            value = await result
        except ApiError as error:
            self._fail(call, error)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - as above
            self._fail(call, _internal(call, error))
        else:
            self._reply(call, value)
        self._send()
        self._changed.set()

    def _reply(self, call: Call, result: Any) -> None:
        answer = result if isinstance(result, Answer) else Answer(result)
        if answer.files and not self.can_pass_files:
            for file in answer.files:
                os.close(file)
            self._fail(call, ApiError(ErrorCode.NO_SUPPORT, ErrorOrigin.RPC, "this connection cannot pass files"))
            return
        try:
            self._connection.reply(call, answer.value, answer.files)
        except EncodeError as error:
            if call_failed.on:
                call_failed(call.serial, call.procedure.name, str(error))
            return
        stream = None
        if call.procedure.stream:
            stream = self._streams[call.serial] = SessionStream(self, call.serial)
        if answer.then is not None or stream is not None:
            self._keep(self._go_on(answer.then, stream))

    async def _go_on(
        self, then: Callable[[Session, SessionStream | None], Awaitable[None]] | None, stream: SessionStream | None
    ) -> None:
        """Run what follows a reply; if it fails, its stream fails."""
        error: ManorError | None = None
        try:
            if then is None:
                raise ApiError(ErrorCode.INTERNAL_ERROR, ErrorOrigin.STREAMS, "internal error: a stream without data")
            await then(self, stream)
        except ManorError as raised:
            error = raised
        except asyncio.CancelledError:
            raise
        except Exception as raised:  # noqa: BLE001 - as above
            error = ApiError(ErrorCode.INTERNAL_ERROR, ErrorOrigin.STREAMS, f"internal error: {raised!r}")
        if stream is not None and not self._is_over:
            if error is not None:
                stream.fail(error)
            else:
                await stream.wait_finished()

    def _fail(self, call: Call, error: ApiError) -> None:
        if call_failed.on:
            call_failed(call.serial, call.procedure.name, error.message)
        self._connection.fail(call, error_record(error))

    async def _keep_alive(self, interval: float, count: int) -> None:
        while True:
            await asyncio.sleep(interval)
            if self._unanswered >= count:
                self.close(HostError(f"it has not answered for {interval * count:g} s"))
                return
            self._unanswered += 1
            self._connection.send_ping()
            self._send()


def error_record(error: ApiError) -> ErrorRecord:
    """The record of an error: as another daemon sent it, where it comes from one."""
    record = getattr(error, "record", None)
    if isinstance(record, ErrorRecord):
        return record
    return ErrorRecord(error.code, error.domain, error.message, ErrorLevel.ERROR, str1="%s", str2=error.message)


def _internal(call: Call, error: BaseException) -> ApiError:
    return ApiError(ErrorCode.INTERNAL_ERROR, ErrorOrigin.RPC, f"internal error: {call.procedure.name}: {error!r}")


class SessionStream:
    """The server's end of a stream."""

    def __init__(self, session: Session, serial: int) -> None:
        self._session = session
        self._serial = serial
        self._queue: asyncio.Queue[bytes | int | None] = asyncio.Queue()
        self._ended = asyncio.Event()
        self._is_aborted = False
        self._is_at_end = False

    @property
    def is_open(self) -> bool:
        """Whether the client has neither finished nor aborted it."""
        return self._state is StreamState.OPEN

    @property
    def unread(self) -> int:
        """Pieces that wait for `receive`."""
        return self._queue.qsize()

    @property
    def _state(self) -> StreamState:
        return self._session._connection.stream_state(self._serial)

    async def receive(self) -> bytes | int:
        """The next piece of an upload: bytes, or the size of a hole; b"" once the client has finished.

        Raises StateError if the client aborts it or goes. After b"" say `confirm` or `fail`.
        """
        if not self._is_at_end:
            piece = await self._queue.get()
            self._session._changed.set()
            if piece is not None:
                return piece
            self._is_at_end = True
        if self._is_aborted:
            raise StateError("stream", "aborted")
        return b""

    async def send(self, data: bytes) -> None:
        """Send data; waits while the client does not take it. Raises StateError once the client has ended it."""
        self._check()
        self._session._connection.send_stream_data(self._serial, data)
        self._session._send()
        await self._session._channel.drain()

    async def send_hole(self, size: int) -> None:
        """Send zeros without their bytes, to a client that asked for a sparse stream."""
        self._check()
        self._session._connection.send_stream_hole(self._serial, size)
        self._session._send()
        await self._session._channel.drain()

    def end_data(self) -> None:
        """Say that there is no more data. The client then finishes the stream."""
        self._check()
        self._session._connection.end_stream_data(self._serial)
        self._session._send()

    async def end(self) -> None:
        """Say that there is no more data, wait for the client to finish, and confirm."""
        self.end_data()
        await self.wait_finished()

    async def wait_finished(self) -> None:
        """Wait until the client finishes or aborts, and confirm."""
        await self._ended.wait()
        self.confirm()

    def confirm(self) -> None:
        """Answer that the client's finishing or aborting is done. Once; more do nothing."""
        if self._state in (StreamState.FINISHING, StreamState.ABORTING):
            self._session._connection.confirm_stream(self._serial)
            self._session._send()
        self._forget()

    def fail(self, error: ManorError) -> None:
        """End the stream with an error. One that the client has ended in the meantime is confirmed."""
        if self._state is StreamState.ABORTING or (
            self._state is StreamState.FINISHING and isinstance(error, StateError)
        ):
            self.confirm()
        elif self._state is not StreamState.CLOSED:
            if not isinstance(error, ApiError):
                error = ApiError(ErrorCode.OPERATION_FAILED, ErrorOrigin.STREAMS, str(error))
            self._session._connection.fail_stream(self._serial, error_record(error))
            self._session._send()
        self._forget()

    def _forget(self) -> None:
        self._session._streams.pop(self._serial, None)
        self._session._changed.set()

    def _check(self) -> None:
        if self._session._is_over or not self.is_open:
            raise StateError("stream", "closed" if self._session._is_over else self._state.value, ["open"])

    def accept(self, message: StreamData | StreamHole | StreamEnd | StreamFinished | StreamAborted) -> None:
        """Called by the session's reader."""
        match message:
            case StreamData(data=data):
                self._queue.put_nowait(data)
            case StreamHole(size=size):
                self._queue.put_nowait(size)
            case StreamEnd():
                pass  # the client's finishing says the same
            case StreamFinished():
                self._queue.put_nowait(None)
                self._ended.set()
            case StreamAborted():
                self._is_aborted = True
                self._queue.put_nowait(None)
                self._ended.set()

    def lose(self) -> None:
        """The client is gone."""
        self._is_aborted = True
        self._queue.put_nowait(None)
        self._ended.set()


def close_files(files: Iterable[int]) -> None:
    """Close descriptors that came with a call and are not wanted."""
    for file in files:
        with contextlib.suppress(OSError):
            os.close(file)
