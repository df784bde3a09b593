"""Two clients do what they like with a few domains, and the daemon restarts in between: as a simple model says.

The domains are those of the driver that keeps them in files; their machines are noted in memory and outlive the
daemon, as processes do.
"""

from __future__ import annotations

import asyncio
import copy
import os
import tempfile
import uuid as uuid_module
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from manor.base.errors import ApiError
from manor.drivers.domains.book import DomainBook
from manor.drivers.errors import Code
from manor.drivers.hypervisor import Ended, Found, OnHappening
from manor.drivers.keeper import StoreKeeper
from manor.drivers.memory import MemoryHypervisor
from manor.drivers.snapshots import NoContents, SnapshotBook
from manor.drivers.store import Store

NAMES = ("a", "b", "c")
UUIDS = tuple(uuid_module.UUID(int=number) for number in (1, 2, 3))
QUICK = "/dev/shm"
"""Memory: here it is not about what the disk keeps."""
METADATA = 2
"""virDomainUndefineFlagsValues: VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA."""


class Machines(MemoryHypervisor):
    """Machines that outlive the daemon."""

    def __init__(self) -> None:
        super().__init__()
        self.paused: set[bytes] = set()

    async def recover(self, on_happening: OnHappening) -> tuple[Sequence[Found], Sequence[Ended]]:
        await super().recover(on_happening)
        found = []
        for uuid, running in self._running.items():
            document = running.definition.read()
            found.append(Found(uuid, document.id or 1, running.definition.text, running.since is None))
        return found, ()

    async def close(self) -> None:
        return


@dataclass
class Model:
    """What a domain should be. life: off, running, paused. memory: KiB, of the configuration, or of what runs where
    there is none. running: KiB of what runs, 0 for nothing."""

    name: str
    memory: int
    running: int = 0
    life: str = "off"
    autostart: bool = False
    persistent: bool = True
    snapshots: dict[str, str | None] = field(default_factory=dict)
    """Name -> its parent."""
    current: str | None = None


World = dict[uuid_module.UUID, Model]
Step = tuple[str, Any]
"""Name of an operation below, and its arguments."""


def xml(name: str, uuid: uuid_module.UUID, memory: int) -> str:
    return (
        f"<domain type='test'><name>{name}</name><uuid>{uuid}</uuid><memory unit='KiB'>{memory}</memory>"
        f"<os><type>hvm</type></os></domain>"
    )


class Life:
    """Each operation twice: on the model (False: refused), and on the driver."""

    @staticmethod
    def define(world: World, uuid: uuid_module.UUID, name: str, memory: int) -> bool:
        if any((each.name == name) != (one == uuid) for one, each in world.items()):
            return False
        if uuid in world:
            world[uuid].memory, world[uuid].persistent = memory, True
        else:
            world[uuid] = Model(name, memory)
        return True

    @staticmethod
    def undefine(world: World, uuid: uuid_module.UUID, flags: int) -> bool:
        found = world.get(uuid)
        if found is None or not found.persistent or (found.snapshots and not flags & METADATA):
            return False
        found.snapshots, found.current = {}, None
        found.persistent = found.autostart = False
        found.memory = found.running
        if found.life == "off":
            del world[uuid]
        return True

    @staticmethod
    def start(world: World, uuid: uuid_module.UUID, paused: bool) -> bool:
        found = world.get(uuid)
        if found is None or found.life != "off":
            return False
        found.life = "paused" if paused else "running"
        found.running = found.memory
        return True

    @staticmethod
    def destroy(world: World, uuid: uuid_module.UUID) -> bool:
        found = world.get(uuid)
        if found is None or found.life == "off":
            return False
        found.life, found.running = "off", 0
        if not found.persistent:
            del world[uuid]
        return True

    @staticmethod
    def suspend(world: World, uuid: uuid_module.UUID) -> bool:
        found = world.get(uuid)
        if found is None or found.life == "off":
            return False
        found.life = "paused"
        return True

    @staticmethod
    def resume(world: World, uuid: uuid_module.UUID) -> bool:
        found = world.get(uuid)
        if found is None or found.life == "off":
            return False
        found.life = "running"
        return True

    @staticmethod
    def rename(world: World, uuid: uuid_module.UUID, name: str) -> bool:
        found = world.get(uuid)
        if found is None or found.life != "off" or found.snapshots or any(each.name == name for each in world.values()):
            return False
        found.name = name
        return True

    @staticmethod
    def autostart(world: World, uuid: uuid_module.UUID, on: bool) -> bool:
        found = world.get(uuid)
        if found is None or not found.persistent:
            return False
        found.autostart = on
        return True

    @staticmethod
    def snapshot(world: World, uuid: uuid_module.UUID, name: str) -> bool:
        found = world.get(uuid)
        if found is None or found.life != "off" or name in found.snapshots:
            return False
        found.snapshots[name] = found.current
        found.current = name
        return True

    @staticmethod
    def forget_snapshot(world: World, uuid: uuid_module.UUID, name: str) -> bool:
        found = world.get(uuid)
        if found is None or found.life != "off" or name not in found.snapshots:
            return False
        parent = found.snapshots.pop(name)
        for each, its in found.snapshots.items():
            if its == name:
                found.snapshots[each] = parent
        if found.current == name:
            found.current = parent
        return True


class Driver:
    """One life of the daemon."""

    def __init__(self, root: Path, machines: Machines) -> None:
        self.keeper = StoreKeeper(Store(root))
        self.domains = DomainBook(machines, self.keeper, lambda _: None)
        self.snapshots = SnapshotBook(self.domains, self.keeper, NoContents(), lambda _: None)

    async def open(self) -> None:
        await self.keeper.open()
        await self.domains.open()
        await self.snapshots.open()

    async def close(self) -> None:
        await self.domains.close()
        await self.keeper.close()

    async def do(self, step: Step) -> bool:
        """Whether it was done; False if it was refused, in words."""
        name, (uuid, *rest) = step
        domains, key = self.domains, uuid.bytes
        ways: dict[str, Callable[..., Awaitable[Any]]] = {
            "define": lambda name, memory: domains.define(xml(name, uuid, memory), "t"),
            "undefine": lambda flags: domains.undefine(key, "t", flags),
            "start": lambda paused: domains.start(key, paused),
            "destroy": lambda: domains.destroy(key, False),
            "suspend": lambda: domains.suspend(key),
            "resume": lambda: domains.resume(key),
            "rename": lambda name: domains.rename(key, name, "t"),
            "autostart": lambda on: domains.set_autostart(key, on),
            "snapshot": lambda name: self.snapshots.create(
                key, f"<domainsnapshot><name>{name}</name></domainsnapshot>", 0
            ),
            "forget_snapshot": lambda name: self.snapshots.delete(key, name, 0),
        }
        try:
            await ways[name](*rest)
        except ApiError as error:
            if error.code == Code.INTERNAL_ERROR:
                raise
            return False
        return True

    async def world(self) -> World:
        """What is there, in the model's terms."""
        found: World = {}
        for domain, flags in await self.domains.all():
            uuid = uuid_module.UUID(bytes=domain.uuid)
            info = await self.domains.info(domain.uuid)
            config = await self.domains.xml(domain.uuid, True, False)
            snapshots = {
                each.name: await self.snapshots.parent(domain.uuid, each.name)
                for each in await self.snapshots.all(domain.uuid)
            }
            assert flags.snapshots == bool(snapshots)
            assert (domain.id >= 0) == flags.active == (info.state != 5)
            found[uuid] = Model(
                domain.name,
                int(config.split("<memory unit='KiB'>")[1].split("<")[0]),
                info.max_memory if flags.active else 0,
                {1: "running", 3: "paused", 5: "off"}[info.state],
                flags.autostart,
                flags.persistent,
                snapshots,
                await self.snapshots.current(domain.uuid),
            )
            assert (await self.domains.find_name(domain.name)).uuid == domain.uuid
        return found


STEPS: st.SearchStrategy[Step] = st.one_of(
    st.tuples(st.just("define"), st.tuples(st.sampled_from(UUIDS), st.sampled_from(NAMES), st.integers(65536, 65540))),
    st.tuples(st.just("undefine"), st.tuples(st.sampled_from(UUIDS), st.sampled_from((0, METADATA)))),
    st.tuples(st.just("start"), st.tuples(st.sampled_from(UUIDS), st.booleans())),
    st.tuples(st.sampled_from(("destroy", "suspend", "resume")), st.tuples(st.sampled_from(UUIDS))),
    st.tuples(st.just("rename"), st.tuples(st.sampled_from(UUIDS), st.sampled_from(NAMES))),
    st.tuples(st.just("autostart"), st.tuples(st.sampled_from(UUIDS), st.booleans())),
    st.tuples(
        st.sampled_from(("snapshot", "forget_snapshot")), st.tuples(st.sampled_from(UUIDS), st.sampled_from(("s", "t")))
    ),
)


def outcome(world: World, step: Step) -> bool:
    name, arguments = step
    done: bool = getattr(Life, name)(world, *arguments)
    return done


class RandomLife(RuleBasedStateMachine):
    """The machine of hypothesis."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory(prefix="mgr", dir=QUICK if os.path.isdir(QUICK) else None)
        self.machines = Machines()
        self.world: World = {}
        self.driver = Driver(Path(self.folder.name) / "state", self.machines)
        self.run(self.driver.open())

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(work, 30))

    def teardown(self) -> None:
        self.run(self.driver.close())
        self.loop.close()
        self.folder.cleanup()

    @initialize()
    def begin(self) -> None:
        for uuid, name in zip(UUIDS[:2], NAMES[:2], strict=True):
            self.one(("define", (uuid, name, 65536)))

    @rule(step=STEPS)
    def one(self, step: Step) -> None:
        assert self.run(self.driver.do(step)) == outcome(self.world, step), step

    @rule(first=STEPS, second=STEPS)
    def two_at_once(self, first: Step, second: Step) -> None:
        """What both clients get, and what is there then, is as if one had come after the other."""

        async def both() -> list[bool]:
            return list(await asyncio.gather(self.driver.do(first), self.driver.do(second)))

        said = self.run(both())
        there = self.run(self.driver.world())
        possible = []
        for order in ((0, 1), (1, 0)):
            world = copy.deepcopy(self.world)
            results = [False, False]
            for index in order:
                results[index] = outcome(world, (first, second)[index])
            possible.append((results, world))
        assert (said, there) in possible, (first, second, said)
        self.world = next(world for results, world in possible if (results, world) == (said, there))

    @rule()
    def restart(self) -> None:
        self.run(self.driver.close())
        self.driver = Driver(self.driver.keeper.store.root, self.machines)
        self.run(self.driver.open())

    @invariant()
    def as_the_model_says(self) -> None:
        assert self.run(self.driver.world()) == self.world


TestRandomLife = RandomLife.TestCase
TestRandomLife.settings = settings(
    max_examples=10, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
