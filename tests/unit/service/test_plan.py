"""A plan is what happens: each planned change is made, and compared with what was said."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from manor.base.errors import ApiError
from manor.domain.xml import reader, tree
from manor.domain.xml.changes import differences
from manor.domain.xml.domain import Domain
from manor.rpc.protocol.catalog import REMOTE
from manor.rpc.protocol.own_records import Plan
from tests.unit.service.desk import Desk, desk

LIVE, CONFIG, MAXIMUM = 1, 2, 4
DISK = "<disk type='file' device='disk'><source file='/new'/><target dev='vdb' bus='virtio'/></disk>"
NIC = "<interface type='network'><mac address='52:54:00:00:00:07'/><source network='default'/></interface>"
OLD_DISK = "<disk type='file'><source file='/guest/diskimage1'/><target dev='vda' bus='virtio'/></disk>"
CHANGED_DISK = (
    "<disk type='file' device='disk'><source file='/guest/other'/><target dev='vda' bus='virtio'/></disk>"
)

CHANGES: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("domain_set_vcpus_flags", (1, CONFIG)),
    ("domain_set_vcpus_flags", (4, CONFIG | MAXIMUM)),
    ("domain_set_vcpus_flags", (1, LIVE)),
    ("domain_set_vcpus_flags", (99, CONFIG)),
    ("domain_set_memory", (1 << 20,)),
    ("domain_set_memory_flags", (1 << 20, LIVE)),
    ("domain_set_memory_flags", (1 << 20, CONFIG)),
    ("domain_set_memory_flags", (1 << 20, LIVE | CONFIG)),
    ("domain_set_memory_flags", (1 << 24, CONFIG)),
    ("domain_set_max_memory", (1 << 22,)),
    ("domain_attach_device_flags", (DISK, LIVE)),
    ("domain_attach_device_flags", (DISK, CONFIG)),
    ("domain_attach_device_flags", (DISK, LIVE | CONFIG)),
    ("domain_attach_device_flags", (NIC, CONFIG)),
    ("domain_attach_device", (OLD_DISK,)),
    ("domain_detach_device_flags", (OLD_DISK, CONFIG)),
    ("domain_detach_device_flags", (DISK, CONFIG)),
    ("domain_update_device_flags", (CHANGED_DISK, CONFIG)),
    ("domain_update_device_flags", (CHANGED_DISK, LIVE)),
    ("domain_set_metadata", (0, "a text", None, None, LIVE)),
    ("domain_set_metadata", (0, "a text", None, None, LIVE | CONFIG)),
    ("domain_set_metadata", (1, "a title", None, None, CONFIG)),
    ("domain_set_metadata", (2, "<a/>", "k", "urn:x", CONFIG)),
    ("domain_rename", ("other", 0)),
    ("domain_set_autostart", (1,)),
    ("domain_undefine", ()),
)


def read(text: str) -> Domain:
    return reader.read_element(Domain, tree.read(text, "domain"), "domain")


async def state(client: Desk, domain: Any) -> tuple[str | None, str | None, int]:
    """(config, live, autostart) as any client sees them."""
    try:
        persistent = await client.call("domain_is_persistent", domain)
        active = await client.call("domain_is_active", domain)
    except ApiError:
        return None, None, 0
    return (
        await client.call("domain_get_xml_desc", domain, 3) if persistent else None,
        await client.call("domain_get_xml_desc", domain, 1) if active else None,
        await client.call("domain_get_autostart", domain),
    )


async def planned(client: Desk, name: str, *arguments: Any) -> Plan:
    procedure = REMOTE[name]
    found: Plan = await client.call(
        "manor_plan", procedure.number, bytes(procedure.encode_arguments(arguments))
    )
    return found


async def refusal(client: Desk, name: str, *arguments: Any) -> ApiError | None:
    """Make a change; why it was refused."""
    try:
        await client.call(name, *arguments)
    except ApiError as error:
        return error
    return None


def changed(before: str | None, after: str | None) -> set[tuple[str, str | None]]:
    if before is None or after is None:
        return set() if before == after else {("domain", None if after is None else "test")}
    return {(each.path, each.after) for each in differences(read(before), read(after))}


@pytest.mark.parametrize("is_running", [True, False], ids=["running", "off"])
@pytest.mark.parametrize(("name", "arguments"), CHANGES, ids=[f"{n[7:]}-{i}" for i, (n, _) in enumerate(CHANGES)])
def test_what_was_planned_happens(name: str, arguments: tuple[Any, ...], is_running: bool) -> None:
    async def scenario() -> None:
        async with desk() as client:
            domain = await client.call("domain_lookup_by_name", "test")
            if not is_running:
                await client.call("domain_destroy", domain)
            before = await state(client, domain)
            plan = await planned(client, name, domain, *arguments)
            assert await state(client, domain) == before  # nothing was done
            error = await refusal(client, name, domain, *arguments)
            assert (plan.problem is None) == (error is None)
            if plan.problem is not None:
                assert plan.problem.cause in str(error)
                assert {item.when for item in plan.items} <= {"off"}
                assert await state(client, domain) == before
                if plan.items:
                    await refused_until_it_is_off(client, domain, name, arguments, plan)
                return
            after = await state(client, domain)
            live, config = changed(before[1], after[1]), changed(before[0], after[0])
            said = {when: {(item.path, item.new) for item in plan.items if item.when == when}
                    for when in ("live", "boot")}  # fmt: skip
            autostart = {("autostart", "yes")} if before[2] != after[2] else set()
            assert said["live"] == live
            assert said["boot"] == (config | autostart) - live
            assert said["live"] | said["boot"]  # each of these changes something
            assert bool(plan.config_diff) == (before[0] != after[0])
            assert bool(plan.live_diff) == (before[1] != after[1])

    asyncio.run(scenario())


async def refused_until_it_is_off(
    client: Desk, domain: Any, name: str, arguments: tuple[Any, ...], plan: Plan
) -> None:
    await client.call("domain_destroy", domain)
    before = await state(client, domain)
    await client.call(name, domain, *arguments)
    after = await state(client, domain)
    assert {(item.path, item.new) for item in plan.items} == changed(before[0], after[0])


@pytest.mark.parametrize("is_running", [True, False], ids=["running", "off"])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (">2</vcpu>", ">4</vcpu>"),
        ("/guest/diskimage1", "/guest/diskimage2"),
        ("<name>test<", "<name>other<"),
        (">2</vcpu>", ">900</vcpu>"),
        ("<devices>", "<devices><nonsense/>"),
        ("8388608", "4194304"),
        ("</domain>", "</domainx>"),
    ],
)
def test_an_edited_definition(old: str, new: str, is_running: bool) -> None:
    async def scenario() -> None:
        async with desk() as client:
            domain = await client.call("domain_lookup_by_name", "test")
            if not is_running:
                await client.call("domain_destroy", domain)
            before = await state(client, domain)
            assert before[0] is not None
            assert old in before[0]
            text = before[0].replace(old, new)
            plan = await planned(client, "domain_define_xml", text)
            assert await state(client, domain) == before
            error = await refusal(client, "domain_define_xml", text)
            assert (plan.problem is None) == (error is None)
            if plan.problem is not None:
                assert plan.problem.cause in str(error)
                return
            after = await state(client, domain)
            assert after[1] == before[1]  # what runs goes on
            assert {(item.path, item.new) for item in plan.items} == changed(before[0], after[0])
            assert {item.when for item in plan.items} == {"boot"}
            assert all(bool(item.why) == is_running for item in plan.items)
            assert plan.config_diff.startswith("--- before\n+++ after\n")
            assert plan.live_diff == ""

    asyncio.run(scenario())


def test_a_new_definition_and_what_is_no_change() -> None:
    async def scenario() -> None:
        async with desk() as client:
            text = "<domain type='test'><name>n</name><memory>65536</memory><os><type>hvm</type></os></domain>"
            plan = await planned(client, "domain_define_xml", text)
            assert [(item.path, item.old, item.new, item.when) for item in plan.items] == [
                ("domain", None, "n", "boot")
            ]
            with pytest.raises(ApiError, match="no domain"):
                await client.call("domain_lookup_by_name", "n")
            domain = await client.call("domain_lookup_by_name", "test")
            for name, arguments in (("domain_create", (domain,)), ("domain_get_info", (domain,))):
                with pytest.raises(ApiError, match="there is nothing to plan"):
                    await planned(client, name, *arguments)
            with pytest.raises(ApiError, match="no procedure 99999"):
                await client.call("manor_plan", 99999, b"")
            with pytest.raises(ApiError, match="too short"):
                await client.call("manor_plan", REMOTE["domain_set_memory"].number, b"")
            same = await client.call("domain_get_xml_desc", domain, 3)
            assert (await planned(client, "domain_define_xml", same)).items == []
            gone = domain._replace(uuid=b"x" * 16)
            with pytest.raises(ApiError, match="no domain with matching uuid"):
                await planned(client, "domain_set_memory", gone, 1 << 20)
            events = (await client.call("manor_events", 0, 1000)).events
            assert not [each for each in events if each.kind == "metadata"]

    asyncio.run(scenario())
