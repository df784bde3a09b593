"""What is asked of a guest from outside: by its agent where it has one, else by ssh."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from manor.backends.agent.client import AgentError
from manor.base.errors import ConfigError, HostError
from manor.base.units import MiB, format_size
from manor.instances.agent import RemoteAgent, has_agent
from manor.instances.client import ControlClient
from manor.instances.instance import Instance
from manor.instances.ssh import access, wait_for_ssh

MAX_FILE: Final = 64 * MiB
"""Bytes of a file that goes over the agent's line, which is slow and has it in memory."""
MAX_INPUT: Final = 96 << 10
"""Bytes of standard input for a program that the agent starts: they are part of one request."""
_GREETING: Final = 5.0
"""Seconds for an ssh server that is there."""
_LOGIN: Final = 30.0
_POWER_OFF: Final = "sudo -n systemctl poweroff || systemctl poweroff || poweroff"
"""An account of ours may use sudo; root needs none, and may have none."""
_KILLED: Final = 128


def ask_to_power_off(instance: Instance) -> None:
    """Ask the guest to shut down; returns when it was asked. Raises a ManorError if it cannot be."""
    with ControlClient(instance.control) as client:
        if has_agent(client):
            RemoteAgent(client).shutdown()
            return
    way = access(instance)
    wait_for_ssh(way, _GREETING)
    try:
        done = subprocess.run(
            way.ssh((_POWER_OFF,), terminal=False), stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=_LOGIN, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise HostError(f"its ssh server did not log {way.user} in within {_LOGIN:g} s") from error
    # The guest may end so fast that the connection breaks.
    if done.returncode and "closed by" not in done.stderr:
        raise HostError(done.stderr.strip() or f"ssh ended with status {done.returncode}")


def run_by_agent(instance: Instance, argv: tuple[str, ...], data: bytes | None) -> int:
    """Run a program by the agent, as whom the agent runs (root); its output is printed at its end.

    data: for its standard input. Returns its exit status, 128 + N if signal N ended it. Raises a ManorError.
    """
    if data is not None and len(data) > MAX_INPUT:
        raise ConfigError("via", f"the agent takes at most {MAX_INPUT} bytes of standard input; use ssh")
    with ControlClient(instance.control) as client:
        result = RemoteAgent(client).exec(argv, input=data or None, timeout=None)
    sys.stdout.buffer.write(result.stdout)
    sys.stdout.buffer.flush()
    sys.stderr.buffer.write(result.stderr)
    sys.stderr.buffer.flush()
    if result.is_truncated:
        raise HostError("the agent kept only the first part of the output; use ssh for as much")
    return result.status if result.status is not None else _KILLED + (result.signal or 0)


def copy_by_agent(instance: Instance, sources: list[str], target: str) -> None:
    """Copy single files by the agent; places of the guest begin with a colon. Raises a ManorError."""
    if any(place.startswith(":") for place in sources):
        _fetch(instance, [place[1:] for place in sources], Path(target))
    else:
        _send(instance, [Path(place) for place in sources], target[1:])


def _send(instance: Instance, sources: list[Path], target: str) -> None:
    if not target.startswith("/"):
        raise ConfigError("", f"the agent has no home; give a whole path in the guest instead of {target!r}")
    if len(sources) > 1 and not target.endswith("/"):
        raise ConfigError("", "several files go into a folder; end its name with a slash")
    with ControlClient(instance.control) as client:
        agent = RemoteAgent(client)
        for source in sources:
            agent.write_file(target + source.name if target.endswith("/") else target, _contents(source))


def _contents(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if path.is_dir() or size > MAX_FILE:
            limit = format_size(MAX_FILE)
            raise ConfigError("", f"{path}: over the agent only single files of up to {limit} go; use ssh")
        return path.read_bytes()
    except OSError as error:
        raise ConfigError("", f"{path} cannot be read: {error.strerror}") from error


def _fetch(instance: Instance, sources: list[str], target: Path) -> None:
    if len(sources) > 1 and not target.is_dir():
        raise ConfigError("", f"several files go into a folder, and {target} is none")
    with ControlClient(instance.control) as client:
        agent = RemoteAgent(client)
        for source in sources:
            try:
                data = agent.read_file(source, MAX_FILE)
            except AgentError as error:
                raise HostError(f"{source} cannot be had: {error}") from error
            place = target / os.path.basename(source) if target.is_dir() else target
            try:
                place.write_bytes(data)
            except OSError as error:
                raise HostError.from_os_error(f"writing {place}", error) from error
