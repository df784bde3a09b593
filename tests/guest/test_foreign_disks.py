"""Real Linux on disks that are not Manor's own: on an NBD server, and in the formats of other hypervisors."""

from __future__ import annotations

import hashlib
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from manor.accel.choose import choose
from manor.backends.block.nbd.server import Export, NbdServer
from manor.backends.block.open import OpenOptions, open_image
from manor.base.units import MiB
from manor.guests.default import DefaultGuest
from manor.guests.init_script import PROMPT
from manor.spec.block import DiskSpec
from manor.spec.machine import MachineSpec
from manor.vmm.lifecycle import Reason
from manor.vmm.vm import Vm
from tests.guest.conftest import BOOT_TIMEOUT_S, STEP_TIMEOUT_S

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("manor_only"),
    pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-img to make the images"),
]

FORMATS = {
    "vmdk": "subformat=streamOptimized",
    "vdi": "static=off",
    "vhdx": "subformat=dynamic",
    "vpc": "force_size=on",
}
SIZE = 4 * MiB


@pytest.fixture
def data() -> bytes:
    source = random.Random(40)
    return source.randbytes(SIZE // 2) + bytes(SIZE // 4) + source.randbytes(SIZE // 4)


@pytest.fixture
def server(tmp_path: Path, data: bytes) -> Iterator[NbdServer]:
    (tmp_path / "served").write_bytes(data)
    image = open_image(str(tmp_path / "served"), OpenOptions(format="raw"))
    server = NbdServer({"disk": Export(image)})
    server.listen_unix(str(tmp_path / "nbd.sock"))
    yield server
    server.stop()
    image.close()


def test_guest_reads_and_writes_them(guest: DefaultGuest, server: NbdServer, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "raw").write_bytes(data)
    disks = [DiskSpec(f"nbd+unix:///disk?socket={tmp_path / 'nbd.sock'}")]
    for name, options in FORMATS.items():
        path = tmp_path / f"disk.{name}"
        subprocess.run(
            ["qemu-img", "convert", "-f", "raw", "-O", name, "-o", options, tmp_path / "raw", path], check=True
        )
        # One of them is written to as well: into an overlay that is thrown away.
        disks.append(DiskSpec(str(path), read_only=name != "vdi", snapshot=name == "vdi"))
    spec = MachineSpec(guest.kernel, guest.initrd, guest.cmdline, 256 << 20, 1, disks=tuple(disks))
    expected = hashlib.sha256(data).hexdigest()
    with Vm(spec, choose("dbt").accel, reboot=False) as vm:
        vm.start()
        vm.serial.wait_for(PROMPT, BOOT_TIMEOUT_S)
        for letter in "abcde":
            vm.serial.send(f"echo s''um; sha256sum /dev/vd{letter}\n")
            vm.serial.wait_for("sum\r\n", STEP_TIMEOUT_S)
            assert vm.serial.wait_for(PROMPT, STEP_TIMEOUT_S).split()[0] == expected, disks[
                "abcde".index(letter)
            ].source
        for target in ("/dev/vda", "/dev/vdc"):
            vm.serial.send(
                f"echo changed by the guest | dd of={target} bs=512 seek=100 conv=notrunc,fsync && echo do''ne\n"
            )
            vm.serial.wait_for("done\r\n", STEP_TIMEOUT_S)
        vm.serial.send("dd if=/dev/vdc bs=512 skip=100 count=1 | head -n 1\n")
        vm.serial.wait_for("\nchanged by the guest", STEP_TIMEOUT_S)
        assert server.clients == 1
        vm.serial.send("poweroff -f\n")
        assert vm.wait(STEP_TIMEOUT_S).reason is Reason.POWER_OFF
    assert server.wait_idle(10)
    served = (tmp_path / "served").read_bytes()
    assert served[51200:51221] == b"changed by the guest\n"
    compare = ["qemu-img", "compare", "-f", "raw", "-F", "vdi", "raw", "disk.vdi"]
    assert subprocess.run(compare, cwd=tmp_path, check=False, capture_output=True).returncode == 0
