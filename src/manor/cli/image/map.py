"""`manor image map`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from manor.cli.image.command import (
    IMAGE,
    SIZE,
    ImageCommand,
    format_option,
    json_options,
    share_option,
    wants_json,
)
from manor.cli.status import EXIT_OK

if TYPE_CHECKING:
    from manor.backends.block.api import Extent


@click.command("map", cls=ImageCommand)
@click.argument("file", type=IMAGE)
@format_option()
@click.option("--start-offset", metavar="SIZE", type=SIZE, default=0, help="Begin there.")
@click.option("--max-length", metavar="SIZE", type=SIZE, help="Tell of so much. Default: to the end.")
@share_option
@json_options
def map_(
    file: str, format_: str | None, start_offset: int, max_length: int | None, force_share: bool, as_json: bool
) -> int:
    """Tell where each part of the disk is.

    For people only what is stored is listed, with the file that has it. In JSON depth counts the images down the
    chain; present is false for what none of them has.
    """
    from manor.backends.block import operations

    names = [one.path for one in operations.chain_info(file, format=format_, force_share=force_share)]
    extents = operations.map_image(file, format=format_, offset=start_offset, size=max_length, force_share=force_share)
    if wants_json(as_json):
        _print_json(extents, names)
    else:
        _print_table(extents, names)
    return EXIT_OK


def _print_json(extents: Iterator[Extent], names: list[str]) -> None:
    """A list with an element on each line, written as it is found: an image can have millions."""
    lead = "["
    for extent in extents:
        click.echo(lead + json.dumps(_object(extent, len(names) - 1)), nl=False)
        lead = ",\n"
    click.echo("[]" if lead == "[" else "]")


def _object(extent: Extent, deepest: int) -> dict[str, object]:
    found: dict[str, object] = {
        "start": extent.offset,
        "length": extent.size,
        # Where nothing is, the search went down to the last image: so qemu-img says as well.
        "depth": deepest if extent.kind == "hole" else extent.depth,
        "present": extent.kind != "hole",
        "zero": extent.kind != "data",
        "data": extent.kind == "data",
    }
    if extent.file_offset is not None and extent.kind == "data":
        found["offset"] = extent.file_offset
    return found


def _print_table(extents: Iterator[Extent], names: list[str]) -> None:
    click.echo(f"{'Offset':<16}{'Length':<16}{'Mapped to':<16}File")
    for extent in extents:
        if extent.kind == "data":
            place = "-" if extent.file_offset is None else f"{extent.file_offset:#x}"
            name = names[extent.depth] if extent.depth < len(names) else ""
            click.echo(f"{_hexadecimal(extent.offset)}{_hexadecimal(extent.size)}{place:<16}{name}")


def _hexadecimal(number: int) -> str:
    """0 without a prefix, as C prints it."""
    return f"{f'{number:#x}' if number else '0':<16}"
