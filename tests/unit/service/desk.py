"""A client of a service, without a connection: procedures by name."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from manor.drivers.memory import MemoryDriver
from manor.rpc.message import Call
from manor.rpc.protocol.catalog import MANOR, REMOTE
from manor.service.client import Client
from manor.service.dispatch import handle
from manor.service.service import Service


class FakeSession:
    """In a session's place."""

    is_read_only = False

    def __init__(self) -> None:
        self.state: Any = None
        self.sent: list[tuple[str, tuple[Any, ...]]] = []

    def send_event(self, procedure: Any, *arguments: Any) -> None:
        procedure.encode_arguments(arguments)
        self.sent.append((procedure.name, arguments))


class Desk:
    """One client."""

    def __init__(self, service: Service, who: str) -> None:
        self.session = FakeSession()
        session: Any = self.session
        self.client: Client = service.client(session, who)
        self.session.state = self.client

    async def call(self, name: str, *arguments: Any) -> Any:
        """As over the wire: arguments and results are encoded and decoded."""
        procedure = REMOTE[name] if name in REMOTE else MANOR[name]
        values = procedure.decode_arguments(bytes(procedure.encode_arguments(arguments)))
        session: Any = self.session
        result = handle(session, Call(1, procedure, values))
        if inspect.isawaitable(result):
            result = await result
        return procedure.decode_result(bytes(procedure.encode_result(result)))


@asynccontextmanager
async def desk(who: str = "ann", state: Path | None = None) -> AsyncIterator[Desk]:
    """A client of a service with a driver in memory."""
    service = Service({"test:///default": MemoryDriver}, "test:///default", state)
    await service.start()
    made = Desk(service, who)
    await made.call("connect_open", None, 0)
    try:
        yield made
    finally:
        await service.close()
