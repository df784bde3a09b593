"""Rules about a whole domain that no single declaration can say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from manor.domain.xml.property import Finding

if TYPE_CHECKING:
    from manor.domain.xml.domain import Domain


def domain_rules(domain: Domain) -> Iterator[Finding]:
    """What contradicts itself, or is impossible, in `domain`."""
    yield from ()



