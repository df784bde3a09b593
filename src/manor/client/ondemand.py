"""A daemon for a user who has none yet: started when the first client comes, gone some time after the last.

Only `manor:///session` without a socket of its own choosing is served so; the host's daemon is the administrator's to
start. Several clients that come at once start one.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from manor.base import process_lock
from manor.base.errors import HostError
from manor.base.files import state_directory
from manor.rpc.uri import Uri

IDLE_SECONDS: Final = 120
"""After the last client, while no VM runs. Source: libvirt, session daemons are started with --timeout=120."""
START_SECONDS: Final = 30.0
"""For a daemon to listen: it finds the VMs that run."""
BUSY_STATUS: Final = 75
"""Exit status of a daemon that finds another one, which may be just ending."""
_SWITCH: Final = "MANOR_AUTOSTART"


def is_wanted(uri: Uri) -> bool:
    """Whether a daemon may be started for `uri`: $MANOR_AUTOSTART=0 forbids it."""
    return (
        uri.is_own and uri.is_session and uri.effective_transport == "unix" and "socket" not in uri.parameters
        and os.environ.get(_SWITCH, "1") != "0"
    )  # fmt: skip


async def ensure_daemon(uri: Uri) -> bool:
    """Have a daemon listen at the socket of `uri`; whether it was started now. Raises HostError with its words."""
    return await asyncio.to_thread(_ensure, Path(uri.socket_path()))


def _ensure(path: Path) -> bool:
    if _answers(path):
        return False
    limit = time.monotonic() + START_SECONDS
    try:
        lock = process_lock.open_lock(path.with_name("starting.lock"))
    except OSError as error:
        raise HostError.from_os_error(f"preparing to start manord at {path}", error) from error
    try:
        while not process_lock.try_lock(lock):
            # Somebody else is at it.
            if time.monotonic() > limit:
                raise HostError(f"another program has been starting manord for {START_SECONDS:g} s; end it")
            time.sleep(0.02)
        while not _answers(path):
            if _start(path, limit):
                return True
        return False
    finally:
        os.close(lock)


def _start(path: Path, limit: float) -> bool:
    """Whether the daemon that is started listens; False if another one is in its way and this may pass."""
    log_path = state_directory() / "manord.log"
    try:
        log_path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with log_path.open("wb") as log:
            # A session of its own: neither the user's terminal nor the end of this program takes it along.
            process = subprocess.Popen(
                [sys.executable, "-m", "manor.daemon", "--timeout", str(IDLE_SECONDS)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/",
            )  # fmt: skip
    except OSError as error:
        raise HostError.from_os_error("starting manord", error) from error
    while not _answers(path):
        status = process.poll()
        if status == BUSY_STATUS and time.monotonic() < limit:
            time.sleep(0.1)
            return False
        if status is not None:
            raise HostError(f"manord was started and ended with status {status}: {_last_words(log_path)}")
        if time.monotonic() > limit:
            process.kill()
            process.wait()
            raise HostError(f"manord was started and has not listened at {path} within {START_SECONDS:g} s")
        time.sleep(0.02)
    process.returncode = 0  # nobody waits for it: it outlives its parent
    return True


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        return probe.connect_ex(os.fspath(path)) == 0


def _last_words(path: Path) -> str:
    with suppress(OSError):
        lines = path.read_bytes()[-2000:].decode(errors="replace").strip().splitlines()
        if lines:
            return lines[-1]
    return f"see {path}"
