"""Consoles with their past: read from a position, by several readers, with one who may write or all."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from manor.drivers.api import ByteStream, Scrollback
from manor.drivers.errors import invalid_argument
from manor.rpc.session import Answer, Session, SessionStream
from manor.service.client import Client
from manor.service.consoles import Mode, Seat
from manor.service.streams import both_ways, send_all

MAX_PIECE: Final = 1 << 20
"""Bytes of one answer."""
POLL_SECONDS: Final = 0.2
"""Between two looks for more, while somebody follows."""


async def manor_console_log(client: Client, a: Any) -> Scrollback:
    return await client.driver.domains.console_log(a.domain.uuid, a.since, min(a.limit or MAX_PIECE, MAX_PIECE))


async def manor_console_follow(client: Client, a: Any) -> Answer:
    reader = _Follower(client, a.domain.uuid, a.since)
    await reader.start()

    async def give(session: Session, stream: SessionStream | None) -> None:
        assert stream is not None
        await send_all(stream, reader)

    return Answer(None, (), give)


async def manor_console_open(client: Client, a: Any) -> Answer:
    try:
        mode = Mode(a.mode)
    except ValueError:
        raise invalid_argument(
            f"there is no mode {a.mode} of a console; give 0 to watch, 1 to write, 2 to write alone, 3 to take it over"
        ) from None
    consoles = client.service.consoles
    seat = consoles.take((a.domain.uuid, a.device or ""), client.who, mode)
    try:
        device = await client.driver.domains.console(a.domain.uuid, a.device, False)
    except BaseException:
        consoles.leave(seat)
        raise

    async def talk(session: Session, stream: SessionStream | None) -> None:
        assert stream is not None
        try:
            await both_ways(stream, _Seated(device, seat))
        finally:
            consoles.leave(seat)

    return Answer(None, (), talk)


class _Follower:
    """A console's log as it grows (ByteStream). It ends with the VM, when everything was read."""

    def __init__(self, client: Client, uuid: bytes, since: int) -> None:
        self._domains = client.driver.domains
        self._uuid = uuid
        self._at = since

    async def start(self) -> None:
        """Raises ApiError if there is no such domain."""
        if self._at < 0:
            self._at = (await self._domains.console_log(self._uuid, self._at, 1)).start

    async def read(self, size: int) -> bytes:
        while True:
            was_active = (await self._domains.flags(self._uuid)).active
            found = await self._domains.console_log(self._uuid, self._at, size)
            self._at = found.start + len(found.data)
            if found.data or not was_active:
                return found.data
            await asyncio.sleep(POLL_SECONDS)

    async def write(self, data: bytes) -> None:
        return

    async def finish(self) -> None:
        return

    def close(self) -> None:
        return


class _Seated:
    """A console of which only who may write does (ByteStream)."""

    def __init__(self, device: ByteStream, seat: Seat) -> None:
        self._device = device
        self._seat = seat

    async def read(self, size: int) -> bytes:
        return await self._device.read(size)

    async def write(self, data: bytes) -> None:
        if self._seat.may_write:
            await self._device.write(data)

    async def finish(self) -> None:
        await self._device.finish()

    def close(self) -> None:
        self._device.close()
