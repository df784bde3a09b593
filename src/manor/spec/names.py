"""Names of a VM's disks and network interfaces: disk0, disk1, net0, ... unless the description says otherwise."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Final

from manor.base.errors import ConfigError
from manor.spec.block import DiskSpec
from manor.spec.net import NicSpec

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,79}")


def disk_name(spec: DiskSpec, index: int) -> str:
    """The name of the disk that is number `index` of the description."""
    return spec.id or f"disk{index}"


def nic_name(spec: NicSpec, index: int) -> str:
    """The name of the interface that is number `index` of the description."""
    return spec.id or f"net{index}"


def free_name(kind: str, taken: Collection[str]) -> str:
    """The first of `kind`0, `kind`1, ... that is not taken."""
    number = 0
    while f"{kind}{number}" in taken:
        number += 1
    return f"{kind}{number}"


def check_names(disks: Sequence[DiskSpec], nics: Sequence[NicSpec]) -> None:
    """Raise ConfigError for a name that is none, and for one that two have."""
    seen: set[str] = set()
    names = [disk_name(disk, index) for index, disk in enumerate(disks)]
    for name in (*names, *(nic_name(nic, index) for index, nic in enumerate(nics))):
        check_name(name)
        if name in seen:
            raise ConfigError("id", f"two devices are called {name!r}; give each its own name")
        seen.add(name)


def check_name(name: str) -> None:
    """Raise ConfigError if a device cannot be called so."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            "id",
            f"{name!r} is no name for a device; give a letter, then up to 79 letters, digits, '_', '.' and '-'",
        )
