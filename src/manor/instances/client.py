"""Talk to the VMM of a running VM over its control socket.

with ControlClient(instance.control) as client:
    print(client.call("status"))
"""

from __future__ import annotations

import itertools
import os
import socket
import time
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Final

from manor.base.errors import HostError, ManorError, ProtocolError
from manor.spec.control import MAX_ANSWER, Json, Lines, check_greeting, encode, error_from_json

CONNECT_TIMEOUT: Final = 10.0
"""Seconds for the greeting. A VMM answers in milliseconds, unless it is stopped or its host is."""
CALL_TIMEOUT: Final = 60.0
_CHUNK: Final = 1 << 16


class VmGone(HostError):
    """The VM ended, or nobody answers at its socket."""


class VmSilent(HostError):
    """The VM's process is there and does not answer in time."""


class ControlClient:
    """One conversation. Thread: one. Times in seconds. Raises HostError, ProtocolError, and what the VM answers."""

    def __init__(self, path: Path, timeout: float = CONNECT_TIMEOUT) -> None:
        """Connect, and check who answers."""
        self._lines = Lines(MAX_ANSWER)
        self._arrived: deque[Json] = deque()
        self._events: deque[Json] = deque()
        self._ids = itertools.count(1)
        self._socket = _connect(path, timeout)
        try:
            self.greeting = check_greeting(self._next(time.monotonic() + timeout))
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """For a poll; look at `pending_events` before."""
        return self._socket.fileno()

    def call(self, command: str, timeout: float = CALL_TIMEOUT, /, **arguments: object) -> Json:
        """Run a command and wait for its result; events that come meanwhile are kept."""
        number = self.begin(command, **arguments)
        limit = time.monotonic() + timeout
        while True:
            message = self._next(limit)
            if message.get("id") == number:
                return result_of(message)
            self._events.append(message)

    def begin(self, command: str, /, **arguments: object) -> int:
        """Send a command; its answer comes among the events, with this id."""
        number = next(self._ids)
        data = encode({"id": number, "command": command, "arguments": arguments})
        try:
            self._socket.settimeout(CALL_TIMEOUT)
            self._socket.sendall(data)
        except OSError as error:
            raise VmGone(f"the VM does not listen any more: {error}", error.errno) from error
        return number

    def next_event(self, timeout: float | None) -> Json | None:
        """The next event, or answer to a `begin`; None if none comes in time. Raises VmGone at the VM's end."""
        if self._events:
            return self._events.popleft()
        try:
            return self._next(None if timeout is None else time.monotonic() + timeout)
        except VmSilent:
            return None

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _next(self, limit: float | None) -> Json:
        """The next line. Raises VmSilent at `limit`."""
        while not self._arrived:
            # Zero would make the socket non-blocking.
            self._socket.settimeout(None if limit is None else max(0.001, limit - time.monotonic()))
            try:
                data = self._socket.recv(_CHUNK)
            except TimeoutError as error:
                raise VmSilent("the VM does not answer; its process may be stopped") from error
            except OSError as error:
                raise VmGone(f"the VM ended: {error.strerror}", error.errno) from error
            if not data:
                raise VmGone("the VM ended")
            self._arrived += self._lines.feed(data)
        message = self._arrived.popleft()
        if "error" in message and "id" not in message:
            raise error_from_json(message["error"])  # the server gave the conversation up
        return message


def result_of(message: Json) -> Json:
    """The result in the answer to a `begin`. Raises the error that is there instead."""
    if "error" in message:
        raise error_from_json(message["error"])
    result = message.get("result")
    if not isinstance(result, dict):
        raise ProtocolError("the VM answered without a result")
    return result


def _connect(path: Path, timeout: float) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        client.settimeout(timeout)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            # Through the descriptor: an address has room for 108 bytes only.
            client.connect(f"/proc/self/fd/{folder}/{path.name}")
        finally:
            os.close(folder)
    except OSError as error:
        client.close()
        raise VmGone(
            f"nobody answers at the control socket {path}: {error.strerror}", error.errno, str(path)
        ) from error
    return client


def ask(path: Path, command: str, /, **arguments: object) -> Json | ManorError:
    """One command; the error instead of an exception, for lists of VMs."""
    try:
        with ControlClient(path, timeout=2.0) as client:
            return client.call(command, 2.0, **arguments)
    except ManorError as error:
        return error
