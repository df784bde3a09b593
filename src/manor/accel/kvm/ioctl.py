"""The requests of the KVM interface by number, and the way to the kernel.

Everything this package asks of the host goes through `Kernel`, so that a test can put a fake in its place and let any
request fail. The numbers follow from the kernel's own rule: direction, size of the argument, type 0xAE, ordinal.
Source: Linux KVM API, section 4 "API description"; ioctl(2); include/uapi/asm-generic/ioctl.h.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
from collections.abc import Callable
from ctypes import Structure, sizeof
from dataclasses import dataclass
from typing import Final, Protocol, cast

from manor.accel.kvm import abi

KVM_TYPE: Final = 0xAE
DEVICE: Final = "/dev/kvm"

_NONE, _WRITE, _READ = 0, 1, 2
"""Directions, as seen from the caller."""

REQUESTS: Final[dict[str, Request]] = {}
"""Every request by name. Filled below, by import."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request: its name in the kernel's headers and its number."""

    name: str
    number: int

    def __str__(self) -> str:
        return self.name


def _request(name: str, ordinal: int, direction: int = _NONE, argument: type[Structure] | int = 0) -> Request:
    size = argument if isinstance(argument, int) else sizeof(argument)
    request = Request(name, direction << 30 | size << 16 | KVM_TYPE << 8 | ordinal)
    REQUESTS[name] = request
    return request


# system
GET_API_VERSION: Final = _request("KVM_GET_API_VERSION", 0x00)
CREATE_VM: Final = _request("KVM_CREATE_VM", 0x01)
GET_MSR_INDEX_LIST: Final = _request("KVM_GET_MSR_INDEX_LIST", 0x02, _READ | _WRITE, 4)
CHECK_EXTENSION: Final = _request("KVM_CHECK_EXTENSION", 0x03)
GET_VCPU_MMAP_SIZE: Final = _request("KVM_GET_VCPU_MMAP_SIZE", 0x04)
GET_SUPPORTED_CPUID: Final = _request("KVM_GET_SUPPORTED_CPUID", 0x05, _READ | _WRITE, abi.CountHeader)
# VM
CREATE_VCPU: Final = _request("KVM_CREATE_VCPU", 0x41)
GET_DIRTY_LOG: Final = _request("KVM_GET_DIRTY_LOG", 0x42, _WRITE, abi.DirtyLog)
SET_USER_MEMORY_REGION: Final = _request("KVM_SET_USER_MEMORY_REGION", 0x46, _WRITE, abi.MemoryRegion)
SET_TSS_ADDR: Final = _request("KVM_SET_TSS_ADDR", 0x47)
SET_IDENTITY_MAP_ADDR: Final = _request("KVM_SET_IDENTITY_MAP_ADDR", 0x48, _WRITE, 8)
CREATE_IRQCHIP: Final = _request("KVM_CREATE_IRQCHIP", 0x60)
IRQ_LINE: Final = _request("KVM_IRQ_LINE", 0x61, _WRITE, abi.IrqLevel)
GET_IRQCHIP: Final = _request("KVM_GET_IRQCHIP", 0x62, _READ | _WRITE, abi.IrqChip)
SET_IRQCHIP: Final = _request("KVM_SET_IRQCHIP", 0x63, _READ, abi.IrqChip)
SET_GSI_ROUTING: Final = _request("KVM_SET_GSI_ROUTING", 0x6A, _WRITE, abi.CountHeader)
IRQFD: Final = _request("KVM_IRQFD", 0x76, _WRITE, abi.IrqFd)
CREATE_PIT2: Final = _request("KVM_CREATE_PIT2", 0x77, _WRITE, abi.PitConfig)
IOEVENTFD: Final = _request("KVM_IOEVENTFD", 0x79, _WRITE, abi.IoEventFd)
SET_CLOCK: Final = _request("KVM_SET_CLOCK", 0x7B, _WRITE, abi.ClockData)
GET_CLOCK: Final = _request("KVM_GET_CLOCK", 0x7C, _READ, abi.ClockData)
GET_PIT2: Final = _request("KVM_GET_PIT2", 0x9F, _READ, abi.PitState)
SET_PIT2: Final = _request("KVM_SET_PIT2", 0xA0, _WRITE, abi.PitState)
SIGNAL_MSI: Final = _request("KVM_SIGNAL_MSI", 0xA5, _WRITE, abi.Msi)
# vCPU
RUN: Final = _request("KVM_RUN", 0x80)
GET_REGS: Final = _request("KVM_GET_REGS", 0x81, _READ, abi.Regs)
SET_REGS: Final = _request("KVM_SET_REGS", 0x82, _WRITE, abi.Regs)
GET_SREGS: Final = _request("KVM_GET_SREGS", 0x83, _READ, abi.Sregs)
SET_SREGS: Final = _request("KVM_SET_SREGS", 0x84, _WRITE, abi.Sregs)
TRANSLATE: Final = _request("KVM_TRANSLATE", 0x85, _READ | _WRITE, abi.Translation)
GET_MSRS: Final = _request("KVM_GET_MSRS", 0x88, _READ | _WRITE, abi.CountHeader)
SET_MSRS: Final = _request("KVM_SET_MSRS", 0x89, _WRITE, abi.CountHeader)
SET_SIGNAL_MASK: Final = _request("KVM_SET_SIGNAL_MASK", 0x8B, _WRITE, 4)
GET_LAPIC: Final = _request("KVM_GET_LAPIC", 0x8E, _READ, abi.LapicRegs)
SET_LAPIC: Final = _request("KVM_SET_LAPIC", 0x8F, _WRITE, abi.LapicRegs)
SET_CPUID2: Final = _request("KVM_SET_CPUID2", 0x90, _WRITE, abi.CountHeader)
GET_CPUID2: Final = _request("KVM_GET_CPUID2", 0x91, _READ | _WRITE, abi.CountHeader)
GET_MP_STATE: Final = _request("KVM_GET_MP_STATE", 0x98, _READ, abi.MpState)
SET_MP_STATE: Final = _request("KVM_SET_MP_STATE", 0x99, _WRITE, abi.MpState)
SET_GUEST_DEBUG: Final = _request("KVM_SET_GUEST_DEBUG", 0x9B, _WRITE, abi.GuestDebug)
GET_VCPU_EVENTS: Final = _request("KVM_GET_VCPU_EVENTS", 0x9F, _READ, abi.VcpuEvents)
SET_VCPU_EVENTS: Final = _request("KVM_SET_VCPU_EVENTS", 0xA0, _WRITE, abi.VcpuEvents)
GET_DEBUGREGS: Final = _request("KVM_GET_DEBUGREGS", 0xA1, _READ, abi.DebugRegs)
SET_DEBUGREGS: Final = _request("KVM_SET_DEBUGREGS", 0xA2, _WRITE, abi.DebugRegs)
GET_TSC_KHZ: Final = _request("KVM_GET_TSC_KHZ", 0xA3)
GET_XSAVE: Final = _request("KVM_GET_XSAVE", 0xA4, _READ, abi.XSAVE_SIZE)
SET_XSAVE: Final = _request("KVM_SET_XSAVE", 0xA5, _WRITE, abi.XSAVE_SIZE)
GET_XCRS: Final = _request("KVM_GET_XCRS", 0xA6, _READ, abi.Xcrs)
SET_XCRS: Final = _request("KVM_SET_XCRS", 0xA7, _WRITE, abi.Xcrs)
GET_XSAVE2: Final = _request("KVM_GET_XSAVE2", 0xCF, _READ, abi.XSAVE_SIZE)

Argument = Structure | bytearray | int
"""What a request takes: a structure that the kernel reads and writes in place, or a number."""


class Kernel(Protocol):
    """The host's kernel, as far as KVM needs it. Every method raises OSError as the system call of that name does."""

    ioctl: Callable[[int, int, Argument], int]
    """ioctl(2): descriptor, number, argument. A call that a signal interrupts is not repeated: that is how KVM_RUN is
    made to return. The GIL is released meanwhile."""

    def ioctl_word(self, fd: int, number: int, argument: int) -> int:
        """As `ioctl`, for an argument of more than 31 bits, which fcntl.ioctl refuses."""

    def open(self, path: str) -> int: ...
    def close(self, fd: int) -> None: ...
    def map(self, fd: int, size: int) -> mmap.mmap: ...


class HostKernel:
    """The kernel we run on."""

    def __init__(self) -> None:
        self.ioctl: Callable[[int, int, Argument], int] = cast(Callable[[int, int, Argument], int], fcntl.ioctl)

    def ioctl_word(self, fd: int, number: int, argument: int) -> int:
        # WHY NATIVE: fcntl.ioctl takes a C int where the system call takes an unsigned long.
        # SAFETY: the argument is a number, no pointer; nothing is kept.
        libc = ctypes.CDLL(None, use_errno=True)
        result: int = libc.ioctl(fd, ctypes.c_ulong(number), ctypes.c_ulong(argument))
        if result < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return result

    def open(self, path: str) -> int:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def close(self, fd: int) -> None:
        os.close(fd)

    def map(self, fd: int, size: int) -> mmap.mmap:
        return mmap.mmap(fd, size)
