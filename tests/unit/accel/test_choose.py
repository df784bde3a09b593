"""Choosing an accelerator."""

from __future__ import annotations

import builtins
from collections.abc import Callable

import pytest

from manor.accel.choose import choose
from manor.base.errors import ConfigError, HostError
from manor.testing.fake_accel import FakeAccel


@pytest.mark.parametrize("name", ["auto", "dbt"])
def test_choice_says_which_and_why(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("manor.accel.choose._load_dbt", FakeAccel)
    choice = choose(name)
    assert choice.accel.name == "fake"
    assert str(choice).startswith("accelerator fake: binary translation")


def test_unknown_and_unavailable_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="accel: 'hvf' is unknown; give one of auto, dbt, kvm"):
        choose("hvf")
    with pytest.raises(ConfigError, match="accel: kvm is not built yet; use dbt"):
        choose("kvm")


def test_engine_that_is_not_built_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    original: Callable[..., object] = builtins.__import__

    def refuse(name: str, *arguments: object, **named: object) -> object:
        if name.startswith("manor.accel.dbt"):
            raise ImportError("No module named 'manor.engine.cpu_native'")
        return original(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(HostError, match=r"native parts are not built \(No module named .*run: make"):
        choose("auto")
