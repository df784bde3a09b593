"""An open image: what costs a flush, where space goes and comes back, errors on the way."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from manor.backends.block.api import BlockError, Described
from manor.backends.block.open import OpenOptions, open_image
from manor.backends.block.operations import check, create
from manor.backends.block.qcow2 import layout
from manor.backends.block.qcow2.check import check_file
from manor.backends.block.qcow2.create import Qcow2Options, create_qcow2
from manor.backends.block.qcow2.header import Header, read_header
from manor.backends.block.qcow2.image import Qcow2Image
from manor.backends.block.qcow2.open import assemble
from manor.backends.block.qcow2.snapshot_table import Snapshot, read_snapshots
from manor.base.errors import HostError
from manor.testing.storage import MemoryFile

MiB = 1 << 20


def make(options: Qcow2Options | None = None, size: int = MiB) -> tuple[MemoryFile, Qcow2Image]:
    file = MemoryFile()
    create_qcow2(file, size, options or Qcow2Options(cluster_size=4096))
    return file, assemble(file, file, None, read_header(file), is_read_only=False)


def write(image: Qcow2Image, offset: int, data: bytes) -> None:
    image.write(offset, [memoryview(data)])


def test_what_a_flush_costs() -> None:
    """Nothing new: one flush of the medium. New clusters: two, so that tables never run ahead of data."""
    file, image = make()
    write(image, 0, b"x" * 8192)
    before = file.flushes
    image.flush()
    assert file.flushes - before == 2
    write(image, 100, b"y" * 5000)
    before = file.flushes
    image.flush()
    image.flush()
    assert file.flushes - before == 2
    before, writes = file.flushes, file.writes
    image.discard(0, 4096)
    image.flush()
    assert file.flushes - before == 2
    assert file.writes - writes == 2, "the sector of the L2 table, and the hole"


def test_one_changed_entry_writes_no_whole_table() -> None:
    file, image = make(Qcow2Options(), 64 * MiB)
    write(image, 0, b"x")
    image.flush()
    written: list[int] = []
    real = file._change

    def change(offset: int, data: bytes) -> None:
        written.append(len(data))
        real(offset, data)

    file._change = change  # type: ignore[method-assign]
    write(image, 32 * MiB, b"y" * 512)
    image.flush()
    assert sorted(written) == [512, 4096, 4096], "the data, a piece of the counts, a piece of the table"


def test_a_new_cluster_is_filled_up_only_where_it_must(tmp_path: Path) -> None:
    """Past the end of the file everything reads as zeros already."""
    path = str(tmp_path / "a")
    create(path, 64 * MiB)
    image = open_image(path)
    for cluster in range(100):
        image.write(cluster * 65536 + 8192, [memoryview(b"x" * 4096)])
    image.close()
    assert os.stat(path).st_blocks * 512 < MiB


def test_discarded_space_goes_back_to_the_host_and_is_used_again(tmp_path: Path) -> None:
    path = str(tmp_path / "a")
    create(path, 64 * MiB)
    image = open_image(path)
    image.write(0, [memoryview(b"x" * 8 * MiB)])
    image.flush()
    full = os.stat(path)
    image.discard(0, 8 * MiB)
    image.flush()
    assert os.stat(path).st_blocks * 512 < full.st_blocks * 512 - 7 * MiB
    image.write(32 * MiB, [memoryview(b"y" * 8 * MiB)])
    image.flush()
    assert os.stat(path).st_size <= full.st_size + 65536
    data = memoryview(bytearray(8 * MiB))
    image.read(0, [data])
    assert not any(data)
    image.close()
    assert check(path).is_clean


def test_nothing_is_lost_or_leaked_when_the_medium_is_full() -> None:
    file, image = make()
    write(image, 0, b"a" * 6000)
    image.flush()
    file.fails_after = file.writes
    actions: list[Callable[[], object]] = [
        lambda: write(image, 3000, b"b" * 10_000),
        lambda: write(image, 100_000, b"b" * 512),
        lambda: image.write_compressed(65536, b"c" * 4096),
    ]
    for action in actions:
        with pytest.raises(BlockError) as caught:
            action()
        assert caught.value.reason == "no-space"
    file.fails_after = None
    data = bytearray(8192)
    image.read(0, [memoryview(data)])
    # What was written in place may be new already; where it was not, the old is there.
    assert data[:3000] == b"a" * 3000
    assert set(data[3000:6000]) <= set(b"ab")
    assert not any(data[8192:])
    write(image, 100_000, b"d" * 512)
    image.close()
    assert check_file(file, read_header(file)).is_clean


def test_zero_clusters_keep_their_place_if_they_should() -> None:
    file, image = make()
    write(image, 0, b"x" * 4096)
    image.flush()
    size = file.size()
    image.write_zeroes(0, 4096, False)
    data = memoryview(bytearray(4096))
    image.read(0, [data])
    assert not any(data)
    assert next(image.extents(0, 4096)).kind == "zero"
    write(image, 100, b"y" * 100)
    image.flush()
    assert file.size() == size
    image.read(0, [data])
    assert bytes(data) == bytes(100) + b"y" * 100 + bytes(3896)
    image.close()
    assert check_file(file, read_header(file)).is_clean


def test_a_read_only_image_refuses_every_change() -> None:
    file, image = make()
    write(image, 0, b"x" * 512)
    image.close()
    before = bytes(file.data)
    image = assemble(file, file, None, read_header(file), is_read_only=True)
    actions: list[Callable[[], object]] = [
        lambda: write(image, 0, b"y"),
        lambda: image.write_zeroes(0, 4096, True),
        lambda: image.discard(0, 4096),
        lambda: image.resize(2 * MiB),
        lambda: image.write_compressed(0, bytes(4096)),
    ]
    for action in actions:
        with pytest.raises(BlockError, match="reading only") as caught:
            action()
        assert caught.value.reason == "read-only"
    image.flush()
    image.close()
    image.close()
    assert bytes(file.data) == before


def test_read_nowait_waits_for_no_table() -> None:
    file, image = make()
    write(image, 0, b"x" * 8192)
    image.close()
    image = assemble(file, file, None, read_header(file), is_read_only=True)
    data = memoryview(bytearray(10_000))
    assert not image.read_nowait(0, [data])
    image.read(0, [data[:1]])
    assert image.read_nowait(0, [data])
    assert bytes(data) == b"x" * 8192 + bytes(1808)
    assert image.read_nowait(0, [])
    with image.core.gate.alone():
        assert image.read_nowait(0, [data]) is False


def test_lazy_counts_are_marked_and_the_mark_goes_at_the_end() -> None:
    file, image = make(Qcow2Options(lazy_refcounts=True))
    write(image, 0, b"x" * 512)
    image.flush()
    assert read_header(file).incompatible & layout.DIRTY
    dirty = MemoryFile(file.data)
    found = check_file(dirty, read_header(dirty))
    assert found.corruptions > 0
    image.close()
    assert not read_header(file).incompatible & layout.DIRTY
    assert check_file(file, read_header(file)).is_clean


def test_headers_survive(tmp_path: Path) -> None:
    """Unknown extensions, unknown fields and names in any encoding come back as they were."""
    header = Header(3, 16, MiB, l1_size=1, l1_offset=0x30000, refcount_table_offset=0x10000, refcount_table_clusters=1)
    header.backing_file = os.fsdecode("größe/\udcff".encode("utf-8", "surrogateescape"))
    header.extensions = [(0xDEADBEEF, b"123"), (layout.EXT_BACKING_FORMAT, b"raw"), (0x12345678, b"")]
    header.unknown_fields = bytes(range(16))
    file = MemoryFile(header.encode() + bytes(0x40000))
    again = read_header(file)
    assert again == header
    assert again.backing_format == "raw"
    assert again.encode() == header.encode()
    old = Header(2, 16, MiB, l1_size=1, l1_offset=0x30000, refcount_table_offset=0x10000, refcount_table_clusters=1)
    assert len(old.encode()) == 72
    assert read_header(MemoryFile(old.encode() + bytes(0x40000))) == old


def test_snapshot_entries_survive() -> None:
    entries = [
        Snapshot("1", "einfach", 0x10000, 1, 10, 20, 30, 0, 4096),
        Snapshot("zwei", "ümlaut", 0x20000, 2, 2**32 - 1, 10**9 - 1, 2**64 - 1, 2**40, 2**50, b"more!!!!"),
        Snapshot("3", "old", 0x30000, 0, disk_size=None),
    ]
    file = MemoryFile(bytes(0x10000) + b"".join(entry.encode() for entry in entries) + bytes(0x40000))
    header = Header(3, 16, MiB, snapshot_count=3, snapshots_offset=0x10000)
    assert read_snapshots(file, header)[0] == entries


def test_direct_io(tmp_path: Path) -> None:
    """The same through O_DIRECT, with clusters smaller than a block of the medium, too."""
    rng = random.Random(1)
    for cluster_size in ("512", "64K"):
        path = str(tmp_path / cluster_size)
        create(path, MiB, options={"cluster_size": cluster_size})
        try:
            image = open_image(path, OpenOptions(cache="direct"))
        except HostError as error:
            pytest.skip(str(error))
        model = bytearray(MiB)
        for _ in range(100):
            start = rng.randrange(MiB // 512) * 512
            data = rng.randbytes(min(rng.choice((512, 4096, 100_000)), MiB - start))
            if rng.random() < 0.2:
                image.discard(start, len(data))
                found = bytearray(len(data))
                image.read(start, [memoryview(found)])
                data = bytes(found)
            else:
                image.write(start, [memoryview(data)])
            model[start : start + len(data)] = data
        image.close()
        assert check(path).is_clean
        image = open_image(path, OpenOptions(read_only=True))
        found = bytearray(MiB)
        image.read(0, [memoryview(found)])
        assert found == model
        image.close()


def test_killed_at_any_moment(tmp_path: Path) -> None:
    """A process that writes, and says what it flushed, is killed: all of that is there."""
    code = """
import random, sys
from manor.backends.block.open import open_image
image = open_image(sys.argv[1])
rng = random.Random(sys.argv[2])
for number in range(100000):
    sector = rng.randrange(4096)
    image.write(sector * 512, [memoryview(number.to_bytes(8, "big") * 64)])
    if number % 3 == 0:
        image.discard(rng.randrange(4096, 8192) * 512, 65536)
        image.write(rng.randrange(4096, 8192) * 512, [memoryview(b"?" * 1024)])
    if number % 20 == 19:
        image.flush()
        print(number, flush=True)
"""
    for attempt in range(3):
        path = str(tmp_path / str(attempt))
        create(path, 8 * MiB, options={"cluster_size": "4K"})
        with subprocess.Popen(
            [sys.executable, "-c", code, path, str(attempt)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(5 + attempt * 7)]
            process.send_signal(signal.SIGKILL)
            lines += process.stdout.readlines()
        flushed = int([line for line in lines if line.endswith("\n")][-1])
        found = check(path)
        assert (found.corruptions, found.errors) == (0, 0), found.messages
        rng = random.Random(str(attempt))
        expected: dict[int, int] = {}
        later: dict[int, set[int]] = {}
        for number in range(flushed + 40):
            sector = rng.randrange(4096)
            if number <= flushed:
                expected[sector] = number
            else:
                later.setdefault(sector, set()).add(number)
            if number % 3 == 0:
                rng.randrange(4096, 8192)
                rng.randrange(4096, 8192)
        image = open_image(path)
        for sector, number in expected.items():
            data = bytearray(512)
            image.read(sector * 512, [memoryview(data)])
            assert int.from_bytes(data[:8], "big") in {number} | later.get(sector, set())
        image.close()


def test_a_qcow2_image_is_a_block_backend() -> None:
    from manor.backends.block.api import BlockBackend

    _, image = make()
    backend: BlockBackend = image
    assert backend.size == MiB
    assert not isinstance(backend, Described)


def test_discarding_a_whole_overlay_makes_no_tables(tmp_path: Path) -> None:
    """As making a file system does: what is allocated nowhere in the overlay may go on showing what is below."""
    (tmp_path / "base").write_bytes(b"b" * MiB)
    path = str(tmp_path / "a")
    create(path, 1 << 40, backing_file="base", backing_format="raw")
    image = open_image(path)
    image.write(0, [memoryview(b"a" * 65536)])
    image.flush()
    size = os.stat(path).st_size
    image.discard(0, 1 << 40)
    image.flush()
    assert os.stat(path).st_size == size
    data = memoryview(bytearray(MiB))
    image.read(0, [data])
    assert bytes(data) == bytes(65536) + b"b" * (MiB - 65536)
    image.close()
    assert check(path).is_clean


@pytest.mark.parametrize("options", [Qcow2Options(), Qcow2Options(cluster_size=512), Qcow2Options(refcount_bits=1)])
def test_an_image_on_a_device_believes_no_old_bytes(options: Qcow2Options) -> None:
    """A device has its size from the beginning, and what others left on it."""

    class Device(MemoryFile):
        def truncate(self, size: int) -> None:
            assert size <= len(self.data)

    file = Device(b"\xa5" * 4 * MiB)
    create_qcow2(file, MiB, options)
    image = assemble(file, file, None, read_header(file), is_read_only=False)
    write(image, 100_000, b"x" * 1000)
    image.write_zeroes(200_000, 1000, True)
    data = bytearray(MiB)
    image.read(0, [memoryview(data)])
    assert data == bytes(100_000) + b"x" * 1000 + bytes(MiB - 101_000)
    image.close()
    found = check_file(file, read_header(file))
    assert found.is_clean, found.messages
