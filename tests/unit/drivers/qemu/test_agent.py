"""The guest's agent: in step whatever came before, and never trusted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from manor.base.errors import ApiError
from manor.drivers.errors import Code
from manor.drivers.guest_addresses import agent_interfaces
from manor.drivers.qemu import agent as agent_module
from manor.drivers.qemu.agent import Agent
from manor.rpc.protocol.records import GuestInterface, IpAddress

Reply = Callable[[dict[str, Any]], bytes]


def run(path: Path, reply: Reply, work: Callable[[Agent], Awaitable[None]], before: bytes = b"") -> None:
    """Serve as a guest does, with `before` in its way; `reply` makes the bytes of an answer."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held[:] = [writer]
        writer.write(before)
        while line := await reader.readline():
            message = json.loads(line.lstrip(b"\xff"))
            if message["execute"] == "guest-sync-delimited" and reply is not silent:
                answer = {"return": message["arguments"]["id"]}
                writer.write(b"\xff" + json.dumps(answer).encode() + b"\n")
            else:
                writer.write(reply(message))
            await writer.drain()
        writer.close()

    async def main() -> None:
        server = await asyncio.start_unix_server(serve, path)
        agent = Agent(path)
        try:
            await asyncio.wait_for(work(agent), 20)
        finally:
            agent.close()
            server.close()
            await asyncio.sleep(0.01)

    asyncio.run(main())


held: list[asyncio.StreamWriter] = []
"""The guest's end of the connection."""


def silent(message: dict[str, Any]) -> bytes:
    return b""


def test_commands_and_errors(tmp_path: Path) -> None:
    def reply(message: dict[str, Any]) -> bytes:
        if message["execute"] == "guest-ping":
            return b'{"return": {}}\n'
        return b'{"error": {"class": "CommandNotFound", "desc": "The command x has not been found"}}\n'

    async def work(agent: Agent) -> None:
        assert await agent.execute("guest-ping", {}, 5) == {}
        with pytest.raises(ApiError, match="unable to execute QEMU agent command 'x': The command x has not"):
            await agent.execute("x", {"a": 1}, -1)
        assert await agent.execute("guest-ping", {}, 5) == {}

    run(tmp_path / "a", reply, work)


def test_what_came_before_is_skipped(tmp_path: Path) -> None:
    async def work(agent: Agent) -> None:
        assert await agent.execute("x", {}, 5) == 7

    before = b'{"return": 5}\nrubbish\n[1]\n{"half'
    run(tmp_path / "a", lambda message: b'{"return": 7}\n', work, before)


def test_an_agent_that_does_not_run_costs_a_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_module, "SYNC_SECONDS", 0.1)

    async def work(agent: Agent) -> None:
        with pytest.raises(ApiError, match="Guest agent is not responding: it does not answer") as caught:
            await agent.execute("guest-ping", {}, 5)
        assert caught.value.code == Code.AGENT_UNRESPONSIVE

    run(tmp_path / "a", silent, work)


def test_a_command_that_takes_too_long_leaves_the_next_in_step(tmp_path: Path) -> None:
    def reply(message: dict[str, Any]) -> bytes:
        if message["execute"] == "slow":
            asyncio.get_running_loop().call_later(0.2, held[0].write, b'{"return": "late"}\n')
            return b""
        return b'{"return": "now"}\n'

    async def work(agent: Agent) -> None:
        with pytest.raises(ApiError, match="does not answer"):
            await agent.execute("slow", {}, 0.1)
        await asyncio.sleep(0.2)
        # The answer to the first comes before the one to the synchronisation.
        assert await agent.execute("quick", {}, 5) == "now"

    run(tmp_path / "a", reply, work)


@pytest.mark.parametrize("answer", [b"x" * 300, b"[" * 200 + b"\n" + b"x" * 300])
def test_an_answer_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    monkeypatch.setattr(agent_module, "MAX_ANSWER", 200)

    async def work(agent: Agent) -> None:
        with pytest.raises(ApiError, match="not responding"):
            await agent.execute("x", {}, 5)

    run(tmp_path / "a", lambda message: answer, work)


def test_without_a_port(tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(ApiError, match="Guest agent is not responding"):
            await Agent(tmp_path / "nothing").execute("x", {}, 5)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (None, []), ({}, []), ([1, None], []), ([{"name": "lo"}], [GuestInterface("lo", None, [])]),
        (
            [{"name": "eth0", "hardware-address": "52:54:00:00:00:01", "ip-addresses": [
                {"ip-address-type": "ipv4", "ip-address": "10.0.2.15", "prefix": 24},
                {"ip-address-type": "ipv6", "ip-address": "fe80::1", "prefix": 64}, "x"]}],
            [GuestInterface("eth0", "52:54:00:00:00:01", [IpAddress(0, "10.0.2.15", 24), IpAddress(1, "fe80::1", 64)])],
        ),
        (
            [{"name": 5, "hardware-address": 6, "ip-addresses": [{"prefix": "x"}, {"prefix": 1 << 40}]}],
            [GuestInterface("5", None, [IpAddress(0, "None", 0), IpAddress(0, "None", 0)])],
        ),
        ([{"ip-addresses": 5}], [GuestInterface("", None, [])]),
    ],
)  # fmt: skip
def test_addresses_that_a_guest_tells(found: object, expected: list[GuestInterface]) -> None:
    assert agent_interfaces(found) == expected
