"""The host's devices as the kernel shows them in /sys: PCI functions, network interfaces, disks.

Source of the names and documents: libvirt, "Node devices XML format".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from manor.domain.xml.tree import escape
from manor.drivers.api import HostDevice

SYS: Final = Path("/sys")
ROOT: Final = "computer"
_PCI: Final = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_OTHER: Final = re.compile(r"[^A-Za-z0-9_]")


def host_devices(root: Path = SYS) -> Sequence[HostDevice]:
    """All of them, the host itself first. What cannot be read is left out: devices come and go."""
    found = [HostDevice(ROOT, None, "", "", ("system",), _system(root))]
    for kind in (_pci, _net, _block):
        found += kind(root)
    return found


def device_xml(device: HostDevice) -> str:
    """The document of one."""
    lines = ["<device>", f"  <name>{escape(device.name)}</name>"]
    if device.path:
        lines.append(f"  <path>{escape(device.path)}</path>")
    if device.parent is not None:
        lines.append(f"  <parent>{escape(device.parent)}</parent>")
    if device.driver:
        lines += ["  <driver>", f"    <name>{escape(device.driver)}</name>", "  </driver>"]
    lines += [f"  {line}" for line in device.capability.splitlines()]
    return "\n".join([*lines, "</device>", ""])


def _system(root: Path) -> str:
    product, vendor, version = (
        _text(root / "class/dmi/id" / name) for name in ("product_name", "sys_vendor", "product_version")
    )
    lines = ["<capability type='system'>"]
    if product:
        lines.append(f"  <product>{escape(product)}</product>")
    if vendor or version:
        lines.append("  <hardware>")
        parts = (("vendor", vendor), ("version", version))
        lines += [f"    <{tag}>{escape(text)}</{tag}>" for tag, text in parts if text]
        lines.append("  </hardware>")
    return "\n".join([*lines, "</capability>"])


def _pci(root: Path) -> Iterator[HostDevice]:
    for link in _children(root / "bus/pci/devices"):
        path = link.resolve()
        if not _PCI.fullmatch(path.name):
            continue
        try:
            class_code, vendor, product = (int(_text(path / name), 16) for name in ("class", "vendor", "device"))
        except ValueError:
            continue
        domain, bus, rest = path.name.split(":")
        slot, function = rest.split(".")
        lines = [
            "<capability type='pci'>",
            f"  <class>{class_code:#08x}</class>",
            *(f"  <{tag}>{int(text, 16)}</{tag}>" for tag, text in
              (("domain", domain), ("bus", bus), ("slot", slot), ("function", function))),
            f"  <product id='{product:#06x}'/>",
            f"  <vendor id='{vendor:#06x}'/>",
        ]  # fmt: skip
        group = (path / "iommu_group").resolve().name if (path / "iommu_group").exists() else ""
        if group.isdecimal():
            lines += [
                f"  <iommuGroup number='{group}'>",
                f"    <address domain='0x{domain}' bus='0x{bus}' slot='0x{slot}' function='0x{function}'/>",
                "  </iommuGroup>",
            ]
        lines.append("</capability>")
        yield HostDevice(_pci_name(path), _parent(path), str(path), _driver(path), ("pci",), "\n".join(lines))


def _net(root: Path) -> Iterator[HostDevice]:
    for link in _children(root / "class/net"):
        path = link.resolve()
        mac = _text(path / "address")
        if not mac or path.name == "lo":
            continue
        lines = ["<capability type='net'>", f"  <interface>{escape(path.name)}</interface>"]
        lines.append(f"  <address>{escape(mac)}</address>")
        state = _text(path / "operstate")
        speed = _text(path / "speed")
        has_speed = state == "up" and speed.isdecimal()
        lines.append(f"  <link{f' speed={speed!r}' if has_speed else ''} state='{escape(state or 'unknown')}'/>")
        lines += ["  <capability type='80203'/>", "</capability>"]
        name = f"net_{_word(path.name)}_{_word(mac)}"
        yield HostDevice(name, _parent(path), str(path), "", ("net", "80203"), "\n".join(lines))


def _block(root: Path) -> Iterator[HostDevice]:
    for link in _children(root / "block"):
        path = link.resolve()
        size = _text(path / "size")
        if not (path / "device").exists() or not size.isdecimal():
            continue  # loop devices, RAM disks, device mapper: no hardware of their own
        sector = _text(path / "queue/logical_block_size") or "512"
        serial = _text(path / "device/serial") or _text(path / "serial")
        is_removable = _text(path / "removable") == "1"
        lines = ["<capability type='storage'>", f"  <block>/dev/{escape(path.name)}</block>"]
        lines.append(f"  <drive_type>{'removable' if is_removable else 'disk'}</drive_type>")
        for tag, text in (("model", _text(path / "device/model")), ("vendor", _text(path / "device/vendor")),
                          ("serial", serial)):  # fmt: skip
            if text and not text.startswith("0x"):
                lines.append(f"  <{tag}>{escape(text)}</{tag}>")
        # The kernel counts in units of 512 bytes, whatever the device's sector is.
        bytes_in_all = int(size) * 512
        lines += [
            f"  <size>{bytes_in_all}</size>",
            f"  <logical_block_size>{escape(sector)}</logical_block_size>",
            f"  <num_blocks>{bytes_in_all // max(1, int(sector) if sector.isdecimal() else 512)}</num_blocks>",
            "</capability>",
        ]
        name = f"block_{_word(path.name)}" + (f"_{_word(serial)}" if serial else "")
        yield HostDevice(name, _parent(path), str(path), "", ("storage",), "\n".join(lines))


def _parent(path: Path) -> str:
    """The nearest PCI function above a device, or the host."""
    for each in path.parents:
        if _PCI.fullmatch(each.name):
            return _pci_name(each)
    return ROOT


def _pci_name(path: Path) -> str:
    return f"pci_{_word(path.name)}"


def _driver(path: Path) -> str:
    link = path / "driver"
    return link.resolve().name if link.exists() else ""


def _word(text: str) -> str:
    return _OTHER.sub("_", text)


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _text(path: Path) -> str:
    with suppress(OSError), path.open("rb") as file:
        return file.read(4096).decode("utf-8", "replace").strip()
    return ""
