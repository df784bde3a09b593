"""What is active stays so over restarts of the daemon, until the host starts anew."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from manor.base.errors import ApiError
from manor.drivers.activity import Activity
from manor.drivers.directory import Directory
from manor.drivers.keeper import StoreKeeper
from manor.drivers.networks import NetworkBook
from manor.drivers.pools import PoolBook
from manor.drivers.store import Store

NETWORK = "<network><name>{}</name>{}</network>"
POOL = "<pool type='dir'><name>{}</name><target><path>{}</path></target></pool>"
Scenario = Callable[[NetworkBook, PoolBook], Awaitable[None]]


@pytest.fixture
def boot(tmp_path: Path) -> Path:
    """In the place of the host's number of its start."""
    path = tmp_path / "boot_id"
    path.write_text("first\n")
    return path


def daemon(root: Path, boot: Path, scenario: Scenario) -> None:
    """One life of a daemon."""

    async def work() -> None:
        keeper = StoreKeeper(Store(root))
        await keeper.open()
        activity = Activity(root / "active.json", boot)
        await activity.open()
        networks = NetworkBook(keeper, lambda _: None, activity)
        pools = PoolBook(keeper, lambda _: None, Directory, activity)
        await networks.open(with_default=False)
        await pools.open()
        await scenario(networks, pools)
        await keeper.close()

    asyncio.run(work())


async def begin(networks: NetworkBook, pools: PoolBook, folder: Path) -> None:
    kept = await networks.define(NETWORK.format("kept", ""), "ann")
    await networks.define(NETWORK.format("idle", ""), "ann")
    await networks.start(kept.uuid)
    await networks.create_xml(NETWORK.format("passing", "<title>one</title>"))
    gone = await networks.create_xml(NETWORK.format("gone", ""))
    await networks.stop(gone.uuid)
    pool = await pools.define(POOL.format("disks", folder / "disks"), "ann")
    await pools.start(pool.uuid, True)
    await pools.create_xml(POOL.format("lost", folder / "lost"), True)


async def states(networks: NetworkBook, pools: PoolBook) -> dict[str, tuple[bool, bool]]:
    found: list[Any] = [*await networks.all(), *await pools.all()]
    return {reference.name: (flags.active, flags.persistent) for reference, flags in found}


def test_restart_of_the_daemon(tmp_path: Path, boot: Path) -> None:
    async def later(networks: NetworkBook, pools: PoolBook) -> None:
        assert await states(networks, pools) == {
            "kept": (True, True), "idle": (False, True), "passing": (True, False), "disks": (True, True),
        }  # fmt: skip
        passing = await networks.find_name("passing")
        assert "<title>one</title>" in await networks.xml(passing.uuid)
        await networks.stop(passing.uuid)
        await networks.stop((await networks.find_name("kept")).uuid)

    async def last(networks: NetworkBook, pools: PoolBook) -> None:
        assert await states(networks, pools) == {
            "kept": (False, True), "idle": (False, True), "disks": (True, True),
        }  # fmt: skip

    root = tmp_path / "state"
    daemon(root, boot, lambda networks, pools: begin(networks, pools, tmp_path))
    (tmp_path / "lost").rmdir()  # a transient pool whose directory is gone cannot come back
    daemon(root, boot, later)
    daemon(root, boot, last)


@pytest.mark.parametrize("how", ["host", "damage", "lies", "nothing"])
def test_restart_of_the_host_and_files_that_say_nothing(tmp_path: Path, boot: Path, how: str) -> None:
    async def later(networks: NetworkBook, pools: PoolBook) -> None:
        assert await states(networks, pools) == {
            "kept": (False, True), "idle": (False, True), "disks": (False, True),
        }  # fmt: skip

    root = tmp_path / "state"
    daemon(root, boot, lambda networks, pools: begin(networks, pools, tmp_path))
    file = root / "active.json"
    if how == "host":
        boot.write_text("second\n")
    elif how == "damage":
        file.write_text(file.read_text()[:40])
    elif how == "lies":
        bad = {"networks": {"x": 1, "6695eb01-f6a4-8304-79aa-97f2502e193f": "<pool/>"}, "pools": [1]}
        file.write_text(json.dumps({"boot": "first", **bad}))
    else:
        file.write_text("[]")
    daemon(root, boot, later)


def test_a_file_that_cannot_be_written_stops_nothing(tmp_path: Path, boot: Path) -> None:
    async def scenario() -> None:
        activity = Activity(tmp_path / "nowhere" / "active.json", boot)
        await activity.note("networks", bytes(16), "<network/>")
        assert activity.of("networks") == {bytes(16): "<network/>"}

    asyncio.run(scenario())


def test_without_a_file_nothing_is_kept(boot: Path) -> None:
    async def scenario() -> None:
        activity = Activity(None, boot)
        await activity.open()
        book = NetworkBook(StoreKeeper(Store(boot.parent / "none")), lambda _: None, activity)
        made = await book.create_xml(NETWORK.format("a", ""))
        assert activity.of("networks") == {made.uuid: await book.xml(made.uuid)}
        with pytest.raises(ApiError, match="already active"):
            await book.create_xml(NETWORK.format("a", f"<uuid>{made.uuid.hex()}</uuid>"))

    asyncio.run(scenario())
