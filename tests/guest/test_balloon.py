"""A real guest gives memory back: by itself, and when it is asked to."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest

from manor.base.units import MiB
from manor.vmm.vm import Vm
from tests.guest.conftest import STEP_TIMEOUT_S

pytestmark = pytest.mark.timeout(300)

TEMPORARY = 100
"""MiB that a program of the guest uses for a while."""


def guest_resident() -> float:
    """MiB of the guest's 256 that the host holds: resident memory of the largest private anonymous mapping."""
    with open("/proc/self/smaps", encoding="ascii") as file:
        text = file.read()
    sizes = re.findall(r"^Size:\s+(\d+) kB\n.*\n.*\nRss:\s+(\d+) kB", text, re.M)
    residents = [int(resident) for size, resident in sizes if int(size) == 256 * 1024]
    assert residents
    return max(residents) / 1024


REPORT_S = 120.0
"""Linux reports a sixteenth of what is free every two seconds. Source: Linux 6.1, mm/page_reporting.c."""


def until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + REPORT_S
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.2)


def test_memory_goes_back_to_the_host(vm_booted: Vm) -> None:
    balloon = vm_booted.balloon
    until(lambda: balloon.has_driver)
    until(lambda: balloon.statistics().reported > 100 * MiB)
    vm_booted.serial.send(f"dd if=/dev/zero of=/tmp/much bs=1M count={TEMPORARY}; echo wri''tten\n")
    vm_booted.serial.wait_for("written", STEP_TIMEOUT_S)
    full = guest_resident()
    assert full > TEMPORARY
    vm_booted.serial.send("rm /tmp/much; echo remo''ved\n")
    vm_booted.serial.wait_for("removed", STEP_TIMEOUT_S)
    until(lambda: guest_resident() < full - TEMPORARY / 2)

    statistics = balloon.statistics()
    assert statistics.free is not None
    assert statistics.total is not None
    assert 100 * MiB < statistics.free < statistics.total < 256 * MiB
    balloon.target = "128M"
    assert abs(balloon.wait(STEP_TIMEOUT_S) - 128 * MiB) < 4096
    assert balloon.statistics().inflated >= 128 * MiB
    vm_booted.serial.send("free -m | awk '/Mem/ { print \"ha\" \"s\", $2 - $3 }'\n")
    less = int(vm_booted.serial.wait_for(re.compile(r"has (\d+)\r"), STEP_TIMEOUT_S).rpartition("has ")[2])
    balloon.target = 256 * MiB
    balloon.wait(STEP_TIMEOUT_S)
    vm_booted.serial.send("free -m | awk '/Mem/ { print \"ha\" \"s\", $2 - $3 }'\n")
    more = int(vm_booted.serial.wait_for(re.compile(r"has (\d+)\r"), STEP_TIMEOUT_S).rpartition("has ")[2])
    assert more - less > 100
