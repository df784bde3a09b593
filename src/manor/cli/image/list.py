"""`manor image list`."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from manor.images.store import Store, StoredImage


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list, for scripts.")
def list_(as_json: bool) -> int:
    """List the images in the store: what they are called, how large they are, and who backs on them."""
    from manor.cli.image.text import size_text
    from manor.cli.table import table
    from manor.images.store import SHORT, Store

    store = Store()
    rows = [describe(store, image) for image in store.images()]
    if as_json:
        click.echo(json.dumps(rows, indent=1))
    elif rows:
        cells = [
            (
                ", ".join(row["names"]) or "-",
                row["digest"].removeprefix("sha256:")[:SHORT],
                row["format"],
                size_text(row["virtual-size"]),
                size_text(row["disk-size"]),
                time.strftime("%Y-%m-%d", time.localtime(row["created"])),
                str(len(row["users"])),
            )
            for row in rows
        ]
        click.echo(table(("NAMES", "DIGEST", "FORMAT", "DISK", "SPACE", "CREATED", "USERS"), cells))
    else:
        click.echo("The store is empty. Fetch an image: manor image pull debian.", err=True)
    return 0


def describe(store: Store, image: StoredImage) -> dict[str, Any]:
    """One image as plain values."""
    metadata = image.metadata
    return {
        "names": [str(name) for name in image.names],
        "digest": f"sha256:{image.digest}",
        "path": str(image.path),
        "format": metadata.format,
        "virtual-size": metadata.virtual_size,
        "disk-size": image.path.stat().st_blocks * 512,
        "created": metadata.created,
        "source": metadata.source,
        "user": metadata.user,
        "users": store.users(image),
    }
