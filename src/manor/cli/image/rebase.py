"""`manor image rebase`."""

from __future__ import annotations

import os

import click

from manor.cli.image.command import FILE, ImageCommand, format_option, progress_option, quiet_option
from manor.cli.image.progress import progress
from manor.cli.status import EXIT_OK


@click.command(cls=ImageCommand)
@click.argument("file", type=FILE)
@click.option("-b", "--backing", metavar="FILE", required=True, help="The new backing image; '' for none.")
@click.option(
    "-F", "--backing-format", metavar="FORMAT", help="Format of the backing image. Default: looked up in its contents."
)
@format_option()
@click.option(
    "-u", "--unsafe", is_flag=True,
    help="Change the name only, for a backing image that was moved. If it holds something else, the disk is damaged.",
)  # fmt: skip
@progress_option
@quiet_option
def rebase(
    file: str,
    backing: str,
    backing_format: str | None,
    format_: str | None,
    unsafe: bool,
    percent: bool,
    quiet: bool,
) -> int:
    """Give an image another image to stand on.

    The guest sees the same disk as before: what differs is copied first.
    """
    from manor.backends.block import operations
    from manor.backends.block.open import resolve

    if backing and backing_format is None:
        if unsafe:
            raise click.UsageError("with -u nobody looks at the backing image, so give its format with -F")
        backing_format = operations.image_info(resolve(os.path.abspath(file), backing)).format
    with progress(f"Rebasing {file}", percent=percent, quiet=quiet) as show:
        operations.rebase(
            file, backing or None, format=format_, backing_format=backing_format, unsafe=unsafe, progress=show
        )
    if not quiet:
        click.echo("Image rebased.")
    return EXIT_OK
