"""A client whose calls another daemon answers: order, errors, descriptors, ends of streams, a daemon that goes."""

from __future__ import annotations

import asyncio
import functools
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from manor.base.errors import ApiError
from manor.drivers import remote as remote_module
from manor.drivers.memory import MemoryDriver
from manor.drivers.remote import CLOSED_EOF, CLOSED_KEEPALIVE, RemoteConnection
from manor.rpc import opening
from manor.rpc.caller import Caller, RemoteError, Stream
from manor.rpc.message import Event
from manor.rpc.protocol.catalog import QEMU, REMOTE
from manor.rpc.protocol.errors import ErrorCode, ErrorOrigin
from manor.rpc.session import Answer, Session, SessionStream
from manor.rpc.transport import UnixChannel
from manor.service.dispatch import handle
from manor.service.service import Service
from manor.testing.rpc_server import VOLUME, FakeDaemon, open_files


class Chain:
    """A client, this daemon's session for it, and the other daemon behind."""

    def __init__(self, path: Path, other: FakeDaemon) -> None:
        ours, theirs = socket.socketpair()
        self.events: list[Event] = []
        self.caller = Caller(UnixChannel(ours), self.events.append)
        self.service = Service({"test:///default": MemoryDriver}, "test:///default")
        self.session = Session(UnixChannel(theirs), handle)
        self.client = self.service.client(self.session, "ann")
        self.session.state = self.client
        self.client.may_dial = True
        self.other = other
        self.uri = f"libvirt+qemu+unix:///session?socket={path}"
        self.server = asyncio.create_task(self.session.run())
        self.caller.start()

    async def call(self, name: str, *arguments: Any) -> Any:
        return await self.caller.call(REMOTE[name], *arguments)

    async def stream(self, name: str, *arguments: Any) -> Stream:
        _, stream = await self.caller.open_stream(REMOTE[name], *arguments)
        return stream

    async def close(self) -> None:
        await self.caller.close()
        await asyncio.wait_for(self.server, 5)
        self.service.forget(self.client)
        await self.service.close()


@asynccontextmanager
async def chained(tmp_path: Path, other: FakeDaemon | None = None, *, opens: bool = True) -> AsyncIterator[Chain]:
    other = other or FakeDaemon()
    path = tmp_path / "s"
    async with other.listen(path):
        chain = Chain(path, other)
        try:
            if opens:
                await chain.call("connect_open", chain.uri, 0)
            yield chain
        finally:
            await chain.close()


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await asyncio.wait_for(work(), 30)

    before = open_files()
    asyncio.run(main())
    assert open_files() == before, "descriptors leak"


def test_calls_and_errors_come_as_they_were(tmp_path: Path) -> None:
    async def work() -> None:
        async with chained(tmp_path) as chain:
            assert await chain.call("connect_get_uri") == "qemu:///session"
            domain = await chain.call("domain_lookup_by_name", "domain-0002")
            assert (await chain.call("domain_get_info", domain)).vcpus == 2
            with pytest.raises(RemoteError, match="no domain with name 'x'") as caught:
                await chain.call("domain_lookup_by_name", "x")
            assert (caught.value.code, caught.value.domain) == (ErrorCode.NO_DOMAIN, ErrorOrigin.QEMU)
            with pytest.raises(RemoteError, match="not here: domain_reset") as caught:
                await chain.call("domain_reset", domain, 0)
            assert caught.value.record.str2 == "not here: domain_reset"
            # QEMU's own procedures as well.
            with pytest.raises(RemoteError, match="not here: qemu_domain_monitor_command"):
                await chain.caller.call(QEMU["qemu_domain_monitor_command"], domain, "x", 0)
            assert "qemu_domain_monitor_command" in chain.other.calls
            # What is about this connection stays here.
            chain.other.calls.clear()
            await chain.call("connect_register_close_callback")
            assert await chain.call("connect_supports_feature", 15) == 1
            assert await chain.call("auth_list") == [0]
            assert chain.other.calls == []
            assert await chain.call("connect_supports_feature", 16) == 1
            assert await chain.call("connect_supports_feature", 8) == 1
            assert chain.other.calls == ["connect_supports_feature"] * 2
            await chain.call("connect_close")
            await asyncio.sleep(0.05)
            assert chain.other.calls[-1] == "connect_close"
            with pytest.raises(RemoteError, match="connection not open"):
                await chain.call("connect_get_hostname")

    run(work)


def test_an_event_follows_the_reply_that_it_came_after(tmp_path: Path) -> None:
    """A client does not know a callback's number before it has been told."""
    other = FakeDaemon()
    register = other._register

    def register_and_emit(session: Session, arguments: Any) -> int:
        number = register(session, arguments)
        asyncio.get_running_loop().call_soon(other.emit)
        return number

    other.handlers["connect_domain_event_callback_register_any"] = register_and_emit

    async def work() -> None:
        async with chained(tmp_path, other) as chain:
            number = await chain.call("connect_domain_event_callback_register_any", 0, None)
            while not chain.events:
                await asyncio.sleep(0.01)
            assert chain.events[0].arguments.callback_id == number
            order: list[str] = []
            raw = chain.caller._on_message

            def note(message: Any) -> None:
                order.append(type(message).__name__)
                raw(message)

            chain.caller._on_message = note  # type: ignore[method-assign]
            await chain.call("connect_domain_event_callback_register_any", 0, None)
            await asyncio.sleep(0.1)
            assert order[0] == "Reply"
            assert order.count("Event") == 2

    run(work)


def test_descriptors_are_handed_on(tmp_path: Path) -> None:
    async def work() -> None:
        async with chained(tmp_path) as chain:
            domain = await chain.call("domain_lookup_by_name", "domain-0001")
            _, files = await chain.caller.call_for_files(REMOTE["domain_open_graphics_fd"], domain, 0, 0)
            assert len(files) == 1
            os.close(files[0])
            read, write = os.pipe()
            with pytest.raises(RemoteError, match="not here"):
                await chain.caller.call(REMOTE["domain_open_graphics"], domain, 0, 0, files=(write,))
            os.close(read)

    run(work)


def test_streams_both_ways_and_their_ends(tmp_path: Path) -> None:
    async def work() -> None:
        async with chained(tmp_path) as chain:
            data = os.urandom(1_000_000)
            async with await chain.stream("storage_vol_upload", VOLUME, 0, len(data), 0) as upload:
                for start in range(0, len(data), 100_000):
                    await upload.send(data[start : start + 100_000])
            assert bytes(chain.other.volume) == data
            async with await chain.stream("storage_vol_download", VOLUME, 0, 0, 0) as download:
                assert b"".join([piece async for piece in download]) == data
            domain = await chain.call("domain_lookup_by_name", "domain-0001")
            console = await chain.stream("domain_open_console", domain, None, 0)
            await console.send(b"hello")
            assert await console.receive() == b"HELLO"
            await console.abort()
            assert await chain.call("connect_get_hostname") == "host.example"

    run(work)


def test_holes_stay_holes(tmp_path: Path) -> None:
    other = FakeDaemon()
    seen: list[bytes | int] = []

    async def receive(session: Session, stream: SessionStream | None) -> None:
        assert stream is not None
        while piece := await stream.receive():
            seen.append(piece)
        stream.confirm()

    async def send(session: Session, stream: SessionStream | None) -> None:
        assert stream is not None
        await stream.send(b"a")
        await stream.send_hole(1 << 30)
        await stream.end()

    other.handlers["storage_vol_upload"] = lambda session, a: Answer(then=receive)
    other.handlers["storage_vol_download"] = lambda session, a: Answer(then=send)

    async def work() -> None:
        async with chained(tmp_path, other) as chain:
            async with await chain.stream("storage_vol_upload", VOLUME, 0, 0, 1) as upload:
                await upload.send_hole(5 << 30)
                await upload.send(b"x")
            assert seen == [5 << 30, b"x"]
            download = await chain.stream("storage_vol_download", VOLUME, 0, 0, 1)
            assert [await download.receive() for _ in range(3)] == [b"a", 1 << 30, b""]
            await download.finish()

    run(work)


def test_a_stream_that_the_far_end_breaks_is_broken_with_its_words(tmp_path: Path) -> None:
    other = FakeDaemon()

    async def broken(session: Session, stream: SessionStream | None) -> None:
        assert stream is not None
        await stream.receive()
        raise ApiError(ErrorCode.OPERATION_FAILED, ErrorOrigin.STORAGE, "the disk is full")

    async def refuses_the_end(session: Session, stream: SessionStream | None) -> None:
        assert stream is not None
        while await stream.receive():
            pass
        raise ApiError(ErrorCode.OPERATION_FAILED, ErrorOrigin.STORAGE, "that was not all")

    async def work() -> None:
        async with chained(tmp_path, other) as chain:
            for then, words in ((broken, "the disk is full"), (refuses_the_end, "that was not all")):
                answer = Answer(then=then)
                other.handlers["storage_vol_upload"] = functools.partial(lambda answer, session, a: answer, answer)
                upload = await chain.stream("storage_vol_upload", VOLUME, 0, 0, 0)
                await upload.send(b"x")
                with pytest.raises(RemoteError, match=words) as caught:
                    await upload.finish()
                assert caught.value.domain == ErrorOrigin.STORAGE
            assert await chain.call("connect_get_hostname") == "host.example"

    run(work)


def test_a_client_that_goes_in_mid_stream_leaves_nothing(tmp_path: Path) -> None:
    other = FakeDaemon()
    other.volume += bytes(64 << 20)

    async def work() -> None:
        async with chained(tmp_path, other) as chain:
            await chain.stream("storage_vol_download", VOLUME, 0, 0, 0)
            await asyncio.sleep(0.1)
        for _ in range(200):
            if all(session._is_over for session in other.sessions):
                break
            await asyncio.sleep(0.01)
        assert all(session._is_over for session in other.sessions)

    run(work)


def test_a_daemon_that_goes_is_told_once(tmp_path: Path) -> None:
    async def work() -> None:
        other = FakeDaemon()
        async with chained(tmp_path, other) as chain:
            await chain.call("connect_register_close_callback")
            release = asyncio.Event()

            async def wait(session: Session, arguments: Any) -> str:
                await release.wait()
                return ""

            other.handlers["connect_get_hostname"] = wait
            under_way = asyncio.ensure_future(chain.call("connect_get_hostname"))
            await asyncio.sleep(0.05)
            for session in other.sessions:
                session.close()
            with pytest.raises(RemoteError, match="Cannot recv data") as caught:
                await under_way
            assert caught.value.code == ErrorCode.SYSTEM_ERROR
            with pytest.raises(RemoteError, match="client socket is closed"):
                await chain.call("connect_get_type")
            await asyncio.sleep(0.05)
            assert [(event.procedure.name, event.arguments.reason) for event in chain.events] == [
                ("connect_event_connection_closed", CLOSED_EOF)
            ]

    run(work)


def test_a_daemon_that_falls_silent_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "KEEPALIVE_INTERVAL", 0.05)
    monkeypatch.setattr(opening, "KEEPALIVE_COUNT", 2)

    async def work() -> None:
        reasons: list[int] = []
        other = FakeDaemon()
        async with other.listen(tmp_path / "s"):
            made = await RemoteConnection.open(
                f"libvirt+qemu+unix:///session?socket={tmp_path}/s", is_read_only=False, on_event=lambda event: None,
                on_closed=reasons.append,
            )  # fmt: skip
            assert made.can_pass_files
            await asyncio.sleep(0.3)
            assert reasons == []  # it answers by itself
            stuck = asyncio.Event()

            async def held() -> tuple[bytes, list[int]]:
                await stuck.wait()
                return b"", []

            for session in other.sessions:
                session._channel.receive = held  # type: ignore[method-assign]
            # The read that is under way still answers once.
            for _ in range(300):
                if reasons:
                    break
                await asyncio.sleep(0.01)
            assert reasons == [CLOSED_KEEPALIVE]
            await made.close()
            assert reasons == [CLOSED_KEEPALIVE]
            stuck.set()

    run(work)


def test_opening_ends_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        other = FakeDaemon()
        async with chained(tmp_path, other, opens=False) as chain:
            chain.client.may_dial = False
            with pytest.raises(RemoteError, match="list it under `remotes`"):
                await chain.call("connect_open", chain.uri, 0)
            chain.client.may_dial = True
            for uri, words in (
                ("libvirt+qemu", "example"),
                (f"libvirt+qemu+unix:///session?socket={tmp_path}/x", "No such file or directory"),
            ):
                with pytest.raises(RemoteError, match=words):
                    await chain.call("connect_open", uri, 0)
            other.handlers["auth_list"] = lambda session, a: [1]
            with pytest.raises(RemoteError, match="use ssh or TLS"):
                await chain.call("connect_open", chain.uri, 0)

            async def never(session: Session, arguments: Any) -> list[int]:
                await asyncio.sleep(60)
                return []

            other.handlers["auth_list"] = never
            monkeypatch.setattr(remote_module, "OPEN_SECONDS", 0.1)
            with pytest.raises(RemoteError, match="has not answered within 0.1 s"):
                await chain.call("connect_open", chain.uri, 0)
            monkeypatch.undo()
            other.handlers["auth_list"] = lambda session, a: [0]
            await chain.call("connect_open", chain.uri, 0)
            with pytest.raises(RemoteError, match="already open"):
                await chain.call("connect_open", chain.uri, 0)

    run(work)


def test_a_read_only_client_is_read_only_there_too(tmp_path: Path) -> None:
    async def work() -> None:
        other = FakeDaemon()
        flags: list[int] = []
        opened = other.handlers["connect_open"]
        other.handlers["connect_open"] = lambda session, a: (flags.append(a.flags), opened(session, a))[1]
        async with other.listen(tmp_path / "s-ro"), other.listen(tmp_path / "s"):
            chain = Chain(tmp_path / "s", other)
            await chain.call("connect_open", chain.uri, 1)
            assert flags == [1]
            with pytest.raises(RemoteError, match="read-only"):
                await chain.call("domain_destroy", other.domains[0])
            assert "domain_destroy" not in other.calls
            await chain.close()

    run(work)
