"""The control socket of a VMM: who may connect, conversations, and what happens when a client reads slowly.

What is said is in spec.control, what the commands do in vmm.control_commands. Everything here runs on the I/O loop's
thread, but for commands that wait for something, which run on a thread of their own.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from manor.backends.loop import Loop, Watch
from manor.base.errors import ConfigError, HostError, InternalError, ManorError, ProtocolError
from manor.spec.control import (
    MAX_REQUEST,
    Json,
    Kinds,
    Lines,
    Request,
    check_arguments,
    encode,
    error_to_json,
    greeting,
    parse_request,
)

logger = logging.getLogger(__name__)

MAX_CLIENTS: Final = 16
"""Conversations at a time; each costs a descriptor and, when its client does not read, memory."""
MAX_PENDING: Final = 8 << 20
"""Bytes that wait for a client to read, from which on events for it are dropped and its requests not read."""
MAX_BUSY: Final = 8
"""Requests of one client being worked on, from which on no further ones are read."""
_CHUNK: Final = 1 << 16
_CREDENTIALS: Final = struct.Struct("3i")
"""struct ucred: pid, uid, gid. Source: Linux unix(7), SO_PEERCRED."""


class Client(Protocol):
    """The other end of one conversation, as a command sees it. Thread: the loop's."""

    def subscribe(self, topic: str) -> None:
        """Send it the events of `topic` from now on."""

    def unsubscribe(self, topic: str) -> None: ...


Reply = Callable[[Json | ManorError], None]
"""Answers a request, once. Thread: any."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command. run: returns the result, or None if it calls `reply` later; raises a ManorError for a refusal.

    needed, optional: arguments and their types. is_slow: it waits for something; it then runs on its own thread.
    """

    run: Callable[[Client, Json, Reply], Json | None]
    needed: Kinds = field(default_factory=dict)
    optional: Kinds = field(default_factory=dict)
    is_slow: bool = False


def listen(path: Path) -> socket.socket:
    """A listening socket at `path` that only its owner can connect to. Raises HostError."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            path.unlink(missing_ok=True)
            # Through the descriptor, as the whole path may be longer than the 108 bytes that an address has room for.
            address = f"/proc/self/fd/{folder}/{path.name}"
            old = os.umask(0o177)
            try:
                listener.bind(address)
            finally:
                os.umask(old)
        finally:
            os.close(folder)
        listener.listen(MAX_CLIENTS)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise HostError(f"cannot make the control socket {path}: {error.strerror}", error.errno, str(path)) from error
    return listener


class ControlServer:
    """Serves a listening socket. Made and closed on any thread; the rest runs on the loop's."""

    def __init__(self, loop: Loop, listener: socket.socket, name: str, commands: Mapping[str, Command]) -> None:
        """listener: becomes the server's, which closes it. name: the VM's."""
        self.commands = commands
        self._loop = loop
        self._listener = listener
        self._greeting = greeting(name, os.getpid())
        self._connections: list[Connection] = []
        self._watch: Watch | None = None

    def start(self) -> None:
        """Begin to serve. Thread: any."""
        self._loop.call_soon_threadsafe(self._listen)

    def close(self) -> None:
        """End all conversations. Thread: any, once the loop has stopped."""
        for connection in list(self._connections):
            connection.close_socket()
        self._connections.clear()
        self._listener.close()

    def publish(self, topic: str, event: Json) -> None:
        """Send an event to who subscribed to its topic. Thread: the loop's."""
        for connection in list(self._connections):
            if topic in connection.topics:
                connection.send_event(event)

    def has_subscriber(self, topic: str) -> bool:
        """Whether anybody wants events of `topic`. Thread: the loop's."""
        return any(topic in connection.topics for connection in self._connections)

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Run `callback` on the loop's thread. Thread: any."""
        self._loop.call_soon_threadsafe(callback)

    def forget(self, connection: Connection) -> None:
        """The conversation is over; another client may come."""
        if connection in self._connections:
            self._connections.remove(connection)
        if self._watch is not None:
            self._watch.want(read=True)

    def _listen(self) -> None:
        self._watch = self._loop.watch(self._listener.fileno(), self._accept)
        self._watch.want(read=True)

    def _accept(self) -> None:
        assert self._watch is not None
        try:
            client, _ = self._listener.accept()
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ECONNABORTED, errno.EINTR):
                logger.warning("cannot accept a control connection: %s", error)
                self._watch.want()  # out of descriptors: do not spin; a conversation that ends starts it again
            return
        if not _is_allowed(client):
            client.close()
            return
        client.setblocking(False)
        connection = Connection(self, client, self._loop)
        self._connections.append(connection)
        connection.send(self._greeting)
        if len(self._connections) >= MAX_CLIENTS:
            self._watch.want()  # the next waits in the kernel's queue


def _is_allowed(client: socket.socket) -> bool:
    """Whether the peer is this user or root. The socket's mode says the same; who made its folder open is stopped
    here."""
    _, uid, _ = _CREDENTIALS.unpack(client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return uid in (0, os.geteuid())


class Connection:
    """One conversation (Client). Thread: the loop's."""

    def __init__(self, server: ControlServer, client: socket.socket, loop: Loop) -> None:
        self.topics: set[str] = set()
        self._server = server
        self._socket = client
        self._lines = Lines(MAX_REQUEST)
        self._waiting: list[Request] = []
        self._pending = bytearray()
        self._busy = 0
        self._dropped = 0
        self._is_open = True
        self._is_ending = False
        self._watch = loop.watch(client.fileno(), self._read, self._write)
        self._want()

    def subscribe(self, topic: str) -> None:
        self.topics.add(topic)

    def unsubscribe(self, topic: str) -> None:
        self.topics.discard(topic)

    def send(self, message: Json) -> None:
        """Queue a line, whatever waits already."""
        if not self._is_open:
            return
        self._pending += encode(message)
        self._write()

    def send_event(self, event: Json) -> None:
        """Queue an event unless the client is far behind; then it learns later how many it missed."""
        if len(self._pending) >= MAX_PENDING:
            self._dropped += 1
            return
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self.send({"event": "missed", "count": dropped})
        self.send(event)

    def close(self) -> None:
        """End the conversation."""
        if self._is_open:
            self._watch.close()
            self.close_socket()
            self._server.forget(self)

    def close_socket(self) -> None:
        """Close the descriptor alone: the loop has stopped, or watches it no more."""
        self._is_open = False
        self.topics.clear()
        self._socket.close()

    # --- input --------------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        try:
            data = self._socket.recv(_CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        try:
            self._waiting += map(parse_request, self._lines.feed(data))
        except ProtocolError as error:
            self._is_ending = True
            self.send({"error": error_to_json(error)})
        self._work()

    def _work(self) -> None:
        """Begin what waits, as far as the limits allow."""
        while self._waiting and self._is_open and self._busy < MAX_BUSY and len(self._pending) < MAX_PENDING:
            self._begin(self._waiting.pop(0))
        self._want()

    def _begin(self, request: Request) -> None:
        self._busy += 1
        try:
            command = self._server.commands.get(request.command)
            if command is None:
                known = ", ".join(sorted(self._server.commands))
                raise ConfigError("command", f"{request.command!r} is unknown; there are {known}")
            check_arguments(request.command, request.arguments, command.needed, command.optional)
        except ManorError as error:
            self._finish(request.id, error)
            return
        reply = partial(self._reply, request.id)
        if command.is_slow:
            threading.Thread(
                target=_run_slowly, args=(command, self, request, reply), name=f"control-{request.command}", daemon=True
            ).start()
            return
        answer = _run(command, self, request, reply)
        if answer is not None:
            self._finish(request.id, answer)

    def _reply(self, number: int, answer: Json | ManorError) -> None:
        """Answer a request that was begun earlier. Thread: any."""
        self._server.call_soon(partial(self._finish_later, number, answer))

    def _finish_later(self, number: int, answer: Json | ManorError) -> None:
        self._finish(number, answer)
        self._work()

    def _finish(self, number: int, answer: Json | ManorError) -> None:
        self._busy -= 1
        if isinstance(answer, ManorError):
            self.send({"id": number, "error": error_to_json(answer)})
        else:
            self.send({"id": number, "result": answer})

    # --- output -------------------------------------------------------------------------------------------------------

    def _write(self) -> None:
        while self._pending and self._is_open:
            try:
                sent = self._socket.send(bytes(self._pending[:_CHUNK]))
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                self.close()
                return
            del self._pending[:sent]
        if self._is_ending and not self._pending:
            self.close()
        elif self._waiting and self._busy < MAX_BUSY and len(self._pending) < MAX_PENDING:
            self._server.call_soon(self._work)
        self._want()

    def _want(self) -> None:
        if self._is_open:
            has_room = self._busy < MAX_BUSY and len(self._pending) < MAX_PENDING and not self._waiting
            self._watch.want(read=has_room and not self._is_ending, write=bool(self._pending))


def _run(command: Command, client: Client, request: Request, reply: Reply) -> Json | ManorError | None:
    """The answer of a command; None if it comes later. A bug in it is this request's, not the VM's."""
    try:
        return command.run(client, request.arguments, reply)
    except ManorError as error:
        return error
    except Exception as error:  # the edge where a bug in a command ends the command, not the VM
        logger.exception("control command %s failed", request.command)
        return InternalError(f"{request.command}: {type(error).__name__}: {error}")


def _run_slowly(command: Command, client: Client, request: Request, reply: Reply) -> None:
    answer = _run(command, client, request, reply)
    if answer is not None:
        reply(answer)
