"""`manor image resize`."""

from __future__ import annotations

from typing import Final

import click

from manor.base.units import parse_size
from manor.cli.image.command import FILE, ImageCommand, format_option, quiet_option
from manor.cli.status import EXIT_OK

PREALLOCATIONS: Final = ("off", "metadata", "falloc", "full")


# A size like -1G is not an option.
@click.command(cls=ImageCommand, context_settings={"ignore_unknown_options": True})
@click.argument("file", type=FILE)
@click.argument("size", metavar="[+|-]SIZE")
@format_option()
@click.option("--shrink", is_flag=True, help="Allow a smaller size. What is beyond it is lost.")
@click.option(
    "--preallocation",
    type=click.Choice(PREALLOCATIONS),
    default="off",
    help="Set space for the new part aside at once.",
)
@quiet_option
def resize(file: str, size: str, format_: str | None, shrink: bool, preallocation: str, quiet: bool) -> int:
    """Change the size of the disk in an image.

    SIZE is the new size, or with + or - how much it grows or shrinks. Partitions and file systems stay as they are:
    shrink them in the guest before, grow them after.
    """
    from manor.backends.block import operations

    old = operations.image_info(file, format=format_).virtual_size
    new = new_size(old, size)
    if new < old and not shrink:
        raise click.UsageError(f"{file} would lose its last {old - new} bytes; if that is meant, add --shrink")
    operations.resize(file, new, format=format_, allow_shrink=shrink, preallocation=preallocation)
    if not quiet:
        click.echo("Image resized.")
    return EXIT_OK


def new_size(old: int, text: str) -> int:
    """The size that `text` asks for. Raises click.UsageError."""
    sign = text[:1] if text[:1] in ("+", "-") else ""
    try:
        size = parse_size(text.removeprefix(sign))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    new = old + size if sign == "+" else old - size if sign == "-" else size
    if new <= 0:
        raise click.UsageError(f"the disk has {old} bytes; {text} leaves nothing of it")
    return new
