"""A guest that becomes idle gives back the translations of its boot."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from manor.accel.dbt.accel import IDLE_CODE, IDLE_WATCH_NS, DbtVm, Gate


def vm_with(code: int, calls: list[str]) -> Any:
    vm = DbtVm.__new__(DbtVm)
    vm.gate = Gate(lambda: None)
    engine = SimpleNamespace(code_used=lambda: code, empty_cache=lambda: calls.append("empty"))
    vm.engine = cast(Any, engine)
    vm._watched_since_ns = vm._worked_ns = 0
    vm._may_keep = IDLE_CODE
    return vm


@pytest.mark.parametrize(
    ("wall", "cpu", "code", "dropped"),
    [
        (IDLE_WATCH_NS, IDLE_WATCH_NS // 100, IDLE_CODE + 1, True),
        (IDLE_WATCH_NS, IDLE_WATCH_NS // 100, IDLE_CODE, False),
        (IDLE_WATCH_NS, IDLE_WATCH_NS // 2, IDLE_CODE + 1, False),
        (IDLE_WATCH_NS - 1, 0, IDLE_CODE + 1, False),
    ],
)
def test_shrinks_when_idle(monkeypatch: pytest.MonkeyPatch, wall: int, cpu: int, code: int, dropped: bool) -> None:
    calls: list[str] = []
    vm = vm_with(code, calls)
    monkeypatch.setattr(time, "monotonic_ns", lambda: wall)
    monkeypatch.setattr(time, "process_time_ns", lambda: cpu)
    vm.shrink_if_idle()
    assert calls == (["empty"] if dropped else [])


def test_guest_that_uses_its_code_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an idle guest needs for its ticks, or a server for a request, is not translated again each time."""
    calls: list[str] = []
    vm = vm_with(3 * IDLE_CODE, calls)
    for round_ in range(1, 9):
        monkeypatch.setattr(time, "monotonic_ns", lambda now=round_ * IDLE_WATCH_NS: now)
        monkeypatch.setattr(time, "process_time_ns", lambda: 0)
        vm.shrink_if_idle()
    assert calls == ["empty", "empty"]
