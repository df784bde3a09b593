"""A client whose calls another daemon answers: calls, descriptors, events and streams are passed on both ways."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from manor.base.errors import ApiError, StateError
from manor.drivers.errors import Code, Origin
from manor.drivers.remote import Passed, RemoteConnection
from manor.rpc.caller import Stream
from manor.rpc.message import Call, Event
from manor.rpc.protocol.catalog import REMOTE
from manor.rpc.session import Answer, Session, SessionStream, close_files
from manor.service.client import Client

OURS: Final = frozenset({
    "auth_list", "auth_polkit", "auth_sasl_init", "auth_sasl_start", "auth_sasl_step", "connect_open", "connect_close",
    "connect_supports_feature", "connect_register_close_callback", "connect_unregister_close_callback",
    "connect_set_identity",
})  # fmt: skip
"""Procedures about the connection between the client and us."""


async def open_remote(client: Client, uri: str) -> None:
    """Connect `client` to the daemon of `libvirt+URI`. Raises ApiError."""
    if not client.may_dial and uri not in client.service.remotes:
        # A URI can name programs and sockets: it is run with the daemon's rights.
        raise ApiError(
            Code.AUTH_FAILED, Origin.REMOTE,
            f"this client may not have {uri} opened; list it under `remotes` in the settings of manord",
        )  # fmt: skip
    session = client.session

    def on_event(event: Event) -> None:
        session.send_event(event.procedure, *event.arguments)

    def on_closed(reason: int) -> None:
        if client.wants_close_event:
            session.send_event(REMOTE["connect_event_connection_closed"], reason)

    client.remote = await RemoteConnection.open(
        uri, is_read_only=session.is_read_only, on_event=on_event, on_closed=on_closed
    )
    client.uri = uri


async def forward(remote: RemoteConnection, call: Call) -> Any:
    """What `rpc.session` sends on as the reply. Raises ApiError."""
    if call.files and not remote.can_pass_files:
        close_files(call.files)
        raise ApiError(Code.NO_SUPPORT, Origin.RPC, f"{remote.uri}: descriptors cannot be passed on this way")
    passed: Passed = await remote.call(call.procedure, call.arguments, call.files)
    stream = passed.stream
    if stream is None:
        return Answer(passed.value, passed.files)

    async def then(session: Session, near: SessionStream | None) -> None:
        assert near is not None
        await pass_stream(near, stream)

    return Answer(passed.value, passed.files, then)


async def pass_stream(near: SessionStream, far: Stream) -> None:
    """Pass on all that comes on either stream, as fast as the slower end takes it. Raises the far end's error.

    The client ends a stream, in order or not; the far end can only break it.
    """
    down, up = asyncio.ensure_future(_down(near, far)), asyncio.ensure_future(_up(near, far))
    try:
        await asyncio.wait((down, up), return_when=asyncio.FIRST_EXCEPTION)
        for task in (down, up):
            if task.done() and (error := task.exception()) is not None:
                raise error
    finally:
        for task in (down, up):
            task.cancel()
        await asyncio.gather(down, up, return_exceptions=True)


async def _down(near: SessionStream, far: Stream) -> None:
    try:
        while (piece := await far.receive()) != b"":
            if isinstance(piece, int):
                await near.send_hole(piece)
            else:
                await near.send(piece)
        near.end_data()
    except StateError:
        return  # the client has ended it, and reads no more


async def _up(near: SessionStream, far: Stream) -> None:
    while True:
        try:
            piece = await near.receive()
        except StateError:
            await far.abort()  # the client has given it up, or has gone
            near.confirm()
            return
        if piece == b"":
            break
        if isinstance(piece, int):
            await far.send_hole(piece)
        else:
            await far.send(piece)
    await far.finish()
    near.confirm()
