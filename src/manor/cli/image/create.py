"""`manor image create`."""

from __future__ import annotations

import os

import click

from manor.cli.image.command import (
    FILE,
    SIZE,
    WRITTEN_FORMATS,
    ImageCommand,
    check_written,
    offer,
    parse_options,
    quiet_option,
)
from manor.cli.image.text import size_text
from manor.cli.status import EXIT_OK


@click.command(cls=ImageCommand)
@click.argument("file", type=FILE)
@click.argument("size", type=SIZE, required=False)
@click.option(
    "-f", "--format", "format_", metavar="FORMAT", shell_complete=offer(WRITTEN_FORMATS),
    help="raw or qcow2. Default: qcow2 for a name that ends so or with -b, else raw.",
)  # fmt: skip
@click.option(
    "-b", "--backing", metavar="FILE", help="Stand on that image: what is not written here is read from there."
)
@click.option(
    "-F", "--backing-format", metavar="FORMAT", help="Format of the backing image. Default: looked up in its contents."
)
@click.option("-u", "--unsafe", is_flag=True, help="Do not look at the backing image; it need not exist.")
@click.option(
    "-o", "options", metavar="NAME=VALUE,...", multiple=True, help="Options of the format; -o help lists them."
)
@click.option("--force", is_flag=True, help="Replace a file that exists.")
@quiet_option
def create(
    file: str,
    size: int | None,
    format_: str | None,
    backing: str | None,
    backing_format: str | None,
    unsafe: bool,
    options: tuple[str, ...],
    force: bool,
    quiet: bool,
) -> int:
    """Make an empty image, or one over another image.

    SIZE is that of the disk: a number with an optional K, M, G or T. With -b it may be left out; the new disk is then
    as large as the one below.
    """
    from manor.backends.block import operations

    if format_ is None:
        format_ = "qcow2" if backing is not None or file.lower().endswith(".qcow2") else "raw"
    check_written(format_)
    values = parse_options(options, operations.CREATE_OPTIONS[format_], format_)
    if backing is None:
        if backing_format is not None or unsafe:
            raise click.UsageError("-F and -u say something of the backing image; name one with -b")
        if size is None:
            raise click.UsageError("an image needs a size, like 10G")
    else:
        backing_format = _backing_format(file, backing, backing_format, unsafe)
        if unsafe and size is None:
            raise click.UsageError("with -u nobody looks at the backing image, so give the size")
    # Unseen, the backing image is only written down: as a rebase that looks at nothing does.
    seen = None if unsafe else backing
    operations.create(
        file,
        size,
        format=format_,
        options=values,
        backing_file=seen,
        backing_format=backing_format if seen is not None else None,
        overwrite=force,
    )
    if backing is not None and unsafe:
        try:
            operations.rebase(file, backing, format=format_, backing_format=backing_format, unsafe=True)
        except BaseException:
            os.unlink(file)
            raise
    if not quiet:
        made = operations.image_info(file, format=format_)
        on = f" over {backing} ({backing_format})" if backing is not None else ""
        click.echo(f"Made {file}: {format_}, {size_text(made.virtual_size)} ({made.virtual_size} bytes){on}.")
    return EXIT_OK


def _backing_format(file: str, backing: str, stated: str | None, unsafe: bool) -> str:
    """The format to write down for the backing image: a name without one would be looked up anew at each start."""
    from manor.backends.block import operations
    from manor.backends.block.open import resolve

    if stated is not None:
        return stated
    if unsafe:
        raise click.UsageError("with -u nobody looks at the backing image, so give its format with -F")
    return operations.image_info(resolve(os.path.abspath(file), backing)).format
