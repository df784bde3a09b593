"""Whether a machine without a kernel of its own boots from its disks."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from manor.accel.choose import choose
from manor.base.errors import ConfigError
from manor.base.units import MiB
from manor.fs.entry import directory, regular
from manor.fs.ext4.writer import Ext4Writer
from manor.fs.io import ImageFile
from manor.spec.block import DiskSpec
from manor.spec.machine import MachineSpec
from manor.vmm.disks import boots_from
from manor.vmm.vm import Vm


def disk(path: Path, kernel: bytes | None) -> DiskSpec:
    """A disk that is one file system; its kernel is `kernel`."""
    with ImageFile(path, size=16 * MiB) as image:
        writer = Ext4Writer(image, 16 * MiB, identity=uuid.UUID(int=3))
        writer.add(directory("boot"))
        if kernel is not None:
            writer.add(regular("boot/vmlinuz-1", kernel))
        writer.finish()
    return DiskSpec(str(path), format="raw")


def blank(path: Path) -> DiskSpec:
    with path.open("wb") as file:
        file.truncate(MiB)
    return DiskSpec(str(path), format="raw")


def test_a_disk_with_a_kernel_boots(tmp_path: Path) -> None:
    assert boots_from([disk(tmp_path / "a", b"kernel")])
    assert boots_from([blank(tmp_path / "b"), disk(tmp_path / "c", b"kernel")])


def test_blank_disks_and_none_leave_it_to_the_default_guest(tmp_path: Path) -> None:
    assert not boots_from([])
    assert not boots_from([blank(tmp_path / "a"), blank(tmp_path / "b")])


def test_a_disk_with_something_else_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing can be booted from .*a: it has no boot entries and no kernel"):
        boots_from([disk(tmp_path / "a", None)])


def test_the_machine_reads_the_kernel_from_the_disk_when_it_is_built(tmp_path: Path) -> None:
    spec = MachineSpec(None, memory=64 * MiB, disks=(disk(tmp_path / "a", b"no kernel at all" * 400),))
    vm = Vm(spec, choose("dbt").accel)
    with pytest.raises(ConfigError, match="the disk's kernel is not a kernel"):
        vm.prepare()
