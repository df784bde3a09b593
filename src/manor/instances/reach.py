"""Which way leads into a guest now: ssh, its agent, or the shell on its serial console."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final, Literal

from manor.base.errors import ConfigError, HostError
from manor.instances.agent import has_agent
from manor.instances.client import ControlClient
from manor.instances.instance import Instance
from manor.instances.ssh import Access, access, greets, wait_for_ssh

Via = Literal["ssh", "agent", "serial"]
PATIENCE: Final = 5.0
"""Seconds that an ssh server may start later than the login is there."""
_POLL: Final = 0.25


@dataclass(frozen=True, slots=True)
class Way:
    """How. access: for ssh alone."""

    via: Via
    access: Access | None = None


def find_way(instance: Instance, via: str, user: str | None, timeout: float, may_type: bool) -> Way:
    """The way `via`, or for "auto" the best there is: ssh, which passes everything on as it comes; else the agent;
    else, if `may_type`, the serial console, once the guest has been at its login for a while without either.

    timeout: seconds to wait for one. Raises HostError if there is none, ConfigError, VmGone.
    """
    if via == "serial":
        return Way("serial")
    with ControlClient(instance.control) as client:
        if via == "agent":
            _wait_for_agent(client, instance, timeout)
            return Way("agent")
        try:
            way = access(instance, user)
        except ConfigError:
            if via == "ssh":
                raise
            way = None
        if via == "ssh":
            assert way is not None
            wait_for_ssh(way, timeout)
            return Way("ssh", way)
        return _first(instance, client, way, timeout, may_type)


def _first(instance: Instance, client: ControlClient, way: Access | None, timeout: float, may_type: bool) -> Way:
    limit = time.monotonic() + timeout
    login_since: float | None = None
    while True:
        if way is not None and greets(way):
            return Way("ssh", way)
        if has_agent(client):
            return Way("agent")
        now = time.monotonic()
        if client.call("status")["stage"]["name"] == "login":
            login_since = now if login_since is None else login_since
            patience = PATIENCE if way is not None else 0.0
            if may_type and now - login_since >= patience:
                return Way("serial")
        if now > limit:
            raise HostError(
                f"neither an ssh server nor an agent answers in the guest of {instance.name}; look at "
                f"manor console {instance.name}"
            )
        time.sleep(_POLL)


def _wait_for_agent(client: ControlClient, instance: Instance, timeout: float) -> None:
    limit = time.monotonic() + timeout
    while not has_agent(client):
        if time.monotonic() > limit:
            raise HostError(f"no agent answers in the guest of {instance.name}; install qemu-guest-agent there")
        time.sleep(_POLL)
