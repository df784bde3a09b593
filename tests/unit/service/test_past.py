"""What was: revisions, the trash, errors that can be asked about, consoles with their past."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from manor.base.errors import ApiError
from manor.drivers.archive import TRASH_SECONDS
from manor.drivers.errors import Code
from manor.rpc.protocol.own_records import TrashEntry
from manor.service import trash
from manor.service.consoles import Consoles, Mode
from tests.unit.service.desk import Desk, desk

DOMAIN = "<domain type='test'><name>{}</name><memory>65536</memory>{}<os><type>hvm</type></os></domain>"
NETWORK = "<network><name>net9</name><ip address='10.9.9.1' netmask='255.255.255.0'/></network>"
VOLUME = "<volume><name>{}</name><capacity>4096</capacity></volume>"
DOMAINS, NETWORKS, POOLS = range(3)


def test_every_definition_is_a_revision_that_can_be_brought_back() -> None:
    async def scenario() -> None:
        async with desk("ann") as ann:
            bob = Desk(ann.client.service, "bob")
            await bob.call("connect_open", None, 0)
            domain = await ann.call("domain_define_xml", DOMAIN.format("web1", ""))
            text = await ann.call("domain_get_xml_desc", domain, 2)
            await bob.call("domain_define_xml", text.replace(">65536<", ">131072<"))
            found = await ann.call("manor_revisions", DOMAINS, domain.uuid)
            assert [(each.number, each.who, each.is_current) for each in found] == [(1, "ann", 0), (2, "bob", 1)]
            diff = await ann.call("manor_revision_diff", DOMAINS, domain.uuid, 1, 2, 0)
            assert "-  <memory unit='KiB'>65536</memory>" in diff
            await ann.call("manor_revision_revert", DOMAINS, domain.uuid, 1)
            assert await ann.call("domain_get_xml_desc", domain, 2) == text
            found = await ann.call("manor_revisions", DOMAINS, domain.uuid)
            assert (found[-1].number, found[-1].who) == (3, "ann (revert to 1)")
            await ann.call("manor_revision_revert", DOMAINS, domain.uuid, 2)  # a revert of a revert
            assert ">131072<" in await ann.call("domain_get_xml_desc", domain, 2)
            with pytest.raises(ApiError, match="there is no revision 77; there are 1 to 4"):
                await ann.call("manor_revision", DOMAINS, domain.uuid, 77, 0)
            with pytest.raises(ApiError, match="no kind 7"):
                await ann.call("manor_revisions", 7, domain.uuid)
            await ann.call("domain_rename", domain, "web2", 0)
            with pytest.raises(ApiError, match="it was called 'web1'; rename it"):
                await ann.call("manor_revision_revert", DOMAINS, domain.uuid, 1)
            network = await ann.call("network_define_xml", NETWORK)
            (only,) = await ann.call("manor_revisions", NETWORKS, network.uuid)
            assert (only.name, only.is_current) == ("net9", 1)
            assert "net9" in await ann.call("manor_revision", NETWORKS, network.uuid, 1, 0)

    asyncio.run(scenario())


def test_passwords_are_told_only_to_who_asks_for_them() -> None:
    async def scenario() -> None:
        async with desk() as client:
            graphics = "<devices><graphics type='vnc' passwd='{}'/></devices>"
            domain = await client.call("domain_define_xml", DOMAIN.format("web1", graphics.format("secret1")))
            text = await client.call("domain_get_xml_desc", domain, 3)
            await client.call("domain_define_xml", text.replace("secret1", "secret2"))
            assert "secret1" not in await client.call("manor_revision", DOMAINS, domain.uuid, 1, 0)
            assert "secret1" in await client.call("manor_revision", DOMAINS, domain.uuid, 1, 1)
            assert await client.call("manor_revision_diff", DOMAINS, domain.uuid, 1, 2, 0) == ""
            assert "secret2" in await client.call("manor_revision_diff", DOMAINS, domain.uuid, 1, 2, 1)

    asyncio.run(scenario())


async def names(client: Desk) -> set[str]:
    return {each.name for each in (await client.call("connect_list_all_domains", 1, 0)).domains}


def test_what_is_undefined_comes_back() -> None:
    async def scenario() -> None:
        async with desk() as client:
            domain = await client.call("domain_define_xml", DOMAIN.format("web1", ""))
            await client.call("domain_set_autostart", domain, 1)
            await client.call("domain_undefine_flags", domain, 0)
            (entry,) = await client.call("manor_trash")
            assert (entry.kind, entry.name, entry.uuid, entry.who) == ("domains", "web1", domain.uuid, "ann")
            assert entry.expires == pytest.approx(entry.time + TRASH_SECONDS)
            again = await client.call("domain_define_xml", DOMAIN.format("web1", ""))
            with pytest.raises(ApiError, match="already exists with uuid"):
                await client.call("manor_trash_restore", entry.id)
            await client.call("domain_undefine_flags", again, 0)
            back: TrashEntry = await client.call("manor_trash_restore", entry.id)
            assert back.name == "web1"
            assert (await client.call("domain_lookup_by_name", "web1")).uuid == domain.uuid
            assert await client.call("domain_get_autostart", domain) == 1
            (other,) = await client.call("manor_trash")
            assert other.uuid == again.uuid
            await client.call("manor_trash_purge", other.id)
            assert await client.call("manor_trash") == []
            with pytest.raises(ApiError, match=f"nothing numbered {other.id} in the trash"):
                await client.call("manor_trash_restore", other.id)
            network = await client.call("network_define_xml", NETWORK)
            await client.call("network_undefine", network)
            (entry,) = await client.call("manor_trash")
            await client.call("manor_trash_restore", entry.id)
            assert (await client.call("network_lookup_by_name", "net9")).uuid == network.uuid

    asyncio.run(scenario())


def test_a_definition_that_is_there_again_is_not_replaced() -> None:
    async def scenario() -> None:
        async with desk() as client:
            domain = await client.call("domain_define_xml", DOMAIN.format("web1", ""))
            text = await client.call("domain_get_xml_desc", domain, 2)
            await client.call("domain_undefine_flags", domain, 0)
            await client.call("domain_define_xml", text.replace(">65536<", ">131072<"))
            (entry,) = await client.call("manor_trash")
            with pytest.raises(ApiError, match="is defined with this UUID already; undefine it first"):
                await client.call("manor_trash_restore", entry.id)
            assert ">131072<" in await client.call("domain_get_xml_desc", domain, 2)

    asyncio.run(scenario())


async def volume_names(client: Desk, pool: Any) -> list[str]:
    return [each.name for each in (await client.call("storage_pool_list_all_volumes", pool, 1, 0)).volumes]


def test_volumes_go_to_the_trash_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with desk() as client:
            pool = await client.call("storage_pool_lookup_by_name", "default-pool")
            for name in ("a", "b", "c"):
                await client.call("storage_vol_create_xml", pool, VOLUME.format(name), 0)
            volume = await client.call("storage_vol_lookup_by_name", pool, "a")
            number = await client.call("manor_trash_volume", volume)
            assert await volume_names(client, pool) == ["b", "c"]
            (entry,) = await client.call("manor_trash")
            assert (entry.id, entry.kind, entry.name, entry.uuid) == (number, "volumes", "a", pool.uuid)
            await client.call("storage_vol_create_xml", pool, VOLUME.format("a"), 0)
            with pytest.raises(ApiError, match="already in use"):
                await client.call("manor_trash_restore", number)
            await client.call("storage_vol_delete", volume, 0)  # libvirt's deletes for good
            assert await volume_names(client, pool) == ["b", "c"]
            await client.call("manor_trash_restore", number)
            assert await volume_names(client, pool) == ["a", "b", "c"]
            for name in ("a", "b"):
                await client.call("manor_trash_volume", volume._replace(name=name))
            driver = client.client.driver
            await trash.sweep(driver)
            assert len(await client.call("manor_trash")) == 2
            now = time.time
            monkeypatch.setattr(time, "time", lambda: now() + TRASH_SECONDS + 1)
            await trash.sweep(driver)
            assert await client.call("manor_trash") == []
            with pytest.raises(ApiError, match="no storage vol"):
                await client.call("manor_trash_volume", volume._replace(name="none"))

    asyncio.run(scenario())


def test_a_full_pool_empties_its_trash() -> None:
    async def scenario() -> None:
        async with desk() as client:
            pool = await client.call("storage_pool_lookup_by_name", "default-pool")
            volume = await client.call("storage_vol_create_xml", pool, VOLUME.format("a"), 0)
            await client.call("manor_trash_volume", volume)
            big = f"<volume><name>big</name><capacity>1</capacity><allocation>{(1 << 40) - 4096}</allocation></volume>"
            await client.call("storage_vol_create_xml", pool, big, 0)
            await trash.sweep(client.client.driver)
            assert await client.call("manor_trash") == []

    asyncio.run(scenario())


def test_an_error_can_be_asked_about() -> None:
    async def scenario() -> None:
        async with desk() as client:
            with pytest.raises(ApiError) as caught:
                await client.call("manor_trash_purge", 5)
            problem = await client.call("manor_explain", caught.value.code, str(caught.value))
            assert problem.title == "The host refused"
            assert problem.cause == "there is nothing numbered 5 in the trash"
            assert problem.fix == ["`trash` lists what there is"]
            assert await client.call("manor_explain", 1, "never told") is None
            other = Desk(client.client.service, "bob")
            assert await other.call("manor_explain", caught.value.code, str(caught.value)) is None

    asyncio.run(scenario())


def test_the_console_is_read_from_a_position() -> None:
    async def scenario() -> None:
        async with desk() as client:
            domain = await client.call("domain_lookup_by_name", "test")
            stream = await client.client.driver.domains.console(domain.uuid, None, False)
            await stream.write(b"hello")
            log = await client.call("manor_console_log", domain, 0, 100)
            assert log.data == b"\r\ntest login: hello"
            assert (log.first, log.start, log.end) == (0, 0, len(log.data))
            assert (await client.call("manor_console_log", domain, -5, 100)).data == b"hello"
            assert (await client.call("manor_console_log", domain, 2, 4)).data == b"test"

    asyncio.run(scenario())


def test_who_may_write_to_a_console() -> None:
    consoles, place = Consoles(), (bytes(16), "")
    watcher = consoles.take(place, "ann", Mode.WATCH)
    first, second = (consoles.take(place, who, Mode.WRITE) for who in ("ann", "bob"))
    assert [seat.may_write for seat in (watcher, first, second)] == [False, True, True]
    with pytest.raises(ApiError, match="ann writes to this console; watch it, or take it over") as caught:
        consoles.take(place, "eve", Mode.ALONE)
    assert caught.value.code == Code.OPERATION_FAILED
    taken = consoles.take(place, "eve", Mode.TAKE_OVER)
    assert [seat.may_write for seat in (first, second, taken)] == [False, False, True]
    with pytest.raises(ApiError, match="eve writes"):
        consoles.take(place, "ann", Mode.WRITE)
    consoles.leave(taken)
    assert consoles.take(place, "ann", Mode.ALONE).may_write
    for seat in (watcher, first, second, second):
        consoles.leave(seat)
    assert consoles.take((bytes(16), "console1"), "bob", Mode.ALONE).may_write  # another device


def test_jobs_of_volumes_and_of_domains() -> None:
    async def scenario() -> None:
        async with desk() as client:
            pool = await client.call("storage_pool_lookup_by_name", "default-pool")
            number = await client.call("manor_volume_create_job", pool, VOLUME.format("a"), None, 0)
            job = await client.call("manor_job_wait", number, 10.0)
            assert (job.phase, job.who, job.subject) == ("done", "ann", "pool default-pool")
            volume = await client.call("storage_vol_lookup_by_name", pool, "a")
            copy = await client.call("storage_vol_create_xml_from", pool, VOLUME.format("b"), volume, 0)
            await client.call("storage_vol_resize", copy, 8192, 0)
            number = await client.call("manor_volume_wipe_job", copy)
            assert (await client.call("manor_job_wait", number, 10.0)).phase == "done"
            titles = [each.title for each in await client.call("manor_jobs")]
            assert titles == ["wipe b", "resize b", "copy a", "make a volume"]
            with pytest.raises(ApiError, match="is over: it is done"):
                await client.call("manor_job_cancel", number)
            with pytest.raises(ApiError, match="there is no job 12345"):
                await client.call("manor_job", 12345)
            domain = await client.call("domain_lookup_by_name", "test")
            assert (await client.call("domain_get_job_info", domain)).type == 0
            with pytest.raises(ApiError, match="no job is active on the domain"):
                await client.call("domain_abort_job", domain)

    asyncio.run(scenario())


def test_a_domains_job_is_seen_by_libvirts_clients() -> None:
    from manor.service.jobs import Job, Purpose

    async def scenario() -> None:
        async with desk() as client:
            domain = await client.call("domain_lookup_by_name", "test")

            async def save(job: Job) -> None:
                job.progress(1 << 20, 4 << 20)
                await asyncio.sleep(60)

            job = client.client.service.jobs.start(Purpose("save", "ann", "test", "it runs on", domain.uuid, 2), save)
            await asyncio.sleep(0.01)
            info = await client.call("domain_get_job_info", domain)
            assert (info.type, info.data_total, info.data_processed, info.file_remaining) == (
                1, 4 << 20, 1 << 20, 3 << 20
            )  # fmt: skip
            kind, params = await client.call("domain_get_job_stats", domain, 0)
            values = {each.field: each.value for each in params}
            assert (kind, values["operation"], values["data_total"]) == (1, 2, 4 << 20)
            assert (await client.call("domain_get_job_stats", domain, 1)).type == 0
            await client.call("domain_abort_job", domain)
            await job.over.wait()
            kind, params = await client.call("domain_get_job_stats", domain, 1)
            assert kind == 5
            assert {each.field: each.value for each in params}["success"] == 0
            assert (await client.call("domain_get_job_info", domain)).type == 0

    asyncio.run(scenario())


def test_statistics_over_time_of_a_domain() -> None:
    async def scenario() -> None:
        async with desk() as client:
            domain = await client.call("domain_lookup_by_name", "test")
            keeping = client.client.service.keeping
            await keeping.sample(watched_only=False)
            await asyncio.sleep(0.1)
            await keeping.sample(watched_only=False)
            found = await client.call("manor_statistics_history", domain, 0.0, 0.0, 10)
            assert found.step == 10
            assert len(found.times) == 1
            table = {each.name: each for each in found.series}
            assert table["memory"].unit == "KiB"
            assert table["cpu"].minimum[0] <= table["cpu"].mean[0] <= table["cpu"].maximum[0]
            fine = await client.call("manor_statistics_history", domain, time.time() - 60, 0.0, 1)
            assert (fine.step, list(fine.times)) == (1, [])
            await keeping.sample(watched_only=True)
            await asyncio.sleep(0.1)
            await keeping.sample(watched_only=True)
            fine = await client.call("manor_statistics_history", domain, time.time() - 60, 0.0, 1)
            assert len(fine.times) >= 1
            coarse = await client.call("manor_statistics_history", domain, 0.0, 0.0, 60)
            assert (coarse.step, len(coarse.times)) == (60, 1)
            with pytest.raises(ApiError, match="ends before it starts"):
                await client.call("manor_statistics_history", domain, 10.0, 5.0, 60)

    asyncio.run(scenario())


def test_snapshots_come_back_with_their_domain(tmp_path: Path) -> None:
    """With a driver that keeps them: descriptions of snapshots are in the state directory."""
    from manor.drivers.local import LocalDriver
    from manor.service.service import Service

    async def scenario() -> None:
        service = Service({"manor:///session": lambda notify: LocalDriver(tmp_path, notify, "manor:///session", "dbt")},
                          "manor:///session", tmp_path)  # fmt: skip
        await service.start()
        client = Desk(service, "ann")
        await client.call("connect_open", None, 0)
        text = DOMAIN.format("web1", "").replace("'test'", "'qemu'").replace("</os>", "<kernel>/k</kernel></os>")
        domain = await client.call("domain_define_xml", text)
        for name in ("first", "second"):
            await client.call(
                "domain_snapshot_create_xml", domain, f"<domainsnapshot><name>{name}</name></domainsnapshot>", 0
            )
        await client.call("domain_undefine_flags", domain, 2)
        (entry,) = await client.call("manor_trash")
        await client.call("manor_trash_restore", entry.id)
        found = await client.call("domain_list_all_snapshots", domain, 1, 0)
        assert {each.name for each in found.snapshots} == {"first", "second"}
        await service.close()

    asyncio.run(scenario())
