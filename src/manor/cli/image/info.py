"""`manor image info`."""

from __future__ import annotations

import click

from manor.cli.image.command import IMAGE, ImageCommand, format_option, json_options, share_option, wants_json
from manor.cli.image.text import info_object, info_text, json_text
from manor.cli.status import EXIT_OK


@click.command(cls=ImageCommand)
@click.argument("file", type=IMAGE)
@format_option()
@click.option("--backing-chain", is_flag=True, help="Tell of all images below as well.")
@share_option
@json_options
def info(file: str, format_: str | None, backing_chain: bool, force_share: bool, as_json: bool) -> int:
    """Tell what an image is."""
    from manor.backends.block import operations

    if backing_chain:
        found = operations.chain_info(file, format=format_, force_share=force_share)
    else:
        found = [operations.image_info(file, format=format_, force_share=force_share)]
    if wants_json(as_json):
        objects = [info_object(one) for one in found]
        click.echo(json_text(objects if backing_chain else objects[0]))
    else:
        click.echo("\n\n".join(map(info_text, found)))
    return EXIT_OK
