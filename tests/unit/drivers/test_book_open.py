"""What a daemon reads at its start: its own words quickly, everyone else's with care."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from manor.domain.definition import complete, definition_of, read_kept, recall
from manor.drivers.domains import book
from manor.drivers.domains.book import DomainBook
from manor.drivers.keeper import StoreKeeper
from manor.drivers.memory import MemoryHypervisor
from manor.drivers.store import Store
from tests.unit.domain.documents import ALL, kind

PLATFORM = MemoryHypervisor().platform
UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"
SMALL = (
    f"<domain type='test'><name>a</name><uuid>{UUID}</uuid><memory unit='MiB'>64</memory>"
    f"<os><type>hvm</type></os></domain>"
)


@pytest.mark.parametrize("path", [path for path in ALL if kind(path) == "domain"], ids=lambda path: path.stem)
def test_what_is_recalled_is_what_reading_gives(path: Path) -> None:
    written = definition_of(complete(path.read_text("utf-8"), PLATFORM))
    assert recall(written.text) == written == read_kept(written.text, PLATFORM)


@pytest.mark.parametrize(
    "text",
    ["", "<domain/>", "<network/>", "<domain", SMALL, SMALL.replace("64", "much"), SMALL.replace(UUID, "none")],
)
def test_what_nobody_here_has_written_is_not_recalled(text: str) -> None:
    assert recall(text) is None


def opened(root: Path, work: Callable[[DomainBook], Any]) -> Any:
    async def main() -> Any:
        keeper = StoreKeeper(Store(root))
        await keeper.open()
        try:
            domains = DomainBook(MemoryHypervisor(), keeper, lambda _: None)
            await domains.open()
            return await work(domains)
        finally:
            await keeper.close()

    return asyncio.run(main())


async def text_of(domains: DomainBook) -> str:
    ((domain, _),) = await domains.all()
    return await domains.xml(domain.uuid, False, True)


@pytest.fixture
def read_with_care(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Documents that were not recalled."""
    seen: list[str] = []

    def note(text: str, platform: Any) -> Any:
        seen.append(text)
        return read_kept(text, platform)

    monkeypatch.setattr(book, "read_kept", note)
    return seen


def test_own_words_are_recalled(tmp_path: Path, read_with_care: list[str]) -> None:
    opened(tmp_path, lambda domains: domains.define(SMALL, "t"))
    assert "<currentMemory unit='KiB'>65536</currentMemory>" in opened(tmp_path, text_of)
    assert read_with_care == []


def test_a_users_words_are_read_with_care_and_left_as_they_are(tmp_path: Path, read_with_care: list[str]) -> None:
    opened(tmp_path, lambda domains: domains.define(SMALL, "t"))
    path = tmp_path / "domains" / "a.xml"
    path.write_text(SMALL)
    assert "<currentMemory unit='KiB'>65536</currentMemory>" in opened(tmp_path, text_of)
    assert read_with_care == [SMALL]
    assert path.read_text() == SMALL


def test_words_of_another_version_are_brought_up_to_date(tmp_path: Path, read_with_care: list[str]) -> None:
    opened(tmp_path, lambda domains: domains.define(SMALL, "t"))
    path = tmp_path / "domains" / "a.xml"
    new = path.read_text()

    def as_the_other_wrote_it() -> None:
        """It knew no <currentMemory>."""
        old = new.replace("  <currentMemory unit='KiB'>65536</currentMemory>\n", "")
        assert old != new
        store = Store(tmp_path)
        store.open()
        from uuid import UUID as Uuid

        store.save("domains", Uuid(UUID).bytes, "a", old, "t")
        store.close()
        (tmp_path / "format").write_text("1 0.0.1\n")

    as_the_other_wrote_it()
    assert opened(tmp_path, text_of) == new
    assert len(read_with_care) == 1
    assert path.read_text() == new
    assert opened(tmp_path, text_of) == new
    assert len(read_with_care) == 1  # and is recalled from then on
