"""`manor exec NAME -- PROGRAM ARGUMENT...`: run a program in a guest."""

from __future__ import annotations

import os

import click

from manor.cli.names import complete_running


@click.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("-l", "--user", metavar="USER", help="The account to run it as. Default: the one the first boot made.")
@click.option("-t", "--terminal", is_flag=True, help="Give the program a terminal.")
@click.option(
    "--timeout", metavar="SECONDS", type=float, default=60.0, show_default=True, help="How long to wait for the guest."
)
@click.argument("name", metavar="NAME", shell_complete=complete_running)
@click.argument("command", metavar="-- PROGRAM [ARGUMENT...]", nargs=-1, type=click.UNPROCESSED, required=True)
def exec_(user: str | None, terminal: bool, timeout: float, name: str, command: tuple[str, ...]) -> int:
    """Run a program in a VM with exactly these arguments; no shell takes them apart.

    Standard input, output and errors are its own, and so is the exit status.
    """
    from manor.instances.instance import Instances
    from manor.instances.ssh import access, wait_for_ssh

    argv = command[1:] if command[:1] == ("--",) else command
    if not argv:
        raise click.UsageError("say which program: manor exec NAME -- PROGRAM")
    way = access(Instances().get(name), user)
    wait_for_ssh(way, timeout)
    words = way.ssh(argv, terminal=terminal, quote=True)
    os.execv(words[0], words)
