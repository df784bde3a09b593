"""A real guest is saved, its process ends, and another one goes on with it: what it counted, what it was writing, its
clock, its connections."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from manor.accel.choose import choose
from manor.guests.default import DefaultGuest
from manor.spec.block import DiskSpec
from manor.spec.machine import MachineSpec
from manor.spec.net import NicSpec
from manor.vmm.lifecycle import Reason
from manor.vmm.saved import SavedVm
from manor.vmm.vm import Vm
from tests.guest.conftest import BOOT_TIMEOUT_S, STEP_TIMEOUT_S

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("manor_only")]

AWAY_S = 3.0
DISK = 64 << 20


def ask(vm: Vm, command: str, timeout: float = STEP_TIMEOUT_S) -> str:
    vm.serial.send(f"echo sta''rt; {command}; echo en''d\n")
    output = vm.serial.wait_for(re.compile(r"\nend\r?\n"), timeout)
    return output.rsplit("\nstart", 1)[1].rsplit("end", 1)[0].replace("\r", "").strip()


def until(vm: Vm, command: str, expected: str) -> None:
    """Ask until the answer has `expected`; with a busy guest that takes its time."""
    limit = time.monotonic() + 60
    while expected not in (answer := ask(vm, command)):
        assert time.monotonic() < limit, answer
        time.sleep(0.2)


class Server:
    """A host's TCP server on the loopback, which the guest reaches at its gateway; it keeps what comes open."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.accepted: list[socket.socket] = []
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.accepted.append(connection)
            connection.sendall(b"hello\n")

    def close(self) -> None:
        self.listener.close()
        for connection in self.accepted:
            connection.close()


@pytest.fixture
def server() -> Iterator[Server]:
    one = Server()
    yield one
    one.close()


@pytest.fixture
def spec(guest: DefaultGuest, cpus: int, tmp_path: Path, bus: str) -> MachineSpec:
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.truncate(DISK)
    return MachineSpec(
        guest.kernel, guest.initrd, guest.cmdline, 256 << 20, cpus, name="saved",
        disks=(DiskSpec(str(path), "raw", bus=bus),), nics=(NicSpec(reach="host"),),  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.fixture
def bus() -> str:
    return "virtio"


def save_and_restore(vm: Vm, spec: MachineSpec, path: Path) -> Vm:
    vm.save(path)
    assert vm.wait(30).reason is Reason.SAVED
    time.sleep(AWAY_S)
    again = Vm(spec, choose("dbt").accel, reboot=False, saved=SavedVm(path))
    again.start()
    return again


@pytest.mark.parametrize(
    ("cpus", "bus"),
    [(1, "virtio"), pytest.param(2, "nvme", marks=pytest.mark.slow), pytest.param(2, "virtio", marks=pytest.mark.slow)],
)
def test_a_guest_goes_on_in_another_process(spec: MachineSpec, server: Server, tmp_path: Path) -> None:
    path = tmp_path / "state"
    device = "/dev/vda" if spec.disks[0].bus == "virtio" else "/dev/nvme0n1"
    vm = Vm(spec, choose("dbt").accel, reboot=False)
    vm.start()
    try:
        vm.serial.wait_for("manor:~# ", BOOT_TIMEOUT_S)
        ask(vm, "dmesg -n 1")
        # One that counts; one that writes numbered blocks to the disk; one that waits for what a connection brings.
        ask(vm, "(i=0; while :; do i=$((i+1)); [ $((i%1000)) = 0 ] && echo $i >> /tmp/count; done) & true")
        write = "printf '%08d' $n | dd of=" + device + " bs=4096 seek=$n conv=notrunc,sync,fsync 2>/dev/null"
        ask(vm, f"(n=0; while [ $n -lt 3000 ]; do {write}; n=$((n+1)); echo $n >> /tmp/blocks; done) & true")
        until(vm, "ip -4 addr show dev eth0", "10.0.2.15")
        # Its input is a pipe in which nothing comes: one from the terminal would stop it as soon as somebody types.
        connect = f"nc 10.0.2.2 {server.port} 0<> /tmp/pipe > /tmp/said"
        ask(vm, f"mkfifo /tmp/pipe; ({connect}; echo over > /tmp/over) & true")
        until(vm, "cat /tmp/said", "hello")
        assert ask(vm, "cat /tmp/over 2>/dev/null") == ""
        uptime = float(ask(vm, "cut -d' ' -f1 /proc/uptime"))
        count, blocks = int(ask(vm, "tail -n1 /tmp/count")), int(ask(vm, "tail -n1 /tmp/blocks"))
        boot_id = ask(vm, "cat /proc/sys/kernel/random/boot_id")

        vm = save_and_restore(vm, spec, path)

        assert ask(vm, "cat /proc/sys/kernel/random/boot_id") == boot_id
        # For the guest no time has passed; its clock chip knows better.
        now = float(ask(vm, "cut -d' ' -f1 /proc/uptime"))
        assert uptime < now < uptime + AWAY_S + 20
        assert abs(time.time() - float(ask(vm, "hwclock -u -s; date +%s"))) < 3
        # The connection's other end is gone, and the guest was told.
        until(vm, "cat /tmp/over 2>/dev/null", "over")
        # A new one works, with the lease and the neighbours that were there.
        assert "hello" in ask(vm, f"timeout 3 nc 10.0.2.2 {server.port} < /dev/zero | head -c 6; true")
        assert int(ask(vm, "sleep 1; tail -n1 /tmp/count")) > count
        assert int(ask(vm, "sleep 1; tail -n1 /tmp/blocks")) > blocks
        done = int(ask(vm, "kill %1 %2 2>/dev/null; sleep 1; tail -n1 /tmp/blocks"))
        # Every block is there, those before the save and those after it; read past the guest's cache.
        assert ask(vm, "echo 3 > /proc/sys/vm/drop_caches; echo ok") == "ok"
        check = f"n=0; while [ $n -lt {done} ]; do dd if={device} bs=4096 skip=$n count=1 2>/dev/null | head -c 8"
        found = ask(vm, f"{check}; n=$((n+{max(1, done // 20)})); done; echo", 120)
        step = max(1, done // 20)
        assert found == "".join(f"{number:08d}" for number in range(0, done, step))
        log = ask(vm, "dmesg")
        assert not [word for word in ("lockup", "stall", "BUG:", "I/O error", "Call Trace") if word in log]
        vm.serial.send("poweroff -f\n")
        assert vm.wait(30).reason is Reason.POWER_OFF
    finally:
        vm.power_off()
        vm.wait(30)
    data = Path(spec.disks[0].source).read_bytes()
    for number in range(done):
        assert data[4096 * number : 4096 * number + 8] == f"{number:08d}".encode()


def test_saved_many_times_while_it_works(spec: MachineSpec, tmp_path: Path) -> None:
    """Each time at another place: in the kernel, in a disk's request, asleep."""
    vm = Vm(spec, choose("dbt").accel, reboot=False)
    vm.start()
    try:
        vm.serial.wait_for("manor:~# ", BOOT_TIMEOUT_S)
        ask(vm, "dmesg -n 1")
        ask(vm, "(while :; do dd if=/dev/zero of=/dev/vda bs=64k count=64 conv=fsync 2>/dev/null; done) & true")
        for turn in range(6):
            time.sleep(0.1 + 0.07 * turn)
            path = tmp_path / f"state{turn}"
            vm.save(path)
            assert vm.wait(30).reason is Reason.SAVED
            vm = Vm(spec, choose("dbt").accel, reboot=False, saved=SavedVm(path))
            vm.start()
            path.unlink()
            assert ask(vm, "echo $((6 * 7))") == "42"
        assert "I/O error" not in ask(vm, "dmesg")
    finally:
        vm.power_off()
        vm.wait(30)


def test_a_reboot_after_a_restore_is_a_fresh_boot(spec: MachineSpec, tmp_path: Path) -> None:
    vm = Vm(replace(spec), choose("dbt").accel)
    vm.start()
    try:
        vm.serial.wait_for("manor:~# ", BOOT_TIMEOUT_S)
        path = tmp_path / "state"
        vm.save(path)
        assert vm.wait(30).reason is Reason.SAVED
        vm = Vm(spec, choose("dbt").accel, saved=SavedVm(path))
        vm.start()
        before = ask(vm, "cat /proc/sys/kernel/random/boot_id")
        vm.serial.send("reboot -f\n")
        vm.serial.wait_for("Linux is up", BOOT_TIMEOUT_S)
        vm.serial.wait_for("manor:~# ", STEP_TIMEOUT_S)
        assert ask(vm, "cat /proc/sys/kernel/random/boot_id") != before
    finally:
        vm.power_off()
        vm.wait(30)
