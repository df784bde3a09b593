"""Names that `manor image pull` knows: where distributions keep their cloud images, with their checksums beside them.

The user's own table goes before this one: `[images]` in $XDG_CONFIG_HOME/manor/config.toml,

    [images]
    debian = "https://mirror.example/debian-12-genericcloud-amd64.qcow2"
    ours = { url = "http://images.example/ours.qcow2.xz", checksums = "SHA256SUMS", key = "/etc/keys/ours.asc" }
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urljoin

from manor.base.errors import ConfigError
from manor.base.files import config_directory
from manor.images.reference import Reference

_DEBIAN: Final = "https://cloud.debian.org/images/cloud/{0}/latest/debian-{1}-genericcloud-amd64.qcow2"
_UBUNTU: Final = "https://cloud-images.ubuntu.com/releases/{0}/release/ubuntu-{0}-server-cloudimg-amd64.img"
_MAX_CONFIG: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Source:
    """Where an image is. checksums: address of the list that names it, "" for none; signature: of that list.

    key: file of the public key that signs it, None to go without.
    """

    url: str
    checksums: str = ""
    signature: str = ""
    key: Path | None = None


def _debian(codename: str, number: int) -> Source:
    url = _DEBIAN.format(codename, number)
    return Source(url, urljoin(url, "SHA512SUMS"))


def _ubuntu(number: str) -> Source:
    url = _UBUNTU.format(number)
    return Source(url, urljoin(url, "SHA256SUMS"), urljoin(url, "SHA256SUMS.gpg"))


KNOWN: Final[dict[str, Source]] = {
    "debian": _debian("bookworm", 12),
    "debian:12": _debian("bookworm", 12),
    "debian:bookworm": _debian("bookworm", 12),
    "debian:13": _debian("trixie", 13),
    "debian:trixie": _debian("trixie", 13),
    "ubuntu": _ubuntu("24.04"),
    "ubuntu:24.04": _ubuntu("24.04"),
    "ubuntu:22.04": _ubuntu("22.04"),
}
"""Sources: cloud.debian.org, "Debian Official Cloud Images"; cloud-images.ubuntu.com, "Ubuntu Cloud Images"."""


def find_source(name: Reference, config: Path | None = None) -> Source:
    """Where `name` is fetched from. config: instead of the user's file. Raises ConfigError if nobody knows it."""
    own = read_config(config if config is not None else config_directory() / "config.toml")
    source = own.get(str(name)) or KNOWN.get(str(name))
    if source is None:
        known = ", ".join(sorted({*own, *KNOWN}))
        raise ConfigError(
            "", f"nobody knows where the image {name} is; known are {known}; or give an address with --from"
        )
    return source


def read_config(path: Path) -> dict[str, Source]:
    """The table `[images]` of the user's file; empty if there is none. Raises ConfigError, naming the file."""
    try:
        with path.open("rb") as file:
            value = tomllib.loads(file.read(_MAX_CONFIG).decode())
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("", f"{path} cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError("", f"{path} is not TOML: {error}") from error
    table = value.get("images", {})
    if not isinstance(table, dict):
        raise ConfigError("", f"{path}: images is not a table; write [images]")
    return {name: _source(path, name, entry) for name, entry in table.items()}


def _source(path: Path, name: str, entry: Any) -> Source:
    fields = {"url": entry} if isinstance(entry, str) else entry
    where = f"{path}: images.{name}"
    if not isinstance(fields, dict) or not all(isinstance(text, str) for text in fields.values()):
        raise ConfigError("", f"{where} is neither an address nor a table of texts")
    unknown = fields.keys() - {"url", "checksums", "signature", "key"}
    if unknown or not fields.get("url"):
        raise ConfigError("", f"{where} needs url, and may have checksums, signature and key")
    url = fields["url"]
    checksums, signature = (urljoin(url, fields[key]) if key in fields else "" for key in ("checksums", "signature"))
    return Source(url, checksums, signature, Path(fields["key"]).expanduser() if "key" in fields else None)
