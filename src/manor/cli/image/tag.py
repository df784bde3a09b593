"""`manor image tag`."""

from __future__ import annotations

import click

from manor.cli.names import complete_image


@click.command("tag")
@click.argument("image", metavar="IMAGE", shell_complete=complete_image)
@click.argument("name", metavar="NAME[:TAG]")
def tag(image: str, name: str) -> int:
    """Give IMAGE another name. If another image has that name, it moves to this one."""
    from manor.images.reference import parse_reference
    from manor.images.store import Store

    store = Store()
    store.tag(store.find(image), parse_reference(name))
    return 0
