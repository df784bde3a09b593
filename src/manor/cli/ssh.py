"""`manor ssh NAME`: a shell, or a command, in a guest by this system's ssh."""

from __future__ import annotations

import os

import click

from manor.cli.names import complete_running


@click.command("ssh", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("-l", "--user", metavar="USER", help="The account to log in with. Default: the one the first boot made.")
@click.option(
    "--timeout", metavar="SECONDS", type=float, default=60.0, show_default=True, help="How long to wait for sshd."
)
@click.argument("name", metavar="NAME", shell_complete=complete_running)
@click.argument("command", metavar="[-- COMMAND...]", nargs=-1, type=click.UNPROCESSED)
def ssh(user: str | None, timeout: float, name: str, command: tuple[str, ...]) -> int:
    """Log in to a VM by ssh, or run a command there. Its exit status becomes this one's; 255 if ssh itself failed."""
    from manor.instances.instance import Instances
    from manor.instances.ssh import access, wait_for_ssh

    way = access(Instances().get(name), user)
    wait_for_ssh(way, timeout)
    argv = way.ssh(command[1:] if command[:1] == ("--",) else command)
    # In place of this process: its terminal, its signals and its exit status are ssh's.
    return os.execv(argv[0], argv)
