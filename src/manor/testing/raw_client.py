"""A client of a daemon that does only what a test says: one blocking socket, no thread, no politeness."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from manor.base.errors import ManorError
from manor.rpc.connection import ClientConnection
from manor.rpc.message import CallFailed, Message, Reply
from manor.rpc.protocol.catalog import REMOTE
from manor.rpc.protocol.records import ErrorRecord


class Refused(ManorError):
    """The daemon's answer is an error."""

    def __init__(self, error: ErrorRecord) -> None:
        super().__init__(str(error.message))
        self.code = error.code


class RawClient:
    """One connection."""

    def __init__(self, path: Path | str, uri: str | None = "test:///default", timeout: float = 20.0) -> None:
        """uri: opened at once; None for nothing."""
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(timeout)
        self.socket.connect(str(path))
        self.connection = ClientConnection()
        self.others: list[Message] = []
        """What came between answers: events, stream data."""
        if uri is not None:
            try:
                self.call("connect_open", uri, 0)
            except BaseException:
                self.close()
                raise

    def send(self, name: str, *arguments: Any) -> int:
        """Make a call and do not wait; its serial."""
        serial = self.connection.call(REMOTE[name], arguments)
        self.flush()
        return serial

    def flush(self) -> None:
        """Send what the connection has to say."""
        for outgoing in self.connection.take_outgoing():
            self.socket.sendall(outgoing.data)

    def receive(self) -> list[Message]:
        """Some messages. Raises EOFError when the daemon has closed."""
        data = self.socket.recv(1 << 18)
        if not data:
            raise EOFError("the daemon has closed the connection")
        return list(self.connection.receive(data))

    def wait(self, serial: int) -> Any:
        """The answer to a call. Raises Refused, EOFError."""
        while True:
            found = [each for each in self.others if isinstance(each, Reply | CallFailed) and each.serial == serial]
            if found:
                self.others.remove(found[0])
                if isinstance(found[0], CallFailed):
                    raise Refused(found[0].error)
                return found[0].value
            self.others += self.receive()

    def call(self, name: str, *arguments: Any) -> Any:
        """Make a call. Raises Refused, EOFError."""
        return self.wait(self.send(name, *arguments))

    def wait_end(self, seconds: float = 20.0) -> None:
        """Until the daemon closes. Raises TimeoutError."""
        limit = time.monotonic() + seconds
        while time.monotonic() < limit:
            try:
                if not self.socket.recv(1 << 18):
                    return
            except ConnectionError:
                return
        raise TimeoutError("the daemon does not close the connection")

    def close(self) -> None:
        """Vanish."""
        self.socket.close()
        self.connection.close()


@contextmanager
def raw_client(path: Path | str, uri: str | None = "test:///default", timeout: float = 20.0) -> Iterator[RawClient]:
    """A client that is closed in the end."""
    client = RawClient(path, uri, timeout)
    try:
        yield client
    finally:
        client.close()
