"""Real Linux on disks of both kinds: what it writes is there, after power-off, after a kill, for other programs."""

from __future__ import annotations

import hashlib
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from manor.accel.choose import choose
from manor.backends.block.operations.create import create
from manor.base.units import MiB
from manor.guests.default import DefaultGuest
from manor.guests.init_script import PROMPT
from manor.spec.block import CACHE_MODES, DISK_BUSES, CacheMode, DiskBus, DiskSpec
from manor.spec.machine import MachineSpec
from manor.testing.guest_process import GuestProcess
from manor.testing.programs import compile_program, extend_initrd, has_compiler
from manor.vmm.lifecycle import Reason
from manor.vmm.vm import Vm
from tests.guest.conftest import BOOT_TIMEOUT_S, STEP_TIMEOUT_S, StartGuest

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("manor_only")]

DEVICE = {"virtio": "/dev/vda", "nvme": "/dev/nvme0n1"}
SIZE = 32 * MiB
needs_e2fsprogs = pytest.mark.skipif(
    shutil.which("mke2fs") is None or shutil.which("e2fsck") is None, reason="e2fsprogs is not installed"
)


@pytest.fixture(params=DISK_BUSES)
def bus(request: pytest.FixtureRequest) -> DiskBus:
    found: DiskBus = request.param
    return found


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    with open(path, "wb") as file:
        file.truncate(SIZE)
    return path


Boot = Callable[..., Vm]


@pytest.fixture
def boot(guest: DefaultGuest) -> Iterator[Boot]:
    """boot(disk, ..., cpus=1, initrd=None): a guest whose shell waits for a command."""
    running: list[Vm] = []

    def start(*disks: DiskSpec, cpus: int = 1, initrd: Path | None = None) -> Vm:
        spec = MachineSpec(guest.kernel, initrd or guest.initrd, guest.cmdline, 256 << 20, cpus, disks=disks)
        vm = Vm(spec, choose("dbt").accel, reboot=False)
        running.append(vm)
        vm.start()
        vm.serial.wait_for(PROMPT, BOOT_TIMEOUT_S)
        answer(vm, "dmesg -n 1")  # a kernel that was kept waiting by a busy host says so in between
        return vm

    yield start
    for vm in running:
        with vm:
            pass


def answer(vm: Vm, command: str) -> str:
    """What `command` prints in the guest."""
    # Quotes keep the echo of the line apart from what it prints.
    vm.serial.send(f"echo be''gin; {command}; echo en''d $?\n")
    vm.serial.wait_for("begin\r\n", STEP_TIMEOUT_S)
    shown = vm.serial.wait_for("end ", STEP_TIMEOUT_S)
    status = vm.serial.wait_for("\n", STEP_TIMEOUT_S)
    vm.serial.wait_for(PROMPT, STEP_TIMEOUT_S)
    assert status.strip() == "0", f"{command}: {shown}{status}"
    return shown.removesuffix("end ").replace("\r", "").strip()


def power_off(vm: Vm) -> None:
    vm.serial.send("poweroff -f\n")
    assert vm.wait(STEP_TIMEOUT_S).reason is Reason.POWER_OFF


@pytest.mark.parametrize("cpus", [1, 2])
def test_what_was_written_is_read_back_and_survives_power_off(
    boot: Boot, image: Path, bus: DiskBus, cpus: int
) -> None:
    device = DEVICE[bus]
    disk = DiskSpec(str(image), "raw", bus, serial="MANOR-7")
    vm = boot(disk, cpus=cpus)
    where = "/sys/block/vda/serial" if bus == "virtio" else "/sys/class/nvme/nvme0/serial"
    assert answer(vm, f"cat {where}") == "MANOR-7"
    assert answer(vm, f"cat /sys/block/{device[5:]}/size") == str(SIZE // 512)
    queues = "virtio*" if bus == "virtio" else "mq"
    assert answer(vm, f"ls -d /sys/block/{device[5:]}/mq/[0-9]* | wc -l") == str(cpus), queues
    text = "".join(f"{number}\n" for number in range(1, 200_001)).encode()
    digest = hashlib.md5(text).hexdigest()
    answer(vm, f"seq 200000 | dd of={device} bs=64k iflag=fullblock conv=fsync")
    answer(vm, "echo 3 > /proc/sys/vm/drop_caches")
    assert answer(vm, f"head -c {len(text)} {device} | md5sum").split()[0] == digest
    # Around the guest's page cache, at an odd place, in small pieces and in large ones.
    answer(vm, "seq 100000 | head -c 524288 > /tmp/piece")
    for block in (512, 4096, 524288):
        count = 524288 // block
        answer(vm, f"dd if=/tmp/piece of={device} bs={block} seek={9 * count} count={count} oflag=direct")
        answer(vm, f"dd if={device} of=/tmp/back bs={block} skip={9 * count} count={count} iflag=direct")
        answer(vm, "cmp /tmp/piece /tmp/back")
    assert answer(vm, "cat /proc/sys/kernel/tainted") == "0"
    power_off(vm)
    counters = vm.statistics().disks["disk0"]
    assert counters["errors"] == 0
    assert counters["flush_requests"] > 0
    assert image.read_bytes()[: len(text)] == text
    vm = boot(disk)
    assert answer(vm, f"head -c {len(text)} {device} | md5sum").split()[0] == digest


@pytest.mark.skipif(not has_compiler(), reason="there is no gcc here")
@pytest.mark.parametrize("format", ["raw", "qcow2"])
@pytest.mark.parametrize("cache", CACHE_MODES)
def test_many_requests_at_once_mix_nothing_up(
    boot: Boot, guest: DefaultGuest, image: Path, tmp_path: Path, bus: DiskBus, format: str, cache: CacheMode,
    rng: random.Random,
) -> None:  # fmt: skip
    """On two vCPUs, with requests of all sizes and kinds at the same time, every read gives what was written last."""
    program = compile_program(Path(__file__).parent / "disk" / "diskcheck.c", tmp_path)
    files = {"/diskcheck": (0o755, program.read_bytes())}
    initrd = extend_initrd(guest.initrd, files, tmp_path / "initrd.cpio")
    if format == "qcow2":
        image = tmp_path / "disk.qcow2"
        create(str(image), SIZE)
    vm = boot(DiskSpec(str(image), format, bus, cache=cache), cpus=2, initrd=initrd)
    shown = answer(vm, f"/diskcheck {DEVICE[bus]} 4 {rng.randrange(1 << 32)}")
    assert shown.startswith("@@checked ")
    assert answer(vm, "dmesg | grep -ci 'i/o error' || true") == "0"
    power_off(vm)
    assert vm.statistics().disks["disk0"]["errors"] == 0
    if format == "qcow2" and shutil.which("qemu-img"):
        subprocess.run(["qemu-img", "check", "-q", image], check=True, timeout=60)


def test_discard_gives_space_back(boot: Boot, image: Path, bus: DiskBus) -> None:
    image.write_bytes(b"\xff" * SIZE)
    before = image.stat().st_blocks
    vm = boot(DiskSpec(str(image), "raw", bus))
    answer(vm, f"blkdiscard -o 0 -l {SIZE // 2} {DEVICE[bus]}")
    power_off(vm)
    assert vm.statistics().disks["disk0"]["discard_bytes"] == SIZE // 2
    assert image.stat().st_blocks < before
    data = image.read_bytes()
    assert data[: SIZE // 2].strip(b"\0") == b""
    assert data[SIZE // 2 :] == b"\xff" * (SIZE // 2)


def test_read_only_disk_cannot_be_written(boot: Boot, image: Path, bus: DiskBus) -> None:
    image.write_bytes(b"\xaa" * SIZE)
    vm = boot(DiskSpec(str(image), "raw", bus, read_only=True))
    assert answer(vm, f"cat /sys/block/{DEVICE[bus][5:]}/ro") == "1"
    answer(vm, f"! dd if=/dev/zero of={DEVICE[bus]} bs=4096 count=1 conv=fsync")
    answer(vm, f"head -c 4096 {DEVICE[bus]} | tr -d '\\252' | wc -c | grep -x 0")
    power_off(vm)
    assert image.read_bytes() == b"\xaa" * SIZE


def test_resize_while_running(boot: Boot, image: Path, bus: DiskBus) -> None:
    vm = boot(DiskSpec(str(image), "raw", bus))
    name = DEVICE[bus][5:]
    for size in (48 * MiB, 16 * MiB):
        vm.resize_disk("disk0", size)
        is_there = f"[ $(cat /sys/block/{name}/size) = {size // 512} ]"
        answer(vm, f"for i in $(seq 50); do {is_there} && break; sleep 0.1; done")
        assert answer(vm, f"cat /sys/block/{name}/size") == str(size // 512)
        answer(vm, f"dd if=/dev/urandom of={DEVICE[bus]} bs=4096 seek={size // 4096 - 1} count=1 oflag=direct")
        assert image.stat().st_size == size
    if bus == "virtio":
        assert "new size" in answer(vm, "dmesg | grep vda")


def test_two_disks_of_both_kinds(boot: Boot, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a", "b", "c")]
    for path in paths:
        path.write_bytes(path.name.encode() * MiB)
    vm = boot(
        DiskSpec(str(paths[0]), "raw"), DiskSpec(str(paths[1]), "raw", "nvme"), DiskSpec(str(paths[2]), "raw")
    )
    for device, name in (("/dev/vda", "a"), ("/dev/nvme0n1", "b"), ("/dev/vdb", "c")):
        assert answer(vm, f"head -c 3 {device}; echo") == name * 3


def test_snapshot_leaves_the_image_alone(boot: Boot, image: Path) -> None:
    image.write_bytes(b"\xaa" * SIZE)
    vm = boot(DiskSpec(str(image), "raw", snapshot=True))
    answer(vm, "dd if=/dev/zero of=/dev/vda bs=1M count=8 conv=fsync")
    answer(vm, "echo 3 > /proc/sys/vm/drop_caches")
    answer(vm, "head -c 8388608 /dev/vda | tr -d '\\0' | wc -c | grep -x 0")
    power_off(vm)
    assert image.read_bytes() == b"\xaa" * SIZE


# --- a file system, and other programs' opinion of it ------------------------------------------------------------


def make_ext4(image: Path, contents: Path) -> None:
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-d", contents, image], check=True, timeout=60)


def check_ext4(image: Path) -> None:
    """Replay the journal as a boot would; after that there must be nothing to complain of."""
    replay = subprocess.run(["e2fsck", "-p", image], capture_output=True, text=True, timeout=60, check=False)
    assert replay.returncode in (0, 1), replay.stdout + replay.stderr
    done = subprocess.run(["e2fsck", "-f", "-n", image], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_e2fsprogs
def test_file_system_of_the_host_is_used_and_stays_clean(
    boot: Boot, image: Path, tmp_path: Path, bus: DiskBus
) -> None:
    contents = tmp_path / "contents"
    contents.mkdir()
    data = random.Random(4).randbytes(3 * MiB)
    (contents / "data").write_bytes(data)
    make_ext4(image, contents)
    vm = boot(DiskSpec(str(image), "raw", bus))
    answer(vm, f"mkdir /mnt && mount -t ext4 -o discard {DEVICE[bus]} /mnt")
    assert answer(vm, "md5sum /mnt/data").split()[0] == hashlib.md5(data).hexdigest()
    answer(vm, "mkdir /mnt/d && for i in $(seq 100); do cp /etc/passwd /mnt/d/$i; done && cp /mnt/data /mnt/copy")
    answer(vm, "rm /mnt/data && sync && umount /mnt")
    power_off(vm)
    check_ext4(image)
    copied = subprocess.run(["debugfs", "-R", "cat /copy", image], capture_output=True, timeout=60, check=True)
    assert copied.stdout == data


@needs_e2fsprogs
@pytest.mark.parametrize("rounds", [1, pytest.param(25, marks=pytest.mark.slow)])
def test_file_system_survives_a_kill(
    start_guest: StartGuest, image: Path, tmp_path: Path, bus: DiskBus, rng: random.Random, rounds: int
) -> None:
    """The process is killed at a random moment of heavy writing: what was synced is there, and the journal is right."""
    contents = tmp_path / "empty"
    contents.mkdir()
    make_ext4(image, contents)
    extra = ("--disk", f"{image},format=raw,bus={bus}")
    work = (
        f"mkdir -p /mnt; mount -t ext4 {DEVICE[bus]} /mnt; rm -rf /mnt/*; i=0; while true; do i=$((i+1)); "
        "seq $i $((i+2000)) > /mnt/f$i; mkdir /mnt/d$i; mv /mnt/f$i /mnt/d$i/f; "
        "rm -rf /mnt/d$((i-20)); sync; echo @@syn''ced $i; done\n"
    )
    for _ in range(rounds):
        process: GuestProcess = start_guest(extra=extra)
        process.wait_for(PROMPT, BOOT_TIMEOUT_S)
        process.send(work)
        process.wait_for("@@synced 3\r", BOOT_TIMEOUT_S)
        time.sleep(rng.uniform(0, 2))
        process.signal(signal.SIGKILL)
        process.wait(STEP_TIMEOUT_S)
        last = int(process.text.rpartition("@@synced ")[2].split("\n")[0] or "3")
        check_ext4(image)
        done = subprocess.run(["debugfs", "-R", f"cat /d{last}/f", image], capture_output=True, timeout=60, check=True)
        assert done.stdout == "".join(f"{number}\n" for number in range(last, last + 2001)).encode()
