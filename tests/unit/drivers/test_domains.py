"""Descriptions of domains: what is kept, what runs, and that the one never becomes the other by itself."""

from __future__ import annotations

import asyncio
import logging
import uuid as uuid_module
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from manor.base.errors import ApiError, HostError
from manor.domain.model import Life
from manor.domain.state import PausedReason
from manor.domain.xml import domain as domain_xml
from manor.domain.xml.domain import Domain as Document
from manor.domain.xml.live import live
from manor.drivers.api import Kind, Notice
from manor.drivers.domains.book import DomainBook
from manor.drivers.hypervisor import AgentChanged, End, Ended, Found, OnHappening, Paused, Removed, Resumed
from manor.drivers.keeper import StoreKeeper
from manor.drivers.memory import MemoryHypervisor
from manor.drivers.store import Store
from manor.rpc.protocol.records import Domain

XML = """
<domain type='test'>
  <name>{name}</name>
  <memory unit='MiB'>64</memory>
  <vcpu>2</vcpu>
  <os><type>hvm</type></os>
  <devices>
    <disk type='file'><source file='/a.img'/><target dev='vda'/></disk>
    <interface type='user'><mac address='52:54:00:11:22:33'/></interface>
    <graphics type='vnc' passwd='sesame'/>
  </devices>
</domain>
"""
DISK = "<disk type='file'><source file='/b.img'/><target dev='vdb'/></disk>"


class Slow(MemoryHypervisor):
    """Whose guest takes its time to give devices back."""

    found: Sequence[Found] = ()
    ended: Sequence[Ended] = ()

    async def recover(self, on_happening: OnHappening) -> tuple[Sequence[Found], Sequence[Ended]]:
        await super().recover(on_happening)
        return self.found, self.ended

    async def detach(self, uuid: bytes, live: Document, device: object) -> Document | None:
        return None


class World:
    """A driver's domains with a real store."""

    def __init__(self, root: Path, hypervisor: MemoryHypervisor | None = None) -> None:
        self.hypervisor = hypervisor or MemoryHypervisor()
        self.keeper = StoreKeeper(Store(root))
        self.told: list[Notice] = []
        self.book = DomainBook(self.hypervisor, self.keeper, self.told.append)
        self.web1 = Domain("", b"", -1)

    async def open(self) -> None:
        await self.keeper.open()
        await self.book.open()

    async def define(self, name: str = "web1") -> Domain:
        self.web1 = await self.book.define(XML.format(name=name), "ann")
        return self.web1

    async def document(self, inactive: bool = False) -> Document:
        return domain_xml.parse(await self.book.xml(self.web1.uuid, inactive, True))

    async def close(self) -> None:
        await self.book.close()
        await self.keeper.close()


def run(root: Path, scenario: Callable[[World], Awaitable[None]], hypervisor: MemoryHypervisor | None = None) -> None:
    async def work() -> None:
        world = World(root, hypervisor)
        await world.open()
        try:
            await scenario(world)
        finally:
            await world.close()

    asyncio.run(work())


# --- definitions ------------------------------------------------------------------------------------------------------


def test_what_is_defined_is_there_for_the_next_daemon(tmp_path: Path) -> None:
    texts: list[str] = []

    async def first(world: World) -> None:
        await world.define()
        await world.book.set_autostart(world.web1.uuid, True)
        texts.append(await world.book.xml(world.web1.uuid, True, True))

    async def second(world: World) -> None:
        world.web1 = await world.book.find_name("web1")
        assert (await world.book.flags(world.web1.uuid)).autostart
        texts.append(await world.book.xml(world.web1.uuid, True, True))
        assert [domain.name for domain, _ in await world.book.all()] == ["web1"]

    run(tmp_path, first)
    run(tmp_path, second)
    assert texts[0] == texts[1] == (tmp_path / "domains" / "web1.xml").read_text()


def test_a_file_that_a_user_wrote_is_completed_and_a_broken_one_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def nothing(world: World) -> None:
        assert await world.book.all() == []

    async def found(world: World) -> None:
        assert [domain.name for domain, _ in await world.book.all()] == ["mine"]
        world.web1 = await world.book.find_name("mine")
        assert (await world.document()).devices.disks[0].bus == "virtio"

    run(tmp_path, nothing)
    uuid = "<uuid>6695eb01-f6a4-8304-79aa-97f2502e193a</uuid>"
    (tmp_path / "domains" / "mine.xml").write_text(XML.format(name="mine").replace("<memory", f"{uuid}<memory", 1))
    (tmp_path / "domains" / "other.xml").write_text("<domain><name>other</name>")
    run(tmp_path, found)
    assert "other.xml cannot be used: domain: line 1: this is not XML" in caplog.text


def test_names_and_uuids_are_unique(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.define()
        with pytest.raises(ApiError, match="domain 'web1' already exists with uuid"):
            await world.define()
        uuid = f"<uuid>{uuid_module.UUID(bytes=world.web1.uuid)}</uuid>"
        other = XML.format(name="web2").replace("<memory", f"{uuid}<memory")
        with pytest.raises(ApiError, match="domain 'web1' is already defined with uuid"):
            await world.book.define(other, "ann")
        await world.define("web3")
        with pytest.raises(ApiError, match="'web1' already exists"):
            await world.book.rename(world.web1.uuid, "web1", "ann")
        with pytest.raises(ApiError, match="domain/name"):
            await world.book.rename(world.web1.uuid, "../x", "ann")

    run(tmp_path, scenario)


def test_a_definition_that_cannot_be_written_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(world: World) -> None:
        def full(*_: object) -> None:
            raise HostError("the disk is full; free some space")

        monkeypatch.setattr(world.keeper.store, "save", full)
        with pytest.raises(HostError):
            await world.define()
        assert await world.book.all() == []
        monkeypatch.undo()
        await world.define()
        before = await world.document()
        monkeypatch.setattr(world.keeper.store, "save", full)
        with pytest.raises(HostError):
            await world.book.edit(world.web1.uuid, lambda one: replace(one, title="T"), False, True, "ann")
        assert await world.document() == before

    run(tmp_path, scenario)


def test_what_is_refused_names_the_place_and_the_way_out(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        for text, code, words in (
            ("<domain", 27, "line 1: this is not XML"),
            (XML.format(name="a/b"), 27, "domain/name"),
            (XML.format(name="x").replace("<vcpu>2", "<vcpu>many"), 27, "domain/vcpu: 'many' is not a number"),
            (XML.format(name="x").replace("<vcpu>2", "<vcpu>900"), 67, "domain/vcpu: 900 vCPUs are too many; give at"),
        ):
            with pytest.raises(ApiError) as caught:
                await world.book.define(text, "ann")
            assert caught.value.code == code
            assert words in caught.value.message

    run(tmp_path, scenario)


def test_warnings_reach_the_log_and_whoever_asks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(world: World) -> None:
        await world.define()
        message = "domain/devices/graphics: the machine has no display; its console is the way in"
        assert f"web1: {message}" in caplog.text
        assert f"ignored configuration: {message}" in await world.book.messages(world.web1.uuid)
        before = await world.book.messages(world.web1.uuid)
        await world.book.start(world.web1.uuid, False)
        assert await world.book.messages(world.web1.uuid) == before

    with caplog.at_level(logging.WARNING):
        run(tmp_path, scenario)


def test_secrets_are_for_those_who_may(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.define()
        assert "sesame" in await world.book.xml(world.web1.uuid, False, True)
        assert "sesame" not in await world.book.xml(world.web1.uuid, False, False)

    run(tmp_path, scenario)


# --- what runs and what is kept ---------------------------------------------------------------------------------------


def test_a_new_definition_waits_for_the_next_start(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.define()
        uuid = world.web1.uuid
        await world.book.start(uuid, False)
        assert not (await world.book.flags(uuid)).updated
        text = (await world.book.xml(uuid, True, True)).replace("/a.img", "/other.img")
        await world.book.define(text, "ann")
        assert (await world.document()).devices.disks[0].file == "/a.img"
        assert (await world.document(True)).devices.disks[0].file == "/other.img"
        assert (await world.book.flags(uuid)).updated
        await world.book.destroy(uuid, False)
        assert not (await world.book.flags(uuid)).updated
        await world.book.start(uuid, False)
        assert (await world.document()).devices.disks[0].file == "/other.img"

    run(tmp_path, scenario)


@pytest.mark.parametrize(("is_live", "is_config"), [(True, False), (False, True), (True, True)])
def test_devices_come_and_go_where_they_shall(tmp_path: Path, is_live: bool, is_config: bool) -> None:
    async def scenario(world: World) -> None:
        def targets(document: Document) -> list[str | None]:
            return [disk.target for disk in document.devices.disks]

        await world.define()
        uuid = world.web1.uuid
        await world.book.start(uuid, False)
        world.told.clear()
        await world.book.attach(uuid, DISK, is_live, is_config, "ann")
        assert targets(await world.document()) == (["vda", "vdb"] if is_live else ["vda"])
        assert targets(await world.document(True)) == (["vda", "vdb"] if is_config else ["vda"])
        assert (Kind.DEVICE_ADDED in [one.kind for one in world.told]) == is_live
        with pytest.raises(ApiError, match="target vdb already exists"):
            await world.book.attach(uuid, DISK, is_live, is_config, "ann")
        other = DISK.replace("/b.img", "/c.img")
        await world.book.update(uuid, other, is_live, is_config, "ann")
        assert ("/c.img" in await world.book.xml(uuid, False, True)) == is_live
        assert ("/c.img" in await world.book.xml(uuid, True, True)) == is_config
        await world.book.detach(uuid, other, is_live, is_config, "ann")
        assert targets(await world.document()) == targets(await world.document(True)) == ["vda"]
        with pytest.raises(ApiError, match="device not found"):
            await world.book.detach(uuid, other, is_live, is_config, "ann")

    run(tmp_path, scenario)


def test_a_change_that_one_description_refuses_is_made_in_neither(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.define()
        uuid = world.web1.uuid
        await world.book.start(uuid, False)
        await world.book.attach(uuid, DISK, False, True, "ann")
        before = await world.document()
        with pytest.raises(ApiError, match="already exists"):
            await world.book.attach(uuid, DISK, True, True, "ann")
        assert await world.document() == before

    run(tmp_path, scenario)


def test_aliases_of_live_devices_are_never_given_twice(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.define()
        uuid = world.web1.uuid
        await world.book.start(uuid, False)
        nic = "<interface type='user'><mac address='52:54:00:00:00:0{}'/></interface>"
        await world.book.attach(uuid, nic.format(1), True, False, "ann")
        await world.book.detach_alias(uuid, "net0", True, False, "ann")
        await world.book.attach(uuid, nic.format(2), True, False, "ann")
        found = {one.mac: one.alias for one in (await world.document()).devices.interfaces}
        assert found == {"52:54:00:00:00:01": "net1", "52:54:00:00:00:02": "net0"}
        with pytest.raises(ApiError, match="no device has the alias 'net7'"):
            await world.book.detach_alias(uuid, "net7", True, False, "ann")

    run(tmp_path, scenario)


def test_a_guest_gives_a_device_back_when_it_likes(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.define()
        uuid = world.web1.uuid
        await world.book.start(uuid, False)
        await world.book.attach(uuid, DISK, True, False, "ann")
        alias = (await world.document()).devices.disks[1].alias
        assert alias is not None
        world.told.clear()
        await world.book.detach(uuid, DISK, True, False, "ann")
        assert len((await world.document()).devices.disks) == 2
        assert world.told == []
        world.hypervisor.happen(Removed(uuid, alias, is_done=False))
        assert [one.kind for one in world.told] == [Kind.DEVICE_REMOVAL_FAILED]
        world.hypervisor.happen(Removed(uuid, alias))
        await asyncio.sleep(0.01)
        assert len((await world.document()).devices.disks) == 1
        assert world.told[-1].values == (alias,)
        world.hypervisor.happen(Removed(uuid, alias))  # a second word changes nothing
        assert len(world.told) == 2

    run(tmp_path, scenario, Slow())


def test_memory_and_vcpus(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.define()
        uuid, book = world.web1.uuid, world.book
        await book.start(uuid, False)
        await book.set_memory(uuid, 32 << 10, True, False, False)
        assert ((await book.info(uuid)).memory, (await world.document(True)).current_memory) == (32 << 10, 64 << 20)
        assert [one.values for one in world.told if one.kind is Kind.BALLOON] == [(32 << 10,)]
        await book.set_memory(uuid, 128 << 10, False, True, True)
        assert (await world.document(True)).memory == 128 << 20
        with pytest.raises(ApiError, match=r"higher than max memory \(65536 KiB\)"):
            await book.set_memory(uuid, 100 << 10, True, True, False)
        with pytest.raises(ApiError, match="active domain"):
            await book.set_memory(uuid, 100 << 10, True, False, True)
        with pytest.raises(ApiError, match="give 1024 to"):
            await book.set_memory(uuid, 1, False, True, False)
        await book.set_vcpus(uuid, 1, True, False, False)
        assert (await book.vcpus(uuid, False), await book.vcpus(uuid, True)) == ((1, 2), (2, 2))
        await book.set_vcpus(uuid, 4, False, True, True)
        await book.set_vcpus(uuid, 3, False, True, False)
        assert await book.vcpus(uuid, True) == (3, 4)
        await book.set_vcpus(uuid, 2, False, True, True)
        assert await book.vcpus(uuid, True) == (2, 2)
        with pytest.raises(ApiError, match="for the live domain: 3 > 2"):
            await book.set_vcpus(uuid, 3, True, False, False)
        with pytest.raises(ApiError, match="use --config"):
            await book.set_vcpus(uuid, 3, True, False, True)

    run(tmp_path, scenario)


def test_a_domain_without_a_definition_has_none_to_change(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.web1 = await world.book.create_xml(XML.format(name="web1"), False)
        uuid = world.web1.uuid
        with pytest.raises(ApiError, match="transient domain"):
            await world.book.attach(uuid, DISK, False, True, "ann")
        with pytest.raises(ApiError, match="transient domain"):
            await world.book.vcpus(uuid, True)
        inactive = await world.document(True)
        assert inactive.id is None
        assert inactive.devices.disks[0].alias is None
        assert (await world.document()).devices.disks[0].alias == "virtio-disk0"
        await world.book.define(await world.book.xml(uuid, True, True), "ann")
        assert (await world.book.flags(uuid)).persistent

    run(tmp_path, scenario)


# --- what was there before the daemon ---------------------------------------------------------------------------------


def test_vms_are_found_again_as_they_are(tmp_path: Path) -> None:
    uuids: list[bytes] = []

    async def before(world: World) -> None:
        for name in ("runs", "paused", "crashed", "ended"):
            uuids.append((await world.define(name)).uuid)

    hypervisor = Slow()

    async def after(world: World) -> None:
        lives = {record.definition.name: record.life for record in world.book._records.values()}
        assert lives == {
            "runs": Life.RUNNING, "paused": Life.PAUSED, "crashed": Life.CRASHED, "ended": Life.OFF,
            "guest": Life.TRANSIENT_RUNNING,
        }  # fmt: skip
        assert await world.book.state(uuids[3]) == (5, 3)
        assert (await world.book.find_id(7)).name == "runs"
        assert (await world.book.start(uuids[3], False)).id == 11  # after the highest one

    run(tmp_path, before)
    texts = {
        path.stem: domain_xml.format(live(domain_xml.parse(path.read_text()), 7))
        for path in (tmp_path / "domains").glob("*.xml")
    }
    guest = uuid_module.uuid4()
    text = texts["runs"].replace(str(uuid_module.UUID(bytes=uuids[0])), str(guest)).replace(">runs<", ">guest<")
    hypervisor.found = (
        Found(uuids[0], 7, texts["runs"]), Found(uuids[1], 8, texts["paused"], is_paused=True),
        Found(uuids[2], 9, texts["crashed"], is_paused=True, has_crashed=True), Found(guest.bytes, 10, text),
    )  # fmt: skip
    hypervisor.ended = (Ended(uuids[3], End.LOST, "it was killed"),)
    run(tmp_path, after, hypervisor)


def test_a_vm_whose_live_document_is_damaged_is_still_managed(tmp_path: Path) -> None:
    uuids: list[bytes] = []
    hypervisor = Slow()

    async def before(world: World) -> None:
        uuids.append((await world.define()).uuid)

    async def after(world: World) -> None:
        assert (await world.book.flags(uuids[0])).active
        assert (await world.book.find_id(3)).uuid == uuids[0]

    run(tmp_path, before)
    hypervisor.found = (Found(uuids[0], 3, "<domain"), Found(bytes(16), 4, "nothing"))
    run(tmp_path, after, hypervisor)


def test_autostart_starts_what_is_marked_and_survives_what_fails(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(MemoryHypervisor):
        async def start(
            self, domain: Document, number: int, paused: bool, saved: Path | None = None
        ) -> Document:
            if domain.name == "broken":
                raise HostError("its disk is gone; put it back")
            return await super().start(domain, number, paused, saved)

    async def scenario(world: World) -> None:
        for name, is_marked in (("broken", True), ("good", True), ("plain", False)):
            await world.define(name)
            await world.book.set_autostart(world.web1.uuid, is_marked)
        await world.book.start_marked()
        assert [domain.name for domain, flags in await world.book.all() if flags.active] == ["good"]
        assert "the autostart of broken failed: its disk is gone" in caplog.text

    run(tmp_path, scenario, Failing())


def test_what_a_guest_does_is_told(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.define()
        uuid = world.web1.uuid
        await world.book.start(uuid, False)
        world.told.clear()
        world.hypervisor.happen(AgentChanged(uuid, True))
        world.hypervisor.happen(Paused(uuid, PausedReason.USER))
        assert await world.book.state(uuid) == (3, 1)
        world.hypervisor.happen(Resumed(uuid))
        world.hypervisor.happen(AgentChanged(uuid, False))
        kinds = [(one.kind, one.values) for one in world.told]
        assert kinds == [
            (Kind.AGENT, (1, 2)), (Kind.LIFECYCLE, (3, 0)), (Kind.LIFECYCLE, (4, 0)), (Kind.AGENT, (2, 2))
        ]  # fmt: skip

    run(tmp_path, scenario)


def test_names_of_what_has_counters(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.define()
        uuid = world.web1.uuid
        assert [(one.target, one.source) for one in (await world.book.devices(uuid)).disks] == [("vda", "/a.img")]
        await world.book.start(uuid, False)
        (nic,) = (await world.book.devices(uuid)).nics
        assert (nic.target, nic.mac, nic.alias) == ("vnet0", "52:54:00:11:22:33", "net0")
        assert len((await world.book.statistics(uuid)).nics) == 1
        await world.book.block_resize(uuid, "vda", 1 << 20)
        with pytest.raises(ApiError, match="invalid path vdz"):
            await world.book.block_resize(uuid, "vdz", 1 << 20)
        with pytest.raises(ApiError, match=r"cannot look at /a\.img"):
            await world.book.block_info(uuid, "vda")
        for wrong in (world.book.find_id(99), world.book.find_name("nobody"), world.book.find(bytes(16))):
            with pytest.raises(ApiError) as caught:
                await wrong
            assert caught.value.code == 42

    run(tmp_path, scenario)
