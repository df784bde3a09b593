"""virtio-balloon: memory goes back to the host and comes again as zeros; hostile page numbers do nothing."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manor.base.address import PAGE_SIZE, Gpa
from manor.base.errors import SavedStateError
from manor.devices.virtio.balloon import (
    DEFLATE_QUEUE,
    INFLATE_QUEUE,
    PFN_LIMIT,
    QUEUES,
    STATISTICS_QUEUE,
    VIRTIO_BALLOON_F_PAGE_POISON,
    VIRTIO_BALLOON_F_PAGE_REPORTING,
    VIRTIO_BALLOON_F_STATS_VQ,
    BalloonCounts,
    VirtioBalloon,
)
from manor.mem.guest_memory import GuestMemory, Region
from manor.testing.virtq_driver import Allocator, DeferQueue, FakeNotifier, VirtqDriver, start_device
from manor.trace.sink import RingSink, disable, enable

RAM = 4 << 20
REPORTING_QUEUE = 3
FREE = 3 << 20  # no queue and no buffer of a test is up here
NUM_PAGES, ACTUAL, POISON = 0, 4, 12


class Bench:
    def __init__(self, **options: bool) -> None:
        self.memory = GuestMemory([Region(Gpa(0), RAM), Region(Gpa(1 << 32), PAGE_SIZE, "rom")])
        self.written: list[tuple[int, int]] = []
        self.allocator = Allocator(0x1000, FREE)
        self.defer = DeferQueue()
        self.notifier = FakeNotifier()
        self.device = VirtioBalloon("balloon", self.memory, self.defer, **options)
        self.device.notifier = self.notifier
        self.queues: list[VirtqDriver] = []

    def start(self, without: int = 0, poison: int | None = None) -> Bench:
        enable = self.device.enable_queue

        def write_poison_and_enable(index: int) -> None:
            self.device.write_config(POISON, 4, poison or 0)
            enable(index)

        with patch.object(self.device, "enable_queue", write_poison_and_enable):
            features = self.device.offered_features & ~without
            self.queues = start_device(self.device, self.memory, self.allocator, features, 64)
        self.defer.run()
        self.memory.on_write = lambda gpa, size: self.written.append((gpa, size))
        return self

    def send(self, queue: int, *data: bytes) -> None:
        self.queues[queue].add(data)
        self.kick(queue)

    def kick(self, queue: int) -> None:
        self.device.kick(queue)
        self.defer.run()

    def inflate(self, *pages: int) -> None:
        self.send(INFLATE_QUEUE, struct.pack(f"<{len(pages)}I", *pages))

    def report(self, gpa: int, size: int, queue: int = REPORTING_QUEUE) -> None:
        driver = self.queues[queue]
        head = driver.free.pop(0)
        driver._chains[head] = ([head], [(gpa, size)])
        driver.write_descriptor(head, gpa, size, 2)
        driver.make_available(head)
        self.kick(queue)


@pytest.fixture
def ring() -> Iterator[RingSink]:
    sink = RingSink(1000)
    enable("*", sink)
    yield sink
    disable("*", sink)


def complaints(ring: RingSink) -> list[str]:
    return [str(values[1]) for name, values in ring.events if name == "guest_error"]


def test_target_reaches_the_driver_and_its_answer_the_host(ring: RingSink) -> None:
    bench = Bench().start()
    told: list[int] = []
    bench.device.on_actual = lambda: told.append(bench.device.actual)
    bench.device.set_target(17)
    assert bench.notifier.config_changes == 1
    assert bench.device.read_config(NUM_PAGES, 4) == 17
    assert ("balloon_target", ("balloon", 17)) in ring.events
    bench.device.write_config(ACTUAL, 4, 16)
    assert told == [16]
    assert bench.device.read_config(ACTUAL, 4) == 16


def test_inflated_pages_go_back_and_read_as_zeros() -> None:
    bench = Bench().start()
    first = FREE // PAGE_SIZE
    bench.memory.load(FREE, b"x" * 8 * PAGE_SIZE)
    bench.written.clear()
    bench.inflate(first + 2, first, first + 1, first + 5, first + 5)
    assert bench.device.counts == BalloonCounts(4 * PAGE_SIZE, 0)
    for page, content in enumerate(b"\0\0\0xx\0xx"):
        assert bench.memory.read_u8(FREE + page * PAGE_SIZE) == content
    # An engine drops what it translated from there; neighbours are given up together.
    assert [piece for piece in bench.written if piece[0] >= FREE] == [
        (FREE, 3 * PAGE_SIZE), (FREE + 5 * PAGE_SIZE, PAGE_SIZE),
    ]  # fmt: skip
    assert [used.written for used in bench.queues[INFLATE_QUEUE].used()] == [0]
    assert bench.notifier.used == [INFLATE_QUEUE]


def test_deflating_is_acknowledged_and_changes_nothing() -> None:
    bench = Bench().start()
    bench.memory.load(FREE, b"x")
    bench.send(DEFLATE_QUEUE, struct.pack("<I", FREE // PAGE_SIZE))
    assert len(bench.queues[DEFLATE_QUEUE].used()) == 1
    assert bench.memory.read_u8(FREE) == ord("x")


@pytest.mark.parametrize("queue", [3, 4])
def test_reported_memory_goes_back(queue: int, ring: RingSink) -> None:
    bench = Bench().start()
    bench.memory.load(FREE, b"x" * 3 * PAGE_SIZE)
    bench.report(FREE + 1, 3 * PAGE_SIZE - 2, queue)  # partial pages at both ends stay
    assert bench.device.counts == BalloonCounts(0, PAGE_SIZE)
    assert bench.memory.read(FREE, 3 * PAGE_SIZE) == b"x" * PAGE_SIZE + bytes(PAGE_SIZE) + b"x" * PAGE_SIZE
    assert ("balloon_release", ("balloon", "reported", PAGE_SIZE)) in ring.events


def test_reporting_queue_moves_up_without_statistics() -> None:
    bench = Bench().start(without=1 << VIRTIO_BALLOON_F_STATS_VQ)
    bench.report(FREE, PAGE_SIZE, STATISTICS_QUEUE)
    assert bench.device.counts.reported == PAGE_SIZE


@pytest.mark.parametrize(("poison", "released"), [(0, PAGE_SIZE), (0xAA, 0)])
def test_poisoned_pages_keep_their_pattern(poison: int, released: int) -> None:
    bench = Bench().start(poison=poison)
    bench.memory.load(FREE, b"\xaa" * PAGE_SIZE)
    bench.report(FREE, PAGE_SIZE)
    assert bench.device.counts.reported == released
    assert len(bench.queues[REPORTING_QUEUE].used()) == 1
    # A pattern without the feature is only a number in a register.
    bench = Bench().start(without=1 << VIRTIO_BALLOON_F_PAGE_POISON, poison=poison)
    bench.report(FREE, PAGE_SIZE)
    assert bench.device.counts.reported == PAGE_SIZE


def test_poison_is_fixed_once_the_device_runs(ring: RingSink) -> None:
    bench = Bench().start(poison=1)
    bench.device.write_config(POISON, 4, 2)
    assert bench.device.read_config(POISON, 4) == 1
    assert any("poison_val" in text for text in complaints(ring))


def test_reporting_can_be_switched_off(ring: RingSink) -> None:
    bench = Bench(reporting=False)
    assert not bench.device.offered_features >> VIRTIO_BALLOON_F_PAGE_REPORTING & 1
    bench.start()
    bench.report(FREE, PAGE_SIZE)
    assert bench.device.counts.reported == 0
    assert any("not negotiated" in text for text in complaints(ring))


def test_statistics_are_asked_for_by_returning_the_buffer() -> None:
    bench = Bench()
    told: list[dict[str, int]] = []
    bench.device.on_statistics = lambda: told.append(bench.device.statistics)
    assert not bench.device.request_statistics()
    bench.start()
    queue = bench.queues[STATISTICS_QUEUE]
    # The first buffer, with a tag nobody knows and half an entry at the end.
    bench.send(STATISTICS_QUEUE, struct.pack("<HQHQHQ", 4, 1 << 20, 5, 4 << 20, 999, 1) + b"12")
    assert told == [{"free": 1 << 20, "total": 4 << 20}]
    assert queue.used() == []
    assert bench.device.request_statistics()
    bench.defer.run()
    assert len(queue.used()) == 1
    assert bench.notifier.used == [STATISTICS_QUEUE]
    assert queue.avail_event == 1  # the driver kicks with its next buffer
    bench.send(STATISTICS_QUEUE, struct.pack("<HQ", 4, 2 << 20))
    assert told[1:] == [{"free": 2 << 20}]


def test_device_with_statistics_waiting_can_be_saved_and_goes_on() -> None:
    bench = Bench().start()
    bench.device.set_target(5)
    bench.device.write_config(ACTUAL, 4, 3)
    bench.send(STATISTICS_QUEUE, struct.pack("<HQ", 6, 77))
    state = bench.device.save()
    other = VirtioBalloon("balloon", bench.memory, bench.defer)
    other.load(state)
    bench.defer.run()
    assert (other.target, other.actual, other.statistics) == (5, 3, {"available": 77})
    assert other.request_statistics()
    bench.defer.run()
    assert len(bench.queues[STATISTICS_QUEUE].used()) == 1
    for wrong in (
        replace(other.save_own(), target=-1),
        replace(other.save_own(), statistics={"nonsense": 1}),
        replace(other.save_own(), statistics={"free": -1}),
        None,
    ):
        with pytest.raises(SavedStateError):
            other.load(replace(state, own=wrong))


def test_reset_forgets_what_the_driver_told_and_keeps_what_the_host_wants() -> None:
    bench = Bench().start()
    bench.device.set_target(9)
    bench.device.write_config(ACTUAL, 4, 9)
    bench.device.write_status(0)
    assert (bench.device.target, bench.device.actual, bench.device.statistics) == (9, 0, {})


def test_page_numbers_outside_of_ram_do_nothing(ring: RingSink) -> None:
    bench = Bench().start()
    bench.inflate(RAM // PAGE_SIZE, 0xFFFF_FFFF, 1 << 20)  # behind RAM, the end of the world, ROM
    assert bench.device.counts.inflated == 0
    assert any("not RAM" in text for text in complaints(ring))


def test_long_and_odd_arrays_are_cut(ring: RingSink) -> None:
    bench = Bench().start()
    data = struct.pack("<I", FREE // PAGE_SIZE) * (PFN_LIMIT + 1)
    bench.send(INFLATE_QUEUE, data)
    assert bench.device.counts.inflated == PAGE_SIZE
    bench.send(INFLATE_QUEUE, b"abc")
    assert len(bench.queues[INFLATE_QUEUE].used()) == 2
    assert len([text for text in complaints(ring) if "page numbers;" in text]) == 2


@given(st.integers(0, QUEUES - 1), st.binary(max_size=64))
@settings(max_examples=60, deadline=None)
def test_any_bytes_in_any_queue_end_well(queue: int, data: bytes) -> None:
    bench = Bench().start()
    bench.send(queue, data)
    assert bench.device.counts.inflated <= RAM
