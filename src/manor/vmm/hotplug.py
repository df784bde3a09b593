"""Disks, network interfaces and vCPUs that come and go while a VM runs.

To remove something asks the guest; it is gone when the guest has given it back, which may be never. Then what it had
(files, locks, sockets, threads) is released, and listeners are told. A reboot ends what the guest did not answer.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

from manor.base.errors import ConfigError, HostError, InternalError, ManorError, StateError
from manor.machine.host_side import HostNic
from manor.spec.block import DiskSpec
from manor.spec.check import MAX_QUEUES, check_disk
from manor.spec.check_net import MAX_QUEUE_PAIRS, check_nics
from manor.spec.machine import MachineSpec
from manor.spec.names import check_name, free_name
from manor.spec.net import NicSpec
from manor.trace.event import declare
from manor.vmm.disks import OpenDisk, close_disk, open_disk
from manor.vmm.vcpus import Vcpus

if TYPE_CHECKING:
    from manor.machine.hotplug import Hotplug
    from manor.machine.pc import Machine
    from manor.vmm.disks import OpenDisks
    from manor.vmm.nics import Nic, Nics

logger = logging.getLogger(__name__)

_RELEASE_S: Final = 30.0
"""How long the end of a VM waits for storage that a device which is gone still uses, in seconds."""
Kind = Literal["disk", "nic"]

device_added = declare("device_added", device=str, slot=int)
device_removed = declare("device_removed", device=str, error=str)


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """A device that may go. is_leaving: the guest was asked to give it back. is_in_guest: it has not done so yet."""

    name: str
    kind: Kind
    slot: int
    is_leaving: bool
    is_in_guest: bool
    source: str
    """The image, or the kind of network."""


@dataclass(frozen=True, slots=True)
class DeviceEvent:
    """Something came, went or was kept. device: its name; for vCPUs "cpuN". error: what was lost with a disk."""

    what: Literal["added", "removed", "kept"]
    device: str
    error: str = ""


class Devices:
    """What may come and go. Thread: any, but the I/O loop's and vCPUs', unless a method says otherwise."""

    def __init__(
        self,
        disks: OpenDisks,
        nics: Nics,
        vcpus: Vcpus,
        changing: threading.Lock,
        machine: Callable[[], Machine | None],
        get_spec: Callable[[], MachineSpec],
        set_spec: Callable[[MachineSpec], None],
    ) -> None:
        """changing: held by who changes the machine. machine: the one that runs. The description is kept as the VM is
        now, so that a reboot builds it so."""
        self._disks = disks
        self._nics = nics
        self._vcpus = vcpus
        self._changing = changing
        self._machine = machine
        self._get_spec = get_spec
        self._set_spec = set_spec
        self._adding = threading.Lock()
        """Held by who adds, before `changing`: a name is chosen, then an image is opened, which may take long."""
        self._leaving: set[str] = set()
        self._slots: dict[str, int] = {}
        self._made_for = 1
        self._threads = threading.Lock()
        self._releasing: list[threading.Thread] = []
        self._listeners: list[Callable[[DeviceEvent], None]] = []

    def listen(self, callback: Callable[[DeviceEvent], None]) -> None:
        """Tell `callback` what happens from now on, on any thread."""
        self._listeners.append(callback)

    # --- devices --------------------------------------------------------------------------------------------

    def all(self) -> list[DeviceInfo]:
        """Those that there are."""
        with self._changing:
            machine = self._machine()
            if machine is None:
                return []
            hotplug = _hotplug(machine)
            sources: dict[str, tuple[Kind, str]] = {disk.name: ("disk", disk.spec.source) for disk in self._disks.all}
            sources |= {nic.name: ("nic", nic.spec.kind) for nic in self._nics.all}
            with machine.lock:
                return [
                    DeviceInfo(each.name, kind, each.slot, each.name in self._leaving, not each.is_ejected, source)
                    for each in hotplug.plugged.values()
                    if each.name in sources
                    for kind, source in [sources[each.name]]
                ]

    def add_disk(self, spec: DiskSpec) -> str:
        """Plug a disk in; its name. Raises ConfigError, HostError, and StateError if the VM does not run."""
        check_disk(spec, "disk")
        with self._adding:
            name = self._name("disk", spec.id)
            disk = OpenDisk(name, spec, open_disk(spec))
            try:
                self._plug_disk(disk)
            except ManorError:
                disk.backend.close()
                raise
        self._tell(DeviceEvent("added", name))
        return name

    def add_nic(self, spec: NicSpec) -> str:
        """Plug a network interface in; its name. Raises as `add_disk`."""
        with self._adding:
            check_nics([*(nic.spec for nic in self._nics.all), spec])
            name = self._name("net", spec.id)
            self._running("add a network interface")
            nic = self._nics.open_one(spec, name, self._get_spec().name)
            try:
                self._plug_nic(nic)
            except ManorError:
                self._nics.drop(nic)
                raise
        self._tell(DeviceEvent("added", name))
        return name

    def remove(self, name: str) -> None:
        """Ask the guest to give a device back; the event "removed" tells that it did. Ask again if it did not listen.

        Raises ConfigError if there is no such device, StateError if the VM does not run.
        """
        with self._changing:
            machine = self._running("remove a device")
            with machine.lock:
                hotplug = _hotplug(machine)
                there = {each.name for each in hotplug.plugged.values() if not each.is_ejected}
                if name not in there:
                    names = ", ".join(sorted(there)) or "none"
                    raise ConfigError("device", f"{name!r} is no device that can be removed; there are: {names}")
                self._leaving.add(name)
                hotplug.ask(name)
            self._note_slots(machine)

    def remove_and_wait(self, name: str, seconds: float) -> None:
        """As `remove`, and wait until the device is gone. Raises HostError if it is not after `seconds`; the guest may
        still give it back."""
        gone = threading.Event()

        def note(event: DeviceEvent) -> None:
            if (event.what, event.device) == ("removed", name):
                gone.set()

        self.listen(note)
        try:
            self.remove(name)
            if not gone.wait(seconds):
                raise HostError(f"the guest has not given {name} back within {seconds:g} seconds; it may still do so")
        finally:
            self._listeners.remove(note)

    def change_disk(self, name: str, spec: DiskSpec | None, seconds: float) -> None:
        """Exchange the medium of a drive: the disk `name`, if there is one, goes, and `spec` comes with its name.

        The guest sees a disk go and another come, in the same slot: virtio-blk has no drives with doors, and a disk
        that changed under a guest's cache would damage what is on it. Raises as `remove_and_wait` and `add_disk`.
        """
        there = {device.name: device for device in self.all()}
        slot = 0
        if name in there:
            if there[name].kind != "disk":
                raise ConfigError("device", f"{name!r} is no disk")
            slot = there[name].slot
            if spec is not None:
                # Say what is wrong with the new medium while the old one is still there.
                check_disk(spec, "disk")
                open_disk(spec).close()
            self.remove_and_wait(name, seconds)
        elif spec is None:
            raise ConfigError("device", f"there is no disk {name!r}")
        if spec is not None:
            self.add_disk(replace(spec, id=name, slot=slot))

    def ejected(self, name: str) -> None:
        """The guest gave a device back. Thread: a vCPU's, machine lock held."""
        self._leaving.add(name)
        self._later(lambda: self._release(name), f"release-{name}")

    # --- vCPUs ----------------------------------------------------------------------------------------------

    @property
    def cpus(self) -> int:
        """How many vCPUs the VM has now."""
        return self._vcpus.count

    def set_cpus(self, count: int) -> None:
        """Have `count` vCPUs: more at once, fewer when the guest has given them back (events "removed" of cpuN).

        The guest's system has to put new ones to use (Linux: /sys/devices/system/cpu/cpuN/online). Raises ConfigError,
        StateError.
        """
        with self._changing:
            machine = self._running("change the number of vCPUs")
            spec = self._get_spec()
            most = spec.possible_cpus
            if not 1 <= count <= most:
                hint = "; start the VM with --cpus N,max=M for more" if count > most else ""
                raise ConfigError("cpus", f"{count} vCPUs do not work; give 1 to {most}{hint}")
            hotplug = _hotplug(machine)
            there = [index for index in range(most) if hotplug.has_cpu(index)]
            missing = [index for index in range(most) if index not in there]
            arrived = missing[: max(0, count - len(there))]
            for index in arrived:
                self._vcpus.add(machine, index)
                with machine.lock:
                    hotplug.add_cpu(index)
            with machine.lock:
                for index in there[count:]:
                    hotplug.ask_cpu(index)
            self._note_slots(machine)
            self._describe()
        for index in arrived:
            self._tell(DeviceEvent("added", f"cpu{index}"))

    def cpu_ejected(self, index: int) -> None:
        """The guest gave a vCPU back. Thread: a vCPU's, machine lock held."""
        self._later(lambda: self._release_cpu(index), f"release-cpu{index}")

    def cpu_kept(self, index: int) -> None:
        """The guest does not give a vCPU back. Thread: a vCPU's, machine lock held."""
        self._later(lambda: self._tell(DeviceEvent("kept", f"cpu{index}")), f"keep-cpu{index}")

    # --- for the VM -----------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Between two machines, after a reboot: what the guest should give back, or did, is gone. `changing` held."""
        for name in list(self._leaving):
            self._close(self._pop(name))
        if self._slots:
            self._describe()

    def wait_released(self) -> None:
        """Wait until nothing is being released any more, before the images are closed."""
        with self._threads:
            threads = list(self._releasing)
        for thread in threads:
            thread.join(_RELEASE_S)

    # --- inside ---------------------------------------------------------------------------------------------

    def _running(self, operation: str) -> Machine:
        machine = self._machine()
        if machine is None:
            raise StateError(operation, "not running", ["running", "paused"])
        return machine

    def _name(self, kind: str, wanted: str) -> str:
        taken = {disk.name for disk in self._disks.all} | {nic.name for nic in self._nics.all}
        if not wanted:
            return free_name(kind, taken)
        check_name(wanted)
        if wanted in taken:
            raise ConfigError("id", f"there is a device called {wanted!r} already; give another name")
        return wanted

    def _plug_disk(self, disk: OpenDisk) -> None:
        with self._changing:
            machine = self._running("add a disk")
            with machine.lock:
                plugged, engine = _hotplug(machine).add_disk(disk.spec, disk.name, disk.backend)
                machine.disks.append(engine)
                machine.devices.append(plugged.function)
            self._disks.all.append(disk)
            self._note_slots(machine)
            self._describe()
        if device_added.on:
            device_added(disk.name, plugged.slot)

    def _plug_nic(self, nic: Nic) -> None:
        with self._changing:
            machine = self._running("add a network interface")
            far = HostNic(nic.backend, nic.mac, nic.network_lock)
            with machine.lock:
                plugged, device, port = _hotplug(machine).add_nic(nic.spec, nic.name, far)
                machine.nics.append(device)
                machine.net_ports.append(port)
                machine.devices.append(plugged.function)
            nic.connect(device, port, machine.lock)
            self._nics.add(nic)
            self._note_slots(machine)
            self._describe()
        if device_added.on:
            device_added(nic.name, plugged.slot)

    def _later(self, work: Callable[[], None], name: str) -> None:
        """Run `work` where it may wait."""
        thread = threading.Thread(target=work, name=name, daemon=True)
        with self._threads:
            self._releasing = [one for one in self._releasing if one.is_alive()] + [thread]
            thread.start()

    def _release(self, name: str) -> None:
        machine = self._machine()
        if machine is None:
            return
        with machine.lock:
            found = next((each for each in _hotplug(machine).plugged.values() if each.name == name), None)
        if found is None:
            return
        if found.disk is not None:
            # Requests that the guest made before it gave the disk back are done.
            found.disk.drain()
        with self._changing:
            if self._machine() is not machine:
                return  # whoever took the machine apart releases it
            self._note_slots(machine)
            with machine.lock:
                _hotplug(machine).free(found)
                machine.devices.remove(found.function)
                if found.disk is not None:
                    machine.disks.remove(found.disk)
                if found.port is not None:
                    index = machine.net_ports.index(found.port)
                    del machine.net_ports[index], machine.nics[index]
            gone = self._pop(name)
            self._describe()
        # Out of the lock: to flush an image may take its time.
        self._close(gone)

    def _pop(self, name: str) -> OpenDisk | Nic | None:
        """What is behind a device, no more the VM's. `changing` held."""
        self._leaving.discard(name)
        for disk in self._disks.all:
            if disk.name == name:
                self._disks.all.remove(disk)
                return disk
        for nic in self._nics.all:
            if nic.name == name:
                self._nics.take_out(nic)
                return nic
        return None

    def _close(self, gone: OpenDisk | Nic | None) -> None:
        """Release what was behind a device, and tell that it is gone."""
        if gone is None:
            return
        error = ""
        try:
            if isinstance(gone, OpenDisk):
                close_disk(gone)
            else:
                self._nics.drop(gone)
        except HostError as problem:
            error = str(problem)
            logger.error("removing %s: %s", gone.name, error)
        if device_removed.on:
            device_removed(gone.name, error)
        self._tell(DeviceEvent("removed", gone.name, error))

    def _release_cpu(self, index: int) -> None:
        with self._changing:
            machine = self._machine()
            if machine is None:
                return
            self._vcpus.remove(machine, index)
            self._note_slots(machine)
            self._describe()
        self._tell(DeviceEvent("removed", f"cpu{index}"))

    def _note_slots(self, machine: Machine) -> None:
        """Remember where everything is, so that a machine built anew has it there as well."""
        with machine.lock:
            self._slots = {each.name: each.slot for each in _hotplug(machine).plugged.values()}
            self._made_for = _hotplug(machine).cpus

    def _describe(self) -> None:
        """Put what there is now into the VM's description, each device with its name, slot and number of queues."""
        slots, queues = self._slots, self._made_for
        disks = tuple(
            replace(
                one.spec, id=one.name, slot=slots.get(one.name, 0), queues=one.spec.queues or min(queues, MAX_QUEUES)
            )
            for one in self._disks.all
        )
        nics = tuple(
            replace(
                one.spec, id=one.name, slot=slots.get(one.name, 0),
                queues=one.spec.queues or min(queues, MAX_QUEUE_PAIRS),
            )
            for one in self._nics.all
        )
        self._set_spec(replace(self._get_spec(), disks=disks, nics=nics, cpus=self._vcpus.count))

    def _tell(self, event: DeviceEvent) -> None:
        for listener in list(self._listeners):
            listener(event)


def _hotplug(machine: Machine) -> Hotplug:
    if machine.hotplug is None:
        raise InternalError("a machine without slots")
    return machine.hotplug
