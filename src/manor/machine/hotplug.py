"""What sits in which PCI slot, and vCPUs beyond those at the start: what comes and goes while the machine runs.

A device arrives: it is put into a free slot, and the guest is told. It goes: the guest is asked, and gives it back when
it is done with it (or by itself); only then is it taken out. A guest that never answers keeps it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from manor.backends.block.api import BlockBackend
from manor.base.errors import ConfigError, InternalError
from manor.boot.acpi_hotplug import HotplugSpec
from manor.bus.bus import Bus
from manor.bus.irq import IrqLine, IrqSink
from manor.devices.block.disk import Disk
from manor.devices.misc.hotplug import HOTPLUG_TABLE, HotplugController
from manor.devices.pci.config import PciFunction
from manor.devices.pci.host import SLOT_COUNT, PciHost
from manor.devices.virtio.net import VirtioNet
from manor.devices.virtio.net_port import NetPort
from manor.devices.virtio.pci import VirtioPci
from manor.machine.allocator import SlotAllocator
from manor.machine.disks import disk_function, make_disk
from manor.machine.host_side import HostNic, HostSide
from manor.machine.nics import make_nic
from manor.mem import layout
from manor.mem.guest_memory import GuestMemory
from manor.spec.block import DiskSpec
from manor.spec.machine import MachineSpec
from manor.spec.net import NicSpec

NAME: Final = "hotplug"


@dataclass(slots=True)
class Plugged:
    """A device in a slot that may go. disk, port: what is behind it, one of the two. is_ejected: the guest has given it
    back."""

    name: str
    slot: int
    function: PciFunction
    disk: Disk | None = None
    port: NetPort | None = None
    is_ejected: bool = False


class Hotplug:
    """Slots of PCI bus 0 and vCPUs of a machine. Machine lock held, once it runs."""

    def __init__(
        self,
        pci: PciHost,
        lines: IrqSink,
        pio: Bus,
        memory: GuestMemory,
        host: HostSide,
        spec: MachineSpec,
        places: Mapping[str, int],
    ) -> None:
        """places: slots of functions, by their names, that count whatever the description says."""
        self._places = places
        self._pci = pci
        self._memory = memory
        self._host = host
        self.cpus = spec.cpus
        """vCPUs that devices are made for: those of the start, as a device keeps its number of queues."""
        self._possible_cpus = spec.possible_cpus
        self._asked_cpus: set[int] = set()
        """vCPUs that the guest was asked for, and has not answered: each question has one answer."""
        described = (*(nic.slot for nic in spec.nics), *(disk.slot for disk in spec.disks))
        self._slots = SlotAllocator(slot for slot in (*places.values(), *described) if slot)
        self._fixed: set[int] = {0}
        self.plugged: dict[int, Plugged] = {}
        """By slot."""
        line = IrqLine(lines, layout.HOTPLUG_GSI)
        self.controller = HotplugController(NAME, line, self._eject, self._eject_cpu, self._keep_cpu)
        self.controller.cpu_enabled = (1 << spec.cpus) - 1
        pio.map(layout.HOTPLUG, HOTPLUG_TABLE.size, self.controller.registers, NAME)

    # --- building -------------------------------------------------------------------------------------------

    def fix(self, functions: Sequence[PciFunction]) -> None:
        """Put functions that stay into the next slots. Raises ConfigError when there is none left."""
        for function in functions:
            slot = self._slots.take(function.name, self._places.get(function.name, 0))
            self._fixed.add(slot)
            self._pci.add(slot, function)

    def fill(
        self, name: str, function: PciFunction, wanted: int, *, disk: Disk | None = None, port: NetPort | None = None
    ) -> Plugged:
        """Put a function that may go into the wanted slot, or into the next for 0. Raises ConfigError."""
        slot = self._slots.take(name, self._places.get(function.name, wanted))
        self._pci.add(slot, function)
        plugged = self.plugged[slot] = Plugged(name, slot, function, disk, port)
        return plugged

    def tables(self) -> HotplugSpec:
        """What the ACPI tables say of it."""
        slots = tuple(slot for slot in range(SLOT_COUNT) if slot not in self._fixed)
        # The first processor stays: no guest can do without it.
        cpus = tuple(range(1, self._possible_cpus)) if self._possible_cpus > self.cpus else ()
        return HotplugSpec(layout.HOTPLUG, layout.HOTPLUG_GSI, slots, cpus)

    # --- devices --------------------------------------------------------------------------------------------

    def add_disk(self, spec: DiskSpec, name: str, backend: BlockBackend) -> tuple[Plugged, Disk]:
        """A disk arrives. Raises ConfigError if there is no slot for it."""
        if self._host.work is None:
            raise InternalError("a disk needs workers")
        disk = make_disk(spec, name, backend, self._host.lock, self._host.work)
        function = disk_function(disk, spec, self._memory, self._host.defer, self.cpus)
        plugged = self.fill(name, function, spec.slot, disk=disk)
        self.controller.slot_arrived(plugged.slot)
        return plugged, disk

    def add_nic(self, spec: NicSpec, name: str, far: HostNic) -> tuple[Plugged, VirtioNet, NetPort]:
        """An interface arrives. Raises ConfigError if there is no slot for it."""
        device, port = make_nic(spec, name, far, self._memory, self._host, self.cpus)
        plugged = self.fill(name, VirtioPci(device), spec.slot, port=port)
        self.controller.slot_arrived(plugged.slot)
        return plugged, device, port

    def find(self, name: str) -> Plugged:
        """The device of that name. Raises ConfigError."""
        for plugged in self.plugged.values():
            if plugged.name == name:
                return plugged
        raise ConfigError("device", f"{name!r} is in no slot")

    def ask(self, name: str) -> None:
        """Ask the guest to give a device back; again, if it did not listen. Raises ConfigError if it is not there."""
        self.controller.ask_slot(self.find(name).slot)

    def free(self, plugged: Plugged) -> None:
        """All that was behind a device that the guest gave back is released: its slot may be used again."""
        self.plugged.pop(plugged.slot)
        self._slots.give_back(plugged.slot)

    def _eject(self, slot: int) -> None:
        """The guest gives back what is in a slot, asked or not."""
        plugged = self.plugged.get(slot)
        if plugged is None or plugged.is_ejected:
            self.controller.report(f"ejection of slot {slot}, in which nothing is that may go")
            return
        plugged.is_ejected = True
        self._pci.remove(slot)
        self.controller.slot_gone(slot)
        if plugged.disk is not None:
            plugged.disk.abandon()
        if plugged.port is not None:
            plugged.port.close()
        self._host.ejected(plugged.name)

    @property
    def is_settled(self) -> bool:
        """Whether what the guest gave back is gone, and its vCPUs are the first ones: such a machine can be built."""
        enabled = self.controller.cpu_enabled
        return not any(each.is_ejected for each in self.plugged.values()) and enabled & (enabled + 1) == 0

    # --- vCPUs ----------------------------------------------------------------------------------------------

    def has_cpu(self, index: int) -> bool:
        """Whether the guest has that vCPU, or is told of it."""
        return bool(self.controller.cpu_enabled >> index & 1)

    def add_cpu(self, index: int) -> None:
        """Tell the guest of a vCPU, which waits for its start-up message."""
        self._asked_cpus.discard(index)
        self.controller.cpu_arrived(index)

    def ask_cpu(self, index: int) -> None:
        """Ask the guest to give a vCPU back; again, if it did not listen."""
        self._asked_cpus.add(index)
        self.controller.ask_cpu(index)

    def _eject_cpu(self, index: int) -> None:
        if not 0 < index < self._possible_cpus or not self.has_cpu(index):
            self.controller.report(f"ejection of vCPU {index}, which cannot go")
            return
        self._asked_cpus.discard(index)
        self.controller.cpu_gone(index)
        self._host.cpu_ejected(index)

    def _keep_cpu(self, index: int) -> None:
        if index not in self._asked_cpus:
            self.controller.report(f"refusal to give vCPU {index} back, which nobody asked for")
            return
        self._asked_cpus.discard(index)
        self._host.cpu_kept(index)
