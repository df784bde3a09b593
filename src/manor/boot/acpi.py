"""The ACPI tables of a hardware-reduced machine: RSDP, XSDT, FADT, MADT, MCFG, DSDT.

Source: ACPI 6.5, 5.2 "ACPI System Description Tables", 4.1 "Hardware-Reduced ACPI";
PCI Firmware 3.3, 4.1.2 (MCFG).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from manor.base.address import align_up
from manor.base.errors import ConfigError
from manor.boot import aml
from manor.boot.acpi_hotplug import HotplugSpec, cpu_name, cpu_objects, event_devices, slot_device

_OEM_ID: Final = b"MANOR\0"
_OEM_TABLE_ID: Final = b"MANORPC\0"
_CREATOR_ID: Final = b"MNOR"
_HEADER: Final = struct.Struct("<4sIBB6s8sI4sI")
_CHECKSUM_OFFSET: Final = 9
_RSDP: Final = struct.Struct("<8sB6sBIIQB3s")
_ALIGNMENT: Final = 64
"""Tables may start anywhere; whole cache lines make dumps readable."""

_SYSTEM_IO: Final = 1
_BYTE_ACCESS: Final = 1

# FADT flags and boot flags. Source: ACPI 6.5, tables 5.10 and 5.11.
_WBINVD: Final = 1 << 0
_PROC_C1: Final = 1 << 2
_PWR_BUTTON: Final = 1 << 4
_SLP_BUTTON: Final = 1 << 5
_RESET_REG_SUP: Final = 1 << 10
_HW_REDUCED_ACPI: Final = 1 << 20
_LEGACY_DEVICES: Final = 1 << 0
_VGA_NOT_PRESENT: Final = 1 << 2

# MADT. Source: ACPI 6.5, 5.2.12.
_LAPIC_ENABLED: Final = 1
_LAPIC_ONLINE_CAPABLE: Final = 2
"""Not there at boot, but may come. Source: ACPI 6.5, table 5.22."""
_MAX_LOCAL_APIC_ID: Final = 254
"""255 is the broadcast; larger identifiers need x2APIC entries."""
_ALL_PROCESSORS_UID: Final = 0xFF
_LINT1: Final = 1

_PCI_PINS: Final = 4
_PCI_SLOTS: Final = 32


@dataclass(frozen=True, slots=True)
class Window:
    """[start, start + size) of memory or ports."""

    start: int
    size: int


@dataclass(frozen=True, slots=True)
class PciRoot:
    """The PCI Express root bridge of segment 0. gsis: inputs for INTA to INTD of slot 0; slots take turns."""

    ecam: Window
    buses: int
    io: Window
    memory32: Window
    memory64: Window
    config_ports: Window
    gsis: tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class LegacyDevice:
    """A device on fixed ports. name: up to 4 letters; hardware_id: EISA identifier; gsi: edge, active high."""

    name: str
    hardware_id: str
    ports: Window
    gsi: int


@dataclass(frozen=True, slots=True)
class AcpiSpec:
    """What the tables describe; addresses are guest-physical, ports are I/O ports.

    apic_ids: of each vCPU, the boot processor first. s5_type: value of SLP_TYP that powers off.
    overrides: (ISA interrupt, GSI) pairs for interrupts that are not wired one to one. absent: UIDs of processors that
    are not there yet. hotplug: what may come and go; None: nothing.
    """

    apic_ids: tuple[int, ...]
    local_apic: int
    io_apic: int
    sleep_control: int
    sleep_status: int
    reset_register: int
    reset_value: int
    s5_type: int
    pci: PciRoot
    legacy: tuple[LegacyDevice, ...] = ()
    io_apic_id: int = 0
    overrides: tuple[tuple[int, int], ...] = field(default=())
    absent: frozenset[int] = frozenset()
    hotplug: HotplugSpec | None = None


def build_tables(spec: AcpiSpec, base: int, size: int) -> bytes:
    """All tables as one block for guest memory at `base`; the RSDP is its beginning.

    size: room there is. Raises ConfigError if there are too many vCPUs for it.
    """
    if base % 16:
        raise ValueError(f"the RSDP at {base:#x} is not on a 16-byte boundary")
    block = bytearray(align_up(_RSDP.size, _ALIGNMENT))

    def place(table: bytes) -> int:
        block.extend(bytes(-len(block) % _ALIGNMENT))
        address = base + len(block)
        block.extend(table)
        return address

    dsdt = place(_dsdt(spec))
    pointers = [place(table) for table in (_fadt(spec, dsdt), _madt(spec), _mcfg(spec.pci))]
    xsdt = place(_table(b"XSDT", 1, struct.pack(f"<{len(pointers)}Q", *pointers)))
    if len(block) > size:
        count = len(spec.apic_ids)
        raise ConfigError("cpus", f"the ACPI tables for {count} vCPUs do not fit into {size:#x} bytes")
    block[: _RSDP.size] = _rsdp(xsdt)
    return bytes(block)


def checksum(data: bytes | bytearray) -> int:
    """The byte that makes the sum of `data` zero."""
    return -sum(data) & 0xFF


def _table(signature: bytes, revision: int, body: bytes) -> bytes:
    """`body` behind the common header. Source: ACPI 6.5, table 5.4."""
    header = _HEADER.pack(
        signature, _HEADER.size + len(body), revision, 0, _OEM_ID, _OEM_TABLE_ID, 1, _CREATOR_ID, 1
    )
    table = bytearray(header + body)
    table[_CHECKSUM_OFFSET] = checksum(table)
    return bytes(table)


def _rsdp(xsdt: int) -> bytes:
    """Source: ACPI 6.5, table 5.3. The first checksum covers what ACPI 1.0 had, the second all of it."""
    fields = bytearray(_RSDP.pack(b"RSD PTR ", 0, _OEM_ID, 2, 0, _RSDP.size, xsdt, 0, bytes(3)))
    fields[8] = checksum(fields[:20])
    fields[32] = checksum(fields)
    return bytes(fields)


def _io_register(port: int) -> bytes:
    """Generic Address Structure of an 8-bit port. Source: ACPI 6.5, table 5.1."""
    return struct.pack("<BBBBQ", _SYSTEM_IO, 8, 0, _BYTE_ACCESS, port)


def _fadt(spec: AcpiSpec, dsdt: int) -> bytes:
    """Source: ACPI 6.5, table 5.9. Offsets are from the start of the table, as there."""
    table = bytearray(276)

    def put(offset: int, layout: str, *values: int) -> None:
        struct.pack_into("<" + layout, table, offset, *values)

    put(40, "I", dsdt if dsdt < 1 << 32 else 0)
    put(109, "H", _LEGACY_DEVICES | _VGA_NOT_PRESENT)
    # Buttons: set means that there is none of the fixed kind.
    put(112, "I", _WBINVD | _PROC_C1 | _PWR_BUTTON | _SLP_BUTTON | _RESET_REG_SUP | _HW_REDUCED_ACPI)
    table[116:128] = _io_register(spec.reset_register)
    put(128, "B", spec.reset_value)
    put(131, "B", 5)  # minor version, together with revision 6
    put(140, "Q", dsdt)
    table[244:256] = _io_register(spec.sleep_control)
    table[256:268] = _io_register(spec.sleep_status)
    table[268:276] = b"MANOR\0\0\0"  # hypervisor vendor
    return _table(b"FACP", 6, bytes(table[_HEADER.size :]))


def _madt(spec: AcpiSpec) -> bytes:
    """Source: ACPI 6.5, 5.2.12. Flags 0: no pair of 8259 interrupt controllers."""
    body = bytearray(struct.pack("<II", spec.local_apic, 0))
    for uid, apic_id in enumerate(spec.apic_ids):
        flags = _LAPIC_ONLINE_CAPABLE if uid in spec.absent else _LAPIC_ENABLED
        if apic_id <= _MAX_LOCAL_APIC_ID and uid <= _MAX_LOCAL_APIC_ID:
            body += struct.pack("<BBBBI", 0, 8, uid, apic_id, flags)
        else:
            body += struct.pack("<BBHIII", 9, 16, 0, apic_id, flags, uid)
    body += struct.pack("<BBBBII", 1, 12, spec.io_apic_id, 0, spec.io_apic, 0)
    for source, gsi in spec.overrides:
        # Flags 0: polarity and trigger mode conform to the ISA bus.
        body += struct.pack("<BBBBIH", 2, 10, 0, source, gsi, 0)
    body += struct.pack("<BBBHB", 4, 6, _ALL_PROCESSORS_UID, 0, _LINT1)
    return _table(b"APIC", 5, bytes(body))


def _mcfg(pci: PciRoot) -> bytes:
    return _table(b"MCFG", 1, struct.pack("<QQHBBI", 0, pci.ecam.start, 0, 0, pci.buses - 1, 0))


def _dsdt(spec: AcpiSpec) -> bytes:
    hotplug = spec.hotplug
    devices = [] if hotplug is None else event_devices(hotplug)
    for uid, apic_id in enumerate(spec.apic_ids):
        devices.append(_cpu(uid, cpu_objects(uid, apic_id) if hotplug is not None and uid in hotplug.cpus else []))
    devices.append(_pci_root(spec.pci, () if hotplug is None else hotplug.slots))
    devices.append(_ecam_reservation(spec.pci.ecam))
    devices += [_legacy_device(index, device) for index, device in enumerate(spec.legacy)]
    s5 = aml.package(aml.integer(spec.s5_type), aml.integer(0), aml.integer(0), aml.integer(0))
    return _table(b"DSDT", 2, aml.scope("\\_SB", *devices) + aml.name("\\_S5", s5))


def _cpu(uid: int, more: Sequence[bytes]) -> bytes:
    """A processor device; the MADT entry with the same UID says which local APIC it is."""
    return aml.device(
        cpu_name(uid), aml.name("_HID", aml.string("ACPI0007")), aml.name("_UID", aml.integer(uid)), *more
    )


def _pci_root(pci: PciRoot, slots: Sequence[int]) -> bytes:
    resources = aml.resource_template(
        aml.bus_numbers(0, pci.buses - 1),
        aml.io_ports(pci.config_ports.start, pci.config_ports.size),
        aml.io_window(pci.io.start, pci.io.size),
        aml.memory_window32(pci.memory32.start, pci.memory32.size),
        aml.memory_window64(pci.memory64.start, pci.memory64.size),
    )
    return aml.device(
        "PCI0",
        aml.name("_HID", aml.eisa_id("PNP0A08")),
        aml.name("_CID", aml.eisa_id("PNP0A03")),
        aml.name("_UID", aml.integer(0)),
        aml.name("_SEG", aml.integer(0)),
        aml.name("_BBN", aml.integer(0)),
        aml.name("_CRS", resources),
        aml.name("_PRT", _routing(pci.gsis)),
        *map(slot_device, slots),
    )


def _routing(gsis: Sequence[int]) -> bytes:
    """Which GSI each pin of each slot reaches: pin plus slot modulo 4, so that slots spread over the lines.

    Source: ACPI 6.5, 6.2.13 "_PRT"; the rotation is that of PCI-to-PCI bridges, PCI Local Bus 3.0, 2.2.6.
    """
    return aml.package(
        *(
            aml.package(
                aml.integer(slot << 16 | 0xFFFF),
                aml.integer(pin),
                aml.integer(0),
                aml.integer(gsis[(slot + pin) % _PCI_PINS]),
            )
            for slot in range(_PCI_SLOTS)
            for pin in range(_PCI_PINS)
        )
    )


def _ecam_reservation(ecam: Window) -> bytes:
    """PCI Firmware 3.3, 4.1.2: the range must be claimed by a motherboard device, not by the root bridge."""
    return aml.device(
        "MBRD",
        aml.name("_HID", aml.eisa_id("PNP0C02")),
        aml.name("_UID", aml.integer(0)),
        aml.name("_CRS", aml.resource_template(aml.memory32_fixed(ecam.start, ecam.size))),
    )


def _legacy_device(uid: int, device: LegacyDevice) -> bytes:
    return aml.device(
        device.name,
        aml.name("_HID", aml.eisa_id(device.hardware_id)),
        aml.name("_UID", aml.integer(uid)),
        aml.name(
            "_CRS",
            aml.resource_template(
                aml.io_ports(device.ports.start, device.ports.size), aml.interrupt(device.gsi)
            ),
        ),
    )
