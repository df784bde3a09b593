"""The address map of the `pc` machine type: who sits where, and why there.

Addresses that a specification or the processor fixes cite it. The rest is ours to choose; the guest learns it
from the ACPI tables, the memory map handed over at boot, and PCI configuration space.
"""

from __future__ import annotations

from typing import Final

from manor.base.address import Gpa, Port
from manor.base.units import GiB, KiB, MiB

# --- memory -----------------------------------------------------------------------------------------------

ROM_AREA: Final = Gpa(0xA0000)
"""Start of the legacy video and ROM area, reserved in the memory map. IBM PC AT; every guest expects no RAM
here."""
ROM_AREA_END: Final = Gpa(0x100000)
EBDA: Final = Gpa(0x9FC00)
"""Extended BIOS data area: the last KiB of conventional memory, reserved because guests scan it for
tables."""
ACPI_TABLES: Final = Gpa(0xE0000)
"""RSDP and tables. Source: ACPI 6.5, 5.2.5.1: the RSDP is searched in 0xE0000 to 0xFFFFF on 16-byte
boundaries."""
ACPI_TABLES_SIZE: Final = 64 * KiB
SMBIOS_TABLES: Final = Gpa(0xF0000)
"""Entry point and tables. Source: SMBIOS 3.6.0, 5.2.2: the entry point is searched in 0xF0000 to 0xFFFFF on 16-byte
boundaries."""
SMBIOS_TABLES_SIZE: Final = 63 * KiB

LOW_RAM_END: Final = Gpa(0xC000_0000)
"""RAM below 4 GiB stops here: the last GiB is for 32-bit device windows."""
MMIO32: Final = Gpa(0xC000_0000)
"""Window for 32-bit PCI memory BARs."""
MMIO32_SIZE: Final = 512 * MiB
ECAM: Final = Gpa(0xE000_0000)
"""PCI Express configuration space of segment 0: 1 MiB per bus, 256 buses. Source: PCIe 5.0, 7.2.2."""
ECAM_SIZE: Final = 256 * MiB
ECAM_BUSES: Final = 256
IO_APIC: Final = Gpa(0xFEC0_0000)
"""Source: Intel 82093AA I/O APIC datasheet, 3.0: the default base; the ACPI MADT repeats it."""
IO_APIC_SIZE: Final = 4 * KiB
LOCAL_APIC: Final = Gpa(0xFEE0_0000)
"""Per vCPU. Also the address of MSI messages. Source: Intel SDM volume 3, 11.4.1 and 11.11.1."""
LOCAL_APIC_SIZE: Final = 4 * KiB
MSI_WINDOW_SIZE: Final = 1 * MiB
"""Device writes to [0xFEE0_0000, 0xFEF0_0000) are interrupt messages. Source: Intel SDM volume 3, 11.11.1."""
HIGH_RAM: Final = Gpa(4 * GiB)
"""RAM that does not fit below the hole continues here."""
MMIO64: Final = Gpa(0x40_0000_0000)
"""Window for 64-bit PCI memory BARs: 256 GiB, so within a 39-bit physical address width."""
MMIO64_SIZE: Final = 64 * GiB
MAX_RAM: Final = LOW_RAM_END + (MMIO64 - HIGH_RAM)
"""More RAM would run into the 64-bit window."""

# --- ports ------------------------------------------------------------------------------------------------

PIT: Final = Port(0x40)
"""Interval timer: counters 0x40 to 0x42, control 0x43. IBM PC AT."""
PIT_SIZE: Final = 4
PORT_B: Final = Port(0x61)
"""Gate and output of the timer's counter 2. IBM PC AT."""
I8042: Final = Port(0x60)
"""Keyboard controller: data 0x60, status and command 0x64; here only for its reset command."""
I8042_COMMAND: Final = Port(0x64)
RTC: Final = Port(0x70)
"""CMOS index 0x70 and data 0x71. IBM PC AT."""
RTC_SIZE: Final = 2
COM1: Final = Port(0x3F8)
COM1_SIZE: Final = 8
ACPI_SLEEP_CONTROL: Final = Port(0x600)
"""Our choice; announced in the FADT. ACPI 6.5, 4.8.3.7."""
ACPI_SLEEP_STATUS: Final = Port(0x601)
RESET_VECTOR: Final = Gpa(0xFFFF0)
"""F000:FFF0, where the processor of a PC goes after RESET. SDM volume 3, 9.1.4."""
ACPI_RESET: Final = Port(0x602)
"""Our choice; announced in the FADT as RESET_REG. ACPI 6.5, 4.8.3.6."""
HOTPLUG: Final = Port(0x620)
"""Hot-plug controller: our choice; only the DSDT's methods use it."""
PCI_CONFIG: Final = Port(0xCF8)
"""Configuration mechanism 1: address 0xCF8, data 0xCFC. Source: PCI Local Bus 3.0, 3.2.2.3.2."""
PCI_CONFIG_SIZE: Final = 8
RESET_CONTROL: Final = Port(0xCF9)
"""Reset control register of Intel chipsets; overlays byte accesses inside PCI_CONFIG."""
PCI_IO: Final = Port(0xC000)
"""Window for PCI I/O BARs: above everything legacy."""
PCI_IO_SIZE: Final = 16 * KiB

# --- interrupts -------------------------------------------------------------------------------------------

PIT_IRQ: Final = 0
COM1_IRQ: Final = 4
RTC_IRQ: Final = 8
ACPI_IRQ: Final = 9
"""SCI; unused by a hardware-reduced platform but kept free. PC AT numbering, identity-mapped to I/O APIC
pins."""
HOTPLUG_GSI: Final = 20
"""Hot-plug events: the first input behind those of the PCI pins, no ISA interrupt, so that it can be level-triggered
without an override."""
IO_APIC_PINS: Final = 24


def ram_ranges(size: int) -> list[tuple[Gpa, int]]:
    """Where `size` bytes of RAM go: (start, size) pairs in ascending order.

    The area 0xA0000 to 0xFFFFF lies inside the first range as memory; the boot code marks it reserved.
    Raises ValueError if the size is not a positive number of pages or too large.
    """
    if size <= 0 or size % (4 * KiB):
        raise ValueError(f"RAM size {size:#x} is not a positive multiple of 4 KiB")
    if size > MAX_RAM:
        raise ValueError(f"RAM size {size:#x} is more than {MAX_RAM:#x}: it would reach the 64-bit window")
    low = min(size, LOW_RAM_END)
    ranges = [(Gpa(0), low)]
    if size > low:
        ranges.append((HIGH_RAM, size - low))
    return ranges
