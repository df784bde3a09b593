"""The ACPI tables of the `pc` machine: its address map in the form that boot/acpi.py takes."""

from __future__ import annotations

from manor.base.errors import ConfigError
from manor.boot.acpi import AcpiSpec, LegacyDevice, PciRoot, Window, build_tables
from manor.mem import layout
from manor.mem.guest_memory import GuestMemory


def pc_spec(cpus: int, *, reset_value: int, s5_type: int, gsis: tuple[int, int, int, int]) -> AcpiSpec:
    """The description of a `pc` with `cpus` vCPUs whose APIC identifiers count from 0.

    reset_value, s5_type: what the power device wants written. gsis: where the PCI host wires INTA to INTD.
    """
    return AcpiSpec(
        apic_ids=tuple(range(cpus)),
        local_apic=layout.LOCAL_APIC,
        io_apic=layout.IO_APIC,
        sleep_control=layout.ACPI_SLEEP_CONTROL,
        sleep_status=layout.ACPI_SLEEP_STATUS,
        reset_register=layout.ACPI_RESET,
        reset_value=reset_value,
        s5_type=s5_type,
        pci=PciRoot(
            ecam=Window(layout.ECAM, layout.ECAM_SIZE),
            buses=layout.ECAM_BUSES,
            io=Window(layout.PCI_IO, layout.PCI_IO_SIZE),
            memory32=Window(layout.MMIO32, layout.MMIO32_SIZE),
            memory64=Window(layout.MMIO64, layout.MMIO64_SIZE),
            config_ports=Window(layout.PCI_CONFIG, layout.PCI_CONFIG_SIZE),
            gsis=gsis,
        ),
        legacy=(
            LegacyDevice("COM1", "PNP0501", Window(layout.COM1, layout.COM1_SIZE), layout.COM1_IRQ),
            LegacyDevice("TMR", "PNP0100", Window(layout.PIT, layout.PIT_SIZE), layout.PIT_IRQ),
            LegacyDevice("RTC", "PNP0B00", Window(layout.RTC, layout.RTC_SIZE), layout.RTC_IRQ),
        ),
    )


def write_tables(memory: GuestMemory, spec: AcpiSpec) -> int:
    """Write the tables where a `pc` has them; the address of the RSDP. Raises ConfigError if they do not fit."""
    block = build_tables(spec, layout.ACPI_TABLES, layout.ACPI_TABLES_SIZE)
    if not memory.contains(layout.ACPI_TABLES, len(block)):
        raise ConfigError("memory", "a guest needs at least 1 MiB, where the ACPI tables are")
    memory.load(layout.ACPI_TABLES, block)
    return layout.ACPI_TABLES
