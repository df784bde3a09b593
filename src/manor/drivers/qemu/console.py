"""A port of a QEMU guest for several readers: what was printed before, then all that comes, and keys the other way.

QEMU's socket takes one client, which is the daemon. What the guest prints while no daemon is there is lost; the guest
does not wait. What the first console prints is kept in a log, over all runs.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from manor.base.console_log import ConsoleLog, read_log
from manor.base.errors import ApiError, HostError
from manor.drivers.errors import Code, Origin
from manor.drivers.qemu.monitor import connect_socket

HISTORY: Final = 64 << 10
"""Bytes of earlier output that whoever attaches sees first."""
MAX_WAITING: Final = 1 << 20
"""Bytes that wait for a client to read them; what the guest prints beyond is skipped, and said so."""
_CHUNK: Final = 1 << 16


class ConsoleHub:
    """One port. Thread: the event loop's."""

    def __init__(self, sock: socket.socket, log: Path | None = None, since: int = 0) -> None:
        """log: a file that keeps what is printed. since: position in it before which nothing is shown."""
        self._socket = sock
        self._history = bytearray()
        self._log: ConsoleLog | None = None
        if log is not None:
            with suppress(HostError):
                end = read_log(log, -1, 1).end
                self._history += read_log(log, max(since, end - HISTORY), HISTORY).data
            self._log = ConsoleLog(log)
        self._readers: set[PortConsole] = set()
        self._write = asyncio.Lock()
        self._is_over = False
        self._task = asyncio.ensure_future(self._read())

    @classmethod
    async def open(cls, path: Path, log: Path | None = None, since: int = 0) -> ConsoleHub:
        """Raises HostError."""
        try:
            return cls(await connect_socket(path), log, since)
        except (OSError, TimeoutError) as error:
            raise HostError(f"QEMU does not answer at {path}: {error}") from error

    def attach(self, force: bool) -> PortConsole:
        """A reader and writer of its own. force: everybody else is cut off."""
        if force:
            for each in list(self._readers):
                each.end()
        made = PortConsole(self, bytes(self._history), self._readers.discard)
        self._readers.add(made)
        if self._is_over:
            made.end()
        return made

    async def write(self, data: bytes) -> None:
        """Returns when QEMU has taken it. Raises ApiError."""
        try:
            async with self._write:
                await asyncio.get_running_loop().sock_sendall(self._socket, data)
        except OSError as error:
            raise ApiError(Code.OPERATION_FAILED, Origin.STREAMS, "operation failed: the console is gone") from error

    async def close(self) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            with suppress(OSError):
                while data := await loop.sock_recv(self._socket, _CHUNK):
                    self._history += data
                    del self._history[:-HISTORY]
                    if self._log is not None:
                        self._log.write(data)
                    for each in self._readers:
                        each.put(data)
        finally:
            self._is_over = True
            self._socket.close()
            if self._log is not None:
                self._log.close()
            for each in list(self._readers):
                each.end()


class PortConsole:
    """One reader and writer (ByteStream)."""

    def __init__(self, hub: ConsoleHub, history: bytes, on_close: Callable[[PortConsole], None]) -> None:
        self._hub = hub
        self._waiting = bytearray(history)
        self._arrived = asyncio.Event()
        self._is_over = False
        self._on_close = on_close

    async def read(self, size: int) -> bytes:
        while not self._waiting and not self._is_over:
            self._arrived.clear()
            await self._arrived.wait()
        data = bytes(self._waiting[:size])
        del self._waiting[:size]
        return data

    async def write(self, data: bytes) -> None:
        await self._hub.write(data)

    async def finish(self) -> None:
        return

    def close(self) -> None:
        self.end()

    def put(self, data: bytes) -> None:
        """Called by the hub."""
        room = MAX_WAITING - len(self._waiting)
        if room > 0:
            self._waiting += data[:room]
            if room < len(data):
                self._waiting += b"\r\n[output was skipped]\r\n"
        self._arrived.set()

    def end(self) -> None:
        """No more comes."""
        self._is_over = True
        self._arrived.set()
        self._on_close(self)
