"""`manor image build`: a disk with a distribution on it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

import click

from manor.base.errors import ConfigError, HostError
from manor.base.units import parse_size
from manor.cli.cleanup import cleaning_up

DISTRIBUTIONS: Final = ("debian",)
_FILE: Final = click.Path(path_type=Path, readable=False)
_MAX_KEY_FILE: Final = 1 << 16


@click.command()
@click.argument("distribution", type=click.Choice(DISTRIBUTIONS))
@click.option("--suite", metavar="NAME", help="The release, for example bookworm. Default: this machine's.")
@click.option("--size", metavar="SIZE", default="4G", show_default=True, help="Size of the disk.")
@click.option("--packages", metavar="NAME,...", multiple=True, help="Further packages.")
@click.option("--user", metavar="NAME", help="An account that may use sudo. Default: only root.")
@click.option("--password-hash", metavar="HASH", help="Its password, or root's, as `openssl passwd -6` prints it.")
@click.option("--no-password", is_flag=True, help="Let it, or root, in without a password on the console.")
@click.option("--ssh-key", metavar="FILE", type=_FILE, multiple=True, help="A public key that may log in as it by SSH.")
@click.option("--hostname", metavar="NAME", default="debian", show_default=True, help="The machine's name.")
@click.option("--output", metavar="FILE", type=_FILE, help="The image. Default: the distribution's name and format.")
@click.option(
    "--format", "format_", type=click.Choice(("qcow2", "raw")), default="qcow2", show_default=True,
    help="The image's format.",
)  # fmt: skip
def build(
    distribution: str,
    suite: str | None,
    size: str,
    packages: tuple[str, ...],
    user: str | None,
    password_hash: str | None,
    no_password: bool,
    ssh_key: tuple[Path, ...],
    hostname: str,
    output: Path | None,
    format_: str,
) -> int:
    """Build a disk with a DISTRIBUTION on it (debian) from its packages, which apt fetches.

    Needs no root rights. The same packages and options give the same bytes; SOURCE_DATE_EPOCH sets the time of
    everything that is made.
    """
    from manor.cli.progress import shown_progress
    from manor.images.build import BuildOptions, build_debian
    from manor.images.customize import Settings

    try:
        bytes_ = parse_size(size)
    except ValueError as error:
        raise ConfigError("size", str(error)) from error
    if no_password and password_hash is not None:
        raise ConfigError("no-password", "it cannot be combined with --password-hash")
    keys = tuple(key for path in ssh_key for key in _read_keys(path))
    names = tuple(name for text in packages for name in text.split(",") if name)
    options = BuildOptions(
        output=output or Path(f"{distribution}.{format_}"),
        suite=suite,
        size=bytes_,
        format=format_,
        packages=names,
        settings=Settings(hostname, user, "" if no_password else password_hash, keys),
        epoch=_epoch(),
    )
    with cleaning_up(), shown_progress() as progress:
        built = build_debian(options, progress)
    print(f"manor: {built.output}: {len(built.packages)} packages.", file=sys.stderr)
    return 0


def _read_keys(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_KEY_FILE).decode("utf-8", "replace")
    except OSError as error:
        raise HostError.from_os_error(f"read the key {path}", error) from error
    keys = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not keys:
        raise ConfigError("ssh-key", f"{path} has no key")
    return keys


def _epoch() -> int | None:
    """SOURCE_DATE_EPOCH. Source: reproducible-builds.org, "SOURCE_DATE_EPOCH specification" 1.1."""
    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return None
    if not text.isdecimal():
        raise ConfigError("", f"SOURCE_DATE_EPOCH={text} is not a number of seconds since 1970")
    return int(text)
