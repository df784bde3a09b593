"""Names and identities: of domains, of devices, and those that are generated when nobody chose."""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Collection
from typing import Final

from manor.base.errors import ConfigError

DOMAIN_NAMES: Final = r"(?!\.{1,2}$)[^/\s\x00-\x1f\x7f]([^/\n\x00-\x1f\x7f]*[^/\s\x00-\x1f\x7f])?"
"""Domains' names become names of files."""
DOMAIN_NAME_RULE: Final = "a name; leave out `/`, line ends, control characters, and spaces at its ends"
MAX_NAME: Final = 200
"""Characters; a file name has 255 bytes, and endings such as `.xml` are added."""

_OUI: Final = bytes((0x52, 0x54, 0x00))
"""What virtual machines' addresses usually start with: locally administered, unicast."""


def check_name(name: str, what: str = "domain") -> None:
    """Raise ConfigError if `name` cannot be the name of a `what`."""
    if not re.fullmatch(DOMAIN_NAMES, name):
        raise ConfigError(f"{what}/name", f"{name[:60]!r} is not {DOMAIN_NAME_RULE}")
    if len(name.encode()) > MAX_NAME:
        raise ConfigError(f"{what}/name", f"it has {len(name.encode())} bytes; at most {MAX_NAME} are accepted")


def new_uuid() -> str:
    return str(uuid.uuid4())


def generate_mac(owner: str, position: int, taken: Collection[str] = ()) -> str:
    """An address for interface number `position` of the domain with UUID `owner`: the same each time, unless it is
    in `taken`."""
    attempt = 0
    while True:
        digest = hashlib.sha256(f"{owner}\0{position}\0{attempt}".encode()).digest()
        mac = (_OUI + digest[:3]).hex(":")
        if mac not in taken:
            return mac
        attempt += 1


_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"


def disk_name(prefix: str, index: int) -> str:
    """Name of disk `index` (from 0): vda ... vdz, vdaa ...; nvme0n1 for the prefix nvme."""
    if prefix == "nvme":
        return f"nvme{index}n1"
    letters = ""
    index += 1
    while index:
        index, letter = divmod(index - 1, 26)
        letters = _LETTERS[letter] + letters
    return prefix + letters


def disk_index(name: str) -> int | None:
    """Position that `name` means: 0 for vda. None if it is no such name."""
    nvme = re.fullmatch(r"nvme(\d{1,5})n1", name)
    if nvme:
        return int(nvme[1])
    match = re.fullmatch(r"(?:vd|hd|sd|fd|xvd|ubd)([a-z]{1,3})\d{0,2}", name)
    if not match:
        return None
    index = 0
    for letter in match[1]:
        index = index * 26 + _LETTERS.index(letter) + 1
    return index - 1


def free_disk_name(prefix: str, taken: Collection[str]) -> str:
    """The first name with `prefix` that is not in `taken`."""
    index = 0
    while disk_name(prefix, index) in taken:
        index += 1
    return disk_name(prefix, index)
