"""Range map, bus dispatch, interrupt lines."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from manor.bus.bus import Bus
from manor.bus.irq import IrqLine, SharedIrq
from manor.bus.range_map import RangeMap
from manor.testing.fakes import FakeIrq
from manor.trace import sink


class Bytes:
    """A target made of bytes; remembers accesses and whether the lock was held."""

    def __init__(self, size: int, lock: threading.RLock | None = None) -> None:
        self.data = bytearray(range(size))
        self.calls: list[tuple[str, int, int]] = []

    def read(self, offset: int, size: int) -> int:
        self.calls.append(("read", offset, size))
        return int.from_bytes(self.data[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        self.calls.append(("write", offset, size))
        self.data[offset : offset + size] = value.to_bytes(size, "little")


@pytest.fixture
def ring() -> Iterator[sink.RingSink]:
    ring = sink.RingSink()
    sink.enable("bus_*", ring)
    yield ring
    sink.disable("bus_*", ring)


def test_range_map() -> None:
    ranges: RangeMap[str] = RangeMap()
    ranges.add(0x100, 0x10, "b")
    ranges.add(0x10, 0x10, "a")
    ranges.add(0x20, 0xE0, "between")
    assert [found.owner for found in ranges] == ["a", "between", "b"]
    assert len(ranges) == 3
    for address, owner in ((0xF, None), (0x10, "a"), (0x1F, "a"), (0x20, "between"), (0x10F, "b"), (0x110, None)):
        found = ranges.find(address)
        assert (found.owner if found else None) == owner
    assert ranges.next_start(0x10) == 0x20
    assert ranges.next_start(0x100) is None
    assert ranges.remove(0x20).size == 0xE0
    assert ranges.find(0x20) is None
    with pytest.raises(KeyError):
        ranges.remove(0x11)


@pytest.mark.parametrize(("start", "size"), [(0, 0), (-1, 4), (0x10, 1), (0, 0x11), (0x1F, 1), (0, 0x100), (5, -1)])
def test_range_map_refuses(start: int, size: int) -> None:
    ranges: RangeMap[str] = RangeMap()
    ranges.add(0x10, 0x10, "a")
    with pytest.raises(ValueError, match="range"):
        ranges.add(start, size, "x")
    assert len(ranges) == 1


def test_accesses_reach_the_target_by_offset() -> None:
    bus = Bus("pio")
    target = Bytes(8)
    bus.map(0x3F8, 8, target, "com1")
    assert bus.read(0x3F9, 2) == 0x0201
    bus.write(0x3FC, 1, 0x1FF)
    assert target.data[4] == 0xFF
    assert target.calls == [("read", 1, 2), ("write", 4, 1)]
    assert bus.find(0x3FA) == (target, 2, "com1")
    assert bus.ranges() == [(0x3F8, 8, "com1")]


def test_unmapped_reads_ones_drops_writes_and_traces(ring: sink.RingSink) -> None:
    bus = Bus("pio")
    assert bus.read(0x80, 1) == 0xFF
    assert bus.read(0x80, 8) == 0xFFFF_FFFF_FFFF_FFFF
    bus.write(0x80, 2, 0x1234)
    assert [name for name, _ in ring.events] == ["bus_unmapped_read"] * 2 + ["bus_unmapped_write"]
    assert ring.events[-1][1] == ("pio", 0x80, 2, 0x1234)
    assert bus.statistics().unmapped == 3


def test_straddling_accesses_are_split() -> None:
    bus = Bus("mmio")
    first, second = Bytes(4), Bytes(4)
    bus.map(0x10, 4, first, "first")
    bus.map(0x14, 4, second, "second")
    assert bus.read(0x12, 4) == 0x01000302
    assert bus.read(0x16, 4) == 0xFFFF0302
    assert bus.read(0xE, 4) == 0x0100FFFF
    bus.write(0x12, 4, 0xAABBCCDD)
    assert first.data == bytes((0, 1, 0xDD, 0xCC))
    assert second.data == bytes((0xBB, 0xAA, 2, 3))
    bus.write(0xF, 8, 0x1122334455667788)
    assert first.data == bytes((0x77, 0x66, 0x55, 0x44))
    assert second.data == bytes((0x33, 0x22, 0x11, 3))


def test_map_refuses_overlap_and_names_the_other() -> None:
    bus = Bus("pio")
    bus.map(0x60, 5, Bytes(5), "keyboard")
    with pytest.raises(ValueError, match=r"pio: clock at \[0x64, 0x66\) overlaps keyboard"):
        bus.map(0x64, 2, Bytes(2), "clock")


def test_unmap_and_remap() -> None:
    bus = Bus("mmio")
    target, other = Bytes(4), Bytes(4)
    bus.map(0x1000, 4, target, "bar")
    bus.map(0x2000, 4, other, "other")
    assert bus.read(0x1001, 1) == 1
    bus.remap(0x1000, 0x1002)
    assert bus.read(0x1002, 1) == 0
    assert bus.read(0x1000, 1) == 0xFF
    with pytest.raises(ValueError, match="overlaps"):
        bus.remap(0x1002, 0x1FFE)
    assert bus.read(0x1003, 1) == 1
    bus.unmap(0x1002)
    assert bus.read(0x1003, 1) == 0xFF
    with pytest.raises(KeyError):
        bus.unmap(0x1002)


def test_targets_run_with_the_machine_lock() -> None:
    lock = threading.RLock()
    bus = Bus("mmio", lock)
    free: list[bool] = []

    def try_lock() -> None:
        taken = lock.acquire(blocking=False)
        free.append(taken)
        if taken:
            lock.release()

    class Probe(Bytes):
        def read(self, offset: int, size: int) -> int:
            thread = threading.Thread(target=try_lock)
            thread.start()
            thread.join()
            return 0

    bus.map(0, 4, Probe(4), "probe")
    bus.read(0, 4)
    assert free == [False]


def test_irq_line_reports_changes_only() -> None:
    irq = FakeIrq()
    line = IrqLine(irq, 4)
    line.raise_()
    line.raise_()
    line.lower()
    line.lower()
    line.pulse()
    assert irq.changes == [(4, True), (4, False), (4, True), (4, False)]
    assert irq.edges(4) == 2
    assert not irq.is_raised(4)


def test_shared_irq_is_wired_or() -> None:
    irq = FakeIrq()
    shared = SharedIrq(irq, 10)
    first, second = shared.line(), shared.line()
    first.raise_()
    second.raise_()
    first.lower()
    assert irq.is_raised(10)
    second.lower()
    assert irq.changes == [(10, True), (10, False)]
