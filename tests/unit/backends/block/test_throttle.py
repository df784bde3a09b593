"""Limits and counters of a disk, on a clock that moves only when somebody waits."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manor.backends.block.api import BlockError
from manor.backends.block.statistics import CountedImage, RequestStatistics
from manor.backends.block.throttle import ThrottledImage, TokenBucket
from manor.base.clock import MILLISECOND, SECOND, FakeClock
from manor.base.units import KiB, MiB
from manor.spec.block import Throttle
from manor.testing.memory_disk import MemoryDisk


def pieces(size: int) -> list[memoryview]:
    return [memoryview(bytearray(size))]


def throttled(**limits: int) -> tuple[ThrottledImage, FakeClock]:
    clock = FakeClock()
    return ThrottledImage(MemoryDisk(4 * MiB), Throttle(**limits), clock, clock.advance), clock


def test_burst_passes_at_once_and_then_the_rate_holds() -> None:
    bucket = TokenBucket(1000, 500, clock := FakeClock())
    assert bucket.take(500) == 0
    assert bucket.take(100) == 100 * MILLISECOND
    clock.advance(100 * MILLISECOND)
    assert bucket.take(1) == 1 * MILLISECOND
    clock.advance(10 * SECOND)
    assert bucket.take(500) == 0
    assert bucket.take(1) == 1 * MILLISECOND, "rest fills the burst up and no more"


def test_request_larger_than_the_burst_passes_after_its_time() -> None:
    bucket = TokenBucket(1 * MiB, 64 * KiB, FakeClock())
    assert bucket.take(1 * MiB + 64 * KiB) == SECOND
    assert bucket.take(0) == SECOND


def test_no_limit_never_waits() -> None:
    bucket = TokenBucket(0, 0, FakeClock())
    assert [bucket.take(1 << 40) for _ in range(3)] == [0, 0, 0]


@given(st.integers(1, 10**9), st.integers(0, 10**6), st.lists(st.integers(1, 10**6), min_size=1, max_size=50))
def test_never_more_than_rate_and_burst(rate: int, burst: int, amounts: list[int]) -> None:
    bucket = TokenBucket(rate, burst, clock := FakeClock())
    allowed = burst or max(1, rate // 10)
    taken = 0
    for amount in amounts:
        clock.advance(bucket.take(amount))
        taken += amount
        assert taken <= allowed + -(-clock.now_ns() * rate // SECOND)


def test_bytes_a_second() -> None:
    image, clock = throttled(bytes_per_second=1 * MiB, burst_bytes=64 * KiB)
    for _ in range(16):
        image.read(0, pieces(128 * KiB))
        image.write(0, pieces(128 * KiB))
    assert clock.now_ns() == pytest.approx(4 * SECOND - SECOND // 16, abs=1000)


def test_operations_a_second_count_discards_and_not_flushes() -> None:
    image, clock = throttled(operations_per_second=100, burst_operations=1)
    image.read(0, pieces(1))
    image.discard(0, 4096)
    image.write_zeroes(0, 4096, True)
    assert clock.now_ns() == 20 * MILLISECOND
    for _ in range(50):
        image.flush()
    assert clock.now_ns() == 20 * MILLISECOND


def test_limits_can_be_changed_and_taken_away() -> None:
    image, clock = throttled(operations_per_second=1, burst_operations=1)
    assert not image.read_nowait(0, pieces(1))
    image.read(0, pieces(1))
    image.set_limits(Throttle())
    for _ in range(100):
        image.read(0, pieces(1))
    assert image.read_nowait(0, pieces(1))
    assert clock.now_ns() == 0


def test_close_ends_the_waiting() -> None:
    image = ThrottledImage(MemoryDisk(4096), Throttle(operations_per_second=1, burst_operations=1))
    start = time.monotonic()
    image.read(0, pieces(1))
    threads = [threading.Thread(target=image.read, args=(0, pieces(1))) for _ in range(30)]
    for thread in threads:
        thread.start()
    image.close()
    for thread in threads:
        thread.join()
    assert time.monotonic() - start < 10


def test_statistics_by_kind() -> None:
    clock = FakeClock()
    inner = MemoryDisk(1 * MiB)
    image = CountedImage(
        ThrottledImage(inner, Throttle(operations_per_second=10, burst_operations=1), clock, clock.advance), clock
    )
    image.write(0, pieces(4096))
    image.write(0, pieces(100))
    image.read(0, pieces(512))
    image.discard(0, 8192)
    image.write_zeroes(0, 1000, False)
    image.flush()
    found = image.statistics()
    assert found.write == RequestStatistics(2, 4196, 0, 100 * MILLISECOND)
    assert found.read == RequestStatistics(1, 512, 0, 100 * MILLISECOND)
    assert found.discard == RequestStatistics(1, 8192, 0, 100 * MILLISECOND)
    assert found.write_zeroes == RequestStatistics(1, 1000, 0, 100 * MILLISECOND)
    assert found.flush == RequestStatistics(1, 0, 0, 0)


def test_statistics_of_failures_and_of_reads_that_did_not_wait() -> None:
    image = CountedImage(inner := MemoryDisk(4096), FakeClock())
    assert image.read_nowait(0, pieces(10))
    inner.fail = {"read": BlockError("broken", "io"), "flush": BlockError("broken", "io")}
    inner.is_cached = False
    assert not image.read_nowait(0, pieces(10))
    with pytest.raises(BlockError):
        image.read(0, pieces(10))
    with pytest.raises(BlockError):
        image.flush()
    assert image.statistics().read == RequestStatistics(2, 10, 1, 0)
    assert image.statistics().flush == RequestStatistics(1, 0, 1, 0)


def test_wrappers_pass_everything_else_on() -> None:
    inner = MemoryDisk(8192)
    inner.data[0] = 1
    image = CountedImage(ThrottledImage(inner, Throttle()))
    assert (image.size, image.is_read_only, image.name) == (8192, False, "memory")
    assert [extent.kind for extent in image.extents(0, 8192)] == ["data", "hole"]
    image.resize(4096)
    assert image.size == 4096
    image.close()
    assert inner.is_closed
