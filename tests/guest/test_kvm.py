"""Linux under KVM: Debian's kernel reaches its shell on the processor's own virtualization.

Runs where the probe finds a KVM that is worth it, and skips elsewhere with what it measured.
"""

from __future__ import annotations

import pytest

import manor
from manor.accel.kvm.probe import probe
from manor.guests.default import DefaultGuest
from manor.guests.init_script import BANNER, PROMPT

BOOT_SECONDS = 120
"""A limit against hanging, not an expectation."""


@pytest.fixture(autouse=True)
def needs_kvm() -> None:
    verdict = probe()
    if not verdict.is_usable:
        pytest.skip(f"kvm is {verdict}")


@pytest.mark.parametrize("cpus", [1, 2])
def test_shell_works_under_kvm(guest: DefaultGuest, cpus: int) -> None:
    with manor.start(
        guest.kernel, initrd=guest.initrd, append=guest.cmdline, cpus=cpus, accel="kvm", reboot=False
    ) as vm:
        vm.serial.wait_for(BANNER, BOOT_SECONDS)
        vm.serial.wait_for(PROMPT, BOOT_SECONDS)
        vm.serial.send("echo $(nproc) processors; poweroff -f\n")
        vm.serial.wait_for(f"{cpus} processors", BOOT_SECONDS)
        assert str(vm.wait(BOOT_SECONDS)) == "power-off"
        statistics = vm.statistics()
    assert statistics.accel["entries"] > 0
    assert statistics.accel["guest_ns"] > 0
