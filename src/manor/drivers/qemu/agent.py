"""The guest agent behind a QEMU's port: one command at a time, in step after anything that went wrong before.

The guest is not trusted: its answers are bounded, and one that does not come costs its caller the time-out and no more.
Source: QEMU 7.2, "QEMU Guest Agent Protocol Reference", guest-sync-delimited.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from manor.base.errors import ApiError, HostError
from manor.drivers.errors import Code, Origin
from manor.drivers.qemu.monitor import connect_socket

MAX_ANSWER: Final = 4 << 20
"""Bytes of one answer; the longest carry pieces of files. Bounds what a guest can make us keep."""
SYNC_SECONDS: Final = 5.0
"""For an agent that runs to say so."""
_CHUNK: Final = 1 << 16
_SENTINEL: Final = b"\xff"


class Agent:
    """One VM's. Raises ApiError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket: socket.socket | None = None
        self._lock = asyncio.Lock()
        self._pending = bytearray()

    async def execute(self, command: str, arguments: Mapping[str, object], timeout: float) -> Any:
        """timeout: seconds; below 0 for ever."""
        async with self._lock:
            try:
                await self._connect()
                await asyncio.wait_for(self._sync(), SYNC_SECONDS)
                await self._send(command, arguments)
                answer = await asyncio.wait_for(self._line(), timeout if timeout >= 0 else None)
            except TimeoutError as error:
                raise _unresponsive("it does not answer; it may not run") from error
            except ValueError as error:
                self.close()
                raise _unresponsive("its answer makes no sense") from error
            except (OSError, HostError) as error:
                self.close()
                raise _unresponsive(str(error)) from error
        if "return" in answer:
            return answer["return"]
        error_value = answer.get("error")
        said = error_value.get("desc") if isinstance(error_value, dict) else None
        raise ApiError(
            Code.INTERNAL_ERROR, Origin.DOMAIN,
            f"internal error: unable to execute QEMU agent command '{command}': {str(said)[:1000]}",
        )  # fmt: skip

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._pending.clear()

    async def _connect(self) -> None:
        if self._socket is None:
            self._socket = await connect_socket(self._path)

    async def _sync(self) -> None:
        """Skip what answers earlier commands."""
        number = secrets.randbelow(1 << 31)
        await self._send("guest-sync-delimited", {"id": number}, _SENTINEL)
        while True:
            try:
                if (await self._line()).get("return") == number:
                    return
            except ValueError:
                continue

    async def _send(self, command: str, arguments: Mapping[str, object], before: bytes = b"") -> None:
        assert self._socket is not None
        value: dict[str, object] = {"execute": command}
        if arguments:
            value["arguments"] = dict(arguments)
        data = before + json.dumps(value).encode() + b"\n"
        await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def _line(self) -> dict[str, Any]:
        """The next answer. Raises HostError, OSError; ValueError for what is no answer."""
        assert self._socket is not None
        while (end := self._pending.find(b"\n")) < 0:
            if len(self._pending) > MAX_ANSWER:
                raise HostError(f"its answer has more than {MAX_ANSWER} bytes")
            data = await asyncio.get_running_loop().sock_recv(self._socket, _CHUNK)
            if not data:
                raise HostError("its port is closed")
            self._pending += data
        line = bytes(self._pending[:end]).rpartition(_SENTINEL)[2]
        del self._pending[: end + 1]
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError("not JSON") from error
        if not isinstance(value, dict):
            raise ValueError("no object")
        return value


def _unresponsive(why: str) -> ApiError:
    return ApiError(Code.AGENT_UNRESPONSIVE, Origin.DOMAIN, f"Guest agent is not responding: {why}")
