"""The state of a whole machine as one record, and back: all but the contents of memory.

    saved = save(machine)                   it does not run, and no request of a disk is in flight
    load(other, read_state(other, value))   an equal machine that was built empty, before it runs

Devices have their state declared beside their registers (`Device.save`); nothing here knows one of them. What the
processors, their interrupt controllers and the interval timer are is the same under every accelerator (VmState).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from manor.base.errors import ProtocolError, SavedStateError, StateError
from manor.devices.device import Device
from manor.devices.pci.host import PciHostState
from manor.machine.interrupts import load_vm, save_vm
from manor.machine.pc import Machine
from manor.spec.interrupt_state import VmState
from manor.spec.record import plain, read

_NAME: Final = "machine"
_PCI: Final = "pci"
"""The host bridge's name."""


@dataclass(frozen=True, slots=True)
class MachineState:
    """vm: the processors and what interrupts them. devices: what each of the others saved, by name."""

    vm: VmState
    devices: dict[str, object]


def places_of(value: object) -> dict[str, int]:
    """Slots of PCI functions by their names, in what `state_to_plain` gave. Raises ProtocolError."""
    devices = value.get("devices") if isinstance(value, dict) else None
    if not isinstance(devices, dict):
        raise ProtocolError("there is no state of a machine")
    pci = read(PciHostState, devices.get(_PCI), _PCI)
    return {name: slot for slot, number, name in pci.places if slot and not number}


def _others(machine: Machine) -> dict[str, Device]:
    """Every device that VmState does not have, by name."""
    in_vm = [*machine.interrupts.devices, machine.timer]
    found: dict[str, Device] = {}
    for device in machine.devices:
        if device not in in_vm and found.setdefault(device.name, device) is not device:
            raise ValueError(f"two devices are called {device.name}")
    return found


def save(machine: Machine) -> MachineState:
    """Machine lock held. Raises StateError, naming the device, if one is not at rest."""
    devices = {name: device.save() for name, device in _others(machine).items()}
    with machine.vm.time_held():
        return MachineState(save_vm(machine.vm, machine.interrupts, machine.timer), devices)


def load(machine: Machine, state: MachineState) -> None:
    """Take over what `save` gave. Machine lock held. Raises SavedStateError; then the machine is of no use.

    Devices come first: what they do to interrupt lines meanwhile does not count, the controllers have seen it before.
    """
    devices = _others(machine)
    if devices.keys() != state.devices.keys():
        missing = ", ".join(sorted(devices.keys() ^ state.devices.keys()))
        raise SavedStateError(_NAME, f"one of the two machines has no {missing}")
    if len(state.vm.vcpus) != len(machine.vm.vcpus):
        raise SavedStateError(_NAME, f"{len(state.vm.vcpus)} vCPUs, this machine has {len(machine.vm.vcpus)}")
    for name, device in devices.items():
        device.load(state.devices[name])
    try:
        with machine.vm.time_held():
            load_vm(machine.vm, machine.interrupts, machine.timer, state.vm)
    except ValueError as error:
        raise SavedStateError(_NAME, f"the accelerator cannot go on with it: {error}") from error


def state_to_plain(state: MachineState) -> dict[str, Any]:
    """`state` for json.dumps."""
    return {"vm": plain(state.vm), "devices": {name: plain(saved) for name, saved in state.devices.items()}}


def read_state(machine: Machine, value: object) -> MachineState:
    """The inverse, for a machine of the same kind: its own devices say what their states look like. Machine lock held.

    Raises ProtocolError, naming the device and field.
    """
    if not isinstance(value, dict) or not isinstance(value.get("devices"), dict):
        raise ProtocolError("there is no state of a machine")
    devices: dict[str, object] = {}
    templates = _others(machine)
    for name, saved in value["devices"].items():
        device = templates.get(name)
        if device is None:
            raise SavedStateError(_NAME, f"there was a device {name}, which this machine has not")
        try:
            like = device.save()
        except StateError as error:
            raise SavedStateError(name, f"the device is not at rest: {error}") from error
        devices[name] = read(type(like), saved, name, like)
    return MachineState(read(VmState, value.get("vm"), "processors"), devices)
