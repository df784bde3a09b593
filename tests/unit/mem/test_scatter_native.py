"""Lists of pieces of guest RAM, against plain slices of the same memory."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manor.base.address import Gpa
from manor.mem.guest_memory import GuestMemory, OutOfRange, Region, slices
from manor.mem.scatter_native import Buffer, GuestBuffers, RamTable, Segments

LOW, HIGH = 0x4000, 0x1_0000
REGIONS = (Region(Gpa(0), LOW), Region(Gpa(HIGH), 0x2000), Region(Gpa(LOW), 0x1000, "rom"))

Pieces = list[tuple[int, int]]


def filled_memory() -> GuestMemory:
    memory = GuestMemory(REGIONS)
    memory.load(0, bytes((7 * index + (index >> 8)) & 0xFF for index in range(LOW)))
    memory.load(HIGH, bytes((3 * index + 1) & 0xFF for index in range(0x2000)))
    return memory


def vector(memory: GuestMemory, pieces: Pieces, offset: int = 0, limit: int = 1 << 40) -> GuestBuffers:
    buffers = memory.buffers_of(pieces, offset, limit)
    assert isinstance(buffers, GuestBuffers)
    return buffers


def contents(memory: GuestMemory, pieces: Pieces) -> bytes:
    return b"".join(memory.read(gpa, size) for gpa, size in pieces)


in_low = st.tuples(st.integers(0, LOW - 0x200), st.integers(0, 0x200))
in_high = st.tuples(st.integers(HIGH, HIGH + 0x1E00), st.integers(0, 0x200))
many = st.lists(st.one_of(in_low, in_high), max_size=12)


@settings(max_examples=150, deadline=None)
@given(pieces=many, offset=st.integers(0, 0x600), limit=st.integers(0, 0x1000))
def test_a_vector_is_the_slices_of_memory(pieces: Pieces, offset: int, limit: int) -> None:
    memory = filled_memory()
    wanted = slices(pieces, offset, limit)
    buffers = vector(memory, pieces, offset, limit)
    assert b"".join(buffers) == contents(memory, wanted)
    assert buffers.nbytes == sum(size for _, size in wanted) == sum(view.nbytes for view in buffers)
    assert len(buffers) == len(list(buffers)) <= len(wanted)


@settings(max_examples=150, deadline=None)
@given(pieces=many, data=st.data())
def test_a_part_is_the_same_bytes(pieces: Pieces, data: st.DataObject) -> None:
    memory = filled_memory()
    whole = vector(memory, pieces)
    start = data.draw(st.integers(0, whole.nbytes))
    size = data.draw(st.integers(0, whole.nbytes - start))
    part = whole.part(start, size)
    assert b"".join(part) == contents(memory, pieces)[start : start + size]
    assert part.nbytes == size
    for bad in ((whole.nbytes + 1, 0), (start, whole.nbytes - start + 1), (1, (1 << 64) - 1)):
        with pytest.raises(IndexError):
            whole.part(*bad)


@settings(max_examples=100, deadline=None)
@given(pieces=many, start=st.integers(0, 0x300))
def test_files_are_read_and_written_in_one_call(pieces: Pieces, start: int) -> None:
    memory = filled_memory()
    buffers = vector(memory, pieces)
    before = contents(memory, pieces)
    with tempfile.TemporaryFile() as file:
        assert buffers.write_to(file.fileno(), start) == len(before)
        file.seek(0)
        assert file.read() == (bytes(start) + before if before else b"")
        # As the host's own call does it with the same pieces, of which some may lie on others.
        other = filled_memory()
        file.seek(start)
        file.write(bytes(index & 0xFF for index in range(buffers.nbytes)))
        file.flush()
        views = other.views_of([piece for piece in pieces if piece[1]])
        assert buffers.read_from(file.fileno(), start) == (os.preadv(file.fileno(), views, start) if views else 0)
        assert memory.read(0, LOW) == other.read(0, LOW)
        assert memory.read(HIGH, 0x2000) == other.read(HIGH, 0x2000)


def test_neighbours_are_one_piece() -> None:
    memory = filled_memory()
    buffers = vector(memory, [(0x1000, 0x1000), (0x2000, 0x10), (0x2010, 1), (0x1000, 1), (HIGH, 2)])
    assert [view.nbytes for view in buffers] == [0x1011, 1, 2]
    assert memoryview(buffers.ranges()).cast("Q").tolist() == [0x1000, 0x1011, 0x1000, 1, HIGH, 2]
    assert isinstance(buffers, Sequence)
    assert buffers[-1] == memory.read(HIGH, 2)
    assert buffers[1:] == [memory.read(0x1000, 1), memory.read(HIGH, 2)]
    with pytest.raises(IndexError):
        buffers[3]


def test_regions_are_not_joined() -> None:
    """Two regions of the host may lie beside each other by chance: a view of both at once there is not."""
    memory = GuestMemory([Region(Gpa(0), 0x1000), Region(Gpa(0x1000), 0x1000)])
    assert [view.nbytes for view in vector(memory, [(0xFF0, 0x10), (0x1000, 0x10)])] == [0x10, 0x10]
    # A piece that spans them is for the general way.
    assert [view.nbytes for view in memory.buffers_of([(0xFF0, 0x20)], 0, 0x20)] == [0x10, 0x10]


@pytest.mark.parametrize("piece", [(LOW - 1, 0x1002), (1 << 40, 1), ((1 << 64) - 1, 1), (HIGH + 0x1FFF, 2)])
def test_what_is_no_memory_is_refused(piece: tuple[int, int]) -> None:
    with pytest.raises(OutOfRange):
        filled_memory().buffers_of([piece], 0, piece[1])


def test_rom_is_read_only() -> None:
    buffers = filled_memory().buffers_of([(LOW, 8)], 0, 8)
    assert not isinstance(buffers, GuestBuffers)
    assert buffers[0].readonly


def test_writes_are_told() -> None:
    memory = filled_memory()
    told: list[tuple[int, int]] = []
    memory.on_write = lambda gpa, size: told.append((gpa, size))
    buffers = vector(memory, [(0x100, 8), (0x3000, 4), (0x108, 8)])
    memory.written_buffers(buffers)
    assert told == [(0x100, 8), (0x3000, 4), (0x108, 8)]
    at_once: list[bytes] = []
    memory.on_write_ranges = at_once.append
    memory.written_buffers(buffers)
    assert at_once == [buffers.ranges()]
    assert len(told) == 3


def test_memory_stays_while_a_vector_is_there(tmp_path: Path) -> None:
    memory = filled_memory()
    buffers, wanted = vector(memory, [(0x10, 0x20)]).part(0x10, 8), memory.read(0x20, 8)
    del memory
    with open(tmp_path / "file", "w+b") as file:
        assert buffers.write_to(file.fileno(), 0) == 8
        assert file.read() == wanted


def test_more_pieces_than_a_call_takes(tmp_path: Path) -> None:
    memory = filled_memory()
    pieces = [(2 * index, 1) for index in range(1100)]
    buffers = vector(memory, pieces)
    with open(tmp_path / "file", "w+b") as file:
        assert buffers.write_to(file.fileno(), 0) == 1024
        assert buffers.part(1024, 76).write_to(file.fileno(), 1024) == 76
        assert file.read() == contents(memory, pieces)


def test_errors_of_the_host(tmp_path: Path) -> None:
    buffers = vector(filled_memory(), [(0, 4)])
    for call in (lambda: buffers.read_from(-1, 0), lambda: buffers.write_to(-1, 0)):
        with pytest.raises(OSError) as raised:
            call()
        assert raised.value.errno == errno.EBADF
    (tmp_path / "file").write_bytes(b"ab")
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        assert buffers.read_from(fd, 0) == 2  # the end of the file
        with pytest.raises(OverflowError):
            buffers.read_from(fd, 1 << 63)
        with pytest.raises(OSError) as raised:
            buffers.write_to(fd, 0)
        assert raised.value.errno == errno.EBADF
    finally:
        os.close(fd)


def test_segments_are_a_sequence_of_buffers() -> None:
    segments = Segments([(0x10, 1), (1 << 50, 2)])
    assert list(segments) == [Buffer(0x10, 1), Buffer(1 << 50, 2)]
    assert (len(segments), segments.size, segments[1].size) == (2, 3, 2)
    assert list(Segments()) == []
    with pytest.raises(OverflowError):
        Segments([(0, -1)])


def test_a_table_needs_mappings_of_the_right_size() -> None:
    with pytest.raises(ValueError, match="in a mapping of 8"):
        RamTable([(0, 16, memoryview(bytearray(8)))])
