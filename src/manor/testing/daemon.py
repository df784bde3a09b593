"""A `manord` of a test's own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

START_SECONDS: Final = 30.0


class DaemonProcess:
    """One daemon, with its sockets and state below `root` (a short path: a socket's has room for 108 bytes)."""

    def __init__(self, root: Path, *options: str) -> None:
        self.root = root
        self.socket = root / "sock"
        self.options = options
        self.prefix: list[str] = []
        """A program and its options that start the daemon."""
        self.process: subprocess.Popen[bytes] | None = None

    def uri(self, driver: str = "qemu", path: str = "/session", read_only: bool = False) -> str:
        """For a libvirt client."""
        return f"{driver}+unix://{path}?socket={self.socket}{'-ro' if read_only else ''}"

    @property
    def log(self) -> str:
        """What it said."""
        return (self.root / "log").read_text()

    def start(self) -> None:
        """Start it and wait until it listens. Raises RuntimeError with its words if it does not."""
        with (self.root / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, sys.executable, "-m", "manor.daemon", "--state", str(self.root / "state"), "--socket",
                 str(self.socket), "--accel", "dbt", *self.options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**os.environ, "XDG_CONFIG_HOME": str(self.root / "config")},
            )  # fmt: skip
        limit = time.monotonic() + START_SECONDS
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > limit:
                raise RuntimeError(f"manord does not run: {self.log}")
            time.sleep(0.02)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            return probe.connect_ex(str(self.socket)) == 0

    def kill(self) -> None:
        """As a power cut would."""
        self.end(signal.SIGKILL)

    def end(self, number: int = signal.SIGTERM) -> int:
        """End it; its exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(30)

    def virsh(self, *command: str, uri: str | None = None, check: bool = True, input: str | None = None) -> str:
        """What the real virsh prints. Raises AssertionError if it fails and `check`."""
        done = subprocess.run(
            ["virsh", "-q", "-c", uri or self.uri(), *command], capture_output=True, text=True, timeout=60, check=False,
            input=input,
        )  # fmt: skip
        if check:
            assert done.returncode == 0, f"virsh {' '.join(command)}: {done.stderr}\n{self.log}"
            return done.stdout.strip()
        return done.stdout + done.stderr

    @property
    def pid(self) -> int:
        """Of the daemon's process."""
        assert self.process is not None
        return self.process.pid

    def open_files(self) -> int:
        """Descriptors that the daemon has."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def resident(self) -> float:
        """MiB of memory that the daemon has."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        return int(text.split("VmRSS:")[1].split()[0]) / 1024
