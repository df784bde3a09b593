"""Micro-guests on every accelerator. Those on KVM skip with the measured reason where it does not run guests.

One machine at a time: some hosts' /dev/kvm does not take two well. Nothing here asserts a speed or a latency.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from manor.accel.api import Accel
from manor.accel.kvm.probe import Verdict, probe
from manor.testing.board import Board

MakeBoard = Callable[..., Board]


@pytest.fixture(scope="session")
def verdict() -> Verdict:
    """What this host's KVM is."""
    return probe()


@pytest.fixture
def kvm(verdict: Verdict) -> Accel:
    """The accelerator kvm; skips the test where it cannot run guests."""
    if not verdict.can_run:
        pytest.skip(f"kvm is {verdict}")
    from manor.accel.kvm.accel import KvmAccel

    return KvmAccel()


@pytest.fixture
def dbt() -> Accel:
    from manor.accel.dbt.accel import DbtAccel

    return DbtAccel()


@pytest.fixture(params=["dbt", "kvm"])
def accel(request: pytest.FixtureRequest) -> Accel:
    found: Accel = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def make_board() -> Iterator[MakeBoard]:
    """Boards that are closed after the test."""
    boards: list[Board] = []

    def make(accel: Accel, cpus: int = 1) -> Board:
        boards.append(Board(accel, cpus))
        return boards[-1]

    yield make
    for board in boards:
        board.close()
        assert board.errors == []


@pytest.fixture
def board(accel: Accel, make_board: MakeBoard) -> Board:
    """A board with one vCPU."""
    return make_board(accel)
