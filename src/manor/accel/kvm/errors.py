"""What can go wrong between us and KVM, as types. Each says what to do.

    HostError
      KvmError              a request failed: its name, errno, the advice
        NoDevice            no /dev/kvm
        NoPermission        /dev/kvm may not be opened
        DeviceBusy          another hypervisor holds the processor's virtualization
        TooOld              another API version, or extensions are missing
        SlotRefused         a piece of guest memory could not be given to the VM
      VcpuFailure           a vCPU cannot go on: why, and where in the guest
        EmulationFailure    KVM met an instruction that it cannot carry out
        EntryFailure        the processor refused the guest's state
        UnexpectedExit      KVM stopped the guest for a reason that we do not handle
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from manor.base.errors import HostError

LOAD_MODULE = "load the module: sudo modprobe kvm_intel (or kvm_amd); it needs virtualization enabled in the firmware"
JOIN_GROUP = 'join the group kvm and log in anew: sudo usermod -aG kvm "$USER"'
STOP_OTHER = "end the other hypervisor's machines (VirtualBox, VMware), or unload its module"
NEWER_KERNEL = "use a newer Linux kernel on the host (5.10 or later), or --accel dbt"
USE_DBT = "use --accel dbt"


class KvmError(HostError):
    """A request to KVM failed. request: its name; fix: one sentence for people, empty where nobody can help."""

    def __init__(self, attempt: str, error_number: int | None = None, request: str = "", fix: str = "") -> None:
        parts = [attempt]
        if error_number is not None:
            parts.append(f": {os.strerror(error_number)}")
        if request:
            parts.append(f" ({request})")
        if fix:
            parts.append(f"; {fix}")
        super().__init__("".join(parts), error_number)
        self.attempt = attempt
        self.request = request
        self.fix = fix


class NoDevice(KvmError):
    """There is no /dev/kvm, or it answers that there is no such device."""


class NoPermission(KvmError):
    """This user may not open /dev/kvm."""


class DeviceBusy(KvmError):
    """Another hypervisor has taken the processor's virtualization."""


class TooOld(KvmError):
    """The host's KVM lacks what Manor needs."""


class SlotRefused(KvmError):
    """A memory slot was refused: no memory, no slot left, an overlap."""


def open_error(path: str, error: OSError) -> KvmError:
    """The typed error for an open of /dev/kvm that failed."""
    attempt = f"cannot open {path}"
    match error.errno:
        case errno.ENOENT | errno.ENODEV | errno.ENXIO:
            return NoDevice(attempt, error.errno, fix=LOAD_MODULE)
        case errno.EACCES | errno.EPERM:
            return NoPermission(attempt, error.errno, fix=JOIN_GROUP)
        case errno.EBUSY:
            return DeviceBusy(attempt, error.errno, fix=STOP_OTHER)
        case _:
            return KvmError(attempt, error.errno, fix=USE_DBT)


def create_vm_error(request: str, error: OSError) -> KvmError:
    """The typed error for a virtual machine that could not be created."""
    attempt = "cannot create a virtual machine"
    match error.errno:
        case errno.EBUSY:
            return DeviceBusy(attempt, error.errno, request, STOP_OTHER)
        case errno.ENODEV | errno.EOPNOTSUPP:
            return NoDevice(attempt, error.errno, request, LOAD_MODULE)
        case errno.ENOMEM:
            return KvmError(attempt, error.errno, request, "free some memory of the host")
        case errno.EMFILE | errno.ENFILE:
            return KvmError(attempt, error.errno, request, "raise the limit of open files: ulimit -n 4096")
        case _:
            return KvmError(attempt, error.errno, request, USE_DBT)


# --- a vCPU that cannot go on ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Place:
    """Where a vCPU is. ring: the privilege level; mode: "real", "protected", "long" or "compatibility"."""

    vcpu: int
    rip: int
    ring: int
    mode: str

    def __str__(self) -> str:
        return f"vCPU {self.vcpu}, ring {self.ring}, {self.mode} mode, rip {self.rip:#018x}"


class VcpuFailure(HostError):
    """A vCPU cannot go on. The virtual machine must stop, unless who runs it repairs the vCPU's state."""

    def __init__(self, what: str, place: Place) -> None:
        super().__init__(f"{what} at {place}")
        self.what = what
        self.place = place


class EmulationFailure(VcpuFailure):
    """KVM met an instruction that it cannot carry out. code: its bytes, empty if KVM does not tell; text:
    disassembled."""

    def __init__(self, place: Place, code: bytes, text: str) -> None:
        shown = f"`{text}` ({code.hex(' ')})" if code else "an instruction whose bytes are unknown"
        super().__init__(f"KVM cannot emulate {shown}", place)
        self.code = code
        self.text = text


class EntryFailure(VcpuFailure):
    """The processor refused to enter the guest. hardware_reason: its own code; state: the registers it refused."""

    def __init__(self, place: Place, hardware_reason: int, state: str) -> None:
        super().__init__(f"the processor refused the guest's state (reason {hardware_reason:#x}: {state})", place)
        self.hardware_reason = hardware_reason
        self.state = state


class UnexpectedExit(VcpuFailure):
    """KVM stopped for a reason that nothing here handles."""
