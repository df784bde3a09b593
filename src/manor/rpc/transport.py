"""Channels: how packets get to the other end. Unix sockets with file descriptors, TLS, and a program's pipes (ssh).

A channel is one task's for reading and one task's for writing. All of it is asyncio; nothing here blocks.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import socket
import ssl
import struct
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from manor.base.errors import HostError, ProtocolError
from manor.rpc.packet import FILES_MAX, Outgoing

READ_SIZE = 256 * 1024
"""Bytes of stream data are read in large pieces; a call fits into the first, which costs no memory of its own."""
FIRST_READ = 16 * 1024
JOINED_MAX = 64 * 1024
"""Bytes up to which messages that wait to be sent are put together."""
HIGH_WATER = 1024 * 1024
"""Bytes that may wait to be sent before `drain` waits."""

_CREDENTIALS = struct.Struct("=iII")
_ANCILLARY_SIZE = socket.CMSG_SPACE(FILES_MAX * 4)


class Peer(NamedTuple):
    """Who is at the other end of a unix socket. Source: unix(7), SO_PEERCRED."""

    pid: int
    uid: int
    gid: int


class Channel(Protocol):
    """A way to the other end."""

    @property
    def peer(self) -> Peer | None:
        """Who the other end is, where the kernel says so."""

    @property
    def can_pass_files(self) -> bool:
        """Whether file descriptors can be sent."""

    @property
    def queued(self) -> int:
        """Bytes that wait to be sent."""

    async def receive(self) -> tuple[bytes, Sequence[int]]:
        """Some bytes and the descriptors that came with them, the receiver's from now on; b"" at the end.

        Raises HostError.
        """

    def send(self, outgoing: Iterable[Outgoing]) -> None:
        """Send, or keep until it can be sent. Descriptors are closed once they are sent, or cannot be."""

    async def drain(self) -> None:
        """Wait until at most `HIGH_WATER` bytes wait to be sent. Raises HostError if they cannot be."""

    async def close(self) -> None:
        """Send what waits, for up to a second, then close."""


class UnixChannel:
    """A unix stream socket. It is read and written directly, as asyncio's transports drop file descriptors."""

    can_pass_files = True

    def __init__(self, sock: socket.socket) -> None:
        """sock: connected; it becomes the channel's. To be called in the loop that will use it."""
        sock.setblocking(False)
        self._socket = sock
        self._loop = asyncio.get_running_loop()
        self._queue: deque[tuple[bytes | bytearray, int | None]] = deque()
        self._sent = 0
        """Bytes of the queue's first piece that are gone already."""
        self.queued = 0
        self._error: OSError | None = None
        self._reader: asyncio.Future[None] | None = None
        self._is_watched = False
        self._size = FIRST_READ
        self._is_empty = False
        self._drained: asyncio.Future[None] | None = None
        self._is_closed = False
        self.peer: Peer | None = None
        with contextlib.suppress(OSError):
            raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            self.peer = Peer(*_CREDENTIALS.unpack(raw))

    async def receive(self) -> tuple[bytes, Sequence[int]]:
        if self._is_empty:
            await self._readable()
        while not self._is_closed:
            try:
                data, files = self._receive_nowait()
            except BlockingIOError:
                await self._readable()
                continue
            self._is_empty = len(data) < self._size
            self._size = FIRST_READ if self._is_empty else READ_SIZE
            return data, files
        return b"", ()

    def _receive_nowait(self) -> tuple[bytes, Sequence[int]]:
        files: list[int] = []
        try:
            data, ancillary, flags, _ = self._socket.recvmsg(
                self._size, _ANCILLARY_SIZE, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            raise
        except ConnectionError:
            return b"", ()
        except OSError as error:
            raise HostError.from_os_error("cannot read from the socket", error) from error
        for level, kind, raw in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                received = array.array("i")
                received.frombytes(raw[: len(raw) - len(raw) % received.itemsize])
                files.extend(received)
        if flags & socket.MSG_CTRUNC:
            for file in files:
                os.close(file)
            raise ProtocolError("more file descriptors at once than the protocol allows")
        return data, files

    async def _readable(self) -> None:
        self._reader = self._loop.create_future()
        if not self._is_watched:
            self._loop.add_reader(self._socket, self._on_readable)
            self._is_watched = True
        try:
            await self._reader
        finally:
            self._reader = None

    def _on_readable(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
        else:
            # Nobody reads at the moment: the kernel's buffer fills, and the other end waits.
            self._loop.remove_reader(self._socket)
            self._is_watched = False

    def send(self, outgoing: Iterable[Outgoing]) -> None:
        waiting = bool(self._queue)
        for data, files in outgoing:
            self._put(data, None)
            for file in files:
                # A byte and a message of its own for each: see `packet`.
                self._put(b"\0", file)
        if self._error is not None or self._is_closed:
            self._drop()
        elif not waiting and self._queue:
            self._flush()
            if self._queue:
                self._loop.add_writer(self._socket, self._flush)

    def _put(self, data: bytes | bytearray, file: int | None) -> None:
        self.queued += len(data)
        if file is None and self._queue:
            # Many short messages for a client that does not read: they would cost several times their size.
            last, its_file = self._queue[-1]
            if its_file is None and isinstance(last, bytearray) and len(last) + len(data) <= JOINED_MAX:
                last += data
                return
            if len(data) < JOINED_MAX:
                data = bytearray(data)
        self._queue.append((data, file))

    def _flush(self) -> None:
        try:
            while self._queue:
                data, file = self._queue[0]
                if file is None:
                    sent = self._socket.send(memoryview(data)[self._sent :] if self._sent else data)
                else:
                    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("=i", file))
                    sent = self._socket.sendmsg([data], [rights])
                    os.close(file)
                self.queued -= sent
                self._sent += sent
                if self._sent == len(data):
                    self._queue.popleft()
                    self._sent = 0
        except BlockingIOError:
            pass
        except OSError as error:
            self._error = error
            self._drop()
        if not self._queue:
            self._loop.remove_writer(self._socket)
        if self.queued <= HIGH_WATER and self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def _drop(self) -> None:
        while self._queue:
            _, file = self._queue.popleft()
            if file is not None:
                os.close(file)
        self.queued = self._sent = 0

    async def drain(self) -> None:
        while self.queued > HIGH_WATER:
            await self._wait_drained()
        if self._error is not None:
            raise HostError.from_os_error("cannot write to the socket", self._error) from self._error

    async def _wait_drained(self) -> None:
        if self._drained is None or self._drained.done():
            self._drained = self._loop.create_future()
        await asyncio.shield(self._drained)

    async def close(self) -> None:
        if self._is_closed:
            return
        deadline = self._loop.time() + 1
        while self._queue and self._loop.time() < deadline:
            await asyncio.sleep(0.005)
        self._is_closed = True
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._drop()
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
        self._socket.close()


class StreamChannel:
    """A pair of asyncio streams: TCP, TLS, or a program's pipes. No file descriptors."""

    can_pass_files = False
    peer = None

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        process: asyncio.subprocess.Process | None = None,
    ) -> None:
        """process: the program behind the pipes, which ends with the channel."""
        self._reader = reader
        self._writer = writer
        self._process = process

    @property
    def queued(self) -> int:
        return self._writer.transport.get_write_buffer_size()

    async def receive(self) -> tuple[bytes, Sequence[int]]:
        try:
            data = await self._reader.read(READ_SIZE)
        except (ConnectionError, ssl.SSLError):
            return b"", ()
        except OSError as error:
            raise HostError.from_os_error("cannot read from the connection", error) from error
        if not data and self._process is not None:
            await self._explain_end(self._process)
        return data, ()

    async def _explain_end(self, process: asyncio.subprocess.Process) -> None:
        """Raise HostError with what the program said, if it failed."""
        with contextlib.suppress(TimeoutError):
            status = await asyncio.wait_for(process.wait(), 1)
            if status and process.stderr is not None:
                said = (await process.stderr.read(4096)).decode(errors="replace").strip()
                if said:
                    raise HostError(f"the connection's program ended with status {status}: {said}")

    def send(self, outgoing: Iterable[Outgoing]) -> None:
        for data, files in outgoing:
            for file in files:
                os.close(file)
            if files:
                raise ProtocolError("file descriptors can be sent over unix sockets only")
            self._writer.write(data)

    async def drain(self) -> None:
        try:
            await self._writer.drain()
        except (OSError, ssl.SSLError) as error:
            raise HostError(f"cannot write to the connection: {error}") from error

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError, TimeoutError, ssl.SSLError):
            await asyncio.wait_for(self._writer.wait_closed(), 1)
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            await self._process.wait()


async def connect_unix(path: str) -> UnixChannel:
    """Connect to a socket. Raises HostError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        await asyncio.get_running_loop().sock_connect(sock, path)
    except OSError as error:
        sock.close()
        raise HostError.from_os_error(f"cannot connect to {path}", error) from error
    return UnixChannel(sock)


async def connect_tcp(host: str, port: int) -> StreamChannel:
    """Connect without any protection. Raises HostError."""
    try:
        reader, writer = await asyncio.open_connection(host, port)
    except OSError as error:
        raise HostError.from_os_error(f"cannot connect to {host} port {port}", error) from error
    return StreamChannel(reader, writer)


async def connect_tls(host: str, port: int, context: ssl.SSLContext, name: str | None = None) -> StreamChannel:
    """Connect with TLS. name: that the server's certificate must bear, if it is not `host`. Raises HostError.

    After the handshake the server says with one byte that it accepts the client's certificate.
    """
    where = f"{host} port {port}"
    try:
        reader, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=name or host)
    except (OSError, ssl.SSLError) as error:
        raise HostError(f"cannot connect to {where}: {error}") from error
    try:
        verdict = await asyncio.wait_for(reader.readexactly(1), 30)
    except (OSError, EOFError, ssl.SSLError, TimeoutError) as error:
        writer.close()
        raise HostError(f"{where} does not accept this client's certificate: {error}") from error
    if verdict != b"\1":
        writer.close()
        raise HostError(f"{where} does not accept this client's certificate")
    return StreamChannel(reader, writer)


async def accept_tls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> StreamChannel:
    """The server's end of a connection whose handshake is done, its client accepted."""
    writer.write(b"\1")
    return StreamChannel(reader, writer)


def client_tls(ca: str, certificate: str | None, key: str | None, *, verify: bool = True) -> ssl.SSLContext:
    """The context to connect with: files in PEM format. verify: of the server. Raises HostError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    try:
        if verify:
            context.load_verify_locations(ca)
        if certificate is not None:
            context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise HostError(f"cannot use the certificates {ca} and {certificate}: {error}") from error
    return context


def server_tls(ca: str, certificate: str, key: str) -> ssl.SSLContext:
    """The context to serve with: only clients with a certificate of `ca` pass. Raises HostError.

    Without session tickets: GnuTLS, which libvirt uses, takes one that arrives first for an interrupted read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.num_tickets = 0
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(ca)
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise HostError(f"cannot use the certificates {ca} and {certificate}: {error}") from error
    return context


async def connect_program(arguments: Sequence[str]) -> StreamChannel:
    """Talk to a program's standard input and output, as with ssh. Raises HostError."""
    try:
        process = await asyncio.create_subprocess_exec(
            *arguments, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
    except OSError as error:
        raise HostError.from_os_error(f"cannot run {arguments[0]}", error) from error
    assert process.stdin is not None
    assert process.stdout is not None
    return StreamChannel(process.stdout, process.stdin, process)
