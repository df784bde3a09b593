"""A VM's console as a stream: what was printed before, then all that comes, and keys the other way."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Final

from manor.base.errors import ManorError
from manor.drivers.control import Control
from manor.spec.control import Json, decode_bytes, encode_bytes

HISTORY: Final = 16 << 10
"""Bytes of earlier output that whoever attaches sees first."""
MAX_WAITING: Final = 1 << 20
"""Bytes that wait for a client to read them; what the guest prints beyond is skipped, and said so."""
_MAX_INPUT: Final = 64 << 10


class VmConsole:
    """One reader and writer of a console (ByteStream); there may be several."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._control: Control | None = None
        self._waiting = bytearray()
        self._arrived = asyncio.Event()
        self._is_over = False
        self._closing: asyncio.Future[None] | None = None

    @classmethod
    async def open(cls, path: Path, name: str) -> VmConsole:
        """path: of the control socket. Raises HostError."""
        made = cls(name)
        control = made._control = await Control.connect(path, made._on_event)
        try:
            answer = await control.call("console", console=name, history=HISTORY)
        except BaseException:
            await control.close()
            raise
        # Events can come before the answer is looked at: they are later output.
        made._waiting[:0] = decode_bytes(answer["data"])
        made._arrived.set()
        return made

    async def read(self, size: int) -> bytes:
        while not self._waiting and not self._is_over:
            self._arrived.clear()
            await self._arrived.wait()
        data = bytes(self._waiting[:size])
        del self._waiting[:size]
        return data

    async def write(self, data: bytes) -> None:
        assert self._control is not None
        for start in range(0, len(data), _MAX_INPUT):
            piece = data[start : start + _MAX_INPUT]
            # Answered once the guest has taken what came before: no time-out, as it may not look for long.
            await self._control.call("input", 86400.0, console=self._name, data=encode_bytes(piece))

    async def finish(self) -> None:
        return

    def close(self) -> None:
        self._is_over = True
        self._arrived.set()
        if self._control is not None and self._closing is None:
            self._closing = asyncio.ensure_future(self._control.close())

    def _on_event(self, event: Json) -> None:
        kind = event.get("event")
        if kind == "gone":
            self._is_over = True
        elif kind == "console" and event.get("console") == self._name:
            with suppress(ManorError):
                data = decode_bytes(event.get("data"))
                room = MAX_WAITING - len(self._waiting)
                self._waiting += data[: max(0, room)]
                if room < len(data):
                    self._waiting += b"\r\n[output was skipped]\r\n" if room > 0 else b""
        self._arrived.set()
