"""The default guest: a real Linux kernel reaches its shell, works, and powers off."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

import pytest

import manor
from manor.base.errors import ConfigError, HostError
from manor.boot import bzimage, payload
from manor.boot.kallsyms import find_kallsyms
from manor.guests.default import default_guest
from manor.guests.init_script import BANNER, PROMPT
from manor.guests.progress import Silent

pytestmark = [pytest.mark.guest, pytest.mark.timeout(600)]

CLOSED = "user,reach=none"
"""An interface of a guest that may reach nothing."""

BOOT_SECONDS = 300
"""A limit against hanging, not an expectation: machines that run tests may be slow and busy."""


@pytest.fixture(scope="module", autouse=True)
def guest_files() -> None:
    """Fetch the default guest once, outside the time limits of the tests."""
    try:
        default_guest(Silent())
    except (ConfigError, HostError) as error:
        pytest.skip(f"the default guest cannot be had here: {error}")


@pytest.fixture(scope="module", params=[1, 2], ids=["1cpu", "2cpus"])
def vm_booted(request: pytest.FixtureRequest) -> Iterator[manor.Vm]:
    """A VM whose shell waits for commands."""
    with manor.start(cpus=request.param, memory="256M", accel="dbt", reboot=False, nets=[CLOSED]) as vm:
        vm.serial.wait_for(BANNER, BOOT_SECONDS)
        vm.serial.wait_for(PROMPT, BOOT_SECONDS)
        yield vm


def ask(vm: manor.Vm, command: str) -> str:
    """The output of a shell command in the guest."""
    # Between two marks that the echo of the command does not contain; the shell may draw its line more than once.
    vm.serial.send(f"echo sta''rt; {command}; echo en''d\n")
    output = vm.serial.wait_for(re.compile(r"\nend\r?\n"), BOOT_SECONDS)
    return output.rsplit("\nstart", 1)[1].rsplit("end", 1)[0].replace("\r", "").strip()


def test_all_processors_are_up(vm_booted: manor.Vm) -> None:
    assert ask(vm_booted, "nproc") == str(vm_booted.spec.cpus)


def test_kernel_knows_the_machine(vm_booted: manor.Vm) -> None:
    assert ask(vm_booted, "ls /sys/bus/pci/devices").split() == [f"0000:00:0{slot}.0" for slot in range(5)]
    assert ask(vm_booted, "cat /sys/devices/system/clocksource/clocksource0/current_clocksource") == "tsc"


def test_symbols_read_from_the_kernels_file_are_its_own(vm_booted: manor.Vm) -> None:
    """Linux prints the same list: names, addresses and order."""
    kernel = vm_booted.spec.kernel
    assert kernel is not None
    unpacked = payload.decompress(bzimage.parse(kernel.read_bytes()).payload)
    found = find_kallsyms(unpacked)
    lines = "".join(f"{address:016x} {name}\n" for address, name in zip(found.addresses, found.names, strict=True))
    # Without the kind in the middle; a fourth word names a module.
    theirs = ask(vm_booted, "awk 'NF == 3 {print $1, $3}' /proc/kallsyms | md5sum").split()[0]
    assert theirs == hashlib.md5(lines.encode()).hexdigest()


def test_processes_files_and_signals(vm_booted: manor.Vm) -> None:
    assert ask(vm_booted, "seq 1 100 | sort -rn | head -1") == "100"
    assert ask(vm_booted, "echo abc > /tmp/x && md5sum < /tmp/x").split()[0] == "0bee89b07a248e27c83fc3d5951213c1"
    # The pause: a shell's child ignores SIGTERM, as the interactive shell does, until it has become the program.
    assert ask(vm_booted, "sleep 100 & sleep 1; kill $!; wait $!; echo $?").splitlines()[-1] == "143"


def test_power_off_from_the_shell() -> None:
    with manor.start(memory="256M", accel="dbt", reboot=False, nets=[CLOSED]) as vm:
        vm.serial.wait_for(PROMPT, BOOT_SECONDS)
        vm.serial.send("exit\n")
        assert vm.wait(BOOT_SECONDS).reason is manor.Reason.POWER_OFF


def test_panic_is_told() -> None:
    words = "panic=-1 rdinit=/nonexistent init=/nonexistent"
    with manor.start(memory="256M", accel="dbt", append=words, nets=()) as vm:
        assert vm.wait(BOOT_SECONDS).reason is manor.Reason.PANIC
