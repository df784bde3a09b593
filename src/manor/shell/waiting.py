"""`--wait`: after a command that asks for something, wait until it has come about."""

from __future__ import annotations

import time
from typing import Final

from manor.rpc.protocol.records import Domain
from manor.shell.arguments import Arguments
from manor.shell.errors import CommandError, WaitTimeout
from manor.shell.link import RemoteError
from manor.shell.session import Session

POLL_INTERVAL = 0.1
"""Seconds between two looks at the state."""

RUNNING, PAUSED, SHUT_OFF, CRASHED = 1, 3, 5, 6

TARGETS: Final = {
    "start": (RUNNING, PAUSED), "resume": (RUNNING,), "reboot": (RUNNING,), "reset": (RUNNING,),
    "suspend": (PAUSED,), "shutdown": (SHUT_OFF, CRASHED), "destroy": (SHUT_OFF, CRASHED),
    "managedsave": (SHUT_OFF,), "save": (SHUT_OFF,),
}  # fmt: skip
"""Command -> the states that it leads to. Source of numbers: libvirt API reference, virDomainState."""


def wait_for(session: Session, arguments: Arguments, timeout: float | None) -> None:
    """Wait until the command's domain is where it leads to. timeout: seconds. Raises WaitTimeout, CommandError."""
    name = arguments.command.name
    targets = TARGETS.get(name)
    if targets is None:
        raise CommandError(f"'{name}' is over when it returns: --wait goes with {', '.join(sorted(TARGETS))}")
    deadline = None if timeout is None else time.monotonic() + timeout
    text = arguments.text("domain")
    while not _is_there(session, text, targets):
        if deadline is not None and time.monotonic() >= deadline:
            raise WaitTimeout(f"'{name}' of domain '{text}' did not finish in {timeout:g} seconds")
        time.sleep(POLL_INTERVAL)


def _is_there(session: Session, text: str, targets: tuple[int, ...]) -> bool:
    try:
        found: Domain = session.find_domain(text)
        state = session.call("domain_get_state", found, 0).state
    except (CommandError, RemoteError):
        return SHUT_OFF in targets  # a domain without a definition is gone when it stops
    return state in targets
