"""Debian from its packages: built, booted from its disk, used, powered off, grown, and booted again."""

from __future__ import annotations

import filecmp
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from manor.accel.choose import choose
from manor.backends.block.open import OpenOptions, open_image
from manor.backends.block.operations import resize
from manor.base.errors import ConfigError, HostError
from manor.base.units import GiB
from manor.boot.open_disk import BackendSource
from manor.fs.partitions import read_partitions
from manor.guests.cache import default_root
from manor.guests.progress import Silent
from manor.images.build import BuildOptions, build_debian
from manor.images.customize import Settings
from manor.spec.block import DiskSpec
from manor.spec.machine import MachineSpec
from manor.testing.guest_process import QEMU, GuestProcess
from manor.vmm.lifecycle import Reason
from manor.vmm.vm import Vm

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

BUILD_SIZE = 2 * GiB
LOGIN_S = 300.0
STEP_S = 120.0
PROMPT = r"tester@witness:~\$ "
CODE = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
VARIABLES = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk; the configured system that it is made from comes from the cache if that has it."""
    path = tmp_path_factory.mktemp("debian") / "debian.qcow2"
    settings = Settings(hostname="witness", user="tester", password_hash="")
    try:
        build_debian(BuildOptions(path, size=BUILD_SIZE, settings=settings), Silent())
    except (ConfigError, HostError) as error:
        pytest.skip(f"Debian cannot be built here: {error}")
    return path


@pytest.fixture
def disk(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(built, tmp_path / "disk.qcow2"))


def manor(disk: Path) -> list[str]:
    """`manor run` with nothing but a disk."""
    return [sys.executable, "-m", "manor", "run", "--accel", "dbt", "--memory", "512M", "--disk", str(disk)]


def log_in(guest: GuestProcess) -> None:
    guest.wait_for("witness login: ", LOGIN_S)
    guest.send("tester\n")
    guest.wait_for(PROMPT, STEP_S)


def ask(guest: GuestProcess, command: str) -> str:
    """What a command prints."""
    guest.send(f"echo '@@''start'; {{ {command}; }} 2>&1 | cat; echo '@@''end'\n")
    text = guest.wait_for(r"@@end\r?\n", STEP_S)
    guest.wait_for(PROMPT, STEP_S)
    return text.partition("@@start\n")[2].partition("@@end")[0]


def power_off(guest: GuestProcess) -> None:
    guest.send("sudo poweroff\n")
    assert guest.wait(STEP_S) == 0


def check_root(disk: Path, tmp_path: Path) -> None:
    """The root file system is clean, as e2fsck sees it."""
    e2fsck = shutil.which("e2fsck", path="/usr/sbin:/sbin:/usr/bin")
    assert e2fsck is not None
    image = open_image(str(disk), OpenOptions(read_only=True))
    try:
        source = BackendSource(image)
        root = read_partitions(source)[1]
        copy = tmp_path / "root.ext4"
        with copy.open("wb") as file:
            file.truncate(root.size)
            for extent in image.extents(root.start, root.size):
                if extent.kind == "data":
                    file.seek(extent.offset - root.start)
                    file.write(source.read(extent.offset, extent.size))
    finally:
        image.close()
    done = subprocess.run([e2fsck, "-fn", copy], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    copy.unlink()


def test_boots_keeps_data_grows_and_stays_clean(disk: Path, tmp_path: Path) -> None:
    with GuestProcess(manor(disk)) as guest:
        log_in(guest)
        state = ask(guest, "systemctl is-system-running --wait; systemctl --failed --no-legend --plain")
        assert state.strip() == "running"
        assert ask(guest, "dpkg --audit; sudo dpkg --verify; sudo apt-get check -qq 2>&1").strip() == ""
        first_id = ask(guest, "cat /etc/machine-id").strip()
        assert len(first_id) == 32
        assert "ssh_host_ed25519_key" in ask(guest, "ls /etc/ssh")
        assert ask(guest, "systemctl is-active ssh systemd-networkd").split() == ["active", "active"]
        ask(guest, "seq 100000 > ~/kept; sync")
        power_off(guest)
    check_root(disk, tmp_path)
    resize(str(disk), 3 * GiB)
    with GuestProcess(manor(disk)) as guest:
        log_in(guest)
        assert ask(guest, "seq 100000 | cmp - ~/kept && echo same").strip() == "same"
        assert ask(guest, "cat /etc/machine-id").strip() == first_id
        # The last partition and the file system in it took what the disk has more.
        size = int(ask(guest, "df --output=size -B1 / | tail -n 1").strip())
        assert size > BUILD_SIZE
        assert ask(guest, "systemctl --failed --no-legend --plain").strip() == ""
        power_off(guest)
    check_root(disk, tmp_path)


@pytest.mark.timeout(3600)
def test_a_guest_configures_as_a_namespace_does(built: Path, tmp_path: Path) -> None:
    """Both places of the second stage end in the same bytes."""
    cache = tmp_path / "cache"
    shutil.copytree(default_root() / "images", cache / "images", ignore=shutil.ignore_patterns("*.tar.zst*", "*.json*"))
    settings = Settings(hostname="witness", user="tester", password_hash="")
    other = tmp_path / "other.qcow2"
    options = BuildOptions(other, size=BUILD_SIZE, settings=settings, second_stage="guest")
    assert not build_debian(options, Silent(), cache).tree_was_cached
    assert filecmp.cmp(built, other, shallow=False)


@pytest.mark.skipif(shutil.which(QEMU) is None, reason="there is no QEMU on this machine")
@pytest.mark.skipif(not CODE.exists(), reason="there is no OVMF on this machine (Debian package ovmf)")
def test_boots_by_uefi_firmware_elsewhere(disk: Path, tmp_path: Path) -> None:
    variables = shutil.copy(VARIABLES, tmp_path / "variables.fd")
    command: Sequence[str] = [
        QEMU, "-accel", "tcg", "-M", "q35", "-cpu", "max", "-m", "512", "-nodefaults", "-no-user-config",
        "-nic", "none", "-display", "none", "-serial", "stdio", "-no-reboot",
        "-drive", f"if=pflash,format=raw,readonly=on,file={CODE}",
        "-drive", f"if=pflash,format=raw,file={variables}",
        "-drive", f"file={disk},format=qcow2,if=virtio",
    ]  # fmt: skip
    with GuestProcess(command) as guest:
        log_in(guest)
        assert "/sys/firmware/efi" in ask(guest, "ls -d /sys/firmware/efi")
        assert "systemd-boot" in ask(guest, "sudo bootctl status --no-pager | cat")
        power_off(guest)


def test_the_power_button_shuts_it_down_and_reboots_it(disk: Path) -> None:
    spec = MachineSpec(None, None, "", 512 << 20, disks=(DiskSpec(str(disk), snapshot=True),))
    with Vm(spec, choose("dbt").accel, reboot=True) as vm:
        vm.start()
        for then_reboot in (True, False):
            vm.serial.wait_for("witness login: ", LOGIN_S)
            vm.press_power_button(then_reboot)
            vm.serial.wait_for("Power down", STEP_S)
        assert vm.wait(STEP_S).reason is Reason.POWER_OFF
