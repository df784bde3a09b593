"""`manor image`: the group."""

from __future__ import annotations

from typing import Final

import click

from manor.cli.lazy import LazyGroup

COMMANDS: Final = {
    "build": ("manor.cli.image.build:build", "Build a disk with Debian on it from its packages."),
}
"""name -> ("module:object", one line of help)."""


@click.group(cls=LazyGroup, table=COMMANDS)
def image() -> None:
    """Make, inspect, copy and change disk images.

    Options and output are those of qemu-img where it has the same command. An image may be a file, a block device, or
    an export of an NBD server: nbd://HOST:PORT/EXPORT, nbd+unix:///EXPORT?socket=PATH, nbd:unix:PATH.
    """
