"""A VM's control socket from an event loop: many calls at once, events to whoever wants them.

The same protocol as instances.client, which blocks.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from manor.base.errors import HostError, ManorError, ProtocolError
from manor.spec.control import MAX_ANSWER, Json, Lines, check_greeting, encode, error_from_json

CALL_TIMEOUT: Final = 30.0
CONNECT_TIMEOUT: Final = 10.0
STALLED_TIMEOUT: Final = 0.5
"""For a VM that did not answer the last time, until it says something: it may be stopped, and asked every second."""
_CHUNK: Final = 1 << 16


class Control:
    """One conversation. Raises HostError when the VM is gone, and what the VM answers."""

    def __init__(self, sock: socket.socket, on_event: Callable[[Json], None] | None) -> None:
        self._socket = sock
        self._on_event = on_event
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Json]] = {}
        self._lines = Lines(MAX_ANSWER)
        self._greeting: asyncio.Future[Json] = asyncio.get_running_loop().create_future()
        self._write = asyncio.Lock()
        self._is_open = True
        self._is_stalled = False
        self._reader = asyncio.ensure_future(self._read())

    @classmethod
    async def connect(cls, path: Path, on_event: Callable[[Json], None] | None = None) -> Control:
        """Raises HostError if nobody answers."""
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                # Through the descriptor: an address has room for 108 bytes only.
                await asyncio.wait_for(
                    asyncio.get_running_loop().sock_connect(client, f"/proc/self/fd/{folder}/{path.name}"),
                    CONNECT_TIMEOUT,
                )
            finally:
                os.close(folder)
        except (OSError, TimeoutError) as error:
            client.close()
            raise HostError(f"the VM does not answer at its control socket {path}: {error}") from error
        made = cls(client, on_event)
        try:
            await asyncio.wait_for(asyncio.shield(made._greeting), CONNECT_TIMEOUT)
        except BaseException as error:
            await made.close()
            if isinstance(error, TimeoutError):
                raise HostError(f"the VM at {path} does not greet; its process may be stopped") from error
            raise
        return made

    @property
    def is_open(self) -> bool:
        return self._is_open

    async def call(self, command: str, timeout: float = CALL_TIMEOUT, /, **arguments: object) -> Json:
        """Run a command. timeout: seconds."""
        if not self._is_open:
            raise HostError("the VM has ended")
        if self._is_stalled:
            timeout = min(timeout, STALLED_TIMEOUT)
        number = next(self._numbers)
        future: asyncio.Future[Json] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            data = encode({"id": number, "command": command, "arguments": arguments})
            await asyncio.wait_for(self._send(data), timeout)
            return await asyncio.wait_for(future, timeout)
        except TimeoutError as error:
            self._is_stalled = True
            raise HostError(f"the VM has not answered {command} within {timeout:g} s") from error
        except OSError as error:
            raise HostError(f"the VM has ended: {error.strerror}") from error
        finally:
            self._waiting.pop(number, None)

    async def _send(self, data: bytes) -> None:
        async with self._write:
            try:
                await asyncio.get_running_loop().sock_sendall(self._socket, data)
            except asyncio.CancelledError:  # in the middle of a line: nothing after it would be understood
                self._end(HostError("the VM does not read what it is told"))
                raise

    async def close(self) -> None:
        self._end(HostError("the conversation was closed"))
        self._reader.cancel()
        with suppress(asyncio.CancelledError):
            await self._reader

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        error: ManorError = HostError("the VM has ended")
        try:
            while data := await loop.sock_recv(self._socket, _CHUNK):
                self._is_stalled = False
                for message in self._lines.feed(data):
                    self._take(message)
        except ManorError as raised:
            error = raised
        except OSError as raised:
            error = HostError(f"the VM has ended: {raised.strerror}")
        finally:
            self._end(error)

    def _take(self, message: Json) -> None:
        if not self._greeting.done():
            self._greeting.set_result(check_greeting(message))
            return
        number = message.get("id")
        future = self._waiting.get(number) if isinstance(number, int) else None
        if future is None:
            if "event" in message and self._on_event is not None:
                self._on_event(message)
            return
        if future.done():
            return
        result = message.get("result")
        if "error" in message:
            future.set_exception(error_from_json(message["error"]))
        elif isinstance(result, dict):
            future.set_result(result)
        else:
            future.set_exception(ProtocolError("the VM answered without a result"))

    def _end(self, error: ManorError) -> None:
        if not self._is_open:
            return
        self._is_open = False
        self._socket.close()
        for future in (self._greeting, *self._waiting.values()):
            if not future.done():
                future.set_exception(error)
                future.exception()  # whoever waits gets it all the same
        if self._on_event is not None:
            self._on_event({"event": "gone"})
