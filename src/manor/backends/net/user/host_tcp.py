"""TCP connections of the host, each the other end of one of the guest's."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from manor.backends.net.user.host_socket import Address, reset_on_close
from manor.backends.net.user.icmp import Reason, reason_of
from manor.backends.net.user.tcp import TcpEndpoint
from manor.backends.net.user.tcp_segment import MAX_PAYLOAD
from manor.backends.net.user.tcp_state import End

if TYPE_CHECKING:
    from manor.backends.net.user.host import HostSide

SYN_RETRIES: Final = 5
"""For the host to connect: 63 s (tcp(7), TCP_SYNCNT). Linux' default is 127 s; most guests' programs give up before."""
_TURNS: Final = 4
"""Reads from one socket before the others get their turn."""


class TcpFlow:
    """A TcpApplication on a socket. Thread: the owner's."""

    __slots__ = (
        "_address", "_host", "_is_connecting", "_is_reading", "_reads", "_socket", "_watch", "_writes", "endpoint",
    )  # fmt: skip

    def __init__(self, host: HostSide, sock: socket.socket) -> None:
        """sock: non-blocking; owned by the flow from now on."""
        self._host = host
        self._socket = sock
        # A guest's small segments go on as they come: Nagle's algorithm ran in the guest, if it wanted it.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Urgent bytes are bytes: without this the host would keep them apart (RFC 6093, 6).
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        self._watch = host.loop.watch(sock.fileno(), host.in_turn(self._readable), host.in_turn(self._writable))
        self.endpoint: TcpEndpoint | None = None
        self._reads = False
        """The watch wants to read."""
        self._writes = False
        self._is_reading = False
        """The host may still send, and the connection is up: bytes are fetched when there is room."""
        self._is_connecting = False
        self._address: Address = "", 0
        """Where to, while connecting."""
        host.flows.add(self)

    def connect(self, endpoint: TcpEndpoint, address: Address) -> None:
        """Connect for the guest's SYN."""
        self.endpoint = endpoint
        endpoint.application = self
        self._is_connecting = True
        self._address = address
        number = self._socket.connect_ex(address)
        if number == errno.EINPROGRESS:
            self._go_on_connecting()  # through the loopback it has come about, or failed, by now
        else:
            self._connected(number)

    def _go_on_connecting(self) -> None:
        """A second connect(2) says how the first one goes: it came about, it failed, or neither yet."""
        number = self._socket.connect_ex(self._address)
        if number == errno.EALREADY:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, SYN_RETRIES)
            self._want(write=True)
        else:
            self._connected(0 if number == errno.EISCONN else number)

    def _connected(self, number: int) -> None:
        endpoint = self.endpoint
        if endpoint is None:
            return
        if not number and self._is_own_echo():
            number = errno.ECONNREFUSED
        if number:
            self._close()
            self._host.core.tcp_failed(endpoint, reason_of(number) or Reason.PORT)
            return
        self._is_connecting = False
        self._want()
        endpoint.accept()

    def _is_own_echo(self) -> bool:
        """Linux connects a socket with itself when it picks the very port that nobody listens on as the local one."""
        return bool(self._socket.getsockname() == self._address)

    # --- the endpoint says ----------------------------------------------------------------------------------

    def tcp_opened(self) -> None:
        self._is_reading = True
        # Most wait for the guest to speak first: to read now would find nothing. The loop tells of what is there.
        self._want(read=True, write=self._writes)

    def tcp_receive(self, chunks: Sequence[memoryview]) -> int:
        if self._is_connecting or self._writes:
            return 0  # `_writable` resumes
        try:
            taken = self._socket.send(chunks[0]) if len(chunks) == 1 else self._socket.sendmsg(chunks)
        except BlockingIOError:
            taken = 0
        except OSError:
            self._fail()
            return sum(map(len, chunks))
        if taken < sum(map(len, chunks)):
            self._want(read=self._reads, write=True)
        return taken

    def tcp_end(self) -> None:
        with suppress(OSError):  # the peer reset it: reading says so
            self._socket.shutdown(socket.SHUT_WR)

    def tcp_room(self) -> None:
        if self._is_reading and not self._reads:
            self.pump()

    def tcp_closed(self, end: End) -> None:
        if end is not End.FINISHED:
            with suppress(OSError):  # reset by the peer already
                reset_on_close(self._socket)
        self._close()

    # --- the socket says ------------------------------------------------------------------------------------

    def _readable(self) -> None:
        self.pump()

    def _writable(self) -> None:
        endpoint = self.endpoint
        if endpoint is None:
            return
        if self._is_connecting:
            self._go_on_connecting()
            return
        self._want(read=self._reads)
        endpoint.resume()

    def pump(self) -> None:
        """Fetch what the guest has room for."""
        endpoint = self.endpoint
        if not self._is_reading or endpoint is None:
            return
        mss = endpoint.send.mss
        largest = MAX_PAYLOAD // mss * mss
        for _ in range(_TURNS):
            room = endpoint.room
            if room <= 0 or self._host.is_congested(self):
                self._want(write=self._writes)  # `tcp_room` or the host side come back to it
                return
            size = min(room, largest)
            try:
                data = self._socket.recv(size)
            except BlockingIOError:
                break
            except OSError:
                self._fail()
                return
            if not data:
                self._is_reading = False
                self._want(write=self._writes)
                endpoint.finish()
                return
            endpoint.write(data)
            if len(data) < size:
                break
        self._want(read=True, write=self._writes)

    def _want(self, *, read: bool = False, write: bool = False) -> None:
        if read != self._reads or write != self._writes:
            self._reads, self._writes = read, write
            self._watch.want(read=read, write=write)

    def _fail(self) -> None:
        """The host's connection broke: so does the guest's."""
        endpoint = self.endpoint
        self._close()
        if endpoint is not None:
            endpoint.abort()

    def _close(self) -> None:
        if self.endpoint is None and self._socket.fileno() < 0:
            return
        self.endpoint = None
        self._is_reading = False
        self._reads = self._writes = False
        self._watch.close()
        self._socket.close()
        self._host.flows.discard(self)

    def drop(self) -> None:
        """Close a socket that found no endpoint."""
        reset_on_close(self._socket)
        self._close()
