"""Documents that are almost right, through the procedures that take XML: an error in words or success, and soon."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manor.base.errors import ApiError, ManorError
from manor.drivers.errors import Code
from manor.drivers.memory import MemoryDriver
from manor.drivers.processes import Processes
from manor.rpc.message import Call
from manor.rpc.protocol.catalog import REMOTE
from manor.service.client import Client
from manor.service.dispatch import handle, translate
from manor.service.service import Service
from tests.unit.domain.documents import ALL, kind

SECONDS = 5.0
"""For any document; the machine of a test may be busy."""
WEIRD = (
    "", " ", "0", "-1", "1", "1e9", "18446744073709551616", "999999999999999999999999999999", "yes", "no", "None",
    "../../etc/passwd", "/dev/zero", "a" * 300, "\u00e4\u4e2d\U0001f600", "%s%n", "&amp;", "0x7fffffff", "1.5", "\t\n",
    "file", "network", "virtio", "kvm", "test", "52:54:00:00:00:00", "ff:ff:ff:ff:ff:ff", "::1", "10.0.0.1", "/",
)  # fmt: skip
DOCUMENTS = {path.stem: path.read_text("utf-8") for path in ALL}


@st.composite
def mutated(draw: st.DrawFn, text: str) -> str:
    """A document with a few changes in its tree, and sometimes in its text."""
    root = ElementTree.fromstring(text)
    for _ in range(draw(st.integers(1, 4))):
        elements = list(root.iter())
        parents = {child: parent for parent in elements for child in parent}
        one = draw(st.sampled_from(elements))
        match draw(st.sampled_from(("remove", "double", "text", "attribute", "drop", "strange", "move"))):
            case "remove" if one is not root:
                parents[one].remove(one)
            case "double" if one is not root:
                parents[one].append(one)
            case "text":
                one.text = draw(st.sampled_from(WEIRD) | st.text(st.characters(min_codepoint=32), max_size=8))
            case "attribute" if one.attrib:
                one.set(draw(st.sampled_from(sorted(one.attrib))), draw(st.sampled_from(WEIRD)))
            case "drop" if one.attrib:
                del one.attrib[draw(st.sampled_from(sorted(one.attrib)))]
            case "strange":
                ElementTree.SubElement(one, draw(st.sampled_from(("x", one.tag, "source", "target", "address"))))
            case "move" if one is not root:
                other = draw(st.sampled_from(elements))
                if one not in list(other.iter()) and other not in list(one.iter()):
                    parents[one].remove(one)
                    other.append(one)
    data = ElementTree.tostring(root, "unicode")
    if draw(st.integers(0, 4)) == 0:
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(st.sampled_from(("", "<", "]]>", "<!--", "<!DOCTYPE a>", "&x;", "\x01", ">"))) + data[
            at + draw(st.integers(0, 30)) :
        ]  # fmt: skip
    return data


async def call(driver: MemoryDriver, name: str, *arguments: Any) -> Any:
    """A procedure, as a client's call reaches it. Raises ApiError."""
    procedure = REMOTE[name]
    values = procedure.decode_arguments(bytes(procedure.encode_arguments(arguments)))
    session: Any = SimpleNamespace()
    session.state = Client(Service({}, "test:///default"), session, "test", opened=driver)
    result = handle(session, Call(1, procedure, values))
    result = await result if asyncio.iscoroutine(result) else result
    procedure.encode_result(getattr(result, "value", result))
    return result


async def tolerant(driver: MemoryDriver, name: str, *arguments: Any) -> Any:
    """The same; an error is as good as a result, unless it is one of Manor's own."""
    begin = time.monotonic()
    result, refusal = None, None
    try:
        result = await call(driver, name, *arguments)
    except ApiError as error:
        refusal = error
    assert time.monotonic() - begin < SECONDS
    if refusal is not None:
        assert refusal.code != Code.INTERNAL_ERROR, refusal
        assert 0 < len(refusal.message.strip()) < 20_000
    return result


async def domain(driver: MemoryDriver, xml: str) -> None:
    found = await tolerant(driver, "domain_define_xml", xml)
    if found is not None:
        text = await call(driver, "domain_get_xml_desc", found, 0)
        assert await call(driver, "domain_define_xml", text) == found  # what it shows can be defined again
        assert await call(driver, "domain_get_xml_desc", found, 0) == text
        if await tolerant(driver, "domain_create", found) is None:
            running = await tolerant(driver, "domain_lookup_by_uuid", found.uuid)
            if running is not None and running.id >= 0:
                await call(driver, "domain_get_xml_desc", running, 0)
                await tolerant(driver, "domain_destroy", running)
        await tolerant(driver, "domain_undefine", found)


async def network(driver: MemoryDriver, xml: str) -> None:
    found = await tolerant(driver, "network_define_xml", xml)
    if found is not None:
        text = await call(driver, "network_get_xml_desc", found, 0)
        assert await call(driver, "network_define_xml", text) == found
        await tolerant(driver, "network_create", found)


async def pool(driver: MemoryDriver, xml: str) -> None:
    found = await tolerant(driver, "storage_pool_define_xml", xml, 0)
    if found is not None:
        text = await call(driver, "storage_pool_get_xml_desc", found, 0)
        assert await call(driver, "storage_pool_define_xml", text, 0) == found


async def volume(driver: MemoryDriver, xml: str) -> None:
    where = await call(driver, "storage_pool_lookup_by_name", "default-pool")
    found = await tolerant(driver, "storage_vol_create_xml", where, xml, 0)
    if found is not None:
        assert await call(driver, "storage_vol_get_xml_desc", found, 0)


async def snapshot(driver: MemoryDriver, xml: str) -> None:
    test = await call(driver, "domain_lookup_by_name", "test")
    found = await tolerant(driver, "domain_snapshot_create_xml", test, xml, 0)
    if found is not None:
        assert await call(driver, "domain_snapshot_get_xml_desc", found, 0)


WAYS: dict[str, Callable[[MemoryDriver, str], Any]] = {
    "domain": domain, "network": network, "pool": pool, "volume": volume, "domainsnapshot": snapshot,
}  # fmt: skip


def run(work: Callable[[MemoryDriver], Any]) -> None:
    async def main() -> None:
        driver = MemoryDriver(lambda _: None)
        await driver.start()
        await work(driver)
        await driver.close()

    asyncio.run(main())


@pytest.mark.parametrize("stem", [stem for stem in DOCUMENTS if kind(Path(stem)) in WAYS])
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_changed_document_is_taken_or_refused_in_words(stem: str, data: st.DataObject) -> None:
    xml = data.draw(mutated(DOCUMENTS[stem]))
    way = WAYS[kind(Path(stem))]
    run(lambda driver: way(driver, xml))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(xml=st.sampled_from([stem for stem in DOCUMENTS if kind(Path(stem)) == "domain"]).flatmap(
    lambda stem: mutated(DOCUMENTS[stem])))  # fmt: skip
def test_what_our_own_machine_makes_of_it(xml: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The checks of the driver that starts real machines; nothing is started."""
    from manor.domain.definition import complete

    processes = Processes(tmp_path_factory.getbasetemp(), "dbt")
    begin = time.monotonic()
    refusal: ManorError | None = None
    try:
        processes.check(complete(xml, processes.platform))
    except ManorError as error:
        refusal = error
    assert refusal is None or translate(refusal).code != Code.INTERNAL_ERROR
    assert time.monotonic() - begin < SECONDS


@pytest.mark.parametrize(
    "xml",
    [
        "<domain>" * 60_000,
        "<domain type='test'>" + "<x/>" * 190_000 + "</domain>",
        "<domain type='test'><name>" + "x" * 3_000_000 + "</name><memory>65536</memory></domain>",
        "<domain type='test' " + " ".join(f"a{n}='1'" for n in range(100_000)) + "/>",
        "<domain type='test'><name>a</name><memory>65536</memory><devices>" + "<disk><target dev='v'/></disk>" * 40_000
        + "</devices></domain>",
        "<!DOCTYPE a [<!ENTITY b 'bbbbbbbb'><!ENTITY c '&b;&b;&b;&b;'>]><domain>&c;</domain>",
    ],
    ids=["deep", "wide", "long name", "attributes", "disks", "entities"],
)  # fmt: skip
def test_a_document_that_is_too_much_is_refused_soon(xml: str) -> None:
    run(lambda driver: domain(driver, xml))
