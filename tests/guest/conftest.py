"""Guests at the stages of their life (built, booted), in every combination of kernel and number of CPUs.

MANOR_GUEST_RUNNER=qemu-q35 (or qemu-microvm) in the environment runs what can be run under QEMU instead:
so one sees whether a test itself is right.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from manor.base.errors import ConfigError, HostError
from manor.guests.default import DefaultGuest, KernelVariant, default_guest
from manor.guests.init_script import PROMPT
from manor.guests.progress import Silent
from manor.spec.machine import MachineSpec
from manor.testing.guest_process import QEMU, Boot, GuestProcess, Runner, command
from manor.vmm.vm import Vm

BOOT_TIMEOUT_S: Final = 90.0
"""Many times what a boot takes, for a machine that is busy."""
STEP_TIMEOUT_S: Final = 30.0
"""For one answer of a booted guest."""

StartGuest = Callable[..., GuestProcess]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.guest)


@pytest.fixture(scope="session")
def runner() -> Runner:
    """What runs the guests."""
    name = os.environ.get("MANOR_GUEST_RUNNER", "manor")
    if name == "manor":
        return "manor"
    if shutil.which(QEMU) is None:
        pytest.skip("there is no QEMU on this machine")
    return "qemu-microvm" if name == "qemu-microvm" else "qemu-q35"


@pytest.fixture
def manor_only(runner: Runner) -> None:
    """For tests of what only Manor has."""
    if runner != "manor":
        pytest.skip("a test of Manor's own interface")


@pytest.fixture(scope="session")
def guests() -> Callable[[KernelVariant], DefaultGuest]:
    """The default guest with either kernel; the tests are skipped where it cannot be had."""
    found: dict[KernelVariant, DefaultGuest] = {}

    def get(kernel: KernelVariant) -> DefaultGuest:
        if kernel not in found:
            try:
                found[kernel] = default_guest(Silent(), kernel)
            except (ConfigError, HostError) as error:
                pytest.skip(f"the guest cannot be had: {error}")
        return found[kernel]

    return get


# --- dimensions: a test pins what it must with @pytest.mark.parametrize ---------------------------------------------


@pytest.fixture
def cpus() -> int:
    return 1


@pytest.fixture
def kernel() -> KernelVariant:
    return "cloud"


@pytest.fixture
def guest(guests: Callable[[KernelVariant], DefaultGuest], kernel: KernelVariant) -> DefaultGuest:
    return guests(kernel)


# --- stages, by the Python API --------------------------------------------------------------------------------------


@pytest.fixture
def vm_built(manor_only: None, guest: DefaultGuest, cpus: int) -> Iterator[Vm]:
    """A VM whose machine is built and does not run yet. A guest that reboots ends it."""
    from manor.accel.choose import choose

    spec = MachineSpec(guest.kernel, guest.initrd, guest.cmdline, 256 << 20, cpus, "serial")
    with Vm(spec, choose("dbt").accel, reboot=False) as vm:
        vm.prepare()
        yield vm


@pytest.fixture
def vm_booted(vm_built: Vm) -> Vm:
    """A VM whose shell waits for a command."""
    vm_built.start()
    vm_built.serial.wait_for(PROMPT, BOOT_TIMEOUT_S)
    return vm_built


# --- as a process -----------------------------------------------------------------------------------------------------


@pytest.fixture
def start_guest(guest: DefaultGuest, cpus: int, runner: Runner) -> Iterator[StartGuest]:
    """start_guest(append=..., initrd=..., extra=(...), ...): a guest as a child process, ended with the test."""
    running: list[GuestProcess] = []

    def start(
        append: str = "", initrd: Path | None = None, memory: int = 256, extra: tuple[str, ...] = ()
    ) -> GuestProcess:
        words = " ".join(filter(None, [guest.cmdline, append]))
        boot = Boot(guest.kernel, initrd or guest.initrd, words, memory, cpus, extra)
        running.append(GuestProcess(command(runner, boot)))
        return running[-1]

    yield start
    for process in running:
        process.close()


@pytest.fixture
def booted(start_guest: StartGuest) -> GuestProcess:
    """A guest process whose shell waits for a command."""
    process = start_guest()
    process.wait_for(PROMPT, BOOT_TIMEOUT_S)
    return process


@pytest.fixture
def rng() -> random.Random:
    """Random numbers whose seed is shown when a test fails."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    return random.Random(seed)
