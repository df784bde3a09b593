"""The documents of the tests: files of `examples`, and how each kind is read and written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from manor.domain.xml import domain, network, secret, snapshot, storage
from manor.domain.xml.property import Element, Finding

EXAMPLES = Path(__file__).parent / "examples"

KINDS: dict[str, tuple[type[Element], Callable[[str], Any], Callable[[Any], str], Callable[[Any], list[Finding]]]] = {
    "domain": (domain.Domain, domain.parse, domain.format, domain.check),
    "network": (network.Network, network.parse, network.format, network.check),
    "pool": (storage.Pool, storage.parse, storage.format, storage.check),
    "volume": (storage.Volume, storage.parse_volume, storage.format_volume, storage.check_volume),
    "secret": (secret.Secret, secret.parse, secret.format, secret.check),
    "domainsnapshot": (snapshot.Snapshot, snapshot.parse, snapshot.format, snapshot.check),
}
"""Root element -> class, parse, format, check."""

ALL = sorted(EXAMPLES.glob("*.xml"))


def kind(path: Path) -> str:
    return path.stem.split("-")[0]
