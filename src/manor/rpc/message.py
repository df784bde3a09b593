"""What a connection tells its owner: one class an occasion. Sent and received by `connection`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from manor.rpc.protocol.catalog import Procedure
from manor.rpc.protocol.records import ErrorRecord


@dataclass(frozen=True, slots=True)
class Call:
    """To a server: a call whose arguments are sound and which the client may make. It must be answered once.

    files: descriptors, the receiver's from now on.
    """

    serial: int
    procedure: Procedure
    arguments: Any
    files: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Reply:
    """To a client: what a call gave. files: descriptors, the receiver's from now on."""

    serial: int
    procedure: Procedure
    value: Any
    files: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class CallFailed:
    """To a client: why a call gave nothing."""

    serial: int
    procedure: Procedure
    error: ErrorRecord


@dataclass(frozen=True, slots=True)
class Event:
    """To a client: an event. arguments: the named tuple of the procedure's arguments."""

    procedure: Procedure
    arguments: Any


@dataclass(frozen=True, slots=True)
class StreamData:
    """Data of the stream that call `serial` opened."""

    serial: int
    data: bytes


@dataclass(frozen=True, slots=True)
class StreamHole:
    """`size` bytes of zeros that are not sent."""

    serial: int
    size: int


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """No more data comes this way. To a client: call `finish_stream` to close the stream."""

    serial: int


@dataclass(frozen=True, slots=True)
class StreamFinished:
    """To a server: the client has finished the stream, and waits for `confirm_stream` or `fail_stream`.

    To a client: the server confirms; the stream is gone.
    """

    serial: int


@dataclass(frozen=True, slots=True)
class StreamAborted:
    """The other end has given the stream up. To a server: error is None, and `confirm_stream` is due."""

    serial: int
    error: ErrorRecord | None


@dataclass(frozen=True, slots=True)
class Ping:
    """The other end asked whether we live; it has been answered."""


@dataclass(frozen=True, slots=True)
class Pong:
    """The other end lives."""


Message = (
    Call
    | Reply
    | CallFailed
    | Event
    | StreamData
    | StreamHole
    | StreamEnd
    | StreamFinished
    | StreamAborted
    | Ping
    | Pong
)
