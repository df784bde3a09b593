"""CPUID tables between the kernel's structures and plain records. Source: Linux KVM API, sections 4.46 and 4.20."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from manor.accel.kvm import abi
from manor.accel.kvm.errors import KvmError
from manor.accel.kvm.handle import Handle
from manor.accel.kvm.ioctl import GET_CPUID2, GET_SUPPORTED_CPUID, SET_CPUID2, Request

_FIRST_TRY: Final = 128
_MOST: Final = 4096


@dataclass(frozen=True, slots=True)
class Leaf:
    """What CPUID gives for one input. index: ECX, where `is_indexed`."""

    function: int
    index: int
    is_indexed: bool
    eax: int = 0
    ebx: int = 0
    ecx: int = 0
    edx: int = 0


def read_supported(system: Handle) -> tuple[Leaf, ...]:
    """What KVM can offer on this host. Raises KvmError."""
    return _read(system, GET_SUPPORTED_CPUID)


def read_back(vcpu: Handle) -> tuple[Leaf, ...]:
    """What the guest on `vcpu` sees: KVM, and hosts that emulate it, may change what was set. Raises KvmError."""
    return _read(vcpu, GET_CPUID2)


def write(vcpu: Handle, leaves: Iterable[Leaf]) -> None:
    """Set what the guest sees. Before the vCPU ran. Raises KvmError."""
    entries = list(leaves)
    table = abi.with_entries(abi.CpuidEntry, len(entries))(len(entries))
    for entry, leaf in zip(table.entries, entries, strict=True):
        entry.function, entry.index = leaf.function, leaf.index
        entry.flags = abi.CPUID_SIGNIFICANT_INDEX if leaf.is_indexed else 0
        entry.eax, entry.ebx, entry.ecx, entry.edx = leaf.eax, leaf.ebx, leaf.ecx, leaf.edx
    vcpu.call(SET_CPUID2, table, "cannot set what CPUID tells the guest")


def _read(handle: Handle, request: Request) -> tuple[Leaf, ...]:
    count = _FIRST_TRY
    while True:
        table = abi.with_entries(abi.CpuidEntry, count)(count)
        try:
            handle.call(request, table, "cannot read the CPUID table")
        except KvmError as error:
            if error.errno == errno.E2BIG and count < _MOST:
                count *= 2
                continue
            raise
        return tuple(
            Leaf(
                entry.function,
                entry.index,
                bool(entry.flags & abi.CPUID_SIGNIFICANT_INDEX),
                entry.eax,
                entry.ebx,
                entry.ecx,
                entry.edx,
            )
            for entry in table.entries[: table.count]
        )
