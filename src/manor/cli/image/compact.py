"""`manor image compact`."""

from __future__ import annotations

import click

from manor.cli.image.command import (
    FILE,
    ImageCommand,
    format_option,
    json_options,
    progress_option,
    quiet_option,
    wants_json,
)
from manor.cli.image.progress import progress
from manor.cli.image.text import json_text, size_text
from manor.cli.status import EXIT_OK


@click.command(cls=ImageCommand)
@click.argument("file", type=FILE)
@format_option()
@click.option("--rewrite", is_flag=True, help="Copy the image into a new file without gaps, and put that in its place.")
@progress_option
@quiet_option
@json_options
def compact(file: str, format_: str | None, rewrite: bool, percent: bool, quiet: bool, as_json: bool) -> int:
    """Give space that an image does not need back to the host.

    That is what holds zeros only, and what nothing uses. To have more of it, run fstrim in the guest before.
    """
    from manor.backends.block import operations

    with progress(f"Compacting {file}", percent=percent, quiet=quiet) as show:
        before, after = operations.compact(file, format=format_, rewrite=rewrite, progress=show)
    if wants_json(as_json):
        click.echo(json_text({"before": before, "after": after}))
    elif not quiet:
        click.echo(f"{file} takes {size_text(after)} of the host, {size_text(before - after)} less than before.")
    return EXIT_OK
