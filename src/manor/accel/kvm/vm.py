"""A virtual machine on KVM: memory, interrupt controllers, vCPUs; made in the order that KVM demands.

Source: Linux KVM API, sections 4.2 (create), 4.7 (vCPUs), 4.16 and 4.36 (places that KVM needs on some processors).
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final

from manor.accel.api import ExitHandler
from manor.accel.kvm import abi, caps, cpuid, cpuid_table, ioctl, msr
from manor.accel.kvm.caps import Capabilities
from manor.accel.kvm.errors import KvmError
from manor.accel.kvm.handle import Handle, create_vm
from manor.accel.kvm.irqchip import IoEventFds, IrqChip
from manor.accel.kvm.memslot import DirtyLog, MemorySlots
from manor.accel.kvm.run_page import RunPage
from manor.accel.kvm.vcpu import KvmVcpu
from manor.mem.guest_memory import GuestMemory
from manor.spec.machine import CpuModel

IDENTITY_MAP: Final = 0xFFFB_C000
"""A page for KVM's own tables, for processors that cannot run without paging; reserved in the machine's map."""
TSS_ADDRESS: Final = IDENTITY_MAP + 0x1000
"""Three pages, as above."""


class KvmVm:
    """accel.api.VmHandle on KVM."""

    def __init__(
        self,
        system: Handle,
        capabilities: Capabilities,
        memory: GuestMemory,
        handler: ExitHandler,
        cpus: int,
        cpu_model: CpuModel = "max",
    ) -> None:
        """Raises KvmError, or ConfigError for a model that this host cannot be; then nothing is left open."""
        if cpus > capabilities.max_vcpus:
            raise KvmError(f"{cpus} vCPUs, the host's KVM takes {capabilities.max_vcpus}", fix="use fewer (--cpus)")
        self.memory = memory
        self._system = system
        self._handler = handler
        self._capabilities = capabilities
        self._started_ns = time.monotonic_ns()
        self._open = ExitStack()
        with ExitStack() as stack:
            self.handle = create_vm(system)
            stack.callback(self.handle.close)
            place = "cannot reserve memory for KVM"
            self.handle.call(ioctl.SET_IDENTITY_MAP_ADDR, bytearray(struct.pack("<Q", IDENTITY_MAP)), place)
            self.handle.call(ioctl.SET_TSS_ADDR, TSS_ADDRESS, place)
            self.interrupts = IrqChip(self.handle)
            self.doorbells = IoEventFds(self.handle)
            self.slots = MemorySlots(self.handle, memory, capabilities.max_slots)
            self.dirty_log = DirtyLog(self.slots, memory)
            xsave = self.handle.call(ioctl.CHECK_EXTENSION, caps.XSAVE2, "cannot ask KVM what it offers")
            supported = cpuid_table.read_supported(system)
            msrs = tuple(sorted(msr.supported(system) & {*msr.PORTABLE, *msr.OWN}))
            self.vcpus: Sequence[KvmVcpu] = tuple(
                self._add_vcpu(stack, index, cpus, supported, cpu_model, msrs, max(xsave, abi.XSAVE_SIZE))
                for index in range(cpus)
            )
            self._open = stack.pop_all()

    def _add_vcpu(
        self,
        stack: ExitStack,
        index: int,
        cpus: int,
        supported: tuple[cpuid_table.Leaf, ...],
        model: CpuModel,
        msrs: tuple[int, ...],
        xsave_size: int,
    ) -> KvmVcpu:
        kernel = self._system.kernel
        handle = Handle(kernel, self.handle.call(ioctl.CREATE_VCPU, index, f"cannot create vCPU {index}"))
        stack.callback(handle.close)
        has_deadline = self._capabilities.has("KVM_CAP_TSC_DEADLINE_TIMER")
        cpuid_table.write(handle, cpuid.build(supported, model, index, cpus, has_deadline))
        try:
            page = RunPage(kernel.map(handle.fd, self._capabilities.run_size))
        except OSError as error:
            raise KvmError(f"cannot map the run page of vCPU {index}", error.errno) from error
        stack.callback(page.close)
        self.interrupts.attach(handle)
        return KvmVcpu(handle, index, page, self._handler, self.interrupts, msrs, xsave_size)

    def get_clock(self) -> int:
        """The time that kvmclock shows, in ns."""
        data = abi.ClockData()
        self.handle.call(ioctl.GET_CLOCK, data, "cannot read the guest's clock")
        return int(data.clock)

    def set_clock(self, now_ns: int) -> None:
        self.handle.call(ioctl.SET_CLOCK, abi.ClockData(now_ns), "cannot set the guest's clock")

    def skip_time(self, duration_ns: int) -> None:
        """Set clock and TSCs back. A deadline in the kernel's local APIC may then come early; guests arm it again."""
        for vcpu in self.vcpus:
            vcpu.skip_time(duration_ns)
        self.set_clock(max(0, self.get_clock() - duration_ns))

    @contextmanager
    def time_held(self) -> Iterator[None]:
        """Time goes on: TSCs that are written within a second, each as if it had gone on since, KVM makes equal.

        Source: Linux 6.1, arch/x86/kvm/x86.c, kvm_synchronize_tsc.
        """
        yield

    def statistics(self) -> dict[str, int | float]:
        total: dict[str, int | float] = {}
        for vcpu in self.vcpus:
            for name, value in vcpu.statistics().items():
                total[name] = total.get(name, 0) + value
        return total

    def close(self) -> None:
        """Give everything back. No vCPU may be running. Nothing happens if it is closed."""
        self._open.close()
        self._system.close()
