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
    RESTORE_PAUSED = auto()
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
    VMM_FAILED = auto()
    """The machine's process gave up, and said why."""
    START_FAILED = auto()
    IO_ERROR = auto()
    RESTARTED = auto()
    """The guest powered off, and was started again as the definition says."""
    CRASH_RESTARTED = auto()
    """The guest crashed, and was started again as the definition says."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step leads to. state and reason: what clients are told from now on."""

    life: Life
    state: DomainState
    reason: Reason
    events: tuple[Lifecycle, ...] = ()


def allows(life: Life, cause: Cause) -> bool:
    """Whether `cause` can happen in `life`."""
    return LIFE.allows(life, cause)


def step(life: Life, cause: Cause) -> Outcome:
    """The outcome of `cause` in `life`. Raises StateError, with the states that allow it, if it is refused."""
    after = LIFE.next(life, cause)
    told = _TOLD_OF_LIFE.get((life, cause)) or _TOLD_OF_CAUSE.get(cause)
    if told is None or (life, cause) in _ALREADY:
        # The definition came or went, or the domain did something that is no change of its state.
        return Outcome(after, *unexplained(after), events=_OTHER_EVENTS.get((life, cause), ()))
    state, reason, events = told
    return Outcome(after, state, reason, events)


def keeps_state(life: Life, cause: Cause) -> bool:
    """Whether state and reason stay as they were; those of the outcome then say no more than a fresh look would."""
    return (life, cause) in _ALREADY or ((life, cause) not in _TOLD_OF_LIFE and cause not in _TOLD_OF_CAUSE)


def is_active(life: Life) -> bool:
    """Whether the domain has a process."""
    return life not in (Life.ABSENT, Life.OFF, Life.SAVED)


def is_persistent(life: Life) -> bool:
    """Whether the domain has a definition."""
    return life in _TRANSIENT or life in (Life.OFF, Life.SAVED)


def unexplained(life: Life) -> tuple[DomainState, Reason]:
    """State of a domain of which nothing more is known, for example after the service started."""
    return _UNEXPLAINED[life]


_TRANSIENT: Final = {
    Life.RUNNING: Life.TRANSIENT_RUNNING,
    Life.PAUSED: Life.TRANSIENT_PAUSED,
    Life.STOPPING: Life.TRANSIENT_STOPPING,
    Life.CRASHED: Life.TRANSIENT_CRASHED,
}
"""Each life with a process and a definition -> the same without a definition."""

_UNEXPLAINED: Final[dict[Life, tuple[DomainState, Reason]]] = {
    Life.ABSENT: (DomainState.NO_STATE, NoStateReason.UNKNOWN),
    Life.OFF: (DomainState.SHUTOFF, ShutoffReason.UNKNOWN),
    Life.SAVED: (DomainState.SHUTOFF, ShutoffReason.SAVED),
    **dict.fromkeys((Life.RUNNING, Life.TRANSIENT_RUNNING), (DomainState.RUNNING, RunningReason.UNKNOWN)),
    **dict.fromkeys((Life.PAUSED, Life.TRANSIENT_PAUSED), (DomainState.PAUSED, PausedReason.UNKNOWN)),
    **dict.fromkeys((Life.STOPPING, Life.TRANSIENT_STOPPING), (DomainState.SHUTDOWN, ShutdownReason.UNKNOWN)),
    **dict.fromkeys((Life.CRASHED, Life.TRANSIENT_CRASHED), (DomainState.CRASHED, CrashedReason.UNKNOWN)),
}


def _while_active() -> dict[tuple[Life, Cause], Life]:
    """Rows of a domain with a process, once with a definition and once without."""
    rows = {
        # A shutdown asks the guest, which may take its time or refuse.
        (Life.RUNNING, Cause.SHUTDOWN): Life.RUNNING,
        (Life.STOPPING, Cause.SHUTDOWN): Life.STOPPING,
        (Life.RUNNING, Cause.REBOOT): Life.RUNNING,
        (Life.RUNNING, Cause.RESET): Life.RUNNING,
        (Life.PAUSED, Cause.RESET): Life.PAUSED,
        (Life.RUNNING, Cause.SUSPEND): Life.PAUSED,
        (Life.PAUSED, Cause.SUSPEND): Life.PAUSED,
        (Life.PAUSED, Cause.RESUME): Life.RUNNING,
        (Life.RUNNING, Cause.RESUME): Life.RUNNING,
        (Life.RUNNING, Cause.SHUTTING_DOWN): Life.STOPPING,
        (Life.RUNNING, Cause.REBOOTED): Life.RUNNING,
        (Life.STOPPING, Cause.REBOOTED): Life.RUNNING,
        (Life.RUNNING, Cause.RESTARTED): Life.RUNNING,
        (Life.STOPPING, Cause.RESTARTED): Life.RUNNING,
        (Life.RUNNING, Cause.CRASH_RESTARTED): Life.RUNNING,
        (Life.STOPPING, Cause.CRASH_RESTARTED): Life.RUNNING,
        (Life.RUNNING, Cause.PANICKED): Life.CRASHED,
        (Life.RUNNING, Cause.IO_ERROR): Life.PAUSED,
    }
    for life in _TRANSIENT:
        for cause in (
            Cause.DESTROY,
            Cause.POWERED_OFF,
            Cause.PANICKED_OFF,
            Cause.PROCESS_LOST,
            Cause.VMM_FAILED,
        ):
            rows[life, cause] = Life.OFF
        rows[life, Cause.CHANGE_LIVE] = life
    for life in (Life.RUNNING, Life.PAUSED):
        rows[life, Cause.SAVE] = Life.OFF
    gone = {**_TRANSIENT, Life.OFF: Life.ABSENT}
    both = {**rows, **{(_TRANSIENT[life], cause): gone[after] for (life, cause), after in rows.items()}}
    for life, transient in _TRANSIENT.items():
        both[life, Cause.DEFINE] = life
        both[life, Cause.CHANGE_CONFIG] = life
        both[life, Cause.AUTOSTART] = life
        both[life, Cause.UNDEFINE] = transient
        both[life, Cause.UNDEFINE_SAVED] = transient
        both[transient, Cause.DEFINE] = life
    # A managed save needs a definition that it can be kept with.
    both[Life.RUNNING, Cause.MANAGED_SAVE] = both[Life.PAUSED, Cause.MANAGED_SAVE] = Life.SAVED
    return both


LIFE: Final = StateTable(
    "domain",
    Life.ABSENT,
    {
        (Life.ABSENT, Cause.DEFINE): Life.OFF,
        (Life.ABSENT, Cause.CREATE): Life.TRANSIENT_RUNNING,
        (Life.ABSENT, Cause.CREATE_PAUSED): Life.TRANSIENT_PAUSED,
        (Life.ABSENT, Cause.RESTORE): Life.TRANSIENT_RUNNING,
        (Life.ABSENT, Cause.RESTORE_PAUSED): Life.TRANSIENT_PAUSED,
        (Life.OFF, Cause.DEFINE): Life.OFF,
        (Life.OFF, Cause.UNDEFINE): Life.ABSENT,
        (Life.OFF, Cause.UNDEFINE_SAVED): Life.ABSENT,
        (Life.OFF, Cause.START): Life.RUNNING,
        (Life.OFF, Cause.START_PAUSED): Life.PAUSED,
        (Life.OFF, Cause.START_FORCED): Life.RUNNING,
        (Life.OFF, Cause.RESTORE): Life.RUNNING,
        (Life.OFF, Cause.RESTORE_PAUSED): Life.PAUSED,
        # A create of a domain that has a definition starts it, with the document that was given.
        (Life.OFF, Cause.CREATE): Life.RUNNING,
        (Life.OFF, Cause.CREATE_PAUSED): Life.PAUSED,
        (Life.OFF, Cause.START_FAILED): Life.OFF,
        (Life.OFF, Cause.AUTOSTART): Life.OFF,
        (Life.OFF, Cause.CHANGE_CONFIG): Life.OFF,
        (Life.OFF, Cause.RENAME): Life.OFF,
        (Life.SAVED, Cause.DEFINE): Life.SAVED,
        (Life.SAVED, Cause.UNDEFINE_SAVED): Life.ABSENT,
        (Life.SAVED, Cause.START): Life.RUNNING,
        (Life.SAVED, Cause.START_PAUSED): Life.PAUSED,
        (Life.SAVED, Cause.START_FORCED): Life.RUNNING,
        # What could not be continued is still there: nothing is lost by a failed start.
        (Life.SAVED, Cause.START_FAILED): Life.SAVED,
        (Life.SAVED, Cause.MANAGED_SAVE_REMOVE): Life.OFF,
        (Life.SAVED, Cause.AUTOSTART): Life.SAVED,
        (Life.SAVED, Cause.CHANGE_CONFIG): Life.SAVED,
        **_while_active(),
    },
)

_Told = tuple[DomainState, Reason, tuple[Lifecycle, ...]]
_BOOTED: Final = Lifecycle(LifecycleEvent.STARTED, StartedDetail.BOOTED)
_RESTORED: Final = Lifecycle(LifecycleEvent.STARTED, StartedDetail.RESTORED)
_PAUSED: Final = Lifecycle(LifecycleEvent.SUSPENDED, SuspendedDetail.PAUSED)
_UNPAUSED: Final = Lifecycle(LifecycleEvent.RESUMED, ResumedDetail.UNPAUSED)
_FAILED: Final = Lifecycle(LifecycleEvent.STOPPED, StoppedDetail.FAILED)


def _stopped(reason: ShutoffReason, detail: StoppedDetail) -> _Told:
    return DomainState.SHUTOFF, reason, (Lifecycle(LifecycleEvent.STOPPED, detail),)


_RUNS: Final[_Told] = (DomainState.RUNNING, RunningReason.BOOTED, (_BOOTED,))
_STARTS_PAUSED: Final[_Told] = (DomainState.PAUSED, PausedReason.USER, (_BOOTED, _PAUSED))
_RESTORED_PAUSED: Final[_Told] = (
    DomainState.PAUSED, PausedReason.USER,
    (_RESTORED, Lifecycle(LifecycleEvent.SUSPENDED, SuspendedDetail.RESTORED)),
)  # fmt: skip
_SAVED: Final = _stopped(ShutoffReason.SAVED, StoppedDetail.SAVED)

_TOLD_OF_CAUSE: Final[dict[Cause, _Told]] = {
    Cause.CREATE: _RUNS,
    Cause.START: _RUNS,
    Cause.START_FORCED: _RUNS,
    Cause.CREATE_PAUSED: _STARTS_PAUSED,
    Cause.START_PAUSED: _STARTS_PAUSED,
    Cause.RESTORE: (DomainState.RUNNING, RunningReason.RESTORED, (_RESTORED,)),
    Cause.RESTORE_PAUSED: _RESTORED_PAUSED,
    Cause.SUSPEND: (DomainState.PAUSED, PausedReason.USER, (_PAUSED,)),
    Cause.RESUME: (DomainState.RUNNING, RunningReason.UNPAUSED, (_UNPAUSED,)),
    Cause.DESTROY: _stopped(ShutoffReason.DESTROYED, StoppedDetail.DESTROYED),
    Cause.SAVE: _SAVED,
    Cause.MANAGED_SAVE: _SAVED,
    Cause.SHUTTING_DOWN: (
        DomainState.SHUTDOWN, ShutdownReason.USER, (Lifecycle(LifecycleEvent.SHUTDOWN, ShutdownDetail.GUEST),)
    ),
    Cause.POWERED_OFF: _stopped(ShutoffReason.SHUTDOWN, StoppedDetail.SHUTDOWN),
    Cause.PANICKED: (
        DomainState.CRASHED, CrashedReason.PANICKED, (Lifecycle(LifecycleEvent.CRASHED, CrashedDetail.PANICKED),)
    ),
    Cause.PANICKED_OFF: (
        DomainState.SHUTOFF, ShutoffReason.CRASHED,
        (Lifecycle(LifecycleEvent.CRASHED, CrashedDetail.PANICKED),
         Lifecycle(LifecycleEvent.STOPPED, StoppedDetail.CRASHED)),
    ),
    Cause.PROCESS_LOST: _stopped(ShutoffReason.CRASHED, StoppedDetail.CRASHED),
    Cause.VMM_FAILED: _stopped(ShutoffReason.FAILED, StoppedDetail.FAILED),
    # It goes on under its number, as after a reboot.
    Cause.RESTARTED: (DomainState.RUNNING, RunningReason.BOOTED, ()),
    Cause.CRASH_RESTARTED: (
        DomainState.RUNNING, RunningReason.CRASHED, (Lifecycle(LifecycleEvent.CRASHED, CrashedDetail.PANICKED),)
    ),
    Cause.IO_ERROR: (
        DomainState.PAUSED, PausedReason.IO_ERROR, (Lifecycle(LifecycleEvent.SUSPENDED, SuspendedDetail.IO_ERROR),)
    ),
}  # fmt: skip
"""What clients are told, whatever the life before."""

_TOLD_OF_LIFE: Final[dict[tuple[Life, Cause], _Told]] = {
    (Life.SAVED, Cause.START): (DomainState.RUNNING, RunningReason.RESTORED, (_RESTORED,)),
    (Life.SAVED, Cause.START_PAUSED): _RESTORED_PAUSED,
    (Life.OFF, Cause.START_FAILED): (DomainState.SHUTOFF, ShutoffReason.FAILED, (_FAILED,)),
    # The saved state is still what the next start continues from.
    (Life.SAVED, Cause.START_FAILED): (DomainState.SHUTOFF, ShutoffReason.SAVED, (_FAILED,)),
}  # fmt: skip
"""Where it depends on the life before."""
_ALREADY: Final = {
    (life, cause)
    for cause, lives in (
        (Cause.SUSPEND, (Life.PAUSED, Life.TRANSIENT_PAUSED)),
        (Cause.RESUME, (Life.RUNNING, Life.TRANSIENT_RUNNING)),
    )
    for life in lives
}
"""Requests for what is so already: the reason stays that of whoever was first."""

_UNDEFINED: Final = (Lifecycle(LifecycleEvent.UNDEFINED, UndefinedDetail.REMOVED),)
_OTHER_EVENTS: Final[dict[tuple[Life, Cause], tuple[Lifecycle, ...]]] = {
    **{
        (life, Cause.DEFINE): (
            Lifecycle(
                LifecycleEvent.DEFINED,
                DefinedDetail.UPDATED if is_persistent(life) else DefinedDetail.ADDED,
            ),
        )
        for life in Life
    },
    # Clients that show the definition look again.
    **{
        (life, Cause.CHANGE_CONFIG): (Lifecycle(LifecycleEvent.DEFINED, DefinedDetail.UPDATED),)
        for life in Life
        if is_persistent(life)
    },
    **{(life, cause): _UNDEFINED for life in Life for cause in (Cause.UNDEFINE, Cause.UNDEFINE_SAVED)},
    (Life.OFF, Cause.RENAME): (
        Lifecycle(LifecycleEvent.UNDEFINED, UndefinedDetail.RENAMED),
        Lifecycle(LifecycleEvent.DEFINED, DefinedDetail.RENAMED),
    ),
}  # fmt: skip
"""Events of what changes no state."""
