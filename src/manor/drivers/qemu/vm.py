"""One running QEMU: its process, its monitor, its ports, and what is known of its guest.

The lock in its directory is taken before the process begins and handed to it, so that there is no moment at which it
runs and looks as if it did not.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from manor.base import process_lock
from manor.base.errors import HostError, ManorError
from manor.base.files import write_atomically
from manor.domain.state import PausedReason
from manor.domain.xml.domain import Domain
from manor.drivers.errors import failed
from manor.drivers.qemu.agent import Agent
from manor.drivers.qemu.console import ConsoleHub
from manor.drivers.qemu.layout import Files
from manor.drivers.qemu.monitor import Monitor

CONNECT_SECONDS: Final = 60.0
"""For a QEMU that was started to open its monitor: it opens disks and prepares memory meanwhile."""
STOP_SECONDS: Final = 15.0
"""For QEMU to end in order, before it is killed."""
_MAX_FILE: Final = 8 << 20


@dataclass(slots=True)
class QemuVm:
    """A process. descriptor: its pidfd. process: None for one that an earlier daemon started. live: its document.
    console_start: position in the console's log at which this run began.

    is_settled: it is known to whoever asked for it, who is told from then on. expects_stop, expects_resume: the next
    STOP or RESUME is of our making. cause: why the next STOP comes. end: what it said about its end. leaving: aliases
    of devices whose guest was asked to let them go.
    """

    uuid: bytes
    files: Files
    pid: int
    descriptor: int
    live: Domain
    ended: asyncio.Future[None]
    process: subprocess.Popen[bytes] | None = None
    monitor: Monitor | None = None
    agent: Agent | None = None
    consoles: dict[str, ConsoleHub] = field(default_factory=dict)
    console_start: int = 0
    threads: tuple[int, ...] = ()
    expects_stop: bool = False
    expects_resume: bool = False
    will_reboot: bool = False
    has_crashed: bool = False
    is_settled: bool = False
    is_ending: bool = False
    cause: PausedReason = PausedReason.UNKNOWN
    end: Any = None
    leaving: dict[str, asyncio.Future[bool]] = field(default_factory=dict)

    def signal(self, number: int) -> None:
        """Send a signal to this very process; none if it has ended, as its descriptor may be another's by now."""
        if not self.ended.done():
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.descriptor, number)

    async def open_consoles(self, aliases: Sequence[str]) -> None:
        """Connect to ports, the first of which has a log; those that cannot be are left out."""
        for index, alias in enumerate(aliases):
            with suppress(HostError):
                log = None if index else self.files.console_log
                self.consoles[alias] = await ConsoleHub.open(self.files.port(alias), log, self.console_start)

    async def let_go(self) -> None:
        """Close what leads to the process, which lives on."""
        if self.monitor is not None:
            await self.monitor.close()
        if self.agent is not None:
            self.agent.close()
        for hub in self.consoles.values():
            await hub.close()


def spawn(binary: str, arguments: Sequence[str], files: Files, record: dict[str, Any], vnc_password: str | None) -> (
    subprocess.Popen[bytes]
):  # fmt: skip
    """Start QEMU in its directory. Thread: any; blocks. Raises OSError."""
    directory = files.directory
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = process_lock.open_lock(files.lock)
    try:
        if not process_lock.try_lock(lock):
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), os.fspath(directory))
        os.ftruncate(lock, 0)
        for path in (files.monitor, files.agent, files.vnc, *directory.glob("*.sock")):
            path.unlink(missing_ok=True)
        if vnc_password is not None:
            write_atomically(files.vnc_password, vnc_password.encode())
        write_atomically(files.command, "\0".join([binary, *arguments]).encode())
        write_atomically(files.record, json.dumps(record).encode())
        with files.log.open("wb") as log:
            process = subprocess.Popen(
                [binary, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(lock,),
                start_new_session=True, cwd=directory,
            )  # fmt: skip
        # Whoever finds the lock held and no number yet waits for it.
        os.pwrite(lock, b"%d\n" % process.pid, 0)
    finally:
        os.close(lock)
    return process


def find(files: Files, patience: float) -> tuple[int, int] | None:
    """(number, pidfd) of the process that runs there, None if none does. Blocks for up to `patience` seconds."""
    limit = time.monotonic() + patience
    while (pid := process_lock.holder(files.lock)) == 0 and time.monotonic() < limit:
        time.sleep(0.05)
    if not pid:
        return None
    try:
        return pid, os.pidfd_open(pid)
    except OSError:
        return None


async def connect(vm: QemuVm, on_event: Any, seconds: float = CONNECT_SECONDS) -> Monitor:
    """Its monitor, once it answers. Raises ApiError with QEMU's own words if it ends before, HostError."""
    limit = time.monotonic() + seconds
    while True:
        if vm.ended.done():
            raise failed(f"QEMU ended before the VM ran: {last_words(vm.files)}")
        if vm.files.monitor.exists():
            try:
                return await Monitor.connect(vm.files.monitor, on_event)
            except ManorError:
                if time.monotonic() > limit:
                    raise
        elif time.monotonic() > limit:
            raise HostError(f"QEMU has not opened its monitor within {seconds:g} s; see {vm.files.log}")
        await asyncio.wait((vm.ended,), timeout=0.02)


def last_words(files: Files) -> str:
    """What QEMU said last, without its time."""
    with suppress(OSError):
        lines = files.log.read_bytes()[-4000:].decode(errors="replace").strip().splitlines()
        if lines:
            return lines[-1].partition("qemu-system-x86_64: ")[2] or lines[-1]
    return f"see {files.log}"


def read_record(path: Path) -> dict[str, Any] | None:
    """A record; None if there is none that can be read."""
    try:
        with path.open("rb") as file:
            value = json.loads(file.read(_MAX_FILE))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
