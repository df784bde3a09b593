"""A guest reaches its shell, is used, and ends, in each of the ways there are."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from manor.cli.status import EXIT_SIGNAL, STATUS
from manor.guests.default import DefaultGuest
from manor.guests.init_script import BANNER, PROMPT
from manor.testing.guest_process import GuestProcess, Runner
from manor.testing.programs import extend_initrd
from manor.vmm.lifecycle import Reason, State
from manor.vmm.vm import Vm
from tests.guest.conftest import BOOT_TIMEOUT_S, STEP_TIMEOUT_S, StartGuest

pytestmark = pytest.mark.timeout(240)


# --- by the Python API ------------------------------------------------------------------------------------------------


def test_a_built_machine_does_not_run(vm_built: Vm) -> None:
    assert vm_built.state is State.CREATED
    assert vm_built.serial.text == ""


def test_shell_answers_and_powers_off(vm_booted: Vm) -> None:
    assert BANNER in vm_booted.serial.text
    vm_booted.serial.send("echo sum $((6 * 7))\n")
    vm_booted.serial.wait_for("sum 42", STEP_TIMEOUT_S)
    vm_booted.serial.send("exit\n")
    assert vm_booted.wait(STEP_TIMEOUT_S).reason is Reason.POWER_OFF
    assert vm_booted.statistics().wall_ns > 0


def test_window_size_reaches_the_guest(vm_booted: Vm) -> None:
    vm_booted.resize(123, 45)
    vm_booted.serial.send("stty -F /dev/hvc0 size\n")
    vm_booted.serial.wait_for("45 123", STEP_TIMEOUT_S)


def test_virtio_console_and_rng_work(vm_booted: Vm) -> None:
    vm_booted.serial.send("echo through the other console > /dev/hvc0\n")
    vm_booted.console.wait_for("through the other console", STEP_TIMEOUT_S)
    vm_booted.serial.send("dd if=/dev/hwrng bs=16 count=4 2>/dev/null | wc -c\n")
    vm_booted.serial.wait_for("64", STEP_TIMEOUT_S)


def test_plug_can_be_pulled(vm_booted: Vm) -> None:
    vm_booted.power_off()
    assert vm_booted.wait(STEP_TIMEOUT_S).reason is Reason.STOPPED


def test_idle_guest_sleeps(vm_booted: Vm) -> None:
    """Not a measurement: only that a waiting shell does not keep a processor busy."""
    time.sleep(1.0)
    before = time.process_time()
    time.sleep(2.0)
    assert time.process_time() - before < 1.0


# --- by the command line, through pipes ------------------------------------------------------------------------------


def expect_answer(process: GuestProcess, line: str, answer: str) -> None:
    """Type `line`; the answer must come after the echo, and the prompt after it."""
    process.send(line + "\n")
    process.wait_for(rf"\n{answer}\r?\n", STEP_TIMEOUT_S)
    process.wait_for(PROMPT, STEP_TIMEOUT_S)


def test_commands_in_a_pipe(booted: GuestProcess, runner: Runner) -> None:
    expect_answer(booted, "uname -sm", "Linux x86_64")
    expect_answer(booted, "nproc", "1")
    expect_answer(booted, "seq 1000 | awk '{ s += $1 } END { print s }'", "500500")
    expect_answer(booted, "for i in 1 2 3; do echo -n $i-; done; echo", "1-2-3-")
    expect_answer(booted, "seq 5000 | md5sum | cut -c1-8", "[0-9a-f]{8}")
    expect_answer(booted, "mkdir -p /tmp/a/b && cd /tmp/a/b && pwd && cd /root", "/tmp/a/b")
    expect_answer(booted, "sleep 1 & wait; echo waited", "(?:.*\n)*waited")
    expect_answer(booted, "cat /proc/sys/kernel/tainted", "0")
    booted.send("exit\n")
    if runner != "qemu-microvm":
        assert booted.wait(STEP_TIMEOUT_S) == 0


def test_long_input_and_output_lose_nothing(booted: GuestProcess) -> None:
    booted.send("stty -echo; cat > /tmp/typed; wc -c < /tmp/typed; md5sum < /tmp/typed; stty echo\n")
    # Lines below the terminal's limit of 4095 bytes; typed all at once, faster than any guest reads them.
    time.sleep(0.5)
    text = "".join(f"{number:05} " + "x" * 60 + "\n" for number in range(150))
    booted.send(text + "\x04")
    booted.wait_for(rf"\n{len(text)}\r?\n", STEP_TIMEOUT_S)
    booted.wait_for(PROMPT, STEP_TIMEOUT_S)
    booted.send("seq 20000\n")
    shown = booted.wait_for(r"\n20000\r?\n", BOOT_TIMEOUT_S)
    numbers = [line for line in shown.splitlines() if line.isdigit()]
    assert numbers == [str(number) for number in range(1, 20001)]


def test_ctrl_c_interrupts_the_program_not_the_guest(booted: GuestProcess) -> None:
    booted.send("sleep 1000\n")
    time.sleep(0.5)
    booted.send("\x03")
    booted.wait_for(PROMPT, STEP_TIMEOUT_S)
    expect_answer(booted, "echo alive", "alive")


def test_reboot_ends_it_when_asked_to(booted: GuestProcess, manor_only: None) -> None:
    booted.send("reboot -f\n")
    assert booted.wait(STEP_TIMEOUT_S) == STATUS[Reason.REBOOT]
    assert "reboot" in booted.errors


def test_reboot_boots_again(guest: DefaultGuest, manor_only: None) -> None:
    import manor

    with manor.start(guest.kernel, initrd=guest.initrd, append=guest.cmdline, accel="dbt") as vm:
        vm.serial.wait_for(PROMPT, BOOT_TIMEOUT_S)
        vm.serial.send("reboot -f\n")
        vm.serial.wait_for(BANNER, BOOT_TIMEOUT_S)
        vm.serial.wait_for(PROMPT, BOOT_TIMEOUT_S)
        vm.serial.send("poweroff -f\n")
        assert vm.wait(STEP_TIMEOUT_S).reason is Reason.POWER_OFF


def test_panic_is_told_from_other_ends(start_guest: StartGuest, manor_only: None) -> None:
    process = start_guest(append="rdinit=/nonexistent init=/nonexistent panic=-1")
    process.wait_for("Kernel panic - not syncing", BOOT_TIMEOUT_S)
    assert process.wait(STEP_TIMEOUT_S) == STATUS[Reason.PANIC]


def test_panic_by_request(booted: GuestProcess, manor_only: None) -> None:
    booted.send("echo 1 > /proc/sys/kernel/panic; echo c > /proc/sysrq-trigger\n")
    assert booted.wait(STEP_TIMEOUT_S) == STATUS[Reason.PANIC]


def test_triple_fault_is_told(start_guest: StartGuest, manor_only: None) -> None:
    """Linux resets by a triple fault when it is told to."""
    process = start_guest(append="reboot=t")
    process.wait_for(PROMPT, BOOT_TIMEOUT_S)
    process.send("reboot -f\n")
    assert process.wait(STEP_TIMEOUT_S) == STATUS[Reason.TRIPLE_FAULT]


def test_program_of_the_guest_that_fails_leaves_the_guest_alone(booted: GuestProcess) -> None:
    booted.send("sh -c 'kill -SEGV $$'; echo status $?\n")
    booted.wait_for(r"\nstatus 139\r?\n", STEP_TIMEOUT_S)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_ends_it(start_guest: StartGuest, manor_only: None, number: signal.Signals) -> None:
    process = start_guest()
    process.wait_for("Linux version", BOOT_TIMEOUT_S)
    process.signal(number)
    assert process.wait(STEP_TIMEOUT_S) == EXIT_SIGNAL + number


def test_end_of_input_does_not_end_the_guest(start_guest: StartGuest, manor_only: None) -> None:
    process = start_guest()
    process.send("sleep 1; echo after the end of the input; exit\n")
    process.close_input()
    process.wait_for(r"\nafter the end of the input", BOOT_TIMEOUT_S)
    assert process.wait(STEP_TIMEOUT_S) == 0


def test_statistics_are_printed_at_the_end(start_guest: StartGuest, manor_only: None) -> None:
    process = start_guest(extra=("--json",))
    process.wait_for(PROMPT, BOOT_TIMEOUT_S)
    process.send("exit\n")
    assert process.wait(STEP_TIMEOUT_S) == 0
    assert '"wall_ns"' in process.errors


def test_init_of_ones_own(
    start_guest: StartGuest, guest: DefaultGuest, tmp_path: Path, manor_only: None
) -> None:
    """The initramfs may be anything: here one whose /init prints and powers off."""
    script = b"#!/bin/busybox sh\necho my own init\n/bin/busybox poweroff -f\n"
    initrd = extend_initrd(guest.initrd, {"/init": (0o755, script)}, tmp_path / "initrd")
    process = start_guest(initrd=initrd)
    process.wait_for("my own init", BOOT_TIMEOUT_S)
    assert process.wait(STEP_TIMEOUT_S) == 0


def test_second_start_needs_no_package_client(
    guest: DefaultGuest, manor_only: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in the cache is enough: with no program to be found at all, the default guest still boots."""
    import manor

    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    with manor.start(accel="dbt") as vm:
        vm.serial.wait_for(PROMPT, BOOT_TIMEOUT_S)
