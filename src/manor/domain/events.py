"""Events of a domain's life, and the kinds of events that clients register for, with the numbers that cross the wire.

Source: libvirt, "Module libvirt-domain", virDomainEventType, virDomainEvent*DetailType, virDomainEventID.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final


class LifecycleEvent(IntEnum):
    DEFINED = 0
    UNDEFINED = 1
    STARTED = 2
    SUSPENDED = 3
    RESUMED = 4
    STOPPED = 5
    SHUTDOWN = 6
    PM_SUSPENDED = 7
    CRASHED = 8


class DefinedDetail(IntEnum):
    ADDED = 0
    UPDATED = 1
    RENAMED = 2
    FROM_SNAPSHOT = 3


class UndefinedDetail(IntEnum):
    REMOVED = 0
    RENAMED = 1


class StartedDetail(IntEnum):
    BOOTED = 0
    MIGRATED = 1
    RESTORED = 2
    FROM_SNAPSHOT = 3
    WAKEUP = 4


class SuspendedDetail(IntEnum):
    PAUSED = 0
    MIGRATED = 1
    IO_ERROR = 2
    WATCHDOG = 3
    RESTORED = 4
    FROM_SNAPSHOT = 5
    API_ERROR = 6
    POSTCOPY = 7
    POSTCOPY_FAILED = 8


class ResumedDetail(IntEnum):
    UNPAUSED = 0
    MIGRATED = 1
    FROM_SNAPSHOT = 2
    POSTCOPY = 3
    POSTCOPY_FAILED = 4


class StoppedDetail(IntEnum):
    SHUTDOWN = 0
    DESTROYED = 1
    CRASHED = 2
    MIGRATED = 3
    SAVED = 4
    FAILED = 5
    FROM_SNAPSHOT = 6


class ShutdownDetail(IntEnum):
    FINISHED = 0
    GUEST = 1
    HOST = 2


class PmSuspendedDetail(IntEnum):
    MEMORY = 0
    DISK = 1


class CrashedDetail(IntEnum):
    PANICKED = 0
    CRASH_LOADED = 1


Detail = (
    DefinedDetail | UndefinedDetail | StartedDetail | SuspendedDetail | ResumedDetail | StoppedDetail | ShutdownDetail
    | PmSuspendedDetail | CrashedDetail
)  # fmt: skip

DETAILS: Final[dict[LifecycleEvent, type[Detail]]] = {
    LifecycleEvent.DEFINED: DefinedDetail,
    LifecycleEvent.UNDEFINED: UndefinedDetail,
    LifecycleEvent.STARTED: StartedDetail,
    LifecycleEvent.SUSPENDED: SuspendedDetail,
    LifecycleEvent.RESUMED: ResumedDetail,
    LifecycleEvent.STOPPED: StoppedDetail,
    LifecycleEvent.SHUTDOWN: ShutdownDetail,
    LifecycleEvent.PM_SUSPENDED: PmSuspendedDetail,
    LifecycleEvent.CRASHED: CrashedDetail,
}
"""The details of each event."""


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """One event of a domain's life."""

    event: LifecycleEvent
    detail: Detail

    def __str__(self) -> str:
        """As users know it: `Stopped Destroyed`."""
        words = f"{self.event.name} {self.detail.name}"
        return " ".join(word.capitalize() for word in words.replace("_", " ").split())


class EventId(IntEnum):
    """Kinds of events that a client registers for."""

    LIFECYCLE = 0
    REBOOT = 1
    RTC_CHANGE = 2
    WATCHDOG = 3
    IO_ERROR = 4
    GRAPHICS = 5
    IO_ERROR_REASON = 6
    CONTROL_ERROR = 7
    BLOCK_JOB = 8
    DISK_CHANGE = 9
    TRAY_CHANGE = 10
    PMWAKEUP = 11
    PMSUSPEND = 12
    BALLOON_CHANGE = 13
    PMSUSPEND_DISK = 14
    DEVICE_REMOVED = 15
    BLOCK_JOB_2 = 16
    TUNABLE = 17
    AGENT_LIFECYCLE = 18
    DEVICE_ADDED = 19
    MIGRATION_ITERATION = 20
    JOB_COMPLETED = 21
    DEVICE_REMOVAL_FAILED = 22
    METADATA_CHANGE = 23
    BLOCK_THRESHOLD = 24
    MEMORY_FAILURE = 25
    MEMORY_DEVICE_SIZE_CHANGE = 26
