"""`manor image`: the group."""

from __future__ import annotations

from typing import Final

import click

from manor.cli.lazy import LazyGroup

COMMANDS: Final = {
    "build": ("manor.cli.image.build:build", "Build a disk with Debian on it from its packages."),
    "pull": ("manor.cli.image.pull:pull", "Fetch an image into the store."),
    "import": ("manor.cli.image.import_:import_", "Take a file into the store."),
    "list": ("manor.cli.image.list:list_", "List the images in the store."),
    "tag": ("manor.cli.image.tag:tag", "Give an image in the store another name."),
    "rm": ("manor.cli.image.rm:rm", "Remove images from the store."),
    "prune": ("manor.cli.image.prune:prune", "Remove what nobody needs from the store."),
    "create": ("manor.cli.image.create:create", "Make an empty image, or one over another image."),
    "info": ("manor.cli.image.info:info", "Tell what an image is."),
    "check": ("manor.cli.image.check:check", "Check an image's structures, and repair them."),
    "convert": ("manor.cli.image.convert:convert", "Copy an image into another format."),
    "compare": ("manor.cli.image.compare:compare", "Tell whether two images hold the same disk."),
    "resize": ("manor.cli.image.resize:resize", "Change the size of the disk in an image."),
    "commit": ("manor.cli.image.commit:commit", "Write an image's changes into the image below it."),
    "rebase": ("manor.cli.image.rebase:rebase", "Give an image another image to stand on."),
    "map": ("manor.cli.image.map:map_", "Tell where each part of the disk is."),
    "snapshot": ("manor.cli.image.snapshot:snapshot", "List, make, restore and delete snapshots inside an image."),
    "compact": ("manor.cli.image.compact:compact", "Give space that an image does not need back to the host."),
    "serve": ("manor.cli.image.serve:serve", "Serve images to other programs over NBD."),
}
"""name -> ("module:object", one line of help)."""


@click.group(cls=LazyGroup, table=COMMANDS)
def image() -> None:
    """Make, inspect, copy and change disk images.

    Options and output are those of qemu-img where it has the same command. An image may be a file, a block device, or
    an export of an NBD server: nbd://HOST:PORT/EXPORT, nbd+unix:///EXPORT?socket=PATH, nbd:unix:PATH.
    """
