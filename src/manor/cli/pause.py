"""`manor pause NAME` and `manor resume NAME`."""

from __future__ import annotations

import click

from manor.cli.names import complete_running


@click.command("pause")
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=complete_running)
def pause(names: tuple[str, ...]) -> int:
    """Stop VMs until `manor resume`. For their guests no time passes meanwhile."""
    return _tell(names, "pause")


@click.command("resume")
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=complete_running)
def resume(names: tuple[str, ...]) -> int:
    """Let VMs go on that `manor pause` has stopped."""
    return _tell(names, "resume")


def _tell(names: tuple[str, ...], command: str) -> int:
    from manor.instances.client import ControlClient
    from manor.instances.instance import Instances

    for instance in [Instances().get(name) for name in names]:
        with ControlClient(instance.control) as client:
            client.call(command)
    return 0
