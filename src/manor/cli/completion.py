"""`manor completion SHELL`: click's completion script, ready to be sourced."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script for SHELL.

    For bash, put this into ~/.bashrc:  source <(manor completion bash)
    """
    from manor.cli.main import manor

    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError(f"no completion for {shell}")
    click.echo(found(manor, {}, "manor", "_MANOR_COMPLETE").source())
