"""`manor image commit`."""

from __future__ import annotations

import click

from manor.cli.image.command import FILE, ImageCommand, format_option, progress_option, quiet_option
from manor.cli.image.progress import progress
from manor.cli.status import EXIT_OK


@click.command(cls=ImageCommand)
@click.argument("file", type=FILE)
@format_option()
@click.option("-b", "--base", metavar="FILE", help="Write into that image further down the chain.")
@click.option("-d", "--keep", is_flag=True, help="Leave the image as it is; by default it is emptied.")
@progress_option
@quiet_option
def commit(file: str, format_: str | None, base: str | None, keep: bool, percent: bool, quiet: bool) -> int:
    """Write an image's changes into the image below it.

    Other images that stand on the changed one are invalid afterwards.
    """
    from manor.backends.block import operations

    with progress(f"Committing {file}", percent=percent, quiet=quiet) as show:
        operations.commit(file, format=format_, base=base, keep=keep, progress=show)
    if not quiet:
        click.echo("Image committed.")
    return EXIT_OK
