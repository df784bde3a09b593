"""A real guest is paused and goes on: for it no time passed, its clock chip has the host's."""

from __future__ import annotations

import re
import time

import pytest

from manor.vmm.vm import Vm
from tests.guest.conftest import STEP_TIMEOUT_S

pytestmark = pytest.mark.timeout(240)

PAUSE_S = 3.0


def ask(vm: Vm, command: str) -> str:
    vm.serial.send(f"echo sta''rt; {command}; echo en''d\n")
    output = vm.serial.wait_for(re.compile(r"\nend\r?\n"), STEP_TIMEOUT_S)
    return output.rsplit("\nstart", 1)[1].rsplit("end", 1)[0].replace("\r", "").strip()


@pytest.mark.parametrize("cpus", [1, 2])
def test_guest_goes_on_where_it_stood(vm_booted: Vm) -> None:
    # One that counts, and one that sleeps, across the pause.
    vm_booted.serial.send("(while :; do date +%s >/dev/null; done) & sleep 2; echo sle''pt\n")
    time.sleep(0.5)
    before = time.monotonic()
    vm_booted.pause()
    busy = time.process_time()
    time.sleep(PAUSE_S)
    assert time.process_time() - busy < PAUSE_S / 3
    assert "slept" not in vm_booted.serial.text
    vm_booted.resume()
    vm_booted.serial.wait_for("slept", STEP_TIMEOUT_S)
    # It slept for 2 s of its own.
    assert time.monotonic() - before > PAUSE_S + 1
    vm_booted.serial.send("kill $!\n")
    uptime = float(ask(vm_booted, "cut -d' ' -f1 /proc/uptime"))
    total = vm_booted.statistics().wall_ns / 1e9
    assert uptime < total - PAUSE_S * 0.9
    assert "lockup" not in vm_booted.serial.text
    assert "stall" not in vm_booted.serial.text
    late = time.time() - float(ask(vm_booted, "date +%s"))
    assert PAUSE_S - 1.5 < late < PAUSE_S + 5
    # Its clock chip knows.
    assert abs(time.time() - float(ask(vm_booted, "hwclock -u -s; date +%s"))) < 3
