"""A descriptor of KVM: the system, a virtual machine or a vCPU, and requests to it that fail with a type."""

from __future__ import annotations

from typing import Final

from manor.accel.kvm import ioctl
from manor.accel.kvm.errors import KvmError, create_vm_error, open_error
from manor.accel.kvm.ioctl import Argument, Kernel, Request

_MAX_INT: Final = (1 << 31) - 1


class Handle:
    """An open descriptor. Thread: any; KVM serializes requests to one vCPU by itself."""

    def __init__(self, kernel: Kernel, fd: int) -> None:
        self.kernel = kernel
        self.fd = fd

    def call(self, request: Request, argument: Argument = 0, attempt: str = "", fix: str = "") -> int:
        """Do `request`. attempt, fix: for the KvmError that it raises where the kernel refuses."""
        try:
            if isinstance(argument, int) and argument > _MAX_INT:
                return self.kernel.ioctl_word(self.fd, request.number, argument)
            return self.kernel.ioctl(self.fd, request.number, argument)
        except OSError as error:
            raise KvmError(attempt or "KVM refused a request", error.errno, request.name, fix) from error

    def close(self) -> None:
        """Nothing happens if it is closed already."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            self.kernel.close(fd)


def open_system(kernel: Kernel, path: str = ioctl.DEVICE) -> Handle:
    """Open /dev/kvm. Raises NoDevice, NoPermission, DeviceBusy or another KvmError."""
    try:
        return Handle(kernel, kernel.open(path))
    except OSError as error:
        raise open_error(path, error) from error


def create_vm(system: Handle) -> Handle:
    """A new, empty virtual machine. Raises DeviceBusy, NoDevice or another KvmError."""
    try:
        return Handle(system.kernel, system.kernel.ioctl(system.fd, ioctl.CREATE_VM.number, 0))
    except OSError as error:
        raise create_vm_error(ioctl.CREATE_VM.name, error) from error
