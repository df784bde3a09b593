"""What the faces share: events, jobs, history, plans, the error object."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from manor.base.errors import ApiError, ConfigError, HostError
from manor.domain.xml.changes import When
from manor.drivers.api import Kind, Notice
from manor.drivers.memory import MemoryDriver
from manor.rpc.protocol.catalog import REMOTE
from manor.rpc.protocol.records import Domain, Network, Secret
from manor.service.dispatch import PROCEDURES, translate
from manor.service.events import KEPT, EventHub
from manor.service.history import COARSE, FINE, History, Sample, Series
from manor.service.jobs import Job, Jobs, Phase
from manor.service.plan import plan
from manor.service.problem import problem_of

DOMAIN = Domain("web1", bytes(16), 3)


class Listener:
    """In a session's place."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, tuple[Any, ...]]] = []

    def send_event(self, procedure: Any, *arguments: Any) -> None:
        procedure.encode_arguments(arguments)  # it has to fit the wire
        self.sent.append((procedure.name, arguments))


def notice(event: int = 2, uuid: bytes = bytes(16)) -> Notice:
    return Notice(Kind.LIFECYCLE, Domain("web1", uuid, 3), (event, 0))


def test_events_go_to_who_asked_for_them() -> None:
    hub, everything, one, old, other = EventHub(), Listener(), Listener(), Listener(), Listener()
    first = hub.register(everything, "u", "domain", 0, None)  # type: ignore[arg-type]
    hub.register(one, "u", "domain", 0, b"x" * 16)  # type: ignore[arg-type]
    hub.register(old, "u", "domain", 0, None, is_old=True)  # type: ignore[arg-type]
    hub.register(other, "v", "domain", 0, None)  # type: ignore[arg-type]
    hub.publish("u", notice())
    assert everything.sent == [("domain_event_callback_lifecycle", (first, DOMAIN, 2, 0))]
    assert old.sent == [("domain_event_lifecycle", (DOMAIN, 2, 0))]
    assert one.sent == other.sent == []
    hub.deregister(everything, "domain", first)  # type: ignore[arg-type]
    hub.forget(old)  # type: ignore[arg-type]
    hub.publish("u", notice())
    assert (len(everything.sent), len(old.sent)) == (1, 1)
    with pytest.raises(ApiError, match="not registered"):
        hub.deregister(everything, "domain", first)  # type: ignore[arg-type]
    with pytest.raises(ApiError, match="unsupported event ID 99"):
        hub.register(one, "u", "domain", 99, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_of_notice_fits_the_wire(kind: Kind) -> None:
    values: dict[Kind, tuple[object, ...]] = {
        Kind.LIFECYCLE: (2, 0), Kind.BALLOON: (1 << 20,), Kind.DEVICE_ADDED: ("disk0",),
        Kind.DEVICE_REMOVED: ("disk0",), Kind.DEVICE_REMOVAL_FAILED: ("disk0",), Kind.METADATA: (1, None),
        Kind.AGENT: (1, 1), Kind.NETWORK: (2, 0), Kind.POOL: (2, 0), Kind.SECRET: (0, 0),
    }  # fmt: skip
    hub, listener = EventHub(), Listener()
    for name, count in (("domain", 27), ("network", 2), ("pool", 2), ("secret", 2)):
        for event in range(count):
            hub.register(listener, "u", name, event, None)  # type: ignore[arg-type]
    subject: Any = Network("x", bytes(16)) if kind in (Kind.NETWORK, Kind.POOL, Kind.POOL_REFRESH) else DOMAIN
    if kind in (Kind.SECRET, Kind.SECRET_VALUE):
        subject = Secret(bytes(16), 2, "client.x")
    hub.publish("u", Notice(kind, subject, values.get(kind, ())))
    assert len(listener.sent) == 1


def test_who_was_away_resumes_or_is_told_that_too_much_is_gone() -> None:
    hub = EventHub()
    for _ in range(5):
        hub.publish("u", notice())
    is_whole, entries = hub.since(3)
    assert is_whole
    assert [entry.sequence for entry in entries] == [4, 5]
    assert hub.since(5)[0]
    for _ in range(KEPT):
        hub.publish("u", notice())
    is_whole, entries = hub.since(3)
    assert not is_whole
    assert next(entries).sequence == 6


def test_jobs_outlive_whoever_waits_and_can_be_cancelled() -> None:
    async def scenario() -> None:
        jobs = Jobs()

        async def copy(job: Job) -> None:
            job.progress(5, 10, "copying")
            await asyncio.sleep(30)

        async def fail(job: Job) -> None:
            raise HostError("the disk is full; free some space", 28, "/x")

        job, task = jobs.start("copy", "ann", "v", "nothing", copy)
        await asyncio.sleep(0)
        assert (job.phase, job.done, job.total, job.step) == (Phase.RUNNING, 5, 10, "copying")
        assert jobs.cancel(job.id)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert job.phase is Phase.CANCELLED
        assert not jobs.cancel(job.id)
        failed, task = jobs.start("fail", "ann", "v", "nothing", fail)
        with pytest.raises(HostError):
            await task
        assert failed.problem is not None
        assert failed.problem.fix == ("free some space",)
        assert [each.id for each in jobs.all()] == [failed.id, job.id]

    asyncio.run(scenario())


def test_history_is_bounded_and_gives_rates() -> None:
    series = Series()
    for second in range(0, 5 * (FINE + 5000), 5):
        series.add(Sample(float(second), {"cpu": second * 2.0}))
    kept = series.between(0.0, 1e9)
    assert len(kept) <= FINE + COARSE
    assert [each.time for each in kept] == sorted(each.time for each in kept)
    assert series.rate("cpu", 60.0) == pytest.approx(2.0)
    assert series.rate("nothing", 60.0) is None
    history = History()
    history.add(b"a", Sample(1.0, {}))
    history.forget(b"a")
    assert history.get(b"a") is None


def test_a_plan_says_what_would_happen_and_when() -> None:
    async def scenario() -> None:
        driver = MemoryDriver(lambda _: None)
        await driver.start()
        domain = await driver.domains.find_name("test")
        xml = await driver.domains.xml(domain.uuid, True, True)
        changed = xml.replace(">2</vcpu>", ">4</vcpu>").replace("diskimage1", "diskimage2")
        found = await plan(driver, domain.uuid, changed)
        items = {item.path: (item.old, item.new, item.when) for item in found.items}
        assert items == {
            "domain/vcpu": ("2", "4", When.NEXT_BOOT),
            "domain/devices/disk[vda]/source/@file": ("/guest/diskimage1", "/guest/diskimage2", When.NEXT_BOOT),
        }
        assert "+  <vcpu placement='static'>4</vcpu>" in found.diff
        await driver.domains.destroy(domain.uuid, False)
        renamed = await plan(driver, domain.uuid, xml.replace("<name>test<", "<name>other<"))
        assert [(item.path, item.when) for item in renamed.items] == [("domain/name", When.REFUSED)]
        other = await plan(driver, domain.uuid, xml.replace("<uuid>6695eb01", "<uuid>6695eb02"))
        assert other.problem is not None
        broken = await plan(driver, domain.uuid, xml.replace("<vcpu placement='static'>2", "<vcpu>900"))
        assert broken.problem is not None
        assert "900 vCPUs" in broken.problem.cause
        assert (await plan(driver, domain.uuid, xml)).items == ()
        await driver.close()

    asyncio.run(scenario())


def test_errors_become_one_object_and_libvirts_numbers() -> None:
    problem = problem_of(ApiError(55, 20, "Requested operation is not valid: domain is not running; start it first"))
    assert problem.as_dict() == {
        "code": 55, "title": "The state does not allow it", "cause": "domain is not running",
        "fix": ["start it first"], "evidence": [], "docs": "",
    }  # fmt: skip
    assert problem_of(HostError("no room", 28, "/x")).evidence == ("file: /x", "errno: 28")
    assert translate(ConfigError("disk", "it is missing")).code == 67
    assert translate(HostError("no room")).code == 38


def test_every_procedure_is_one_of_the_catalog_and_the_first_ones_are_there() -> None:
    """The procedures of ordinary sessions of virsh, virt-install and virt-manager."""
    first = (
        "1 2 4 6 7 9 10 11 12 14 15 16 19 23 24 27 28 29 33 34 39 46 52 54 55 60 66 77 78 79 83 84 87 88 90 91 92 93 "
        "95 97 98 99 100 111 112 121 122 150 151 154 160 161 163 182 183 185 186 187 189 192 193 199 201 204 212 231 "
        "244 "
        "245 258 265 273 274 281 282 283 285 313 316 342 344 350 353 360 361 368 374 426"
    )
    assert [
        number for number in map(int, first.split()) if REMOTE.by_number[number].name not in PROCEDURES
    ] == []
