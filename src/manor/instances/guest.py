"""What is asked of a guest from outside: by its agent where it has one, else by ssh."""

from __future__ import annotations

import subprocess
from typing import Final

from manor.base.errors import HostError
from manor.instances.instance import Instance
from manor.instances.ssh import access, wait_for_ssh

_GREETING: Final = 5.0
"""Seconds for an ssh server that is there."""
_LOGIN: Final = 30.0
_POWER_OFF: Final = "sudo -n systemctl poweroff || systemctl poweroff || poweroff"
"""An account of ours may use sudo; root needs none, and may have none."""


def ask_to_power_off(instance: Instance) -> None:
    """Ask the guest to shut down; returns when it was asked. Raises a ManorError if it cannot be."""
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
