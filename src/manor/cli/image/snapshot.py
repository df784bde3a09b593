"""`manor image snapshot`."""

from __future__ import annotations

import click

from manor.cli.image.command import (
    FILE,
    ImageCommand,
    format_option,
    json_options,
    quiet_option,
    share_option,
    wants_json,
)
from manor.cli.image.text import json_text, snapshot_object, snapshot_table
from manor.cli.status import EXIT_OK


@click.command(cls=ImageCommand)
@click.argument("file", type=FILE)
@click.option("-l", "--list", "list_", is_flag=True, help="List the snapshots; also what happens without an option.")
@click.option("-c", "--create", metavar="NAME", help="Keep the disk as it is now under that name.")
@click.option("-a", "--apply", metavar="NAME", help="Make the disk what it was then. What it is now is lost.")
@click.option("-d", "--delete", metavar="NAME", help="Forget that snapshot.")
@format_option()
@quiet_option
@share_option
@json_options
def snapshot(
    file: str,
    list_: bool,
    create: str | None,
    apply: str | None,
    delete: str | None,
    format_: str | None,
    quiet: bool,
    force_share: bool,
    as_json: bool,
) -> int:
    """List, make, restore and delete snapshots inside an image.

    NAME may be a snapshot's ID as well, but for a new one. The image must not be in use.
    """
    from manor.backends.block import operations

    chosen = [option for option in (create, apply, delete) if option is not None]
    if len(chosen) + list_ > 1:
        raise click.UsageError("one of -l, -c, -a and -d at a time")
    if chosen and not chosen[0]:
        raise click.UsageError("a snapshot has a name")
    if chosen and force_share:
        raise click.UsageError("-U is for reading what another program writes; end that program to change snapshots")
    if create is not None:
        operations.create_snapshot(file, create, format=format_)
    elif apply is not None:
        operations.apply_snapshot(file, apply, format=format_)
    elif delete is not None:
        operations.delete_snapshot(file, delete, format=format_)
    else:
        found = operations.list_snapshots(file, format=format_, force_share=force_share)
        if wants_json(as_json):
            click.echo(json_text([snapshot_object(one) for one in found]))
        elif found and not quiet:
            click.echo("\n".join(snapshot_table(found)))
    return EXIT_OK
