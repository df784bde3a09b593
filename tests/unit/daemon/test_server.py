"""Sockets and the clients at them: who may come, how many, how long they may be silent, how it all ends."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import stat
import struct
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from manor.base.errors import ConfigError, HostError
from manor.daemon import server as server_module
from manor.daemon.config import Config
from manor.daemon.server import Server, SocketInUse, listen_unix
from manor.drivers.memory import MemoryDriver
from manor.rpc.caller import Caller, RemoteError
from manor.rpc.protocol.catalog import REMOTE
from manor.rpc.transport import connect_unix
from manor.service.service import Service


@asynccontextmanager
async def serving(tmp_path: Path, **settings: Any) -> AsyncIterator[Server]:
    config = replace(Config(tmp_path / "s", tmp_path / "s-ro", tmp_path / "state"), **settings)
    service = Service(
        {"test:///default": MemoryDriver}, "test:///default", remotes=config.remotes,
        keepalive=(config.keepalive_interval, config.keepalive_count),
    )  # fmt: skip
    made = Server(config, service)
    try:
        await made.open({})
        yield made
    finally:
        await made.close()
        await service.close()


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await asyncio.wait_for(work(), 30)

    asyncio.run(main())


async def client(path: Path) -> Caller:
    made = Caller(await connect_unix(str(path)))
    made.start()
    return made


def test_clients_are_served_and_counted(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as server:
            one, two = await client(tmp_path / "s"), await client(tmp_path / "s-ro")
            await one.call(REMOTE["connect_open"], None, 0)
            await two.call(REMOTE["connect_open"], "test:///default", 0)
            assert server.clients == 2
            domain = await two.call(REMOTE["domain_lookup_by_name"], "test")
            with pytest.raises(RemoteError, match="read-only"):
                await two.call(REMOTE["domain_destroy"], domain)
            await one.call(REMOTE["domain_destroy"], domain)
            await one.close()
            await two.close()
            while server.clients:
                await asyncio.sleep(0.01)

    run(work)
    assert not (tmp_path / "s").exists()
    assert not (tmp_path / "s-ro").exists()


def test_sockets_are_for_their_user(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path):
            assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o660
            assert stat.S_IMODE((tmp_path / "s-ro").stat().st_mode) == 0o660
        async with serving(tmp_path, is_system=True):
            assert stat.S_IMODE((tmp_path / "s-ro").stat().st_mode) == 0o666

    run(work)


def test_too_many_clients_are_turned_away(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        async with serving(tmp_path, max_clients=2):
            held = [await client(tmp_path / "s") for _ in range(2)]
            for each in held:
                await each.call(REMOTE["auth_list"])
            third = await client(tmp_path / "s")
            with pytest.raises(RemoteError, match="too many clients: at most 2.* close some, or raise max_clients"):
                await third.call(REMOTE["auth_list"])
            await third.close()
            await held.pop().close()
            await asyncio.sleep(0.1)
            again = await client(tmp_path / "s")
            assert await again.call(REMOTE["auth_list"]) == [0]
            for each in (*held, again):
                await each.close()

    run(work)
    assert "too many clients" in caplog.text


def test_one_user_cannot_take_all_places(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path, max_clients_user=1):
            held = await client(tmp_path / "s")
            await held.call(REMOTE["auth_list"])
            second = await client(tmp_path / "s")
            with pytest.raises(RemoteError, match="1 of one user"):
                await second.call(REMOTE["auth_list"])
            await second.close()
            await held.close()

    run(work)


def test_a_client_that_says_nothing_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server_module, "HANDSHAKE_SECONDS", 0.2)
    caplog.set_level(logging.INFO)

    async def work() -> None:
        async with serving(tmp_path) as server:
            talks = await client(tmp_path / "s")
            await talks.call(REMOTE["auth_list"])
            silent = await client(tmp_path / "s")
            await asyncio.wait_for(silent.closed, 5)
            assert server.clients == 1
            assert await talks.call(REMOTE["auth_list"]) == [0]  # one that has talked may be silent
            await talks.close()
            await silent.close()

    run(work)
    assert "said nothing in 0.2 s" in caplog.text


def test_a_client_that_answers_no_pings_is_cut_off(tmp_path: Path) -> None:
    """keepalive_interval and keepalive_count of the settings hold."""

    async def work() -> None:
        async with serving(tmp_path, keepalive_interval=1, keepalive_count=1) as server:
            loop = asyncio.get_running_loop()
            with socket.socket(socket.AF_UNIX) as raw:
                raw.setblocking(False)
                await loop.sock_connect(raw, str(tmp_path / "s"))
                feature = struct.pack(">IIIiiIi", 32, 0x20008086, 1, 60, 0, 0, 0) + struct.pack(">i", 10)
                await loop.sock_sendall(raw, feature)
                began = time.monotonic()
                while await loop.sock_recv(raw, 4096):
                    pass
                assert 1.5 < time.monotonic() - began < 10
            while server.clients:
                await asyncio.sleep(0.01)
            # A client that lives answers by itself.
            alive = await client(tmp_path / "s")
            assert await alive.call(REMOTE["connect_supports_feature"], 10) == 1
            await asyncio.sleep(2.5)
            assert await alive.call(REMOTE["auth_list"]) == [0]
            await alive.close()

    run(work)


def test_without_keepalive_nobody_is_asked(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path, keepalive_interval=0):
            one = await client(tmp_path / "s")
            assert await one.call(REMOTE["connect_supports_feature"], 10) == 0
            await one.close()

    run(work)


def test_clients_are_told_when_the_daemon_goes(tmp_path: Path) -> None:
    async def work() -> None:
        events: list[Any] = []
        async with serving(tmp_path):
            one = Caller(await connect_unix(str(tmp_path / "s")), events.append)
            one.start()
            await one.call(REMOTE["connect_open"], None, 0)
            await one.call(REMOTE["connect_register_close_callback"])
        await asyncio.wait_for(one.closed, 5)
        await one.close()
        assert [(event.procedure.name, event.arguments.reason) for event in events] == [
            ("connect_event_connection_closed", 1)
        ]

    run(work)


def test_a_client_opens_once(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path):
            one = await client(tmp_path / "s")
            with pytest.raises(RemoteError, match="connection not open"):
                await one.call(REMOTE["connect_get_hostname"])
            with pytest.raises(RemoteError, match="no connection driver available for xen:///; there are test"):
                await one.call(REMOTE["connect_open"], "xen:///", 0)
            await one.call(REMOTE["connect_open"], None, 0)
            with pytest.raises(RemoteError, match="already open"):
                await one.call(REMOTE["connect_open"], None, 0)
            await one.close()

    run(work)


def test_inherited_sockets_are_served_and_left_there(tmp_path: Path) -> None:
    async def work() -> None:
        config = Config(tmp_path / "unused", tmp_path / "unused-ro", tmp_path / "state")
        sockets = {
            name: listen_unix(tmp_path / name, 0o600) for name in ("manord-sock", "manord-sock-ro", "something")
        }
        server = Server(config, Service({"test:///default": MemoryDriver}, "test:///default"))
        await server.open(sockets)
        one = await client(tmp_path / "manord-sock")
        assert await one.call(REMOTE["auth_list"]) == [0]
        await one.close()
        await server.close()
        assert (tmp_path / "manord-sock").exists()
        assert not (tmp_path / "unused").exists()

    run(work)


def test_a_socket_left_behind_is_replaced_and_one_in_use_is_not(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with listen_unix(path, 0o600):
        with pytest.raises(SocketInUse, match="another daemon listens"):
            listen_unix(path, 0o600)
        with socket.socket(socket.AF_UNIX) as probe:
            assert probe.connect_ex(str(path)) == 0


def test_of_daemons_that_start_at_once_one_gets_the_socket(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    got: list[socket.socket] = []
    refused: list[SocketInUse] = []

    def start() -> None:
        try:
            got.append(listen_unix(path, 0o600))
        except SocketInUse as error:
            refused.append(error)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert (len(got), len(refused)) == (1, 7)
    with socket.socket(socket.AF_UNIX) as probe:
        assert probe.connect_ex(str(path)) == 0
    got[0].close()


@pytest.mark.parametrize(
    ("name", "wrong"), [("x" * 120, "the path is too long for a socket"), ("file/s", "cannot listen at .*file/s")]
)
def test_a_place_that_is_none_is_said(tmp_path: Path, name: str, wrong: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HostError, match=wrong):
        listen_unix(tmp_path / name, 0o600)


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        ({"tls_listen": "nowhere"}, "tls_listen: 'nowhere' is not ADDRESS:PORT"),
        ({"tls_listen": "127.0.0.1:1", "tls_ca": "/nowhere", "tls_cert": "/x", "tls_key": "/y"}, "cannot use the cert"),
        ({"group": "no-such-group"}, "there is no group 'no-such-group'"),
    ],
)
def test_settings_that_cannot_be_followed_are_said(tmp_path: Path, settings: dict[str, Any], wrong: str) -> None:
    async def work() -> None:
        with pytest.raises((ConfigError, HostError), match=wrong):
            async with serving(tmp_path, **settings):
                pass

    run(work)


def test_the_group_gets_the_sockets(tmp_path: Path) -> None:
    import grp

    if os.geteuid() != 0:
        pytest.skip("only root can give files to any group")
    group = next(each for each in grp.getgrall() if each.gr_gid not in (0, os.getegid()))

    async def work() -> None:
        async with serving(tmp_path, group=group.gr_name):
            assert (tmp_path / "s").stat().st_gid == group.gr_gid

    run(work)


def test_only_who_could_reach_it_anyway_has_other_daemons_opened(tmp_path: Path) -> None:
    other = f"libvirt+test+unix:///default?socket={tmp_path}/s"

    async def work() -> None:
        async with serving(tmp_path, remotes=(other,)):
            trusted = await client(tmp_path / "s")
            await trusted.call(REMOTE["connect_open"], f"{other}&mode=legacy", 0)
            assert await trusted.call(REMOTE["connect_get_type"]) == "TEST"
            looks = await client(tmp_path / "s-ro")
            with pytest.raises(RemoteError, match="list it under `remotes`"):
                await looks.call(REMOTE["connect_open"], f"{other}&mode=legacy", 0)
            await looks.call(REMOTE["connect_open"], other, 0)
            assert await looks.call(REMOTE["connect_get_type"]) == "TEST"
            domain = await looks.call(REMOTE["domain_lookup_by_name"], "test")
            with pytest.raises(RemoteError, match="read-only"):
                await looks.call(REMOTE["domain_destroy"], domain)
            await trusted.close()
            await looks.close()

    run(work)
