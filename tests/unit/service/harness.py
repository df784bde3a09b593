"""Procedures called as a client's connection would, on a driver in memory."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

from manor.base.errors import ApiError, ManorError
from manor.domain.xml import domain as domain_xml
from manor.domain.xml.domain import Domain as Document
from manor.drivers.memory import MemoryDriver
from manor.rpc.protocol.records import Domain
from manor.service.client import Client
from manor.service.dispatch import PROCEDURES, translate
from manor.service.service import Service

DOMAIN = """
<domain type='test'>
  <name>{name}</name>
  <memory unit='MiB'>64</memory>
  <vcpu>2</vcpu>
  <os><type>hvm</type></os>
  <devices>
    <disk type='file'><source file='/nowhere/a.img'/><target dev='vda'/></disk>
    <interface type='user'><mac address='52:54:00:11:22:33'/></interface>
    <console type='pty'/>
  </devices>
</domain>
"""


class FakeSession:
    """In a session's place."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, tuple[Any, ...]]] = []

    def send_event(self, procedure: Any, *arguments: Any) -> None:
        procedure.encode_arguments(arguments)  # it has to fit the wire
        self.sent.append((procedure.name, arguments))


class Harness:
    """One service, one client, and the domain web1."""

    def __init__(self) -> None:
        self.service = Service({"test:///default": MemoryDriver}, "test:///default")
        self.session = FakeSession()
        self.client = Client(self.service, self.session, "ann")  # type: ignore[arg-type]
        self.web1 = Domain("web1", bytes(16), -1)

    @property
    def driver(self) -> MemoryDriver:
        driver = self.client.driver
        assert isinstance(driver, MemoryDriver)
        return driver

    async def open(self) -> None:
        await self.call("connect_open", name=None, flags=0)
        self.web1 = await self.call("domain_define_xml", xml=DOMAIN.format(name="web1"))

    async def call(self, name: str, /, **arguments: Any) -> Any:
        """Raises ApiError, as it would cross the wire."""
        work = PROCEDURES[name]
        try:
            result = work(self.client, SimpleNamespace(**arguments))
            return await result if inspect.isawaitable(result) else result
        except ManorError as error:
            raise translate(error) from error

    async def refused(self, name: str, /, **arguments: Any) -> ApiError:
        """The error of a call that must fail."""
        try:
            await self.call(name, **arguments)
        except ApiError as error:
            return error
        raise AssertionError(f"{name} was not refused")

    async def document(self, inactive: bool = False) -> Document:
        """Of web1."""
        return domain_xml.parse(await self.driver.domains.xml(self.web1.uuid, inactive, True))


def with_harness(scenario: Callable[[Harness], Awaitable[None]]) -> None:
    """Run a scenario."""

    async def run() -> None:
        harness = Harness()
        await harness.open()
        try:
            await scenario(harness)
        finally:
            await harness.service.close()

    asyncio.run(run())
