"""The hot-plug part of the DSDT: compiled back by the ACPI reference compiler, and run by its interpreter."""

from __future__ import annotations

import dataclasses
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from manor.boot import aml
from manor.boot.acpi import AcpiSpec, build_tables
from manor.boot.acpi_hotplug import REGISTERS, HotplugSpec
from manor.boot.acpi_pc import pc_spec
from manor.devices.misc.hotplug import HOTPLUG_TABLE
from manor.mem import layout
from tests.unit.boot.test_acpi import BASE, ROOM, madt_entries, tables

NAMES = {
    "PUP": "pci_up", "PDN": "pci_down", "PEJ": "pci_eject", "BTN": "button", "CUP": "cpu_up", "CDN": "cpu_down",
    "CEJ": "cpu_eject", "CKP": "cpu_kept", "CEN": "cpu_enabled",
}  # fmt: skip


def spec(cpus: int = 4, present: int = 2, slots: tuple[int, ...] = (4, 5, 31)) -> AcpiSpec:
    hotplug = HotplugSpec(layout.HOTPLUG, layout.HOTPLUG_GSI, slots, tuple(range(1, cpus)))
    plain = pc_spec(cpus, reset_value=0x42, s5_type=5, gsis=(16, 17, 18, 19))
    return dataclasses.replace(plain, hotplug=hotplug, absent=frozenset(range(present, cpus)))


def test_fields_are_the_registers_of_the_device() -> None:
    offset = 0
    found = {}
    for name, bits in REGISTERS:
        if name:
            found[NAMES[name]] = (offset, bits)
        offset += bits // 8
    assert offset == HOTPLUG_TABLE.size
    assert found == {reg.name: (reg.offset, reg.width * reg.count) for reg in HOTPLUG_TABLE.regs}


def test_madt_tells_who_may_come() -> None:
    madt = tables(build_tables(spec(), BASE, ROOM))[b"APIC"]
    flags = [struct.unpack_from("<I", entry, 4)[0] for entry in madt_entries(madt) if entry[0] == 0]
    assert flags == [1, 1, 2, 2]


def tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed (Debian package acpica-tools)")
    return path


def run(folder: Path, *words: str) -> str:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


def source(folder: Path, described: AcpiSpec) -> str:
    """What the compiler reads out of the DSDT; it takes it back without a warning."""
    iasl = tool("iasl")
    (folder / "DSDT.aml").write_bytes(tables(build_tables(described, BASE, ROOM))[b"DSDT"])
    run(folder, iasl, "-d", "DSDT.aml")
    said = run(folder, iasl, "-tc", "DSDT.dsl")
    assert "Warning" not in said.replace("0 Warnings", ""), said
    return re.sub(r"\s+", " ", re.sub(r"//.*|/\*.*?\*/", "", (folder / "DSDT.dsl").read_text()))


def test_reference_compiler_reads_what_was_meant(tmp_path: Path) -> None:
    text = source(tmp_path, spec())
    for part in (
        'Name (_HID, "ACPI0013"',
        "Interrupt (ResourceConsumer, Level, ActiveHigh, Exclusive",
        "OperationRegion (REGS, SystemIO, 0x0620, 0x38)",
        "Field (REGS, DWordAcc, NoLock, Preserve)",
        "PUP, 32, PDN, 32, PEJ, 32, BTN, 32, CUP, 64,",
        "Notify (\\_SB.PWRB, 0x80)",
        'Name (_HID, EisaId ("PNP0C0C")',
        "Device (S1F)",
        "Name (_ADR, 0x001F0000)",
        "Method (_EJ0, 1, Serialized)",
        "Notify (\\_SB.PCI0.S04, One)",
        "Notify (\\_SB.PCI0.S04, 0x03)",
        "Notify (\\_SB.C003, 0x03)",
    ):
        assert part in text, part
    assert "Device (S06)" not in text
    assert text.count("Name (_MAT,") == 3, "the first processor stays"


def test_largest_machine_fits(tmp_path: Path) -> None:
    text = source(tmp_path, spec(64, 1, tuple(range(1, 32))))
    assert text.count("Method (_EJ0") == 31 + 63
    assert len(build_tables(spec(64, 1, tuple(range(1, 32))), layout.ACPI_TABLES, layout.ACPI_TABLES_SIZE)) < 1 << 16


def test_reference_interpreter_runs_the_methods(tmp_path: Path) -> None:
    """Its ports read as what was written last, so what it wrote can be told from what it reads."""
    acpiexec = tool("acpiexec")
    (tmp_path / "DSDT.aml").write_bytes(tables(build_tables(spec(), BASE, ROOM))[b"DSDT"])
    words = ("PCI0.S05._EJ0 1", "HPC0.PEJ", "C001._STA", "C002._EJ0 1", "C001._OST 3 81 0")
    commands = "; ".join(f"evaluate \\_SB.{each}" for each in words)
    said = run(tmp_path, acpiexec, "-b", commands, "DSDT.aml")
    assert "AE_" not in re.sub(r"AE_OK|AE_NOT_CONFIGURED", "", said), said
    assert re.search(r"\[Integer\] = 0+20\b", said), said


def test_fields_of_a_region() -> None:
    assert aml.fields("ABCD", ("X", 8)) == bytes.fromhex("5b81") + b"\x0b" + b"ABCD\x03" + b"X___\x08"
    assert aml.fields("ABCD", ("", 64)).endswith(b"\0\x40\x04")
    with pytest.raises(ValueError, match="0 bits"):
        aml.fields("ABCD", ("X", 0))
