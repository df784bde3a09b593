"""The wire between local APICs, I/O APICs and MSI devices.

Locks: `lock` guards every local APIC and I/O APIC of the machine. Order: machine lock, then this one, then
whatever a vCPU uses inside the CpuLines methods and a timer queue inside `at`. Nothing here takes the
machine lock.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Protocol

from manor.devices.intc.message import BROADCAST_32, DeliveryMode, InterruptMessage, decode_msi
from manor.trace.event import declare, guest_error

apic_message = declare("apic_message", destination=int, is_logical=bool, mode=str, vector=int)


class ApicTarget(Protocol):
    """A local APIC as the bus sees it; called with the bus lock held."""

    apic_id: int

    def matches(self, destination: int, is_logical: bool) -> bool: ...
    def can_accept(self) -> bool: ...
    def priority(self) -> int: ...
    def accept(self, vector: int, is_level: bool) -> bool: ...
    def receive_nmi(self) -> None: ...
    def receive_init(self) -> None: ...
    def receive_startup(self, vector: int) -> None: ...


class EoiListener(Protocol):
    """An I/O APIC as the bus sees it; called with the bus lock held."""

    def end_of_interrupt(self, vector: int) -> None: ...


class ApicBus:
    """Delivers messages to the local APICs and end-of-interrupt broadcasts to the I/O APICs. An MsiSink.

    Thread: any.
    """

    def __init__(self, lock: threading.RLock | None = None) -> None:
        """lock: shared by everything attached to this bus; made here if not given."""
        self.lock = threading.RLock() if lock is None else lock
        self._apics: list[ApicTarget] = []
        self._listeners: list[EoiListener] = []
        self._next_lowest = 0

    def attach(self, apic: ApicTarget) -> None:
        """Add a local APIC. Raises ValueError if its ID is taken."""
        with self.lock:
            if any(other.apic_id == apic.apic_id for other in self._apics):
                raise ValueError(f"two local APICs with ID {apic.apic_id}")
            self._apics.append(apic)

    def attach_listener(self, listener: EoiListener) -> None:
        """Add an I/O APIC."""
        with self.lock:
            self._listeners.append(listener)

    def send(self, address: int, data: int) -> None:
        """MsiSink: a device wrote `data` to `address`."""
        message = decode_msi(address, data)
        if message is None or message.mode is not DeliveryMode.FIXED or message.is_redirectable or apic_message.on:
            self.deliver_msi(address, data)
            return
        # The commonest kind, in fewer steps.
        destination, is_logical = message.destination, message.is_logical
        with self.lock:
            for apic in self._apics:
                if apic.matches(destination, is_logical):
                    apic.accept(message.vector, message.is_level)

    def deliver_msi(self, address: int, data: int) -> bool:
        """As `send`; whether some local APIC accepted the message."""
        message = decode_msi(address, data)
        if message is None:
            if guest_error.on:
                guest_error("apic_bus", f"MSI to {address:#x} is outside the interrupt window")
            return False
        return self.deliver(message)

    def deliver(self, message: InterruptMessage) -> bool:
        """Send to every local APIC the destination matches; whether one accepted."""
        with self.lock:
            destination = message.destination
            if destination == BROADCAST_32:
                targets = self._apics
            else:
                is_logical = message.is_logical
                targets = [apic for apic in self._apics if apic.matches(destination, is_logical)]
            return self.deliver_to(targets, message)

    def deliver_except(self, sender: ApicTarget, message: InterruptMessage) -> bool:
        """Send to every local APIC but `sender` (the shorthand "all excluding self")."""
        with self.lock:
            return self.deliver_to([apic for apic in self._apics if apic is not sender], message)

    def deliver_to(self, targets: Iterable[ApicTarget], message: InterruptMessage) -> bool:
        """Send to these. Lock held."""
        mode = message.mode
        if apic_message.on:
            apic_message(message.destination, message.is_logical, mode.name, message.vector)
        if mode is DeliveryMode.LOWEST_PRIORITY or (message.is_redirectable and mode is DeliveryMode.FIXED):
            chosen = self._lowest_priority(targets)
            return chosen is not None and chosen.accept(message.vector, message.is_level)
        accepted = False
        for apic in targets:
            match mode:
                case DeliveryMode.FIXED:
                    accepted |= apic.accept(message.vector, message.is_level)
                case DeliveryMode.NMI:
                    apic.receive_nmi()
                    accepted = True
                case DeliveryMode.INIT:
                    apic.receive_init()
                    accepted = True
                case DeliveryMode.STARTUP:
                    apic.receive_startup(message.vector)
                    accepted = True
                case _:
                    # SMI: there is no system management mode. EXTINT: there is no 8259.
                    if guest_error.on:
                        guest_error("apic_bus", f"delivery mode {mode.name} is not offered")
        return accepted

    def end_of_interrupt(self, vector: int) -> None:
        """A local APIC finished a level-triggered interrupt: tell the I/O APICs. Lock held."""
        for listener in self._listeners:
            listener.end_of_interrupt(vector)

    def _lowest_priority(self, targets: Iterable[ApicTarget]) -> ApicTarget | None:
        """Among the targets that accept interrupts, one of lowest priority; equals take turns."""
        able = [apic for apic in targets if apic.can_accept()]
        if len(able) < 2:
            return able[0] if able else None
        lowest = min(apic.priority() for apic in able)
        equal = [apic for apic in able if apic.priority() == lowest]
        self._next_lowest += 1
        return equal[self._next_lowest % len(equal)]
