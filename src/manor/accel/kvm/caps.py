"""What the host's KVM offers, as a record.

Source: Linux KVM API, section 4.4 "KVM_CHECK_EXTENSION" and sections 6 to 8; numbers from include/uapi/linux/kvm.h.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from manor.accel.kvm import ioctl
from manor.accel.kvm.errors import NEWER_KERNEL, KvmError, TooOld
from manor.accel.kvm.ioctl import Kernel

API_VERSION: Final = 12
"""The only version there has been since Linux 2.6.22. Section 4.1."""

IRQCHIP: Final = 0
NR_VCPUS: Final = 9
NR_MEMSLOTS: Final = 10
XSAVE2: Final = 208
MAX_VCPUS: Final = 66
X2APIC_API: Final = 129
EXCEPTION_PAYLOAD: Final = 164
MANUAL_DIRTY_LOG_PROTECT2: Final = 168

REQUIRED: Final[dict[str, int]] = {
    "KVM_CAP_IRQCHIP": IRQCHIP,
    "KVM_CAP_USER_MEMORY": 3,
    "KVM_CAP_EXT_CPUID": 7,
    "KVM_CAP_MP_STATE": 14,
    "KVM_CAP_DESTROY_MEMORY_REGION_WORKS": 21,
    "KVM_CAP_IRQ_ROUTING": 25,
    "KVM_CAP_IRQFD": 32,
    "KVM_CAP_IOEVENTFD": 36,
    "KVM_CAP_INTERNAL_ERROR_DATA": 40,
    "KVM_CAP_VCPU_EVENTS": 41,
    "KVM_CAP_DEBUGREGS": 50,
    "KVM_CAP_XSAVE": 55,
    "KVM_CAP_XCRS": 56,
    "KVM_CAP_SIGNAL_MSI": 77,
    "KVM_CAP_READONLY_MEM": 81,
    "KVM_CAP_IMMEDIATE_EXIT": 136,
}
"""Without one of these Manor does not run guests on KVM. Linux 4.12 has all of them."""

OPTIONAL: Final[dict[str, int]] = {
    "KVM_CAP_SET_GUEST_DEBUG": 23,
    "KVM_CAP_PIT2": 33,
    "KVM_CAP_PIT_STATE2": 35,
    "KVM_CAP_ADJUST_CLOCK": 39,
    "KVM_CAP_GET_TSC_KHZ": 61,
    "KVM_CAP_TSC_DEADLINE_TIMER": 72,
    "KVM_CAP_IRQFD_RESAMPLE": 82,
    "KVM_CAP_IOEVENTFD_NO_LENGTH": 100,
    "KVM_CAP_X2APIC_API": X2APIC_API,
    "KVM_CAP_EXCEPTION_PAYLOAD": EXCEPTION_PAYLOAD,
    "KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2": MANUAL_DIRTY_LOG_PROTECT2,
    "KVM_CAP_EXIT_ON_EMULATION_FAILURE": 204,
    "KVM_CAP_XSAVE2": XSAVE2,
}
"""What is used where it is there."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What KVM answered. values: by extension name, as KVM_CHECK_EXTENSION gives them (0 means absent).

    run_size: bytes of a vCPU's run page. max_vcpus, max_slots: of one virtual machine.
    """

    api_version: int
    values: dict[str, int]
    run_size: int
    max_vcpus: int
    max_slots: int

    def has(self, name: str) -> bool:
        return self.values.get(name, 0) > 0

    @property
    def missing(self) -> tuple[str, ...]:
        """Extensions that are required and absent."""
        return tuple(name for name in REQUIRED if not self.has(name))

    def check(self) -> None:
        """Raise TooOld unless everything required is there."""
        if self.api_version != API_VERSION:
            raise TooOld(
                f"the host's KVM speaks API version {self.api_version}, not {API_VERSION}",
                request=str(ioctl.GET_API_VERSION),
                fix=NEWER_KERNEL,
            )
        if self.missing:
            names = ", ".join(name.removeprefix("KVM_CAP_") for name in self.missing)
            raise TooOld(
                f"the host's KVM lacks {names}", request=str(ioctl.CHECK_EXTENSION), fix=NEWER_KERNEL
            )


def read_capabilities(kernel: Kernel, system_fd: int) -> Capabilities:
    """Ask KVM. system_fd: /dev/kvm. Raises KvmError."""

    def ask(request: ioctl.Request, argument: int = 0) -> int:
        try:
            return kernel.ioctl(system_fd, request.number, argument)
        except OSError as error:
            raise KvmError("cannot ask KVM what it offers", error.errno, str(request)) from error

    return _assemble(ask)


def _assemble(ask: Callable[..., int]) -> Capabilities:
    values = {name: ask(ioctl.CHECK_EXTENSION, number) for name, number in (REQUIRED | OPTIONAL).items()}
    recommended = ask(ioctl.CHECK_EXTENSION, NR_VCPUS)
    return Capabilities(
        api_version=ask(ioctl.GET_API_VERSION),
        values=values,
        run_size=ask(ioctl.GET_VCPU_MMAP_SIZE),
        max_vcpus=ask(ioctl.CHECK_EXTENSION, MAX_VCPUS) or recommended or 4,
        max_slots=ask(ioctl.CHECK_EXTENSION, NR_MEMSLOTS) or 32,
    )
