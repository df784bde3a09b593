"""`manor exec NAME -- PROGRAM ARGUMENT...`: run a program in a guest."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Final

import click

from manor.base.errors import ConfigError
from manor.cli.names import complete_running

if TYPE_CHECKING:
    from manor.instances.instance import Instance
    from manor.instances.ssh import Access

WAYS: Final = ("auto", "ssh", "serial")
PATIENCE: Final = 5.0
"""Seconds that an ssh server may start later than the login is there."""
_POLL: Final = 0.25


@click.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("-l", "--user", metavar="USER", help="The account to run it as. Default: the one the first boot made.")
@click.option("-t", "--terminal", is_flag=True, help="Give the program a terminal.")
@click.option(
    "--timeout", metavar="SECONDS", type=float, default=60.0, show_default=True, help="How long to wait for the guest."
)
@click.option(
    "--via", type=click.Choice(WAYS), default="auto", show_default=True,
    help="How: auto takes ssh, and the serial console if no ssh server answers.",
)  # fmt: skip
@click.argument("name", metavar="NAME", shell_complete=complete_running)
@click.argument("command", metavar="-- PROGRAM [ARGUMENT...]", nargs=-1, type=click.UNPROCESSED, required=True)
def exec_(user: str | None, terminal: bool, timeout: float, via: str, name: str, command: tuple[str, ...]) -> int:
    """Run a program in a VM with exactly these arguments; no shell takes them apart.

    Standard input, output and errors are its own, and so is the exit status. Over the serial console there is no
    standard input, and errors come with the output.
    """
    from manor.instances.instance import Instances

    argv = command[1:] if command[:1] == ("--",) else command
    if not argv:
        raise click.UsageError("say which program: manor exec NAME -- PROGRAM")
    instance = Instances().get(name)
    way = _choose(instance, via, user, timeout)
    if way is None:
        return _over_serial(instance, argv, user)
    words = way.ssh(argv, terminal=terminal, quote=True)
    # In place of this process: its streams, its signals and its exit status are ssh's.
    return os.execv(words[0], words)


def _choose(instance: Instance, via: str, user: str | None, timeout: float) -> Access | None:
    """ssh, or None for the serial console: if the guest has been at its login for a while, and no ssh server
    answers."""
    from manor.instances.ssh import access, greets, wait_for_ssh

    if via == "serial":
        return None
    if via == "ssh":
        way = access(instance, user)
        wait_for_ssh(way, timeout)
        return way
    try:
        way = access(instance, user)
    except ConfigError:  # no interface that a port could be forwarded through
        return None
    limit = time.monotonic() + timeout
    logged_in = 0.0
    while not greets(way):
        now = time.monotonic()
        if _stage(instance) == "login":
            logged_in = logged_in or now
        if now > limit or (logged_in and now - logged_in > PATIENCE):
            return None
        time.sleep(_POLL)
    return way


def _stage(instance: Instance) -> str:
    from manor.instances.client import ControlClient

    with ControlClient(instance.control) as client:
        return str(client.call("status")["stage"]["name"])


def _over_serial(instance: Instance, argv: tuple[str, ...], user: str | None) -> int:
    from manor.instances.client import ControlClient
    from manor.instances.serial_exec import run_over_serial

    def write(data: bytes) -> None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()

    with ControlClient(instance.control) as client:
        return run_over_serial(client, argv, user or instance.config().user, write, None)
