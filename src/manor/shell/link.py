"""The shell's side of a connection: one call at a time, streams, and events as they come.

Blocking, and used by one thread.
"""

from __future__ import annotations

import os
import select
import socket
import time
import urllib.parse
from collections import deque
from typing import Any, Protocol

from manor.base.errors import ManorError, ProtocolError
from manor.rpc.connection import ClientConnection
from manor.rpc.message import CallFailed, Event, Reply, StreamAborted, StreamData, StreamEnd, StreamFinished
from manor.rpc.protocol.catalog import QEMU, REMOTE
from manor.rpc.protocol.errors import ErrorCode

RECEIVE_SIZE = 1 << 18


class RemoteError(ManorError):
    """What the daemon answered to a call that failed. code: libvirt's number."""

    def __init__(self, message: str, code: int = int(ErrorCode.INTERNAL_ERROR)) -> None:
        super().__init__(message)
        self.code = code

    @property
    def is_unsupported(self) -> bool:
        """Whether the daemon's driver, or the daemon, has no such call."""
        return self.code in (ErrorCode.NO_SUPPORT, ErrorCode.RPC)


class Stream(Protocol):
    """Bytes to and from what a call has opened."""

    def receive(self, timeout: float | None = None) -> bytes | None:
        """The next bytes; b"" at the end, None if none came in time (seconds). Raises RemoteError."""

    def send(self, data: bytes) -> None:
        """Send bytes. Raises RemoteError."""

    def finish(self) -> None:
        """Close in good order, when everything has arrived. Raises RemoteError."""

    def abort(self) -> None:
        """Give up."""

    def fileno(self) -> int:
        """Readable when `receive` may have something."""


class Link(Protocol):
    """A connection to a hypervisor."""

    uri: str

    def call(self, name: str, *arguments: Any) -> Any:
        """The result of a procedure (`manor.rpc.protocol.catalog`). Raises RemoteError."""

    def open_stream(self, name: str, *arguments: Any) -> tuple[Any, Stream]:
        """(result, stream) of a procedure that opens one. Raises RemoteError."""

    def next_event(self, timeout: float | None) -> tuple[str, Any] | None:
        """(event's procedure name, arguments), None if there was none in time (seconds). Raises RemoteError."""

    def close(self) -> None:
        """End it."""


class SocketLink:
    """A connection over a unix socket."""

    def __init__(self, uri: str, *, is_read_only: bool = False) -> None:
        """Connect and open. Raises RemoteError."""
        self.uri = uri
        self._protocol = ClientConnection()
        self._replies: dict[int, Reply | CallFailed] = {}
        self._events: deque[tuple[str, Any]] = deque()
        self._streams: dict[int, _SocketStream] = {}
        path, name = locate(uri, is_read_only=is_read_only)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise RemoteError(f"Failed to connect socket to '{path}': {error.strerror}", ErrorCode.SYSTEM_ERROR) from None
        self.call("auth_list")
        self.call("connect_open", name or None, 1 if is_read_only else 0)

    def call(self, name: str, *arguments: Any) -> Any:
        """As `Link`."""
        procedure = REMOTE.get(name) or QEMU[name]
        return self._answer(self._protocol.call(procedure, arguments))

    def open_stream(self, name: str, *arguments: Any) -> tuple[Any, Stream]:
        """As `Link`."""
        serial = self._protocol.call(REMOTE[name], arguments)
        stream = self._streams[serial] = _SocketStream(self, serial)
        return self._answer(serial), stream

    def next_event(self, timeout: float | None) -> tuple[str, Any] | None:
        """As `Link`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._events:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return None
            self.pump(left)
        return self._events.popleft()

    def close(self) -> None:
        """As `Link`."""
        try:
            self.call("connect_close")
        except ManorError:
            pass  # it is gone already
        self._protocol.close()
        self._socket.close()

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def flush(self) -> None:
        """Send what is to be sent. Raises RemoteError."""
        try:
            for outgoing in self._protocol.take_outgoing():
                self._socket.sendall(outgoing.data)
        except OSError as error:
            raise RemoteError(f"Cannot write data: {error.strerror}", ErrorCode.SYSTEM_ERROR) from None

    def pump(self, timeout: float | None) -> None:
        """Take in what comes within `timeout` seconds. Raises RemoteError when the connection is lost."""
        self.flush()
        if timeout is not None and not select.select([self._socket], [], [], timeout)[0]:
            return
        try:
            data = self._socket.recv(RECEIVE_SIZE)
        except OSError as error:
            raise RemoteError(f"Cannot read data: {error.strerror}", ErrorCode.SYSTEM_ERROR) from None
        if not data:
            raise RemoteError("End of file while reading data: Input/output error", ErrorCode.SYSTEM_ERROR)
        try:
            for message in self._protocol.receive(data):
                self._take(message)
        except ProtocolError as error:
            raise RemoteError(f"the daemon's answer makes no sense: {error}", ErrorCode.RPC) from None

    def _take(self, message: Any) -> None:
        if isinstance(message, (Reply, CallFailed)):
            self._replies[message.serial] = message
        elif isinstance(message, Event):
            self._events.append((message.procedure.name, message.arguments))
        elif isinstance(message, (StreamData, StreamEnd, StreamFinished, StreamAborted)):
            stream = self._streams.get(message.serial)
            if stream is not None:
                stream.take(message)

    def _answer(self, serial: int) -> Any:
        while serial not in self._replies:
            self.pump(None)
        answer = self._replies.pop(serial)
        if isinstance(answer, CallFailed):
            self._streams.pop(serial, None)
            raise RemoteError(answer.error.message or "unknown error", answer.error.code)
        return answer.value


class _SocketStream:
    def __init__(self, link: SocketLink, serial: int) -> None:
        self._link = link
        self._serial = serial
        self._chunks: deque[bytes] = deque()
        self._is_ended = False
        self._is_closed = False
        self._error: RemoteError | None = None

    def take(self, message: Any) -> None:
        """A message of this stream."""
        if isinstance(message, StreamData):
            self._chunks.append(message.data)
        elif isinstance(message, StreamEnd):
            self._is_ended = True
        else:
            self._is_ended = self._is_closed = True
            if isinstance(message, StreamAborted) and message.error is not None:
                self._error = RemoteError(message.error.message or "stream aborted", message.error.code)

    def receive(self, timeout: float | None = None) -> bytes | None:
        """As `Stream`."""
        while not self._chunks:
            if self._error is not None:
                raise self._error
            if self._is_ended:
                return b""
            self._link.pump(timeout)
            if timeout is not None and not self._chunks and not self._is_ended:
                return None
        return self._chunks.popleft()

    def send(self, data: bytes) -> None:
        """As `Stream`."""
        if self._error is not None:
            raise self._error
        self._link._protocol.send_stream_data(self._serial, data)
        self._link.flush()
        self._link.pump(0)

    def finish(self) -> None:
        """As `Stream`."""
        if not self._is_closed:
            self._link._protocol.finish_stream(self._serial)
        while not self._is_closed:
            self._link.pump(None)
        if self._error is not None:
            raise self._error

    def abort(self) -> None:
        """As `Stream`."""
        if not self._is_closed:
            self._link._protocol.abort_stream(self._serial)
            self._link.flush()

    def fileno(self) -> int:
        """As `Stream`."""
        return self._link.fileno()


def locate(uri: str, *, is_read_only: bool) -> tuple[str, str]:
    """(path of the daemon's socket, the URI that the daemon is to open). Raises RemoteError."""
    parts = urllib.parse.urlsplit(uri)
    driver, _, transport = parts.scheme.partition("+")
    if parts.netloc or transport not in ("", "unix"):
        raise RemoteError(f"only local daemons can be reached, over a unix socket; not {uri!r}", ErrorCode.INVALID_ARG)
    query = urllib.parse.parse_qsl(parts.query)
    path = next((value for name, value in query if name == "socket"), "")
    rest = urllib.parse.urlencode([(name, value) for name, value in query if name not in ("socket", "mode")])
    name = urllib.parse.urlunsplit((driver, "", parts.path, rest, "")) if driver else uri
    if driver and not parts.path.startswith("//"):
        name = f"{driver}://{parts.path}{'?' + rest if rest else ''}"
    return path or default_socket(parts.path, is_read_only=is_read_only), name


def default_socket(path: str, *, is_read_only: bool) -> str:
    """Where the daemon listens: the user's own, or the host's for `/system` and for root."""
    name = "manor-sock-ro" if is_read_only else "manor-sock"
    if path == "/system":
        return f"/run/manor/{name}"
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    return os.path.join(runtime, "manor", "manor-sock")
