"""The CPU state with which a kernel is entered, and what that state refers to in guest memory.

Source: Linux Documentation/arch/x86/boot.rst "64-bit Boot Protocol"; Xen docs/misc/pvh.pandoc "x86/HVM
direct boot ABI"; Intel SDM volume 3, 3.4.5 (descriptors), 4.5 (4-level paging).
"""

from __future__ import annotations

import struct
from typing import Final

from manor.mem.guest_memory import GuestMemory
from manor.spec.cpu_state import CpuState, DescriptorTable, Segment

# Our use of low memory until the kernel has its own tables. All of it is RAM: the kernel reuses it.
GDT: Final = 0x500
START_INFO: Final = 0x6000
BOOT_PARAMS: Final = 0x7000
STACK_TOP: Final = 0x9000
"""Grows down towards boot_params; the boot protocols do not require a stack, small kernels use one."""
PAGE_TABLES: Final = 0x9000
"""PML4, PDPT and four page directories: up to 0xF000."""
SETUP_DATA: Final = 0x10000
MODULE_LIST: Final = 0x11000
MEMORY_MAP: Final = 0x12000
COMMAND_LINE: Final = 0x20000
COMMAND_LINE_END: Final = 0x90000

_CODE32: Final = 0x08
_CODE64: Final = 0x10
"""__BOOT_CS of the boot protocol."""
_DATA: Final = 0x18
"""__BOOT_DS of the boot protocol."""
_TSS: Final = 0x20
_CODE32_ATTRIBUTES: Final = 0xC09B
_CODE64_ATTRIBUTES: Final = 0xA09B
_DATA_ATTRIBUTES: Final = 0xC093
_TSS_ATTRIBUTES: Final = 0x008B
_FLAT: Final = 0xFFFF_FFFF
_TSS_LIMIT: Final = 0x67

_CR0_PE_ET_NE: Final = 0x31
_CR0_PG: Final = 1 << 31
_CR4_PAE: Final = 1 << 5
_EFER_LME_LMA: Final = 0x500
_PAGE: Final = 0x1000
_PRESENT_WRITABLE: Final = 0x3
_LARGE: Final = 0x80
_RBX: Final = 3
_RSP: Final = 4
_RSI: Final = 6


def descriptor(base: int, limit: int, attributes: int) -> int:
    """A segment descriptor; limit in units of the granularity that `attributes` states."""
    return (
        limit & 0xFFFF
        | (base & 0xFF_FFFF) << 16
        | (attributes & 0xFF) << 40
        | (limit >> 16 & 0xF) << 48
        | (attributes >> 12 & 0xF) << 52
        | (base >> 24 & 0xFF) << 56
    )


def write_gdt(memory: GuestMemory) -> DescriptorTable:
    """Flat code and data segments for both protocols."""
    entries = (
        0,
        descriptor(0, 0xFFFFF, _CODE32_ATTRIBUTES),
        descriptor(0, 0xFFFFF, _CODE64_ATTRIBUTES),
        descriptor(0, 0xFFFFF, _DATA_ATTRIBUTES),
        descriptor(0, _TSS_LIMIT, _TSS_ATTRIBUTES),
        0,  # in 64-bit mode a TSS descriptor has a second half
    )
    memory.write(GDT, struct.pack(f"<{len(entries)}Q", *entries))
    return DescriptorTable(GDT, len(entries) * 8 - 1)


def write_identity_map(memory: GuestMemory) -> int:
    """Map the first 4 GiB to themselves with 2 MiB pages; the address for CR3."""
    pml4, pdpt, directories = PAGE_TABLES, PAGE_TABLES + _PAGE, PAGE_TABLES + 2 * _PAGE
    memory.write(pml4, struct.pack("<Q", pdpt | _PRESENT_WRITABLE).ljust(_PAGE, b"\0"))
    pointers = [directories + index * _PAGE | _PRESENT_WRITABLE for index in range(4)]
    memory.write(pdpt, struct.pack("<4Q", *pointers).ljust(_PAGE, b"\0"))
    pages = [index << 21 | _LARGE | _PRESENT_WRITABLE for index in range(4 * 512)]
    memory.write(directories, struct.pack(f"<{len(pages)}Q", *pages))
    return pml4


def long_mode_state(memory: GuestMemory, entry: int, boot_params: int) -> CpuState:
    """At `entry` in 64-bit mode with identity paging, RSI = boot_params, interrupts off."""
    state = _flat_state(memory, entry, Segment(_CODE64, 0, _FLAT, _CODE64_ATTRIBUTES))
    state.cr0 = _CR0_PG | _CR0_PE_ET_NE
    state.cr3 = write_identity_map(memory)
    state.cr4 = _CR4_PAE
    state.efer = _EFER_LME_LMA
    state.gpr[_RSI] = boot_params
    return state


def protected_mode_state(memory: GuestMemory, entry: int, start_info: int) -> CpuState:
    """At `entry` in 32-bit protected mode without paging, EBX = start_info, interrupts off."""
    state = _flat_state(memory, entry, Segment(_CODE32, 0, _FLAT, _CODE32_ATTRIBUTES))
    state.cr0 = _CR0_PE_ET_NE
    state.gpr[_RBX] = start_info
    return state


def _flat_state(memory: GuestMemory, entry: int, code: Segment) -> CpuState:
    state = CpuState(rip=entry, cs=code)
    state.ds, state.es, state.ss, state.fs, state.gs = (
        Segment(_DATA, 0, _FLAT, _DATA_ATTRIBUTES) for _ in range(5)
    )
    state.tr = Segment(_TSS, 0, _TSS_LIMIT, _TSS_ATTRIBUTES)
    state.gdtr = write_gdt(memory)
    state.idtr = DescriptorTable(0, 0)
    state.gpr[_RSP] = STACK_TOP
    return state
