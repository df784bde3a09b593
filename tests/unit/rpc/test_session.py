"""Callers and sessions over real sockets: order, limits, streams, descriptors, ends of all kinds."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from manor.base.errors import ApiError, HostError, ProtocolError
from manor.rpc.caller import Caller, RemoteError, Stream
from manor.rpc.message import Event
from manor.rpc.protocol.catalog import REMOTE
from manor.rpc.protocol.errors import ErrorCode
from manor.rpc.session import Answer, Session, SessionStream
from manor.rpc.transport import UnixChannel
from manor.testing.rpc_server import VOLUME, FakeDaemon, open_files
from manor.trace.sink import RingSink, disable, enable


class Pair:
    """A caller and the session that answers it."""

    def __init__(self, daemon: FakeDaemon, **options: Any) -> None:
        ours, theirs = socket.socketpair()
        self.events: list[Event] = []
        self.caller = Caller(UnixChannel(ours), self.events.append)
        self.session = Session(UnixChannel(theirs), daemon.handle, **options)
        self.server = asyncio.create_task(self.session.run())
        self.caller.start()

    async def call(self, name: str, *arguments: Any) -> Any:
        return await self.caller.call(REMOTE[name], *arguments)

    async def stream(self, name: str, *arguments: Any) -> Stream:
        _, stream = await self.caller.open_stream(REMOTE[name], *arguments)
        return stream


@asynccontextmanager
async def connected(daemon: FakeDaemon | None = None, **options: Any) -> AsyncIterator[Pair]:
    pair = Pair(daemon or FakeDaemon(), **options)
    try:
        yield pair
    finally:
        await pair.caller.close()
        await asyncio.wait_for(pair.server, 5)


def run(work: Callable[[], Any]) -> None:
    before = open_files()
    asyncio.run(asyncio.wait_for(work(), 30))
    assert open_files() == before, "descriptors leak"


def test_calls_and_errors() -> None:
    async def work() -> None:
        async with connected() as pair:
            assert await pair.call("connect_get_hostname") == "host.example"
            domain = await pair.call("domain_lookup_by_name", "domain-0002")
            assert (await pair.call("domain_get_info", domain)).vcpus == 2
            with pytest.raises(RemoteError, match="no domain with name 'x'") as caught:
                await pair.call("domain_lookup_by_name", "x")
            assert (caught.value.code, caught.value.domain) == (42, 10)
            with pytest.raises(RemoteError) as caught:
                await pair.call("domain_reset", domain, 0)
            assert caught.value.code == ErrorCode.NO_SUPPORT
        assert await pair.server is None

    run(work)


def test_a_slow_call_is_passed_by_a_quick_one() -> None:
    async def work() -> None:
        daemon = FakeDaemon()
        gate = asyncio.Event()

        async def slow(session: Session, arguments: Any) -> None:
            await gate.wait()

        daemon.handlers["domain_destroy"] = slow
        async with connected(daemon) as pair:
            waiting = asyncio.create_task(pair.call("domain_destroy", daemon.domains[0]))
            assert await pair.call("connect_get_hostname") == "host.example"
            assert not waiting.done()
            gate.set()
            await waiting

    run(work)


def test_no_more_calls_are_worked_on_than_allowed() -> None:
    async def work() -> None:
        daemon = FakeDaemon()
        at_work = most = 0

        async def count(session: Session, arguments: Any) -> None:
            nonlocal at_work, most
            at_work += 1
            most = max(most, at_work)
            await asyncio.sleep(0.01)
            at_work -= 1

        daemon.handlers["domain_destroy"] = count
        async with connected(daemon, calls_max=2) as pair:
            # They come together, in one piece of the socket's data.
            await asyncio.gather(*(pair.call("domain_destroy", daemon.domains[0]) for _ in range(30)))
        assert (most, at_work) == (2, 0)

    run(work)


def test_a_bug_in_a_handler_is_an_answer() -> None:
    async def work() -> None:
        daemon = FakeDaemon()

        async def later(session: Session, arguments: Any) -> None:
            raise RuntimeError("oops")

        daemon.handlers["domain_destroy"] = later
        daemon.handlers["domain_get_state"] = lambda session, arguments: 1 / 0
        daemon.handlers["connect_get_hostname"] = lambda session, arguments: object()
        async with connected(daemon) as pair:
            for name, arguments in (
                ("domain_destroy", [daemon.domains[0]]),
                ("domain_get_state", [daemon.domains[0], 0]),
                ("connect_get_hostname", []),
            ):
                with pytest.raises(RemoteError, match="internal error") as caught:
                    await pair.call(name, *arguments)
                assert caught.value.code == ErrorCode.INTERNAL_ERROR
            assert await pair.call("connect_get_type") == "QEMU"

    ring = RingSink()
    enable("rpc_call_failed", ring)
    try:
        run(work)
    finally:
        disable("*", ring)
    told = [(name, values[1]) for name, values in ring.events]
    assert told == [
        ("rpc_call_failed", name) for name in ("domain_destroy", "domain_get_state", "connect_get_hostname")
    ]


def test_a_console_in_both_directions() -> None:
    async def work() -> None:
        async with connected() as pair:
            console = await pair.stream("domain_open_console", FakeDaemon().domains[0], None, 0)
            await console.send(b"login: ")
            assert await console.receive() == b"LOGIN: "
            await console.send(b"root\n")
            assert await console.receive() == b"ROOT\n"
            await console.finish()
            with pytest.raises(Exception, match="stream"):
                await console.send(b"x")

    run(work)


def test_an_upload_and_a_download_of_megabytes() -> None:
    async def work() -> None:
        daemon = FakeDaemon()
        data = os.urandom(5_000_000)
        async with connected(daemon) as pair:
            async with await pair.stream("storage_vol_upload", VOLUME, 0, 0, 0) as stream:
                for start in range(0, len(data), 400_000):
                    await stream.send(data[start : start + 400_000])
            assert bytes(daemon.volume) == data
            async with await pair.stream("storage_vol_download", VOLUME, 0, 0, 0) as stream:
                assert b"".join([piece async for piece in stream]) == data

    run(work)


def test_a_stream_that_is_read_slowly_does_not_stop_calls() -> None:
    async def work() -> None:
        daemon = FakeDaemon()
        daemon.volume += bytes(40_000_000)
        async with connected(daemon) as pair:
            stream = await pair.stream("storage_vol_download", VOLUME, 0, 0, 0)
            await asyncio.sleep(0.2)
            assert stream.unread < 200, "data is held back while nobody reads it"
            assert await asyncio.wait_for(pair.call("connect_get_hostname"), 10) == "host.example"
            await stream.abort()
            assert await pair.call("connect_get_type") == "QEMU"

    run(work)


def test_a_failure_in_the_middle_of_a_stream_reaches_the_reader() -> None:
    async def work() -> None:
        daemon = FakeDaemon()

        async def broken(session: Session, stream: SessionStream | None) -> None:
            assert stream is not None
            await stream.send(b"begin")
            raise ApiError(ErrorCode.OPERATION_FAILED, 18, "the disk is gone")

        daemon.handlers["storage_vol_download"] = lambda session, arguments: Answer(then=broken)
        async with connected(daemon) as pair:
            stream = await pair.stream("storage_vol_download", VOLUME, 0, 0, 0)
            assert await stream.receive() == b"begin"
            with pytest.raises(RemoteError, match="the disk is gone"):
                await stream.receive()
            assert await pair.call("connect_get_type") == "QEMU"

    run(work)


def test_a_descriptor_comes_with_a_reply() -> None:
    async def work() -> None:
        async with connected() as pair:
            procedure = REMOTE["domain_open_graphics_fd"]
            _, (file,) = await pair.caller.call_for_files(procedure, FakeDaemon().domains[0], 0, 0)
            with socket.socket(fileno=file) as graphics:
                assert graphics.recv(100) == b"RFB 003.008\n"

    run(work)


def test_a_descriptor_goes_with_a_call() -> None:
    async def work() -> None:
        daemon = FakeDaemon()
        found: list[bytes] = []

        def create(session: Session, call: Any) -> Any:
            (file,) = call.files
            with os.fdopen(file, "rb") as opened:
                found.append(opened.read())
            return daemon.domains[0]

        ours, theirs = os.pipe()
        os.write(theirs, b"through the wire")
        os.close(theirs)
        pair = Pair(daemon)
        plain = pair.session._handler
        pair.session._handler = lambda session, call: create(session, call) if call.files else plain(session, call)
        await pair.caller.call(REMOTE["domain_create_with_files"], daemon.domains[0], 0, files=(ours,))
        assert found == [b"through the wire"]
        await pair.caller.close()
        await pair.server

    run(work)


def test_events_arrive() -> None:
    async def work() -> None:
        daemon = FakeDaemon()
        async with connected(daemon) as pair:
            await pair.call("connect_domain_event_callback_register_any", 0, None)
            daemon.emit()
            await pair.call("connect_get_type")
            assert [event.arguments.event for event in pair.events] == [4]

    run(work)


def test_a_client_that_does_not_read_its_events_is_cut_off() -> None:
    async def work() -> None:
        daemon = FakeDaemon()
        ours, theirs = socket.socketpair()
        session = Session(UnixChannel(theirs), daemon.handle)
        server = asyncio.create_task(session.run())
        event = REMOTE["domain_event_callback_metadata_change"]
        for _ in range(40):
            session.send_event(event, 0, daemon.domains[0], 0, "x" * 1_000_000)
        await asyncio.wait_for(server, 5)
        ours.close()

    run(work)


def test_a_malformed_packet_ends_that_connection_alone() -> None:
    async def work() -> None:
        daemon = FakeDaemon()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        server = asyncio.create_task(daemon.serve(UnixChannel(theirs)))
        await asyncio.get_running_loop().sock_sendall(ours, b"GET / HTTP/1.1\r\n\r\n")
        assert isinstance(await asyncio.wait_for(server, 5), ProtocolError)
        assert await asyncio.get_running_loop().sock_recv(ours, 10) == b""
        ours.close()
        async with connected(daemon) as pair:
            assert await pair.call("connect_get_type") == "QEMU"

    run(work)


def test_calls_that_wait_learn_that_the_server_has_gone() -> None:
    async def work() -> None:
        daemon = FakeDaemon()
        daemon.handlers["domain_destroy"] = lambda session, arguments: asyncio.sleep(60)
        async with connected(daemon) as pair:
            waiting = asyncio.create_task(pair.call("domain_destroy", daemon.domains[0]))
            await pair.call("connect_get_type")
            pair.session.close()
            with pytest.raises(HostError, match="closed the connection"):
                await waiting
            with pytest.raises(HostError):
                await pair.call("connect_get_type")
            assert isinstance(await pair.caller.closed, HostError)

    run(work)


def test_a_client_that_vanishes_in_the_middle_of_a_download_leaves_nothing() -> None:
    async def work() -> None:
        daemon = FakeDaemon()
        daemon.volume += bytes(20_000_000)
        async with connected(daemon) as pair:
            await pair.stream("storage_vol_download", VOLUME, 0, 0, 0)
            await pair.caller._channel.close()
            await asyncio.wait_for(pair.server, 5)
        assert not pair.session._tasks

    run(work)


def test_a_caller_that_is_cancelled_leaves_the_connection_usable() -> None:
    async def work() -> None:
        daemon = FakeDaemon()
        daemon.handlers["domain_destroy"] = lambda session, arguments: asyncio.sleep(0.05)
        async with connected(daemon) as pair:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(pair.call("domain_destroy", daemon.domains[0]), 0.01)
            await asyncio.sleep(0.1)
            assert await pair.call("connect_get_type") == "QEMU"

    run(work)


def test_keepalive_gives_up_a_silent_end() -> None:
    async def work() -> None:
        ours, theirs = socket.socketpair()
        caller = Caller(UnixChannel(ours))
        caller.start()
        caller.start_keepalive(0.01, 3)
        assert "has not answered" in str(await asyncio.wait_for(caller.closed, 5))
        await caller.close()
        theirs.close()
        ours, theirs = socket.socketpair()
        session = Session(UnixChannel(theirs), FakeDaemon().handle)
        server = asyncio.create_task(session.run())
        session.start_keepalive(0.01, 3)
        await asyncio.wait_for(server, 5)
        ours.close()

    run(work)


def test_keepalive_leaves_a_live_end_alone() -> None:
    async def work() -> None:
        async with connected() as pair:
            pair.caller.start_keepalive(0.01, 2)
            pair.session.start_keepalive(0.01, 2)
            await asyncio.sleep(0.3)
            assert await pair.call("connect_get_type") == "QEMU"

    run(work)


def test_a_hundred_clients_at_once(tmp_path: Path) -> None:
    async def work() -> None:
        daemon = FakeDaemon()

        async def client() -> int:
            sock = socket.socket(socket.AF_UNIX)
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, str(tmp_path / "s"))
            caller = Caller(UnixChannel(sock))
            caller.start()
            _, count = await caller.call(REMOTE["connect_list_all_domains"], 1, 0)
            await caller.close()
            return int(count)

        async with daemon.listen(tmp_path / "s"):
            assert await asyncio.gather(*(client() for _ in range(100))) == [3] * 100

    run(work)
