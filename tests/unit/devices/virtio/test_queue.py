"""Split virtqueue: normal use, suppression, hostile rings."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manor.base.address import Gpa
from manor.base.errors import SavedStateError, StateError
from manor.devices.virtio.queue import (
    CHAIN_LIMIT,
    VIRTQ_AVAIL_F_NO_INTERRUPT,
    VIRTQ_DESC_F_INDIRECT,
    VIRTQ_DESC_F_NEXT,
    VIRTQ_DESC_F_WRITE,
    Queue,
)
from manor.mem.guest_memory import GuestMemory, Region
from manor.testing.virtq_driver import Allocator, Used, VirtqDriver

RAM_SIZE = 1 << 20
SECOND = 1 << 32
"""Where two regions of RAM meet."""
SIZE = 8


class Bench:
    """A queue, its driver, and the reasons it broke for."""

    def __init__(self, size: int = SIZE, *, event_idx: bool = False, indirect: bool = True) -> None:
        rom = Region(Gpa(RAM_SIZE), 0x1000, "rom")
        high = (Region(Gpa(SECOND - 0x1000), 0x1000), Region(Gpa(SECOND), 0x1000))
        self.memory = GuestMemory([Region(Gpa(0), RAM_SIZE), rom, *high])
        self.reasons: list[str] = []
        self.queue = Queue(0, 256, self.memory, self.reasons.append)
        self.driver = VirtqDriver(self.memory, Allocator(0x1000, RAM_SIZE), size)
        self.driver.attach(self.queue)
        self.queue.event_idx = event_idx
        self.queue.indirect = indirect
        self.queue.enable()


def test_chain_goes_around() -> None:
    bench = Bench()
    head = bench.driver.add([b"head", b"body"], [4, 8])
    chain = bench.queue.pop()
    assert chain is not None
    assert (chain.head, chain.readable_size, chain.writable_size) == (head, 8, 12)
    assert chain.read(100) == b"headbody"
    assert chain.read(3, 3) == b"dbo"
    assert chain.write(b"0123456789ABCDEF") == 12
    assert chain.write(b"xy", 3) == 2
    bench.queue.add_used(chain, 12)
    used = bench.driver.used()
    assert used == [Used(head, 12)]
    assert bench.driver.written(used[0]) == b"012xy56789AB"
    assert bench.queue.pop() is None
    assert not bench.reasons


def test_indexes_wrap() -> None:
    bench = Bench(size=4)
    bench.queue.next_avail = bench.queue.seen_avail = bench.queue.next_used = 0xFFFE
    bench.driver.available = bench.driver._seen_used = 0xFFFE
    bench.memory.write_u16(bench.driver.driver_area + 2, 0xFFFE)
    for _ in range(6):
        head = bench.driver.add([b"x"])
        chain = bench.queue.pop()
        assert chain is not None
        bench.queue.add_used(chain, 0)
        assert bench.driver.used() == [Used(head, 0)]


def test_indirect_chain() -> None:
    bench = Bench()
    bench.driver.add([b"ab", b"cd"], [16], indirect=True)
    chain = bench.queue.pop()
    assert chain is not None
    assert chain.read(10) == b"abcd"
    assert chain.writable_size == 16


@pytest.mark.parametrize("start", [0x8000, SECOND - 8])
def test_what_the_host_writes_is_told(start: int) -> None:
    """In one region of RAM, and in two."""
    bench = Bench()
    bench.driver.write_descriptor(0, start, 17, VIRTQ_DESC_F_WRITE)
    bench.driver.make_available(0)
    chain = bench.queue.pop()
    assert chain is not None
    told: list[tuple[int, int]] = []
    bench.memory.on_write = lambda gpa, size: told.append((gpa, size))
    buffers = chain.writable_buffers(16)
    assert b"".join(buffers) == bytes(16)
    for piece in buffers:
        piece[:] = b"\x55" * piece.nbytes
    chain.filled(buffers)
    assert told == [(start, 16)]
    told.clear()
    chain.fill_last(7)
    assert told[-1] == (start, 17)
    assert bench.memory.read(start, 17) == b"\x55" * 16 + b"\x07"
    told.clear()
    chain.write_last(8)
    assert told == [(start + 16, 1)]
    assert bench.memory.read_u8(start + 16) == 8


def test_undone_chain_comes_again() -> None:
    bench = Bench()
    bench.driver.add([b"one"])
    chain = bench.queue.pop()
    assert chain is not None
    bench.queue.undo_pop(chain)
    again = bench.queue.pop()
    assert again is not None
    assert again.read(9) == b"one"


def test_chain_of_queue_that_was_reset_is_not_returned() -> None:
    bench = Bench()
    bench.driver.add([b"x"])
    chain = bench.queue.pop()
    assert chain is not None
    bench.queue.reset()
    bench.queue.add_used(chain, 0)
    bench.queue.undo_pop(chain)
    assert bench.driver.used() == []


def test_interrupt_flag() -> None:
    bench = Bench()
    assert not bench.queue.take_interrupt()
    for flags, wanted in ((0, True), (VIRTQ_AVAIL_F_NO_INTERRUPT, False)):
        bench.driver.set_flags(flags)
        bench.driver.add([b"x"])
        chain = bench.queue.pop()
        assert chain is not None
        bench.queue.add_used(chain, 0)
        assert bench.queue.take_interrupt() is wanted
        assert not bench.queue.take_interrupt()


def test_event_idx_suppresses_interrupts_and_kicks() -> None:
    bench = Bench(event_idx=True)
    bench.driver.set_used_event(1)  # told at the second used chain
    results = []
    for _ in range(3):
        bench.driver.add([b"x"])
        chain = bench.queue.pop()
        assert chain is not None
        bench.queue.add_used(chain, 0)
        results.append(bench.queue.take_interrupt())
    assert results == [False, True, False]
    assert bench.queue.pop() is None
    assert bench.driver.avail_event == 3


def test_sizes() -> None:
    memory = GuestMemory([Region(Gpa(0), 0x1000)])
    queue = Queue(0, 16, memory)
    assert [size for size in (0, 3, 32, 1 << 15, 16, 1) if queue.set_size(size)] == [16, 1]
    for bad in (0, 3, 1 << 16):
        with pytest.raises(ValueError, match="power of two"):
            Queue(0, bad, memory)


@pytest.mark.parametrize(
    ("area", "value"),
    [
        ("descriptor_area", 0x1008),
        ("driver_area", 0x1001),
        ("device_area", 0x1002),
        ("descriptor_area", RAM_SIZE - 16),
        ("driver_area", 1 << 63),
        ("device_area", RAM_SIZE),  # ROM
        ("device_area", (1 << 64) - 4),
    ],
)
def test_bad_areas_break(area: str, value: int) -> None:
    bench = Bench()
    bench.queue.enabled = False
    setattr(bench.queue, area, value)
    bench.queue.enable()
    assert bench.queue.broken
    assert len(bench.reasons) == 1
    assert bench.queue.pop() is None
    assert not bench.queue.has_available()
    assert not bench.queue.take_interrupt()


def _loop(bench: Bench) -> None:
    for index in range(SIZE):
        bench.driver.write_descriptor(index, 0x8000, 1, VIRTQ_DESC_F_NEXT, (index + 1) % SIZE)
    bench.driver.make_available(0)


def _one(gpa: int, size: int, flags: int, following: int = 0):  # type: ignore[no-untyped-def]
    def make(bench: Bench) -> None:
        bench.driver.write_descriptor(0, gpa, size, flags, following)
        bench.driver.make_available(0)

    return make


def _order(bench: Bench) -> None:
    bench.driver.write_descriptor(0, 0x8000, 1, VIRTQ_DESC_F_WRITE | VIRTQ_DESC_F_NEXT, 1)
    bench.driver.write_descriptor(1, 0x8000, 1, 0)
    bench.driver.make_available(0)


def _nested(bench: Bench) -> None:
    bench.memory.write(0x8000, struct.pack("<QIHH", 0x9000, 16, VIRTQ_DESC_F_INDIRECT, 0))
    _one(0x8000, 16, VIRTQ_DESC_F_INDIRECT)(bench)


def _table_loop(bench: Bench) -> None:
    bench.memory.write(0x8000, struct.pack("<QIHH", 0x9000, 1, VIRTQ_DESC_F_NEXT, 0))
    _one(0x8000, 0x10000, VIRTQ_DESC_F_INDIRECT)(bench)


def _busy_head(bench: Bench) -> None:
    bench.driver.add([b"x"])
    assert bench.queue.pop() is not None
    bench.driver.make_available(0)


@pytest.mark.parametrize(
    ("attack", "reason"),
    [
        (_loop, "more than 8"),
        (_one(0x8000, 1, VIRTQ_DESC_F_NEXT, SIZE), "next descriptor 8 of 8"),
        (_one(1 << 40, 1, 0), "not in RAM"),
        (_one((1 << 64) - 1, 0xFFFF_FFFF, 0), "not in RAM"),
        (_one(RAM_SIZE - 1, 2, VIRTQ_DESC_F_WRITE), "not in RAM"),
        (_one(0x8000, 0, VIRTQ_DESC_F_INDIRECT), "table of 0"),
        (_one(0x8000, 17, VIRTQ_DESC_F_INDIRECT), "table of 17"),
        (_one(1 << 40, 16, VIRTQ_DESC_F_INDIRECT), "not in RAM"),
        (_one(0x8000, 16, VIRTQ_DESC_F_INDIRECT | VIRTQ_DESC_F_NEXT, 1), "with a next one"),
        (_order, "after a writable"),
        (_nested, "inside an indirect"),
        (_table_loop, f"more than {CHAIN_LIMIT}"),
        (lambda bench: bench.driver.make_available(SIZE), "names descriptor 8"),
        (lambda bench: bench.memory.write_u16(bench.driver.driver_area + 2, SIZE + 1), "ahead"),
        (_busy_head, "while the device holds it"),
    ],
)
def test_attack_breaks_once(attack, reason: str) -> None:  # type: ignore[no-untyped-def]
    bench = Bench()
    attack(bench)
    assert bench.queue.pop() is None
    assert bench.queue.broken
    assert bench.queue.pop() is None
    assert len(bench.reasons) == 1
    assert reason in bench.reasons[0]


def test_indirect_needs_the_feature() -> None:
    bench = Bench(indirect=False)
    bench.driver.add([b"x"], indirect=True)
    assert bench.queue.pop() is None
    assert "VIRTIO_F_INDIRECT_DESC" in bench.reasons[0]


@settings(max_examples=60, deadline=None)
@given(
    table=st.lists(
        st.tuples(
            st.one_of(st.integers(0, RAM_SIZE), st.integers(0, (1 << 64) - 1), st.sampled_from([0x1000, 0x2000])),
            st.one_of(st.integers(0, 64), st.sampled_from([16, 32, 0x100, 0x4000, 0xFFFF_FFFF])),
            st.integers(0, 7),
            st.integers(0, SIZE + 1),
        ),
        max_size=SIZE,
    ),
    ring=st.lists(st.integers(0, SIZE), min_size=SIZE, max_size=SIZE),
    index=st.integers(0, SIZE + 2),
    event_idx=st.booleans(),
)
def test_fuzz_no_exception_no_unbounded_work(
    table: list[tuple[int, int, int, int]], ring: list[int], index: int, event_idx: bool
) -> None:
    bench = Bench(event_idx=event_idx)
    for position, entry in enumerate(table):
        bench.driver.write_descriptor(position, *entry)
    bench.memory.write(bench.driver.driver_area, struct.pack("<HH8H", 0, index, *ring))
    for _ in range(SIZE + 3):
        chain = bench.queue.pop()
        if chain is None:
            break
        assert len(chain.readable) + len(chain.writable) <= CHAIN_LIMIT
        chain.read(256)
        written = chain.write(b"\xff" * 256)  # may hit the rings themselves
        bench.queue.add_used(chain, written)
        bench.queue.take_interrupt()
    assert bench.queue.pop() is None or not bench.queue.broken


descriptors = st.tuples(
    st.one_of(
        st.sampled_from([0x8000, 0x8100, 0x1000, RAM_SIZE - 0x100, RAM_SIZE, SECOND - 0x20, SECOND]),
        st.integers(0, (1 << 64) - 1),
    ),
    st.one_of(st.integers(0, 9).map(lambda count: 16 * count), st.sampled_from([1, 0x2000, 0xFFFF_FFFF])),
    st.one_of(st.sampled_from([0, 1, 1, 1, 2, 3, 3, 4]), st.integers(0, 7)),
    st.integers(0, SIZE + 1),
)


@settings(max_examples=400, deadline=None)
@given(
    table=st.lists(descriptors, min_size=SIZE, max_size=SIZE),
    indirect=st.lists(descriptors, max_size=16),
    head=st.integers(0, SIZE - 1),
    allows_indirect=st.booleans(),
)
def test_both_parsers_find_the_same(
    table: list[tuple[int, int, int, int]],
    indirect: list[tuple[int, int, int, int]],
    head: int,
    allows_indirect: bool,
) -> None:
    """What the native one takes is what the definition finds; what it leaves is wrong or rare."""
    bench = Bench(indirect=allows_indirect)
    for position, entry in enumerate(table):
        bench.driver.write_descriptor(position, *entry)
    for position, entry in enumerate(indirect):
        bench.memory.write(0x8000 + 16 * position, struct.pack("<QIHH", *entry))
    queue = bench.queue
    fast = bench.memory.ram_table.collect(queue.descriptor_area, SIZE, head, SIZE, CHAIN_LIMIT, allows_indirect)
    chain = queue.collect_slowly(head)
    if fast is not None:
        assert chain is not None
        assert [list(part) for part in fast] == [list(chain.readable), list(chain.writable)]
        assert [part.size for part in fast] == [chain.readable_size, chain.writable_size]
    elif chain is not None:
        # Only a piece or a table in two regions.
        spans = [*chain.readable, *chain.writable, *((gpa, size) for gpa, size, flags, _ in table if flags & 4)]
        assert any(gpa < SECOND < gpa + size for gpa, size in spans)


@pytest.mark.parametrize("is_direct", [True, False])
def test_longest_chain_of_both_parsers(is_direct: bool) -> None:
    """Descriptors before an indirect table do not count for its chain; room for pieces is bounded all the same."""
    bench = Bench()
    for position in range(CHAIN_LIMIT):
        flags = VIRTQ_DESC_F_NEXT if position < CHAIN_LIMIT - 1 else VIRTQ_DESC_F_WRITE
        bench.memory.write(0x1_0000 + 16 * position, struct.pack("<QIHH", 0x8000, 1, flags, position + 1))
    if is_direct:
        bench.driver.write_descriptor(0, 0x8000, 1, VIRTQ_DESC_F_NEXT, 1)
    bench.driver.write_descriptor(int(is_direct), 0x1_0000, 16 * CHAIN_LIMIT, VIRTQ_DESC_F_INDIRECT, 0)
    bench.driver.make_available(0)
    queue = bench.queue
    fast = bench.memory.ram_table.collect(queue.descriptor_area, SIZE, 0, SIZE, CHAIN_LIMIT, True)
    assert (fast is None) is is_direct
    chain = queue.pop()
    assert chain is not None
    assert (len(chain.readable), len(chain.writable)) == (CHAIN_LIMIT - 1 + is_direct, 1)


def test_save_and_load() -> None:
    bench = Bench()
    bench.driver.add([b"x"])
    chain = bench.queue.pop()
    assert chain is not None
    with pytest.raises(StateError, match="in flight"):
        bench.queue.save()
    bench.queue.add_used(chain, 0)
    state = bench.queue.save()
    bench.driver.add([b"second"])
    other = Queue(0, 256, bench.memory)
    other.load(state)
    assert other.save() == state
    found = other.pop()
    assert found is not None
    assert found.read(9) == b"second"


@pytest.mark.parametrize(
    "change",
    [
        {"size": 3},
        {"size": 512},
        {"size": True},
        {"next_avail": 1 << 16},
        {"next_used": -1},
        {"descriptor_area": 1 << 64},
        {"device_area": 1},
        {"driver_area": 1 << 40},
        {"enabled": 1},
    ],
)
def test_load_refuses(change: dict[str, int]) -> None:
    bench = Bench()
    state = bench.queue.save()
    with pytest.raises(SavedStateError):
        bench.queue.load(replace(state, **change))  # type: ignore[arg-type]
    assert bench.queue.save() == state
    with pytest.raises(SavedStateError):
        bench.queue.check("queue")  # type: ignore[arg-type]
