"""`manor image prune`."""

from __future__ import annotations

import click


@click.command("prune")
@click.option("--unused", is_flag=True, help="Also images with a name, if nothing backs on them.")
def prune(unused: bool) -> int:
    """Remove images without a name that nothing backs on, and what interrupted downloads have left."""
    from manor.cli.image.text import size_text
    from manor.images.store import Store

    removed, size = Store().prune(unused)
    for gone in removed:
        click.echo(gone)
    click.echo(f"manor: {size_text(size)} given back.", err=True)
    return 0
