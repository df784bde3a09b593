"""A socket of the host as the far end of a vsock connection."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Final, Protocol

from manor.backends.loop import Loop
from manor.backends.vsock.connection import Connection
from manor.base.clock import Clock

CLOSE_NS: Final = 8_000_000_000
"""How long the guest may take to say that it closed as well (Linux waits as long, VSOCK_CLOSE_TIMEOUT)."""


class Owner(Protocol):
    """The multiplexer, as a stream uses it."""

    def readable(self, connection: Connection) -> None: ...
    def writable(self, connection: Connection) -> None: ...
    def abandon(self, connection: Connection) -> None: ...


class SocketStream:
    """backends.vsock.connection.Stream on a connected, non-blocking stream socket, which it owns.

    on_opened gets our port, on_closed whether the guest refused. Thread: the I/O loop's.
    """

    def __init__(
        self,
        loop: Loop,
        clock: Clock,
        owner: Owner,
        sock: socket.socket,
        on_opened: Callable[[int], None] | None = None,
        on_closed: Callable[[bool], None] | None = None,
    ) -> None:
        self.connection: Connection | None = None
        """Set by whoever makes it, before anything else happens."""
        self._loop = loop
        self._clock = clock
        self._owner = owner
        self._socket = sock
        self._on_opened = on_opened
        self._on_closed = on_closed
        self._wants_read = self._wants_write = False
        self._is_closed = False
        self._watch = loop.watch(sock.fileno(), self._readable, self._writable)

    def read(self, limit: int) -> bytes | None:
        try:
            data = self._socket.recv(limit)
        except BlockingIOError:
            self._want(read=True)
            return b""
        except OSError:
            return None
        return data or None

    def write(self, data: bytes) -> int | None:
        try:
            taken = self._socket.send(data)
        except BlockingIOError:
            taken = 0
        except OSError:
            self._close_later()
            return None
        self._want(write=taken < len(data))
        return taken

    def end_of_data(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            return  # it is gone altogether

    def opened(self, host_port: int) -> None:
        if self._on_opened is not None:
            self._on_opened(host_port)

    def closed(self, was_refused: bool) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._watch.close()
            self._socket.close()
            if self._on_closed is not None:
                self._on_closed(was_refused)

    def give_up(self) -> None:
        """Time is over."""
        if not self._is_closed and self.connection is not None:
            self._owner.abandon(self.connection)

    def _close_later(self) -> None:
        self._want(read=False, write=False)
        self._loop.at(self._clock.now_ns() + CLOSE_NS, self.give_up)

    def _want(self, *, read: bool | None = None, write: bool | None = None) -> None:
        self._wants_read = self._wants_read if read is None else read
        self._wants_write = self._wants_write if write is None else write
        self._watch.want(read=self._wants_read, write=self._wants_write)

    def _readable(self) -> None:
        self._want(read=False)
        if self.connection is not None:
            self._owner.readable(self.connection)

    def _writable(self) -> None:
        self._want(write=False)
        if self.connection is not None:
            self._owner.writable(self.connection)
