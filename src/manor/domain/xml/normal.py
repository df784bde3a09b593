"""The form of a domain that clients rely on: nothing that they look for is missing."""

from __future__ import annotations

from collections.abc import Callable

from manor.domain import names
from manor.domain.xml.domain import Domain


def normalise(domain: Domain, *, emulator: str, new_uuid: Callable[[], str] = names.new_uuid) -> Domain:
    """The definition as it is kept: UUID, addresses of interfaces, currentMemory, buses, console, controllers."""
    raise NotImplementedError


def live(domain: Domain, number: int) -> Domain:
    """The document of a running domain: with its number, names of all devices and places on the bus."""
    raise NotImplementedError


def inactive(domain: Domain) -> Domain:
    """The document without what only a running domain has."""
    raise NotImplementedError


def secure(domain: Domain) -> Domain:
    """The document without secrets."""
    raise NotImplementedError
