"""Doorbells of mapped devices as eventfds of the accelerator: a kick of a queue does not stop the vCPU.

Where an accelerator offers none, `DirectDoorbells` at least spares the write the search for its target.

One watcher a bus. An eventfd lives as long as its target stays mapped where it is; the I/O loop rings the device with
the machine lock held, as a write would. A doorbell that KVM refuses (there are limits) stays an ordinary address.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from manor.accel.api import Doorbells
from manor.base.errors import HostError
from manor.bus.doorbell import Doorbell, DoorbellTarget
from manor.trace.event import declare

doorbell_attach = declare("doorbell_attach", address=int, attached=bool)


class Readers(Protocol):
    """The I/O loop's descriptors. Thread: any; both take effect soon."""

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        """Call `callback` on the loop's thread whenever `fd` is readable."""

    def unwatch(self, fd: int, then: Callable[[], None]) -> None:
        """Stop, then call `then` on the loop's thread."""


@dataclass(frozen=True, slots=True)
class _Wire:
    fd: int
    address: int


class DoorbellWiring:
    """bus.doorbell.MapWatcher for one bus. Machine lock held, but for `close`."""

    def __init__(self, doorbells: Doorbells, readers: Readers, lock: threading.RLock, is_port: bool) -> None:
        self._doorbells = doorbells
        self._readers = readers
        self._lock = lock
        self._is_port = is_port
        self._wires: dict[int, list[_Wire]] = {}

    def mapped(self, start: int, target: object) -> None:
        if isinstance(target, DoorbellTarget):
            made = (self._connect(start + doorbell.offset, doorbell) for doorbell in target.doorbells())
            self._wires[start] = [wire for wire in made if wire is not None]

    def unmapped(self, start: int) -> None:
        for wire in self._wires.pop(start, ()):
            self._doorbells.detach(wire.fd, wire.address, self._is_port)
            self._readers.unwatch(wire.fd, partial(os.close, wire.fd))

    def close(self) -> None:
        """Take every doorbell down, before the accelerator's VM is closed. No vCPU may be running."""
        with self._lock:
            for start in list(self._wires):
                self.unmapped(start)

    def _connect(self, address: int, doorbell: Doorbell) -> _Wire | None:
        fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            self._doorbells.attach(fd, address, self._is_port)
        except HostError:
            os.close(fd)
            is_attached = False
        else:
            self._readers.watch(fd, partial(self._rung, fd, doorbell))
            is_attached = True
        if doorbell_attach.on:
            doorbell_attach(address, is_attached)
        return _Wire(fd, address) if is_attached else None

    def _rung(self, fd: int, doorbell: Doorbell) -> None:
        """Thread: the I/O loop's."""
        try:
            os.eventfd_read(fd)
        except BlockingIOError:
            return
        with self._lock:
            doorbell.ring()


class DirectDoorbells:
    """bus.doorbell.MapWatcher: what a write to each address rings. Machine lock held; `ring_of` may be read without."""

    def __init__(self) -> None:
        self.ring_of: dict[int, Callable[[], None]] = {}
        self._addresses: dict[int, list[int]] = {}

    def mapped(self, start: int, target: object) -> None:
        if isinstance(target, DoorbellTarget):
            rings = {start + doorbell.offset: doorbell.ring for doorbell in target.doorbells()}
            self._addresses[start] = list(rings)
            self.ring_of.update(rings)

    def unmapped(self, start: int) -> None:
        for address in self._addresses.pop(start, ()):
            del self.ring_of[address]
