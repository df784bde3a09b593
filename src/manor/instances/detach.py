"""A VM in the background: a process of its own that outlives the command which started it, and tells it how it went.

The command forks before it has threads; the child does all of the work and reports once, over a pipe. What goes wrong
before that is the command's own error, in its own words.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NoReturn

from manor.base.errors import HostError, InternalError, ManorError
from manor.spec.control import error_from_json, error_to_json

_MAX_REPORT: Final = 1 << 16


class Report:
    """The child's end of the pipe."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def running(self, log: Path) -> None:
        """The VM runs. Messages go to `log` from now on: the terminal belongs to others."""
        sys.stderr.flush()
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        os.dup2(descriptor, 2)
        os.close(descriptor)
        self._send({"running": os.getpid()})

    def failed(self, error: ManorError) -> None:
        """It does not run. Nothing happens if that was reported already."""
        self._send({"error": error_to_json(error)})

    def exited(self, status: int) -> None:
        """The command ended before the VM ran, with its own message."""
        self._send({"exit": status})

    def _send(self, value: dict[str, Any]) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with os.fdopen(descriptor, "wb") as pipe:
                try:
                    pipe.write(json.dumps(value).encode())
                    pipe.flush()
                except BrokenPipeError:
                    return  # the command was interrupted


class Exited(ManorError):
    """The child ended by itself, having said why. status: its exit status."""

    def __init__(self, status: int) -> None:
        super().__init__(f"exit status {status}")
        self.status = status


def detach() -> Report | None:
    """Fork. In the child: a Report, in a session of its own with nobody as its parent. In the command: None, once the
    VM runs; raises the child's error otherwise."""
    reading, writing = os.pipe()
    first = os.fork()
    if first == 0:
        return _become_daemon(reading, writing)
    os.close(writing)
    os.waitpid(first, 0)
    with os.fdopen(reading, "rb") as pipe:
        report = pipe.read(_MAX_REPORT)
    try:
        value = json.loads(report)
    except ValueError as error:
        raise HostError("the VM's process was ended before the VM ran") from error
    if "error" in value:
        raise error_from_json(value["error"])
    if "exit" in value:
        raise Exited(int(value["exit"]))
    return None


def _become_daemon(reading: int, writing: int) -> Report:
    os.close(reading)
    os.setsid()
    if os.fork():
        # Not the session's leader, so that no terminal can become its own.
        os._exit(0)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    return Report(writing)


def run_detached(report: Report, work: Callable[[], int]) -> NoReturn:
    """Do `work` in the child, and end the process with its status. Errors go to the command as long as it listens."""
    status = 1
    try:
        status = work()
        report.exited(status)
    except ManorError as error:
        report.failed(error)
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
        report.exited(status)
    except Exception:  # noqa: BLE001 -- the edge of a process: the command's code above the fork must not see it
        traceback.print_exc()
        report.failed(InternalError("the VM's process failed; what it said is above, or in the VM's vmm.log"))
    finally:
        with suppress(OSError):
            sys.stderr.flush()
        os._exit(status)
