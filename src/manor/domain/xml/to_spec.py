"""From a domain to the description of a machine that Manor makes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from manor.domain.xml.disk import Disk
from manor.domain.xml.domain import Domain
from manor.domain.xml.network import Network
from manor.domain.xml.property import Finding
from manor.spec.machine import AccelName, MachineSpec

After = Literal["destroy", "restart", "preserve", "rename-restart"]


@dataclass(frozen=True, slots=True)
class Resolvers:
    """What a domain only names, looked up by the driver. Each raises ConfigError for names that it does not know.

    network: the definition of a network. volume: (pool, volume) to a path.
    """

    network: Callable[[str], Network]
    volume: Callable[[str, str], Path]


@dataclass(frozen=True, slots=True)
class Launch:
    """All that starting a domain takes. warnings: what will not be as the document asks, without harm."""

    spec: MachineSpec
    accel: AccelName
    on_poweroff: After
    on_reboot: After
    on_crash: After
    warnings: tuple[Finding, ...]


def to_spec(domain: Domain, resolvers: Resolvers) -> Launch:
    """Raises ConfigError, with path and fix, for what is refused."""
    raise NotImplementedError


def disk_source(disk: Disk, resolvers: Resolvers) -> str:
    """File, device or nbd: URI of `disk`."""
    raise NotImplementedError
