"""What the guest is told about the machine: the ACPI tables, from the same constants that the builder wires by, and the
SMBIOS tables."""

from __future__ import annotations

from typing import Final

from manor.boot.acpi import AcpiSpec, LegacyDevice, PciRoot, Window, build_tables
from manor.boot.acpi_hotplug import HotplugSpec
from manor.boot.smbios import build_smbios
from manor.devices.misc.power import RESET_VALUE, SLP_TYP_S5
from manor.devices.pci.host import ECAM_BUS_SIZE, INTX_GSIS
from manor.mem import layout
from manor.mem.guest_memory import GuestMemory
from manor.spec.firmware import SmbiosSpec

PCI_BUSES: Final = 1
"""There are no bridges. Announcing only bus 0 spares the guest a search through 255 empty ones."""
_GSI_A, _GSI_B, _GSI_C, _GSI_D = INTX_GSIS

PCI_ROOT: Final = PciRoot(
    ecam=Window(layout.ECAM, PCI_BUSES * ECAM_BUS_SIZE),
    buses=PCI_BUSES,
    io=Window(layout.PCI_IO, layout.PCI_IO_SIZE),
    memory32=Window(layout.MMIO32, layout.MMIO32_SIZE),
    memory64=Window(layout.MMIO64, layout.MMIO64_SIZE),
    config_ports=Window(layout.PCI_CONFIG, layout.PCI_CONFIG_SIZE),
    gsis=(_GSI_A, _GSI_B, _GSI_C, _GSI_D),
)
LEGACY: Final = (
    LegacyDevice("COM1", "PNP0501", Window(layout.COM1, layout.COM1_SIZE), layout.COM1_IRQ),
    LegacyDevice("RTC0", "PNP0B00", Window(layout.RTC, layout.RTC_SIZE), layout.RTC_IRQ),
)


def describe(cpus: int, hotplug: HotplugSpec | None = None, present: int | None = None) -> AcpiSpec:
    """The tables' contents for a `pc` with that many vCPUs, whose APIC IDs are their indices.

    present: those that are there at the start; None: all.
    """
    return AcpiSpec(
        apic_ids=tuple(range(cpus)),
        local_apic=layout.LOCAL_APIC,
        io_apic=layout.IO_APIC,
        sleep_control=layout.ACPI_SLEEP_CONTROL,
        sleep_status=layout.ACPI_SLEEP_STATUS,
        reset_register=layout.ACPI_RESET,
        reset_value=RESET_VALUE,
        s5_type=SLP_TYP_S5,
        pci=PCI_ROOT,
        legacy=LEGACY,
        absent=frozenset(range(cpus if present is None else present, cpus)),
        hotplug=hotplug,
    )


def write_tables(
    memory: GuestMemory,
    cpus: int,
    smbios: SmbiosSpec | None = None,
    hotplug: HotplugSpec | None = None,
    present: int | None = None,
) -> int:
    """Write the ACPI and SMBIOS tables and the reset vector into `memory`; returns the address of the RSDP.

    Raises ConfigError if they have no room.
    """
    tables = build_tables(describe(cpus, hotplug, present), layout.ACPI_TABLES, layout.ACPI_TABLES_SIZE)
    memory.write(layout.ACPI_TABLES, tables)
    identity = build_smbios(smbios or SmbiosSpec(), layout.SMBIOS_TABLES, layout.SMBIOS_TABLES_SIZE)
    memory.write(layout.SMBIOS_TABLES, identity)
    memory.write(layout.RESET_VECTOR, RESET_STUB)
    return layout.ACPI_TABLES


IA32_MTRR_DEF_TYPE: Final = 0x2FF
FIRMWARE_MSRS: Final = {IA32_MTRR_DEF_TYPE: 1 << 11 | 6}
"""What firmware sets in every vCPU: MTRRs enabled, all memory write-back; without it Linux leaves the PAT unused.
Source: SDM volume 3, 11.11.2.1."""

RESET_STUB: Final = (
    b"\xb0" + bytes([RESET_VALUE])  # mov al, RESET_VALUE
    + b"\xba" + int(layout.ACPI_RESET).to_bytes(2, "little")  # mov dx, ACPI_RESET
    + b"\xee\xf4\xeb\xfd"  # out dx, al; hlt; jmp to the hlt
)  # fmt: skip
"""16-bit code where a PC's firmware starts. Without an EFI, Linux on hardware-reduced ACPI reboots by
jumping there in real mode; a machine without firmware must answer."""
