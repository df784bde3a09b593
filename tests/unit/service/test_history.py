"""Statistics over time: right, bounded, and kept over a restart."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manor.drivers.api import BlockStatistics, MachineStatistics, NicStatistics
from manor.service import history as history_module
from manor.service import history_file as file_module
from manor.service.history import (
    MIDDLE_BUCKETS,
    MIDDLE_BYTES,
    MIDDLE_MINIMUM,
    SERIES,
    WIDTH,
    Bucket,
    Counters,
    History,
    Ring,
    answer,
    columns,
)
from manor.service.history_file import HistoryFile

UUID = b"u" * 16


def flat(value: float) -> tuple[float, ...]:
    return (value,) * len(SERIES)


def counters(time: float, cpu: float, memory: float = 100.0) -> Counters:
    return Counters(time, (cpu, memory, 50.0, cpu * 10, 0.0, 0.0, 0.0))


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 300), st.floats(0, 1e6, width=32)), max_size=60), st.integers(1, 20))
def test_a_ring_is_what_a_plain_list_would_be(samples: list[tuple[int, float]], capacity: int) -> None:
    ring = Ring(10, capacity)
    plain: dict[int, list[float]] = {}
    for time, value in samples:
        number = time // 10
        if not plain or number >= max(plain):
            plain.setdefault(number, []).append(value)
        ring.add(float(time), flat(value))
    newest = max(plain, default=0)
    wanted = [number for number in sorted(plain) if number != newest][-capacity:] + ([newest] if plain else [])
    found = list(ring.buckets(0.0, 1e9))
    assert [each.number for each in found] == wanted
    for each in found:
        values = plain[each.number]
        assert each.values[0] == pytest.approx(min(values))
        assert each.values[1] == pytest.approx(sum(values) / len(values), rel=1e-5)
        assert each.values[2] == pytest.approx(max(values))
    assert len(ring) <= capacity


def test_counters_become_rates_and_gauges_stay() -> None:
    history = History()
    for second in range(0, 100, 5):
        history.add(UUID, counters(1000.0 + second, second * 0.5, memory=100.0 + second))
    level = history.level(UUID, 10)
    assert level is not None
    table = columns(answer(level.step, level.buckets(0.0, 1e9), 0))
    assert all(value == pytest.approx(0.5) for value in table["cpu"][1])
    assert table["read"][2][0] == pytest.approx(5.0)
    assert (table["memory"][0][1], table["memory"][2][1]) == (110.0, 115.0)


def test_a_vm_that_began_anew_gives_no_rate_from_before() -> None:
    history = History()
    history.add(UUID, counters(1000.0, 500.0))
    history.add(UUID, counters(1010.0, 1.0))  # restarted unnoticed
    history.add(UUID, counters(1020.0, 2.0))
    history.stopped(UUID)
    history.add(UUID, counters(2000.0, 100.0))
    history.add(UUID, counters(2000.01, 200.0))  # two clients at once
    history.add(UUID, counters(2010.0, 101.0))
    level = history.level(UUID, 10)
    assert level is not None
    found = list(level.buckets(0.0, 1e9))
    assert [each.number * 10 for each in found] == [1020, 2010]
    assert [each.values[1] for each in found] == pytest.approx([0.1, 0.1])


def test_fine_statistics_are_of_who_is_watched() -> None:
    history = History()
    history.watch(UUID, 1000.0)
    assert history.watched(1029.0) == [UUID]
    for second in range(20):
        history.add(UUID, counters(1000.0 + second, float(second)))
    fine = history.level(UUID, 1)
    assert fine is not None
    assert fine.step == 1
    assert len(list(fine.buckets(0.0, 1e9))) == 19
    assert history.watched(1031.0) == []
    assert history.level(UUID, 1) is fine  # still there to be looked at
    assert history.watched(1700.0) == []
    level = history.level(UUID, 1)
    assert level is not None
    assert level.step == 10
    history.forget([])
    assert history.level(UUID, 1) is None
    assert history.unsaved(UUID) == []


def test_memory_is_bounded_however_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_module, "MIDDLE_BYTES", MIDDLE_BYTES // 100)
    history = History()
    uuids = [number.to_bytes(16, "big") for number in range(40)]
    for round_ in range(200):
        for uuid in uuids:
            history.add(uuid, counters(1000.0 + 10 * round_, float(round_)))
    lengths = {len(history._records[uuid].middle) for uuid in uuids}
    allowed = MIDDLE_BYTES // 100 // (4 * WIDTH + 8) // 40
    assert max(lengths) <= 2 * allowed
    assert min(lengths) >= MIDDLE_MINIMUM
    assert History._capacity(1) == min(MIDDLE_BUCKETS, MIDDLE_BYTES // 100 // (4 * WIDTH + 8))


def test_an_answer_joins_buckets() -> None:
    rows = [Bucket(number, [value, value, value] * len(SERIES)) for number, value in ((6, 1.0), (7, 3.0), (12, 5.0))]
    found = answer(10, rows, 60)
    assert (found.step, found.times) == (60, [60.0, 120.0])
    assert found.rows[0][:3] == [1.0, 2.0, 3.0]
    assert answer(10, [], 0) == (10, [], [])


def test_what_a_vm_says_in_the_order_of_series() -> None:
    found = MachineStatistics(
        2_000_000_000, (), 1024, 512, (BlockStatistics(1, 10, 2, 20), BlockStatistics(1, 5, 2, 5)),
        (NicStatistics(7, 1, 8, 1),),
    )  # fmt: skip
    assert Counters.of(1.0, found).values == (2.0, 1024.0, 512.0, 15.0, 25.0, 7.0, 8.0)


def test_coarse_statistics_outlive_the_daemon_and_the_oldest_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        path = tmp_path / "statistics.sqlite"
        file = HistoryFile(path)
        history = History()
        for minute in range(10):
            history.add(UUID, counters(60.0 * minute, 30.0 * minute))
        await file.save(history.take_pending())
        assert history.take_pending() == []
        assert [each.number for each in history.unsaved(UUID)][-1] == 9
        file.close()
        again = HistoryFile(path)
        found = await again.buckets(UUID, 120.0, 300.0)
        assert [each.number for each in found] == [2, 3, 4, 5]
        assert found[0].values[1] == pytest.approx(0.5)
        monkeypatch.setattr(file_module, "MAX_ROWS", 3)
        monkeypatch.setattr(file_module, "_PRUNE_EVERY", 1)
        await again.save([(UUID, Bucket(20, flat(1.0) * 3))])
        assert [each.number for each in await again.buckets(UUID, 0.0, 1e15)] == [7, 8, 20]
        again.close()
        path.write_bytes(b"no database" * 1000)
        third = HistoryFile(path)
        assert await third.buckets(UUID, 0.0, 1e15) == []
        assert (tmp_path / "statistics.sqlite.damaged").exists()
        third.close()
        broken = HistoryFile(tmp_path / "none" / "x.sqlite")
        await broken.save([(UUID, Bucket(20, flat(1.0) * 3))])
        await broken.save([(UUID, Bucket(21, flat(1.0) * 3))])
        assert caplog.text.count("cannot be kept") == 1

    asyncio.run(scenario())
