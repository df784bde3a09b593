"""The life of a virtual machine, and how it can end."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal

from manor.base.states import StateTable


class State(Enum):
    """Where a VM is in its life."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    REBOOTING = "rebooting"
    STOPPING = "stopping"
    ENDED = "ended"


class Event(Enum):
    """What moves a VM from state to state."""

    START = "start"
    PAUSE = "pause"
    RESUME = "resume"
    REBOOT = "reboot"
    STOP = "stop"
    END = "end"


TABLE: Final = StateTable(
    "vm",
    State.CREATED,
    {
        (State.CREATED, Event.START): State.RUNNING,
        (State.CREATED, Event.END): State.ENDED,
        (State.RUNNING, Event.PAUSE): State.PAUSED,
        (State.PAUSED, Event.RESUME): State.RUNNING,
        (State.PAUSED, Event.STOP): State.STOPPING,
        (State.RUNNING, Event.REBOOT): State.REBOOTING,
        (State.RUNNING, Event.STOP): State.STOPPING,
        (State.REBOOTING, Event.START): State.RUNNING,
        (State.REBOOTING, Event.STOP): State.STOPPING,
        (State.STOPPING, Event.END): State.ENDED,
    },
)


class Reason(Enum):
    """Why a VM ended."""

    POWER_OFF = "power-off"
    REBOOT = "reboot"
    PANIC = "panic"
    TRIPLE_FAULT = "triple-fault"
    STOPPED = "stopped"
    SAVED = "saved"
    ERROR = "error"


LifeEvent = Literal["reboot", "crash"]
"""What a guest does that does not end the VM: its machine runs anew; it crashed, and is paused to be looked at."""


@dataclass(frozen=True, slots=True)
class VmEnd:
    """How a VM ended. detail: for people; empty where the reason says it all."""

    reason: Reason
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.reason.value}: {self.detail}" if self.detail else self.reason.value


class Lifecycle:
    """The current state of one VM. Thread: any."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._state = TABLE.initial

    @property
    def state(self) -> State:
        return self._state

    def advance(self, event: Event) -> State:
        """Apply `event`. Raises StateError if the state does not allow it."""
        with self._condition:
            self._state = TABLE.next(self._state, event)
            self._condition.notify_all()
            return self._state

    def advance_if_allowed(self, event: Event) -> bool:
        """Apply `event` if the state allows it; whether it did. For requests that may race with the guest."""
        with self._condition:
            if not TABLE.allows(self._state, event):
                return False
            self._state = TABLE.next(self._state, event)
            self._condition.notify_all()
            return True

    def wait_until(self, state: State, timeout: float | None = None) -> bool:
        """Wait until `state` is reached; False if `timeout` seconds pass first."""
        with self._condition:
            return self._condition.wait_for(lambda: self._state is state, timeout)
