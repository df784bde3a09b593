"""Several threads on one image: nobody's data is lost, nobody reads another's, maintenance waits for its turn."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from manor.backends.block.api import Buffers
from manor.backends.block.qcow2 import snapshots
from manor.backends.block.qcow2.check import check_file
from manor.backends.block.qcow2.create import Qcow2Options, create_qcow2
from manor.backends.block.qcow2.gate import Gate
from manor.backends.block.qcow2.header import read_header
from manor.backends.block.qcow2.image import Qcow2Image
from manor.backends.block.qcow2.open import assemble
from manor.testing.storage import MemoryFile

THREADS = 4
SECTORS = 512


@pytest.fixture(autouse=True)
def quick_switches() -> Iterator[None]:
    """Threads change places as often as they can."""
    old = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(old)


def together(*works: Callable[[], None]) -> None:
    with ThreadPoolExecutor(len(works)) as pool:
        for future in [pool.submit(work) for work in works]:
            future.result(60)


def make(options: Qcow2Options) -> tuple[MemoryFile, Qcow2Image]:
    file = MemoryFile()
    create_qcow2(file, SECTORS * 512, options)
    return file, assemble(file, file, None, read_header(file), is_read_only=False)


@pytest.mark.parametrize(
    "options",
    [
        Qcow2Options(cluster_size=4096),
        Qcow2Options(cluster_size=512),
        Qcow2Options(cluster_size=16384, extended_l2=True),
        Qcow2Options(cluster_size=4096, lazy_refcounts=True),
    ],
    ids=["4K", "512", "extended", "lazy"],
)
def test_threads_share_clusters(options: Qcow2Options) -> None:
    """Each thread has every fourth sector, so that all clusters are written by all of them, and one flushes and makes
    snapshots meanwhile."""
    file, image = make(options)
    model: list[bytes] = [bytes(512)] * SECTORS

    def worker(number: int) -> Callable[[], None]:
        rng = random.Random(number)

        def work() -> None:
            for _ in range(250):
                sector = rng.randrange(SECTORS // THREADS) * THREADS + number
                kind = rng.choice("wwwrz")
                if kind == "w":
                    data = rng.randbytes(512)
                    image.write(sector * 512, [memoryview(data)])
                    model[sector] = data
                elif kind == "z":
                    image.write_zeroes(sector * 512, 512, True)
                    model[sector] = bytes(512)
                else:
                    found = bytearray(512)
                    image.read(sector * 512, [memoryview(found)])
                    assert found == model[sector], sector
                    if image.read_nowait(sector * 512, [memoryview(found)]):
                        assert found == model[sector], sector

        return work

    def keeper() -> None:
        for step in range(6):
            image.flush()
            snapshots.create(image, str(step))
            if step % 2:
                snapshots.delete(image, str(step - 1))

    together(*(worker(number) for number in range(THREADS)), keeper)
    found = bytearray(SECTORS * 512)
    image.read(0, [memoryview(found)])
    assert bytes(found) == b"".join(model)
    image.close()
    checked = check_file(file, read_header(file))
    assert checked.is_clean, checked.messages


def test_a_freed_cluster_is_not_handed_out_while_somebody_reads_it() -> None:
    """A slow reader has looked its cluster up; it is discarded, and others want space."""
    file, image = make(Qcow2Options(cluster_size=4096))
    image.write(0, [memoryview(b"old!" * 1024)])
    image.flush()
    is_inside, may_go_on = threading.Event(), threading.Event()
    real_read = file.read
    data = bytearray(4096)

    def slow_read(offset: int, buffers: Buffers) -> None:
        if threading.current_thread().name == "slow":
            is_inside.set()
            assert may_go_on.wait(30)
        real_read(offset, buffers)

    file.read = slow_read  # type: ignore[method-assign]
    slow = threading.Thread(target=lambda: image.read(0, [memoryview(data)]), name="slow")
    slow.start()
    assert is_inside.wait(30)
    image.discard(0, 4096)
    image.flush()
    for cluster in range(1, 20):
        image.write(cluster * 4096, [memoryview(b"new!" * 1024)])
    image.flush()
    may_go_on.set()
    slow.join(30)
    assert bytes(data) == b"old!" * 1024
    image.close()
    assert check_file(file, read_header(file)).is_clean


def test_flushes_share_a_commit() -> None:
    file, image = make(Qcow2Options(cluster_size=4096))
    image.write(0, [memoryview(b"x" * 512)])
    image.flush()
    before = file.flushes
    started = threading.Event()
    release = threading.Event()
    real_flush = file.flush

    def slow_flush() -> None:
        started.set()
        assert release.wait(30)
        real_flush()

    file.flush = slow_flush  # type: ignore[method-assign]
    threads = [threading.Thread(target=image.flush) for _ in range(8)]
    threads[0].start()
    assert started.wait(30)
    for thread in threads[1:]:
        thread.start()
    deadline = time.monotonic() + 30
    while image.core._tickets < 9 and time.monotonic() < deadline:
        time.sleep(0.001)
    release.set()
    for thread in threads:
        thread.join(30)
    assert file.flushes - before == 2, "the first, and one for the seven that came while it ran"
    image.close()


def test_the_gate_lets_one_be_alone() -> None:
    gate = Gate()
    events: list[str] = []
    is_in, may_leave = threading.Event(), threading.Event()

    def visitor() -> None:
        with gate.operation():
            events.append("in")
            is_in.set()
            assert may_leave.wait(30)
            events.append("out")

    def late_visitor() -> None:
        with gate.operation():
            events.append("late")

    first = threading.Thread(target=visitor)
    first.start()
    assert is_in.wait(30)

    def owner() -> None:
        with gate.alone(), gate.alone():
            events.append("alone")
            with gate.operation():
                events.append("still alone")
            late.start()
            time.sleep(0.02)
            events.append("done")

    late = threading.Thread(target=late_visitor)
    alone = threading.Thread(target=owner)
    alone.start()
    while gate.owner is None:
        time.sleep(0.001)
    may_leave.set()
    for thread in (first, alone):
        thread.join(30)
    late.join(30)
    assert events == ["in", "out", "alone", "still alone", "done", "late"]
    assert not gate.inside


def test_an_owner_is_not_kept_out_by_visitors() -> None:
    """Visitors who come and go all the time let it in. A mark may be there for a moment, of one who steps out again."""
    gate = Gate()
    stop = threading.Event()
    working: set[int] = set()
    turns = []

    def visitor() -> None:
        while not stop.is_set():
            with gate.operation():
                working.add(threading.get_ident())
                working.discard(threading.get_ident())

    def owner() -> None:
        try:
            for _ in range(50):
                with gate.alone():
                    assert not working
                    turns.append(1)
        finally:
            stop.set()

    together(visitor, visitor, owner)
    assert len(turns) == 50


def test_memory_is_bounded() -> None:
    """More tables than the cache holds: they are written and forgotten."""
    file = MemoryFile()
    size = 64 << 20
    create_qcow2(file, size, Qcow2Options(cluster_size=512))
    image = assemble(file, file, None, read_header(file), is_read_only=False)
    image.core.tables._max_tables = 8
    image.core.refcounts._max_blocks = 4
    for offset in range(0, size, size // 300 & -512):
        image.write(offset, [memoryview(offset.to_bytes(8, "big") * 64)])
    assert len(image.core.tables.cached) <= 9
    for offset in range(0, size, size // 300 & -512):
        data = bytearray(512)
        image.read(offset, [memoryview(data)])
        assert data == offset.to_bytes(8, "big") * 64
    assert len(image.core.tables.cached) <= 9
    assert len(image.core.refcounts.blocks) <= 6
    image.close()
    assert check_file(file, read_header(file)).is_clean
