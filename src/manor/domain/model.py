"""The life of a domain as a table: which request is allowed when, and what it leads to.

`step` is the whole rule; drivers do the work and then take the step. A domain without a definition (transient) is gone
when it stops.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from manor.base.states import StateTable
from manor.domain.events import (
    CrashedDetail,
    DefinedDetail,
    Lifecycle,
    LifecycleEvent,
    ResumedDetail,
    ShutdownDetail,
    StartedDetail,
    StoppedDetail,
    SuspendedDetail,
    UndefinedDetail,
)
from manor.domain.state import (
    CrashedReason,
    DomainState,
    NoStateReason,
    PausedReason,
    Reason,
    RunningReason,
    ShutdownReason,
    ShutoffReason,
)


class Life(Enum):
    """Where a domain is in its life. TRANSIENT_*: it runs without a definition."""

    ABSENT = auto()
    OFF = auto()
    SAVED = auto()
    """Off, with a managed save that the next start continues from."""
    RUNNING = auto()
    PAUSED = auto()
    STOPPING = auto()
    CRASHED = auto()
    """Stopped by a crash, and preserved for someone to look at."""
    TRANSIENT_RUNNING = auto()
    TRANSIENT_PAUSED = auto()
    TRANSIENT_STOPPING = auto()
    TRANSIENT_CRASHED = auto()


class Cause(Enum):
    """What moves a domain: requests of users first, then what happens by itself."""

    DEFINE = auto()
    UNDEFINE = auto()
    UNDEFINE_SAVED = auto()
    """Undefine, and throw the managed save away."""
    CREATE = auto()
    """Start without a definition."""
    CREATE_PAUSED = auto()
    START = auto()
    START_PAUSED = auto()
    START_FORCED = auto()
    """Start afresh, and throw the managed save away."""
    RESTORE = auto()
    """Continue from a file."""
    SHUTDOWN = auto()
    REBOOT = auto()
    RESET = auto()
    DESTROY = auto()
    SUSPEND = auto()
    RESUME = auto()
    AUTOSTART = auto()
    """Set or clear the mark that says to start it with the service."""
    SAVE = auto()
    """To a file of the user's."""
    MANAGED_SAVE = auto()
    MANAGED_SAVE_REMOVE = auto()
    CHANGE_CONFIG = auto()
    CHANGE_LIVE = auto()
    RENAME = auto()

    SHUTTING_DOWN = auto()
    """The guest has begun to power off."""
    POWERED_OFF = auto()
    REBOOTED = auto()
    PANICKED = auto()
    """The guest crashed, and the definition says to preserve it."""
    PANICKED_OFF = auto()
    """The guest crashed, and the definition says to stop it."""
    PROCESS_LOST = auto()
    """The machine's process is gone without a word."""
    START_FAILED = auto()
    IO_ERROR = auto()
    DAEMON_ENDED = auto()
    """The service stopped the domain with itself."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step leads to. state and reason: what clients are told from now on."""

    life: Life
    state: DomainState
    reason: Reason
    events: tuple[Lifecycle, ...] = ()


def allows(life: Life, cause: Cause) -> bool:
    raise NotImplementedError


def step(life: Life, cause: Cause) -> Outcome:
    """The outcome of `cause` in `life`. Raises StateError if it is not allowed, which names the states that allow it."""
    raise NotImplementedError
