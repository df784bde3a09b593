"""The native part of a virtqueue: areas that do not fit, copies across regions of RAM."""

from __future__ import annotations

import pytest

from manor.base.address import Gpa
from manor.mem.guest_memory import GuestMemory, Region
from manor.mem.ring_native import Chain, Ring
from manor.mem.scatter_native import Segments

SECOND = 0x10000
"""Where two regions of RAM meet."""


def make_memory() -> GuestMemory:
    memory = GuestMemory([Region(Gpa(0), SECOND), Region(Gpa(SECOND), 0x1000)])
    memory.load(0, bytes(index * 7 & 0xFF for index in range(SECOND + 0x1000)))
    return memory


@pytest.mark.parametrize(
    ("size", "driver", "device"),
    [(0, 6, 6), (3, 12, 30), (65536, 6 + 131072, 6 + 524288), (8, 21, 70), (8, 23, 70), (8, 22, 69), (8, 22, 71)],
)
def test_areas_of_another_size_are_refused(size: int, driver: int, device: int) -> None:
    ring = Ring(0, make_memory(), 1024)
    ring.size = size
    with pytest.raises(ValueError, match="entries"):
        ring.attach(memoryview(bytearray(driver)), memoryview(bytearray(device)))
    assert ring.pop() is None


def test_without_areas_there_is_nothing() -> None:
    ring = Ring(0, make_memory(), 1024)
    ring.enabled = True
    assert ring.pop() is None
    assert not ring.has_available()
    assert not ring.take_interrupt()


PIECES = Segments([(0x100, 5), (SECOND - 3, 8), (0x200, 4)])


@pytest.mark.parametrize("offset", [0, 3, 5, 7, 13, 16, 17, 20])
@pytest.mark.parametrize("limit", [0, 1, 4, 9, 17, 100])
def test_a_copy_is_the_pieces_laid_end_to_end(offset: int, limit: int) -> None:
    memory = make_memory()
    whole = b"".join(memory.read(gpa, size) for gpa, size in PIECES)
    chain = Chain(0, memory, PIECES, Segments())
    assert chain.read(limit, offset) == whole[offset : offset + limit]


@pytest.mark.parametrize("offset", [0, 3, 5, 7, 13, 16, 17, 20])
@pytest.mark.parametrize("size", [0, 1, 4, 9, 17, 100])
def test_what_is_written_is_told(offset: int, size: int) -> None:
    memory = make_memory()
    expected = bytearray(b"".join(memory.read(gpa, size) for gpa, size in PIECES))
    told: dict[int, int] = {}
    memory.on_write = lambda gpa, size: told.update(dict.fromkeys(range(gpa, gpa + size), 1))
    data = bytes(range(0x80, 0x80 + size))
    chain = Chain(0, memory, Segments(), PIECES)
    done = chain.write(memoryview(data), offset)
    assert done == max(0, min(size, 17 - offset))
    expected[offset : offset + done] = data[:done]
    assert b"".join(memory.read(gpa, size) for gpa, size in PIECES) == expected
    assert len(told) == done
    assert all(any(gpa <= address < gpa + length for gpa, length in PIECES) for address in told)
