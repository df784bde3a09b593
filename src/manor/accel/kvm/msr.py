"""Model-specific registers of a vCPU. Source: Linux KVM API, sections 4.18 and 4.19; SDM volume 4, table 2-2."""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from ctypes import Structure
from typing import Final

from manor.accel.kvm import abi, ioctl
from manor.accel.kvm.errors import KvmError
from manor.accel.kvm.handle import Handle

PORTABLE: Final = (
    0x174, 0x175, 0x176,  # SYSENTER
    0x277, 0x2FF,  # PAT, MTRR default type
    0xC000_0081, 0xC000_0082, 0xC000_0083, 0xC000_0084,  # STAR, LSTAR, CSTAR, SFMASK
    0xC000_0102, 0xC000_0103,  # KERNEL_GS_BASE, TSC_AUX
)  # fmt: skip
"""What every accelerator keeps. A state with these alone continues anywhere."""
_KVM_CLOCK: Final = (0x4B56_4D00, 0x4B56_4D01)
"""kvmclock: wall clock and system time. Section "KVM-specific MSRs" of the kernel's documentation."""
OWN: Final = (0x1A0, *_KVM_CLOCK, 0x4B56_4D02, 0x4B56_4D03, 0x4B56_4D04)
"""What only a guest on KVM has: MISC_ENABLE, kvmclock, asynchronous page faults, steal time, EOI."""
_MOST: Final = 4096


def supported(system: Handle) -> frozenset[int]:
    """Indices of the MSRs whose values must be saved with a guest. Raises KvmError."""
    count = 512
    while True:
        table = (abi.U32 * (count + 1))(count)
        buffer = bytearray(bytes(table))
        try:
            system.call(ioctl.GET_MSR_INDEX_LIST, buffer, "cannot ask KVM which MSRs there are")
        except KvmError as error:
            if error.errno == errno.E2BIG and count < _MOST:
                count *= 2
                continue
            raise
        words = memoryview(buffer).cast("I")
        return frozenset(words[1 : 1 + words[0]])


def read(vcpu: Handle, indices: Sequence[int]) -> dict[int, int]:
    """Values by index; those that this vCPU does not have are left out. Raises KvmError."""
    values: dict[int, int] = {}
    left = list(indices)
    while left:
        table = _table(dict.fromkeys(left, 0))
        # KVM stops at the first that it refuses, and tells how many it read.
        done = vcpu.call(ioctl.GET_MSRS, table, "cannot read model-specific registers")
        values |= {entry.index: entry.data for entry in table.entries[:done]}
        left = left[done + 1 :]
    return values


def write(vcpu: Handle, values: Mapping[int, int]) -> None:
    """Set them all. Raises KvmError, naming the first one that KVM refuses."""
    if not values:
        return
    done = vcpu.call(ioctl.SET_MSRS, _table(values), "cannot set model-specific registers")
    if done < len(values):
        index = list(values)[done]
        raise KvmError(f"KVM refuses {values[index]:#x} in MSR {index:#x}", request=ioctl.SET_MSRS.name)


def _table(values: Mapping[int, int]) -> Structure:
    table = abi.with_entries(abi.MsrEntry, len(values))(len(values))
    for entry, (index, value) in zip(table.entries, values.items(), strict=True):
        entry.index, entry.data = index, value
    return table
