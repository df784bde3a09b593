"""An NBD server: images to several clients, over a Unix socket or TCP.

One thread accepts, one for each client receives; requests are done there if nothing else of this client waits, and by
a pool of the client's own if more have arrived. A client that takes no answers thus keeps no other one waiting. What
each can make the server hold is bounded.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import stat
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from manor.backends.block.api import BlockBackend, BlockError
from manor.backends.block.buffers import is_zero
from manor.backends.block.nbd.incoming import CHUNK
from manor.backends.block.nbd.serving import Offered, Request, ServerSession
from manor.backends.block.nbd.transport import HANDSHAKE_SECONDS, SocketTransport, Transport
from manor.backends.block.nbd.wire import STATE_HOLE, STATE_ZERO, Command, CommandFlag, Error
from manor.base.errors import HostError, ProtocolError
from manor.trace.event import declare

MAX_CLIENTS: Final = 16
MAX_REQUESTS: Final = 16
"""Of one client that are being done; the next one is not received before one of them is answered."""
MAX_HELD: Final = 32 << 20
"""Bytes of one client's reads and writes that are being done; one request may always be."""
WORKERS: Final = 4
"""Threads for the requests of one client, started as they are needed."""
MAX_RANGES: Final = 4096
"""Of one answer to a block status; the client asks again for the rest."""
MIN_HOLE: Final = 64 << 10
"""A read of at least as many bytes, all zeros, is answered without sending them."""

_ERRORS: Final = {"io": Error.EIO, "no-space": Error.ENOSPC, "read-only": Error.EPERM, "unsupported": Error.ENOTSUP}

nbd_client = declare("nbd_client", client=int, event=str)
"""A client of the NBD server came, or went and why."""


@dataclass(frozen=True, slots=True)
class Export:
    """An image to offer. The server does not close it."""

    image: BlockBackend
    read_only: bool = False
    description: str = ""


class NbdServer:
    """Serves until `stop`. exports: name -> export; the first is also the one with the empty name."""

    def __init__(
        self, exports: Mapping[str, Export], *, tls: ssl.SSLContext | None = None, max_clients: int = MAX_CLIENTS
    ) -> None:
        self._exports = dict(exports)
        self._tls = tls
        self._max_clients = max_clients
        self._listener: socket.socket | None = None
        self._path: str | None = None
        self._clients: dict[int, _Client] = {}
        self._served = 0
        self._is_stopping = False
        self._condition = threading.Condition()
        self._thread = threading.Thread(target=self._accept, name="nbd-accept", daemon=True)

    def listen_unix(self, path: str) -> None:
        """Serve on a Unix socket, which only this user can open. Raises HostError.

        A socket that a server left behind is replaced; one that is in use, or any other file, is not.
        """
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            _remove_stale(path)
            listener.bind(path)
            os.chmod(path, 0o600)
            listener.listen(self._max_clients)
        except OSError as error:
            listener.close()
            raise HostError(f"listening on {path}: {error.strerror or error}", error.errno, path) from error
        self._path = path
        self._start(listener)

    def listen_tcp(self, host: str, port: int) -> int:
        """Serve on an address of this host; returns the port (that the kernel chose, for 0). Raises HostError."""
        try:
            family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            listener = socket.create_server(address[:2], family=family, backlog=self._max_clients)
        except OSError as error:
            raise HostError(f"listening on {host} port {port}: {error.strerror or error}", error.errno) from error
        found: int = listener.getsockname()[1]
        self._start(listener)
        return found

    @property
    def clients(self) -> int:
        """How many are connected."""
        with self._condition:
            return len(self._clients)

    def wait_idle(self, timeout: float | None = None) -> bool:
        """Wait until at least one client has come and all have gone."""
        with self._condition:
            return self._condition.wait_for(
                lambda: self._is_stopping or bool(self._served and not self._clients), timeout
            )

    def stop(self) -> None:
        """Take no more clients, end the present ones after the requests that are being done, flush the images."""
        with self._condition:
            if self._is_stopping:
                return
            self._is_stopping = True
            clients = list(self._clients.values())
            self._condition.notify_all()
        if self._listener is not None:
            # Wakes accept, which close would not.
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._thread.join()
            self._listener.close()
            if self._path is not None:
                with suppress(OSError):
                    os.unlink(self._path)
        for client in clients:
            client.end()
        for export in self._exports.values():
            if not export.read_only:
                export.image.flush()

    def _start(self, listener: socket.socket) -> None:
        self._listener = listener
        self._thread.start()

    def _accept(self) -> None:
        assert self._listener is not None
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError as error:
                if self._is_stopping or error.errno in (errno.EBADF, errno.EINVAL):
                    return
                # Too many open files, a client that went away at once: others can still be served.
                continue
            with self._condition:
                if self._is_stopping or len(self._clients) >= self._max_clients:
                    connection.close()
                    continue
                self._served += 1
                client = _Client(self, self._served, connection, self._exports, self._tls)
                self._clients[self._served] = client
            client.thread.start()

    def forget(self, number: int) -> None:
        """A client has gone."""
        with self._condition:
            self._clients.pop(number, None)
            self._condition.notify_all()


class _Client:
    """One connection, with its thread."""

    def __init__(
        self,
        server: NbdServer,
        number: int,
        connection: socket.socket,
        exports: Mapping[str, Export],
        tls: ssl.SSLContext | None,
    ) -> None:
        self._server = server
        self._number = number
        self._exports = exports
        self._tls = tls
        self._pool = ThreadPoolExecutor(WORKERS, f"nbd-client-{number}")
        self._transport: Transport = SocketTransport(connection)
        offered = {
            name: Offered(one.image.size, one.read_only or one.image.is_read_only, one.description)
            for name, one in exports.items()
        }
        self._session = ServerSession(offered, requires_tls=tls is not None)
        self._limit = threading.Condition()
        self._doing = 0
        self._held = 0
        self._is_ending = False
        """No further request is begun: there is nobody to answer. Set by any thread, looked at by the client's."""
        self.thread = threading.Thread(target=self._run, name=f"nbd-client-{number}", daemon=True)

    def end(self) -> None:
        """End the connection after the requests that are being done; returns when its thread has ended."""
        self._break()
        self.thread.join()

    def _break(self) -> None:
        # In this order: what has arrived already is still received after the shutdown.
        self._is_ending = True
        self._transport.shutdown()

    def _run(self) -> None:
        if nbd_client.on:
            nbd_client(self._number, "connected")
        reason = "gone"
        try:
            self._transport.set_timeout(HANDSHAKE_SECONDS)
            self._talk()
        except (OSError, ProtocolError) as error:
            reason = str(error)
        finally:
            # All requests have been done before anybody hears that the client is gone.
            self._transport.shutdown()
            self._pool.shutdown()
            self._transport.close()
            if nbd_client.on:
                nbd_client(self._number, reason)
            self._server.forget(self._number)

    def _talk(self) -> None:
        session = self._session
        buffer = memoryview(bytearray(CHUNK))
        is_chosen = False
        while True:
            if output := session.take_output():
                self._transport.send([memoryview(output)])
            if session.wants_tls:
                assert self._tls is not None
                self._transport = self._transport.start_tls(self._tls, None, server=True)
                session.tls_started()
            if session.export is not None and not is_chosen:
                is_chosen = True
                self._transport.set_timeout(None)
            self._take_requests()
            if session.is_over:
                return
            room = session.incoming.room()
            count = self._transport.receive_into(room if room is not None else buffer)
            if count == 0:
                return
            if room is not None:
                session.incoming.filled(count)
            else:
                session.receive(buffer[:count])

    def _take_requests(self) -> None:
        requests, self._session.requests = self._session.requests, []
        for index, request in enumerate(requests):
            self._enter(request)
            if self._is_ending:
                self._leave(request)
                raise ConnectionAbortedError("the connection ends")
            is_quick = request.command in (Command.READ, Command.WRITE) or request.error
            if is_quick and index == len(requests) - 1 and not self._transport.has_more():
                self._serve(request)
            else:
                self._pool.submit(self._serve, request)

    def _enter(self, request: Request) -> None:
        """Wait until there is room for the request."""
        with self._limit:
            self._limit.wait_for(
                lambda: not self._doing or (self._doing < MAX_REQUESTS and self._held + _weight(request) <= MAX_HELD)
            )
            self._doing += 1
            self._held += _weight(request)

    def _leave(self, request: Request) -> None:
        with self._limit:
            self._doing -= 1
            self._held -= _weight(request)
            self._limit.notify()

    def _serve(self, request: Request) -> None:
        try:
            self._transport.send(self._do(request))
        except OSError:
            # The client is gone. Its thread cleans up.
            self._break()
        finally:
            self._leave(request)

    def _do(self, request: Request) -> list[memoryview]:
        """Do the request; what to answer."""
        session = self._session
        if request.error:
            return session.failed(request, request.error, request.message)
        assert session.export is not None
        export = self._exports[session.export]
        image = export.image
        try:
            match request.command:
                case Command.READ:
                    return self._read(request, image)
                case Command.BLOCK_STATUS:
                    return session.status(request, _states(image, request))
                case Command.WRITE:
                    assert request.payload is not None
                    image.write(request.offset, [request.payload])
                case Command.WRITE_ZEROES:
                    image.write_zeroes(request.offset, request.size, CommandFlag.NO_HOLE not in request.flags)
                case Command.TRIM:
                    image.discard(request.offset, request.size)
                case Command.FLUSH if not image.is_read_only:
                    image.flush()
            if CommandFlag.FUA in request.flags and request.command is not Command.FLUSH:
                image.flush()
        except BlockError as error:
            return session.failed(request, _ERRORS[error.reason], str(error))
        return session.done(request)

    def _read(self, request: Request, image: BlockBackend) -> list[memoryview]:
        data = memoryview(bytearray(request.size))
        if request.size:
            image.read(request.offset, [data])
        if request.size >= MIN_HOLE and self._session.takes_holes(request) and is_zero(data):
            return self._session.hole(request)
        return self._session.data(request, data)


def _weight(request: Request) -> int:
    """Bytes that the request makes the server hold."""
    return request.size if request.command in (Command.READ, Command.WRITE) else 0


def _states(image: BlockBackend, request: Request) -> list[tuple[int, int]]:
    """Ranges for a block status, neighbours that are alike taken together."""
    ranges: list[tuple[int, int]] = []
    for extent in image.extents(request.offset, request.size):
        flags = {"data": 0, "zero": STATE_ZERO, "hole": STATE_ZERO | STATE_HOLE}[extent.kind]
        if ranges and ranges[-1][1] == flags:
            ranges[-1] = ranges[-1][0] + extent.size, flags
        elif len(ranges) == (1 if CommandFlag.REQ_ONE in request.flags else MAX_RANGES):
            break
        else:
            ranges.append((extent.size, flags))
    return ranges


def _remove_stale(path: str) -> None:
    """Remove a socket that nobody listens on. Raises OSError if there is something else."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise FileExistsError(errno.EEXIST, "there is a file of that name; choose another one", path)
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise OSError(errno.EADDRINUSE, "another server is listening there; choose another name", path)
