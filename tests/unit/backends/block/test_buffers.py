"""Lists of buffers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manor.backends.block.buffers import ZEROS, Cursor, cut, is_zero, join, total, zero_fill, zeros
from manor.backends.block.file import remaining

PIECES = st.lists(st.binary(max_size=20), max_size=6)


@given(PIECES, st.lists(st.integers(0, 30), max_size=6))
def test_a_cursor_takes_what_lies_end_to_end(pieces: list[bytes], sizes: list[int]) -> None:
    views = [memoryview(bytearray(piece)) for piece in pieces]
    whole = b"".join(pieces)
    assert total(views) == len(whole)
    cursor = Cursor(views)
    at = 0
    for size in sizes:
        size = min(size, len(whole) - at)
        taken = cursor.take(size)
        assert join(taken) == whole[at : at + size]
        assert all(piece.nbytes for piece in taken)
        at += size


@given(PIECES, st.data())
def test_parts(pieces: list[bytes], data: st.DataObject) -> None:
    views = [memoryview(bytearray(piece)) for piece in pieces]
    whole = b"".join(pieces)
    start = data.draw(st.integers(0, len(whole)))
    size = data.draw(st.integers(0, len(whole) - start))
    assert join(cut(views, start, size)) == whole[start : start + size]
    assert join(remaining(views, start)) == whole[start:]
    zero_fill(cut(views, start, size))
    assert join(views) == whole[:start] + bytes(size) + whole[start + size :]


@pytest.mark.parametrize("size", [0, 1, len(ZEROS) - 1, len(ZEROS), len(ZEROS) + 1, 3 * len(ZEROS) + 5])
def test_zeros(size: int) -> None:
    assert total(zeros(size)) == size
    data = bytearray(size)
    assert is_zero(data)
    view = memoryview(bytearray(b"x" * size))
    zero_fill([view])
    assert is_zero(view)
    for position in {0, size // 2, size - 1}:
        if 0 <= position < size:
            data[position] = 1
            assert not is_zero(data)
            data[position] = 0
