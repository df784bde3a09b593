"""`manor exec NAME -- PROGRAM ARGUMENT...`: run a program in a guest."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

import click

from manor.cli.names import complete_running

if TYPE_CHECKING:
    from manor.instances.instance import Instance

WAYS: Final = ("auto", "ssh", "agent", "serial")


@click.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("-l", "--user", metavar="USER", help="The account to run it as. Default: the one the first boot made.")
@click.option("-t", "--terminal", is_flag=True, help="Give the program a terminal.")
@click.option(
    "--timeout", metavar="SECONDS", type=float, default=60.0, show_default=True, help="How long to wait for the guest."
)
@click.option(
    "--via", type=click.Choice(WAYS), default="auto", show_default=True,
    help="How: auto takes ssh, else the guest's agent, else the shell on its serial console.",
)  # fmt: skip
@click.argument("name", metavar="NAME", shell_complete=complete_running)
@click.argument("command", metavar="-- PROGRAM [ARGUMENT...]", nargs=-1, type=click.UNPROCESSED, required=True)
def exec_(user: str | None, terminal: bool, timeout: float, via: str, name: str, command: tuple[str, ...]) -> int:
    """Run a program in a VM with exactly these arguments; no shell takes them apart.

    Standard input, output and errors are its own, and so is the exit status. The agent gives the output at the
    program's end; over the serial console there is no standard input, and errors come with the output.
    """
    from manor.instances.instance import Instances
    from manor.instances.reach import find_way

    argv = command[1:] if command[:1] == ("--",) else command
    if not argv:
        raise click.UsageError("say which program: manor exec NAME -- PROGRAM")
    instance = Instances().get(name)
    if user is not None or terminal:
        via = "ssh" if via == "auto" else via
    way = find_way(instance, via, user, timeout, may_type=True)
    if way.via == "serial":
        return _over_serial(instance, argv, user)
    if way.via == "agent":
        from manor.instances.guest import MAX_INPUT, run_by_agent

        # One byte more than it takes tells that there is too much.
        data = None if sys.stdin.isatty() else sys.stdin.buffer.read(MAX_INPUT + 1)
        return run_by_agent(instance, argv, data)
    assert way.access is not None
    words = way.access.ssh(argv, terminal=terminal, quote=True)
    # In place of this process: its streams, its signals and its exit status are ssh's.
    return os.execv(words[0], words)


def _over_serial(instance: Instance, argv: tuple[str, ...], user: str | None) -> int:
    from manor.instances.client import ControlClient
    from manor.instances.serial_exec import run_over_serial

    def write(data: bytes) -> None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()

    with ControlClient(instance.control) as client:
        return run_over_serial(client, argv, user or instance.config().user, write, None)
