"""Reference counts: widths, the allocator, a table that has to move, and what a crash while it moves leaves."""

from __future__ import annotations

import random
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manor.backends.block.api import BlockError
from manor.backends.block.qcow2.check import Checker, check_file
from manor.backends.block.qcow2.create import Qcow2Options, create_qcow2
from manor.backends.block.qcow2.header import read_header
from manor.backends.block.qcow2.layout import Geometry
from manor.backends.block.qcow2.open import assemble
from manor.backends.block.qcow2.refcounts import Refcounts, decode_counts, encode_counts, read_table
from manor.backends.block.qcow2.usage import Usage
from manor.testing.storage import MemoryFile, RecordingFile

WIDTHS = (1, 2, 4, 8, 16, 32, 64)


@given(bits=st.sampled_from(WIDTHS), data=st.binary(min_size=64, max_size=64))
def test_counts_of_every_width_survive(bits: int, data: bytes) -> None:
    counts = decode_counts(data, bits)
    assert len(counts) == 64 * 8 // bits
    assert max(counts) < 1 << bits
    assert encode_counts(counts, bits) == data


def test_narrow_counts_fill_a_byte_from_its_lowest_bit() -> None:
    """Specification, "Refcount block entry": bit 0 means the least significant bit."""
    assert decode_counts(b"\x05", 1).tolist() == [1, 0, 1, 0, 0, 0, 0, 0]
    assert decode_counts(b"\xe4", 2).tolist() == [0, 1, 2, 3]
    assert decode_counts(b"\x21", 4).tolist() == [1, 2]
    assert decode_counts(b"\x01\x02", 16).tolist() == [0x0102]


def make(bits: int = 16, clusters: int = 1) -> tuple[MemoryFile, Refcounts]:
    """An image of tiny clusters, and the reference counts of it."""
    file = MemoryFile()
    create_qcow2(file, clusters * 512, Qcow2Options(cluster_size=512, refcount_bits=bits))
    header = read_header(file)
    table = read_table(file, header.geometry, header.refcount_table_offset, header.refcount_table_clusters)
    return file, Refcounts(file, header.geometry, header.refcount_table_offset, table, set(), 1000)


@pytest.mark.parametrize("bits", WIDTHS)
def test_the_first_free_clusters_are_taken(bits: int) -> None:
    _, counts = make(bits)
    assert [counts.get(cluster) for cluster in range(6)] == [1, 1, 1, 1, 0, 0]
    assert counts.allocate(3) == (4, 3)
    assert counts.allocate(2) == (7, 2)
    counts.add(5, -1)
    assert counts.allocate(9) == (5, 1), "a gap is filled, as far as it goes"
    assert counts.allocate(1) == (9, 1)
    counts.add(6, -1)
    assert counts.allocate_exactly(2) == 10, "two in a row are not in the gap"
    assert counts.allocate(1) == (6, 1)
    assert counts.take(20)
    assert not counts.take(20)
    first, count = counts.allocate(30)
    assert (first, count) == (12, 8)


def test_counts_have_an_end_and_a_beginning() -> None:
    _, counts = make(2)
    cluster, _ = counts.allocate(1)
    counts.add(cluster, 2)
    with pytest.raises(BlockError, match="used 4 times; reference counts of 2 bits end at 3"):
        counts.add(cluster, 1)
    counts.add(cluster, -3)
    with pytest.raises(BlockError, match="used but not counted"):
        counts.add(cluster, -1)


def test_taking_the_place_of_a_block_to_come() -> None:
    """The first cluster of an area that no block counts becomes the block, so it cannot be taken for anything else."""
    _, counts = make()
    entries = Geometry(9, 4, False).refcount_entries
    assert not counts.take(entries)
    assert counts.get(entries) == 1
    assert counts.take(entries + 1)


@pytest.mark.parametrize("bits", [8, 16, 64])
def test_the_table_moves_when_it_is_full(bits: int) -> None:
    """More clusters than the first table can count, while the power fails again and again."""
    size = 4 << 20 if bits == 64 else 24 << 20
    empty = MemoryFile()
    create_qcow2(empty, size, Qcow2Options(cluster_size=512, refcount_bits=bits))
    file = RecordingFile(empty.data)
    image = assemble(file, file, None, read_header(file), is_read_only=False)
    before = image.core.refcounts.offset
    rng = random.Random(bits)
    block = rng.randbytes(1 << 20)
    flushed: list[tuple[int, int]] = []
    for offset in range(0, size, 1 << 20):
        image.write(offset, [memoryview(block)])
        image.flush()
        flushed.append((len(file.log), offset + (1 << 20)))
    assert image.core.refcounts.offset != before
    header = read_header(file)
    assert header.refcount_table_offset == image.core.refcounts.offset
    image.close()
    assert check_file(file, read_header(file)).is_clean
    moves = [
        index
        for index, record in enumerate(file.log)
        if isinstance(record, tuple) and record[0] == 48 and len(record[1]) == 12
    ]
    assert moves
    for at in range(moves[0] - 6, moves[0] + 6):
        for variant in range(3):
            medium = file.crashed(at, random.Random(f"{at} {variant}") if variant else None)
            checker = Checker(medium, read_header(medium))
            checker.run()
            assert (checker.corruptions, checker.under, checker.flags) == (0, 0, []), checker.messages
            whole = max((end for length, end in flushed if length <= at), default=0)
            again = assemble(medium, medium, None, read_header(medium), is_read_only=False)
            data = bytearray(whole)
            again.read(0, [memoryview(data)])
            assert data == block * (whole >> 20)


def test_usage_finds_where_counts_differ() -> None:
    usage = Usage()
    for cluster in (1, 1, 5, 1000):
        usage.add(cluster)
    assert (usage.get(1), usage.get(2), usage.get(1000), usage.get(10**9), usage.last) == (2, 0, 1, 0, 1000)
    counts = array("H", [0] * 1024)
    counts[1], counts[5], counts[7] = 2, 0, 3
    assert list(usage.differences(0, counts)) == [(5, 0, 1), (7, 3, 0), (1000, 0, 1)]
    assert list(usage.differences(3, counts[3:7])) == [(5, 0, 1)]
