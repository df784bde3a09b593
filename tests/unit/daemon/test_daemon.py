"""One daemon as a whole: it begins, takes other settings, ends when nobody needs it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from manor.daemon import daemon as daemon_module
from manor.daemon.config import Config
from manor.daemon.daemon import Daemon
from manor.drivers.memory import MemoryDriver
from manor.rpc.caller import Caller
from manor.rpc.protocol.catalog import REMOTE
from manor.rpc.transport import connect_unix


class LocalInMemory(MemoryDriver):
    """In the local driver's place: its domains count as VMs."""

    kind = "QEMU"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setattr(Daemon, "_make_local", lambda self, notify: LocalInMemory(notify, "manor:///session"))
    return Config(tmp_path / "s", tmp_path / "s-ro", tmp_path / "state")


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await asyncio.wait_for(work(), 30)

    asyncio.run(main())


async def client(config: Config) -> Caller:
    while not config.socket.exists():
        await asyncio.sleep(0.01)
    made = Caller(await connect_unix(str(config.socket)))
    made.start()
    return made


def test_it_says_when_it_is_ready_and_when_it_ends(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(daemon_module, "notify", said.append)

    async def work() -> None:
        daemon = Daemon(config)
        task = asyncio.ensure_future(daemon.run())
        one = await client(config)
        await one.call(REMOTE["connect_open"], "qemu:///session", 0)
        assert said == ["READY=1"]
        daemon.stop()
        await task
        await one.close()

    run(work)
    assert said == ["READY=1", "STOPPING=1"]


def test_it_ends_when_nobody_asks_and_no_vm_runs(config: Config, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def work() -> None:
        daemon = Daemon(replace(config, idle_exit=1))
        task = asyncio.ensure_future(daemon.run())
        one = await client(config)
        await one.call(REMOTE["connect_open"], None, 0)
        await asyncio.sleep(1.5)
        assert not task.done()  # there is a client
        domain = await one.call(REMOTE["domain_lookup_by_name"], "test")
        await one.close()
        await asyncio.sleep(1.5)
        assert not task.done()  # a VM runs
        two = await client(config)
        await two.call(REMOTE["connect_open"], None, 0)
        await two.call(REMOTE["domain_destroy"], domain)
        await two.close()
        await task

    run(work)
    assert "there were no clients for 1 s, and no virtual machine runs; ending" in caplog.text


def test_it_takes_other_limits_while_it_runs(config: Config) -> None:
    async def work() -> None:
        daemon = Daemon(config)
        task = asyncio.ensure_future(daemon.run())
        one = await client(config)
        domain = (await one.call(REMOTE["connect_open"], None, 0)) or await one.call(
            REMOTE["domain_lookup_by_name"], "test"
        )
        await one.call(REMOTE["domain_destroy"], domain)
        await one.close()
        assert not task.done()
        daemon.reload(replace(config, idle_exit=1, max_clients=1))
        assert daemon.server.config.max_clients == 1
        await task

    run(work)
