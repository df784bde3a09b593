"""The host's end of the memory balloon: how much memory the guest shall have, and what it thinks of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Final, Protocol

from manor.base.address import PAGE_SIZE
from manor.base.errors import ConfigError, HostError, StateError
from manor.base.units import format_size, parse_size

STATISTICS_S: Final = 5.0
"""How long a driver may take to answer by default, in seconds."""


class Counts(Protocol):
    """Bytes given back, by the way they came."""

    @property
    def inflated(self) -> int: ...
    @property
    def reported(self) -> int: ...


class BalloonDevice(Protocol):
    """The device as it is used here. Machine lock held."""

    on_actual: Callable[[], None]
    on_statistics: Callable[[], None]
    actual: int
    statistics: dict[str, int]

    @property
    def counts(self) -> Counts: ...
    @property
    def is_running(self) -> bool: ...
    def set_target(self, pages: int) -> None: ...
    def request_statistics(self) -> bool: ...


Lock = AbstractContextManager[bool, None]


@dataclass(frozen=True, slots=True)
class MemoryStatistics:
    """What the guest says of its memory: bytes, but for faults and huge pages, which are counts. None: not told.

    free: used for nothing. available: could be had without swapping. caches: can be dropped at once.
    inflated, reported: bytes given back to the host since the machine was built; they may have been taken again.
    """

    free: int | None = None
    total: int | None = None
    available: int | None = None
    caches: int | None = None
    swap_in: int | None = None
    swap_out: int | None = None
    major_faults: int | None = None
    minor_faults: int | None = None
    huge_page_allocations: int | None = None
    huge_page_failures: int | None = None
    inflated: int = 0
    reported: int = 0

    def as_dict(self) -> dict[str, int | None]:
        """Plain values, for JSON."""
        return asdict(self)


class Balloon:
    """The balloon of one VM; it outlives the machine when the guest reboots. Thread: any.

    Locks: the machine lock is taken before its own.
    """

    def __init__(self, memory: int) -> None:
        """memory: bytes of RAM that the machine has."""
        self._memory = memory
        self._target = memory
        self._changed = threading.Condition()
        self._answers = 0
        self._device: BalloonDevice | None = None
        self._lock: Lock | None = None

    @property
    def target(self) -> int:
        """Bytes of memory that the guest shall have. Setting it asks the guest, which follows as far as it can."""
        return self._target

    @target.setter
    def target(self, size: int | str) -> None:
        """size: bytes, or text such as "128M". Raises ConfigError."""
        try:
            size = parse_size(size) if isinstance(size, str) else size
        except ValueError as error:
            raise ConfigError("balloon.target", str(error)) from error
        if not 0 < size <= self._memory:
            raise ConfigError(
                "balloon.target", f"{size} bytes: give more than 0 and at most the {format_size(self._memory)} it has"
            )
        self._target = size
        device, lock = self._device, self._lock
        if device is not None and lock is not None:
            with lock:
                device.set_target(self._wanted_pages)

    @property
    def has_driver(self) -> bool:
        """Whether a driver of the guest runs the balloon."""
        device = self._device
        return device is not None and device.is_running

    @property
    def actual(self) -> int:
        """Bytes of memory that the guest has now, as its driver says."""
        device = self._device
        return self._memory if device is None else max(0, self._memory - device.actual * PAGE_SIZE)

    def wait(self, timeout: float | None = None) -> int:
        """Wait until the guest has what `target` says, to a page; returns `actual`. timeout: seconds. Raises
        TimeoutError."""
        with self._changed:
            done = self._changed.wait_for(lambda: abs(self.actual - self._target) < PAGE_SIZE, timeout)
        if not done:
            raise TimeoutError(f"the guest has {self.actual} bytes, not {self._target}, after {timeout} seconds")
        return self.actual

    def statistics(self, timeout: float = STATISTICS_S) -> MemoryStatistics:
        """Ask the guest's driver. timeout: seconds.

        Raises StateError while no driver runs, HostError if it does not answer in time.
        """
        device, lock = self._device, self._lock
        if device is None or lock is None:
            raise StateError("ask for memory statistics", "not running")
        with self._changed:
            before = self._answers
        with lock:
            if not device.request_statistics():
                raise StateError("ask for memory statistics", "without a balloon driver in the guest")
        limit = time.monotonic() + timeout
        with self._changed:
            while self._answers == before:
                left = limit - time.monotonic()
                if left <= 0 or self._device is not device:
                    raise HostError(f"the guest's balloon driver did not answer within {timeout:g} seconds")
                self._changed.wait(left)
        with lock:
            counts = device.counts
            return MemoryStatistics(**device.statistics, inflated=counts.inflated, reported=counts.reported)

    # --- for the VMM ----------------------------------------------------------------------------------------

    @property
    def _wanted_pages(self) -> int:
        return (self._memory - self._target) // PAGE_SIZE

    def connect(self, device: BalloonDevice, lock: Lock) -> None:
        """The device of a newly built machine, not yet running. lock: the machine lock."""
        with lock:
            device.on_actual = self._notify
            device.on_statistics = self._on_statistics
            device.set_target(self._wanted_pages)
        self._device, self._lock = device, lock

    def adopt(self, pages: int) -> None:
        """Want what the saved device was told to want: so many pages in the balloon. Before `connect`."""
        self._target = max(PAGE_SIZE, self._memory - pages * PAGE_SIZE)

    def disconnect(self) -> None:
        """The machine is being taken apart."""
        with self._changed:
            self._device = self._lock = None
            self._changed.notify_all()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _on_statistics(self) -> None:
        with self._changed:
            self._answers += 1
            self._changed.notify_all()
