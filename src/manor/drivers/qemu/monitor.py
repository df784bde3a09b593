"""A running QEMU's monitor from an event loop: commands that are awaited, events as they come."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from manor.base.errors import HostError, ManorError, ProtocolError
from manor.drivers.qemu.qmp import Answer, Greeting, Message, QmpError, QmpEvent, QmpReader, request
from manor.trace.event import declare

CALL_TIMEOUT: Final = 30.0
GREET_TIMEOUT: Final = 10.0
_CHUNK: Final = 1 << 16

qemu_event = declare("qemu_event", name=str)
qemu_command = declare("qemu_command", number=int, command=str)


async def connect_socket(path: Path) -> socket.socket:
    """A non-blocking connection to a unix socket, whose path may have any length. Raises OSError, TimeoutError."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # Through the descriptor: an address has room for 108 bytes only.
            reached = asyncio.get_running_loop().sock_connect(client, f"/proc/self/fd/{folder}/{path.name}")
            await asyncio.wait_for(reached, GREET_TIMEOUT)
        finally:
            os.close(folder)
    except BaseException:
        client.close()
        raise
    return client


class Monitor:
    """One conversation; QEMU has one at a time. Raises HostError when it is gone, QmpError for what it refuses.

    on_event: called in the loop for each event. on_end: called once when QEMU is gone, not after `close`.
    """

    def __init__(
        self, sock: socket.socket, on_event: Callable[[QmpEvent], None], on_end: Callable[[], None] | None = None
    ) -> None:
        self._socket = sock
        self._on_event = on_event
        self._on_end = on_end
        self._numbers = itertools.count()
        self._waiting: dict[int, tuple[str, asyncio.Future[Any]]] = {}
        self._reader = QmpReader()
        self._greeting: asyncio.Future[Greeting] = asyncio.get_running_loop().create_future()
        self._write = asyncio.Lock()
        self._is_open = True
        self.version = (0, 0, 0)
        self._task = asyncio.ensure_future(self._read())

    @classmethod
    async def connect(
        cls, path: Path, on_event: Callable[[QmpEvent], None], on_end: Callable[[], None] | None = None
    ) -> Monitor:
        """Raises HostError if nobody answers, or somebody else than QEMU does."""
        try:
            client = await connect_socket(path)
        except (OSError, TimeoutError) as error:
            raise HostError(f"QEMU does not answer at its monitor {path}: {error}") from error
        made = cls(client, on_event, on_end)
        try:
            made.version = (await asyncio.wait_for(asyncio.shield(made._greeting), GREET_TIMEOUT)).version
            await made.execute("qmp_capabilities", GREET_TIMEOUT)
        except BaseException as error:
            await made.close()
            if isinstance(error, TimeoutError):
                raise HostError(f"QEMU at {path} does not greet; another program may have its monitor") from error
            raise
        return made

    @property
    def is_open(self) -> bool:
        return self._is_open

    async def execute(self, command: str, timeout: float = CALL_TIMEOUT, /, **arguments: object) -> Any:
        """Have a command done; its value. timeout: seconds."""
        if not self._is_open:
            raise HostError("QEMU has ended")
        number = next(self._numbers)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[number] = (command, future)
        if qemu_command.on:
            qemu_command(number, command)
        try:
            async with self._write:
                data = request(number, command, arguments)
                await asyncio.get_running_loop().sock_sendall(self._socket, data)
            return await asyncio.wait_for(future, timeout)
        except TimeoutError as error:
            raise HostError(f"QEMU has not answered {command} within {timeout:g} s") from error
        except OSError as error:
            raise HostError(f"QEMU has ended: {error.strerror}") from error
        finally:
            self._waiting.pop(number, None)

    async def close(self) -> None:
        self._on_end = None
        self._end(HostError("the monitor was closed"))
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        error: ManorError = HostError("QEMU has ended")
        try:
            while data := await loop.sock_recv(self._socket, _CHUNK):
                for message in self._reader.feed(data):
                    self._take(message)
        except ProtocolError as raised:
            error = raised
        except OSError as raised:
            error = HostError(f"QEMU has ended: {raised.strerror}")
        finally:
            self._end(error)

    def _take(self, message: Message) -> None:
        match message:
            case Greeting():
                self._greeting.set_result(message)
            case QmpEvent():
                if qemu_event.on:
                    qemu_event(message.name)
                self._on_event(message)
            case Answer():
                command, future = self._waiting.get(message.number, ("", None))
                if future is None or future.done():
                    return  # whoever asked waits no longer
                if message.error is None:
                    future.set_result(message.value)
                else:
                    future.set_exception(QmpError(command, *message.error))

    def _end(self, error: ManorError) -> None:
        if not self._is_open:
            return
        self._is_open = False
        self._socket.close()
        for future in (self._greeting, *(each for _, each in self._waiting.values())):
            if not future.done():
                future.set_exception(error)
                future.exception()  # whoever waits gets it all the same
        if self._on_end is not None:
            self._on_end()
