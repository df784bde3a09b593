"""Requests whose pieces are a guest's memory: every backend gives what it gives for other pieces."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from manor.backends.block.api import BlockBackend
from manor.backends.block.file import HostFile
from manor.backends.block.open import OpenOptions, open_image
from manor.backends.block.operations import create
from manor.base.address import Gpa
from manor.base.errors import HostError
from manor.mem.guest_memory import GuestMemory, Region
from manor.mem.scatter_native import GuestBuffers
from manor.spec.block import CacheMode

RAM = 1 << 21
SIZE = 3 << 20


def scattered(rng: random.Random, memory: GuestMemory, size: int, unit: int) -> GuestBuffers:
    """Pieces of whole `unit`s at different places, `size` bytes in all; some beside each other."""
    places = rng.sample(range(RAM // unit), -(-size // unit))
    if rng.random() < 0.3:
        places.sort()
    left, pieces = size, []
    for place in places:
        pieces.append((place * unit, min(unit, left)))
        left -= unit
    buffers = memory.buffers_of(pieces, 0, size)
    assert isinstance(buffers, GuestBuffers)
    return buffers


def fill(buffers: GuestBuffers, data: bytes) -> None:
    start = 0
    for piece in buffers:
        piece[:] = data[start : start + piece.nbytes]
        start += piece.nbytes


def opened(folder: Path, kind: str) -> BlockBackend:
    path = str(folder / "disk")
    cache: CacheMode = "direct" if kind.endswith("direct") else "writeback"
    if kind.startswith("raw"):
        Path(path).write_bytes(bytes(SIZE))
        return open_image(path, OpenOptions(format="raw", cache=cache))
    options = {"extended_l2": "on", "cluster_size": "16k"} if kind == "extended" else {}
    create(path, SIZE, options=options)
    return open_image(path, OpenOptions(format="qcow2", cache=cache))


@pytest.mark.parametrize("kind", ["raw", "raw direct", "qcow2", "extended", "qcow2 direct"])
def test_random_requests(tmp_path: Path, kind: str) -> None:
    rng = random.Random(kind)
    memory = GuestMemory([Region(Gpa(0), RAM)])
    try:
        image = opened(tmp_path, kind)
    except HostError as error:
        pytest.skip(str(error))
    model = bytearray(SIZE)
    for _ in range(150):
        unit = rng.choice((512, 512, 4096, 100))
        size = rng.choice((unit, rng.randint(1, 300) * 512, rng.randint(1, 1000)))
        offset = rng.randrange(0, SIZE - size)
        if rng.random() < 0.8:
            offset -= offset % 512
        buffers = scattered(rng, memory, size, unit)
        action = rng.random()
        if action < 0.45:
            data = rng.randbytes(size)
            fill(buffers, data)
            image.write(offset, buffers)
            model[offset : offset + size] = data
            assert b"".join(buffers) == data
        elif action < 0.55:
            image.write_zeroes(offset, size, True)
            model[offset : offset + size] = bytes(size)
        elif action < 0.8:
            fill(buffers, b"\xaa" * size)
            image.read(offset, buffers)
            assert b"".join(buffers) == model[offset : offset + size]
        elif image.read_nowait(offset, buffers):
            assert b"".join(buffers) == model[offset : offset + size]
    image.close()
    again = open_image(str(tmp_path / "disk"), OpenOptions(format=kind.split()[0].replace("extended", "qcow2")))
    found = memoryview(bytearray(SIZE))
    again.read(0, [found])
    assert found == model
    again.close()


def test_past_the_end_of_a_file_it_reads_as_zeros(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345678" * 100)
    memory = GuestMemory([Region(Gpa(0), RAM)])
    buffers = scattered(random.Random(1), memory, 2000, 100)
    fill(buffers, b"\xaa" * 2000)
    with open(tmp_path / "file", "rb") as opened_file:
        file = HostFile(os.dup(opened_file.fileno()), "file", read_only=True)
        assert not file.read_nowait(0, buffers)
        file.read(0, buffers)
        file.close()
    assert b"".join(buffers) == b"12345678" * 100 + bytes(1200)
