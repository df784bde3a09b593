"""The states of a VM."""

from __future__ import annotations

import threading

import pytest

from manor.base.errors import StateError
from manor.vmm.lifecycle import TABLE, Event, Lifecycle, Reason, State, VmEnd


def test_a_life_with_a_reboot() -> None:
    life = Lifecycle()
    events = (Event.START, Event.REBOOT, Event.START, Event.STOP, Event.END)
    states = [life.advance(event) for event in events]
    assert states == [State.RUNNING, State.REBOOTING, State.RUNNING, State.STOPPING, State.ENDED]


def test_refused_event_leaves_the_state_and_says_where_it_is_allowed() -> None:
    life = Lifecycle()
    with pytest.raises(StateError, match="created"):
        life.advance(Event.REBOOT)
    assert life.state is State.CREATED


def test_every_event_is_used_and_every_state_reached() -> None:
    life_events = {event for state in State for event in TABLE.events(state)}
    assert life_events == set(Event)
    assert not TABLE.events(State.ENDED)


def test_wait_until_sees_a_change_by_another_thread() -> None:
    life = Lifecycle()
    assert not life.wait_until(State.RUNNING, 0.001)
    thread = threading.Thread(target=lambda: life.advance(Event.START))
    thread.start()
    assert life.wait_until(State.RUNNING, 5)
    thread.join()


def test_end_reads_well() -> None:
    assert str(VmEnd(Reason.POWER_OFF)) == "power-off"
    assert str(VmEnd(Reason.ERROR, "no memory")) == "error: no memory"
