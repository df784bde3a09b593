"""The accelerator `kvm` behind the accelerator interface."""

from __future__ import annotations

from manor.accel.api import ExitHandler
from manor.accel.kvm.caps import read_capabilities
from manor.accel.kvm.handle import open_system
from manor.accel.kvm.ioctl import DEVICE, HostKernel, Kernel
from manor.accel.kvm.vm import KvmVm
from manor.mem.guest_memory import GuestMemory
from manor.spec.machine import CpuModel


class KvmAccel:
    """accel.api.Accel: the processor's own virtualization."""

    name = "kvm"

    def __init__(self, kernel: Kernel | None = None, device: str = DEVICE) -> None:
        """kernel: a fake for tests."""
        self._kernel = kernel or HostKernel()
        self._device = device

    def create_vm(
        self, memory: GuestMemory, handler: ExitHandler, cpus: int, cpu_model: CpuModel = "max"
    ) -> KvmVm:
        """Raises KvmError, and ConfigError for a model that this host cannot be; then nothing is left open."""
        system = open_system(self._kernel, self._device)
        try:
            capabilities = read_capabilities(self._kernel, system.fd)
            capabilities.check()
            return KvmVm(system, capabilities, memory, handler, cpus, cpu_model)
        except BaseException:
            system.close()
            raise
