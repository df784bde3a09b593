"""A daemon of a page: a handler that knows a few domains, served on a socket. What tests of the wire talk to."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from manor.base.errors import ApiError
from manor.rpc.message import Call
from manor.rpc.protocol.catalog import REMOTE
from manor.rpc.protocol.errors import ErrorCode, ErrorOrigin
from manor.rpc.protocol.records import Domain, DomainStats, StorageVol, TypedParam
from manor.rpc.session import Answer, Session, SessionStream, close_files
from manor.rpc.transport import UnixChannel, accept_tls

FEATURES = (2, 8, 9, 10, 14, 15, 16)
VOLUME = StorageVol("default", "a.img", "/default/a.img")


class FakeDaemon:
    """Domains that are shut off, one volume, a console that echoes. Handlers may be replaced by name."""

    def __init__(self, domains: int = 3) -> None:
        self.domains = [Domain(f"domain-{number:04}", number.to_bytes(16, "big")) for number in range(1, domains + 1)]
        self.volume = bytearray()
        self.sessions: list[Session] = []
        self.callbacks: list[tuple[Session, int]] = []
        self.calls: list[str] = []
        self.handlers: dict[str, Callable[[Session, Any], Any]] = {
            "auth_list": lambda session, a: [0],
            "connect_open": self._open,
            "connect_close": lambda session, a: None,
            "connect_supports_feature": lambda session, a: int(a.feature in FEATURES),
            "connect_register_close_callback": lambda session, a: None,
            "connect_unregister_close_callback": lambda session, a: None,
            "connect_get_uri": lambda session, a: "qemu:///session",
            "connect_get_type": lambda session, a: "QEMU",
            "connect_get_version": lambda session, a: 7_002_000,
            "connect_get_lib_version": lambda session, a: 9_000_000,
            "connect_get_hostname": lambda session, a: "host.example",
            "connect_list_all_domains": lambda session, a: (self.domains, len(self.domains)),
            "connect_get_all_domain_stats": lambda session, a: self._stats(a.domains),
            "connect_domain_event_callback_register_any": self._register,
            "connect_domain_event_callback_deregister_any": lambda session, a: None,
            "domain_lookup_by_name": lambda session, a: self._find(a.name),
            "domain_get_info": lambda session, a: (5, 1048576, 1048576, 2, 0),
            "domain_get_state": lambda session, a: (5, 0),
            "domain_get_xml_desc": lambda session, a: f"<domain type='kvm'><name>{a.domain.name}</name></domain>",
            "domain_destroy": lambda session, a: None,
            "domain_open_console": lambda session, a: Answer(then=self._echo),
            "domain_open_graphics_fd": self._graphics,
            "storage_vol_upload": lambda session, a: Answer(then=self._receive),
            "storage_vol_download": lambda session, a: Answer(then=self._send),
            "storage_vol_lookup_by_path": lambda session, a: VOLUME,
            "storage_vol_lookup_by_key": lambda session, a: VOLUME,
        }

    def handle(self, session: Session, call: Call) -> Any:
        """The handler of a `Session`."""
        self.calls.append(call.procedure.name)
        close_files(call.files)
        handler = self.handlers.get(call.procedure.name)
        if handler is None:
            raise ApiError(ErrorCode.NO_SUPPORT, ErrorOrigin.QEMU, f"not here: {call.procedure.name}")
        return handler(session, call.arguments)

    def emit(self, event: int = 4) -> None:
        """Send a lifecycle event of the first domain to all that registered."""
        for session, callback in self.callbacks:
            session.send_event(REMOTE["domain_event_callback_lifecycle"], callback, self.domains[0], event, 0)

    async def serve(self, channel: Any, **options: Any) -> Any:
        """Serve one client."""
        session = Session(channel, self.handle, **options)
        self.sessions.append(session)
        return await session.run()

    @asynccontextmanager
    async def listen(self, path: Path, **options: Any) -> AsyncIterator[None]:
        """Serve all that connect to a unix socket."""
        loop = asyncio.get_running_loop()
        tasks: set[asyncio.Task[Any]] = set()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen()
            listener.setblocking(False)

            async def accept() -> None:
                while True:
                    client, _ = await loop.sock_accept(listener)
                    tasks.add(asyncio.create_task(self.serve(UnixChannel(client), **options)))

            acceptor = asyncio.create_task(accept())
            try:
                yield
            finally:
                for task in (acceptor, *tasks):
                    task.cancel()
                await asyncio.gather(acceptor, *tasks, return_exceptions=True)
                path.unlink(missing_ok=True)

    @asynccontextmanager
    async def listen_tls(self, context: ssl.SSLContext) -> AsyncIterator[int]:
        """Serve all that connect with TLS to a port of the loopback interface, which is given."""
        tasks: set[asyncio.Task[Any]] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            await self.serve(await accept_tls(reader, writer))

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _open(self, session: Session, arguments: Any) -> None:
        if arguments.flags & 1:
            session.is_read_only = True

    def _find(self, name: str) -> Domain:
        for domain in self.domains:
            if domain.name == name:
                return domain
        raise ApiError(ErrorCode.NO_DOMAIN, ErrorOrigin.QEMU, f"Domain not found: no domain with name '{name}'")

    def _stats(self, asked: list[Domain]) -> list[DomainStats]:
        params = [TypedParam("state.state", 1, 5), TypedParam("state.reason", 1, 0)]
        return [DomainStats(domain, params) for domain in asked or self.domains]

    def _register(self, session: Session, arguments: Any) -> int:
        self.callbacks.append((session, len(self.callbacks)))
        return len(self.callbacks) - 1

    def _graphics(self, session: Session, arguments: Any) -> Answer:
        ours, theirs = socket.socketpair()
        with ours:
            ours.sendall(b"RFB 003.008\n")
        return Answer(files=(theirs.detach(),))

    async def _echo(self, session: Session, stream: SessionStream | None) -> None:
        assert stream is not None
        while piece := await stream.receive():
            assert isinstance(piece, bytes)
            await stream.send(piece.upper())

    async def _receive(self, session: Session, stream: SessionStream | None) -> None:
        assert stream is not None
        self.volume.clear()
        while piece := await stream.receive():
            self.volume += bytes(piece) if isinstance(piece, int) else piece

    async def _send(self, session: Session, stream: SessionStream | None) -> None:
        assert stream is not None
        for start in range(0, len(self.volume), 65536):
            await stream.send(bytes(self.volume[start : start + 65536]))
        await stream.end()


def open_files() -> int:
    """How many descriptors this process has, to find those that leak."""
    return len(os.listdir("/proc/self/fd"))
