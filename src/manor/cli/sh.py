"""`manor sh`: the shell of the management layer."""

from __future__ import annotations

import sys

import click


@click.command(
    "sh", add_help_option=False, context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[OPTIONS]... [COMMAND [ARGS]...]")
def sh(words: tuple[str, ...]) -> None:
    """Manage domains, networks and storage with virsh's commands."""
    from manor.shell.main import main

    sys.exit(main(words))
