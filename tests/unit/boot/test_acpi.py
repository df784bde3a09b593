"""The ACPI tables: read back by their offsets, and by the ACPI reference compiler."""

from __future__ import annotations

import dataclasses
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from manor.base.address import Gpa
from manor.base.errors import ConfigError
from manor.base.units import MiB
from manor.boot import aml
from manor.boot.acpi import AcpiSpec, build_tables
from manor.boot.acpi_pc import pc_spec, write_tables
from manor.mem.guest_memory import GuestMemory, Region

BASE = 0xE0000
ROOM = 0x20000


def spec(cpus: int = 2) -> AcpiSpec:
    return pc_spec(cpus, reset_value=0x42, s5_type=5, gsis=(16, 17, 18, 19))


def tables(block: bytes) -> dict[bytes, bytes]:
    """Every table that the RSDP leads to, by signature, checksums verified."""
    assert block[:8] == b"RSD PTR "
    assert sum(block[:20]) & 0xFF == sum(block[:36]) & 0xFF == 0
    (xsdt_address,) = struct.unpack_from("<Q", block, 24)

    def table(address: int) -> bytes:
        offset = address - BASE
        (size,) = struct.unpack_from("<I", block, offset + 4)
        data = block[offset : offset + size]
        assert len(data) == size
        assert sum(data) & 0xFF == 0
        return data

    xsdt = table(xsdt_address)
    found = {b"XSDT": xsdt}
    for (address,) in struct.iter_unpack("<Q", xsdt[36:]):
        found[table(address)[:4]] = table(address)
    (dsdt,) = struct.unpack_from("<Q", found[b"FACP"], 140)
    found[b"DSDT"] = table(dsdt)
    return found


def test_every_table_is_reachable() -> None:
    assert set(tables(build_tables(spec(), BASE, ROOM))) == {b"XSDT", b"FACP", b"APIC", b"MCFG", b"DSDT"}


def test_fadt() -> None:
    fadt = tables(build_tables(spec(), BASE, ROOM))[b"FACP"]
    assert (fadt[8], len(fadt)) == (6, 276)
    (flags,) = struct.unpack_from("<I", fadt, 112)
    assert flags & (1 << 20)
    assert flags & (1 << 10)
    assert struct.unpack_from("<BBBBQB", fadt, 116) == (1, 8, 0, 1, 0x602, 0x42)
    assert struct.unpack_from("<BBBBQ", fadt, 244) == (1, 8, 0, 1, 0x600)
    assert struct.unpack_from("<BBBBQ", fadt, 256) == (1, 8, 0, 1, 0x601)
    (boot_flags,) = struct.unpack_from("<H", fadt, 109)
    assert boot_flags == 0x5


def madt_entries(madt: bytes) -> list[bytes]:
    entries = []
    position = 44
    while position < len(madt):
        entries.append(madt[position : position + madt[position + 1]])
        position += madt[position + 1]
    return entries


def test_madt_uses_x2apic_entries_above_254() -> None:
    madt = tables(build_tables(spec(257), BASE, ROOM))[b"APIC"]
    assert struct.unpack_from("<II", madt, 36) == (0xFEE0_0000, 0)
    entries = madt_entries(madt)
    local = [struct.unpack("<BBI", e[2:]) for e in entries if e[0] == 0]
    assert local == [(index, index, 1) for index in range(255)]
    x2apic = [struct.unpack("<HIII", e[2:]) for e in entries if e[0] == 9]
    assert x2apic == [(0, 255, 1, 255), (0, 256, 1, 256)]
    assert [struct.unpack("<BBII", e[2:]) for e in entries if e[0] == 1] == [(0, 0, 0xFEC0_0000, 0)]


def test_madt_overrides() -> None:
    changed = dataclasses.replace(spec(), overrides=((0, 2),))
    entries = madt_entries(tables(build_tables(changed, BASE, ROOM))[b"APIC"])
    assert struct.pack("<BBBBIH", 2, 10, 0, 0, 2, 0) in entries


def test_mcfg() -> None:
    mcfg = tables(build_tables(spec(), BASE, ROOM))[b"MCFG"]
    assert struct.unpack_from("<QHBBI", mcfg, 44) == (0xE000_0000, 0, 0, 255, 0)


def test_too_many_cpus_for_the_room() -> None:
    with pytest.raises(ConfigError, match="4000 vCPUs do not fit"):
        build_tables(spec(4000), BASE, ROOM)


def test_write_tables() -> None:
    memory = GuestMemory([Region(Gpa(0), MiB)])
    assert write_tables(memory, spec()) == BASE
    assert memory.read(BASE, 8) == b"RSD PTR "
    with pytest.raises(ConfigError, match="1 MiB"):
        write_tables(GuestMemory([Region(Gpa(0), 0x10000)]), spec())


@pytest.mark.parametrize("cpus", [1, 300])
def test_reference_compiler_accepts_the_tables(tmp_path: Path, cpus: int) -> None:
    iasl = shutil.which("iasl")
    if iasl is None:
        pytest.skip("iasl is not installed (Debian package acpica-tools)")
    for signature, data in tables(build_tables(spec(cpus), BASE, ROOM)).items():
        name = signature.decode()
        (tmp_path / f"{name}.aml").write_bytes(data)
        for arguments in (["-d", f"{name}.aml"], ["-tc", f"{name}.dsl"]):
            done = subprocess.run(
                [iasl, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False
            )
            said = done.stdout + done.stderr
            assert done.returncode == 0, said
            assert "Warning" not in said.replace("0 Warnings", ""), said
    source = (tmp_path / "DSDT.dsl").read_text()
    assert source.count('"ACPI0007"') == cpus
    for text in ('EisaId ("PNP0A08")', 'EisaId ("PNP0501")', 'EisaId ("PNP0B00")', "Name (\\_S5", "Name (_PRT"):
        assert text in source


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (0, "00"),
        (1, "01"),
        (2, "0a02"),
        (0x100, "0b0001"),
        (0x10000, "0c00000100"),
        (1 << 32, "0e0000000001000000"),
    ],
)
def test_integers(value: int, encoded: str) -> None:
    assert aml.integer(value).hex() == encoded


def test_integer_out_of_range() -> None:
    for value in (-1, 1 << 64):
        with pytest.raises(ValueError, match="does not fit"):
            aml.integer(value)


@pytest.mark.parametrize("size", [0, 62, 63, 4092, 4093, 4094, 1 << 20])
def test_package_length_counts_itself(size: int) -> None:
    encoded = aml.with_length(bytes(size))
    extra = encoded[0] >> 6
    length = encoded[0] & 0x3F if extra == 0 else encoded[0] & 0xF
    for index in range(extra):
        length |= encoded[1 + index] << (4 + 8 * index)
    assert length == len(encoded) == size + 1 + extra


def test_names() -> None:
    assert aml.name_string("\\_SB") == b"\\_SB_"
    assert aml.name_string("\\_SB.PCI0") == b"\\\x2e_SB_PCI0"
    assert aml.name_string("A.B.C") == b"\x2f\x03A___B___C___"
    for bad in ("TOOLONG", "1ABC", "ab"):
        with pytest.raises(ValueError, match="name segment"):
            aml.name_string(bad)


def test_eisa_id() -> None:
    # Worked example of ACPI 6.5, 19.6.37: "PNP0C09" is 0x090CD041.
    assert aml.eisa_id("PNP0C09") == b"\x0c" + struct.pack("<I", 0x090C_D041)
    with pytest.raises(ValueError, match="EISA"):
        aml.eisa_id("ACPI0007")


def test_package_of_too_many_elements() -> None:
    with pytest.raises(ValueError, match="VarPackage"):
        aml.package(*[aml.integer(0)] * 256)
