"""Disks written in one line, and the checks of what they say."""

from __future__ import annotations

import pytest

from manor.base.errors import ConfigError
from manor.spec.block import DiskSpec, Throttle
from manor.spec.check import check_disk
from manor.spec.disk_text import OPTIONS, parse_disk


def test_a_file_alone() -> None:
    assert parse_disk("disk.qcow2") == DiskSpec("disk.qcow2")
    assert parse_disk("nbd://host:10809/name") == DiskSpec("nbd://host:10809/name")


def test_everything() -> None:
    line = (
        "a,,b.img,format=raw,bus=nvme,readonly=on,snapshot=off,serial=S,,1,cache=direct,discard=off,queues=3,"
        "iops=500,iops-burst=1000,bps=50M,bps-burst=0x100K"
    )
    assert parse_disk(line) == DiskSpec(
        "a,b.img", "raw", "nvme", True, False, "S,1", "direct", False, 3, Throttle(50 << 20, 500, 256 << 10, 1000)
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "begins with no file"),
        (",bus=nvme", "begins with no file"),
        ("f,bus", "bus has no value; write bus=virtio"),
        ("f,bus=", "bus has no value"),
        ("f,bus=scsi", "bus=scsi: write virtio or nvme"),
        ("f,", "'' is no option of a disk"),
        ("f,x=1", "'x' is no option of a disk; there are: format, bus, readonly"),
        ("my, file", "a comma in a file's name is written twice"),
        ("f,bus=nvme,bus=virtio", "bus is given twice"),
        ("f,readonly=yes", "readonly=yes: write on or off"),
        ("f,cache=none", "cache=none: write writeback or direct"),
        ("f,queues=-1", "queues=-1: write a whole number"),
        ("f,queues=9999999999999", "write a whole number"),
        ("f,iops=many", "iops=many: write a whole number"),
        ("f,bps=fast", "bps=fast: 'fast' is not a size"),
    ],
)
def test_mistake_gets_one_sentence(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse_disk(text)
    assert str(caught.value).startswith("disk: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("disk", "message"),
    [
        (DiskSpec(""), "names no file"),
        (DiskSpec("f", bus="scsi"), "bus 'scsi' is unknown; give one of virtio, nvme"),  # type: ignore[arg-type]
        (DiskSpec("f", cache="no"), "cache 'no' is unknown"),  # type: ignore[arg-type]
        (DiskSpec("f", serial="x" * 21), "21 characters; at most 20 fit"),
        (DiskSpec("f", serial="ä"), "not printable ASCII"),
        (DiskSpec("f", queues=17), "give 1 to 16"),
        (DiskSpec("f", queues=-1), "give 1 to 16"),
        (DiskSpec("f", read_only=True, snapshot=True), "needs no snapshot"),
        (DiskSpec("f", throttle=Throttle(-1)), "bps is negative"),
        (DiskSpec("f", throttle=Throttle(burst_operations=5)), "iops-burst needs iops"),
    ],
)
def test_disk_that_makes_no_sense(disk: DiskSpec, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_disk(disk, "disks[0]")


def test_every_option_of_a_disk_can_be_written() -> None:
    fields = {option._field for option in OPTIONS.values()}
    assert fields | {"source", "throttle", "slot"} >= set(DiskSpec.__dataclass_fields__)
    assert fields >= set(Throttle.__dataclass_fields__)
