"""Snapshots of domains that are off: descriptions kept as files, contents inside qcow2 images."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from manor.backends.block.operations.create import create
from manor.backends.block.operations.snapshot import list_snapshots
from manor.base.errors import ApiError
from manor.domain.xml import domain as domain_xml
from manor.domain.xml import snapshot as snapshot_xml
from manor.drivers.api import Kind, Notice
from manor.drivers.domains.book import DomainBook
from manor.drivers.keeper import StoreKeeper
from manor.drivers.memory import MemoryHypervisor
from manor.drivers.snapshots import CHILDREN, CHILDREN_ONLY, METADATA_ONLY, REDEFINE, InternalSnapshots, SnapshotBook
from manor.drivers.store import Store

XML = """
<domain type='test'>
  <name>web1</name>
  <memory unit='MiB'>64</memory>
  <os><type>hvm</type></os>
  <devices>
    <disk type='file'><driver name='qemu' type='{kind}'/><source file='{path}'/><target dev='vda'/></disk>
    <disk type='file' device='cdrom'><source file='/nowhere.iso'/><target dev='vdb'/></disk>
  </devices>
</domain>
"""
NAMED = "<domainsnapshot><name>{}</name><description>of {}</description></domainsnapshot>"


class World:
    def __init__(self, root: Path) -> None:
        self.image = root / "disk.qcow2"
        self.told: list[Notice] = []
        self.keeper = StoreKeeper(Store(root / "state"))
        self.domains = DomainBook(MemoryHypervisor(), self.keeper, self.told.append)
        self.book = SnapshotBook(self.domains, self.keeper, InternalSnapshots(), self.told.append)
        self.uuid = b""

    def inside(self) -> list[str]:
        return [one.name for one in list_snapshots(str(self.image), format="qcow2")]

    async def names(self) -> list[str]:
        return [one.name for one in await self.book.all(self.uuid)]

    async def take(self, *names: str) -> None:
        for name in names:
            await self.book.create(self.uuid, NAMED.format(name, name), 0)


def run(root: Path, scenario: Callable[[World], Awaitable[None]], kind: str = "qcow2") -> None:
    async def work() -> None:
        world = World(root)
        await world.keeper.open()
        await world.domains.open()
        await world.book.open()
        if not world.image.exists():
            create(str(world.image), 1 << 20, format=kind)
            await world.domains.define(XML.format(path=world.image, kind=kind), "ann")
        world.uuid = (await world.domains.find_name("web1")).uuid
        try:
            await scenario(world)
        finally:
            await world.domains.close()
            await world.keeper.close()

    asyncio.run(work())


def test_snapshots_make_a_tree_that_the_next_daemon_knows(tmp_path: Path) -> None:
    async def first(world: World) -> None:
        await world.take("one", "two")
        assert world.inside() == ["one", "two"]
        shown = snapshot_xml.parse(await world.book.xml(world.uuid, "two"))
        assert (shown.parent, shown.state, shown.description, shown.memory, shown.active) == (
            "one", "shutoff", "of two", "no", None
        )  # fmt: skip
        assert [(disk.name, disk.snapshot) for disk in shown.disks] == [("vda", "internal"), ("vdb", "no")]
        assert shown.domain is not None
        assert shown.domain.find("name").text == "web1"  # type: ignore[union-attr]
        with pytest.raises(ApiError, match="domain snapshot one already exists"):
            await world.take("one")

    async def second(world: World) -> None:
        assert await world.names() == ["one", "two"]
        assert await world.book.current(world.uuid) == "two"
        assert await world.book.parent(world.uuid, "two") == "one"
        assert (await world.domains.flags(world.uuid)).snapshots

    run(tmp_path, first)
    (folder,) = (tmp_path / "state" / "snapshots").iterdir()
    (folder / "broken.xml").write_text("<")
    run(tmp_path, second)


def test_going_back_brings_the_definition_back_too(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.take("before")
        await world.domains.set_memory(world.uuid, 32 << 10, False, True, True)
        await world.book.revert(world.uuid, "before", 0)
        document = domain_xml.parse(await world.domains.xml(world.uuid, True, True))
        assert document.memory == 64 << 20
        assert await world.domains.state(world.uuid) == (5, 7)
        assert world.told[-1].kind is Kind.LIFECYCLE
        assert world.told[-1].values == (0, 3)
        await world.domains.start(world.uuid, False)
        with pytest.raises(ApiError, match="destroy it before it is reverted"):
            await world.book.revert(world.uuid, "before", 0)
        with pytest.raises(ApiError, match="shut it down first"):
            await world.take("while it runs")

    run(tmp_path, scenario)


def test_snapshots_without_a_name_in_one_second_get_one_each(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        names = [(await world.book.create(world.uuid, "<domainsnapshot/>", 0)).name for _ in range(3)]
        assert len(set(names)) == 3
        assert sorted(names) == await world.names()

    run(tmp_path, scenario)


def test_deleting_parts_of_the_tree(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.take("a", "b", "c")
        await world.book.delete(world.uuid, "b", 0)
        assert await world.book.parent(world.uuid, "c") == "a"
        assert snapshot_xml.parse(await world.book.xml(world.uuid, "c")).parent == "a"
        again = SnapshotBook(world.domains, world.keeper, InternalSnapshots(), world.told.append)
        await again.open()
        assert await again.parent(world.uuid, "c") == "a"
        assert world.inside() == ["a", "c"]
        await world.take("d")
        await world.book.delete(world.uuid, "c", CHILDREN_ONLY)
        assert await world.names() == ["a", "c"]
        assert await world.book.current(world.uuid) == "c"
        await world.book.delete(world.uuid, "c", METADATA_ONLY)
        assert (await world.names(), world.inside()) == (["a"], ["a", "c"])
        await world.book.delete(world.uuid, "a", CHILDREN)
        assert await world.names() == []
        assert await world.book.current(world.uuid) is None
        with pytest.raises(ApiError, match="no domain snapshot with matching name 'a'"):
            await world.book.xml(world.uuid, "a")

    run(tmp_path, scenario)


def test_a_description_without_contents_can_be_put_back(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.take("a")
        text = await world.book.xml(world.uuid, "a")
        await world.book.delete(world.uuid, "a", METADATA_ONLY)
        await world.book.create(world.uuid, text, REDEFINE)
        assert snapshot_xml.parse(await world.book.xml(world.uuid, "a")) == snapshot_xml.parse(text)
        await world.book.revert(world.uuid, "a", 0)

    run(tmp_path, scenario)


@pytest.mark.parametrize(
    ("xml", "words"),
    [
        ("<domainsnapshot><name>a/b</name></domainsnapshot>", "domainsnapshot/name"),
        ("<snapshot/>", "a <domainsnapshot> is needed here"),
        ("<domainsnapshot><disks><disk name='vda' snapshot='manual'/></disks></domainsnapshot>", "made by the service"),
    ],
)
def test_descriptions_that_are_refused(tmp_path: Path, xml: str, words: str) -> None:
    async def scenario(world: World) -> None:
        with pytest.raises(ApiError, match=words):
            await world.book.create(world.uuid, xml, 0)
        assert world.inside() == []

    run(tmp_path, scenario)


def test_a_disk_that_can_keep_none_is_named(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        with pytest.raises(ApiError, match="the disk vda is no qcow2 image"):
            await world.take("a")
        with pytest.raises(ApiError, match="not there"):
            await world.book.create(world.uuid, NAMED.format("a", "a"), 64)

    run(tmp_path, scenario, "raw")
