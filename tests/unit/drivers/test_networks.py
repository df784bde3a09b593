"""Networks: descriptions that are completed, checked, and used by those who attach guests."""

from __future__ import annotations

import asyncio
import uuid as uuid_module
from collections.abc import Awaitable, Callable

import pytest

from manor.base.errors import ApiError
from manor.domain.xml import network as network_xml
from manor.drivers.api import Kind, Notice
from manor.drivers.keeper import MemoryKeeper
from manor.drivers.networks import NetworkBook

IP = "<ip address='10.9.0.1' netmask='255.255.255.0'>{}</ip>"


def run(scenario: Callable[[NetworkBook], Awaitable[None]], with_default: bool = False) -> list[Notice]:
    told: list[Notice] = []

    async def work() -> None:
        keeper = MemoryKeeper()
        await keeper.open()
        book = NetworkBook(keeper, told.append)
        await book.open(with_default)
        await scenario(book)
        await keeper.close()

    asyncio.run(work())
    return told


def test_a_new_driver_has_a_network_that_needs_no_rights() -> None:
    async def scenario(book: NetworkBook) -> None:
        found = await book.find_name("default")
        flags = await book.flags(found.uuid)
        assert (flags.active, flags.persistent, flags.autostart) == (True, True, True)
        assert book.network("default").forward == "nat"
        assert (await book.bridge(found.uuid)).startswith("virm")

    run(scenario, with_default=True)


@pytest.mark.parametrize(
    ("inside", "forward"),
    [("", None), ("<forward/>", "nat"), ("<forward mode='nat'/>", "nat"), ("<forward dev='eth0'/>", "nat"),
     ("<forward mode='bridge'/><bridge name='br0'/>", "bridge")],
)  # fmt: skip
def test_how_guests_reach_the_world(inside: str, forward: str | None) -> None:
    async def scenario(book: NetworkBook) -> None:
        await book.create_xml(f"<network><name>n</name>{inside}</network>")
        assert book.network("n").forward == forward
        assert (book.network("n").bridge == "br0") == (forward == "bridge")

    run(scenario)


def test_life_of_a_network() -> None:
    async def scenario(book: NetworkBook) -> None:
        made = await book.define("<network connections='4'><name>lan</name></network>", "ann")
        assert network_xml.parse(await book.xml(made.uuid)).connections is None
        with pytest.raises(ApiError, match="network 'lan' is not active"):
            book.network("lan")
        await book.start(made.uuid)
        with pytest.raises(ApiError, match="already active"):
            await book.start(made.uuid)
        text = (await book.xml(made.uuid)).replace("</network>", f"{IP.format('')}</network>")
        await book.define(text, "ann")
        assert book.network("lan").ips[0].address == "10.9.0.1"
        await book.set_autostart(made.uuid, True)
        await book.stop(made.uuid)
        await book.undefine(made.uuid, "ann")
        with pytest.raises(ApiError, match="no network with matching name 'lan'"):
            await book.find_name("lan")
        gone = await book.create_xml("<network><name>gone</name></network>")
        with pytest.raises(ApiError, match="transient"):
            await book.set_autostart(gone.uuid, True)
        await book.stop(gone.uuid)
        assert await book.all() == []

    told = run(scenario)
    assert [one.values[0] for one in told if one.kind is Kind.NETWORK] == [0, 2, 0, 3, 1, 2, 3]


def test_names_and_uuids_are_unique() -> None:
    async def scenario(book: NetworkBook) -> None:
        made = await book.define("<network><name>lan</name></network>", "ann")
        with pytest.raises(ApiError, match="network 'lan' already exists with uuid"):
            await book.define("<network><name>lan</name></network>", "ann")
        same = f"<network><name>wan</name><uuid>{uuid_module.UUID(bytes=made.uuid)}</uuid></network>"
        with pytest.raises(ApiError, match="network 'lan' already exists with uuid"):
            await book.create_xml(same)

    run(scenario)


@pytest.mark.parametrize(
    ("inside", "code", "words"),
    [
        ("<forward mode='route'/>", 67, "network/forward/@mode: no route to guests is made; write mode='nat'"),
        ("<forward mode='sideways'/>", 27, "'sideways' is unknown"),
        ("<ip address='10.9.0.1' netmask='255.0.255.0'/>", 27, "network/ip"),
        ("<ip address='x'/>", 27, "'x' is not an IP address"),
        (IP.format("<dhcp><range start='10.8.0.2' end='10.9.0.9'/></dhcp>"), 27,
         "network/ip/dhcp/range/@start: 10.8.0.2 is not in the network 10.9.0.0/24"),
        (IP.format("<dhcp><host mac='52:54:00:00:00:01' ip='10.8.0.2'/></dhcp>"), 27, "10.8.0.2 is not in the network"),
        ("<vlan/>", 67, "frames are not tagged"),
        ("<!DOCTYPE x>", 27, "line 1"),
    ],
)  # fmt: skip
def test_what_is_refused(inside: str, code: int, words: str) -> None:
    async def scenario(book: NetworkBook) -> None:
        with pytest.raises(ApiError) as caught:
            await book.define(f"<network><name>n</name>{inside}</network>", "ann")
        assert caught.value.code == code
        assert words in caught.value.message

    run(scenario)


def test_a_network_is_changed_in_place_but_not_into_another() -> None:
    async def scenario(book: NetworkBook) -> None:
        made = await book.define("<network><name>lan</name></network>", "ann")
        await book.start(made.uuid)
        await book.edit(made.uuid, lambda text: text.replace("</network>", f"{IP.format('')}</network>"), "ann")
        assert book.network("lan").ips[0].address == "10.9.0.1"
        with pytest.raises(ApiError, match="name and UUID"):
            await book.edit(made.uuid, lambda text: text.replace(">lan<", ">wan<"), "ann")

    run(scenario)


def test_a_bridge_of_the_host_has_to_be_named() -> None:
    async def scenario(book: NetworkBook) -> None:
        made = await book.create_xml(
            "<network><name>n</name><forward mode='bridge'><interface dev='eth0'/></forward></network>"
        )
        with pytest.raises(ApiError, match="does not have a bridge name"):
            await book.bridge(made.uuid)

    run(scenario)
