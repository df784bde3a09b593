"""`manor run`: bad options, the exit status, the terminal, signals. The guest is a Python program."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from manor.cli.main import main
from manor.cli.run import run
from manor.cli.status import STATUS
from manor.cli.trace import KINDS
from manor.testing.fake_accel import NO_KVM, FakeAccel
from manor.testing.kernel import kernel_file
from manor.vmm.lifecycle import Reason

ROOT = Path(__file__).resolve().parents[3]

DRIVER = """
import sys
sys.path.insert(0, {source!r})
from manor.testing import guest_programs
from manor.accel import choose
from manor.testing.fake_accel import NO_KVM, FakeAccel
choose.probe = lambda: NO_KVM
program = getattr(guest_programs, sys.argv.pop(1))
choose._load_dbt = lambda: FakeAccel(program)
from manor.cli.main import main
main()
"""


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    return kernel_file(tmp_path)


@pytest.fixture
def manor(kernel: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start `manor run` in a process of its own with a program of manor.testing.guest_programs as the guest."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(
        program: str,
        *options: str,
        stdin: int = subprocess.PIPE,
        stdout: int = subprocess.PIPE,
        stderr: int = subprocess.PIPE,
        terminal: int | None = None,
    ) -> subprocess.Popen[bytes]:
        code = DRIVER.format(source=str(ROOT / "src"))
        process = subprocess.Popen(
            [sys.executable, "-c", code, program, "run", "--kernel", str(kernel), "--memory", "64M", *options],
            stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=True,
            preexec_fn=None if terminal is None else lambda: fcntl.ioctl(terminal, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


# --- bad input --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cpus", "0"], "--cpus: 0 is not a number of vCPUs that works here; give 1 to 64."),
        (["--cpus", "-1"], "--cpus: -1 is not"),
        (["--cpus", "100000"], "--cpus: 100000 is not"),
        (["--cpus", "two"], "--cpus: 'two' is not a number of vCPUs; write N or N,max=M, like 2,max=4."),
        (["--memory", "0"], "--memory: 0 B is too little; give at least 2 MiB, for example 256M."),
        (["--memory", "1K"], "--memory: 1 KiB is too little"),
        (["--memory", "abc"], "--memory: 'abc' is not a size"),
        (["--memory", "100T"], "--memory: 100 TiB is too much; give at most 255 GiB."),
        (["--memory", "2097153"], "--memory: 2097153 bytes is not a multiple of 4 KiB."),
        (["--memory", "4M"], "--memory: 4 MiB are too small for this kernel; at least 17 MiB are needed."),
        (["--cpu", "z80"], "'z80' is not one of 'max', 'host',"),
        (["--accel", "tcg"], "--accel: 'tcg' is unknown; give one of auto, dbt, kvm."),
        (["--trace", "exits,nothing"], "--trace: 'nothing' is unknown; give one or more of syscalls,"),
        (["--trace-file", "x"], "--trace-file: it needs --trace to say what to write into it."),
        (["--trace", "exits", "--trace-file", "/nonexistent/x"], "--trace-file: cannot write /nonexistent/x: No such"),
        (["--kernel", "/nonexistent"], "--kernel: /nonexistent does not exist."),
        (["--kernel", "/proc/self/mem"], "--kernel: /proc/self/mem cannot be read: Input/output error."),
        (["--kernel", "/etc"], "--kernel: /etc is a directory"),
        (["--kernel", "/etc/hostname"], "--kernel: /etc/hostname is not a kernel"),
        (["--initrd", "/nonexistent"], "--initrd: /nonexistent does not exist."),
        (["--append", "x" * 5000], "--append: the kernel command line has 5000 bytes"),
        (["--console", "vga"], "'vga' is not one of 'serial', 'virtio'"),
        (["--disk", "f,bus=scsi"], "--disk: bus=scsi: write virtio or nvme."),
        (["--disk", "f,queues=99"], "--disk: 99 queues do not work; give 1 to 16, or none for one a vCPU."),
        (["--disk", "/etc/hostname,format=x"], "--disk: /etc/hostname: there is no format 'x'"),
        (["--colour"], "No such option"),
    ],
)
def test_bad_option_gets_one_sentence_and_status_2(
    kernel: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    accel = FakeAccel()
    if options[0] != "--accel":
        monkeypatch.setattr("manor.accel.choose._load_dbt", lambda: accel)
        monkeypatch.setattr("manor.accel.choose.probe", lambda: NO_KVM)
    monkeypatch.setattr(sys, "argv", ["manor", "run", "--kernel", str(kernel), *options])
    with pytest.raises(SystemExit) as ended:
        main()
    output = capfd.readouterr()
    assert ended.value.code == 2
    assert message in output.err
    assert output.out == ""
    assert len(output.err.splitlines()) == 1 or output.err.startswith("Usage:")
    assert accel.vms == []


def test_a_wrong_kernel_is_told_before_the_engine_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("manor.accel.choose._load_dbt", lambda: pytest.fail("the engine was loaded"))
    monkeypatch.setattr(sys, "argv", ["manor", "run", "--kernel", "/etc/passwd"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "/etc/passwd is not a kernel" in capfd.readouterr().err


def test_initrd_without_a_kernel(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["manor", "run", "--initrd", "x"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "--initrd: it needs --kernel" in capfd.readouterr().err


# --- how it ends ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "options", "reason"),
    [
        ("power_off", [], Reason.POWER_OFF),
        ("reboot", ["--no-reboot"], Reason.REBOOT),
        ("panic", [], Reason.PANIC),
        ("triple_fault", [], Reason.TRIPLE_FAULT),
        ("broken_accelerator", [], Reason.ERROR),
    ],
)
def test_exit_status_says_how_the_guest_ended(
    manor: Callable[..., subprocess.Popen[bytes]], program: str, options: list[str], reason: Reason
) -> None:
    process = manor(program, *options)
    output, errors = process.communicate(timeout=20)
    assert process.returncode == STATUS[reason], errors
    assert output.startswith(b"hello\n")
    first, *others = errors.decode().splitlines()
    assert first.startswith("manor: accelerator fake: binary translation, as kvm is no device: this test has")
    if reason is Reason.POWER_OFF:
        assert others == []
    else:
        assert others[-1].startswith(f"manor: the VM ended: {reason.value}")


def test_every_reason_has_a_status_and_the_help_lists_them() -> None:
    assert set(STATUS) == set(Reason)
    help_ = run.epilog or ""
    for reason, status in STATUS.items():
        if reason is not Reason.STOPPED:
            assert re.search(rf"(^|\s){status} ", help_), reason


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_ends_the_vm_with_128_plus_its_number(
    manor: Callable[..., subprocess.Popen[bytes]], number: signal.Signals
) -> None:
    process = manor("echo")
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(number)
    assert process.wait(20) == 128 + number


def test_reader_of_the_output_that_goes_away_ends_the_vm(manor: Callable[..., subprocess.Popen[bytes]]) -> None:
    process = manor("chatter")
    assert process.stdout is not None
    assert process.stdout.read(10)
    process.stdout.close()
    assert process.wait(20) == 128 + signal.SIGPIPE


def test_full_disk_is_not_taken_for_a_reader_that_went_away(manor: Callable[..., subprocess.Popen[bytes]]) -> None:
    with open("/dev/full", "wb") as full:
        process = manor("chatter", stdout=full.fileno())
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert errors.endswith(b"manor: the VM ended: error: cannot write the output: No space left on device.\n")


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_closed_standard_streams_do_no_harm(kernel: Path, closed: tuple[int, ...]) -> None:
    redirections = " ".join(f"{number}>&-" for number in closed)
    code = DRIVER.format(source=str(ROOT / "src"))
    argv = [sys.executable, "-c", code, "power_off", "run", "--kernel", str(kernel), "--memory", "64M", "--stats"]
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirections}', "sh", *argv], capture_output=True, timeout=20, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == (b"" if 1 in closed else b"hello\n")
    assert (done.stderr == b"") is (2 in closed)


def test_pipes_carry_everything_and_end_of_input_is_not_the_end(
    manor: Callable[..., subprocess.Popen[bytes]],
) -> None:
    process = manor("echo")
    lines = b"".join(b"line %d\n" % number for number in range(300))
    output, _ = process.communicate(lines + b"\x1d\noff\n", timeout=30)
    expected = [b"ready", *(b"<line %d>" % number for number in range(300)), b"<\x1d>"]
    assert output.splitlines() == expected
    assert process.returncode == 0


def test_output_to_a_slow_pipe_is_complete(manor: Callable[..., subprocess.Popen[bytes]]) -> None:
    process = manor("print_much")
    assert process.stdout is not None
    time.sleep(0.3)
    received = b""
    while chunk := os.read(process.stdout.fileno(), 1 << 16):
        received += chunk
    assert received == b"".join(b"%07d\n" % number for number in range(20_000))
    assert process.wait(20) == 0


def test_input_from_dev_null(manor: Callable[..., subprocess.Popen[bytes]]) -> None:
    process = manor("power_off", stdin=subprocess.DEVNULL)
    output, _ = process.communicate(timeout=20)
    assert output == b"hello\n"
    assert process.returncode == 0


# --- statistics and traces --------------------------------------------------------------------------------------


def test_statistics_as_text_and_as_json(manor: Callable[..., subprocess.Popen[bytes]]) -> None:
    _, errors = manor("power_off", "--stats").communicate(timeout=20)
    assert re.search(rb"^exits +7$", errors, re.MULTILINE)
    assert re.search(rb"^  serial +6$", errors, re.MULTILINE)
    _, errors = manor("power_off", "--json").communicate(timeout=20)
    statistics = json.loads(errors.splitlines()[-1])
    assert statistics["exits"] == {"serial": 6, "power": 1}
    assert statistics["accel"] == {"guest_programs": 1}
    assert statistics["wall_ns"] > 0


def test_trace_to_standard_error_and_to_files(
    manor: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    _, errors = manor("power_off", "--trace", "exits").communicate(timeout=20)
    assert b'exit_pio_write device="serial" port=0x3f8 size=0x1 value=0x68' in errors
    file = tmp_path / "trace.jsonl"
    _, errors = manor("power_off", "--trace", "exits,interrupts", "--trace-file", str(file)).communicate(timeout=20)
    assert b"exit_pio_write" not in errors
    events = [json.loads(line) for line in file.read_text().splitlines()]
    assert [event["value"] for event in events if event["event"] == "exit_pio_write"][:5] == list(b"hello")


def test_full_disk_ends_the_trace_and_not_the_guest(manor: Callable[..., subprocess.Popen[bytes]]) -> None:
    process = manor("power_off", "--trace", "exits", "--trace-file", "/dev/full")
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    last = errors.splitlines()[-1]
    assert last == b"manor: the trace is incomplete: cannot write /dev/full: No space left on device."


def test_every_kind_of_trace_has_globs() -> None:
    assert all(KINDS.values())


# --- on a terminal ----------------------------------------------------------------------------------------------


class Terminal:
    """A user at a pseudo-terminal."""

    def __init__(self) -> None:
        self.ours, self.theirs = pty.openpty()
        termios.tcsetwinsize(self.theirs, (24, 80))
        self.before = termios.tcgetattr(self.theirs)
        self.seen = b""

    def wait_for(self, text: bytes) -> None:
        limit = time.monotonic() + 20
        while text not in self.seen:
            ready, _, _ = select.select([self.ours], [], [], max(0, limit - time.monotonic()))
            assert ready, self.seen
            self.seen += os.read(self.ours, 4096)

    def type(self, keys: bytes) -> None:
        os.write(self.ours, keys)


@pytest.fixture
def user() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    os.close(terminal.ours)
    os.close(terminal.theirs)


def test_escape_key_leaves_and_the_terminal_is_as_before(
    manor: Callable[..., subprocess.Popen[bytes]], user: Terminal
) -> None:
    process = manor("echo", stdin=user.theirs, stdout=user.theirs, stderr=user.theirs)
    user.wait_for(b"manor: Ctrl-] leaves.\r\n")
    user.wait_for(b"ready\n")
    user.type(b"a\x03b\n")
    user.wait_for(b"<a\x03b>")
    assert not termios.tcgetattr(user.theirs)[3] & termios.ICANON
    user.type(b"\x1d")
    assert process.wait(20) == 0
    assert termios.tcgetattr(user.theirs) == user.before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_terminal_is_restored_after_a_signal(
    manor: Callable[..., subprocess.Popen[bytes]], user: Terminal, number: signal.Signals
) -> None:
    process = manor("echo", stdin=user.theirs, stdout=user.theirs, stderr=user.theirs)
    user.wait_for(b"ready\n")
    process.send_signal(number)
    assert process.wait(20) == 128 + number
    assert termios.tcgetattr(user.theirs) == user.before


def test_hang_up_of_the_terminal_ends_the_vm(
    manor: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    ours, theirs = pty.openpty()
    with (tmp_path / "errors").open("wb") as errors:
        process = manor("echo", stdin=theirs, stdout=theirs, stderr=errors.fileno(), terminal=theirs)
    os.close(theirs)
    seen = b""
    while b"ready" not in seen:
        seen += os.read(ours, 4096)
    os.close(ours)
    # The signal, or the output that fails: who is first.
    assert process.wait(20) in (128 + signal.SIGHUP, 128 + signal.SIGPIPE)
    assert b"Traceback" not in (tmp_path / "errors").read_bytes()


def test_window_size_reaches_the_guest_at_start_and_on_change(
    manor: Callable[..., subprocess.Popen[bytes]], user: Terminal
) -> None:
    process = manor("tell_size", stdin=user.theirs, stdout=user.theirs, stderr=user.theirs)
    user.wait_for(b"size 80x24")
    termios.tcsetwinsize(user.theirs, (50, 132))
    process.send_signal(signal.SIGWINCH)
    user.wait_for(b"size 132x50")
    user.type(b"\x1d")
    assert process.wait(20) == 0
