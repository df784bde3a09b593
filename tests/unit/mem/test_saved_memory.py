"""Pieces of memory: what is in use, all of it, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manor.base.address import PAGE_SIZE, Gpa
from manor.base.errors import SavedStateError
from manor.mem import saved_memory
from manor.mem.guest_memory import GuestMemory, Region
from manor.mem.saved_memory import PIECE, load_piece, pieces, touched

MIB = 1 << 20
REGIONS = [Region(Gpa(0), 8 * MIB), Region(Gpa(8 * MIB), 4 * MIB), Region(Gpa(64 * MIB), PAGE_SIZE, "rom")]


def make() -> GuestMemory:
    return GuestMemory(REGIONS)


def copy(memory: GuestMemory) -> GuestMemory:
    other = make()
    for gpa, data, _ in pieces(memory, touched(memory)):
        load_piece(other, gpa, data)
    return other


def test_untouched_memory_is_not_read() -> None:
    memory = make()
    assert sum(size for _, size in touched(memory)) < MIB
    memory.write(5 * MIB, b"x")
    ranges = touched(memory)
    assert any(gpa <= 5 * MIB < gpa + size for gpa, size in ranges)
    assert [gpa for gpa, _, _ in pieces(memory, ranges)] == [5 * MIB]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12 * MIB - 5000), st.binary(min_size=1, max_size=5000)), max_size=8))
def test_round_trip(writes: list[tuple[int, bytes]]) -> None:
    memory = make()
    for gpa, data in writes:
        memory.write(gpa, data)
    other = copy(memory)
    assert other.read(0, 12 * MIB) == memory.read(0, 12 * MIB)


def test_pieces_are_bounded_and_count_up() -> None:
    memory = make()
    memory.write(0, b"y" * (3 * MIB + 10))
    ranges = touched(memory)
    found = list(pieces(memory, ranges))
    assert all(0 < len(data) <= PIECE and len(data) % PAGE_SIZE == 0 for _, data, _ in found)
    counts = [done for _, _, done in found]
    assert counts == sorted(counts)
    assert counts[-1] <= sum(size for _, size in ranges)


def test_a_host_that_does_not_tell_what_was_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    memory = make()
    memory.write(9 * MIB, b"z")
    monkeypatch.setattr(saved_memory, "open", refuse, raising=False)
    assert touched(memory) == [(0, 8 * MIB), (8 * MIB, 4 * MIB)]
    assert copy(memory).read(9 * MIB, 1) == b"z"


@pytest.mark.parametrize(("gpa", "size"), [(1, 4096), (0, 100), (0, 0), (12 * MIB, 4096), (64 * MIB, 4096)])
def test_pieces_that_are_not_in_ram(gpa: int, size: int) -> None:
    with pytest.raises(SavedStateError, match="are not in RAM"):
        load_piece(make(), gpa, bytes(size))
