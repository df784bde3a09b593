"""The life of a domain: what is allowed when, and what clients are told."""

from __future__ import annotations

import pytest

from manor.base.errors import StateError
from manor.domain.model import LIFE, Cause, Life, allows, is_active, is_persistent, keeps_state, step, unexplained
from manor.domain.state import ACTIVE, DomainState, PausedReason, RunningReason, ShutoffReason, reason_word, state_word

ALLOWED = [(life, cause) for life in Life for cause in Cause if allows(life, cause)]


def names(life: Life, *causes: Cause) -> list[str]:
    found = []
    for cause in causes:
        outcome = step(life, cause)
        found += [str(event) for event in outcome.events]
        life = outcome.life
    return [*found, life.name]


@pytest.mark.parametrize(
    ("causes", "told"),
    [
        ((Cause.DEFINE, Cause.DEFINE, Cause.UNDEFINE),
         ["Defined Added", "Defined Updated", "Undefined Removed", "ABSENT"]),
        ((Cause.DEFINE, Cause.START, Cause.SUSPEND, Cause.RESUME, Cause.DESTROY),
         ["Defined Added", "Started Booted", "Suspended Paused", "Resumed Unpaused", "Stopped Destroyed", "OFF"]),
        ((Cause.DEFINE, Cause.START, Cause.SHUTDOWN, Cause.SHUTTING_DOWN, Cause.POWERED_OFF),
         ["Defined Added", "Started Booted", "Shutdown Guest", "Stopped Shutdown", "OFF"]),
        ((Cause.CREATE, Cause.DESTROY), ["Started Booted", "Stopped Destroyed", "ABSENT"]),
        ((Cause.CREATE, Cause.DEFINE, Cause.DESTROY), ["Started Booted", "Defined Added", "Stopped Destroyed", "OFF"]),
        ((Cause.DEFINE, Cause.START, Cause.UNDEFINE, Cause.POWERED_OFF),
         ["Defined Added", "Started Booted", "Undefined Removed", "Stopped Shutdown", "ABSENT"]),
        ((Cause.DEFINE, Cause.START, Cause.MANAGED_SAVE, Cause.START),
         ["Defined Added", "Started Booted", "Stopped Saved", "Started Restored", "RUNNING"]),
        ((Cause.DEFINE, Cause.START, Cause.MANAGED_SAVE, Cause.START_FAILED),
         ["Defined Added", "Started Booted", "Stopped Saved", "Stopped Failed", "SAVED"]),
        ((Cause.DEFINE, Cause.START, Cause.PANICKED, Cause.DESTROY),
         ["Defined Added", "Started Booted", "Crashed Panicked", "Stopped Destroyed", "OFF"]),
        ((Cause.DEFINE, Cause.START, Cause.PROCESS_LOST),
         ["Defined Added", "Started Booted", "Stopped Crashed", "OFF"]),
        ((Cause.DEFINE, Cause.START_PAUSED, Cause.RESUME),
         ["Defined Added", "Started Booted", "Suspended Paused", "Resumed Unpaused", "RUNNING"]),
        ((Cause.DEFINE, Cause.RENAME), ["Defined Added", "Undefined Renamed", "Defined Renamed", "OFF"]),
    ],
)  # fmt: skip
def test_stories(causes: tuple[Cause, ...], told: list[str]) -> None:
    assert names(Life.ABSENT, *causes) == told


@pytest.mark.parametrize(
    ("life", "cause"),
    [
        (Life.RUNNING, Cause.START), (Life.OFF, Cause.SUSPEND), (Life.OFF, Cause.DESTROY), (Life.OFF, Cause.SHUTDOWN),
        (Life.SAVED, Cause.UNDEFINE), (Life.TRANSIENT_RUNNING, Cause.MANAGED_SAVE),
        (Life.TRANSIENT_RUNNING, Cause.AUTOSTART), (Life.TRANSIENT_RUNNING, Cause.UNDEFINE),
        (Life.RUNNING, Cause.CREATE), (Life.ABSENT, Cause.START), (Life.CRASHED, Cause.RESUME),
    ],
)  # fmt: skip
def test_refused_with_the_states_that_allow_it(life: Life, cause: Cause) -> None:
    with pytest.raises(StateError) as caught:
        step(life, cause)
    assert caught.value.state == life.name.lower()
    assert caught.value.allowed


@pytest.mark.parametrize(("life", "cause"), ALLOWED, ids=lambda one: one.name)
def test_state_and_life_agree_after_every_step(life: Life, cause: Cause) -> None:
    outcome = step(life, cause)
    after = outcome.life
    assert (outcome.state in ACTIVE) == is_active(after) or (after is Life.ABSENT)
    if keeps_state(life, cause):
        assert (outcome.state, outcome.reason) == unexplained(after)
        assert is_active(life) == is_active(after)
    elif is_active(after):
        assert outcome.state == unexplained(after)[0]
    if is_active(life) and not is_active(after):
        # What had no definition leaves nothing behind.
        assert (after is Life.ABSENT) == (not is_persistent(life))


def test_every_state_and_cause_has_a_row() -> None:
    assert {life for life, _ in ALLOWED} == set(Life)
    assert {cause for _, cause in ALLOWED} == set(Cause)
    assert "absent --> off: define" in LIFE.diagram()


def test_words_are_those_that_users_know() -> None:
    assert state_word(DomainState.SHUTOFF) == "shut off"
    assert reason_word(DomainState.SHUTOFF, ShutoffReason.SAVED) == "saved"
    assert reason_word(DomainState.PAUSED, PausedReason.IO_ERROR) == "I/O error"
    assert reason_word(DomainState.RUNNING, RunningReason.BOOTED) == "booted"
    assert reason_word(DomainState.RUNNING, 99) == "unknown"
