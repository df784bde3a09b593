"""States of domains and the reasons for them, with the numbers that cross the wire.

Source: libvirt, "Module libvirt-domain", virDomainState and vir*Reason.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class DomainState(IntEnum):
    NO_STATE = 0
    RUNNING = 1
    BLOCKED = 2
    PAUSED = 3
    SHUTDOWN = 4
    """It is on its way to SHUTOFF."""
    SHUTOFF = 5
    CRASHED = 6
    PM_SUSPENDED = 7


class NoStateReason(IntEnum):
    UNKNOWN = 0


class RunningReason(IntEnum):
    UNKNOWN = 0
    BOOTED = 1
    MIGRATED = 2
    RESTORED = 3
    FROM_SNAPSHOT = 4
    UNPAUSED = 5
    MIGRATION_CANCELED = 6
    SAVE_CANCELED = 7
    WAKEUP = 8
    CRASHED = 9
    POSTCOPY = 10
    POSTCOPY_FAILED = 11


class BlockedReason(IntEnum):
    UNKNOWN = 0


class PausedReason(IntEnum):
    UNKNOWN = 0
    USER = 1
    MIGRATION = 2
    SAVE = 3
    DUMP = 4
    IO_ERROR = 5
    WATCHDOG = 6
    FROM_SNAPSHOT = 7
    SHUTTING_DOWN = 8
    SNAPSHOT = 9
    CRASHED = 10
    STARTING_UP = 11
    POSTCOPY = 12
    POSTCOPY_FAILED = 13
    API_ERROR = 14


class ShutdownReason(IntEnum):
    UNKNOWN = 0
    USER = 1


class ShutoffReason(IntEnum):
    UNKNOWN = 0
    SHUTDOWN = 1
    DESTROYED = 2
    CRASHED = 3
    MIGRATED = 4
    SAVED = 5
    FAILED = 6
    FROM_SNAPSHOT = 7
    DAEMON = 8


class CrashedReason(IntEnum):
    UNKNOWN = 0
    PANICKED = 1


class PmSuspendedReason(IntEnum):
    UNKNOWN = 0


Reason = (
    NoStateReason | RunningReason | BlockedReason | PausedReason | ShutdownReason | ShutoffReason | CrashedReason
    | PmSuspendedReason
)  # fmt: skip

REASONS: Final[dict[DomainState, type[Reason]]] = {
    DomainState.NO_STATE: NoStateReason,
    DomainState.RUNNING: RunningReason,
    DomainState.BLOCKED: BlockedReason,
    DomainState.PAUSED: PausedReason,
    DomainState.SHUTDOWN: ShutdownReason,
    DomainState.SHUTOFF: ShutoffReason,
    DomainState.CRASHED: CrashedReason,
    DomainState.PM_SUSPENDED: PmSuspendedReason,
}
"""The reasons of each state."""

ACTIVE: Final = frozenset(
    {DomainState.RUNNING, DomainState.BLOCKED, DomainState.PAUSED, DomainState.SHUTDOWN, DomainState.PM_SUSPENDED,
     DomainState.CRASHED}
)  # fmt: skip
"""States in which the domain has a process, and thus an ID. CRASHED is one: a crashed domain that is preserved."""

_STATE_WORDS: Final = {
    DomainState.NO_STATE: "no state", DomainState.RUNNING: "running", DomainState.BLOCKED: "idle",
    DomainState.PAUSED: "paused", DomainState.SHUTDOWN: "in shutdown", DomainState.SHUTOFF: "shut off",
    DomainState.CRASHED: "crashed", DomainState.PM_SUSPENDED: "pmsuspended",
}  # fmt: skip
_REASON_WORDS: Final[dict[DomainState, dict[int, str]]] = {
    DomainState.RUNNING: {
        RunningReason.MIGRATION_CANCELED: "migration canceled", RunningReason.SAVE_CANCELED: "save canceled",
        RunningReason.FROM_SNAPSHOT: "from snapshot", RunningReason.WAKEUP: "event wakeup",
        RunningReason.POSTCOPY: "post-copy", RunningReason.POSTCOPY_FAILED: "post-copy failed",
    },
    DomainState.PAUSED: {
        PausedReason.IO_ERROR: "I/O error", PausedReason.FROM_SNAPSHOT: "from snapshot",
        PausedReason.SHUTTING_DOWN: "shutting down", PausedReason.SNAPSHOT: "creating snapshot",
        PausedReason.STARTING_UP: "starting up", PausedReason.SAVE: "saving", PausedReason.DUMP: "dumping",
        PausedReason.MIGRATION: "migrating", PausedReason.POSTCOPY: "post-copy",
        PausedReason.POSTCOPY_FAILED: "post-copy failed", PausedReason.API_ERROR: "api error",
    },
    DomainState.SHUTOFF: {ShutoffReason.FROM_SNAPSHOT: "from snapshot"},
}  # fmt: skip
"""Words that are not the member's name. The states come first because members of two enumerations with one number
are equal."""


def state_word(state: DomainState) -> str:
    """As users know it: `shut off`."""
    return _STATE_WORDS[state]


def reason_word(state: DomainState, reason: int) -> str:
    """As users know it: `saved`. A number that the state does not have is `unknown`."""
    try:
        member = REASONS[state](reason)
    except ValueError:
        return "unknown"
    return _REASON_WORDS.get(state, {}).get(reason, member.name.lower().replace("_", " "))
