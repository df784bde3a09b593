"""The host's programs and the guest's vsock ports: unix sockets, and sockets of this process.

Into the guest: connect to the unix socket PATH, send `CONNECT <port>\\n`, read `OK <our port>\\n`; from then on the
stream is the guest's. Out of the guest: a connection to port N of the host (CID 2) goes to the unix socket PATH_N, if
a program listens there. Firecracker and cloud-hypervisor have the same convention.
"""

from __future__ import annotations

import errno
import os
import queue
import re
import socket
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

from manor.backends.loop import Loop, Watch
from manor.backends.vsock.multiplexer import Multiplexer
from manor.backends.vsock.stream import SocketStream
from manor.base.clock import SECOND, Clock
from manor.base.errors import ConfigError, HostError

CONNECT_S: Final = 10.0
"""How long a guest may take to accept, and a program to say which port it wants, in seconds."""
BACKLOG: Final = 128
"""Connections of the guest that wait for `VsockListener.accept`."""
HANDSHAKE_LIMIT: Final = 64
"""Programs at a time that have not said yet which port they want."""
PATH_LIMIT: Final = 107 - len("_4294967295")
"""Bytes of a unix socket's path (sun_path of unix(7), with its zero), with the longest port behind it."""
_LINE_LIMIT: Final = 32
_LINE: Final = re.compile(rb"CONNECT (\d{1,10})\n")
_PORTS: Final = 1 << 32


class VsockListener:
    """Connections of the guest to one port of the host. Thread: any."""

    def __init__(self, port: int, close: Callable[[int], None]) -> None:
        self.port = port
        self._close = close
        self._waiting: queue.Queue[socket.socket | None] = queue.Queue()
        self._count = 0

    def accept(self, timeout: float | None = None) -> socket.socket:
        """The next connection, a blocking stream socket. timeout: seconds. Raises TimeoutError, and HostError after
        `close`."""
        try:
            found = self._waiting.get(timeout=timeout)
        except queue.Empty:
            raise TimeoutError(f"no connection to vsock port {self.port} within {timeout} seconds") from None
        if found is None:
            self._waiting.put(None)
            raise HostError(f"nobody listens on vsock port {self.port} any more")
        return found

    def close(self) -> None:
        """Listen no more. Connections that were made stay."""
        self._close(self.port)
        self._waiting.put(None)

    def offer(self, sock: socket.socket) -> bool:
        """A new connection; False if too many wait already."""
        if self._waiting.qsize() >= BACKLOG:
            return False
        self._waiting.put(sock)
        return True


class _Handshake:
    """A program that is connected to PATH and has not said yet what it wants."""

    def __init__(self, host: VsockHost, loop: Loop, sock: socket.socket) -> None:
        self._host = host
        self._socket = sock
        self._watch = loop.watch(sock.fileno(), self._read)
        self._watch.want(read=True)
        self.is_over = False

    def close(self) -> None:
        """It took too long, or said nonsense."""
        if not self.is_over:
            self._finish()
            self._socket.close()

    def _finish(self) -> None:
        self.is_over = True
        self._watch.close()
        self._host.handshakes.discard(self)

    def _read(self) -> None:
        try:
            # Only looked at: what follows the line belongs to the guest.
            data = self._socket.recv(_LINE_LIMIT, socket.MSG_PEEK)
        except OSError:
            data = b""
        line = _LINE.match(data)
        if line is None:
            if not data or b"\n" in data or len(data) == _LINE_LIMIT:
                self.close()
            return
        self._socket.recv(line.end())
        self._finish()
        port = int(line[1])
        if port < _PORTS:
            self._host.connect_socket(self._socket, port, greet=True)
        else:
            self._socket.close()


class VsockHost:
    """The host's end of one VM's vsock; it outlives the machine when the guest reboots.

    Thread: any for `connect`, `listen` and `close_listener`; the I/O loop's, or any before it starts, for the rest.
    """

    def __init__(self, loop: Loop, clock: Clock, cid: int, path: Path | None = None) -> None:
        """path: of the unix socket; None: only for this process. Nothing is opened before `open`."""
        self._loop = loop
        self._clock = clock
        self._path = path
        self._server: socket.socket | None = None
        self._watch: Watch | None = None
        self._lock = threading.Lock()
        self._listeners: dict[int, VsockListener] = {}
        self.handshakes: set[_Handshake] = set()
        self.multiplexer = Multiplexer(cid, self._accept)

    # --- for programs of this process -------------------------------------------------------------------------

    def connect(self, port: int, timeout: float = CONNECT_S) -> socket.socket:
        """Connect to `port` of the guest; a blocking stream socket. timeout: seconds.

        Raises HostError if nobody listens there. Not on the I/O loop's thread.
        """
        _check_port(port)
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        done = threading.Event()
        opened: list[int] = []

        def on_opened(host_port: int) -> None:
            opened.append(host_port)
            done.set()

        self._loop.call_soon_threadsafe(
            partial(self.connect_socket, theirs, port, on_opened=on_opened, on_closed=lambda _: done.set())
        )
        done.wait(timeout)
        if not opened:
            ours.close()
            raise HostError(f"nobody in the guest accepts on vsock port {port}")
        return ours

    def listen(self, port: int) -> VsockListener:
        """Take the guest's connections to `port` of the host. Raises ConfigError if somebody does already."""
        _check_port(port)
        with self._lock:
            if port in self._listeners:
                raise ConfigError("vsock.port", f"{port} has a listener already")
            self._listeners[port] = listener = VsockListener(port, self.close_listener)
            return listener

    def close_listener(self, port: int) -> None:
        with self._lock:
            self._listeners.pop(port, None)

    # --- for the VMM ------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Listen on the unix socket. Raises HostError, or ConfigError for a path that cannot be one."""
        if self._path is None or self._server is not None:
            return
        path = os.fspath(self._path)
        if len(os.fsencode(path)) > PATH_LIMIT:
            raise ConfigError("vsock", f"{path} is longer than the {PATH_LIMIT} bytes that fit; use a shorter path")
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            _remove_dead_socket(path)
            server.bind(path)
            os.chmod(path, 0o600)
            server.listen(BACKLOG)
        except OSError as error:
            server.close()
            raise HostError.from_os_error(f"listen on {path}", error) from error
        self._server = server
        self._watch = self._loop.watch(server.fileno(), self._accept_program)
        self._watch.want(read=True)

    def close(self) -> None:
        """End everything and remove the unix socket. After the loop has stopped, or on its thread."""
        self.multiplexer.reset()
        for handshake in list(self.handshakes):
            handshake.close()
        with self._lock:
            listeners = list(self._listeners.values())
        for listener in listeners:
            listener.close()
        if self._server is not None and self._path is not None:
            assert self._watch is not None
            self._watch.close()
            self._server.close()
            self._server = None
            with suppress(OSError):
                os.unlink(self._path)

    def connect_socket(
        self,
        sock: socket.socket,
        port: int,
        *,
        greet: bool = False,
        on_opened: Callable[[int], None] | None = None,
        on_closed: Callable[[bool], None] | None = None,
    ) -> None:
        """Connect `sock`, which is ours now, to `port` of the guest. greet: tell it when that is done."""
        if greet:
            on_opened = partial(_greet, sock)
        stream = SocketStream(self._loop, self._clock, self.multiplexer, sock, on_opened, on_closed)
        try:
            stream.connection = self.multiplexer.connect(port, stream)
        except HostError:
            stream.closed(was_refused=True)
            return
        connection = stream.connection

        def expire() -> None:
            if connection.state.value == "connecting":
                stream.give_up()

        self._loop.at(self._clock.now_ns() + int(CONNECT_S * SECOND), expire)

    # --- inside -----------------------------------------------------------------------------------------------

    def _accept_program(self) -> None:
        assert self._server is not None
        try:
            sock, _ = self._server.accept()
        except OSError:
            return
        sock.setblocking(False)
        if len(self.handshakes) >= HANDSHAKE_LIMIT:
            sock.close()
            return
        handshake = _Handshake(self, self._loop, sock)
        self.handshakes.add(handshake)
        self._loop.at(self._clock.now_ns() + int(CONNECT_S * SECOND), handshake.close)

    def _accept(self, host_port: int, guest_port: int) -> SocketStream | None:
        """The guest wants to connect to a port of the host."""
        with self._lock:
            listener = self._listeners.get(host_port)
        if listener is not None:
            ours, theirs = socket.socketpair()
            if not listener.offer(theirs):
                ours.close()
                theirs.close()
                return None
        else:
            found = self._connect_program(host_port)
            if found is None:
                return None
            ours = found
        ours.setblocking(False)
        return SocketStream(self._loop, self._clock, self.multiplexer, ours)

    def _connect_program(self, port: int) -> socket.socket | None:
        if self._path is None:
            return None
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            # Connecting to a unix socket never waits: it succeeds, or there is no room or nobody.
            sock.connect(f"{self._path}_{port}")
        except OSError:
            sock.close()
            return None
        return sock


def _greet(sock: socket.socket, host_port: int) -> None:
    # A program that does not read a few bytes is about to be found out anyway.
    with suppress(OSError):
        sock.send(f"OK {host_port}\n".encode())


def _remove_dead_socket(path: str) -> None:
    """Remove a unix socket that nobody listens on any more. Raises OSError (EADDRINUSE) if somebody does."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return  # not ours to remove; a plain file refuses connections as a dead socket does
    except FileNotFoundError:
        return
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        probe.connect(path)
    except ConnectionRefusedError:
        os.unlink(path)
        return
    except BlockingIOError:
        pass
    finally:
        probe.close()
    raise OSError(errno.EADDRINUSE, "another program listens there", path)


def _check_port(port: int) -> None:
    if not 0 <= port < _PORTS:
        raise ConfigError("vsock.port", f"{port} is not a port; give 0 to {_PORTS - 1}")
