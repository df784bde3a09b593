"""The texts of the host's SMBIOS tables, as far as the kernel shows them to everybody.

Source: Linux, Documentation/ABI/testing/sysfs-firmware-dmi-tables (class dmi); libvirt, "Domain XML format", sysinfo.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final

from manor.domain.xml.tree import escape
from manor.drivers.errors import Origin, unsupported

DMI: Final = Path("/sys/class/dmi/id")
_BLOCKS: Final = (
    ("bios", (("vendor", "bios_vendor"), ("version", "bios_version"), ("date", "bios_date"),
              ("release", "bios_release"))),
    ("system", (("manufacturer", "sys_vendor"), ("product", "product_name"), ("version", "product_version"),
                ("serial", "product_serial"), ("uuid", "product_uuid"), ("sku", "product_sku"),
                ("family", "product_family"))),
    ("baseBoard", (("manufacturer", "board_vendor"), ("product", "board_name"), ("version", "board_version"),
                   ("serial", "board_serial"), ("asset", "board_asset_tag"))),
    ("chassis", (("manufacturer", "chassis_vendor"), ("version", "chassis_version"), ("serial", "chassis_serial"),
                 ("asset", "chassis_asset_tag"))),
)  # fmt: skip
"""Block -> entries, each with the file that has it. Serial numbers and the UUID are root's alone to read."""


def host_firmware(root: Path = DMI) -> str:
    """The document <sysinfo type='smbios'>. Raises ApiError where the host has no such tables, or hides them."""
    lines = []
    for block, entries in _BLOCKS:
        found = [(name, text) for name, file in entries if (text := _text(root / file))]
        if found:
            lines += [f"  <{block}>", *(f"    <entry name='{name}'>{escape(text)}</entry>" for name, text in found)]
            lines.append(f"  </{block}>")
    if not lines:
        raise unsupported("the host shows no SMBIOS information", Origin.NONE)
    return "\n".join(["<sysinfo type='smbios'>", *lines, "</sysinfo>", ""])


def _text(path: Path) -> str:
    with suppress(OSError), path.open("rb") as file:
        return file.read(4096).decode("utf-8", "replace").strip()
    return ""
