"""The host's clock is set, forwards and back, while the daemon runs: order and numbers do not depend on it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest

from manor.drivers.api import Kind, Notice
from manor.drivers.store import Store
from manor.rpc.protocol.records import Domain
from manor.service.events import EventHub
from manor.service.jobs import Job, Jobs, Phase, Purpose
from manor.service.journal import Journal

YEAR = 365 * 24 * 3600.0
ONE = UUID(int=1)


@pytest.fixture
def jump(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Set the clock by so many seconds, from now on."""
    real = time.time
    offset = 0.0

    def by(seconds: float) -> None:
        nonlocal offset
        offset += seconds

    monkeypatch.setattr(time, "time", lambda: real() + offset)
    return by


def xml(memory: int) -> str:
    return f"<domain type='kvm'>\n  <name>a</name>\n  <uuid>{ONE}</uuid>\n  <memory>{memory}</memory>\n</domain>\n"


@pytest.mark.parametrize("seconds", [YEAR, -YEAR])
def test_events_are_in_the_order_in_which_they_came(jump: Callable[[float], None], seconds: float) -> None:
    hub = EventHub(Journal())
    for _ in range(3):
        hub.publish("u", Notice(Kind.LIFECYCLE, Domain("a", ONE.bytes, 1), (2, 0)))
        jump(seconds)
    is_whole, entries = hub.journal.since(1, 9)
    assert is_whole
    assert [entry.sequence for entry in entries] == [2, 3]


@pytest.mark.parametrize("seconds", [YEAR, -YEAR])
def test_a_job_has_no_rate_below_zero(jump: Callable[[float], None], seconds: float) -> None:
    async def main() -> Job:
        async def work(job: Job) -> None:
            job.progress(1 << 20, 1 << 21)
            jump(seconds)
            assert job.rate >= 0

        job = Jobs(EventHub(Journal())).start(Purpose("copy", "ann", "a", "nothing"), work)
        await job.over.wait()
        return job

    job = asyncio.run(main())
    assert job.phase is Phase.DONE
    assert job.rate >= 0


def test_revisions_and_trash_keep_their_order(jump: Callable[[float], None], tmp_path: Path) -> None:
    store = Store(tmp_path / "state")
    store.open()
    for memory in (1, 2, 3):
        store.save("domains", ONE.bytes, "a", xml(memory), "t")
        jump(-YEAR)
    store.remove("domains", ONE.bytes, "a", xml(3), "t")
    jump(-YEAR)
    store.save("domains", ONE.bytes, "a", xml(4), "t")
    store.remove("domains", ONE.bytes, "a", xml(4), "t")
    store.close()
    store.open()
    assert [each.xml for each in store.archive.revisions("domains", str(ONE))] == [xml(n) for n in (1, 2, 3, 4)]
    assert [each.xml for each in store.archive.trash()] == [xml(4), xml(3)]
    assert store.archive.expired(time.time()) == []
    store.close()
