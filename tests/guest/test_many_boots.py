"""Boots in a row without a hang, on an idle machine and on a busy one; a few of them in the ordinary test run."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from typing import Final

import pytest

from manor.guests.default import KernelVariant
from manor.guests.init_script import PROMPT
from manor.testing.guest_process import Runner
from tests.guest.conftest import BOOT_TIMEOUT_S, STEP_TIMEOUT_S, StartGuest

BOOTS: Final = 20
BUSY_PROCESSES: Final = 4
_BUSY: Final = """
import random, sys, time
generator = random.Random(int(sys.argv[1]))
while True:
    # Bursts and pauses: a steady load is easier to live with than one that changes.
    limit = time.monotonic() + generator.uniform(0.01, 0.5)
    data = bytearray(1 << 20)
    while time.monotonic() < limit:
        data[:] = bytes(reversed(data))
    time.sleep(generator.uniform(0, 0.05))
"""


def boot_and_power_off(start_guest: StartGuest, cpus: int, runner: Runner) -> None:
    with start_guest() as process:
        process.wait_for(PROMPT, BOOT_TIMEOUT_S)
        process.send("echo cpus $(nproc)\n")
        process.wait_for(rf"\ncpus {cpus}\r?\n", STEP_TIMEOUT_S)
        process.send("exit\n")
        if runner != "qemu-microvm":
            assert process.wait(STEP_TIMEOUT_S) == 0


@pytest.fixture
def busy_machine(rng: random.Random) -> Iterator[None]:
    """Other processes that want more processors than there are."""
    processes = [
        subprocess.Popen([sys.executable, "-c", _BUSY, str(rng.randrange(1 << 32))]) for _ in range(BUSY_PROCESSES)
    ]
    yield
    for process in processes:
        process.kill()
    for process in processes:
        process.wait()


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("kernel", "cpus"), [("cloud", 2), ("cloud", 4), ("generic", 1), ("generic", 2)])
def test_boot(start_guest: StartGuest, kernel: KernelVariant, cpus: int, runner: Runner) -> None:
    boot_and_power_off(start_guest, cpus, runner)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("cpus", [2])
def test_boot_on_a_busy_machine(busy_machine: None, start_guest: StartGuest, cpus: int, runner: Runner) -> None:
    boot_and_power_off(start_guest, cpus, runner)


@pytest.mark.slow
@pytest.mark.timeout(BOOTS * (BOOT_TIMEOUT_S + STEP_TIMEOUT_S))
@pytest.mark.parametrize("kernel", ["cloud", "generic"])
@pytest.mark.parametrize("cpus", [1, 2, 4])
def test_boots_in_a_row(start_guest: StartGuest, kernel: KernelVariant, cpus: int, runner: Runner) -> None:
    for number in range(BOOTS):
        print(f"boot {number}")
        boot_and_power_off(start_guest, cpus, runner)


@pytest.mark.slow
@pytest.mark.timeout(BOOTS * (BOOT_TIMEOUT_S + STEP_TIMEOUT_S))
@pytest.mark.parametrize("kernel", ["cloud", "generic"])
@pytest.mark.parametrize("cpus", [1, 2, 4])
def test_boots_in_a_row_on_a_busy_machine(
    busy_machine: None, start_guest: StartGuest, kernel: KernelVariant, cpus: int, runner: Runner
) -> None:
    for number in range(BOOTS):
        print(f"boot {number}")
        boot_and_power_off(start_guest, cpus, runner)
