"""The host's resolvers, asked on the guest's behalf."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final

from manor.backends.net.user.host_socket import Address

if TYPE_CHECKING:
    from manor.backends.net.user.host import HostSide

RESOLV_CONF: Final = Path("/etc/resolv.conf")
PORT: Final = 53
MAX_SERVERS: Final = 3  # MAXNS of resolv.conf(5)
_MAX_MESSAGE: Final = 65535
_MAX_FILE: Final = 64 << 10


def read_servers(path: Path) -> list[Address]:
    """The `nameserver` lines of a resolv.conf; the local one if there are none, as resolv.conf(5) says."""
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_FILE).decode("utf-8", "replace")
    except OSError:
        text = ""
    servers: list[Address] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or words[0] != "nameserver" or len(servers) >= MAX_SERVERS:
            continue
        try:
            found = socket.getaddrinfo(words[1], PORT, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)
        except OSError:
            continue
        servers.append(found[0][4])  # type: ignore[arg-type]
    return servers or [("127.0.0.1", PORT)]


class Resolvers:
    """Sends queries and hands the answers to the core. The file is read again when it changes. Thread: the owner's."""

    def __init__(self, host: HostSide, source: Path | list[Address]) -> None:
        """source: a resolv.conf, or the servers themselves."""
        self._host = host
        self._source = source
        self._servers: list[Address] = []
        self._stamp: tuple[int, int] | None = (-1, -1)
        self._asked: dict[int, list[_UdpQuery | _TcpQuery]] = {}

    def servers(self) -> list[Address]:
        path = self._source
        if not isinstance(path, Path):
            return path
        try:
            status = os.stat(path)
            stamp = (status.st_mtime_ns, status.st_ino)
        except OSError:
            stamp = None
        if stamp != self._stamp:
            self._stamp = stamp
            self._servers = read_servers(path)
        return self._servers

    def ask(self, number: int, attempt: int, message: bytes, *, over_tcp: bool) -> bool:
        """As Outside.ask_resolver."""
        servers = self.servers()
        if not servers:
            return False
        server = servers[attempt % len(servers)]
        try:
            query = (_TcpQuery if over_tcp else _UdpQuery)(self._host, server, number, message)
        except OSError:
            return False
        self._asked.setdefault(number, []).append(query)
        return True

    def forget(self, number: int) -> None:
        """As Outside.forget_query."""
        for query in self._asked.pop(number, ()):
            query.close()


class _UdpQuery:
    """A socket of its own for each query: its port is a second random number that a forger has to guess (RFC 5452,
    9.2)."""

    def __init__(self, host: HostSide, server: Address, number: int, message: bytes) -> None:
        self._host = host
        self._number = number
        self._socket = host.make_socket(_family(server), socket.SOCK_DGRAM)
        try:
            self._socket.connect(server)
            self._socket.send(message)
        except OSError:
            self._socket.close()
            raise
        self._watch = host.loop.watch(self._socket.fileno(), host.in_turn(self._readable))
        self._watch.want(read=True)

    def _readable(self) -> None:
        try:
            message = self._socket.recv(_MAX_MESSAGE)
        except BlockingIOError:
            return
        except OSError:
            self._watch.want()
            self._host.core.dns.answered_by_resolver(self._number, None, self._host.core.now)
            return
        self._host.core.dns.answered_by_resolver(self._number, message, self._host.core.now)

    def close(self) -> None:
        self._watch.close()
        self._socket.close()


class _TcpQuery:
    """A connection for one query (RFC 7766 likes them longer; guests ask over TCP seldom)."""

    def __init__(self, host: HostSide, server: Address, number: int, message: bytes) -> None:
        self._host = host
        self._number = number
        self._unsent = len(message).to_bytes(2, "big") + message
        self._buffer = bytearray()
        self._socket = host.make_socket(_family(server), socket.SOCK_STREAM)
        self._socket.connect_ex(server)  # what goes wrong shows when it is writable
        self._watch = host.loop.watch(self._socket.fileno(), host.in_turn(self._readable), host.in_turn(self._writable))
        self._watch.want(write=True)

    def _writable(self) -> None:
        try:
            sent = self._socket.send(self._unsent)
        except BlockingIOError:
            return
        except OSError:
            self._fail()
            return
        self._unsent = self._unsent[sent:]
        if not self._unsent:
            self._watch.want(read=True)

    def _readable(self) -> None:
        try:
            data = self._socket.recv(_MAX_MESSAGE + 2)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._fail()
            return
        self._buffer += data
        if len(self._buffer) >= 2:
            end = 2 + int.from_bytes(self._buffer[:2], "big")
            if len(self._buffer) >= end:
                self._watch.want()
                message = bytes(self._buffer[2:end])
                self._host.core.dns.answered_by_resolver(self._number, message, self._host.core.now)

    def _fail(self) -> None:
        self._watch.want()
        self._host.core.dns.answered_by_resolver(self._number, None, self._host.core.now)

    def close(self) -> None:
        self._watch.close()
        self._socket.close()


def _family(server: Address) -> socket.AddressFamily:
    return socket.AF_INET if len(server) == 2 else socket.AF_INET6
