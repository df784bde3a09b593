"""The client without `await`: the same classes and methods, each call waiting for its result.

    with connect("qemu:///system") as connection:
        for domain in connection.domains():
            print(domain.name, domain.state().state)

Connections live in one background thread with an asyncio loop; any thread may use them. The classes here are made from
those of `manor.client`, method by method; their types are in `sync.pyi`, which tools/gen/client_sync.py writes.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from manor.client import connection as _connection
from manor.client import domain, events, network, node, secret, services, snapshot, storage, stream
from manor.rpc.protocol.records import TypedParam

SOURCES: tuple[type, ...] = (
    _connection.Connection, domain.Domain, snapshot.Snapshot, snapshot.Checkpoint, network.Network,
    network.NetworkPort, storage.StoragePool, storage.Volume, node.Node, node.NodeDevice, node.Interface,
    secret.Secret, secret.Nwfilter, secret.NwfilterBinding, events.Events, stream.Stream,
    services.Services, services.EventLog,
)  # fmt: skip
"""The classes that have a synchronous face."""

HIDDEN = frozenset({"accept", "add", "connection", "dispatcher", "end", "lose", "put", "record", "unread"})
"""What the asynchronous classes say to each other."""


class _LoopThread:
    """The loop, started when first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, work: Coroutine[Any, Any, Any], timeout: float | None = None) -> Any:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="manor-client", daemon=True).start()
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(timeout)
        except BaseException:
            # A keyboard interrupt or time-out leaves nothing behind in the loop.
            future.cancel()
            raise


_loop = _LoopThread()


class Facade:
    """A synchronous object: a face of one asynchronous object, and equal to another face of an equal one."""

    __slots__ = ("_inner",)

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._inner == other._inner  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash(self._inner)

    def __repr__(self) -> str:
        return repr(self._inner)


def _face(value: Any) -> Any:
    """What the caller sees of a result."""
    face = _FACES.get(type(value))
    if face is not None:
        return face(value)
    if type(value) is list:
        return [_face(item) for item in value]
    if type(value) is tuple:
        return tuple(_face(item) for item in value)
    return value


def _inner(value: Any) -> Any:
    """The inverse, for arguments."""
    if isinstance(value, Facade):
        return value._inner
    if isinstance(value, list | tuple) and not isinstance(value, TypedParam):
        return [_inner(item) for item in value] if isinstance(value, list) else tuple(_inner(item) for item in value)
    return value


def _method(name: str, source: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(source)
    def call(self: Facade, *arguments: Any, **named: Any) -> Any:
        async def work() -> Any:
            result = getattr(self._inner, name)(
                *(_inner(value) for value in arguments), **{key: _inner(value) for key, value in named.items()}
            )
            return await result if inspect.isawaitable(result) else result

        return _face(_loop.run(work()))

    return call


def _property(name: str, documentation: str | None) -> property:
    return property(lambda self: _face(getattr(self._inner, name)), doc=documentation)


def _make(source: type) -> type[Facade]:
    members: dict[str, Any] = {"__slots__": (), "__doc__": source.__doc__, "__module__": __name__}
    for name in dir(source):
        member = inspect.getattr_static(source, name)
        if name.startswith("_") or name in HIDDEN:
            continue
        if isinstance(member, property):
            members[name] = _property(name, member.__doc__)
        elif inspect.isfunction(member):
            members[name] = _method(name, member)
    return type(source.__name__, (Facade,), members)


_FACES: dict[type, type[Facade]] = {source: _make(source) for source in SOURCES}


class Connection(_FACES[_connection.Connection]):  # type: ignore[misc]
    __doc__ = _connection.Connection.__doc__
    __slots__ = ()

    @property
    def node(self) -> Any:
        """The host that the daemon is on."""
        return _face(self._inner.node)

    @property
    def services(self) -> Any:
        """What manord gives beyond libvirt."""
        return _face(self._inner.services)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Stream(_FACES[stream.Stream]):  # type: ignore[misc]
    __doc__ = stream.Stream.__doc__
    __slots__ = ()

    def __iter__(self) -> Iterator[bytes]:
        while piece := self.receive():
            yield bytes(piece) if isinstance(piece, int) else piece

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *error: object) -> None:
        _loop.run(self._inner.__aexit__(*error))


class Events(_FACES[events.Events]):  # type: ignore[misc]
    __doc__ = events.Events.__doc__
    __slots__ = ()

    @property
    def lost(self) -> int:
        """Events that were dropped because nobody read them."""
        count: int = self._inner.lost
        return count

    def next(self, timeout: float | None = None) -> events.Event:
        """The next event. Raises TimeoutError after `timeout` seconds, HostError when the connection is lost."""
        found: events.Event = _loop.run(asyncio.wait_for(self._inner.__anext__(), timeout))
        return found

    def __iter__(self) -> Iterator[events.Event]:
        while True:
            yield self.next()

    def __enter__(self) -> Events:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class EventLog(_FACES[services.EventLog]):  # type: ignore[misc]
    __doc__ = services.EventLog.__doc__
    __slots__ = ()

    @property
    def is_complete(self) -> bool:
        """Whether no event is missing since the number that was asked for."""
        return bool(self._inner.is_complete)

    @property
    def last(self) -> int:
        """Number of the latest event that was given."""
        return int(self._inner.last)

    def next(self, timeout: float | None = None) -> services.EventEntry:
        """The next event. Raises TimeoutError after `timeout` seconds, HostError when the connection is lost."""
        found: services.EventEntry = _loop.run(asyncio.wait_for(self._inner.__anext__(), timeout))
        return found

    def __iter__(self) -> Iterator[services.EventEntry]:
        while True:
            yield self.next()

    def __enter__(self) -> EventLog:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


_FACES[services.EventLog] = EventLog
_FACES[_connection.Connection] = Connection
_FACES[stream.Stream] = Stream
_FACES[events.Events] = Events

Domain = _FACES[domain.Domain]
Snapshot = _FACES[snapshot.Snapshot]
Checkpoint = _FACES[snapshot.Checkpoint]
Network = _FACES[network.Network]
NetworkPort = _FACES[network.NetworkPort]
StoragePool = _FACES[storage.StoragePool]
Volume = _FACES[storage.Volume]
Node = _FACES[node.Node]
NodeDevice = _FACES[node.NodeDevice]
Interface = _FACES[node.Interface]
Secret = _FACES[secret.Secret]
Nwfilter = _FACES[secret.Nwfilter]
NwfilterBinding = _FACES[secret.NwfilterBinding]
Services = _FACES[services.Services]


def connect(
    uri: str | None = None, *, is_read_only: bool = False, keepalive: tuple[float, int] | None = None
) -> Connection:
    """Connect. Raises HostError, ConfigError, RemoteError. See `manor.client.open_connection`."""
    opened = _connection.open_connection(uri, is_read_only=is_read_only, keepalive=keepalive)
    return Connection(_loop.run(opened))
