"""The host's devices from a tree like the kernel's."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from manor.base.errors import ApiError
from manor.drivers.host_devices import device_xml, host_devices
from manor.drivers.host_firmware import host_firmware


def write(root: Path, **files: str) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (root / name).write_text(f"{text}\n")
    return root


@pytest.fixture
def sys(tmp_path: Path) -> Path:
    pci = write(tmp_path / "devices/pci0000:00/0000:00:03.0", **{"class": "0x020000", "vendor": "0x1af4",
                                                                "device": "0x1041"})  # fmt: skip
    (tmp_path / "kernel/iommu_groups/7").mkdir(parents=True)
    (pci / "iommu_group").symlink_to(tmp_path / "kernel/iommu_groups/7")
    (tmp_path / "bus/pci/drivers/virtio-pci").mkdir(parents=True)
    (pci / "driver").symlink_to(tmp_path / "bus/pci/drivers/virtio-pci")
    broken = write(tmp_path / "devices/pci0000:00/0000:00:04.0", **{"class": "", "vendor": "", "device": ""})
    net = write(pci / "virtio0/net/eth0", address="02:fc:00:00:00:01", operstate="up", speed="1000")
    lo = write(tmp_path / "devices/virtual/net/lo", address="00:00:00:00:00:00")
    disk = write(pci / "virtio1/block/vda", size="2048", removable="0", serial="a<b")
    (disk / "device").mkdir()
    write(disk / "queue", logical_block_size="4096")
    loop = write(tmp_path / "devices/virtual/block/loop0", size="8")
    for folder, paths in (("bus/pci/devices", (pci, broken)), ("class/net", (net, lo)), ("block", (disk, loop))):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for path in paths:
            (tmp_path / folder / path.name).symlink_to(path)
    write(tmp_path / "class/dmi/id", product_name="Box", sys_vendor="Maker")
    return tmp_path


def test_what_is_hardware_is_found_with_what_it_hangs_on(sys: Path) -> None:
    found = {each.name: each.parent for each in host_devices(sys)}
    assert found == {
        "computer": None, "pci_0000_00_03_0": "computer", "net_eth0_02_fc_00_00_00_01": "pci_0000_00_03_0",
        "block_vda_a_b": "pci_0000_00_03_0",
    }  # fmt: skip


def test_their_documents(sys: Path) -> None:
    roots = [ElementTree.fromstring(device_xml(each)) for each in host_devices(sys)]
    computer, pci, net, disk = roots
    assert computer.findtext("capability/product") == "Box"
    assert pci.findtext("driver/name") == "virtio-pci"
    assert pci.find("capability/iommuGroup") is not None
    assert pci.findtext("capability/slot") == "3"
    link = net.find("capability/link")
    assert link is not None
    assert link.attrib == {"speed": "1000", "state": "up"}
    assert disk.findtext("capability/serial") == "a<b"
    assert (disk.findtext("capability/size"), disk.findtext("capability/num_blocks")) == ("1048576", "256")


def test_a_host_without_a_bus(tmp_path: Path) -> None:
    assert [each.name for each in host_devices(tmp_path)] == ["computer"]


def test_firmware_texts(sys: Path, tmp_path: Path) -> None:
    root = ElementTree.fromstring(host_firmware(sys / "class/dmi/id"))
    assert {each.get("name"): each.text for each in root.iterfind("system/entry")} == {
        "manufacturer": "Maker", "product": "Box",
    }  # fmt: skip
    with pytest.raises(ApiError, match="shows no SMBIOS information"):
        host_firmware(tmp_path / "none")
