"""`manor save NAME [FILE]`: write a running VM into a file and end it; `manor run NAME` goes on where it was."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from manor.base.errors import HostError
from manor.cli.names import complete_running

_END_S: Final = 20.0
"""How long the process of a saved VM may take to end, in seconds."""


@click.command("save")
@click.argument("name", metavar="NAME", shell_complete=complete_running)
@click.argument("file", metavar="[FILE]", required=False, type=click.Path(path_type=Path, readable=False))
def save(name: str, file: Path | None) -> int:
    """Save a VM with all that it does at the moment, and end it.

    `manor run NAME` lets it go on where it was. With a FILE the state is written there, and manor run NAME --restore
    FILE reads it. The VM's disks must not change meanwhile. Ctrl-C gives the save up, and the VM goes on.
    """
    from manor.cli.progress import shown_progress
    from manor.cli.stop import wait_until_stopped
    from manor.instances.instance import Instances
    from manor.instances.saving import save as save_instance

    instance = Instances().get(name)
    if instance.running_pid() is None:
        raise HostError(f"{name} does not run, so there is nothing to save")
    with shown_progress() as progress:
        progress.step(f"saving {name}")
        save_instance(instance.control, file or instance.saved, progress.advance)
    if not wait_until_stopped(instance, _END_S):
        raise HostError(f"{name} is saved, but its process {instance.running_pid()} does not end")
    return 0
