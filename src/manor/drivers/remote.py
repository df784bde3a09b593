"""`libvirt+URI`: another daemon, of libvirt or of ours, behind this one.

Procedures are passed on as they are, and not translated into what `drivers.api` has: docs/decisions/0018 says why. So a
client of ours has a connection of its own to the other daemon, which ends with it; what is registered, locked or opened
there is this client's alone, and a client that opens anew connects anew.

The words and numbers of errors are those of libvirt's own remote driver. Source: virsh 9.0 and libvirtd 9.0, observed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

from manor.base.errors import ApiError, ConfigError, HostError, ManorError, ProtocolError
from manor.drivers.errors import Code, Origin
from manor.rpc.caller import Caller, RemoteError, Silence, Stream
from manor.rpc.message import Event
from manor.rpc.opening import open_caller
from manor.rpc.protocol.catalog import REMOTE, Procedure
from manor.rpc.uri import PASSED_ON, parse_foreign

PREFIX: Final = f"{PASSED_ON}+"
CLOSED_ERROR, CLOSED_EOF, CLOSED_KEEPALIVE = 0, 1, 2
"""Source: libvirt API reference, virConnectCloseReason."""
OPEN_SECONDS: Final = 60.0
"""For the other daemon to be reached and to open what is asked for: ssh may have to ask somebody."""
CLOSE_SECONDS: Final = 5.0
"""For the other daemon to answer a goodbye."""
_CLOSED: Final = REMOTE["connect_event_connection_closed"]


class Passed(NamedTuple):
    """What a call gave. files: descriptors, the receiver's from now on."""

    value: Any
    files: tuple[int, ...] = ()
    stream: Stream | None = None


class RemoteConnection:
    """One client's connection to another daemon. Thread: the event loop's."""

    def __init__(self, uri: str, caller: Caller, on_closed: Callable[[int], None]) -> None:
        self.uri = uri
        self._caller = caller
        self._on_closed = on_closed
        self._is_closing = False
        self._is_told = False
        caller.closed.add_done_callback(self._ended)

    @classmethod
    async def open(
        cls, uri: str, *, is_read_only: bool, on_event: Callable[[Event], None], on_closed: Callable[[int], None]
    ) -> RemoteConnection:
        """Connect. uri: with its `libvirt+`. on_event: called for each event, after the reply of whatever was answered
        before it. on_closed: called once with a virConnectCloseReason if the daemon vanishes. Raises ApiError.
        """
        loop = asyncio.get_running_loop()
        made: RemoteConnection | None = None

        def pass_on(event: Event) -> None:
            if event.procedure is _CLOSED:
                if made is not None:
                    made._tell(event.arguments.reason)
            else:
                # Replies wake a task; an event that came later must not be sent before it ran.
                loop.call_soon(on_event, event)

        try:
            opening = open_caller(parse_foreign(uri), pass_on, is_read_only=is_read_only)
            caller = await asyncio.wait_for(opening, OPEN_SECONDS)
        except ApiError:
            raise
        except ConfigError as error:
            raise ApiError(Code.INVALID_ARG, Origin.REMOTE, f"invalid argument: {error}") from error
        except TimeoutError as error:
            raise ApiError(
                Code.SYSTEM_ERROR, Origin.REMOTE, f"{uri}: the daemon has not answered within {OPEN_SECONDS:g} s"
            ) from error
        except ManorError as error:
            raise ApiError(Code.SYSTEM_ERROR, Origin.RPC, f"{uri}: {error}") from error
        made = cls(uri, caller, on_closed)
        return made

    @property
    def can_pass_files(self) -> bool:
        """Whether descriptors can go along."""
        return self._caller.can_pass_files

    async def call(self, procedure: Procedure, arguments: Sequence[Any], files: tuple[int, ...] = ()) -> Passed:
        """Have it done over there. Raises ApiError: as it was sent, or why nothing was.

        files: descriptors, which become this connection's.
        """
        if not self._caller.is_open:
            raise ApiError(Code.INTERNAL_ERROR, Origin.RPC, "internal error: client socket is closed")
        try:
            reply, stream = await self._caller.forward(procedure, arguments, files)
        except RemoteError:
            raise
        except HostError as error:
            raise _cut_off() from error
        except ProtocolError as error:
            raise ApiError(Code.RPC, Origin.RPC, f"{self.uri}: {error}") from error
        return Passed(reply.value, reply.files, stream)

    async def close(self) -> None:
        """Say goodbye and close. Never raises."""
        self._is_closing = True
        if self._caller.is_open:
            with suppress(ManorError, TimeoutError):
                await asyncio.wait_for(self._caller.call(REMOTE["connect_close"]), CLOSE_SECONDS)
        await self._caller.close()

    def _ended(self, future: asyncio.Future[ManorError | None]) -> None:
        if not self._is_closing and not future.cancelled():
            self._tell(CLOSED_KEEPALIVE if isinstance(future.result(), Silence) else CLOSED_EOF)

    def _tell(self, reason: int) -> None:
        if not self._is_told and not self._is_closing:
            self._is_told = True
            self._on_closed(reason)


def _cut_off() -> ApiError:
    return ApiError(Code.SYSTEM_ERROR, Origin.RPC, "Cannot recv data: Connection reset by peer")
