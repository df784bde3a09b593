"""Between a client's stream and a driver's: to the end, or to whoever ends it first."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from manor.base.errors import StateError
from manor.drivers.api import ByteStream, Cancelled, Progress, VolumeStream, unwatched
from manor.rpc.session import SessionStream

CHUNK: Final = 256 * 1024 - 24
"""Bytes of a piece. Source: libvirt 9.0 sends no more in a packet, headers included."""
_ZEROS: Final = bytes(CHUNK)


async def send_all(
    stream: SessionStream,
    source: ByteStream,
    progress: Progress = unwatched,
    find_hole: Callable[[], Awaitable[int]] | None = None,
) -> None:
    """Everything of `source`; then its end, which the client confirms. Raises Cancelled if it ends it before.

    find_hole: bytes of the hole that `source` is at, if the client takes holes.
    """
    done = 0
    try:
        while True:
            if find_hole is not None and (size := await find_hole()):
                await stream.send_hole(size)
                done += size
            data = await source.read(CHUNK)
            if not data:
                break
            await stream.send(data)
            done += len(data)
            progress(done, 0)
        await stream.end()
    except StateError:
        stream.confirm()
        raise Cancelled("the client has had enough") from None
    finally:
        source.close()


async def receive_all(stream: SessionStream, target: VolumeStream, progress: Progress = unwatched) -> None:
    """Everything that the client sends. It is on the disk before the client's finishing is confirmed.

    Raises Cancelled if the client gives it up.
    """
    done = 0
    try:
        while (piece := await stream.receive()) != b"":
            done += piece if isinstance(piece, int) else len(piece)
            progress(done, 0)
            if isinstance(piece, int):
                await target.skip(piece)
            else:
                await target.write(piece)
        await target.finish()
        stream.confirm()
    except StateError:
        stream.confirm()
        raise Cancelled("the client gave it up") from None
    finally:
        target.close()


async def both_ways(stream: SessionStream, device: ByteStream) -> None:
    """A console: until the client or the guest goes."""

    async def out() -> None:
        while data := await device.read(CHUNK):
            await stream.send(data)

    async def into() -> None:
        while piece := await stream.receive():
            await device.write(_ZEROS[:piece] if isinstance(piece, int) else piece)

    output, entry = asyncio.ensure_future(out()), asyncio.ensure_future(into())
    try:
        done, _ = await asyncio.wait((output, entry), return_when=asyncio.FIRST_COMPLETED)
        if output in done and entry not in done and output.exception() is None:
            await stream.end()
        else:
            for task in done:
                error = task.exception()
                if error is not None and not isinstance(error, StateError):
                    raise error
            stream.confirm()
    except StateError:
        stream.confirm()
    finally:
        for task in (output, entry):
            task.cancel()
        await asyncio.gather(output, entry, return_exceptions=True)
        device.close()
