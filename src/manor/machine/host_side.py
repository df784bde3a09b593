"""What a machine gets from the VMM."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from manor.backends.block.api import BlockBackend
from manor.backends.char.api import CharBackend
from manor.backends.net.api import NetBackend
from manor.backends.share.api import ShareBackend
from manor.backends.vsock.api import VsockBackend
from manor.base.clock import Clock
from manor.base.timers import Timers
from manor.base.work import Work
from manor.machine.doorbells import Readers
from manor.machine.pc import Backpressure


def _ignore(what: object) -> None:
    """For machines whose devices nobody takes away."""


class ConsoleBackend(CharBackend, Backpressure, Protocol):
    """A console line whose reader may be slow."""


@dataclass(frozen=True, slots=True)
class HostNic:
    """The far end of the cable of one interface, its MAC address, and the lock that the network belongs to."""

    backend: NetBackend
    mac: bytes
    lock: threading.RLock


@dataclass(frozen=True, slots=True)
class HostSide:
    """What the VMM gives to a machine.

    lock: the machine lock; callbacks of `timers` run with it held, `defer` runs a callback so, soon.
    power_off, reset: the guest asked for it; called with the lock held, they note it and return.
    wake: the vCPU of that index may have work; any thread, with locks held.
    readers: for doorbells, where the accelerator has them; without, they are ordinary addresses.
    post: runs a callback soon on the I/O loop, without the lock. nics: as many as the spec has.
    work: what runs jobs with no lock held, for disks and networks.
    disks: what is open for each of `MachineSpec.disks`, in their order.
    vsock, agent: the far ends of the socket device and of the agent's port; without, there is no such device.
    shares: servers of the host's folders, a device each.
    ejected: the guest gave back the device of that name; cpu_ejected: or that vCPU. cpu_kept: it does not give that one
    back. Called with the lock held, they note it and return.
    """

    clock: Clock
    timers: Timers
    defer: Callable[[Callable[[], None]], None]
    lock: threading.RLock
    serial: ConsoleBackend
    console: ConsoleBackend
    power_off: Callable[[], None]
    reset: Callable[[], None]
    wake: Callable[[int], None]
    readers: Readers | None = None
    post: Callable[[Callable[[], None]], None] | None = None
    nics: Sequence[HostNic] = ()
    work: Work | None = None
    disks: Sequence[BlockBackend] = ()
    vsock: VsockBackend | None = None
    agent: CharBackend | None = None
    shares: Sequence[ShareBackend] = ()
    ejected: Callable[[str], None] = _ignore
    cpu_ejected: Callable[[int], None] = _ignore
    cpu_kept: Callable[[int], None] = _ignore
