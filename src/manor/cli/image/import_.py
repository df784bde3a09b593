"""`manor image import`."""

from __future__ import annotations

from pathlib import Path

import click

from manor.base.errors import ConfigError
from manor.cli.cleanup import cleaning_up


@click.command("import")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path, readable=False))
@click.argument("name", metavar="[NAME[:TAG]]", required=False)
@click.option("--sha256", "digest", metavar="DIGEST", help="What its SHA-256 must be (a SHA-512 will do as well).")
@click.option("--user", metavar="USER", help="The account in it to log in with. Default: the first boot makes one.")
def import_(file: Path, name: str | None, digest: str | None, user: str | None) -> int:
    """Take FILE into the store, under NAME (by default the file's, without its endings). The file stays as it is.

    FILE may be an image of any format that `manor image info` knows, compressed or not, an archive around one, a
    Vagrant box, or an OCI archive or layout: with a disk below /disk, or with a container's files, for which a disk is
    made.
    """
    from manor.cli.progress import shown_progress
    from manor.images.acquire import Wanted, import_file
    from manor.images.reference import parse_reference
    from manor.images.store import Store
    from manor.images.verify import parse_digest

    try:
        reference = parse_reference(name or file.name.split(".")[0].lower())
    except ConfigError as error:
        if name is not None:
            raise
        raise ConfigError("", f"{file.name} is no name for an image; give one: manor image import FILE NAME") from error
    wanted = Wanted(reference, parse_digest(digest) if digest is not None else "", user or "")
    with cleaning_up(), shown_progress() as progress:
        image = import_file(Store(), file, wanted, progress)
    click.echo(f"{reference} sha256:{image.digest}")
    return 0
