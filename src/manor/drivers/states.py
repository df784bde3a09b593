"""libvirt's states, reasons and events as numbers.

Source: libvirt API reference, virDomainState, virDomainEventType and the reasons and details that belong to them.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class State(IntEnum):
    """Of a domain."""

    RUNNING = 1
    PAUSED = 3
    SHUTDOWN = 4
    SHUTOFF = 5
    CRASHED = 6


ACTIVE: Final = (State.RUNNING, State.PAUSED, State.SHUTDOWN)
"""States with a process behind them."""


class Running(IntEnum):
    """Why a domain runs."""

    UNKNOWN = 0
    BOOTED = 1
    RESTORED = 3
    FROM_SNAPSHOT = 4
    UNPAUSED = 5


class Paused(IntEnum):
    """Why it is paused."""

    UNKNOWN = 0
    USER = 1
    FROM_SNAPSHOT = 7
    STARTING_UP = 11


class ShutOff(IntEnum):
    """Why it is off."""

    UNKNOWN = 0
    SHUTDOWN = 1
    DESTROYED = 2
    CRASHED = 3
    SAVED = 5
    FAILED = 6
    FROM_SNAPSHOT = 7


class Lifecycle(IntEnum):
    """Events of a domain's life."""

    DEFINED = 0
    UNDEFINED = 1
    STARTED = 2
    SUSPENDED = 3
    RESUMED = 4
    STOPPED = 5
    SHUTDOWN = 6
    CRASHED = 8


class Defined(IntEnum):
    """Details of DEFINED."""

    ADDED = 0
    UPDATED = 1
    RENAMED = 2


class Stopped(IntEnum):
    """Details of STOPPED."""

    SHUTDOWN = 0
    DESTROYED = 1
    CRASHED = 2
    SAVED = 4
    FAILED = 5
    FROM_SNAPSHOT = 6


class Started(IntEnum):
    """Details of STARTED."""

    BOOTED = 0
    RESTORED = 2
    FROM_SNAPSHOT = 3


class Life(IntEnum):
    """Events of networks and pools: what happened. A pool has CREATED and DELETED beside them."""

    DEFINED = 0
    UNDEFINED = 1
    STARTED = 2
    STOPPED = 3
