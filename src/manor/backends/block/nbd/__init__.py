"""Network block devices: disks on NBD servers, and a server of our own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from manor.base.errors import ConfigError

if TYPE_CHECKING:
    from manor.backends.block.api import BlockBackend
    from manor.backends.block.open import OpenOptions


def open_uri(uri: str, options: OpenOptions) -> BlockBackend:
    """The export that `uri` names (see `nbd.uri` for how). Raises ConfigError, HostError, ProtocolError."""
    from manor.backends.block.nbd.client import NbdImage
    from manor.backends.block.nbd.uri import parse_address

    if options.format not in (None, "raw"):
        raise ConfigError(uri, f"an export is a raw disk to Manor; {options.format} images are read from files only")
    image = NbdImage(parse_address(uri), read_only=options.read_only)
    if image.is_read_only and not options.read_only:
        image.close()
        raise ConfigError(uri, "the server offers this disk read-only; open it read-only")
    return image
