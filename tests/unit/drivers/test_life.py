"""Every transition of the table of a domain's life, walked against the driver with a scripted hypervisor."""

from __future__ import annotations

import asyncio
import tempfile
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from manor.base.errors import ApiError, HostError
from manor.domain.definition import complete, definition_of
from manor.domain.model import LIFE, Cause, Life, allows, is_active, is_persistent, keeps_state, step, unexplained
from manor.domain.state import PausedReason
from manor.domain.xml.domain import Domain as Document
from manor.drivers.api import Kind, Notice
from manor.drivers.domains.book import DomainBook
from manor.drivers.domains.defining import MANAGED_SAVE
from manor.drivers.domains.running import RESTART_SECONDS
from manor.drivers.domains.saving import SAVE_PAUSED, SAVE_RUNNING
from manor.drivers.hypervisor import Crashed, End, Ended, Happening, Paused, Rebooted, Resumed, ShuttingDown
from manor.drivers.memory import MemoryHypervisor
from manor.drivers.rehearsal import SilentKeeper
from manor.spec import saved_vm
from manor.spec.machine import MachineSpec
from manor.spec.saved_vm import SavedHead

XML = """
<domain type='test'>
  <name>web1</name>
  <uuid>6695eb01-f6a4-8304-79aa-97f2502e193a</uuid>
  <memory unit='MiB'>64</memory>
  <os><type>hvm</type></os>
  <on_poweroff>{on_poweroff}</on_poweroff>
  <on_crash>{on_crash}</on_crash>
</domain>
"""
UUID = bytes.fromhex("6695eb01f6a4830479aa97f2502e193a")

class Scripted(MemoryHypervisor):
    """Whose guest takes its time to shut down, and whose starts can fail."""

    fails = False

    async def shutdown(self, uuid: bytes, agent: bool) -> None:
        return

    async def start(
        self, domain: Document, number: int, paused: bool, saved: Path | None = None
    ) -> Document:
        if self.fails:
            raise HostError("the host has no memory left; end another domain")
        return await super().start(domain, number, paused, saved)


class World:
    """One driver's domains, and what was told of them."""

    def __init__(self, *causes: Cause) -> None:
        on_crash = "destroy"
        if Cause.PANICKED in causes:
            on_crash = "preserve"
        if Cause.CRASH_RESTARTED in causes:
            on_crash = "restart"
        self.xml = XML.format(on_poweroff="restart" if Cause.RESTARTED in causes else "destroy", on_crash=on_crash)
        self.hypervisor = Scripted()
        self.told: list[Notice] = []
        self.book = DomainBook(self.hypervisor, SilentKeeper(), self.told.append)

    def lifecycle(self) -> list[tuple[int, int]]:
        return [notice.values for notice in self.told if notice.kind is Kind.LIFECYCLE]  # type: ignore[misc]

    async def life(self) -> Life:
        try:
            return self.book.record(UUID).life
        except ApiError:
            return Life.ABSENT

    async def do(self, cause: Cause) -> None:
        await ACTIONS[cause](self)

    async def happen(self, happening: Happening) -> None:
        self.hypervisor.happen(happening)
        for _ in range(5):
            await asyncio.sleep(0)

    async def save(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            await self.book.save(UUID, f"{folder}/state")

    async def restore(self, flags: int) -> None:
        text = definition_of(complete(self.xml, self.hypervisor.platform)).text
        head = SavedHead("test", 0, "none", MachineSpec(None), 0, 0, note=text)
        with tempfile.TemporaryDirectory() as folder:
            saved_vm.write_empty(Path(folder) / "state", head)
            await self.book.restore(f"{folder}/state", None, flags)

    async def fail_to_start(self) -> None:
        self.hypervisor.fails = True
        with pytest.raises(HostError):
            await self.book.start(UUID, False)
        self.hypervisor.fails = False


def _retitled(document: Document) -> Document:
    return replace(document, title="T")


ACTIONS: dict[Cause, Callable[[World], Awaitable[object]]] = {
    Cause.DEFINE: lambda w: w.book.define(w.xml, "t"),
    Cause.UNDEFINE: lambda w: w.book.undefine(UUID, "t", 0),
    Cause.UNDEFINE_SAVED: lambda w: w.book.undefine(UUID, "t", MANAGED_SAVE),
    Cause.CREATE: lambda w: w.book.create_xml(w.xml, False),
    Cause.CREATE_PAUSED: lambda w: w.book.create_xml(w.xml, True),
    Cause.START: lambda w: w.book.start(UUID, False),
    Cause.START_PAUSED: lambda w: w.book.start(UUID, True),
    Cause.START_FORCED: lambda w: w.book.start(UUID, False, fresh=True),
    Cause.SAVE: lambda w: w.save(),
    Cause.MANAGED_SAVE: lambda w: w.book.save(UUID, None),
    Cause.MANAGED_SAVE_REMOVE: lambda w: w.book.remove_saved(UUID),
    Cause.RESTORE: lambda w: w.restore(SAVE_RUNNING),
    Cause.RESTORE_PAUSED: lambda w: w.restore(SAVE_PAUSED),
    Cause.SHUTDOWN: lambda w: w.book.shutdown(UUID, 0),
    Cause.REBOOT: lambda w: w.book.reboot(UUID, 0),
    Cause.RESET: lambda w: w.book.reset(UUID),
    Cause.DESTROY: lambda w: w.book.destroy(UUID, False),
    Cause.SUSPEND: lambda w: w.book.suspend(UUID),
    Cause.RESUME: lambda w: w.book.resume(UUID),
    Cause.AUTOSTART: lambda w: w.book.set_autostart(UUID, True),
    Cause.CHANGE_CONFIG: lambda w: w.book.edit(UUID, _retitled, False, True, "t"),
    Cause.CHANGE_LIVE: lambda w: w.book.edit(UUID, _retitled, True, False, "t"),
    Cause.RENAME: lambda w: w.book.rename(UUID, "web2", "t"),
    Cause.SHUTTING_DOWN: lambda w: w.happen(ShuttingDown(UUID)),
    Cause.POWERED_OFF: lambda w: w.happen(Ended(UUID, End.POWER_OFF)),
    Cause.RESTARTED: lambda w: w.happen(Ended(UUID, End.POWER_OFF)),
    Cause.REBOOTED: lambda w: w.happen(Rebooted(UUID)),
    Cause.PANICKED: lambda w: w.happen(Crashed(UUID, "a test's panic")),
    Cause.PANICKED_OFF: lambda w: w.happen(Ended(UUID, End.CRASH)),
    Cause.CRASH_RESTARTED: lambda w: w.happen(Ended(UUID, End.CRASH)),
    Cause.PROCESS_LOST: lambda w: w.happen(Ended(UUID, End.LOST, "it was killed")),
    Cause.VMM_FAILED: lambda w: w.happen(Ended(UUID, End.FAILED, "the disk is full")),
    Cause.IO_ERROR: lambda w: w.happen(Paused(UUID, PausedReason.IO_ERROR)),
    Cause.START_FAILED: lambda w: w.fail_to_start(),
}
"""What makes each cause happen."""
REQUESTS = [cause for cause in ACTIONS if cause.value <= Cause.RENAME.value]
ROWS = [(life, cause) for life in Life for cause in Cause if allows(life, cause)]
LIVES = {life for life, _ in ROWS}


def path_to(life: Life) -> tuple[Cause, ...]:
    """The shortest way there from nothing."""
    seen: dict[Life, tuple[Cause, ...]] = {Life.ABSENT: ()}
    waiting = deque([Life.ABSENT])
    while waiting:
        here = waiting.popleft()
        for cause in ACTIONS:
            if allows(here, cause) and cause not in (Cause.RESTARTED, Cause.CRASH_RESTARTED):
                there = LIFE.next(here, cause)
                if there not in seen:
                    seen[there] = (*seen[here], cause)
                    waiting.append(there)
    return seen[life]


async def reached(life: Life, *more: Cause) -> World:
    path = path_to(life)
    world = World(*path, *more)
    await world.book.open()
    for cause in path:
        await world.do(cause)
    assert await world.life() is life
    world.told.clear()
    return world


def test_every_cause_has_an_action_and_every_life_a_path() -> None:
    assert set(ACTIONS) == set(Cause)
    assert {life: path_to(life) for life in LIVES}


@pytest.mark.parametrize(("life", "cause"), ROWS, ids=lambda x: x.name)
def test_each_row_of_the_table(life: Life, cause: Cause) -> None:
    async def scenario() -> None:
        world = await reached(life, cause)
        record = world.book.record(UUID) if life is not Life.ABSENT else None
        before = (record.state, record.reason) if record else unexplained(Life.OFF)
        await world.do(cause)
        outcome = step(life, cause)
        assert await world.life() is outcome.life
        if outcome.life is not Life.ABSENT:
            record = world.book.record(UUID)
            kept = keeps_state(life, cause)
            assert (record.state, record.reason) == (before if kept else (outcome.state, outcome.reason))
            assert (await world.book.state(UUID)) == (int(record.state), int(record.reason))
            assert (record.number >= 1) == is_active(outcome.life)
            assert (record.config is not None) == is_persistent(outcome.life)
            assert (record.live is not None) == is_active(outcome.life)
            assert (await world.book.flags(UUID)).active == is_active(outcome.life)
        else:
            assert await world.book.all() == []
        assert world.lifecycle() == [(int(one.event), int(one.detail)) for one in outcome.events]
        await world.book.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("life", "cause"),
    [(life, cause) for life in LIVES for cause in REQUESTS if not allows(life, cause)],
    ids=lambda x: x.name,
)
def test_each_request_that_is_not_in_the_table_is_refused(life: Life, cause: Cause) -> None:
    async def scenario() -> None:
        world = await reached(life)
        with pytest.raises(ApiError) as caught:
            await world.do(cause)
        assert caught.value.code in (42, 55), caught.value  # no domain; the state does not allow it
        assert await world.life() is life
        assert world.told == []
        await world.book.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("happening", [ShuttingDown(UUID), Rebooted(UUID), Resumed(UUID), Crashed(UUID)])
def test_what_comes_too_late_is_nothing(happening: Happening) -> None:
    async def scenario() -> None:
        world = await reached(Life.OFF)
        await world.happen(happening)
        assert (await world.life(), world.told) == (Life.OFF, [])

    asyncio.run(scenario())


# --- what the definition says is done at the end ----------------------------------------------------------------------


@pytest.mark.parametrize("action", ["restart", "rename-restart", "coredump-restart"])
def test_a_guest_that_crashed_goes_on_under_its_number(action: str) -> None:
    async def scenario() -> None:
        world = await reached(Life.RUNNING)
        number = world.book.record(UUID).number
        await world.book.edit(UUID, lambda document: replace(document, on_crash=action), True, False, "t")
        await world.happen(Crashed(UUID, "panic"))
        await asyncio.sleep(0.01)
        record = world.book.record(UUID)
        assert (record.life, record.number) == (Life.RUNNING, number)
        assert [notice.kind for notice in world.told] == [Kind.LIFECYCLE, Kind.REBOOT]
        await world.book.close()

    asyncio.run(scenario())


def test_a_guest_that_crashes_as_it_boots_is_not_started_in_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async def scenario() -> None:
        world = await reached(Life.RUNNING, Cause.CRASH_RESTARTED)
        monkeypatch.setattr("manor.drivers.domains.running.asyncio.sleep", sleep)
        for _ in range(3):
            world.hypervisor.happen(Ended(UUID, End.CRASH))
            await asyncio.gather(*world.book._tasks)
        assert slept[0] == 0
        assert all(RESTART_SECONDS / 2 < each <= RESTART_SECONDS for each in slept[1:])
        await world.book.close()

    asyncio.run(scenario())


def test_destroyed_before_it_was_started_again_it_stays_off() -> None:
    async def scenario() -> None:
        world = await reached(Life.RUNNING, Cause.RESTARTED)
        world.hypervisor.happen(Ended(UUID, End.POWER_OFF))
        await world.book.destroy(UUID, False)
        await asyncio.sleep(0.01)
        assert await world.life() is Life.OFF
        assert await world.book.state(UUID) == (5, 2)
        await world.book.close()

    asyncio.run(scenario())


def test_a_restart_that_fails_is_an_end() -> None:
    async def scenario() -> None:
        world = await reached(Life.RUNNING, Cause.CRASH_RESTARTED)
        world.hypervisor.fails = True
        await world.happen(Ended(UUID, End.CRASH))
        assert await world.life() is Life.OFF
        assert world.lifecycle() == [(8, 0), (5, 2)]
        await world.book.close()

    asyncio.run(scenario())


def test_a_crash_ends_a_machine_that_nobody_wants_to_look_at() -> None:
    async def scenario() -> None:
        world = await reached(Life.RUNNING)
        await world.happen(Crashed(UUID, "panic"))
        assert await world.book.state(UUID) == (5, 3)
        assert world.lifecycle() == [(8, 0), (5, 2)]
        await world.book.close()

    asyncio.run(scenario())


def test_a_preserved_domain_is_paused_and_waits_to_be_destroyed() -> None:
    async def scenario() -> None:
        world = await reached(Life.CRASHED)
        assert await world.book.state(UUID) == (6, 1)
        assert world.hypervisor._running[UUID].since is None
        with pytest.raises(ApiError, match="has crashed; destroy it first"):
            await world.book.resume(UUID)
        await world.book.destroy(UUID, False)
        assert await world.book.state(UUID) == (5, 2)
        await world.book.close()

    asyncio.run(scenario())
