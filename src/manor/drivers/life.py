"""What happens to networks and storage pools, as libvirt's events have it."""

from __future__ import annotations

from enum import IntEnum


class Life(IntEnum):
    """Source: libvirt API reference, virNetworkEventLifecycleType and virStoragePoolEventLifecycleType.

    The first four are the same in both; the others happen to pools alone.
    """

    DEFINED = 0
    UNDEFINED = 1
    STARTED = 2
    STOPPED = 3
    CREATED = 4
    DELETED = 5
