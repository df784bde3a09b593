"""Virtio device state machine, by way of the entropy device."""

from __future__ import annotations

from dataclasses import replace

import pytest

from manor.base.address import Gpa
from manor.base.errors import SavedStateError
from manor.devices.virtio.device import (
    COMMON_FEATURES,
    LIFECYCLE,
    VIRTIO_F_VERSION_1,
    Event,
    State,
    Status,
)
from manor.devices.virtio.rng import REQUEST_LIMIT, VirtioRng
from manor.mem.guest_memory import GuestMemory, Region
from manor.testing.virtq_driver import Allocator, DeferQueue, FakeNotifier, Used, VirtqDriver, start_device

VERSION_1 = 1 << VIRTIO_F_VERSION_1
READY = Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK


class Bench:
    def __init__(self) -> None:
        self.memory = GuestMemory([Region(Gpa(0), 1 << 20)])
        self.allocator = Allocator(0x1000, 1 << 20)
        self.defer = DeferQueue()
        self.notifier = FakeNotifier()
        self.device = VirtioRng("rng0", self.memory, self.defer, lambda size: b"\x5a" * size)
        self.device.notifier = self.notifier

    def start(self, features: int = VERSION_1, size: int = 16) -> VirtqDriver:
        return start_device(self.device, self.memory, self.allocator, features, size)[0]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_random_bytes(bench: Bench) -> None:
    driver = bench.start()
    driver.add(writable=[8, 8])
    bench.device.kick(0)
    assert driver.used() == []  # the vCPU does not wait
    bench.defer.run()
    used = driver.used()
    assert [driver.written(one) for one in used] == [b"\x5a" * 16]
    assert bench.notifier.used == [0]


def test_request_is_capped(bench: Bench) -> None:
    driver = bench.start()
    head = driver.add(writable=[0x8000, 0x8000])
    empty = driver.add(readable=[b"x"])
    bench.device.kick(0)
    bench.defer.run()
    assert driver.used() == [Used(head, REQUEST_LIMIT), Used(empty, 0)]


def test_kicks_are_merged(bench: Bench) -> None:
    bench.start()
    bench.defer.run()
    for _ in range(100):
        bench.device.kick(0)
    assert len(bench.defer.callbacks) == 1


def test_a_turn_is_bounded(bench: Bench) -> None:
    driver = bench.start(size=4)
    bench.defer.run()
    written = bench.memory.on_write

    def refill(gpa: int, size: int) -> None:
        # A second vCPU that makes every used descriptor available again at once.
        if gpa == driver.device_area + 2:
            bench.memory.on_write = None
            driver.make_available(driver.used()[0].head)
            bench.memory.on_write = refill

    driver.add(writable=[4])
    bench.memory.on_write = refill
    bench.device.kick(0)
    with pytest.raises(RuntimeError, match="still left"):
        bench.defer.run(turns=5)
    assert driver.available == 1 + 5 * 4
    bench.memory.on_write = written


def test_buffers_before_driver_ok_are_served(bench: Bench) -> None:
    for value in (1, 3):
        bench.device.write_status(value)
    bench.device.write_driver_features(1, 1)
    bench.device.write_status(READY)
    driver = VirtqDriver(bench.memory, bench.allocator, 4)
    driver.attach(bench.device.queues[0])
    bench.device.enable_queue(0)
    driver.add(writable=[4])
    bench.device.kick(0)
    assert bench.defer.run() == 0
    bench.device.write_status(READY | Status.DRIVER_OK)
    bench.defer.run()
    assert len(driver.used()) == 1


@pytest.mark.parametrize("features", [0, VERSION_1 | 1, VERSION_1 | 1 << 33])
def test_features_are_refused(bench: Bench, features: int) -> None:
    with pytest.raises(RuntimeError, match="refuses"):
        bench.start(features)
    assert bench.device.state is State.DRIVER


def test_features_are_fixed_after_features_ok(bench: Bench) -> None:
    bench.start(COMMON_FEATURES)
    bench.device.write_driver_features(0, 0)
    bench.device.write_driver_features(2, 5)
    assert bench.device.driver_features == COMMON_FEATURES
    assert bench.device.queues[0].event_idx
    bench.device.reset()
    bench.device.write_driver_features(7, 5)
    assert bench.device.driver_features == 0


def test_status_out_of_order_is_ignored(bench: Bench) -> None:
    bench.device.write_status(Status.DRIVER_OK)
    assert bench.device.status == 0
    bench.device.write_status(Status.ACKNOWLEDGE)
    bench.device.write_status(Status.DRIVER)  # cannot clear ACKNOWLEDGE
    assert bench.device.status == 3
    bench.device.write_status(Status.DRIVER | Status.FAILED)
    assert bench.device.state is State.FAILED
    bench.device.enable_queue(0)
    assert not bench.device.queues[0].enabled
    bench.device.write_status(0)
    assert bench.device.status == 0


def test_broken_queue_needs_reset(bench: Bench) -> None:
    driver = bench.start()
    driver.make_available(999)
    bench.device.kick(0)
    bench.defer.run()
    assert bench.device.status & Status.DEVICE_NEEDS_RESET
    assert bench.device.state is State.NEEDS_RESET
    assert bench.notifier.config_changes == 1
    bench.device.kick(0)
    assert bench.defer.run() == 0
    bench.device.write_status(0)
    driver = bench.start()
    driver.add(writable=[4])
    bench.device.kick(0)
    bench.defer.run()
    assert len(driver.used()) == 1


def test_turn_after_reset_does_nothing(bench: Bench) -> None:
    driver = bench.start()
    driver.add(writable=[4])
    bench.device.kick(0)
    bench.device.write_status(0)
    bench.defer.run()
    assert driver.used() == []


def test_kick_of_missing_queue(bench: Bench) -> None:
    bench.start()
    bench.defer.run()
    bench.device.kick(5)
    assert bench.defer.run() == 0
    assert bench.device.read_config(0, 4) == 0
    bench.device.write_config(0, 4, 1)


def test_queue_reset(bench: Bench) -> None:
    bench.start(VERSION_1)
    bench.device.reset_queue(0)  # not negotiated
    assert bench.device.queues[0].enabled
    bench.start(COMMON_FEATURES)
    bench.device.reset_queue(0)
    assert not bench.device.queues[0].enabled


def test_save_and_load(bench: Bench) -> None:
    driver = bench.start(COMMON_FEATURES)
    bench.defer.run()
    state = bench.device.save()
    driver.add(writable=[4])
    bench.device.kick(0)
    other = VirtioRng("rng0", bench.memory, bench.defer, lambda size: b"\xa5" * size)
    other.load(state)
    assert other.save() == state
    bench.device.reset()
    bench.defer.run()
    assert driver.written(driver.used()[0]) == b"\xa5" * 4


@pytest.mark.parametrize(
    "change",
    [
        {"state": "asleep"},
        {"status": 0x100},
        {"status": 3},
        {"driver_features": 1 << 50},
        {"driver_features": -1},
        {"config_generation": 256},
        {"queues": ()},
        {"own": 5},
    ],
)
def test_load_refuses(bench: Bench, change: dict[str, object]) -> None:
    bench.start()
    state = bench.device.save()
    with pytest.raises(SavedStateError):
        bench.device.load(replace(state, **change))  # type: ignore[arg-type]
    with pytest.raises(SavedStateError):
        bench.device.load(None)
    assert bench.device.save() == state


def test_every_state_can_be_reset() -> None:
    assert all(LIFECYCLE.allows(state, Event.RESET) for state in State)
