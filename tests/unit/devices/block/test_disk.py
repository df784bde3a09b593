"""Who does a disk's requests: the vCPU that made them, or workers."""

from __future__ import annotations

import threading
import time

import pytest

from manor.backends.block.api import BlockError, Buffers
from manor.devices.block import disk as disk_module
from manor.devices.block.disk import SHORT_BATCH, SHORT_REQUEST, WATCHED, Disk, Kind, Request
from manor.testing.fakes import FakeWork
from manor.testing.memory_disk import MemoryDisk


class SlowDisk(MemoryDisk):
    """Its writes take some time, sleeping or busy."""

    def __init__(self) -> None:
        super().__init__(2 * SHORT_REQUEST)
        self.sleeps = 0.0
        self.spins = 0.0

    def write(self, offset: int, buffers: Buffers) -> None:
        super().write(offset, buffers)
        if self.sleeps:
            time.sleep(self.sleeps)
        end = time.monotonic() + self.spins
        while time.monotonic() < end:
            pass


class Bench:
    def __init__(self, backend: MemoryDisk | None = None) -> None:
        self.backend = backend or SlowDisk()
        self.work = FakeWork(is_vcpu=True)
        self.disk = Disk("disk0", self.backend, threading.RLock(), self.work)
        self.done: list[BlockError | None] = []
        self.turns = 0

    def start(self, *sizes: int, kind: Kind = Kind.WRITE, durable: bool = False) -> None:
        requests = []
        for size in sizes:
            buffers = [memoryview(bytearray(size))]
            requests.append(Request(kind, ((0, size),), buffers, self.done.append, durable))
        self.disk.start(requests, self._after)

    def _after(self) -> None:
        self.turns += 1


def test_short_requests_are_the_vcpus() -> None:
    bench = Bench()
    bench.start(512, 4096, SHORT_BATCH // 2)
    assert bench.done == []
    assert bench.work.jobs == []
    bench.work.run_short()
    assert bench.done == [None] * 3
    assert bench.turns == 1


def test_what_is_large_or_must_reach_the_medium_is_the_workers() -> None:
    bench = Bench()
    bench.start(SHORT_REQUEST + 512)
    bench.start(512, durable=True)
    assert bench.work.short_jobs == []
    bench.work.run()
    assert bench.done == [None] * 2
    assert bench.disk.statistics.short == 0


def test_one_kick_costs_a_vcpu_no_more_than_a_batch() -> None:
    bench = Bench()
    bench.start(*[SHORT_REQUEST] * (SHORT_BATCH // SHORT_REQUEST + 2), 512)
    bench.work.run_short()
    assert bench.disk.statistics.short == SHORT_BATCH // SHORT_REQUEST
    bench.work.run()
    assert bench.disk.in_flight == 0


def test_slow_medium_is_left_to_workers_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = SlowDisk()
    bench = Bench(backend)
    backend.sleeps = 0.002
    for _ in range(2):  # the first makes the second be watched
        bench.start(512)
        bench.work.run_short()
    assert bench.disk.statistics.short == 2
    bench.start(512)
    assert bench.work.short_jobs == []
    bench.work.run()
    monkeypatch.setattr(bench.disk, "_slow_until_ns", 0)
    backend.sleeps = 0
    for _ in range(WATCHED + 1):
        bench.start(512)
        bench.work.run_short()
    assert bench.disk._watched == 0
    assert bench.disk.in_flight == 0


def test_busy_host_is_no_slow_medium(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread whose turn others took did not wait: it goes on doing short requests itself."""
    monkeypatch.setattr(disk_module, "_waits", lambda: 7)
    backend = SlowDisk()
    bench = Bench(backend)
    backend.spins = 0.002
    for _ in range(4):
        bench.start(512)
        bench.work.run_short()
    assert bench.disk.statistics.short == 4


def test_slow_request_leaves_those_behind_it_to_workers() -> None:
    backend = SlowDisk()
    bench = Bench(backend)
    backend.sleeps = 0.002
    bench.start(512)
    bench.work.run_short()
    bench.start(512, 512, 512)
    bench.work.run_short()
    assert bench.disk.statistics.short == 2
    assert len(bench.work.jobs) > 0
    bench.work.run()
    assert bench.done == [None] * 4


@pytest.mark.parametrize(("mean_ns", "workers"), [(0, 1), (1 << 40, 8)], ids=["quick", "slow"])
def test_as_many_workers_as_the_medium_is_slow(mean_ns: int, workers: int) -> None:
    bench = Bench(MemoryDisk(1 << 20))
    bench.work.is_vcpu = False
    bench.disk._mean_ns = mean_ns
    for _ in range(8):
        bench.start(512)
    assert len(bench.work.jobs) == workers
    bench.work.run()
    assert bench.done == [None] * 8
    assert bench.turns == 8
    assert bench.disk.in_flight == 0


class Watch(MemoryDisk):
    """Notes how many requests had been told of when it was flushed."""

    bench: Bench
    told = -1

    def flush(self) -> None:
        self.told = len(self.bench.done)
        super().flush()


def test_worker_tells_before_it_flushes() -> None:
    backend = Watch(1 << 20)
    bench = backend.bench = Bench(backend)
    bench.work.is_vcpu = False
    bench.disk._mean_ns = 0
    bench.start(512)
    bench.start(512)
    bench.disk.start([Request(Kind.FLUSH, (), (), bench.done.append)], lambda: None)
    bench.work.run()
    assert backend.told == 2
    assert len(bench.done) == 3
