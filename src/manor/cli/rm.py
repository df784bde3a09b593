"""`manor rm NAME`: remove a VM with its disk."""

from __future__ import annotations

import click

from manor.cli.names import complete_vm


@click.command("rm")
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=complete_vm)
@click.option("-f", "--force", is_flag=True, help="Also VMs that run: their plug is pulled.")
def rm(names: tuple[str, ...], force: bool) -> int:
    """Remove VMs: their disks, their configurations, and all that their guests have written."""
    from manor.cli.stop import pull_the_plug
    from manor.images.store import Store
    from manor.instances.create import remove
    from manor.instances.instance import Instances

    instances = Instances()
    for instance in [instances.get(name) for name in names]:
        if force and instance.running_pid() is not None:
            pull_the_plug(instance)
        remove(instances, Store(), instance)
        click.echo(instance.name)
    return 0
