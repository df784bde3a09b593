"""Choosing an accelerator."""

from __future__ import annotations

import builtins
from collections.abc import Callable

import pytest

from manor.accel.choose import choose
from manor.accel.kvm.probe import KvmState, Verdict
from manor.base.errors import ConfigError, HostError
from manor.testing.fake_accel import FakeAccel

NO_DEVICE = Verdict(KvmState.NO_DEVICE, "cannot open /dev/kvm: No such file or directory", "Load the module.")
EMULATED = Verdict(KvmState.EMULATED, "/dev/kvm runs ring 0 at 0.9 MIPS")
USABLE = Verdict(KvmState.USABLE, "/dev/kvm runs guests on the processor (4,000 MIPS)")


@pytest.fixture(autouse=True)
def verdict(monkeypatch: pytest.MonkeyPatch) -> Callable[[Verdict], None]:
    """What the probe says; without KVM unless the test says otherwise."""

    def says(answer: Verdict) -> None:
        monkeypatch.setattr("manor.accel.choose.probe", lambda: answer)

    says(NO_DEVICE)
    return says


@pytest.mark.parametrize("name", ["auto", "dbt"])
def test_choice_says_which_and_why(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("manor.accel.choose._load_dbt", FakeAccel)
    choice = choose(name)
    assert choice.accel.name == "fake"
    assert str(choice).startswith("accelerator fake: binary translation")


def test_unknown_and_unavailable_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="accel: 'hvf' is unknown; give one of auto, dbt, kvm"):
        choose("hvf")
    with pytest.raises(ConfigError, match="kvm is no device here: cannot open /dev/kvm: .*; load the module$"):
        choose("kvm")


def test_auto_takes_kvm_only_where_it_is_fast(
    monkeypatch: pytest.MonkeyPatch, verdict: Callable[[Verdict], None]
) -> None:
    monkeypatch.setattr("manor.accel.choose._load_dbt", FakeAccel)
    verdict(USABLE)
    assert str(choose("auto")) == "accelerator kvm: /dev/kvm runs guests on the processor (4,000 MIPS)"
    verdict(EMULATED)
    assert str(choose("auto")) == (
        "accelerator fake: binary translation, as kvm is emulated: /dev/kvm runs ring 0 at 0.9 MIPS"
    )


def test_kvm_that_is_asked_for_runs_emulated_too_and_says_so(verdict: Callable[[Verdict], None]) -> None:
    verdict(EMULATED)
    assert str(choose("kvm")) == "accelerator kvm: as asked for, but /dev/kvm runs ring 0 at 0.9 MIPS"
    verdict(USABLE)
    assert str(choose("kvm")) == "accelerator kvm: as asked for"


def test_engine_that_is_not_built_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    original: Callable[..., object] = builtins.__import__

    def refuse(name: str, *arguments: object, **named: object) -> object:
        if name.startswith("manor.accel.dbt"):
            raise ImportError("No module named 'manor.engine.cpu_native'")
        return original(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(HostError, match=r"native parts are not built \(No module named .*make setup builds them"):
        choose("auto")
