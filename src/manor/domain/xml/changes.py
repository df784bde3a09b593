"""Changes of a domain: devices that come and go, and what of a new definition takes effect when."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from manor.domain.xml.common import Device
from manor.domain.xml.domain import Domain


class When(Enum):
    LIVE = "live"
    NEXT_BOOT = "at next boot"
    OFF = "only when off"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Change:
    """One difference. path: `domain/devices/disk[vda]/source/@file`. before, after: as written; None: absent."""

    path: str
    before: str | None
    after: str | None
    when: When
    text: str = ""


def parse_device(text: str) -> Device:
    """The device of a document such as <disk>...</disk>. Raises ConfigError."""
    raise NotImplementedError


def attach(domain: Domain, device: Device) -> Domain:
    raise NotImplementedError


def detach(domain: Domain, device: Device) -> Domain:
    raise NotImplementedError


def detach_alias(domain: Domain, alias: str) -> Domain:
    raise NotImplementedError


def update(domain: Domain, device: Device) -> Domain:
    raise NotImplementedError


def differences(before: Domain, after: Domain) -> tuple[Change, ...]:
    raise NotImplementedError
