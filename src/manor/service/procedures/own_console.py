"""Consoles with their past: read from a position, by several readers, with one who may write or all."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from manor.drivers.api import Scrollback
from manor.drivers.errors import invalid_argument
from manor.rpc.session import Answer, Session, SessionStream
from manor.service.client import Client
from manor.service.consoles import Mode, Seated
from manor.service.streams import both_ways

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
        await both_ways(stream, reader)  # not one way: who waits for more of a silent guest may leave at any time

    return Answer(None, (), give)


async def manor_console_open(client: Client, a: Any) -> Answer:
    try:
        mode = Mode(a.mode)
    except ValueError:
        raise invalid_argument(
            f"there is no mode {a.mode} of a console; give 0 to watch, 1 to write, 2 to write alone, 3 to take it over"
        ) from None
    return await open_console(client, a.domain.uuid, a.device, mode)


async def open_console(client: Client, uuid: bytes, device: str | None, mode: Mode) -> Answer:
    """The answer that opens a console's stream. Raises ApiError if somebody else is in the way."""
    consoles = client.service.consoles
    seat = consoles.take((uuid, device or ""), client.who, mode)
    try:
        found = await client.driver.domains.console(uuid, device, mode is Mode.TAKE_OVER)
    except BaseException:
        consoles.leave(seat)
        raise

    async def talk(session: Session, stream: SessionStream | None) -> None:
        assert stream is not None
        try:
            await both_ways(stream, Seated(found, seat))
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
