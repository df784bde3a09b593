"""Real Linux is given disks, interfaces and vCPUs while it runs and busy with others, and gives them back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from manor.accel.choose import choose
from manor.guests.default import DefaultGuest
from manor.guests.init_script import PROMPT
from manor.spec.block import DISK_BUSES, DiskBus, DiskSpec
from manor.spec.machine import MachineSpec
from manor.spec.net import NicSpec
from manor.vmm.hotplug import DeviceEvent
from manor.vmm.vm import Vm
from tests.guest.conftest import BOOT_TIMEOUT_S, STEP_TIMEOUT_S
from tests.guest.test_disks import DEVICE, answer

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("manor_only")]

SIZE = 8 << 20
USER = NicSpec("user", reach="none")


class Guest:
    """A guest whose shell waits for a command, and what happened to its devices."""

    def __init__(self, guest: DefaultGuest, disks: tuple[DiskSpec, ...], max_cpus: int) -> None:
        spec = MachineSpec(
            guest.kernel, guest.initrd, guest.cmdline, 256 << 20, disks=disks, nics=(USER,), max_cpus=max_cpus
        )
        self.vm = Vm(spec, choose("dbt").accel)
        self._events: list[DeviceEvent] = []
        self._changed = threading.Condition()
        self.vm.devices.listen(self._note)
        self.vm.start()
        self.wait_boot()

    def wait_boot(self) -> None:
        self.vm.serial.wait_for(PROMPT, BOOT_TIMEOUT_S)
        answer(self.vm, "dmesg -n 1")

    def _note(self, event: DeviceEvent) -> None:
        with self._changed:
            self._events.append(event)
            self._changed.notify_all()

    def wait_event(self, what: str, device: str) -> None:
        def has_come() -> bool:
            return any((event.what, event.device) == (what, device) for event in self._events)

        with self._changed:
            assert self._changed.wait_for(has_come, STEP_TIMEOUT_S), self._events
            self._events.clear()

    def until(self, condition: str) -> None:
        """Wait until a shell's condition is true in the guest."""
        tries = f"n=0; until {condition}; do n=$((n+1)); [ $n -gt 150 ] && break; sleep 0.2; done; {condition}"
        assert answer(self.vm, f"{tries} && echo ye''s").strip().endswith("yes"), condition


@pytest.fixture
def make(guest: DefaultGuest) -> Iterator[Callable[..., Guest]]:
    made: list[Guest] = []

    def make(*disks: DiskSpec, max_cpus: int = 0) -> Guest:
        made.append(Guest(guest, disks, max_cpus))
        return made[-1]

    yield make
    for one in made:
        with one.vm:
            pass


def image(folder: Path, name: str = "new.raw") -> Path:
    path = folder / name
    with open(path, "wb") as file:
        file.truncate(SIZE)
    return path


@pytest.mark.parametrize("bus", DISK_BUSES)
def test_disk_comes_while_another_is_written_and_goes(make: Callable[..., Guest], tmp_path: Path, bus: DiskBus) -> None:
    guest = make(DiskSpec(str(image(tmp_path, "busy.raw")), format="raw"))
    vm, device = guest.vm, {"virtio": "/dev/vdb", "nvme": DEVICE["nvme"]}[bus]
    answer(vm, "(while :; do dd if=/dev/zero of=/dev/vda bs=64k count=16 conv=fsync 2> /dev/null; done) & :")
    path = image(tmp_path)
    name = vm.devices.add_disk(DiskSpec(str(path), format="raw", bus=bus))
    guest.until(f"[ -b {device} ]")
    answer(vm, f"printf 'written by the guest' | dd of={device} conv=fsync 2> /dev/null")
    vm.devices.remove(name)
    guest.wait_event("removed", name)
    assert path.read_bytes().startswith(b"written by the guest")
    guest.until(f"[ ! -e {device} ]")
    assert "1" in answer(vm, "jobs | wc -l"), "the other disk is still written"
    assert vm.devices.add_disk(DiskSpec(str(path), format="raw", bus=bus)) == name
    guest.until(f"[ -b {device} ]")
    assert "written by the guest" in answer(vm, f"head -c 20 {device}; echo")


def test_disk_that_is_being_written_goes(make: Callable[..., Guest], tmp_path: Path) -> None:
    guest = make()
    name = guest.vm.devices.add_disk(DiskSpec(str(image(tmp_path)), format="raw"))
    guest.until("[ -b /dev/vda ]")
    # By the descriptor: by its name, dd would make a plain file once the disk is gone.
    writer = "exec 3<> /dev/vda; while dd if=/dev/zero of=/proc/self/fd/3 bs=64k count=64 2> /dev/null; do :; done"
    answer(guest.vm, f"({writer}) & :")
    guest.vm.devices.remove(name)
    guest.wait_event("removed", name)
    guest.until("[ ! -b /dev/vda ]")
    assert name not in [device.name for device in guest.vm.devices.all()]


@pytest.mark.parametrize("kernel", ["cloud", "generic"])
def test_interface_comes_gets_an_address_and_goes(make: Callable[..., Guest]) -> None:
    guest = make()
    vm = guest.vm
    guest.until("ip addr show eth0 | grep -q 10.0.2.15")
    answer(vm, "ping -i 0.1 10.0.2.2 > /tmp/pings & :")
    name = vm.devices.add_nic(USER)
    guest.until("ip addr show eth1 2> /dev/null | grep -q 10.0.3.15")
    assert " 0% packet loss" in answer(vm, "ping -c 2 10.0.3.2")
    vm.devices.remove(name)
    guest.wait_event("removed", name)
    guest.until("[ ! -e /sys/class/net/eth1 ]")
    assert " 0% packet loss" in answer(vm, "kill -INT %1; sleep 1; cat /tmp/pings")


def test_disk_of_the_start_goes_and_stays_away_over_a_reboot(make: Callable[..., Guest], tmp_path: Path) -> None:
    first, second = (DiskSpec(str(image(tmp_path, name)), format="raw") for name in ("a.raw", "b.raw"))
    guest = make(first, second)
    guest.until("[ -b /dev/vdb ]")
    guest.vm.devices.remove("disk0")
    guest.wait_event("removed", "disk0")
    guest.vm.serial.send("reboot -f\n")
    guest.wait_boot()
    guest.until("[ -b /dev/vda ]")
    assert answer(guest.vm, "ls /dev/vd*").split() == ["/dev/vda"]


def test_vcpu_comes_works_and_goes(make: Callable[..., Guest]) -> None:
    guest = make(max_cpus=2)
    vm = guest.vm
    assert answer(vm, "nproc").strip() == "1"
    for _ in range(2):
        vm.devices.set_cpus(2)
        guest.until("[ $(nproc) = 2 ]")
        answer(vm, "taskset 2 sh -c 'n=0; while [ $n -lt 1000 ]; do n=$((n+1)); done'")
        vm.devices.set_cpus(1)
        guest.wait_event("removed", "cpu1")
        guest.until("[ $(nproc) = 1 ]")
    assert vm.devices.cpus == 1


def test_medium_is_changed(make: Callable[..., Guest], tmp_path: Path) -> None:
    old, new = image(tmp_path, "old.iso"), image(tmp_path, "new.iso")
    new.write_bytes(b"the other one".ljust(SIZE, b"\0"))
    guest = make(DiskSpec(str(old), format="raw", read_only=True, id="cd0"))
    guest.until("[ -b /dev/vda ]")
    answer(guest.vm, "cat /dev/vda > /dev/null")
    guest.vm.devices.change_disk("cd0", DiskSpec(str(new), format="raw", read_only=True), STEP_TIMEOUT_S)
    guest.until("[ -b /dev/vda ]")
    assert "the other one" in answer(guest.vm, "head -c 13 /dev/vda; echo")
