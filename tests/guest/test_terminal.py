"""`manor run` in a terminal: raw while it runs, as before afterwards, Ctrl-] leaves, the window size arrives."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Iterator

import pytest

from manor.guests.default import DefaultGuest
from manor.guests.init_script import PROMPT
from manor.testing.guest_process import Boot, command
from tests.guest.conftest import BOOT_TIMEOUT_S, STEP_TIMEOUT_S

pytestmark = pytest.mark.timeout(240)

SHELL = f"{PROMPT}~#"
"""The prompt as it is shown: `manor:` alone also begins the command's own messages, which share the terminal."""


class Terminal:
    """A pseudo terminal with `manor run` in it."""

    def __init__(self, argv: list[str], columns: int, rows: int) -> None:
        self.master, self.slave = pty.openpty()
        self.resize(columns, rows)
        self.before = termios.tcgetattr(self.slave)
        self.text = ""
        self.process = subprocess.Popen(
            argv, stdin=self.slave, stdout=self.slave, stderr=self.slave, start_new_session=True,
            env={**os.environ, "TERM": "vt100"}, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def send(self, text: str) -> None:
        os.write(self.master, text.encode())

    def wait_for(self, wanted: str, timeout: float) -> None:
        limit = time.monotonic() + timeout
        while wanted not in self.text:
            left = limit - time.monotonic()
            ready = select.select([self.master], [], [], max(left, 0))[0]
            assert ready, f"{wanted!r} did not appear; the output ends with {self.text[-1000:]!r}"
            self.text += os.read(self.master, 4096).decode("utf-8", "replace")
        self.text = self.text.split(wanted, 1)[1]

    def wait(self, timeout: float) -> int:
        """Wait for the end, taking the output meanwhile."""
        limit = time.monotonic() + timeout
        while self.process.poll() is None:
            assert time.monotonic() < limit, f"it still runs; the output ends with {self.text[-1000:]!r}"
            if select.select([self.master], [], [], 0.1)[0]:
                self.text += os.read(self.master, 4096).decode("utf-8", "replace")
        while select.select([self.master], [], [], 0.1)[0]:
            self.text += os.read(self.master, 4096).decode("utf-8", "replace")
        return self.process.returncode

    @property
    def is_raw(self) -> bool:
        return not termios.tcgetattr(self.slave)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def terminal(manor_only: None, guest: DefaultGuest) -> Iterator[Terminal]:
    argv = command("manor", Boot(guest.kernel, guest.initrd, guest.cmdline))
    terminal = Terminal(argv, 100, 30)
    yield terminal
    terminal.close()


def test_ctrl_bracket_leaves_and_the_terminal_is_as_before(terminal: Terminal) -> None:
    terminal.wait_for("Ctrl-] leaves", STEP_TIMEOUT_S)
    terminal.wait_for("Linux version", BOOT_TIMEOUT_S)
    assert terminal.is_raw
    terminal.send("\x1d")
    assert terminal.wait(STEP_TIMEOUT_S) == 0
    assert termios.tcgetattr(terminal.slave) == terminal.before


def test_keys_go_to_the_guest(terminal: Terminal) -> None:
    terminal.wait_for(SHELL, BOOT_TIMEOUT_S)
    # Ctrl-C is the guest's: it ends the guest's program, not this one.
    terminal.send("sleep 1000\r")
    terminal.wait_for("sleep 1000", STEP_TIMEOUT_S)
    time.sleep(0.5)
    terminal.send("\x03")
    terminal.wait_for(SHELL, STEP_TIMEOUT_S)
    terminal.send("echo $((40 + 2))\r")
    terminal.wait_for("\n42\r\n", STEP_TIMEOUT_S)
    terminal.send("exit\r")
    assert terminal.wait(STEP_TIMEOUT_S) == 0
    assert termios.tcgetattr(terminal.slave) == terminal.before


def test_window_size_is_passed_on_when_it_changes(terminal: Terminal) -> None:
    terminal.wait_for(SHELL, BOOT_TIMEOUT_S)
    terminal.send("stty -F /dev/hvc0 size\r")
    terminal.wait_for("\n30 100\r\n", STEP_TIMEOUT_S)
    terminal.resize(81, 26)
    time.sleep(0.5)
    terminal.send("stty -F /dev/hvc0 size\r")
    terminal.wait_for("\n26 81\r\n", STEP_TIMEOUT_S)


@pytest.mark.parametrize("lines", [1, 200])
def test_piped_script_runs_completely(manor_only: None, guest: DefaultGuest, lines: int) -> None:
    """From its first byte: it is there before the guest's driver is."""
    script = "".join(f"echo li''ne {number}\n" for number in range(lines)) + "exit\n"
    argv = command("manor", Boot(guest.kernel, guest.initrd, guest.cmdline))
    done = subprocess.run(argv, input=script.encode(), capture_output=True, timeout=BOOT_TIMEOUT_S, check=True)
    # The guest echoes what it has not read yet into the middle of its output.
    assert re.findall(r"^line (\d+)", done.stdout.decode(), re.MULTILINE) == [str(number) for number in range(lines)]


def test_terminal_is_restored_when_the_guest_panics(manor_only: None, guest: DefaultGuest) -> None:
    words = f"{guest.cmdline} rdinit=/nonexistent init=/nonexistent panic=-1"
    terminal = Terminal(command("manor", Boot(guest.kernel, guest.initrd, words)), 80, 25)
    try:
        assert terminal.wait(BOOT_TIMEOUT_S) == 4
        assert termios.tcgetattr(terminal.slave) == terminal.before
    finally:
        terminal.close()
