"""A real guest as a child process whose console is a pair of pipes: `manor run`, or QEMU as what to compare with.

A child, so that whatever goes wrong in it (a hang, a crash) is one failed test or one missing figure.
QEMU runs with its own translator and without a default device. There is no network unless `extra` asks for one.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Literal

from manor.base.errors import ManorError

QEMU: Final = "qemu-system-x86_64"
Runner = Literal["manor", "qemu-q35", "qemu-microvm"]
RUNNERS: Final[tuple[Runner, ...]] = ("manor", "qemu-q35", "qemu-microvm")


@dataclass(frozen=True, slots=True)
class Boot:
    """What to boot, for any runner. memory: MiB. extra: further options of the runner itself."""

    kernel: Path
    initrd: Path | None
    append: str
    memory: int = 256
    cpus: int = 1
    extra: tuple[str, ...] = ()


def command(runner: Runner, boot: Boot) -> list[str]:
    """The command line that boots `boot` with its console on standard input and output."""
    if runner == "manor":
        initrd = () if boot.initrd is None else ("--initrd", str(boot.initrd))
        network = [] if "--net" in boot.extra else ["--no-net"]
        return [
            sys.executable, "-m", "manor", "run", "--accel", "dbt", "--kernel", str(boot.kernel), *initrd, "--append",
            boot.append, "--memory", f"{boot.memory}M", "--cpus", str(boot.cpus), "--no-reboot", *network, *boot.extra,
        ]  # fmt: skip
    machine, words = {
        "qemu-q35": ("q35", ""),
        # The fastest this machine type can be set up to boot; it has no ACPI then, hence the reboot by triple fault.
        "qemu-microvm": ("microvm,acpi=off,x-option-roms=off,isa-serial=on,rtc=on", " reboot=t"),
    }[runner]
    initrd = () if boot.initrd is None else ("-initrd", str(boot.initrd))
    network = [] if "-netdev" in boot.extra else ["-nic", "none"]
    return [
        QEMU, "-accel", "tcg", "-M", machine, "-cpu", "max", "-m", str(boot.memory), "-smp", str(boot.cpus),
        "-nodefaults", "-no-user-config", *network, "-display", "none", "-serial", "stdio", "-no-reboot",
        "-kernel", str(boot.kernel), *initrd, "-append", boot.append + words, *boot.extra,
    ]  # fmt: skip


class NotSeen(ManorError):
    """The text that was waited for did not come: time ran out, or the process ended."""


class GuestProcess:
    """A running guest; use it in a `with` block, which ends it. Thread: one, the owner's."""

    def __init__(self, argv: Sequence[str], environment: dict[str, str] | None = None) -> None:
        """environment: additions to our own. Raises OSError if the command cannot be started."""
        self.started = time.monotonic()
        """When the process was started, by time.monotonic()."""
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, **(environment or {})}, start_new_session=True,
        )  # fmt: skip
        self._changed = threading.Condition()
        self._output = bytearray()
        self._errors = bytearray()
        self._open = 2
        self._position = 0
        streams = ((self._process.stdout, self._output), (self._process.stderr, self._errors))
        self._readers = [threading.Thread(target=self._read, args=each, daemon=True) for each in streams]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def text(self) -> str:
        """What the guest printed so far, with plain line ends."""
        with self._changed:
            return self._output.decode("utf-8", "replace").replace("\r\n", "\n")

    @property
    def errors(self) -> str:
        """The process's own messages so far (standard error)."""
        with self._changed:
            return self._errors.decode("utf-8", "replace")

    def send(self, text: str) -> None:
        """Type `text`. A guest that ended meanwhile is no error here: the next wait reports it."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(text.encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            return

    def wait_for(self, pattern: str, timeout: float) -> str:
        """Wait until the guest prints text that matches `pattern` (regular expression), after the previous match.

        Returns the output up to the end of the match. timeout: seconds. Raises NotSeen.
        """
        expression = re.compile(pattern)
        limit = time.monotonic() + timeout
        with self._changed:
            while True:
                text = self._output[self._position :].decode("latin-1")
                found = expression.search(text)
                if found:
                    self._position += found.end()
                    return text[: found.end()].encode("latin-1").decode("utf-8", "replace").replace("\r\n", "\n")
                left = limit - time.monotonic()
                if not self._open or left <= 0:
                    why = f"within {timeout:g} seconds" if self._open else "before the process ended"
                    raise NotSeen(
                        f"{pattern!r} did not appear {why}; the output ends with "
                        f"{self._output[-1200:].decode('utf-8', 'replace')!r}, the messages with "
                        f"{self._errors[-800:].decode('utf-8', 'replace')!r}"
                    )
                self._changed.wait(left)

    def close_input(self) -> None:
        """The end of the input, as when a pipe is used up."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def signal(self, number: signal.Signals) -> None:
        """Send the process a signal."""
        self._process.send_signal(number)

    def wait(self, timeout: float) -> int:
        """Wait for the end; returns the exit status (negative: the signal). Raises NotSeen if it goes on running."""
        try:
            status = self._process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise NotSeen(f"the process still runs after {timeout:g} seconds; output: {self.text[-1200:]!r}") from error
        for reader in self._readers:
            reader.join(5)
        return status

    def close(self) -> None:
        """End the process, whatever it does."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for reader in self._readers:
            reader.join(5)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert stream is not None
            try:
                stream.close()
            except BrokenPipeError:
                continue

    def __enter__(self) -> GuestProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self, stream: object, target: bytearray) -> None:
        assert hasattr(stream, "fileno")
        descriptor: int = stream.fileno()
        while data := os.read(descriptor, 1 << 16):
            with self._changed:
                target += data
                self._changed.notify_all()
        with self._changed:
            self._open -= 1
            self._changed.notify_all()
