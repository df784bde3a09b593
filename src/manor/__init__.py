"""Manor: the hypervisor you can open, read and script.

    import manor

    with manor.start(kernel="bzImage", initrd="initrd", append="console=ttyS0") as vm:
        vm.serial.wait_for("login:")

The names below are imported on first use: importing the package itself costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from manor.base.errors import ConfigError, HostError, ManorError
    from manor.spec.block import DiskSpec, Throttle
    from manor.spec.machine import MachineSpec
    from manor.spec.net import NicSpec, PortForward
    from manor.vmm.console import Console, TextNotSeen
    from manor.vmm.lifecycle import Reason, VmEnd
    from manor.vmm.saved import SavedVm
    from manor.vmm.saving import Saving
    from manor.vmm.vm import Statistics, Vm, start

__version__ = "0.1.0"

__all__ = [
    "start",
    "Vm",
    "VmEnd",
    "Reason",
    "Console",
    "TextNotSeen",
    "Statistics",
    "SavedVm",
    "Saving",
    "MachineSpec",
    "DiskSpec",
    "Throttle",
    "NicSpec",
    "PortForward",
    "ManorError",
    "ConfigError",
    "HostError",
    "__version__",
]

_HOMES = {
    "start": "manor.vmm.vm",
    "Vm": "manor.vmm.vm",
    "Statistics": "manor.vmm.vm",
    "SavedVm": "manor.vmm.saved",
    "Saving": "manor.vmm.saving",
    "VmEnd": "manor.vmm.lifecycle",
    "Reason": "manor.vmm.lifecycle",
    "Console": "manor.vmm.console",
    "TextNotSeen": "manor.vmm.console",
    "MachineSpec": "manor.spec.machine",
    "DiskSpec": "manor.spec.block",
    "Throttle": "manor.spec.block",
    "NicSpec": "manor.spec.net",
    "PortForward": "manor.spec.net",
    "ManorError": "manor.base.errors",
    "ConfigError": "manor.base.errors",
    "HostError": "manor.base.errors",
}


def __getattr__(name: str) -> object:
    """Import a public name on first use (PEP 562)."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'manor' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value
