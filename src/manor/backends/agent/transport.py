"""Lines to an agent: a connected socket, or a port of the VM's virtio-serial device."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final, Protocol

from manor.backends.agent.client import AgentNotThere
from manor.backends.char.api import CharReceiver
from manor.base.errors import HostError

RECEIVE_LIMIT: Final = 128 << 20
"""Bytes of a guest that talks without being asked. Beyond, they are dropped: no session can be read from them."""
SEND_S: Final = 10.0
"""How long the guest may take to read what is sent to it, in seconds."""


class SocketTransport:
    """A connected stream socket: a unix socket that an agent listens on, or a vsock connection."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._socket.settimeout(SEND_S)

    def send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise HostError.from_os_error("write to the guest's agent", error) from error

    def receive(self, timeout: float) -> bytes:
        try:
            if not select.select([self._socket], [], [], timeout)[0]:
                return b""
            data = self._socket.recv(1 << 16)
        except OSError as error:
            raise HostError.from_os_error("read from the guest's agent", error) from error
        if not data:
            raise AgentNotThere("the guest's agent closed the line")
        return data

    def close(self) -> None:
        self._socket.close()


Lock = AbstractContextManager[bool, None]


class Port(CharReceiver, Protocol):
    """The device's port, as it is used here. Machine lock held."""

    on_room: Callable[[], None]
    on_open: Callable[[bool], None]

    @property
    def guest_open(self) -> bool: ...


class PortTransport:
    """The far end of a virtio-serial port (backends.char.api.CharBackend). It outlives machines: see `connect`.

    on_opened: called, with the machine lock held, when a program of the guest opens the port.
    Locks: the machine lock is taken before its own.
    """

    def __init__(self) -> None:
        self.is_open = False
        """Whether a program of the guest has the port open."""
        self.on_opened: Callable[[], None] = _do_nothing
        self._changed = threading.Condition()
        self._received: deque[bytes] = deque()
        self._received_size = 0
        self._output: deque[bytes] = deque()
        self._port: Port | None = None
        self._lock: Lock | None = None

    # --- Transport --------------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        limit = time.monotonic() + SEND_S
        lock = self._lock
        if lock is None or not self.is_open:
            raise AgentNotThere("no agent in the guest has opened the port; is qemu-guest-agent installed there?")
        with self._changed:
            self._output.append(data)
        with lock:
            self._pump()
        with self._changed:
            # What was not read in time must not reach a later session in pieces.
            if not self._changed.wait_for(lambda: not self._output, max(0.0, limit - time.monotonic())):
                self._output.clear()
                raise AgentNotThere(f"the guest's agent does not read: nothing in {SEND_S:g} seconds")

    def receive(self, timeout: float) -> bytes:
        with self._changed:
            self._changed.wait_for(lambda: bool(self._received) or not self.is_open, timeout)
            if self._received:
                data = b"".join(self._received)
                self._received.clear()
                self._received_size = 0
                return data
            if not self.is_open:
                raise AgentNotThere("the guest's agent closed the port")
            return b""

    # --- the device's side, machine lock held -----------------------------------------------------------------

    def write(self, data: bytes) -> None:
        with self._changed:
            if self._received_size + len(data) <= RECEIVE_LIMIT:
                self._received.append(data)
                self._received_size += len(data)
                self._changed.notify_all()

    def connect(self, port: Port, lock: Lock) -> None:
        """The port of a newly built machine. lock: the machine lock."""
        with lock:
            self._port, self._lock = port, lock
            port.on_room = self._pump
            port.on_open = self._opened
            self._opened(port.guest_open)  # a machine that goes on may have it open already

    def disconnect(self) -> None:
        """The machine is being taken apart."""
        with self._changed:
            self._port = self._lock = None
        self._opened(False)

    def _opened(self, is_open: bool) -> None:
        with self._changed:
            was_open, self.is_open = self.is_open, is_open
            if is_open != was_open:
                self._received.clear()
                self._received_size = 0
                self._output.clear()
            self._changed.notify_all()
        if is_open and not was_open:
            self.on_opened()

    def _pump(self) -> None:
        """Give the port what it has room for."""
        port = self._port
        with self._changed:
            while port is not None and self._output and (room := port.can_receive()) > 0:
                data = self._output.popleft()
                taken = port.receive(data[:room])
                if taken < len(data):
                    self._output.appendleft(data[taken:])
                if taken == 0:
                    break
            self._changed.notify_all()


def _do_nothing() -> None:
    """Nobody waits for the guest's program."""
