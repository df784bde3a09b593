"""virtio-pci: a driver that sees only the memory bus."""

from __future__ import annotations

import ast
import inspect
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manor.backends.char.memory import MemoryBackend
from manor.base.address import Gpa
from manor.base.errors import SavedStateError
from manor.bus.bus import Bus
from manor.devices.pci.host import PciHost, Window
from manor.devices.virtio.console import VirtioConsole
from manor.devices.virtio.device import COMMON_FEATURES
from manor.devices.virtio.pci import COMMON_TABLE, STRUCTURE_SIZE, VirtioPci
from manor.devices.virtio.rng import VirtioRng
from manor.mem.guest_memory import GuestMemory, Region
from manor.testing import pci_driver
from manor.testing.fakes import FakeIrq, FakeMsi
from manor.testing.pci_driver import VirtioPciDriver, enumerate_functions
from manor.testing.virtq_driver import Allocator, DeferQueue, VirtqDriver

ECAM = 0xE000_0000
WINDOWS = (Window("memory", 0xC000_0000, 0x2000_0000),)
SLOT_RNG, SLOT_CONSOLE = 1, 2


class Bench:
    def __init__(self) -> None:
        self.memory = GuestMemory([Region(Gpa(0), 1 << 20)])
        self.allocator = Allocator(0x1000, 1 << 20)
        self.defer = DeferQueue()
        self.irq, self.msi = FakeIrq(), FakeMsi()
        self.bus = Bus("mmio")
        self.host = PciHost(self.bus, Bus("pio"), self.irq, self.msi, WINDOWS)
        self.bus.map(ECAM, 1 << 28, self.host.ecam, "ecam")
        self.backend = MemoryBackend()
        self.rng = VirtioPci(VirtioRng("rng0", self.memory, self.defer, lambda size: b"\x77" * size))
        self.console = VirtioPci(VirtioConsole("console0", self.memory, self.defer, [self.backend]))
        self.host.add(SLOT_RNG, self.rng)
        self.host.add(SLOT_CONSOLE, self.console)
        self.host.reset()

    def driver(self, slot: int) -> VirtioPciDriver:
        found = next(one for one in enumerate_functions(self.bus, ECAM) if one.slot == slot)
        found.size_bars()
        found.enable()
        return VirtioPciDriver(found)

    def start_rng(self, vectors: bool) -> tuple[VirtioPciDriver, VirtqDriver]:
        driver = self.driver(SLOT_RNG)
        assert driver.negotiate(COMMON_FEATURES & ~(1 << 29)) == COMMON_FEATURES & ~(1 << 29)
        queue = VirtqDriver(self.memory, self.allocator, 16)
        if vectors:
            driver.function.program_msix(0xFEE0_0000, 0x20)
            driver.write(0x10, 2, 0)
        driver.set_up_queue(0, queue, 1 if vectors else 0xFFFF)
        driver.start()
        self.defer.run()
        return driver, queue


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_identity_and_structures(bench: Bench) -> None:
    rng, console = bench.driver(SLOT_RNG), bench.driver(SLOT_CONSOLE)
    assert (rng.function.vendor_id, rng.function.device_id) == (0x1AF4, 0x1044)
    assert console.function.device_id == 0x1043
    assert console.function.read(8, 4) == 0x07_80_00_01
    assert set(rng.structures) == {1, 2, 3}  # no device configuration
    assert set(console.structures) == {1, 2, 3, 4}
    for bar, offset, length in console.structures.values():
        assert offset + length <= console.function.bars[bar].size
    assert console.read(0, 2, structure=4) == 80


@pytest.mark.parametrize("vectors", [True, False])
def test_request(bench: Bench, vectors: bool) -> None:
    driver, queue = bench.start_rng(vectors)
    queue.add(writable=[8])
    driver.kick(0)
    bench.defer.run()
    assert [queue.written(used) for used in queue.used()] == [b"\x77" * 8]
    gsi = bench.host.gsi(SLOT_RNG, 1)
    if vectors:
        assert bench.msi.messages == [(0xFEE0_0000, 0x21)]
        assert not bench.irq.is_raised(gsi)
    else:
        assert bench.msi.messages == []
        assert bench.irq.is_raised(gsi)
        assert driver.function.read(6, 2) & 8
        assert driver.read(0, 1, structure=3) == 1
        assert not bench.irq.is_raised(gsi)
        assert driver.read(0, 1, structure=3) == 0


@pytest.mark.parametrize("vectors", [True, False])
def test_broken_queue_interrupts_as_configuration_change(bench: Bench, vectors: bool) -> None:
    driver, queue = bench.start_rng(vectors)
    queue.make_available(77)
    driver.kick(0)
    bench.defer.run()
    assert driver.read(0x14, 1) & 0x40
    if vectors:
        assert bench.msi.messages == [(0xFEE0_0000, 0x20)]
    assert driver.read(0, 1, structure=3) == 2


def test_common_configuration_every_register(bench: Bench) -> None:
    """Each declared register is read, written and checked by what it must do."""
    driver = bench.driver(SLOT_CONSOLE)
    offsets = {reg.name: (reg.offset, reg.size) for reg in COMMON_TABLE.regs}
    checked: set[str] = set()

    def get(name: str) -> int:
        checked.add(name)
        return driver.read(*offsets[name])

    def put(name: str, value: int) -> None:
        checked.add(name)
        driver.write(*offsets[name], value)

    put("device_feature_select", 1)
    assert get("device_feature_select") == 1
    assert get("device_feature") == COMMON_FEATURES >> 32
    put("device_feature_select", 2)
    assert get("device_feature") == 0
    put("device_status", 1)
    put("device_status", 3)
    put("driver_feature_select", 1)
    put("driver_feature", COMMON_FEATURES >> 32)
    assert get("driver_feature") == COMMON_FEATURES >> 32
    put("driver_feature_select", 9)
    assert get("driver_feature") == 0
    put("device_status", 0x0B)
    assert get("device_status") == 0x0B
    assert get("num_queues") == 2
    put("config_msix_vector", 2)
    assert get("config_msix_vector") == 2
    put("config_msix_vector", 3)
    assert get("config_msix_vector") == 0xFFFF
    assert get("config_generation") == 0
    console = bench.console.device
    assert isinstance(console, VirtioConsole)
    console.resize(1, 2)
    assert get("config_generation") == 1
    put("queue_select", 1)
    assert get("queue_select") == 1
    assert get("queue_notify_off") == get("queue_notify_data") == 1
    put("queue_size", 3)
    assert get("queue_size") == 256
    put("queue_size", 8)
    assert get("queue_size") == 8
    put("queue_msix_vector", 1)
    assert get("queue_msix_vector") == 1
    for position, area in enumerate(("desc", "driver", "device")):
        put(f"queue_{area}_high", 1)
        put(f"queue_{area}_low", 0x1000 * position)
        assert driver.read(0x20 + 8 * position, 8) == 1 << 32 | 0x1000 * position
        put(f"queue_{area}_high", 0)
        assert (get(f"queue_{area}_high"), get(f"queue_{area}_low")) == (0, 0x1000 * position)
    driver.write(0x20, 8, 0x4000)
    put("queue_enable", 2)
    assert get("queue_enable") == 0
    put("queue_enable", 1)
    assert get("queue_enable") == 1
    put("queue_size", 16)
    assert get("queue_size") == 8  # too late
    put("queue_reset", 0)
    assert get("queue_enable") == 1
    put("queue_reset", 1)
    assert (get("queue_reset"), get("queue_enable"), get("queue_size")) == (0, 0, 256)
    assert checked == set(COMMON_TABLE.by_name)


def test_queue_that_does_not_exist(bench: Bench) -> None:
    driver = bench.driver(SLOT_RNG)
    driver.write(0x16, 2, 7)
    for offset, size, value in (
        (0x18, 2, 0),
        (0x1A, 2, 0xFFFF),
        (0x1C, 2, 0),
        (0x1E, 2, 0),
        (0x20, 4, 0),
        (0x24, 4, 0),
        (0x38, 2, 0),
        (0x3A, 2, 0),
    ):
        driver.write(offset, size, 1)
        assert driver.read(offset, size) == value


def test_reset_by_status(bench: Bench) -> None:
    driver, queue = bench.start_rng(vectors=False)
    queue.add(writable=[8])
    driver.kick(0)
    bench.defer.run()
    assert bench.irq.is_raised(bench.host.gsi(SLOT_RNG, 1))
    driver.write(0x14, 1, 0)
    assert not bench.irq.is_raised(bench.host.gsi(SLOT_RNG, 1))
    assert (driver.read(0x14, 1), driver.read(0x1C, 2), driver.read(0x1A, 2)) == (0, 0, 0xFFFF)


def test_configuration_access_capability(bench: Bench) -> None:
    driver = bench.driver(SLOT_CONSOLE)
    function, at = driver.function, driver.pci_cfg
    function.write(4, 2, 0)  # works while the BARs do not answer
    bar, offset, _ = driver.structures[1]

    def access(start: int, size: int) -> None:
        function.write(at + 4, 1, bar)
        function.write(at + 8, 4, start)
        function.write(at + 12, 4, size)

    access(offset + 0x12, 2)
    assert function.read(at + 16, 4) == 2
    access(offset + 0x14, 1)
    function.write(at + 16, 1, 1)
    assert function.read(at + 16, 1) == 1
    for start, size in ((offset + 1, 2), (STRUCTURE_SIZE, 4), (offset, 3), (0xFFFF_FFFC, 4)):
        access(start, size)
        function.write(at + 16, 4, 0)
        assert function.read(at + 16, 4) == 0
    function.write(at + 4, 1, 1)
    assert function.read(at + 16, 4) == 0
    assert bench.console.device.status == 1


def test_strange_accesses(bench: Bench) -> None:
    driver, _ = bench.start_rng(vectors=False)
    driver.write(1, 2, 0, structure=2)
    driver.write(4 * 99, 2, 0, structure=2)
    assert driver.read(0, 4, structure=2) == 0
    driver.write(0, 1, 3, structure=3)
    driver.write(0x100, 4, 3)
    assert driver.read(0x100, 4) == 0
    assert driver.read(0x0F, 4) >= 0
    assert bench.defer.run() == 0


def test_save_and_load(bench: Bench) -> None:
    _, queue = bench.start_rng(vectors=True)
    state = bench.rng.save()
    other = Bench()
    other.memory.write(0, bench.memory.read(0, 1 << 20))
    other.rng.load(state)
    assert other.rng.save() == state
    other.defer.run()
    queue.memory = other.memory
    queue.add(writable=[4])
    driver = VirtioPciDriver(other.driver(SLOT_RNG).function)
    driver.kick(0)
    other.defer.run()
    assert other.msi.messages == [(0xFEE0_0000, 0x21)]
    for bad in (
        None,
        replace(state, config_vector=9),
        replace(state, vectors=()),
        replace(state, vectors=(-1,)),
        replace(state, common={}),
        replace(state, isr={"isr_status": 4, "@bank": ""}),
        replace(state, pci_cfg={}),
        replace(state, function=bench.console.save_function()),
        replace(state, device=bench.console.device.save()),
    ):
        with pytest.raises(SavedStateError):
            bench.rng.load(bad)
        assert bench.rng.save() == state


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.one_of(st.integers(0, 0x40), st.sampled_from([0x14, 0x16, 0x1C, 0x3A, 0x1000, 0x2000, 0x3000, 0x3004])),
            st.sampled_from([1, 2, 4, 8]),
            st.one_of(st.sampled_from([0, 1, 3, 11, 15, 0x40, 0xFFFF]), st.integers(0, (1 << 64) - 1)),
        ),
        max_size=40,
    )
)
def test_fuzz_structures(accesses: list[tuple[int, int, int]]) -> None:
    bench = Bench()
    address = bench.driver(SLOT_CONSOLE).function.bars[0].address
    for offset, size, value in accesses:
        bench.bus.write(address + offset, size, value)
        assert 0 <= bench.bus.read(address + offset, size) < 1 << 8 * size
        bench.defer.run()


def test_the_driver_side_sees_only_the_bus() -> None:
    tree = ast.parse(inspect.getsource(pci_driver))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not any(module and module.startswith("manor.devices") for module in imported)
