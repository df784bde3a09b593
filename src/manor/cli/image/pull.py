"""`manor image pull`."""

from __future__ import annotations

from pathlib import Path
from typing import Final
from urllib.parse import urljoin

import click

from manor.base.errors import ConfigError
from manor.base.units import parse_size
from manor.cli.cleanup import cleaning_up

_FILE: Final = click.Path(path_type=Path, readable=False)


def complete_known(context: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
    """Names that can be pulled without an address."""
    from manor.images.known import KNOWN

    return [name for name in KNOWN if name.startswith(typed)]


@click.command("pull")
@click.argument("name", metavar="NAME[:TAG]", shell_complete=complete_known)
@click.option(
    "--from", "url", metavar="URL", help="Where it is. Default: where your configuration, or Manor, knows it to be."
)
@click.option("--sha256", "digest", metavar="DIGEST", help="What its SHA-256 must be (a SHA-512 will do as well).")
@click.option("--checksums", metavar="URL", help="A list of checksums that names it, relative to its own address.")
@click.option("--key", metavar="FILE", type=_FILE, help="The public key that must have signed that list.")
@click.option("--user", metavar="USER", help="The account in it to log in with. Default: the first boot makes one.")
@click.option("--max-size", metavar="SIZE", default="64G", show_default=True, help="Refuse a larger file.")
@click.option("--refresh", is_flag=True, help="Fetch it even if the store has an image of that name.")
def pull(
    name: str,
    url: str | None,
    digest: str | None,
    checksums: str | None,
    key: Path | None,
    user: str | None,
    max_size: str,
    refresh: bool,
) -> int:
    """Fetch an image over http or https into the store, under NAME.

    It may be compressed, an archive with one disk, or of any format that `manor image info` knows. An interrupted
    download goes on where it was.
    """
    from manor.cli.progress import shown_progress
    from manor.images.acquire import Wanted
    from manor.images.acquire import pull as fetch
    from manor.images.download import check_url
    from manor.images.known import Source, find_source
    from manor.images.reference import parse_reference
    from manor.images.store import SHORT, Store
    from manor.images.verify import parse_digest

    reference = parse_reference(name)
    try:
        limit = parse_size(max_size)
    except ValueError as error:
        raise ConfigError("max-size", str(error)) from error
    source = find_source(reference) if url is None else Source(check_url(url))
    listing = urljoin(source.url, checksums) if checksums is not None else source.checksums
    source = Source(source.url, listing, source.signature if checksums is None else "", key or source.key)
    wanted = Wanted(reference, parse_digest(digest) if digest is not None else "", user or "")
    store = Store()
    found = store.find_or_none(str(reference))
    if found is not None and not refresh:
        click.echo(
            f"manor: the store has {reference} ({found.digest[:SHORT]}) already; --refresh fetches it anew.", err=True
        )
        return 0
    with cleaning_up(), shown_progress() as progress:
        image = fetch(store, source, wanted, progress, limit)
    click.echo(f"{reference} sha256:{image.digest}")
    return 0
