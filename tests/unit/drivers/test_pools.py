"""Pools of folders on a real file system, and their volumes as clients describe them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from manor.base.errors import ApiError
from manor.domain.xml import storage
from manor.drivers.api import Kind, Notice
from manor.drivers.directory import Directory
from manor.drivers.keeper import MemoryKeeper
from manor.drivers.pools import RESIZE_DELTA, RESIZE_SHRINK, PoolBook
from manor.rpc.protocol.records import StoragePool

VOLUME = "<volume><name>{}</name><capacity unit='MiB'>4</capacity><target><format type='{}'/></target></volume>"


def pool_xml(path: Path | str, name: str = "images", kind: str = "dir") -> str:
    return f"<pool type='{kind}'><name>{name}</name><target><path>{path}</path></target></pool>"


def run(scenario: Callable[[PoolBook], Awaitable[None]]) -> list[Notice]:
    told: list[Notice] = []

    async def work() -> None:
        keeper = MemoryKeeper()
        await keeper.open()
        book = PoolBook(keeper, told.append, Directory)
        await book.open()
        await scenario(book)
        await keeper.close()

    asyncio.run(work())
    return told


async def opened(book: PoolBook, path: Path) -> StoragePool:
    pool = await book.define(pool_xml(path), "ann")
    await book.start(pool.uuid, True)
    return pool


def test_life_of_a_pool(tmp_path: Path) -> None:
    async def scenario(book: PoolBook) -> None:
        pool = await book.define(pool_xml(f"{tmp_path}/here//"), "ann")
        shown = storage.parse(await book.xml(pool.uuid))
        assert (shown.path, shown.capacity, shown.has_source) == (f"{tmp_path}/here", 0, True)
        with pytest.raises(ApiError, match="there is no such directory"):
            await book.start(pool.uuid, False)
        await book.build(pool.uuid)
        await book.start(pool.uuid, False)
        shown = storage.parse(await book.xml(pool.uuid))
        info = await book.info(pool.uuid)
        assert shown.capacity == info.capacity > info.available > 0
        assert (await book.find_target(f"{tmp_path}/here/")) == pool
        with pytest.raises(ApiError, match="is already active"):
            await book.undefine(pool.uuid, "ann")
        await book.stop(pool.uuid)
        await book.delete(pool.uuid)
        assert not (tmp_path / "here").exists()
        await book.undefine(pool.uuid, "ann")
        with pytest.raises(ApiError, match="no storage pool"):
            await book.find_name("images")

    told = run(scenario)
    assert [one.values[0] for one in told if one.kind is Kind.POOL] == [0, 4, 2, 3, 5, 1]


@pytest.mark.parametrize(
    ("xml", "code", "words"),
    [
        (pool_xml("/srv", kind="netfs"), 67, "pool/@type: pools are folders; mount it, and use type='dir'"),
        (pool_xml("/srv", kind="cloud"), 27, "'cloud' is unknown"),
        (pool_xml("srv"), 27, "pool/target/path: 'srv' is no whole path"),
        (pool_xml("/srv", "a/b"), 27, "pool/name"),
        ("<volume/>", 27, "a <pool> is needed here"),
    ],
)
def test_pools_that_are_refused(xml: str, code: int, words: str) -> None:
    async def scenario(book: PoolBook) -> None:
        with pytest.raises(ApiError) as caught:
            await book.define(xml, "ann")
        assert caught.value.code == code
        assert words in caught.value.message

    run(scenario)


@pytest.mark.parametrize("kind", ["raw", "qcow2"])
def test_volumes(tmp_path: Path, kind: str) -> None:
    async def scenario(book: PoolBook) -> None:
        pool = await opened(book, tmp_path / "p")
        volume = await book.create_volume(pool.uuid, VOLUME.format("v", kind), None, 0)
        assert volume.key == str(tmp_path / "p" / "v") == str(book.volume_path("images", "v"))
        shown = storage.parse_volume(await book.volume_xml("images", "v"))
        assert (shown.format, shown.capacity, shown.path, shown.type) == (kind, 4 << 20, volume.key, "file")
        assert shown.permissions is not None
        await book.resize_volume("images", "v", 1 << 20, RESIZE_DELTA)
        assert (await book.volume_info("images", "v")).capacity == 5 << 20
        with pytest.raises(ApiError, match="Can't shrink"):
            await book.resize_volume("images", "v", 1 << 20, 0)
        with pytest.raises(ApiError, match="less than nothing"):
            await book.resize_volume("images", "v", 1 << 40, RESIZE_DELTA | RESIZE_SHRINK)
        copy = await book.create_volume(pool.uuid, VOLUME.format("w", kind), volume, 0)
        assert (await book.volume_info("images", copy.name)).capacity == 5 << 20
        over = VOLUME.format("over", "qcow2").replace(
            "</volume>", f"<backingStore><path>{volume.key}</path><format type='{kind}'/></backingStore></volume>"
        )
        await book.create_volume(pool.uuid, over, None, 0)
        below = storage.parse_volume(await book.volume_xml("images", "over")).backing
        assert below is not None
        assert (below.path, below.format) == (volume.key, kind)
        assert {one.name for one in await book.volumes(pool.uuid)} == {"v", "w", "over"}
        assert (await book.find_volume_path(volume.key)).name == "v"
        await book.delete_volume("images", "over")
        with pytest.raises(ApiError, match="'over'"):
            await book.find_volume(pool.uuid, "over")
        with pytest.raises(ApiError, match="already in use"):
            await book.create_volume(pool.uuid, VOLUME.format("v", kind), None, 0)

    run(scenario)


@pytest.mark.parametrize(
    ("xml", "code", "words"),
    [
        ("<volume><name>v</name></volume>", 27, "volume/capacity: it is missing; write for example"),
        (VOLUME.format("../v", "raw"), 27, "volume/name"),
        (VOLUME.format("v", "vmdk"), 67, "'vmdk' is not made here; use one of raw, qcow2"),
        (VOLUME.format("v", "qed"), 67, "images of this format are not made"),
        (VOLUME.format("v", "raw").replace("'MiB'>4", "'MiB'>x"), 27, "volume/capacity: 'x' is not an amount"),
        (VOLUME.format("v", "raw").replace("'MiB'>4", "'EiB'>5"), 27, "are too many"),
        (VOLUME.format("v", "raw").replace("<format", "<encryption/><format"), 67, "encrypted volumes are not made"),
    ],
)
def test_volumes_that_are_refused(tmp_path: Path, xml: str, code: int, words: str) -> None:
    async def scenario(book: PoolBook) -> None:
        pool = await opened(book, tmp_path / "p")
        with pytest.raises(ApiError) as caught:
            await book.create_volume(pool.uuid, xml, None, 0)
        assert caught.value.code == code
        assert words in caught.value.message
        assert await book.volumes(pool.uuid) == []

    run(scenario)


def test_what_goes_up_comes_down(tmp_path: Path) -> None:
    async def scenario(book: PoolBook) -> None:
        pool = await opened(book, tmp_path / "p")
        await book.create_volume(pool.uuid, VOLUME.format("v", "raw"), None, 0)
        up = await book.upload("images", "v", 10, 5)
        await up.write(b"hello")
        with pytest.raises(ApiError, match="more data"):
            await up.write(b"!")
        await up.finish()
        up.close()
        down = await book.download("images", "v", 8, 9)
        assert await down.read(100) == b"\0\0hello\0\0"
        assert await down.read(100) == b""
        down.close()
        with pytest.raises(ApiError, match="goes beyond"):
            await book.download("images", "v", 1 << 30, 0)
        await book.wipe_volume("images", "v")
        assert (tmp_path / "p" / "v").read_bytes() == bytes(4 << 20)

    run(scenario)


def test_what_others_put_into_the_folder(tmp_path: Path) -> None:
    async def scenario(book: PoolBook) -> None:
        pool = await opened(book, tmp_path / "p")
        (tmp_path / "p" / "linux.iso").write_bytes(bytes(2048))
        (tmp_path / "p" / ".hidden").write_bytes(b"")
        (tmp_path / "p" / "folder").mkdir()
        (tmp_path / "p" / "link").symlink_to("/dev/null")
        await book.refresh(pool.uuid)
        shown = {one.name: storage.parse_volume(await book.volume_xml("images", one.name))
                 for one in await book.volumes(pool.uuid)}  # fmt: skip
        assert {name: (one.type, one.format) for name, one in shown.items()} == {
            "linux.iso": ("file", "iso"), "folder": ("dir", "dir")
        }  # fmt: skip
        with pytest.raises(ApiError, match="folder"):
            await book.upload("images", "folder", 0, 0)

    run(scenario)
