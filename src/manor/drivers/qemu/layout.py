"""The files of one running QEMU, all in its directory.

    record.json   number and live description      lock        held by the process as long as it lives
    qemu.log      what it said                     command     its command line, for people
    monitor       QMP                              agent       the guest agent's port
    vnc           display                          ALIAS.sock  a serial port, console or channel
    console.log   what the first of them printed

QEMU runs in it, and is told the names of its sockets alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Files:
    """Paths in `directory`."""

    directory: Path

    @property
    def record(self) -> Path:
        return self.directory / "record.json"

    @property
    def lock(self) -> Path:
        return self.directory / "lock"

    @property
    def log(self) -> Path:
        return self.directory / "qemu.log"

    @property
    def console_log(self) -> Path:
        return self.directory / "console.log"

    @property
    def command(self) -> Path:
        return self.directory / "command"

    @property
    def monitor(self) -> Path:
        return self.directory / "monitor"

    @property
    def agent(self) -> Path:
        return self.directory / "agent"

    @property
    def vnc(self) -> Path:
        return self.directory / "vnc"

    @property
    def vnc_password(self) -> Path:
        return self.directory / "vnc-password"

    def port(self, alias: str) -> Path:
        """A character device's socket."""
        return self.directory / f"{alias}.sock"
