"""A saved VM's file: what it says of itself, the same machine, the same disks."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from manor.base.errors import ConfigError, HostError, ProtocolError
from manor.base.sections import SectionWriter
from manor.base.units import MiB
from manor.spec import saved_vm
from manor.spec.block import DiskSpec, Throttle
from manor.spec.machine import MachineSpec
from manor.spec.net import NicSpec, PortForward
from manor.spec.saved_vm import SavedHead, check_disks, check_same, mark_disks
from manor.spec.vsock import VsockSpec

SPEC = MachineSpec(
    Path("/boot/vmlinuz"), memory=64 * MiB, name="web", disks=(DiskSpec("/a", "raw"), DiskSpec("/b", bus="nvme")),
    nics=(NicSpec(),), vsock=VsockSpec(cid=5),
)  # fmt: skip
HEAD = SavedHead("0.1.0", 123, "dbt", SPEC, 5, 4096, paused=True, note="<domain/>")


def write(path: Path, head: bytes = HEAD.to_json()) -> None:
    writer = SectionWriter(path, saved_vm.MAGIC, saved_vm.VERSION)
    writer.add(saved_vm.HEAD, head)
    writer.add(saved_vm.DISKS, saved_vm.marks_to_json(()))
    writer.finish()


def test_head(tmp_path: Path) -> None:
    path = tmp_path / "saved"
    write(path)
    assert saved_vm.read_head(path) == HEAD


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"accel": "dbt"', b'"accel": 3'),
        (b'"paused": true', b'"paused": 1'),
        (b'"memory": 67108864', b'"memory": "much"'),
        (b'"program"', b'"programme"'),
        (b"{", b"["),
    ],
)
def test_a_head_that_makes_no_sense(tmp_path: Path, old: bytes, new: bytes) -> None:
    path = tmp_path / "saved"
    write(path, HEAD.to_json().replace(old, new, 1))
    with pytest.raises(ProtocolError):
        saved_vm.read_head(path)


@pytest.mark.parametrize(
    ("now", "path"),
    [
        (replace(SPEC, memory=128 * MiB), "memory"),
        (replace(SPEC, cpus=2), "cpus"),
        (replace(SPEC, cpu="host"), "cpu"),
        (replace(SPEC, name="other"), "name"),
        (replace(SPEC, disks=SPEC.disks[:1]), "disks"),
        (replace(SPEC, disks=(SPEC.disks[0], DiskSpec("/b"))), r"disks\[1\].bus"),
        (replace(SPEC, nics=(NicSpec(mtu=9000),)), r"nics\[0\].mtu"),
        (replace(SPEC, vsock=None), "vsock"),
        (replace(SPEC, vsock=VsockSpec(cid=6)), "vsock.cid"),
        (replace(SPEC, balloon=False), "balloon"),
        (replace(SPEC, agent=True), "agent"),
    ],
)
def test_another_machine_is_named(now: MachineSpec, path: str) -> None:
    with pytest.raises(ConfigError, match=f"^{path}: the saved machine had"):
        check_same(SPEC, now)


def test_what_is_the_hosts_may_change() -> None:
    disks = (replace(SPEC.disks[0], source="/moved", cache="direct", throttle=Throttle(5)), SPEC.disks[1])
    nics = (NicSpec("none", forwards=(PortForward("tcp", 1, 2),), hostname="x"),)
    now = replace(
        SPEC, kernel=None, append="quiet", console="virtio", disks=disks, nics=nics, vsock=VsockSpec(Path("/s"), 5)
    )
    check_same(SPEC, now)


def test_disks(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(512))
    disks = (DiskSpec(str(path)), DiskSpec("nbd://host/export"), DiskSpec("/dev/null"))
    marks = mark_disks(disks)
    assert [mark.mtime_ns is None for mark in marks] == [False, True, True]
    check_disks(marks, disks)
    moved = tmp_path / "moved"
    path.rename(moved)
    check_disks(marks, (DiskSpec(str(moved)), *disks[1:]))
    os.utime(moved, ns=(0, marks[0].mtime_ns + 1))  # type: ignore[operator]
    with pytest.raises(HostError, match="moved has changed since the VM was saved"):
        check_disks(marks, (DiskSpec(str(moved)), *disks[1:]))
    with pytest.raises(HostError, match="cannot look at the disk"):
        check_disks(marks, disks)
