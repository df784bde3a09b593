"""`manor image convert`."""

from __future__ import annotations

from typing import Final

import click

from manor.base.units import KiB, MiB
from manor.cli.image.command import (
    IMAGE,
    WRITTEN_FORMATS,
    ImageCommand,
    Size,
    check_written,
    format_option,
    is_on_server,
    offer,
    parse_options,
    progress_option,
    quiet_option,
    share_option,
)
from manor.cli.image.progress import progress
from manor.cli.status import EXIT_OK

MAX_THREADS: Final = 16
MAX_SPARSE: Final = 64 * MiB


class SparseSize(Size):
    """A length of zeros."""

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        size = super().convert(value, param, ctx)
        if size % 512 or size > MAX_SPARSE:
            self.fail(f"{size} is not a multiple of 512 up to 64M, or 0 for nothing", param, ctx)
        return size


@click.command(cls=ImageCommand)
@click.argument("source", type=IMAGE)
@click.argument("target", type=IMAGE)
@format_option("Format of the source. Default: looked up in its contents.")
@click.option(
    "-O", "--output-format", metavar="FORMAT", default="raw", show_default=True, shell_complete=offer(WRITTEN_FORMATS),
    help="Format of the target: raw or qcow2.",
)  # fmt: skip
@click.option(
    "-o", "options", metavar="NAME=VALUE,...", multiple=True, help="Options of the format; -o help lists them."
)
@click.option("-c", "--compress", is_flag=True, help="Compress the target (qcow2).")
@click.option(
    "-B", "-b", "--backing", metavar="FILE", help="Write only what differs from that image, on which the target stands."
)
@click.option("-F", "--backing-format", metavar="FORMAT", help="Format of the backing image.")
@click.option("-n", "--no-create", is_flag=True, help="Write into a target that exists: a device, an export, a file.")
@click.option("-l", "--snapshot", metavar="NAME", help="Copy that snapshot inside the source.")
@click.option(
    "-S", "--sparse", metavar="SIZE", type=SparseSize(), default=4 * KiB,
    help="Leave runs of zeros out that are at least as long. 0 writes all of them. Default: 4K.",
)  # fmt: skip
@click.option(
    "-m", "--threads", metavar="N", type=click.IntRange(1, MAX_THREADS), default=4, help="Copy N parts at once."
)
@click.option(
    "-t", "--cache", type=click.Choice(("writeback", "direct", "none")), default="writeback",
    help="How the target is written: direct (none is the same) goes around the host's page cache.",
)  # fmt: skip
@progress_option
@quiet_option
@share_option
def convert(
    source: str,
    target: str,
    format_: str | None,
    output_format: str,
    options: tuple[str, ...],
    compress: bool,
    backing: str | None,
    backing_format: str | None,
    no_create: bool,
    snapshot: str | None,
    sparse: int,
    threads: int,
    cache: str,
    percent: bool,
    quiet: bool,
    force_share: bool,
) -> int:
    """Copy an image into another format.

    The target is replaced if it exists. If the copy fails or is interrupted, what was begun is removed.
    """
    from manor.backends.block import operations

    check_written(output_format)
    if not no_create and is_on_server(target):
        raise click.UsageError(f"{target} is a disk on a server, which is there already; write into it with -n")
    values = parse_options(options, operations.CREATE_OPTIONS[output_format], output_format)
    if no_create and values:
        raise click.UsageError("-o is for new images; with -n the target is there already")
    if backing is not None and output_format != "qcow2":
        raise click.UsageError(f"a {output_format} image stands on no other one; use -O qcow2 with -B")
    with progress(f"Copying {source}", percent=percent, quiet=quiet) as show:
        operations.convert(
            source,
            target,
            source_format=format_,
            target_format=output_format,
            options=values,
            compressed=compress,
            backing_file=backing,
            backing_format=backing_format,
            sparse_size=sparse,
            threads=threads,
            snapshot=snapshot,
            force_share=force_share,
            into_existing=no_create,
            cache="direct" if cache == "none" else cache,
            progress=show,
        )
    return EXIT_OK
