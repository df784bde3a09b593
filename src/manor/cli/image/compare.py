"""`manor image compare`."""

from __future__ import annotations

from typing import Final

import click

from manor.base.errors import ManorError
from manor.cli.image.command import IMAGE, ImageCommand, format_option, progress_option, quiet_option, share_option
from manor.cli.image.progress import progress
from manor.cli.main import fail
from manor.cli.status import EXIT_OK

# Those of qemu-img compare: more than 1 is an error.
EXIT_DIFFERENT: Final = 1
EXIT_UNREADABLE: Final = 2


@click.command(cls=ImageCommand)
@click.argument("first", type=IMAGE)
@click.argument("second", type=IMAGE)
@format_option("Format of the first image. Default: looked up in its contents.")
@click.option("-F", "--second-format", metavar="FORMAT", help="Format of the second image.")
@click.option("-s", "--strict", is_flag=True, help="Disks of different sizes differ, even if the rest is zeros.")
@progress_option
@quiet_option
@share_option
def compare(
    first: str,
    second: str,
    format_: str | None,
    second_format: str | None,
    strict: bool,
    percent: bool,
    quiet: bool,
    force_share: bool,
) -> int:
    """Tell whether two images hold the same disk."""
    from manor.backends.block import operations

    try:
        sizes = [
            operations.image_info(name, format=form, force_share=force_share).virtual_size
            for name, form in ((first, format_), (second, second_format))
        ]
        if sizes[0] != sizes[1]:
            if strict:
                _say(f"The disks have different sizes: {sizes[0]} and {sizes[1]} bytes.", quiet)
                return EXIT_DIFFERENT
            _say(f"Warning: the disks have different sizes: {sizes[0]} and {sizes[1]} bytes.", quiet)
        with progress("Comparing", percent=percent, quiet=quiet) as show:
            offset = operations.compare(
                first, second, first_format=format_, second_format=second_format, force_share=force_share, progress=show
            )
    except ManorError as error:
        return fail(str(error), EXIT_UNREADABLE)
    if offset is None:
        _say("Images are identical.", quiet)
        return EXIT_OK
    _say(f"Content mismatch at offset {offset}!", quiet)
    return EXIT_DIFFERENT


def _say(text: str, quiet: bool) -> None:
    if not quiet:
        click.echo(text)
