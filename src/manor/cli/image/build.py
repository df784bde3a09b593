"""`manor image build`: a disk with a distribution on it."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from manor.base.errors import ConfigError, HostError
from manor.base.units import parse_size
from manor.cli.cleanup import cleaning_up

if TYPE_CHECKING:
    from manor.guests.progress import Progress
    from manor.images.build import BuildOptions, Built, SecondStage

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
@click.option("--output", metavar="FILE", type=_FILE, help="The image to write. Default: into the store, as `debian`.")
@click.option(
    "--format", "format_", type=click.Choice(("qcow2", "raw")), default="qcow2", show_default=True,
    help="The image's format.",
)  # fmt: skip
@click.option(
    "--second-stage", type=click.Choice(("auto", "namespace", "guest")), default="auto", show_default=True,
    help="Where packages are configured: auto takes a guest where the machine allows no namespace.",
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
    second_stage: SecondStage,
) -> int:
    """Build a disk with a DISTRIBUTION on it (debian) from its packages, which apt fetches.

    In the store it is what `manor run debian` clones; `manor ssh` may log in without any option here.
    Needs no root rights. The same packages and options give the same bytes; SOURCE_DATE_EPOCH sets the time of
    everything that is made.
    """
    from manor.cli.progress import shown_progress
    from manor.images.build import BuildOptions, build_debian
    from manor.images.customize import Settings
    from manor.instances.ssh_key import public_key

    try:
        bytes_ = parse_size(size)
    except ValueError as error:
        raise ConfigError("size", str(error)) from error
    if no_password and password_hash is not None:
        raise ConfigError("no-password", "it cannot be combined with --password-hash")
    keys = tuple(key for path in ssh_key for key in _read_keys(path))
    names = tuple(name for text in packages for name in text.split(",") if name)
    if output is None and not keys and password_hash is None and not no_password:
        keys = (public_key(),)
    options = BuildOptions(
        output=output or Path(),
        suite=suite,
        size=bytes_,
        format=format_,
        packages=names,
        settings=Settings(hostname, user, "" if no_password else password_hash, keys),
        epoch=_epoch(),
        second_stage=second_stage,
    )
    with cleaning_up(), shown_progress() as progress:
        if output is None:
            built, place = _into_store(options, distribution, progress)
        else:
            built = build_debian(options, progress)
            place = str(output)
    print(f"manor: {place}: {len(built.packages)} packages.", file=sys.stderr)
    return 0


def _into_store(options: BuildOptions, name: str, progress: Progress) -> tuple[Built, str]:
    """Build, and take the image into the store. Returns where it is, in words, as well."""
    from manor.images.build import build_debian
    from manor.images.reference import Reference
    from manor.images.store import Metadata, Store

    store = Store()
    with store.incoming(f"build:{name}") as folder:
        file = folder / "image"
        built = build_debian(replace(options, output=file), progress)
        user = options.settings.user or "root"
        source = f"built from {len(built.packages)} packages"
        metadata = Metadata(options.format, options.size, file.stat().st_size, time.time(), source, user=user)
        progress.step("storing")
        image = store.add(file, metadata, Reference(name))
    return built, f"the image {image} is in the store (manor run {name} clones it)"


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
