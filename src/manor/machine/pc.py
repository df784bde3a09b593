"""The machine type `pc`: what answers where, and the way from a guest's access to the device.

Addresses come from mem.layout; parts are made by the builder.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from manor.accel.api import VmHandle
from manor.base.work import Work
from manor.bus.bus import Bus
from manor.devices.block.disk import Disk
from manor.devices.device import Device
from manor.devices.intc.lapic import LocalApic
from manor.devices.serial.ns16550 import Ns16550
from manor.devices.virtio.balloon import VirtioBalloon
from manor.devices.virtio.console import ConsolePort, VirtioConsole
from manor.devices.virtio.net import VirtioNet
from manor.devices.virtio.net_port import NetPort
from manor.machine.doorbells import DoorbellWiring
from manor.machine.interrupts import Interrupts
from manor.machine.interval_timer import IntervalTimer
from manor.mem.guest_memory import GuestMemory
from manor.mem.layout import LOCAL_APIC, LOCAL_APIC_SIZE
from manor.trace.event import declare

if TYPE_CHECKING:
    from manor.machine.hotplug import Hotplug

exit_pio_read = declare("exit_pio_read", device=str, port=int, size=int, value=int)
exit_pio_write = declare("exit_pio_write", device=str, port=int, size=int, value=int)
exit_mmio_read = declare("exit_mmio_read", vcpu=int, device=str, gpa=int, size=int, value=int)
exit_mmio_write = declare("exit_mmio_write", vcpu=int, device=str, gpa=int, size=int, value=int)

_LOCAL_APIC_END: Final = LOCAL_APIC + LOCAL_APIC_SIZE
_PAGE_SHIFT: Final = 12
_MAX_COUNTED_PAGES: Final = 4096
"""A guest that touches device memory all over must not make the host's table of counts grow without end."""
_NOBODY: Final = "unmapped"


class Backpressure(Protocol):
    """A backend that may be slower than the guest."""

    @property
    def is_full(self) -> bool: ...
    def wait_room(self) -> None: ...


class PcExits:
    """accel.api.ExitHandler of a `pc`. Thread: a vCPU's; the buses take the machine lock, the APICs their own.

    Counts are per port and page, and approximate with several vCPUs: no lock is taken for them.
    """

    def __init__(
        self,
        pio: Bus,
        mmio: Bus,
        lapics: list[LocalApic],
        backends: list[Backpressure],
        work: Work | None = None,
    ) -> None:
        self._pio = pio
        self._mmio = mmio
        self._lapics = lapics
        self._backends = backends
        self._work = work
        self._port_counts: dict[int, int] = {}
        self._page_counts: dict[int, int] = {}
        self._lapic_count = 0
        self.doorbells: Mapping[int, Callable[[], None]] = {}
        """What a write to device memory at an address rings, where that is all it does; looked up again under the
        machine lock (machine.doorbells.DirectDoorbells)."""

    def pio_read(self, port: int, size: int) -> int:
        self._port_counts[port] = self._port_counts.get(port, 0) + 1
        value = self._pio.read(port, size)
        if exit_pio_read.on:
            exit_pio_read(_owner(self._pio, port), port, size, value)
        return value

    def pio_write(self, port: int, size: int, value: int) -> None:
        self._port_counts[port] = self._port_counts.get(port, 0) + 1
        if exit_pio_write.on:
            exit_pio_write(_owner(self._pio, port), port, size, value)
        self._pio.write(port, size, value)
        self._wait_for_backends()

    def mmio_read(self, vcpu_index: int, gpa: int, size: int) -> int:
        if LOCAL_APIC <= gpa < _LOCAL_APIC_END and self._lapics:
            self._lapic_count += 1
            value = self._lapics[vcpu_index].read(gpa - LOCAL_APIC, size)
        else:
            self._count_page(gpa)
            value = self._mmio.read(gpa, size)
        if exit_mmio_read.on:
            exit_mmio_read(vcpu_index, self._mmio_owner(gpa), gpa, size, value)
        return value

    def mmio_write(self, vcpu_index: int, gpa: int, size: int, value: int) -> None:
        if exit_mmio_write.on:
            exit_mmio_write(vcpu_index, self._mmio_owner(gpa), gpa, size, value)
        if LOCAL_APIC <= gpa < _LOCAL_APIC_END and self._lapics:
            self._lapic_count += 1
            self._lapics[vcpu_index].write(gpa - LOCAL_APIC, size, value)
            return
        self._count_page(gpa)
        if gpa in self.doorbells:
            with self._mmio.lock:
                ring = self.doorbells.get(gpa)
                if ring is not None:
                    ring()
                else:  # unmapped meanwhile
                    self._mmio.write(gpa, size, value)
        else:
            self._mmio.write(gpa, size, value)
        self._wait_for_backends()

    def by_device(self) -> dict[str, int]:
        """Accesses by device, as things are mapped now; most first."""
        counts: Counter[str] = Counter()
        for port, count in list(self._port_counts.items()):
            counts[_owner(self._pio, port)] += count
        for page, count in list(self._page_counts.items()):
            counts[_page_owner(self._mmio, page << _PAGE_SHIFT)] += count
        if self._lapic_count:
            counts["lapic"] += self._lapic_count
        return dict(counts.most_common())

    def _count_page(self, gpa: int) -> None:
        page = gpa >> _PAGE_SHIFT
        known = self._page_counts.get(page)
        if known is not None:
            self._page_counts[page] = known + 1
        elif len(self._page_counts) < _MAX_COUNTED_PAGES:
            self._page_counts[page] = 1

    def _mmio_owner(self, gpa: int) -> str:
        return "lapic" if LOCAL_APIC <= gpa < _LOCAL_APIC_END else _owner(self._mmio, gpa)

    def _wait_for_backends(self) -> None:
        """Here no lock is held. Do what the access started and needs no waiting; and let a guest that prints faster
        than its reader reads wait."""
        if self._work is not None:
            self._work.run_short()
        for backend in self._backends:
            if backend.is_full:
                backend.wait_room()


def _owner(bus: Bus, address: int) -> str:
    found = bus.find(address)
    return _NOBODY if found is None else found[2]


def _page_owner(bus: Bus, start: int) -> str:
    """Who owns a page; several small targets in one page count as the first of them."""
    for used, size, name in bus.ranges():
        if used < start + (1 << _PAGE_SHIFT) and start < used + size:
            return name
    return _NOBODY


@dataclass(slots=True)
class Machine:
    """A built machine. The parts that others talk to have names; `devices` has all of them.

    lock: the machine lock. Thread: any, with the rules of the parts.
    """

    memory: GuestMemory
    pio: Bus
    mmio: Bus
    lock: threading.RLock
    exits: PcExits
    vm: VmHandle
    lapics: list[LocalApic]
    interrupts: Interrupts
    timer: IntervalTimer
    serial: Ns16550
    console: VirtioConsole
    balloon: VirtioBalloon | None
    agent: ConsolePort | None
    devices: list[Device] = field(default_factory=list)
    doorbells: list[DoorbellWiring] = field(default_factory=list)
    nics: list[VirtioNet] = field(default_factory=list)
    net_ports: list[NetPort] = field(default_factory=list)
    disks: list[Disk] = field(default_factory=list)
    hotplug: Hotplug | None = None

    def exits_by_device(self) -> dict[str, int]:
        """Accesses that left guest code, by device."""
        return self.exits.by_device()

    def resize_console(self, columns: int, rows: int) -> None:
        """The window size of the terminal behind the virtio console."""
        with self.lock:
            self.console.resize(columns, rows)

    def disk_statistics(self) -> dict[str, dict[str, int]]:
        """Counters of the disks, by name."""
        with self.lock:
            return {disk.name: disk.statistics.as_dict() for disk in self.disks}

    def pause_network(self) -> None:
        """No frame reaches the guest's memory until `resume_network`. Machine lock held."""
        for port in self.net_ports:
            port.pause()

    def resume_network(self) -> None:
        """Machine lock held."""
        for port in self.net_ports:
            port.resume()

    def drain(self, timeout: float | None = None) -> list[str]:
        """Wait until no disk has a request in flight, so that nobody touches memory. No vCPU may be running.

        timeout: seconds for each; the names of those that still have some then.
        """
        return [disk.name for disk in list(self.disks) if not disk.drain(timeout)]

    def abandon(self) -> None:
        """Requests that are still in flight do not reach the devices any more; the memory that they use stays."""
        for disk in list(self.disks):
            disk.abandon()

    def close(self) -> None:
        """Free the accelerator's VM and the memory. No vCPU may be running, and `drain` has been called."""
        with self.lock:
            for port in self.net_ports:
                port.close()
        for wiring in self.doorbells:
            wiring.close()
        self.vm.close()
