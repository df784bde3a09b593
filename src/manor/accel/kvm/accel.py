"""The accelerator `kvm` behind the accelerator interface."""

from __future__ import annotations

from manor.accel.api import ExitHandler
from manor.accel.kvm.caps import read_capabilities
from manor.accel.kvm.handle import open_system
from manor.accel.kvm.ioctl import DEVICE, HostKernel, Kernel
from manor.accel.kvm.vm import KvmVm
from manor.mem.guest_memory import GuestMemory


class KvmAccel:
    """accel.api.Accel: the processor's own virtualization."""

    name = "kvm"

    def __init__(self, kernel: Kernel | None = None, cpu_model: str = "host", device: str = DEVICE) -> None:
        """kernel: a fake for tests. cpu_model: one of cpuid.CPU_MODELS."""
        self._kernel = kernel or HostKernel()
        self._cpu_model = cpu_model
        self._device = device

    def create_vm(self, memory: GuestMemory, handler: ExitHandler, cpus: int) -> KvmVm:
        """Raises KvmError; then nothing is left open."""
        system = open_system(self._kernel, self._device)
        try:
            capabilities = read_capabilities(self._kernel, system.fd)
            capabilities.check()
            return KvmVm(system, capabilities, memory, handler, cpus, self._cpu_model)
        except BaseException:
            system.close()
            raise
