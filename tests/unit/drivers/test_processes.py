"""What becomes of a domain's document on its way to a VM's process, without starting one."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from manor.base.errors import ApiError, ConfigError
from manor.domain.definition import Platform, complete
from manor.domain.xml.domain import Domain
from manor.domain.xml.network import Network
from manor.domain.xml.to_spec import Resolvers
from manor.drivers.errors import no_network
from manor.drivers.hypervisor import End, Ended
from manor.drivers.processes import Processes, _end_of

XML = """
<domain type='{type}'>
  <name>web1</name>
  <memory unit='MiB'>64</memory>
  <os><type>hvm</type><kernel>/nowhere/vmlinuz</kernel></os>
  <on_crash>{on_crash}</on_crash>
  <devices>
    <disk type='file'><source file='/nowhere/a.img'/><target dev='vda'/>{disk}</disk>
    <interface type='network'><source network='lan'/></interface>
  </devices>
</domain>
"""


def document(kind: str = "qemu", on_crash: str = "destroy", disk: str = "") -> Domain:
    return complete(XML.format(type=kind, on_crash=on_crash, disk=disk), Platform("/usr/bin/manor"))


def made(root: Path, accel: str = "auto") -> Processes:
    def network(name: str) -> Network:
        raise no_network(f"with matching name '{name}'")

    return Processes(root, accel, Resolvers(network, lambda pool, volume: Path("/")))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("setting", "kind", "accel"),
    [("auto", "kvm", "auto"), ("auto", "qemu", "dbt"), ("dbt", "kvm", "dbt"), ("kvm", "qemu", "kvm")],
)
def test_what_runs_a_domain(tmp_path: Path, setting: str, kind: str, accel: str) -> None:
    from manor.drivers.processes import _ANYTHING

    assert made(tmp_path, setting)._launch(document(kind), _ANYTHING).accel == accel


def test_a_network_may_be_made_after_the_domain_but_not_after_its_start(tmp_path: Path) -> None:
    processes = made(tmp_path)
    assert [one.path for one in processes.check(document())] == ["domain/devices/interface/source/@network"]
    with pytest.raises(ApiError, match="no network with matching name 'lan'"):
        asyncio.run(processes.start(document(), 1, False))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("disk", "words"),
    [
        ("<iotune><read_iops_sec>5</read_iops_sec></iotune>", "domain/devices/disk/iotune/read_iops_sec: reads and"),
        ("<serial>ä</serial>", r"domain/devices/disk\[1\]: serial 'ä' has characters"),
        ("<shareable/>", "two writers of one image destroy it"),
    ],
)
def test_what_no_machine_can_be_is_refused_before_anything_starts(tmp_path: Path, disk: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        made(tmp_path).check(document(disk=disk))


def test_a_kernel_that_is_not_there_is_named(tmp_path: Path) -> None:
    processes = Processes(tmp_path, "dbt")
    with pytest.raises(ApiError, match="cannot open /nowhere/vmlinuz: No such file"):
        asyncio.run(processes.start(document(), 1, False))


@pytest.mark.parametrize(
    ("left", "status", "how", "detail"),
    [
        ({"reason": "power-off"}, 0, End.POWER_OFF, ""),
        ({"reason": "reboot"}, 0, End.REBOOT, ""),
        ({"reason": "stopped", "detail": "by a command"}, 0, End.STOPPED, ""),
        ({"reason": "saved", "detail": "/a/file"}, 0, End.SAVED, ""),
        ({"reason": "panic", "detail": "the guest's kernel panicked"}, 0, End.CRASH, "the guest's kernel panicked"),
        ({"reason": "triple-fault", "detail": "vCPU 0"}, 0, End.CRASH, "vCPU 0"),
        ({"reason": "error", "detail": "no space"}, 0, End.FAILED, "no space"),
        ({"reason": "a younger VMM's"}, 0, End.FAILED, ""),
        (None, -9, End.LOST, "its process was killed (signal 9); the last words"),
        (None, None, End.LOST, "its process was killed (it left no word); the last words"),
        ("no JSON", 1, End.LOST, "its process was killed (it left no word); the last words"),
    ],
)
def test_how_a_vm_ended(tmp_path: Path, left: object, status: int | None, how: End, detail: str) -> None:
    (tmp_path / "vmm.log").write_text("first\nthe last words\n")
    if left is not None:
        (tmp_path / "end.json").write_text(left if isinstance(left, str) else json.dumps(left))
    assert _end_of(bytes(16), tmp_path, status) == Ended(bytes(16), how, detail)


def test_a_folder_that_is_no_vms_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "record.json").write_text('{"number": 1, "live": ""}')
    (tmp_path / "more").mkdir()
    assert asyncio.run(made(tmp_path).recover(lambda happening: None)) == ([], [])
    assert (tmp_path / "other" / "record.json").exists()
