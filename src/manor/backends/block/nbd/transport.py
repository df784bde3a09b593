"""Sockets of an NBD connection, plain or inside TLS.

One thread may receive while another one sends; two that send take turns. Errors are `OSError`s (of which TLS's are).
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
from contextlib import suppress
from typing import Final, Protocol, cast

from manor.backends.block.api import Buffers
from manor.backends.block.nbd.incoming import CHUNK
from manor.backends.block.nbd.uri import NbdAddress
from manor.base.errors import ConfigError, HostError

CONNECT_SECONDS: Final = 10.0
HANDSHAKE_SECONDS: Final = 30.0

_LOST_MILLISECONDS: Final = 30_000
"""A peer that confirms nothing for as long is gone (TCP_USER_TIMEOUT, tcp(7))."""
_KEEP_ALIVE_SECONDS: Final = 10


class Transport(Protocol):
    """A stream of bytes both ways."""

    def send(self, buffers: Buffers) -> None:
        """Send all of `buffers`. Any thread."""

    def receive_into(self, target: memoryview) -> int:
        """Receive at least one byte; 0 at the end of the stream. One thread at a time."""

    def has_more(self) -> bool:
        """Whether something has arrived that is not received yet."""

    def set_timeout(self, seconds: float | None) -> None:
        """How long each call may take; None for ever."""

    def start_tls(self, context: ssl.SSLContext, host: str | None, *, server: bool = False) -> Transport:
        """The same connection inside TLS, after its handshake. Raises OSError."""

    def shutdown(self) -> None:
        """Wake whoever sends or receives. Any thread."""

    def close(self) -> None: ...


class SocketTransport:
    """A connected socket. Owns it."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._sending = threading.Lock()
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEP_ALIVE_SECONDS)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _LOST_MILLISECONDS)

    def send(self, buffers: Buffers) -> None:
        with self._sending:
            sent = self._socket.sendmsg(buffers)
            for piece in buffers:
                if sent < piece.nbytes:
                    self._socket.sendall(piece[sent:])
                    sent = 0
                else:
                    sent -= piece.nbytes

    def receive_into(self, target: memoryview) -> int:
        return self._socket.recv_into(target)

    def has_more(self) -> bool:
        try:
            return bool(self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except OSError:
            return False

    def set_timeout(self, seconds: float | None) -> None:
        self._socket.settimeout(seconds)

    def start_tls(self, context: ssl.SSLContext, host: str | None, *, server: bool = False) -> TlsTransport:
        return TlsTransport(self, context, host, server=server)

    def shutdown(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._socket.close()


class TlsTransport:
    """TLS inside a plain transport. Over memory, not over the socket: OpenSSL allows no two threads in one session, and
    a thread that waits to receive must not keep another one from sending."""

    def __init__(self, plain: SocketTransport, context: ssl.SSLContext, host: str | None, *, server: bool) -> None:
        self._plain = plain
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._session = context.wrap_bio(self._incoming, self._outgoing, server_side=server, server_hostname=host)
        self._lock = threading.Lock()
        self._buffer = bytearray(CHUNK)
        while True:
            try:
                self._session.do_handshake()
            except ssl.SSLWantReadError:
                self._send_pending()
                if not self._receive_pending():
                    raise ConnectionError("the peer closed the connection during the TLS handshake") from None
            else:
                self._send_pending()
                return

    def _send_pending(self) -> None:
        if self._outgoing.pending:
            self._plain.send([memoryview(self._outgoing.read())])

    def _receive_pending(self) -> bool:
        count = self._plain.receive_into(memoryview(self._buffer))
        self._incoming.write(memoryview(self._buffer)[:count])
        return count > 0

    def send(self, buffers: Buffers) -> None:
        # The lock covers the sending as well: records go out in the order in which they were made.
        with self._lock:
            for piece in buffers:
                rest = piece
                while rest.nbytes:
                    rest = rest[self._session.write(rest) :]
                self._send_pending()

    def receive_into(self, target: memoryview) -> int:
        while True:
            with self._lock:
                try:
                    # With a buffer it returns how much it put there, whatever typeshed says.
                    return cast(int, self._session.read(len(target), cast(bytearray, target)))
                except ssl.SSLWantReadError:
                    pass
                except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                    return 0
            count = self._plain.receive_into(memoryview(self._buffer))
            with self._lock:
                if count:
                    self._incoming.write(memoryview(self._buffer)[:count])
                else:
                    self._incoming.write_eof()

    def has_more(self) -> bool:
        with self._lock:
            return self._session.pending() > 0 or self._plain.has_more()

    def set_timeout(self, seconds: float | None) -> None:
        self._plain.set_timeout(seconds)

    def start_tls(self, context: ssl.SSLContext, host: str | None, *, server: bool = False) -> TlsTransport:
        raise OSError("the connection is inside TLS already")

    def shutdown(self) -> None:
        self._plain.shutdown()

    def close(self) -> None:
        self._plain.close()


def connect(address: NbdAddress) -> SocketTransport:
    """Connect to the server. Raises HostError with what to look at."""
    try:
        if address.socket:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.settimeout(CONNECT_SECONDS)
                connection.connect(address.socket)
            except BaseException:
                connection.close()
                raise
        else:
            connection = socket.create_connection((address.host, address.port), CONNECT_SECONDS)
    except OSError as error:
        where = address.socket or f"{address.host} port {address.port}"
        reason = error.strerror or error
        raise HostError(
            f"connecting to the NBD server at {where}: {reason}; see that it runs and that the address is right",
            error.errno,
        ) from error
    return SocketTransport(connection)


def client_context(address: NbdAddress) -> ssl.SSLContext:
    """TLS as the address asks for it. Raises ConfigError. File names are those of libnbd and qemu-nbd."""
    folder = address.tls_certificates
    try:
        if not folder:
            return ssl.create_default_context()
        context = ssl.create_default_context(cafile=os.path.join(folder, "ca-cert.pem"))
        certificate = os.path.join(folder, "client-cert.pem")
        if os.path.exists(certificate):
            context.load_cert_chain(certificate, os.path.join(folder, "client-key.pem"))
        return context
    except OSError as error:
        raise ConfigError(
            address.text, f"the certificates in {folder or 'the system'} cannot be used: {error}"
        ) from error


def server_context(folder: str) -> ssl.SSLContext:
    """TLS of a server with the files of `folder`: server-cert.pem, server-key.pem; ca-cert.pem if clients must prove
    who they are. Raises ConfigError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(os.path.join(folder, "server-cert.pem"), os.path.join(folder, "server-key.pem"))
        authority = os.path.join(folder, "ca-cert.pem")
        if os.path.exists(authority):
            context.load_verify_locations(authority)
            context.verify_mode = ssl.CERT_REQUIRED
    except OSError as error:
        raise ConfigError("tls-certificates", f"the files in {folder} cannot be used: {error}") from error
    return context
