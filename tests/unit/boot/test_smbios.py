"""The SMBIOS tables, as dmidecode reads them."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from manor.base.address import Gpa
from manor.base.errors import ConfigError
from manor.boot.smbios import build_smbios
from manor.machine.firmware import write_tables
from manor.mem import layout
from manor.mem.guest_memory import GuestMemory, Region
from manor.spec.firmware import SmbiosSpec, credential

UUID = "12345678-9abc-def0-1234-56789abcdef0"
SPEC = SmbiosSpec(UUID, "S-1", ("first", credential("ssh.authorized_keys.root", b"ssh-ed25519 AAAA\n")))
DMIDECODE = shutil.which("dmidecode") or shutil.which("dmidecode", path="/usr/sbin:/sbin")


def dump(tmp_path: Path, spec: SmbiosSpec, *options: str) -> str:
    if DMIDECODE is None:
        pytest.skip("there is no dmidecode on this machine")
    file = tmp_path / "dmi"
    file.write_bytes(build_smbios(spec, 0, 1 << 16))
    done = subprocess.run([DMIDECODE, "--from-dump", str(file), *options], capture_output=True, text=True, check=True)
    return done.stdout


def test_dmidecode_reads_every_string(tmp_path: Path) -> None:
    for keyword, value in (
        ("system-manufacturer", "Manor"), ("system-product-name", "pc"), ("system-serial-number", "S-1"),
        ("system-uuid", UUID), ("bios-release-date", "01/01/2026"), ("chassis-manufacturer", "Manor"),
    ):  # fmt: skip
        assert dump(tmp_path, SPEC, "-s", keyword).splitlines()[-1] == value


def test_dmidecode_finds_nothing_wrong(tmp_path: Path) -> None:
    text = dump(tmp_path, SPEC)
    assert "SMBIOS 3.6.0 present." in text
    assert "System is a virtual machine" in text
    assert "String 1: first" in text
    assert "String 2: io.systemd.credential.binary:ssh.authorized_keys.root=c3NoLWVkMjU1MTkgQUFBQQo=" in text
    assert "End Of Table" in text
    for word in ("broken", "invalid", "OUT OF SPEC", "TRUNCATED", "Wrong DMI"):
        assert word not in text


def test_machine_without_identity(tmp_path: Path) -> None:
    text = dump(tmp_path, SmbiosSpec())
    assert "Serial Number: Not Specified" in text
    assert "OEM Strings" not in text


def test_entry_point_is_where_guests_look() -> None:
    memory = GuestMemory([Region(Gpa(0), 1 << 20, "ram")])
    write_tables(memory, 4, SPEC)
    area = memory.read(Gpa(0xF0000), 0x10000)
    (place,) = [offset for offset in range(0, len(area), 16) if area[offset : offset + 5] == b"_SM3_"]
    entry = area[place : place + 24]
    assert sum(entry) & 0xFF == 0
    size, address = struct.unpack_from("<IQ", entry, 12)
    tables = memory.read(Gpa(address), size)
    assert tables[0] == 0
    assert tables.endswith(b"\x7f\x04\x00\x7f\0\0")
    assert memory.read(layout.ACPI_TABLES, 8) == b"RSD PTR "


def test_tables_too_large_say_how_much_room_there_is() -> None:
    with pytest.raises(ConfigError, match=r"there is room for 4064"):
        build_smbios(SmbiosSpec(strings=("x" * 5000,)), 0xF0000, 4096)


@pytest.mark.parametrize(
    "spec",
    [
        SmbiosSpec(uuid="1"), SmbiosSpec(serial="a\0b"), SmbiosSpec(strings=("ü",)), SmbiosSpec(strings=("",)),
        SmbiosSpec(strings=("a\nb",)), SmbiosSpec(strings=("x",) * 256),
    ],
)  # fmt: skip
def test_texts_that_have_no_place_are_refused(spec: SmbiosSpec) -> None:
    with pytest.raises(ConfigError):
        build_smbios(spec, 0, 1 << 16)


def test_name_of_a_credential_is_checked() -> None:
    with pytest.raises(ConfigError):
        credential("a=b", b"")
