"""Sockets and the clients at them."""

from __future__ import annotations

import asyncio
import errno
import grp
import logging
import os
import pwd
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from manor.base import process_lock
from manor.base.errors import ApiError, ConfigError, HostError
from manor.daemon.config import Config
from manor.drivers.errors import Code, Origin
from manor.rpc.message import Call
from manor.rpc.protocol.catalog import REMOTE
from manor.rpc.session import Session
from manor.rpc.transport import Channel, StreamChannel, UnixChannel, accept_tls, server_tls
from manor.service.dispatch import handle
from manor.service.service import Service

logger = logging.getLogger(__name__)

BACKLOG: Final = 128
HANDSHAKE_SECONDS: Final = 10.0
"""For a client to finish TLS, and for any client to say its first word."""
LOCK_SECONDS: Final = 5.0
"""For another daemon that starts to see whether a socket is in use."""
REFUSED_AT_ONCE: Final = 64
"""Clients that are being told why they are turned away; further ones are not told."""
CLOSED_EOF: Final = 1
"""virConnectCloseReason, VIR_CONNECT_CLOSE_REASON_EOF: what a daemon that goes says."""


class SocketInUse(HostError):
    """Another daemon listens at a socket."""


class Server:
    """Listens, and has a session for each client. Thread: the event loop's."""

    def __init__(self, config: Config, service: Service, on_change: Callable[[], None] | None = None) -> None:
        """on_change: called when a client came or went."""
        self.config = config
        self._service = service
        self._on_change = on_change
        self._sessions: dict[Session, str] = {}
        self._users: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listeners: list[tuple[socket.socket, Path | None]] = []
        self._tls: asyncio.Server | None = None
        self._is_full = False
        self._refused = 0

    @property
    def clients(self) -> int:
        """Connected now."""
        return len(self._sessions)

    async def open(self, inherited: dict[str, socket.socket]) -> None:
        """Begin to listen. inherited: sockets by the name `manord-sock`, `manord-sock-ro`. Raises HostError."""
        if self.config.tls_listen:
            await self._open_tls()
        # The writable socket last: whoever finds it may count on the rest.
        for name, path, read_only in (
            ("manord-sock-ro", self.config.socket_ro, True),
            ("manord-sock", self.config.socket, False),
        ):
            found = inherited.pop(name, None)
            if found is None:
                found, kept = listen_unix(path, 0o666 if read_only and self.config.is_system else 0o660), path
            else:
                kept = None
            found.setblocking(False)
            self._listeners.append((found, kept))
            if kept is not None and self.config.group:
                _give_to(path, self.config.group)
            self._start(self._accept(found, read_only))
        for each in inherited.values():
            each.close()

    async def _open_tls(self) -> None:
        config = self.config
        host, colon, port = config.tls_listen.rpartition(":")
        if not colon or not port.isdigit():
            raise ConfigError("tls_listen", f"{config.tls_listen!r} is not ADDRESS:PORT")
        context = server_tls(config.tls_ca, config.tls_cert, config.tls_key)
        try:
            self._tls = await asyncio.start_server(
                self._accept_tls, host.strip("[]") or None, int(port), ssl=context, backlog=BACKLOG,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
            )  # fmt: skip
        except (OSError, ssl.SSLError) as error:
            raise HostError(f"cannot listen at {config.tls_listen} for TLS: {error}") from error

    async def close(self) -> None:
        """Tell the clients, and let them go."""
        for listener, path in self._listeners:
            if path is not None:
                # Before it is closed: once it is, another daemon may have its own socket there.
                with suppress(OSError):
                    path.unlink()
            listener.close()
        if self._tls is not None:
            self._tls.close()
        for session in list(self._sessions):
            if session.state is not None and session.state.wants_close_event:
                with suppress(Exception):
                    session.send_event(REMOTE["connect_event_connection_closed"], CLOSED_EOF)
            session.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- clients ------------------------------------------------------------------------------------------------------

    async def _accept(self, listener: socket.socket, read_only: bool) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, _ = await loop.sock_accept(listener)
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    logger.warning("cannot accept a client: %s", error.strerror)
                    await asyncio.sleep(0.5)
                    continue
                return  # closed
            channel = UnixChannel(client)
            # Who is this user, or root, can reach other daemons without us as well.
            is_trusted = channel.peer is not None and channel.peer.uid in (0, os.geteuid())
            self._serve(channel, read_only, _user(channel), may_dial=is_trusted and not read_only)

    async def _accept_tls(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        name = _certificate_name(writer.get_extra_info("peercert"))
        if self.config.tls_allow and name not in self.config.tls_allow:
            logger.warning("a client with the certificate %r is not in tls_allow", name)
            writer.close()
            return
        channel: StreamChannel = await accept_tls(reader, writer)
        self._serve(channel, False, f"tls:{name}")

    def _serve(self, channel: Channel, read_only: bool, who: str, *, may_dial: bool = False) -> None:
        config = self.config
        if len(self._sessions) >= config.max_clients or self._users[who] >= config.max_clients_user:
            if not self._is_full:
                logger.warning("there are too many clients (%d, %d of %s); further ones are turned away",
                               len(self._sessions), self._users[who], who)  # fmt: skip
            self._is_full = True
            self._start(self._refuse(channel, who) if self._refused < REFUSED_AT_ONCE else channel.close())
            return
        session = Session(channel, handle, is_read_only=read_only, calls_max=config.max_calls)
        session.state = self._service.client(session, who)
        session.state.may_dial = may_dial
        self._sessions[session] = who
        self._users[who] += 1
        self._start(self._run(session, who))
        self._changed()

    async def _refuse(self, channel: Channel, who: str) -> None:
        """Answer the client's first call with why it cannot be served, and close the connection."""
        config = self.config
        message = f"there are too many clients: at most {config.max_clients}, and {config.max_clients_user} of one user"

        def answer(session: Session, call: Call) -> None:
            asyncio.get_running_loop().call_soon(session.close)
            raise ApiError(Code.RPC, Origin.RPC, f"{message}; close some, or raise max_clients")

        session = Session(channel, answer)
        self._refused += 1
        limit = asyncio.get_running_loop().call_later(HANDSHAKE_SECONDS, session.close)
        try:
            await session.run()
        finally:
            limit.cancel()
            self._refused -= 1

    async def _run(self, session: Session, who: str) -> None:
        limit = asyncio.get_running_loop().call_later(HANDSHAKE_SECONDS, self._give_up, session, who)
        try:
            reason = await session.run()
            if reason is not None:
                logger.info("a client (%s) was cut off: %s", who, reason)
        finally:
            limit.cancel()
            self._service.forget(session.state)
            del self._sessions[session]
            self._users[who] -= 1
            if not self._users[who]:
                del self._users[who]
            self._is_full = False
            self._changed()

    @staticmethod
    def _give_up(session: Session, who: str) -> None:
        """A place is not for who says nothing."""
        if not session.has_spoken:
            logger.info("a client (%s) said nothing in %g s", who, HANDSHAKE_SECONDS)
            session.close()

    def _start(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("a client's task failed", exc_info=task.exception())

    def _changed(self) -> None:
        if self._on_change is not None:
            self._on_change()


def listen_unix(path: Path, mode: int) -> socket.socket:
    """A listening socket; one that a daemon left behind is replaced, one that answers is not. Raises HostError."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    lock = -1
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        # Of two daemons that find a socket left behind, the slower would remove the other's new one.
        lock = process_lock.open_lock(path.with_name(f"{path.name}.lock"))
        limit = time.monotonic() + LOCK_SECONDS
        while not process_lock.try_lock(lock):
            if time.monotonic() > limit:
                raise HostError(f"another daemon has been starting at {path} for {LOCK_SECONDS:g} s; end it")
            time.sleep(0.01)
        if path.exists():
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                if probe.connect_ex(os.fspath(path)) == 0:
                    raise SocketInUse(f"another daemon listens at {path}; end it, or give this one another socket")
            path.unlink()
        old = os.umask(0o777 & ~mode)
        try:
            listener.bind(os.fspath(path))
        finally:
            os.umask(old)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        reason = "the path is too long for a socket" if "too long" in str(error) else error.strerror or str(error)
        raise HostError(f"cannot listen at {path}: {reason}", error.errno, str(path)) from error
    except BaseException:
        listener.close()
        raise
    finally:
        if lock >= 0:
            os.close(lock)
    return listener


def _give_to(path: Path, group: str) -> None:
    try:
        os.chown(path, -1, grp.getgrnam(group).gr_gid)
    except KeyError as error:
        raise ConfigError("group", f"there is no group {group!r}") from error
    except OSError as error:
        raise HostError.from_os_error(f"giving {path} to the group {group}", error) from error


def _user(channel: UnixChannel) -> str:
    if channel.peer is None:
        return "unknown"
    try:
        return pwd.getpwuid(channel.peer.uid).pw_name
    except KeyError:
        return f"uid:{channel.peer.uid}"


def _certificate_name(certificate: Any) -> str:
    """The common name of a client's certificate."""
    for part in (certificate or {}).get("subject", ()):
        for key, value in part:
            if key == "commonName":
                return str(value)
    return ""
