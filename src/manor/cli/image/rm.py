"""`manor image rm`."""

from __future__ import annotations

import click

from manor.cli.names import complete_image


@click.command("rm")
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True, shell_complete=complete_image)
def rm(images: tuple[str, ...]) -> int:
    """Remove images from the store: a name, and with its last name the image; all names of one given by its digest.

    An image that a VM's disk or another image backs on stays; the message says who.
    """
    from manor.images.store import Store

    store = Store()
    for image in images:
        for gone in store.remove(image):
            click.echo(gone)
    return 0
